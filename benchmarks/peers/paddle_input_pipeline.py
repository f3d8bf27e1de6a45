"""PaddleClas' training input pipeline as a worker: FOLDER BATCH PIXELS CORES PROCESSES [SOURCE].

With CORES 1 the process, with the processes it starts, is held to one core. SOURCE is a checkout
of PaddleClas: the package on PyPI comes without its `ppcls.data`. Without it, the same calls of
OpenCV and NumPy are made by the stand-in below, in the same `paddle.io.DataLoader`.
"""

import os
import random
import sys
import sysconfig
import tarfile  # noqa: F401 (paddle 2.6 can die at import unless these two came first)
import zlib  # noqa: F401

import side_by_side

side_by_side.private_stdout()
if int(sys.argv[4]) == 1:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any thread is started
# PaddleClas' own modules are imported as `ppcls`.
packages = [*sys.argv[6:7], os.path.join(sysconfig.get_path("purelib"), "paddleclas")]
sys.path[:0] = packages

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import paddle  # noqa: E402
from random_window import random_window  # noqa: E402

try:
    from ppcls.data.dataloader.imagenet_dataset import ImageNetDataset
except ImportError:
    ImageNetDataset = None

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class StandIn(paddle.io.Dataset):
    """What ImageNetDataset does with DecodeImage, RandCropImage, RandFlipImage, NormalizeImage."""

    def __init__(self, folder: str, pixels: int):
        with open(os.path.join(folder, "list.txt")) as file:
            rows = [line.split() for line in file]
        self.paths = [os.path.join(folder, name) for name, _ in rows]
        self.labels = [np.int64(label) for _, label in rows]
        self.pixels = pixels
        self.mean, self.std = np.float32(MEAN), np.float32(STD)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        with open(self.paths[row], "rb") as file:
            data = np.frombuffer(file.read(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]
        top, left, height, width = random_window(*image.shape[:2], random.random)
        image = image[top : top + height, left : left + width]
        image = cv2.resize(image, (self.pixels, self.pixels), interpolation=cv2.INTER_LINEAR)
        if random.random() < 0.5:
            image = cv2.flip(image, 1)
        image = (image.astype(np.float32) * np.float32(1 / 255) - self.mean) / self.std
        return image.transpose(2, 0, 1), self.labels[row]


def _dataset(folder: str, pixels: int) -> paddle.io.Dataset:
    if ImageNetDataset is None:
        return StandIn(folder, pixels)
    ops = [
        {"DecodeImage": {"to_rgb": True, "channel_first": False}},
        {"RandCropImage": {"size": pixels}},
        {"RandFlipImage": {"flip_code": 1}},
        {"NormalizeImage": {"scale": 1 / 255, "mean": MEAN, "std": STD, "order": ""}},
    ]
    return ImageNetDataset(folder, os.path.join(folder, "list.txt"), ops)


def main(folder: str, batch: int, pixels: int, cores: int, processes: int) -> None:
    """Build, then serve: a run is a new loader, read from its first batch to its last."""
    paddle.set_device("cpu")
    dataset = _dataset(folder, pixels)
    rng = np.random.default_rng(0)

    def run(steps: int) -> dict:
        # One long epoch: as many batches as are read, each pass over the list shuffled.
        count = side_by_side.LEAD + steps + side_by_side.TAIL
        passes = -(-count * batch // len(dataset))
        rows = np.concatenate([rng.permutation(len(dataset)) for _ in range(passes)]).tolist()
        loader = paddle.io.DataLoader(
            dataset,
            batch_sampler=[rows[i * batch : (i + 1) * batch] for i in range(count)],
            places=paddle.CPUPlace(),
            num_workers=processes,
            return_list=True,
            use_shared_memory=True,
        )
        return side_by_side.time_stream(loader, steps)

    side_by_side.serve(
        run,
        paddlepaddle=paddle.__version__,
        opencv=cv2.__version__,
        steps_of="PaddleClas" if ImageNetDataset else "a stand-in for PaddleClas",
        processes=processes,
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]))
