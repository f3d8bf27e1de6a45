"""PyTorch's DataLoader with torchvision as a worker: FOLDER BATCH PIXELS CORES PROCESSES.

With CORES 1 the process, with the processes it starts, is held to one core. Images are decoded by
torchvision or by Pillow: both are tried at the start, and the faster is taken.
"""

import os
import sys
import time

import side_by_side

side_by_side.private_stdout()
if int(sys.argv[4]) == 1:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any thread is started

import PIL  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision.io import ImageReadMode, decode_jpeg, read_file  # noqa: E402
from torchvision.transforms import v2  # noqa: E402


def _by_torchvision(path: str) -> torch.Tensor:
    return decode_jpeg(read_file(path), mode=ImageReadMode.RGB)


def _by_pillow(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


DECODERS = {"torchvision": _by_torchvision, "pillow": _by_pillow}


class Photos(torch.utils.data.Dataset):
    """Read, decode, random resized crop, random flip: uint8 (3, pixels, pixels) and a label."""

    def __init__(self, folder: str, pixels: int, decoder: str):
        with open(os.path.join(folder, "list.txt")) as file:
            rows = [line.split() for line in file]
        self.paths = [os.path.join(folder, name) for name, _ in rows]
        self.labels = [int(label) for _, label in rows]
        self.decode = DECODERS[decoder]
        self.transform = v2.Compose(
            [v2.RandomResizedCrop(pixels, antialias=False), v2.RandomHorizontalFlip(), v2.ToImage()]
        )

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        return self.transform(self.decode(self.paths[row])), self.labels[row]


def _seconds(photos: Photos, count: int = 24) -> float:
    """The least processor time an image took."""
    least = float("inf")
    for row in range(count):
        start = time.process_time()
        photos[row % 2]
        least = min(least, time.process_time() - start)
    return least


def main(folder: str, batch: int, pixels: int, cores: int, processes: int) -> None:
    """Choose the decoder, then serve: a run is a new loader."""
    torch.set_num_threads(1 if processes else cores)
    choice = {name: Photos(folder, pixels, name) for name in DECODERS}
    decoder = min(choice, key=lambda name: _seconds(choice[name]))
    photos = choice[decoder]

    def run(steps: int) -> dict:
        count = side_by_side.LEAD + steps + side_by_side.TAIL
        # One long epoch: as many batches as are read, each pass over the list shuffled.
        passes = -(-count * batch // len(photos))
        rows = torch.cat([torch.randperm(len(photos)) for _ in range(passes)]).tolist()
        loader = torch.utils.data.DataLoader(
            photos,
            batch_sampler=[rows[i * batch : (i + 1) * batch] for i in range(count)],
            num_workers=processes,
        )
        return side_by_side.time_stream(loader, steps)

    side_by_side.serve(
        run,
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        pillow=PIL.__version__,
        decoder=decoder,
        processes=processes,
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]))
