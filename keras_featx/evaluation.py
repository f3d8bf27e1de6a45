"""Embed images, and evaluate query against gallery."""

import functools
import logging
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_featx import components
from keras_featx.data import faults, memory, pipeline
from keras_featx.data.samples import Samples, load_samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.matches import Labelled
from keras_featx.models import build_model
from keras_featx.progress import progress
from keras_featx.ranking import improved
from keras_featx.results import RetrievalResult, score
from keras_featx.sections import (
    ArchSection,
    Component,
    Config,
    EvalListSection,
    EvalSection,
    MetricSection,
    PreprocessSection,
)
from keras_featx.verification import PAIR_METRICS

log = logging.getLogger(__name__)

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
    if model is None:
        if not config.Global.pretrained_model:
            raise ConfigError("Global.pretrained_model: expected the weights to evaluate, got null")
        model = build_model(config)
    return evaluate_samples(config, model, query, gallery)


def evaluate_samples(
    config: Config, model: keras.Model, query: Samples, gallery: Samples
) -> RetrievalResult:
    """:func:`evaluate` on lists that are loaded already."""
    section = config.DataLoader.Eval or _GIVEN
    parts, embeddings, skipped = [], [], {}
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
    return measure(config.Metric, *parts, *embeddings, more=skipped)


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
    query_labels, gallery_labels = _shared_labels(query, gallery)
    query_embeddings, gallery_embeddings, distances = improved(
        section.Ranking, query_embeddings, gallery_embeddings
    )
    return score(
        Labelled(query_embeddings, query_labels, query.ids, query.cameras),
        Labelled(gallery_embeddings, gallery_labels, gallery.ids, gallery.cameras),
        functions,
        pair_functions=pair_functions,
        distances=distances,
        more=more,
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
    query, gallery = memory.as_samples(query, "query"), memory.as_samples(gallery, "gallery")
    for what in ("ids", "cameras"):
        if (getattr(query, what) is None) != (getattr(gallery, what) is None):
            which = "Gallery" if getattr(gallery, what) is None else "Query"
            column = " (a third column)" if what == "ids" else ""
            raise ConfigError(f"DataLoader.Eval.{which}: expected {what}{column} in both lists")
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


def _shared_labels(query: Samples, gallery: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Labels that mean the same in both lists; folders are matched by name."""
    if (query.names is None) != (gallery.names is None):
        raise ConfigError(
            f"{query.source} and {gallery.source}: expected labels of one kind, got names and "
            "numbers"
        )
    if query.names is None:
        return query.labels, gallery.labels
    number = {name: i for i, name in enumerate(sorted({*query.names, *gallery.names}))}
    query_map, gallery_map = (
        np.array([number[name] for name in samples.names]) for samples in (query, gallery)
    )
    return query_map[query.labels], gallery_map[gallery.labels]


def embed(
    model: keras.Model,
    data: Samples | Iterable[str],
    preprocess: PreprocessSection | ArchSection | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Embed images.

    Args:
        model: An extractor; its input shape tells the image size.
        data: Image files, or samples (see :mod:`keras_featx.data`).
        preprocess: How to resize; the default squashes, bilinear.
        batch_size: Images at a time.

    Returns:
        float32 ``(images, embedding_size)``, unit norm, in their order.

    Raises:
        RunError: On an undecodable image, with its path.
    """
    samples = pipeline.as_samples(data)
    if isinstance(preprocess, ArchSection):
        preprocess = preprocess.Preprocess
    dataset = pipeline.image_dataset(
        samples, model.input_shape[1:3], preprocess or PreprocessSection(), batch_size
    )
    parts = []
    try:
        for batch in progress(dataset, total=-(-len(samples) // batch_size), what="embedding"):
            parts.append(forward(model, batch))
    except tf.errors.OpError as error:
        raise faults.explain(error, samples) from None
    return np.concatenate(parts)


def embed_usable(
    model: keras.Model, samples: Samples, preprocess: PreprocessSection, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Embed the images that can be used; each of the others is logged.

    Returns:
        Their places in the samples, and their embeddings as of :func:`embed`.

    Raises:
        RunError: If there is none.
    """
    dataset = pipeline.image_dataset(
        samples, model.input_shape[1:3], preprocess, batch_size, guarded=True
    )
    good, parts = [], []
    for batch, places in progress(dataset, total=-(-len(samples) // batch_size), what="embedding"):
        good.append(places.numpy())
        parts.append(forward(model, batch))
    places = np.concatenate(good) if good else np.zeros(0, np.int64)
    for row in sorted(set(range(len(samples))) - set(places.tolist())):
        log.warning("left out %s: %s", samples.title(row), faults.reason_of(samples, row))
    if not len(places):
        raise RunError(f"{samples.source}: expected images that can be decoded, got none")
    return places, np.concatenate(parts)


def forward(model: keras.Model, batch) -> np.ndarray:
    """One batch of images ``(batch, height, width, 3)`` through an extractor, checked finite."""
    if not hasattr(model, "featx_forward"):
        # predict() would build a pipeline of its own for every call.
        spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        model.featx_forward = tf.function(
            lambda image: model(image, training=False), input_signature=[spec]
        )
    embeddings = model.featx_forward(tf.cast(batch, tf.float32)).numpy()
    if not np.isfinite(embeddings).all():
        raise RunError("the network gave an embedding that is not finite; its weights are broken")
    return embeddings
