"""Retrieval metrics. NumPy only.

A query is looked up in a gallery ranked by falling similarity; ties go to the lowest gallery row.
An entry is *relevant* when it carries the query's label. Entries with the same label **and** the
same id or camera as the query are removed from its ranking; queries left without a
relevant entry cannot be scored: they are counted and left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.search import similarity


@dataclass(frozen=True)
class Labelled:
    """Embeddings with what is known of them.

    Attributes:
        embeddings: Float array ``(items, embedding_size)``.
        labels: Int array ``(items,)``.
        ids: Image or camera ids ``(items,)`` or ``None``.
        cameras: Cameras ``(items,)``, where they are known besides the ids, or ``None``.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    ids: np.ndarray | None = None
    cameras: np.ndarray | None = None


def rankings(
    query: Labelled, gallery: Labelled, block_size: int = 256
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ``(relevant, order)`` of each query, best gallery row first, excluded rows removed.

    Args:
        query: What is looked up.
        gallery: What it is looked up in.
        block_size: Queries per matrix product; changes memory, not the result.

    Yields:
        ``relevant``: bool array over the ranking; ``order``: the gallery rows ranked.
    """
    for start in range(0, len(query.labels), block_size):
        block = slice(start, start + block_size)
        similar = similarity(query.embeddings[block], gallery.embeddings)  # (block, gallery)
        order = np.argsort(-similar, axis=1, kind="stable")
        relevant = gallery.labels[order] == query.labels[block][:, None]
        same = np.zeros_like(relevant)
        for name in ("ids", "cameras"):
            own, others = getattr(query, name), getattr(gallery, name)
            if own is not None and others is not None:
                same |= relevant & (others[order] == own[block][:, None])
        for row in range(len(order)):
            keep = ~same[row]
            yield relevant[row][keep], order[row][keep]


def recall_at_k(relevant: np.ndarray, *, topk: tuple[int, ...] = (1, 5)) -> dict[str, float]:
    """Recall@k of one query (the CMC curve): 1 if a relevant entry is among the first k, else 0.

    Args:
        relevant: Bool array over the ranking, at least one of them true.
        topk: The values of k; k beyond the gallery means the whole gallery.

    Example:
        >>> import numpy as np
        >>> from keras_featx.metrics import recall_at_k
        >>> recall_at_k(np.array([False, True, False]), topk=(1, 5))
        {'recall@1': 0.0, 'recall@5': 1.0}
    """
    return {f"recall@{k}": float(relevant[:k].any()) for k in topk}


def mean_average_precision(relevant: np.ndarray) -> dict[str, float]:
    """Average precision of one query; its mean over queries is mAP.

    The mean, over the relevant entries, of the precision at each one's rank.

    Args:
        relevant: Bool array over the ranking, at least one of them true.

    Example:
        >>> import numpy as np
        >>> from keras_featx.metrics import mean_average_precision
        >>> mean_average_precision(np.array([True, False, True]))
        {'map': 0.8333333333333333}
    """
    ranks = np.flatnonzero(relevant) + 1
    return {"map": float(np.mean(np.arange(1, len(ranks) + 1) / ranks))}


def retrieval_metrics(
    query: Labelled, gallery: Labelled, metrics: list, block_size: int = 256
) -> dict[str, float | int]:
    """Mean of each metric over the queries that have a relevant gallery entry, with counts.

    Args:
        query: What is looked up.
        gallery: What it is looked up in.
        metrics: Functions from one query's ``relevant`` array to ``{name: value}``.
        block_size: Queries per matrix product.

    Returns:
        ``{name: mean, ..., "queries": scored, "queries_without_match": left out,
        "gallery": entries}``.

    Raises:
        ConfigError: If no query has a relevant gallery entry.

    Example:
        >>> import numpy as np
        >>> from keras_featx.metrics import Labelled, recall_at_k, retrieval_metrics
        >>> points = Labelled(np.eye(3, dtype="float32"), np.array([0, 1, 2]))
        >>> retrieval_metrics(points, points, [recall_at_k])["recall@1"]
        1.0
    """
    if query.embeddings.shape[1] != gallery.embeddings.shape[1]:
        raise ConfigError(
            f"query and gallery embeddings: expected one size, got {query.embeddings.shape[1]} "
            f"and {gallery.embeddings.shape[1]}"
        )
    sums: dict[str, float] = {}
    scored = 0
    for relevant, _ in rankings(query, gallery, block_size):
        if not relevant.any():
            continue
        scored += 1
        for metric in metrics:
            for name, value in metric(relevant).items():
                sums[name] = sums.get(name, 0.0) + value
    if not scored:
        raise ConfigError(
            f"none of the {len(query.labels)} queries has an image of its identity in the gallery "
            f"({len(gallery.labels)} images): expected query and gallery to share labels"
        )
    return {
        **{name: total / scored for name, total in sums.items()},
        "queries": scored,
        "queries_without_match": len(query.labels) - scored,
        "gallery": len(gallery.labels),
    }
