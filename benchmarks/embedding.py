"""Images per second of `embed` on the gallery of `grocery`, beside the network alone.

The network alone is its graph on one batch of float32 pixels in memory, over and over: nothing is
read, decoded or kept. `embed` takes the same number of images from an `.npy` file of pixels of the
network's size, from TFRecord shards of `keras-featx pack` (as they are, and shrunk to the network's
size), and from JPEG files; once more into a float16 file. All take turns in one process.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import side_by_side

sys.path.insert(0, str(side_by_side.HERE.parent))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_featx import embed  # noqa: E402
from keras_featx.config import from_dict  # noqa: E402
from keras_featx.data import lists, memory, pack, packed, pipeline  # noqa: E402
from keras_featx.embedding import forward  # noqa: E402
from keras_featx.models import build_model  # noqa: E402

BATCH, GOAL = 64, 0.9
ALONE = "the network alone"
# Scale, pixels, images.
CASES = {"0.5@112": (0.5, 112, 1443), "1.0@224": (1.0, 224, 512)}


def main() -> None:
    """Measure and write results/embedding.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that holds grocery")
    side_by_side.add_arguments(parser, (), rounds=5)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--dry-run", action="store_true", help="write no file")
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    root = Path(args.data) / "grocery"
    samples = lists.imagenet_list(
        image_root=str(root), cls_label_path=str(root / "gallery_list.txt")
    )
    rows, detail = [], {}
    for case in args.cases:
        scale, pixels, images = CASES[case]
        with tempfile.TemporaryDirectory() as folder:
            runs = _runs(scale, pixels, samples.take(range(images)), Path(folder))
            detail[case] = _measured(runs, images, args.rounds)
        rows += _rows(scale, pixels, detail[case])
    if not args.dry_run:
        command = f"python benchmarks/embedding.py --data DATA --rounds {args.rounds}"
        side_by_side.write_results("embedding", command, rows, threads=args.threads, detail=detail)


def _runs(scale: float, pixels: int, samples, folder: Path) -> dict[str, Callable[[], object]]:
    """What is measured: each a function that has all images embedded."""
    backbone = {"name": "LCNet", "scale": scale, "class_expand": 512}
    neck = {"name": "Dense", "embedding_size": 256}
    arch = {"image_size": [pixels, pixels], "Backbone": backbone, "Neck": neck}
    config = from_dict({"Arch": arch})
    model, preprocess = build_model(config), config.Arch.Preprocess
    dataset = pipeline.image_dataset(samples, (pixels, pixels), preprocess, BATCH)
    np.save(folder / "pixels.npy", np.concatenate([batch.numpy() for batch in dataset]))
    array = np.load(folder / "pixels.npy", mmap_mode="r")
    pack.pack(samples, folder, "whole")
    pack.pack(samples, folder, "shrunk", short_side=pixels)
    batch = tf.constant(array[:BATCH], tf.float32)
    forward(model, batch)

    def alone() -> None:
        for _ in range(-(-len(samples) // BATCH)):
            model.featx_forward(batch).numpy()

    sources = {
        "pixels of its size (.npy)": memory.from_arrays(array, samples.labels),
        f"shards, --short-side {pixels}": packed.packed(folder=str(folder), part="shrunk"),
        "shards": packed.packed(folder=str(folder), part="whole"),
        "JPEG files": samples,
    }
    runs: dict[str, Callable[[], object]] = {ALONE: alone}
    for name, source in sources.items():
        runs[name] = lambda source=source: embed(model, source, preprocess, BATCH)
    # A finished file does not make the next run shorter.
    runs["JPEG files, into a float16 file"] = lambda: embed(
        model, samples, preprocess, BATCH, output=folder / "out.npy", dtype="float16"
    )
    return runs


def _measured(runs: dict[str, Callable[[], object]], images: int, rounds: int) -> dict[str, dict]:
    """Images per second of each, by the clock and by processor time."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start, cpu = time.perf_counter(), time.process_time()
            run()
            taken[name].append((time.perf_counter() - start, time.process_time() - cpu))
    found = {}
    for name, pairs in taken.items():
        seconds, cpu = (statistics.median(some) for some in zip(*pairs, strict=True))
        found[name] = {
            "images_per_second": round(images / seconds, 1),
            "images_per_cpu_second": round(images / cpu, 1),
        }
        side_by_side.note(f"  {name}: {found[name]}")
    return found


def _rows(scale: float, pixels: int, found: dict[str, dict]) -> list[dict]:
    alone = found[ALONE]
    return [
        side_by_side.row(
            f"embedding, LCNet x{scale:g}, {pixels} px, from {name}",
            figures["images_per_second"], ALONE, alone["images_per_second"], GOAL,
            ratio_per_cpu_second=round(
                figures["images_per_cpu_second"] / alone["images_per_cpu_second"], 2
            ),
        )
        for name, figures in found.items()
        if name != ALONE
    ]  # fmt: skip


if __name__ == "__main__":
    main()
