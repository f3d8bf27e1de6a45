"""``Metric.Ranking``: what is done with embeddings before queries are ranked, in order."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from keras_featx import components, reranking
from keras_featx.components import Component
from keras_featx.errors import ConfigError
from keras_featx.matching import Distances
from keras_featx.reranking import k_reciprocal


def expand_queries(query: np.ndarray, gallery: np.ndarray, *, k: int = 5, alpha: float = 0.0):
    """See :func:`keras_featx.reranking.query_expansion`."""
    return reranking.query_expansion(query, gallery, k=k, alpha=alpha), gallery


def augment_database(query: np.ndarray, gallery: np.ndarray, *, k: int = 5, alpha: float = 0.0):
    """See :func:`keras_featx.reranking.database_augmentation`."""
    return query, reranking.database_augmentation(gallery, k=k, alpha=alpha)


def whiten(query: np.ndarray, gallery: np.ndarray, *, size: int | None = None):
    """PCA with whitening, fitted to the gallery: see :func:`keras_featx.reranking.fit_pca`."""
    fitted = reranking.fit_pca(gallery, size=size)
    return reranking.whitened(query, *fitted), reranking.whitened(gallery, *fitted)


def improved(
    steps: Sequence[Component], query: np.ndarray, gallery: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Distances | None]:
    """The embeddings to rank, and the distances to rank them by, if not by the cosine."""
    distances = None
    for i, step in enumerate(steps):
        function = components.builder("ranking", step.name)
        call = functools.partial(_called, function, f"Metric.Ranking.{i}", **step.args)
        if function is k_reciprocal:
            distances = call
        else:
            query, gallery = call(query, gallery)
    return query, gallery, distances


def _called(function: Callable, key: str, query: np.ndarray, gallery: np.ndarray, **arguments):
    try:
        return function(query, gallery, **arguments)
    except ValueError as error:
        named = str(error).split(" ", 1)[0].endswith(":")
        raise ConfigError(f"{key}{'.' if named else ': '}{error}") from None
