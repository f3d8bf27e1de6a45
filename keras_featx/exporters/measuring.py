"""What the gate measures of each variant: likeness to Keras, Recall@1, neighbours, time."""

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_featx.components import Component
from keras_featx.data import faults, pipeline
from keras_featx.data.samples import Samples
from keras_featx.embedding import embed_usable
from keras_featx.errors import ConfigError, RunError
from keras_featx.evaluation import measure
from keras_featx.evaluation_data import EvalSet, load_eval_sets
from keras_featx.evaluation_sections import MetricSection
from keras_featx.export_section import EXACT, REDUCED, ExportSection
from keras_featx.exporters import gate
from keras_featx.exporters.gate import Run
from keras_featx.results import RetrievalResult
from keras_featx.search import nearest
from keras_featx.sections import Config

KERAS = "keras"
_BATCH, _ROUNDS = 32, 25

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retrieval:
    """Embeddings of query and gallery by each variant and by Keras, and what they find.

    Attributes:
        name: Of the evaluation set; empty where there is one.
        results: By variant.
        embeddings: ``(query, gallery)`` by variant.
        all_compared: Whether each query is compared with the whole gallery: not where ids, cameras
            or groups leave entries out.
    """

    name: str
    results: dict[str, RetrievalResult]
    embeddings: dict[str, tuple[np.ndarray, np.ndarray]]
    all_compared: bool


def eval_set(config: Config, formats) -> tuple[str, EvalSet] | None:
    """The first evaluation set of a config, where its lists can be read.

    Raises:
        ConfigError: If they cannot, and a format is among ``formats`` that must be measured.
    """
    try:
        return next(iter(load_eval_sets(config).items()))
    except ConfigError as error:
        needy = [name for name in formats if name in REDUCED]
        if needy:
            raise ConfigError(
                f"{needy[0]}: expected query and gallery to measure Recall@1 on: {error}"
            ) from None
        log.warning("no Recall@1 of the export: %s", error)
        return None


def pixels(samples: Samples, config: Config, size: int = _BATCH) -> Iterator[np.ndarray]:
    """Decoded and resized images in batches.

    Raises:
        RunError: On an undecodable one, with its path.
    """
    arch = config.Arch
    try:
        for batch in pipeline.image_dataset(samples, arch.image_size, arch.Preprocess, size):
            yield batch.numpy()
    except tf.errors.OpError as error:
        raise faults.explain(error, samples) from None


def retrieval(
    config: Config, runs: Mapping[str, Run], chosen: tuple[str, EvalSet], extractor: keras.Model
) -> Retrieval:
    """Measure each of several runs on the same decoded images."""
    name, one = chosen
    samples, parts = [], []
    for part, how in ((one.query, one.how.Query), (one.gallery, one.how.Gallery)):
        if how.bad_images == "skip":
            part = part.take(embed_usable(extractor, part, config.Arch.Preprocess)[0])
        samples.append(part)
        parts.append(gate.embed_with(runs, pixels(part, config)))
    metrics = MetricSection(
        Eval=(
            Component(name="Recallk", args={"topk": (1, 5)}),
            Component(name="mAP"),
            Component(name="TARFAR", args={"far": (config.Export.far,)}),
        )
    )
    embeddings = {run: (parts[0][run], parts[1][run]) for run in runs}
    results = {run: measure(metrics, *samples, *both) for run, both in embeddings.items()}
    some_left_out = any(
        values is not None for part in samples for values in (part.ids, part.cameras, part.groups)
    )
    return Retrieval(name, results, embeddings, not some_left_out)


def retrieval_figures(found: Retrieval, name: str) -> dict[str, Any]:
    """Recall@1 of a variant beside that of Keras."""
    recall, base = (found.results[run]["recall@1"] for run in (name, KERAS))
    figures = {"recall@1": recall, "recall@1_loss": base - recall}
    if found.all_compared:
        rows = [nearest(*found.embeddings[run], 1)[1][:, 0] for run in (KERAS, name)]
        figures["neighbours_agree"] = float(np.mean(rows[0] == rows[1]))
    return figures


def retrieval_likeness(found: Retrieval, name: str, where: str) -> gate.Likeness:
    """How near a variant's embeddings of query and gallery are to those of Keras."""
    query, gallery = (
        gate.compare(*both, where)
        for both in zip(found.embeddings[KERAS], found.embeddings[name], strict=True)
    )
    return query.with_other(gallery)


def check_recall(name: str, figures: Mapping[str, Any], section: ExportSection, where: str) -> None:
    """Refuse a variant that finds too much less."""
    loss = figures.get("recall@1_loss")
    if loss is not None and name not in EXACT and loss > section.max_recall_loss + 1e-9:
        raise RunError(
            f"{where}: Recall@1 {figures['recall@1']:.4f}, {loss:.4f} below that of Keras; "
            f"expected at most {section.max_recall_loss} (Export.max_recall_loss)"
        )


def latency(run: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> float:
    """Median milliseconds of one image."""
    run(image[None])
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        run(image[None])
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times), 3)
