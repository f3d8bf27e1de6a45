"""Retrieval metrics for people with arrays."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from keras_featx import metrics
from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled
from keras_featx.results import RetrievalResult, score
from keras_featx.search import check_vectors
from keras_featx.similarities import row_blocks


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
        query_labels: Identities ``(queries,)``: whole numbers, negative ones too, or names.
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
    if one_set:
        for name, value in (
            ("gallery_labels", gallery_labels),
            ("gallery_ids", gallery_ids),
            ("gallery_groups", gallery_groups),
        ):
            if value is not None:
                raise ConfigError(f"{name}: expected with a gallery, got none")
        gallery, gallery_labels = query, query_labels
        gallery_ids, gallery_groups = query_ids, query_groups
    arrays = [np.asanyarray(vectors) for vectors in (query, gallery)]
    if metric == "cosine":
        try:
            arrays = _unit(*arrays)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    labels = [
        _labels(name, given)
        for name, given in (("query_labels", query_labels), ("gallery_labels", gallery_labels))
    ]
    if len({x.dtype.kind == "U" for x in labels}) > 1:
        raise ConfigError(
            f"labels: expected of one kind, got {labels[0].dtype} of the query and "
            f"{labels[1].dtype} of the gallery"
        )
    names, numbers = np.unique(np.concatenate(labels), return_inverse=True)
    parts = [
        Labelled(vectors, own, *(x if x is None else np.asarray(x) for x in known))
        for vectors, own, known in (
            (arrays[0], numbers[: len(labels[0])], (query_ids, None, query_groups)),
            (arrays[1], numbers[len(labels[0]) :], (gallery_ids, None, gallery_groups)),
        )
    ]
    if not isinstance(ks, tuple | list):
        raise ConfigError(f"ks: expected a list of numbers, got {ks!r}")
    with_ks = (metrics.recall_at_k, metrics.precision_at_k, metrics.ndcg_at_k)
    chosen = [functools.partial(function, topk=tuple(ks)) for function in with_ks]
    chosen += [
        metrics.mean_average_precision, metrics.map_at_r, metrics.r_precision,
        metrics.mean_reciprocal_rank, metrics.mean_inverse_negative_penalty,
    ]  # fmt: skip
    found = score(*parts, chosen, leave_one_out=one_set)
    return replace(found, labels=names[found.labels])


def _labels(name: str, given: Any) -> np.ndarray:
    labels = np.asarray(given)
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise ConfigError(
            f"{name}: expected whole numbers or names, one for each embedding, got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    return labels


def _unit(*arrays: np.ndarray) -> list[np.ndarray]:
    """Float32 vectors of unit norm, converted block by block."""
    found = []
    for vectors, norms in zip(arrays, check_vectors(*arrays, "cosine"), strict=True):
        unit = np.empty(vectors.shape, "float32")
        for part in row_blocks(vectors):
            unit[part] = vectors[part] / norms[part, None]
        found.append(unit)
    return found
