"""Evaluate query against gallery."""

import functools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_featx import components
from keras_featx.compact import binarized
from keras_featx.data.samples import Samples
from keras_featx.embedding import embed, embed_usable
from keras_featx.errors import ConfigError
from keras_featx.evaluation_data import EvalSet, load_eval_sets, shared_labels
from keras_featx.evaluation_sections import MetricSection
from keras_featx.labelled import Labelled
from keras_featx.matching import Distances
from keras_featx.models import EMBEDDING, build_model
from keras_featx.paddle_protocol import paddle_figures
from keras_featx.ranking import check_groups, improved
from keras_featx.results import RetrievalResult, score
from keras_featx.sections import Config
from keras_featx.verification import PAIR_METRICS
from keras_featx.views import as_configured


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A query and a gallery as they were measured.

    Attributes:
        result: The figures.
        query: The images that were embedded: without those that were skipped.
        gallery: Likewise.
        query_embeddings: Float ``(queries, embedding_size)``, unit norm, as the model gave them;
            with ``Global.feature_binarize`` their signs, as unit vectors.
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
        ConfigError: On bad lists, when an image is in query and gallery without an id, or where
            the config has several sets; see :func:`evaluate_sets`.
        RunError: On an undecodable image, with its path.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import quickstart_config
        >>> config = quickstart_config()
        >>> model = keras_featx.build_model(config)
        >>> keras_featx.evaluate(config, model)["queries"]
        200
    """
    if config.DataLoader.Eval is not None:
        config.DataLoader.Eval.only_pair()
    sets = load_eval_sets(config, query, gallery)
    (found,) = measure_sets(config, model or trained_model(config), sets).values()
    return found.result


def evaluate_sets(config: Config, model: keras.Model | None = None) -> dict[str, RetrievalResult]:
    """:func:`evaluate` on each set of ``DataLoader.Eval.Sets``.

    Args:
        config: As of :func:`evaluate`.
        model: Likewise.

    Returns:
        Results by the sets' names. The name of an only pair of ``Query`` and ``Gallery`` is empty.

    Raises:
        ConfigError: On bad lists.
        RunError: On an undecodable image, with its path.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import quickstart_config
        >>> lists = quickstart_config().DataLoader.Eval
        >>> pair = {"Query": lists.Query, "Gallery": lists.Gallery}
        >>> tree = {"DataLoader": {"Eval": {"Sets": {"smileys": pair}}}}
        >>> config = keras_featx.config.from_dict(tree)
        >>> model = keras_featx.build_model("emoji-lcnet-x0_5")
        >>> list(keras_featx.evaluate_sets(config, model))
        ['smileys']
    """
    sets = load_eval_sets(config)
    found = measure_sets(config, model or trained_model(config), sets)
    return {name: one.result for name, one in found.items()}


def trained_model(config: Config) -> keras.Model:
    """The extractor with the weights that the config names."""
    if not config.Global.pretrained_model:
        raise ConfigError("Global.pretrained_model: expected the weights to evaluate, got null")
    return build_model(config)


def measure_sets(
    config: Config, model: keras.Model, sets: Mapping[str, EvalSet]
) -> dict[str, Evaluation]:
    """Embed and measure sets that are loaded already; see :func:`load_eval_sets`."""
    if config.Global.feature_binarize == "round":
        model = _not_normalised(config, model)
    embedder, views = as_configured(model, config.Metric.Views)
    found = {}
    for name, one in sets.items():
        try:
            found[name] = _measure_set(config, embedder, views, one)
        except ConfigError as error:
            raise ConfigError(f"DataLoader.Eval.Sets.{name}: {error}" if name else error) from None
    return found


def _not_normalised(config: Config, model: keras.Model) -> keras.Model:
    """The network up to its embedding before that is made a unit vector."""
    if config.Metric.Views is not None:
        raise ConfigError("Metric.Views: expected null with Global.feature_binarize round")
    return keras.Model(model.input, model.get_layer(EMBEDDING).input)


def _measure_set(config: Config, model: keras.Model, views: int, one: EvalSet) -> Evaluation:
    parts, embeddings, skipped = [], [], {}
    started = time.perf_counter()
    for name, samples in (("query", one.query), ("gallery", one.gallery)):
        how = getattr(one.how, name.capitalize())
        common = (model, samples, config.Arch.Preprocess, max(1, how.batch_size // views))
        if how.bad_images == "skip":
            good, found = embed_usable(*common)
            skipped[f"{name}_skipped"] = len(samples) - len(good)
            samples = samples.take(good)
        else:
            found = embed(*common)
        if config.Global.feature_binarize:
            try:
                found = binarized(found, config.Global.feature_binarize)
                found = (found / np.sqrt(found.shape[1])).astype("float32")
            except ConfigError as error:
                raise ConfigError(f"Global.{error} of the {name}") from None
        parts.append(samples)
        embeddings.append(found)
    seconds = time.perf_counter() - started
    result = measure(config.Metric, *parts, *embeddings, more=skipped)
    return Evaluation(result, *parts, *embeddings, seconds)


def figures(results: Mapping[str, RetrievalResult]) -> dict[str, float | int]:
    """The figures of all sets, as ``NAME/FIGURE`` where a set has a name."""
    return {
        f"{name}/{figure}" if name else figure: value
        for name, result in results.items()
        for figure, value in result.items()
    }


def figure_to_monitor(
    section: MetricSection, sets: Iterable[str], wanted: str | None, key: str = "Metric.monitor"
) -> str:
    """The name of the figure that chooses the best model.

    Args:
        section: The metrics.
        sets: Names of the sets.
        wanted: The figure; by default the first of the first metric and set.
        key: What messages call it.

    Raises:
        ConfigError: If there will be no such figure.
    """
    # Metrics name their figures only when they are called.
    points = Labelled(np.eye(2, dtype="float32"), np.arange(2))
    functions, pair_functions = _metrics(section)
    result = score(points, points, functions, pair_functions=pair_functions)
    known = [f"{name}/{figure}" if name else figure for name in sets for figure in result.per_query]
    if wanted is not None and wanted not in known:
        raise ConfigError(f"{key}: expected one of {known}, got {wanted!r}")
    return wanted or known[0]


def _metrics(section: MetricSection) -> tuple[list, list]:
    """The functions of single queries, and those of pairs."""
    functions, pair_functions = [], []
    for metric in section.Eval:
        function = components.builder("metric", metric.name)
        chosen = pair_functions if function in PAIR_METRICS else functions
        chosen.append(functools.partial(function, **metric.args))
    return functions, pair_functions


def measure(
    section: MetricSection,
    query: Samples,
    gallery: Samples,
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    more: dict[str, Any] | None = None,
) -> RetrievalResult:
    """The configured metrics of embeddings, whatever they come from."""
    check_groups(section, query.groups)
    functions, pair_functions = _metrics(section)
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
    query_labels, gallery_labels, names = shared_labels(query, gallery)
    query_embeddings, gallery_embeddings, distances = improved(
        section.Ranking, query_embeddings, gallery_embeddings, (query.groups, gallery.groups)
    )
    return Ranked(
        Labelled(query_embeddings, query_labels, query.ids, query.cameras, query.groups),
        Labelled(gallery_embeddings, gallery_labels, gallery.ids, gallery.cameras, gallery.groups),
        distances,
        names,
    )
