"""Embed images, and evaluate query against gallery."""

import functools
import logging
import sys
from collections.abc import Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_featx import components
from keras_featx.data import pipeline
from keras_featx.data.lists import Samples, load_samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.metrics import Labelled, retrieval_metrics
from keras_featx.models import build_model
from keras_featx.sections import ArchSection, Component, Config, EvalSection, PreprocessSection

log = logging.getLogger(__name__)


def evaluate(config: Config, model: keras.Model | None = None) -> dict[str, float | int]:
    """Embed query and gallery and measure retrieval.

    Args:
        config: ``DataLoader.Eval`` names the lists, ``Metric.Eval`` the metrics.
        model: The extractor; built from the config (with ``Global.pretrained_model``) if absent.

    Returns:
        ``{"recall@1": ..., "recall@5": ..., "map": ..., "queries": ..., "queries_without_match":
        ..., "gallery": ...}``; fractions, and counts of images.

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
    query, gallery = load_eval_samples(config)
    if model is None:
        if not config.Global.pretrained_model:
            raise ConfigError("Global.pretrained_model: expected the weights to evaluate, got null")
        model = build_model(config)
    return evaluate_samples(config, model, query, gallery)


def evaluate_samples(
    config: Config, model: keras.Model, query: Samples, gallery: Samples
) -> dict[str, float | int]:
    """:func:`evaluate` on lists that are loaded already."""
    section = config.DataLoader.Eval
    embeddings = [
        embed(model, samples.paths, config.Arch.Preprocess, part.batch_size)
        for samples, part in ((query, section.Query), (gallery, section.Gallery))
    ]
    return measure(config.Metric.Eval, query, gallery, *embeddings)


def measure(
    metrics: Sequence[Component],
    query: Samples,
    gallery: Samples,
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
) -> dict[str, float | int]:
    """The configured metrics of embeddings, whatever they come from."""
    functions = [
        functools.partial(components.builder("metric", metric.name), **metric.args)
        for metric in metrics
    ]
    query_labels, gallery_labels = _shared_labels(query, gallery)
    return retrieval_metrics(
        Labelled(query_embeddings, query_labels, query.ids),
        Labelled(gallery_embeddings, gallery_labels, gallery.ids),
        functions,
    )


def load_eval_samples(config: Config) -> tuple[Samples, Samples]:
    """Read the query and gallery lists and check that no query finds itself."""
    section: EvalSection | None = config.DataLoader.Eval
    if section is None:
        raise ConfigError("DataLoader.Eval: missing; evaluation needs Query and Gallery")
    query = load_samples(section.Query.dataset, "DataLoader.Eval.Query.dataset")
    gallery = load_samples(section.Gallery.dataset, "DataLoader.Eval.Gallery.dataset")
    if (query.ids is None) != (gallery.ids is None):
        which = "Gallery" if gallery.ids is None else "Query"
        raise ConfigError(f"DataLoader.Eval.{which}: expected ids (a third column) in both lists")
    if query.ids is None:
        both = set(gallery.paths).intersection(query.paths)
        if both:
            raise ConfigError(
                f"{query.source}: {min(both)} is also in the gallery {gallery.source} "
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
    paths: Iterable[str],
    preprocess: PreprocessSection | ArchSection | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Embed image files.

    Args:
        model: An extractor; its input shape tells the image size.
        paths: Image files.
        preprocess: How to resize; the default squashes, bilinear.
        batch_size: Images at a time.

    Returns:
        float32 ``(images, embedding_size)``, unit norm, in the order of the paths.

    Raises:
        RunError: On an undecodable image, with its path.
    """
    paths = list(paths)
    if isinstance(preprocess, ArchSection):
        preprocess = preprocess.Preprocess
    height, width = model.input_shape[1:3]
    dataset = pipeline.image_dataset(
        paths, (height, width), preprocess or PreprocessSection(), batch_size
    )
    parts = []
    try:
        for batch in progress(dataset, total=-(-len(paths) // batch_size), what="embedding"):
            parts.append(forward(model, batch))
    except tf.errors.OpError as error:
        raise pipeline.explain(error, paths, "embedding") from None
    return np.concatenate(parts)


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


def progress(iterable: Iterable, total: int, what: str) -> Iterable:
    """A progress bar on a terminal, nothing elsewhere."""
    hidden = not sys.stderr.isatty()
    return tqdm(iterable, total=total, desc=what, disable=hidden, leave=False, file=sys.stderr)
