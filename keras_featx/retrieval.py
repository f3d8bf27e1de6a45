"""Retrieval metrics for people with arrays."""

import functools
from typing import Any

import numpy as np

from keras_featx import metrics
from keras_featx.errors import ConfigError
from keras_featx.matches import Labelled
from keras_featx.results import RetrievalResult, score
from keras_featx.search import check_vectors


def retrieval_metrics(
    query: np.ndarray,
    query_labels: Any,
    gallery: np.ndarray | None = None,
    gallery_labels: Any = None,
    *,
    ks: tuple[int, ...] = (1, 5),
    metric: str = "cosine",
    query_ids: Any = None,
    gallery_ids: Any = None,
    query_groups: Any = None,
    gallery_groups: Any = None,
) -> RetrievalResult:
    """All retrieval metrics of embeddings in arrays.

    Args:
        query: Float ``(queries, size)``.
        query_labels: Identities ``(queries,)``: numbers or names.
        gallery: Float ``(entries, size)``; without it every query is looked up among the others.
        gallery_labels: Identities of the gallery, of the same kind.
        ks: For Recall@k, precision@k and NDCG@k.
        metric: ``cosine``, or ``inner_product`` of the vectors as they are.
        query_ids: Images or cameras: entries of the query's identity that share it are excluded.
        gallery_ids: Likewise.
        query_groups: A query is looked up in the part of the gallery that is of its group.
        gallery_groups: Likewise.

    Raises:
        ConfigError: On arrays that do not fit together, values that are not finite, zero vectors
            under cosine, or when no query has an entry of its identity.

    Example:
        >>> import numpy as np
        >>> from keras_featx import retrieval_metrics
        >>> points = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.2, 1.0]])
        >>> found = retrieval_metrics(points, ["cat", "cat", "dog", "dog"])
        >>> found["recall@1"], found["queries"]
        (1.0, 4)
    """
    if metric not in ("cosine", "inner_product"):
        raise ConfigError(f"metric: expected 'cosine' or 'inner_product', got {metric!r}")
    one_set = gallery is None
    if one_set != (gallery_labels is None):
        raise ConfigError("gallery and gallery_labels: expected both or neither")
    if one_set:
        gallery, gallery_labels = query, query_labels
        gallery_ids, gallery_groups = query_ids, query_groups
    arrays = [np.asarray(vectors) for vectors in (query, gallery)]
    if metric == "cosine":
        try:
            norms = check_vectors(*arrays, metric)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        arrays = [(x / n[:, None]).astype("float32") for x, n in zip(arrays, norms, strict=True)]
    named = [np.asarray(labels) for labels in (query_labels, gallery_labels)]
    if named[0].ndim != 1 or named[1].ndim != 1:
        raise ConfigError(
            f"labels: expected one for each embedding, got {named[0].shape} and {named[1].shape}"
        )
    numbers = np.unique(np.concatenate(named), return_inverse=True)[1]
    parts = [
        Labelled(vectors, labels, *(x if x is None else np.asarray(x) for x in known))
        for vectors, labels, known in (
            (arrays[0], numbers[: len(named[0])], (query_ids, None, query_groups)),
            (arrays[1], numbers[len(named[0]) :], (gallery_ids, None, gallery_groups)),
        )
    ]
    with_ks = (metrics.recall_at_k, metrics.precision_at_k, metrics.ndcg_at_k)
    chosen = [functools.partial(function, topk=tuple(ks)) for function in with_ks]
    chosen += [
        metrics.mean_average_precision, metrics.map_at_r, metrics.r_precision,
        metrics.mean_reciprocal_rank, metrics.mean_inverse_negative_penalty,
    ]  # fmt: skip
    return score(*parts, chosen, leave_one_out=one_set)
