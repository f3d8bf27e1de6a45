"""Our training input pipeline as a worker: FOLDER BATCH PIXELS CORES.

With CORES 1 the process, with all its threads, is held to one core.
"""

import os
import sys
import time

import side_by_side

side_by_side.private_stdout()
if int(sys.argv[4]) == 1:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any thread is started

import tensorflow as tf  # noqa: E402

from keras_featx.data import lists, pipeline, samplers  # noqa: E402
from keras_featx.sections import ArchSection, Component  # noqa: E402


def main(folder: str, batch: int, pixels: int, cores: int) -> None:
    """Read the list, then serve: a run is a new dataset, read from its first batch to its last."""
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    tf.config.threading.set_inter_op_parallelism_threads(cores)
    samples = lists.imagenet_list(
        image_root=folder, cls_label_path=os.path.join(folder, "list.txt")
    )
    order = samplers.shuffle(samples, 0, batch_size=batch)
    arch = ArchSection(image_size=(pixels, pixels))
    ops = (Component(name="RandomResizedCrop"), Component(name="RandomFlip"))

    def run(steps: int) -> list[float]:
        dataset = pipeline.train_dataset(
            samples, order, arch, ops, seed=0, first_step=0, last_step=steps
        )
        start = time.perf_counter()
        count = sum(1 for _ in dataset)
        return [(time.perf_counter() - start) / count]

    side_by_side.serve(run, tensorflow=tf.__version__)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
