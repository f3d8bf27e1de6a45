"""Evaluate query against gallery."""

import functools
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_featx import components
from keras_featx.data import memory
from keras_featx.data.samples import Samples, load_samples
from keras_featx.embedding import embed, embed_usable
from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled
from keras_featx.matching import Distances
from keras_featx.models import build_model
from keras_featx.paddle_protocol import paddle_figures
from keras_featx.ranking import improved
from keras_featx.results import RetrievalResult, score
from keras_featx.sections import (
    Component,
    Config,
    EvalListSection,
    EvalSection,
    MetricSection,
)
from keras_featx.verification import PAIR_METRICS


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A query and a gallery as they were measured.

    Attributes:
        result: The figures.
        query: The images that were embedded: without those that were skipped.
        gallery: Likewise.
        query_embeddings: Float ``(queries, embedding_size)``, unit norm, as the model gave them.
        gallery_embeddings: Likewise.
        seconds: What reading and embedding the images took.
    """

    result: RetrievalResult
    query: Samples
    gallery: Samples
    query_embeddings: np.ndarray
    gallery_embeddings: np.ndarray
    seconds: float | None = None


class Ranked(NamedTuple):
    """What queries are ranked by.

    Attributes:
        query: Embeddings after ``Metric.Ranking``, with labels that mean the same in both lists.
        gallery: Likewise.
        distances: What ranks in place of the cosine, if anything.
        names: Of the labels, where the lists have names.
    """

    query: Labelled
    gallery: Labelled
    distances: Distances | None
    names: np.ndarray | None


_LIST = EvalListSection(dataset=Component(name="Given"))
_GIVEN = EvalSection(Query=_LIST, Gallery=_LIST)


def evaluate(
    config: Config, model: keras.Model | None = None, query: Any = None, gallery: Any = None
) -> RetrievalResult:
    """Embed query and gallery and measure retrieval.

    Args:
        config: ``DataLoader.Eval`` names the lists, ``Metric.Eval`` the metrics.
        model: The extractor; built from the config (with ``Global.pretrained_model``) if absent.
        query: Images given in Python, in place of the config's: ``(images, labels)``, a
            ``tf.data.Dataset`` of them, or samples; see :mod:`keras_featx.data.memory`.
        gallery: Likewise.

    Returns:
        ``{"recall@1": ..., "recall@5": ..., "map": ..., "queries": ..., "queries_without_match":
        ..., "gallery": ...}``; fractions, and counts of images. With ``bad_images: skip``,
        also how many of a list were left out:  ``query_skipped`` or ``gallery_skipped``. It prints
        as a table with intervals, see :class:`keras_featx.results.RetrievalResult`.

    Raises:
        ConfigError: On bad lists, or when an image is in query and gallery without an id.
        RunError: On an undecodable image, with its path.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import quickstart_config
        >>> config = quickstart_config()
        >>> model = keras_featx.build_model(config)
        >>> keras_featx.evaluate(config, model)["queries"]
        200
    """
    query, gallery = load_eval_samples(config, query, gallery)
    return evaluate_samples(config, model or trained_model(config), query, gallery).result


def trained_model(config: Config) -> keras.Model:
    """The extractor with the weights that the config names."""
    if not config.Global.pretrained_model:
        raise ConfigError("Global.pretrained_model: expected the weights to evaluate, got null")
    return build_model(config)


def evaluate_samples(
    config: Config, model: keras.Model, query: Samples, gallery: Samples
) -> Evaluation:
    """:func:`evaluate` on lists that are loaded already, with what was embedded."""
    section = config.DataLoader.Eval or _GIVEN
    parts, embeddings, skipped = [], [], {}
    started = time.perf_counter()
    for name, samples in (("query", query), ("gallery", gallery)):
        part = getattr(section, name.capitalize())
        common = (model, samples, config.Arch.Preprocess, part.batch_size)
        if part.bad_images == "skip":
            good, found = embed_usable(*common)
            skipped[f"{name}_skipped"] = len(samples) - len(good)
            samples = samples.take(good)
        else:
            found = embed(*common)
        parts.append(samples)
        embeddings.append(found)
    seconds = time.perf_counter() - started
    result = measure(config.Metric, *parts, *embeddings, more=skipped)
    return Evaluation(result, *parts, *embeddings, seconds)


def measure(
    section: MetricSection,
    query: Samples,
    gallery: Samples,
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    more: dict[str, Any] | None = None,
) -> RetrievalResult:
    """The configured metrics of embeddings, whatever they come from."""
    functions, pair_functions = [], []
    for metric in section.Eval:
        function = components.builder("metric", metric.name)
        chosen = pair_functions if function in PAIR_METRICS else functions
        chosen.append(functools.partial(function, **metric.args))
    *parts, distances, names = ranked(section, query, gallery, query_embeddings, gallery_embeddings)
    more = dict(more or {})
    if section.paddle:
        recall = [metric.args for metric in section.Eval if metric.name == "Recallk"]
        more |= paddle_figures(*parts, **next(iter(recall), {}))
    found = score(*parts, functions, pair_functions=pair_functions, distances=distances, more=more)
    return found if names is None else replace(found, labels=names[found.labels])


def ranked(
    section: MetricSection,
    query: Samples,
    gallery: Samples,
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
) -> Ranked:
    """What the config ranks by."""
    query_labels, gallery_labels, names = _shared_labels(query, gallery)
    query_embeddings, gallery_embeddings, distances = improved(
        section.Ranking, query_embeddings, gallery_embeddings
    )
    return Ranked(
        Labelled(query_embeddings, query_labels, query.ids, query.cameras),
        Labelled(gallery_embeddings, gallery_labels, gallery.ids, gallery.cameras),
        distances,
        names,
    )


def load_eval_samples(
    config: Config, query: Any = None, gallery: Any = None
) -> tuple[Samples, Samples]:
    """Query and gallery, of the config or given, after a check that no query finds itself."""
    section = config.DataLoader.Eval
    if section is None and (query is None or gallery is None):
        raise ConfigError("DataLoader.Eval: missing; evaluation needs Query and Gallery")
    if query is None:
        query = load_samples(section.Query.dataset, "DataLoader.Eval.Query.dataset")
    if gallery is None:
        gallery = load_samples(section.Gallery.dataset, "DataLoader.Eval.Gallery.dataset")
    return as_pair(query, gallery)


def as_pair(query: Any, gallery: Any, where: str = "DataLoader.Eval") -> tuple[Samples, Samples]:
    """Query and gallery as samples, after a check that no query finds itself.

    Args:
        query: Samples, or images given in Python.
        gallery: Likewise.
        where: What messages call the two together.

    Raises:
        ConfigError: Where an image is in both without an id, or one alone has ids or cameras.
    """
    query, gallery = memory.as_samples(query, "query"), memory.as_samples(gallery, "gallery")
    for what in ("ids", "cameras"):
        if (getattr(query, what) is None) != (getattr(gallery, what) is None):
            which = "Gallery" if getattr(gallery, what) is None else "Query"
            column = " (a third column)" if what == "ids" else ""
            raise ConfigError(f"{where}.{which}: expected {what}{column} in both lists")
    if query.ids is None and query.pixels is None and gallery.pixels is None:
        both = set(gallery.images()).intersection(query.images())
        if both:
            first = min(image[0] for image in both)
            raise ConfigError(
                f"{query.source}: {first} is also in the gallery {gallery.source} "
                f"({len(both)} such images): each would find itself. Expected disjoint lists, or a "
                "third column with a number unique to each image (name: VeriWild)"
            )
    _shared_labels(query, gallery)
    return query, gallery


def _shared_labels(
    query: Samples, gallery: Samples
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Labels that mean the same in both lists, and names of them; folders are matched by name."""
    if (query.names is None) != (gallery.names is None):
        raise ConfigError(
            f"{query.source} and {gallery.source}: expected labels of one kind, got names and "
            "numbers"
        )
    if query.names is None:
        return query.labels, gallery.labels, None
    names = sorted({*query.names, *gallery.names})
    number = {name: i for i, name in enumerate(names)}
    query_map, gallery_map = (
        np.array([number[name] for name in samples.names]) for samples in (query, gallery)
    )
    return query_map[query.labels], gallery_map[gallery.labels], np.array(names)
