"""Recall@1 of four recipes on real images, in one short fixed budget, and of PaddleClas' ArcMargin.

LCNet x0.5 from scratch at 64 pixels, 20 epochs, on the identities of `grocery` and `emoji`; query
and gallery are of identities never seen. PaddleClas trains the same network with the same rule on
the very batches of our ArcMargin run: same pictures, same augmentation, same order.
"""

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import side_by_side

sys.path.insert(0, str(side_by_side.HERE.parent))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_featx import components, train  # noqa: E402
from keras_featx.config import load_config  # noqa: E402
from keras_featx.data import pipeline  # noqa: E402
from keras_featx.data.samples import load_samples  # noqa: E402
from keras_featx.evaluation import measure  # noqa: E402
from keras_featx.evaluation_data import load_eval_samples  # noqa: E402

CONFIG = side_by_side.HERE / "recipes.yaml"
PEER = side_by_side.HERE / "peers" / "paddle_recipe.py"
PEER_RECIPE = "PaddleClas ArcMargin"
SETS = ("grocery", "emoji")
RECIPES = {
    "softmax": ["Arch.Head={name: Cosine, scale: 16}"],
    "ArcMargin": [],
    "ArcMargin + triplet": ["Loss.Train=[{CELoss: {}}, {TripletLossV2: {margin: 0.5}}]"],
    "sampled ArcMargin": ["Arch.Head={name: ArcMargin, margin: 0.1, scale: 16, sample_rate: 0.5}"],
}


