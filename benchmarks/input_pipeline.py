"""Images per second of the training input pipeline, side by side with PaddleClas' loader.

Read, decode, random resized crop to 224, random flip, batches of 64, of 500 x 375 JPEGs: on one
core, and on all of them.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import side_by_side
from PIL import Image

PEERS = side_by_side.HERE / "peers"
PHOTO = side_by_side.HERE.parent / "tests" / "data" / "img_photo.png"
BATCH, PIXELS = 64, 224
GOAL = 2.0
TARGET = 250


def make_photos(folder: Path, count: int) -> int:
    """Write ``count`` JPEGs of 500 x 375 at quality 90 and their list; their mean size in bytes.

    Each is a part of one photograph, enlarged, with noise as fine detail.
    """
    photo = Image.open(PHOTO).convert("RGB")
    rng = np.random.default_rng(0)
    names, size = [], 0
    for i in range(count):
        width = int(rng.integers(160, photo.width + 1))
        height = width * 375 // 500
        left = int(rng.integers(0, photo.width - width + 1))
        top = int(rng.integers(0, photo.height - height + 1))
        part = photo.resize(
            (500, 375), Image.Resampling.BICUBIC, (left, top, left + width, top + height)
        )
        grain = rng.normal(0, 5, (375, 500, 1)) + rng.normal(0, 2, (375, 500, 3))
        pixels = np.clip(np.asarray(part) + grain, 0, 255).astype(np.uint8)
        names.append(f"{i:04d}.jpg")
        Image.fromarray(pixels).save(folder / names[-1], quality=90)
        size += (folder / names[-1]).stat().st_size
    rows = [f"{name} {i % 10}\n" for i, name in enumerate(names)]
    (folder / "list.txt").write_text("".join(rows))
    return size // count


def main() -> None:
    """Measure and write results/input_pipeline.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    side_by_side.add_arguments(parser, ("paddle", "timm"), rounds=5)
    parser.add_argument(
        "--paddleclas",
        metavar="FOLDER",
        help="a checkout of PaddleClas, for its own ppcls.data (not in its package on PyPI)",
    )
    parser.add_argument("--steps", type=int, default=40, help="in a run; default: %(default)s")
    parser.add_argument("--images", type=int, default=200, help="default: %(default)s")
    args = parser.parse_args()
    side_by_side.note("timm is left out: it brings no input pipeline without torchvision's")
    if not args.paddle_python:
        side_by_side.note("paddle is left out: no --paddle-python")
    with tempfile.TemporaryDirectory() as folder:
        size = make_photos(Path(folder), args.images)
        side_by_side.note(f"{args.images} JPEGs of {size / 1000:.0f} kB on average")
        measured = {cores: _measure(args, folder, cores) for cores in sorted({1, args.threads})}
    rows, detail = [], {}
    for cores, workers in measured.items():
        what = f"input pipeline, {cores} core{'s' if cores > 1 else ''}"
        rates = {worker.name: worker.rates(BATCH) for worker in workers}
        detail[what] = {w.name: {**rates[w.name], **w.about} for w in workers}
        ours = rates.pop("keras_featx")["median"]
        if rates:  # against the peer's better number of processes
            peer = max(rates, key=lambda name: rates[name]["median"])
            rows.append(side_by_side.row(what, ours, peer, rates[peer]["median"], GOAL))
        if cores == 1:
            rows.append(side_by_side.row(what, ours, "target", TARGET, 1.0))
    side_by_side.write_results(
        "input_pipeline",
        "python benchmarks/input_pipeline.py --paddle-python PADDLE_PYTHON "
        + ("--paddleclas PADDLECLAS " if args.paddleclas else "")
        + f"--rounds {args.rounds} --steps {args.steps} --threads {args.threads} "
        + f"--images {args.images}",
        rows,
        threads=args.threads,
        images={"count": args.images, "mean_bytes": size},
        detail=detail,
    )


def _measure(args: argparse.Namespace, folder: str, cores: int) -> list[side_by_side.Worker]:
    """Our worker, and the peer's with none to ``cores`` processes of its own."""
    common = (folder, BATCH, PIXELS, cores)
    script = PEERS / "ours_input_pipeline.py"
    workers = [side_by_side.Worker("keras_featx", sys.executable, script, common, cores)]
    source = [args.paddleclas] if args.paddleclas else []
    for processes in {1: (0, 1)}.get(cores, (cores,)) if args.paddle_python else ():
        workers.append(
            side_by_side.Worker(
                f"paddle, num_workers={processes}",
                args.paddle_python,
                PEERS / "paddle_input_pipeline.py",
                (*common, processes, *source),
                cores,
            )
        )
    side_by_side.alternate(workers, args.rounds, args.steps, warm_up=max(2, args.steps // 4))
    for worker in workers:
        worker.close()
        side_by_side.note(f"{cores} core(s), {worker.name}: {worker.rates(BATCH)}")
    return workers


if __name__ == "__main__":
    main()
