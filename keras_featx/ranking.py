"""``Metric.Ranking``: what is done with embeddings before queries are ranked, in order."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from keras_featx import components
from keras_featx.components import Component
from keras_featx.errors import ConfigError
from keras_featx.matching import Distances
from keras_featx.reranking import database_augmentation, fit_pca, query_expansion, whitened
from keras_featx.sections import MetricSection

Groups = tuple[np.ndarray | None, np.ndarray | None]


def check_groups(section: MetricSection, groups: np.ndarray | None) -> None:
    """Refuse what would look beyond a query's group.

    Args:
        section: What is asked for.
        groups: Of the queries, or ``None``, with which all is well.

    Raises:
        ConfigError: With the key.
    """
    if groups is None:
        return
    if section.paddle:
        raise ConfigError(
            "Metric.paddle: expected false, as the lists have groups and PaddleClas has none, got "
            "true"
        )
    for i, step in enumerate(section.Ranking):
        if components.builder("ranking", step.name) is fit_pca:
            raise ConfigError(
                f"Metric.Ranking.{i}: expected steps that keep to a query's group, as the lists "
                f"have groups, got {step.name}, which is fitted to the whole gallery"
            )


def improved(
    steps: Sequence[Component], query: np.ndarray, gallery: np.ndarray, groups: Groups
) -> tuple[np.ndarray, np.ndarray, Distances | None]:
    """The embeddings to rank, and the distances to rank them by, if not by the cosine.

    Args:
        steps: Of ``Metric.Ranking``; with groups those that :func:`check_groups` lets pass.
        query: Unit vectors ``(queries, size)``.
        gallery: Unit vectors ``(entries, size)``.
        groups: Of both. A query then learns of the entries of its group alone, and so does an
            entry. Distances are of whatever they are asked for: of a group, if that is ranked.
    """
    distances = None
    for i, step in enumerate(steps):
        function = components.builder("ranking", step.name)
        call = functools.partial(_called, function, f"Metric.Ranking.{i}", **step.args)
        if function is query_expansion:
            query = _by_group(call, (query, gallery), groups)
        elif function is database_augmentation:
            gallery = _by_group(call, (gallery,), groups[1:])
        elif function is fit_pca:
            fitted = call(gallery)
            query, gallery = whitened(query, *fitted), whitened(gallery, *fitted)
        else:
            distances = call
    return query, gallery, distances


def _by_group(
    function: Callable, embeddings: Sequence[np.ndarray], groups: Sequence[np.ndarray | None]
) -> np.ndarray:
    """What a function makes of the first of some embeddings, group by group where there are any."""
    if groups[0] is None:
        return function(*embeddings)
    result = np.array(embeddings[0], "float32")
    for group in np.unique(groups[0]):
        rows = [np.flatnonzero(own == group) for own in groups]
        if all(map(len, rows)):  # a query without a gallery stays as it is, and is not scored
            result[rows[0]] = function(
                *(vectors[own] for vectors, own in zip(embeddings, rows, strict=True))
            )
    return result


def _called(function: Callable, key: str, *embeddings: np.ndarray, **arguments):
    try:
        return function(*embeddings, **arguments)
    except ValueError as error:
        named = str(error).split(" ", 1)[0].endswith(":")
        raise ConfigError(f"{key}{'.' if named else ': '}{error}") from None
