"""Grain with OpenCV or Pillow as a worker: FOLDER BATCH PIXELS CORES PROCESSES THREADS.

With CORES 1 the process, with the processes it starts, is held to one core. THREADS read in each
process; with 0 of both, the process that takes the batches makes them. Images are decoded by
OpenCV or by Pillow: both are tried at the start, and the faster is taken.
"""

import os
import sys
import time

import side_by_side

side_by_side.private_stdout()
if int(sys.argv[4]) == 1:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any thread is started

import cv2  # noqa: E402
import grain  # noqa: E402
import numpy as np  # noqa: E402
import PIL  # noqa: E402
from PIL import Image  # noqa: E402
from random_window import random_window  # noqa: E402


def _by_opencv(path: str) -> np.ndarray:
    return cv2.imread(path, cv2.IMREAD_COLOR_RGB)


def _by_pillow(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


DECODERS = {"opencv": _by_opencv, "pillow": _by_pillow}


class Augment(grain.transforms.RandomMap):
    """From (path, label) to (image, label): decode, random resized crop, random flip."""

    def __init__(self, pixels: int, decoder: str):
        self.size = (pixels, pixels)
        self.decode = DECODERS[decoder]
        cv2.setNumThreads(0)

    def random_map(self, element, rng):
        path, label = element
        image = self.decode(path)
        top, left, height, width = random_window(*image.shape[:2], rng.random)
        image = image[top : top + height, left : left + width]
        image = cv2.resize(image, self.size, interpolation=cv2.INTER_LINEAR)
        if rng.random() < 0.5:
            image = cv2.flip(image, 1)
        return image, label


def _seconds(augment: Augment, paths: list[str], count: int = 24) -> float:
    """The least processor time an image took."""
    least, rng = float("inf"), np.random.default_rng(0)
    for row in range(count):
        start = time.process_time()
        augment.random_map((paths[row % 2], 0), rng)
        least = min(least, time.process_time() - start)
    return least


def main(folder: str, batch: int, pixels: int, cores: int, processes: int, threads: int) -> None:
    """Choose the decoder, then serve: a run is a new dataset."""
    with open(os.path.join(folder, "list.txt")) as file:
        rows = [line.split() for line in file]
    elements = [(os.path.join(folder, name), np.int32(label)) for name, label in rows]
    choice = {name: Augment(pixels, name) for name in DECODERS}
    paths = [path for path, _ in elements]
    decoder = min(choice, key=lambda name: _seconds(choice[name], paths))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)

    def run(steps: int) -> dict:
        count = side_by_side.LEAD + steps + side_by_side.TAIL
        dataset = grain.MapDataset.source(elements).seed(0).shuffle().repeat()
        dataset = dataset.random_map(choice[decoder]).batch(batch)[:count]
        dataset = dataset.to_iter_dataset(options)
        if processes:
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes))
        batches = iter(dataset)
        try:
            return side_by_side.time_stream(batches, steps)
        finally:
            batches.close()

    side_by_side.serve(
        run,
        grain=grain.__version__,
        opencv=cv2.__version__,
        pillow=PIL.__version__,
        decoder=decoder,
        processes=processes,
        threads=threads,
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:7]))
