"""``Metric.Ranking``: what is done with embeddings before queries are ranked, in order."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from keras_featx import components
from keras_featx.components import Component
from keras_featx.errors import ConfigError
from keras_featx.matching import Distances
from keras_featx.reranking import database_augmentation, fit_pca, query_expansion, whitened


def improved(
    steps: Sequence[Component], query: np.ndarray, gallery: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Distances | None]:
    """The embeddings to rank, and the distances to rank them by, if not by the cosine."""
    distances = None
    for i, step in enumerate(steps):
        function = components.builder("ranking", step.name)
        call = functools.partial(_called, function, f"Metric.Ranking.{i}", **step.args)
        if function is query_expansion:
            query = call(query, gallery)
        elif function is database_augmentation:
            gallery = call(gallery)
        elif function is fit_pca:
            fitted = call(gallery)
            query, gallery = whitened(query, *fitted), whitened(gallery, *fitted)
        else:
            distances = call
    return query, gallery, distances


def _called(function: Callable, key: str, *embeddings: np.ndarray, **arguments):
    try:
        return function(*embeddings, **arguments)
    except ValueError as error:
        named = str(error).split(" ", 1)[0].endswith(":")
        raise ConfigError(f"{key}{'.' if named else ': '}{error}") from None
