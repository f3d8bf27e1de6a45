"""The whole path on the pictures that ship with the package, in a few minutes on a CPU."""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_featx import images, models, weights
from keras_featx.config import load_config
from keras_featx.data import outputs, pipeline
from keras_featx.data.samples import Samples, load_samples
from keras_featx.embedding import embed
from keras_featx.evaluation import measure
from keras_featx.evaluation_data import load_eval_samples
from keras_featx.export_section import EXACT
from keras_featx.exporters import export
from keras_featx.report import plots
from keras_featx.search import nearest
from keras_featx.sections import Config
from keras_featx.training import train

ASSETS = Path(__file__).parent / "assets"
EMOJI_MINI = ASSETS / "emoji_mini"

log = logging.getLogger(__name__)


def quickstart_config(
    output: str | os.PathLike = "quickstart", overrides: Sequence[str] = ()
) -> Config:
    """The config of the quickstart, with the paths of the shipped pictures filled in."""
    lists = {
        "Train": "train_list.txt",
        "Eval.Query": "query_list.txt",
        "Eval.Gallery": "gallery_list.txt",
    }
    paths = [f"Global.output_dir={json.dumps(str(output))}"]
    for section, name in lists.items():
        dataset = f"DataLoader.{section}.dataset"
        paths.append(f"{dataset}.image_root={json.dumps(str(EMOJI_MINI))}")
        paths.append(f"{dataset}.cls_label_path={json.dumps(str(EMOJI_MINI / name))}")
    return load_config(ASSETS / "quickstart.yaml", [*paths, *overrides])


def quickstart(
    output: str | os.PathLike = "quickstart", overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], str]:
    """Fine-tune, evaluate on unseen identities, export, compare, search; leave a run folder.

    Args:
        output: The run folder.
        overrides: ``key=value`` strings, as of the command line's ``-o``.

    Returns:
        The result (``recall@1``, ``recall@5``, ``map``, ``queries``, ``seconds`` and more), and a
        report for people.
    """
    started = time.perf_counter()
    config = quickstart_config(output, overrides)
    run = Path(output)
    query, gallery = load_eval_samples(config)

    row = train(config)
    tuned = dataclasses.replace(
        config,
        Global=dataclasses.replace(config.Global, pretrained_model=str(run / "latest")),
    )
    extractor = models.build_model(tuned)
    embeddings = [embed(extractor, s, config.Arch.Preprocess) for s in (query, gallery)]
    result = measure(config.Metric, query, gallery, *embeddings)
    others = _baselines(config, query, gallery)
    exported = export(tuned, extractor, formats=EXACT, overwrite=True)
    exported = {key: exported[key] for key in (*EXACT, "largest_difference", "images")}

    answers = _answers(query, gallery, *embeddings)
    history = weights.read_arrays(run / "latest" / weights.WEIGHTS)[1]["history"]
    plots.learning_curves(history, run / "learning_curves.png", others["pixels"]["recall@1"])
    plots.neighbour_panel(_choose(answers), run / "neighbours.png")

    report = _report({"fine-tuned extractor": result, **others}, answers[0], exported, run)
    summary = {
        **result,
        "loss": row["loss"],
        "baselines": {name: metrics["recall@1"] for name, metrics in others.items()},
        **exported,
        "output_dir": str(run),
        "seconds": round(time.perf_counter() - started, 1),
    }
    outputs.write_bytes(run / "quickstart.json", json.dumps(summary, indent=1).encode())
    return summary, report


def _baselines(config: Config, query: Samples, gallery: Samples) -> dict[str, dict]:
    """The same evaluation of what fine-tuning starts from, of chance, and of bare pixels."""
    train_samples = load_samples(config.DataLoader.Train.dataset.source, "DataLoader.Train.dataset")
    shipped = models.build_model(config)
    untrained = _untrained(config, train_samples)
    mean = _pixels(train_samples, config).mean(axis=0)
    embedders = {
        "shipped weights as they are": lambda s: embed(shipped, s, config.Arch.Preprocess),
        "random network": lambda s: embed(untrained, s, config.Arch.Preprocess),
        "pixels": lambda s: _unit(_pixels(s, config) - mean),
    }
    return {
        name: measure(config.Metric, query, gallery, embedder(query), embedder(gallery))
        for name, embedder in embedders.items()
    }


def _untrained(config: Config, samples: Samples, steps: int = 30) -> keras.Model:
    """Random weights whose batch statistics have seen the training pictures.

    Without those a fresh LCNet's activations vanish on the way and its vectors are noise.
    """
    keras.utils.set_random_seed(config.Global.seed)
    model = models.build_extractor(config.Arch)
    arch = config.Arch
    batches = pipeline.image_dataset(samples, arch.image_size, arch.Preprocess, 64)
    for batch in batches.repeat().take(steps):
        model(tf.cast(batch, tf.float32), training=True)
    return model


def _pixels(samples: Samples, config: Config, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Images as vectors of 32 x 32 pixels."""
    arch = config.Arch
    rows = [images.load(tf.constant(p), size, arch.Preprocess).numpy() for p in samples.paths]
    return np.stack(rows).reshape(len(samples), -1).astype("float32") / 255


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _answers(query, gallery, query_embeddings, gallery_embeddings, k: int = 5) -> list:
    similarities, rows = nearest(query_embeddings, gallery_embeddings, k)
    return [
        plots.Answer(
            query.paths[i],
            Path(query.paths[i]).parent.name,
            [gallery.paths[j] for j in rows[i]],
            [Path(gallery.paths[j]).parent.name for j in rows[i]],
            similarities[i].tolist(),
        )
        for i in range(len(query))
    ]


def _choose(answers: list, rows: int = 10) -> list:
    """Queries for the panel: as many wrong ones as right ones where there are enough of both."""
    wrong = [a for a in answers if a.titles[0] != a.title]
    right = [a for a in answers if a.titles[0] == a.title]
    some_wrong = wrong[:: max(len(wrong) // (rows // 2), 1)][: rows // 2]
    missing = rows - len(some_wrong)
    return right[:: max(len(right) // missing, 1)][:missing] + some_wrong


def _report(table: dict[str, dict], answer, exported: dict, run: Path) -> str:
    counts = next(iter(table.values()))
    lines = [
        f"{counts['queries']} queries of identities never seen in training, "
        f"gallery of {counts['gallery']}",
        "",
        f"{'':30}{'recall@1':>10}{'recall@5':>10}{'mAP':>8}",
    ]
    for name, metrics in table.items():
        scores = (100 * metrics[key] for key in ("recall@1", "recall@5", "map"))
        lines.append(f"{name:30}" + "{:9.1f}%{:9.1f}%{:7.1f}%".format(*scores))
    found = ", ".join(
        f"{t} {s:.2f}" for t, s in zip(answer.titles[:3], answer.similarities, strict=False)
    )
    name = "/".join(Path(answer.query).parts[-2:])
    lines += [
        "",
        f"nearest to {name}: {found}",
        f"exports differ from Keras by at most {exported['largest_difference']:.1g}",
        f"look at {run / 'learning_curves.png'} and {run / 'neighbours.png'}",
    ]
    return "\n".join(lines)
