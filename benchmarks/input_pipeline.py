"""Images per second of the training input pipeline, side by side with other loaders.

Read, decode, random resized crop to 224, random flip, batches of 64, of JPEGs of 500 x 375 and of
2000 x 1500: on one core, and on all of them. The peers are PaddleClas' loader, PyTorch's
DataLoader with torchvision, and Grain with OpenCV or Pillow; a peer counts with the best of the
settings tried. The limit is libjpeg-turbo decoding the same files whole, and nothing else.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import side_by_side
from PIL import Image

PEERS = side_by_side.HERE / "peers"
PHOTO = side_by_side.HERE.parent / "tests" / "data" / "img_photo.png"
BATCH, PIXELS = 64, 224
TARGET = 250
LIMIT = "libjpeg-turbo, nothing but whole images decoded"


class Case(NamedTuple):
    """One size of photos. ``share`` is the part of ``--steps`` a run of it has."""

    width: int
    height: int
    images: int
    share: float
    paddle_goal: float


CASES = {
    "500x375": Case(500, 375, 200, 1.0, 2.0),
    "2000x1500": Case(2000, 1500, 80, 0.2, 1.0),
}


LOADERS = ("paddle", "torch", "grain")


def make_photos(folder: Path, count: int, width: int, height: int) -> int:
    """Write ``count`` JPEGs at quality 90 and their list; their mean size in bytes.

    Each is a part of one photograph, enlarged, with noise as fine detail.
    """
    photo = Image.open(PHOTO).convert("RGB")
    rng = np.random.default_rng(0)
    names, size = [], 0
    for i in range(count):
        wide = int(rng.integers(160, photo.width + 1))
        tall = wide * height // width
        left = int(rng.integers(0, photo.width - wide + 1))
        top = int(rng.integers(0, photo.height - tall + 1))
        part = photo.resize(
            (width, height), Image.Resampling.BICUBIC, (left, top, left + wide, top + tall)
        )
        grain = rng.normal(0, 5, (height, width, 1)) + rng.normal(0, 2, (height, width, 3))
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
    side_by_side.add_arguments(parser, (*LOADERS, "turbojpeg"), rounds=5)
    parser.add_argument(
        "--paddleclas",
        metavar="FOLDER",
        help="a checkout of PaddleClas, for its own ppcls.data (not in its package on PyPI)",
    )
    parser.add_argument(
        "--steps", type=int, default=40, help="in a run, of small photos; default: %(default)s"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument(
        "--variants",
        nargs="*",
        default=[],
        metavar="VARIANT",
        help="of ours besides `plain`: reduced (of 2000x1500 only), packed, memory",
    )
    args = parser.parse_args()
    for name in (*LOADERS, "turbojpeg"):
        if not getattr(args, f"{name}_python"):
            side_by_side.note(f"{name} is left out: no --{name}-python")
    rows, detail, photos = [], {}, {}
    for name in args.cases:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            size = make_photos(Path(folder), case.images, case.width, case.height)
            photos[name] = {"count": case.images, "mean_bytes": size}
            side_by_side.note(f"{case.images} JPEGs of {name}, {size / 1000:.0f} kB on average")
            for cores in sorted({1, args.threads}):
                what = f"input pipeline, {name}, {cores} core{'s' if cores > 1 else ''}"
                detail[what] = _measure(args, what, name, folder, cores)
                rows += _rows(what, case, detail[what])
                if name == "500x375" and cores == 1:
                    ours = detail[what]["ours, plain"]["median"]
                    rows.append(side_by_side.row(what, ours, "target", TARGET, 1.0))
    side_by_side.write_results(
        "input_pipeline", _command(args), rows, threads=args.threads, images=photos, detail=detail
    )


def _measure(args, what: str, name: str, folder: str, cores: int) -> dict[str, dict]:
    """The figures of all workers on one folder of photos, ours first, by their names."""
    common = (folder, BATCH, PIXELS, cores)
    found = [
        (f"ours, {variant}", sys.executable, "ours_input_pipeline.py", (*common, variant))
        for variant in ("plain", *args.variants)
        if variant != "reduced" or name == "2000x1500"
    ]
    for loader in LOADERS:
        python, script = getattr(args, f"{loader}_python"), f"{loader}_input_pipeline.py"
        source = [args.paddleclas] if loader == "paddle" and args.paddleclas else []
        for setting in _settings(loader, cores) if python else ():
            words = ", ".join(f"{key}={value}" for key, value in setting.items())
            found.append(
                (f"{loader}, {words}", python, script, (*common, *setting.values(), *source))
            )
    if args.turbojpeg_python:
        found.append((LIMIT, args.turbojpeg_python, "turbojpeg_limit.py", (folder, BATCH, cores)))
    workers = [
        side_by_side.Worker(worker, python, PEERS / script, words, cores)
        for worker, python, script, words in found
    ]
    steps = max(4, round(args.steps * CASES[name].share))
    side_by_side.alternate(workers, args.rounds, steps, warm_up=max(2, steps // 4))
    figures = {}
    for worker in workers:
        worker.close()
        figures[worker.name] = {**worker.rates(BATCH), **worker.about}
        side_by_side.note(f"{what}, {worker.name}: {worker.rates(BATCH)}")
    return figures


def _settings(loader: str, cores: int) -> list[dict[str, int]]:
    """What a peer is run with on so many cores."""
    if loader != "grain":
        return [{"num_workers": count} for count in ((0, 1) if cores == 1 else (cores,))]
    # Threads of one process, or processes without threads.
    counts = ((0, 0), (0, 1)) if cores == 1 else ((0, cores), (cores, 0))
    return [dict(zip(("num_workers", "num_threads"), pair, strict=True)) for pair in counts]


def _rows(what: str, case: Case, figures: dict[str, dict]) -> list[dict]:
    """Each variant of ours against each peer's better setting, and against the limit.

    What was decoded before the steps has no peer but the limit of decoding.
    """
    rows = []
    for variant in [name for name in figures if name.startswith("ours, ")]:
        ours = figures[variant]
        title = what if variant == "ours, plain" else f"{what}, {variant}"
        goals = dict.fromkeys(LOADERS, 1.0) | {"paddle": case.paddle_goal}
        if variant == "ours, memory":
            goals = {}
        for loader, goal in goals.items():
            settings = [name for name in figures if name.startswith(f"{loader}, ")]
            if settings:
                best = max(settings, key=lambda name: figures[name]["median"])
                rows.append(_row(title, ours, best, figures[best], goal))
        if LIMIT in figures:
            rows.append(_row(f"{title}: share of the limit", ours, LIMIT, figures[LIMIT], None))
    return rows


def _row(title: str, ours: dict, peer: str, theirs: dict, goal: float | None) -> dict:
    # Processor time is steadier than the clock where other programs run besides.
    ratio = round(ours["per_cpu_second"] / theirs["per_cpu_second"], 2)
    return side_by_side.row(
        title, ours["median"], peer, theirs["median"], goal, ratio_per_cpu_second=ratio
    )


def _command(args: argparse.Namespace) -> str:
    given = [name for name in (*LOADERS, "turbojpeg") if getattr(args, f"{name}_python")]
    words = [f"--{name}-python {name.upper()}_PYTHON" for name in given]
    words += ["--paddleclas PADDLECLAS"] if args.paddleclas else []
    words += [f"--rounds {args.rounds} --steps {args.steps} --threads {args.threads}"]
    words += [f"--cases {' '.join(args.cases)}"] if args.cases != [*CASES] else []
    words += [f"--variants {' '.join(args.variants)}"] if args.variants else []
    return " ".join(["python benchmarks/input_pipeline.py", *words])


if __name__ == "__main__":
    main()
