"""Pure decoding by libjpeg-turbo as a worker: FOLDER BATCH CORES.

Whole images from files already in memory, with the accurate transform and the smooth chroma we
decode with, one process a core, and nothing else: what no loader that decodes whole images passes.
"""

import itertools
import multiprocessing
import os
import sys
from pathlib import Path

import side_by_side

side_by_side.private_stdout()

import simplejpeg  # noqa: E402


def _decode(folder: str, cores: set[int], batches, done) -> None:
    """Decode as many images as each number received says, and send it back."""
    os.sched_setaffinity(0, cores)
    files = [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]
    files = itertools.cycle(files)
    for count in iter(batches.get, None):
        for data in itertools.islice(files, count):
            simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
        done.put(count)


def main(folder: str, batch: int, cores: int) -> None:
    """Start the processes, then serve."""
    ours = set(sorted(os.sched_getaffinity(0))[:cores])
    context = multiprocessing.get_context("spawn")
    batches, done = context.Queue(), context.Queue()
    processes = [
        context.Process(target=_decode, args=(folder, ours, batches, done)) for _ in range(cores)
    ]
    for process in processes:
        process.start()

    def stream(count: int):
        for _ in range(count):
            batches.put(batch)
        for _ in range(count):
            yield done.get()

    def run(steps: int) -> dict:
        return side_by_side.time_stream(
            stream(side_by_side.LEAD + steps + side_by_side.TAIL), steps
        )

    side_by_side.serve(run, simplejpeg=simplejpeg.__version__, processes=cores)
    for _ in processes:
        batches.put(None)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