def main() -> None:
    """Measure and write results/recipes.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that holds grocery and emoji")
    parser.add_argument("--paddle-python", metavar="PYTHON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument(
        "--jobs", type=int, default=2, help="runs at a time, which share the cores; default: 2"
    )
    parser.add_argument(
        "--scores",
        type=Path,
        help="file of the runs that are done, a line each: they are not run again",
    )
    args = parser.parse_args()
    rows, detail = [], {}
    pool = ProcessPoolExecutor(
        args.jobs,
        multiprocessing.get_context("spawn"),
        _set_threads,
        (max(1, (os.cpu_count() or 1) // args.jobs),),
        max_tasks_per_child=1,
    )
    with pool:
        for name in args.sets:
            scores = _scores(pool, Path(args.data) / name, args)
            if PEER_RECIPE in scores:
                rows.append(_row(name, scores["ArcMargin"], scores[PEER_RECIPE]))
            detail[name] = {recipe: _summary(found) for recipe, found in scores.items()}
            side_by_side.note(f"{name}: {json.dumps(detail[name], indent=1)}")
            side_by_side.write_results(  # after each set: the next takes half an hour
                "recipes",
                "python benchmarks/recipes.py --data DATA --paddle-python PADDLE_PYTHON "
                f"--seeds {' '.join(map(str, args.seeds))} --sets {' '.join(detail)}",
                rows,
                detail=detail,
            )


def _set_threads(count: int) -> None:
    logging.basicConfig(level=logging.ERROR)
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)
    os.environ["OMP_NUM_THREADS"] = str(count)  # of the peer


def _scores(pool, folder: Path, args) -> dict[str, list[float]]:
    """Recall@1 of each recipe, one of each seed."""
    names = [*RECIPES, *([PEER_RECIPE] if args.paddle_python else [])]
    done = _done(args.scores)
    runs = {
        pool.submit(_run, folder, name, seed, args.paddle_python): (folder.name, name, seed)
        for name in names
        for seed in args.seeds
        if (folder.name, name, seed) not in done
    }
    for run in as_completed(runs):
        done[runs[run]] = run.result()
        side_by_side.note(f"  {', '.join(map(str, runs[run]))}: {run.result():.4f}")
        if args.scores:
            with args.scores.open("a") as file:
                file.write(json.dumps([*runs[run], run.result()]) + "\n")
    return {name: [done[folder.name, name, seed] for seed in args.seeds] for name in names}


def _done(path: Path | None) -> dict[tuple[str, str, int], float]:
    lines = path.read_text().splitlines() if path and path.exists() else []
    return {tuple(run): score for *run, score in map(json.loads, lines)}


def _run(folder: Path, recipe: str, seed: int, python: str | None) -> float:
    if recipe == PEER_RECIPE:
        return _paddle(folder, seed, python)
    return _ours(folder, recipe, seed)


def _config(folder: Path, seed: int, *overrides: str):
    """The budget on one set; a sample of 0.5 needs a batch of no more classes than that."""
    paths = [
        f"DataLoader.{part}.dataset.{key}"
        for part in ("Train", "Eval.Query", "Eval.Gallery")
        for key in ("image_root", "cls_label_path")
    ]
    named = [folder, *(folder / f"{n}_list.txt" for n in ("train", "query", "gallery"))]
    values = [named[0], named[1], named[0], named[2], named[0], named[3]]
    given = [f"{path}={value}" for path, value in zip(paths, values, strict=True)]
    return load_config(CONFIG, [*given, f"seed={seed}", *overrides])


def _ours(folder: Path, recipe: str, seed: int) -> float:
    with tempfile.TemporaryDirectory() as run:
        config = _config(folder, seed, f"output_dir={run}", *RECIPES[recipe])
        return train(config)["recall@1"]


def _paddle(folder: Path, seed: int, python: str) -> float:
    config = _config(folder, seed)
    samples = load_samples(config.DataLoader.Train.dataset.source, "train")
    query, gallery = load_eval_samples(config)
    with tempfile.TemporaryDirectory() as work:
        _write_batches(Path(work), config, samples)
        for name, part in (("query", query), ("gallery", gallery)):
            images = pipeline.image_dataset(
                part.paths, config.Arch.image_size, config.Arch.Preprocess, 256
            )
            np.save(f"{work}/{name}.npy", np.concatenate([batch.numpy() for batch in images]))
        arguments = [python, str(PEER), work, str(seed), str(samples.class_num)]
        subprocess.run(arguments, check=True, stdout=sys.stderr)
        found = [np.load(f"{work}/{name}_embedding.npy") for name in ("query", "gallery")]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in found]
    return measure(config.Metric, query, gallery, *unit)["recall@1"]


def _write_batches(work: Path, config, samples) -> None:
    """All batches of our run, and the learning rate of each step."""
    section = config.DataLoader.Train
    order = components.builder("sampler", section.sampler.name)(
        samples, config.Global.seed, **section.sampler.args
    )
    steps = config.Global.epochs * order.steps_per_pass
    dataset = pipeline.train_dataset(
        samples, order, config.Arch, section.dataset.transform_ops,
        seed=config.Global.seed, first_step=0, last_step=steps,
    )  # fmt: skip
    shape = (steps, order.batch_size, *config.Arch.image_size, 3)
    images = np.lib.format.open_memmap(work / "images.npy", "w+", "uint8", shape)
    labels = np.zeros(shape[:2], "int64")
    for step, (inputs, _) in enumerate(dataset):
        images[step], labels[step] = inputs["image"].numpy(), inputs["label"].numpy()
    images.flush()
    np.save(work / "labels.npy", labels)
    rate = config.Optimizer.lr
    table = components.builder("schedule", rate.name)(
        config.Global.epochs, order.steps_per_pass, **rate.args
    )
    np.save(work / "rates.npy", table)


def _summary(scores: list[float]) -> dict:
    return {
        "mean": round(statistics.mean(scores), 4),
        "spread": round(statistics.stdev(scores), 4) if len(scores) > 1 else 0.0,
        "recall@1": [round(score, 4) for score in scores],
    }


def _row(name: str, ours: list[float], theirs: list[float]) -> dict:
    own, other = (round(statistics.mean(scores), 4) for scores in (ours, theirs))
    epochs = load_config(CONFIG).Global.epochs
    what = f"Recall@1 of ArcMargin on {name}, {epochs} epochs at 64 px, {len(ours)} seeds"
    return side_by_side.row(what, own, "paddle", other, 1.0, unit="fraction")


if __name__ == "__main__":
    main()
