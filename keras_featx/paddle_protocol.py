"""The figures PaddleClas prints, quirks included, to compare with its published tables.

What differs from :mod:`keras_featx.metrics`: queries come in blocks, and the mean of a block is
over those with a match but counts by the block's length; entries of the query's label and id stay
in the ranking, with similarity 0; precision counts queries without a match as 0; mINP divides by
one less than the rank of the last match, so it may be above 1 or infinite, which here is left out.
A block without any match makes its mean NaN there; here it is left out.
"""

import numpy as np

from keras_featx.labelled import Labelled

BLOCK = 64


def paddle_figures(
    query: Labelled,
    gallery: Labelled,
    *,
    topk: tuple[int, ...] = (1, 5),
    block_size: int = BLOCK,
) -> dict[str, float]:
    """PaddleClas' Recallk, mAP, mINP and Precisionk.

    Its sort is not stable: with equal similarities no one can give its figures exactly. Here ties
    go to the lowest gallery row.

    Args:
        query: What is looked up.
        gallery: What it is looked up in.
        topk: The values of k.
        block_size: ``Global.sim_block_size`` there, 64 by default.

    Returns:
        ``{"paddle/recall1": ..., "paddle/precision@1": ..., "paddle/mAP": ..., "paddle/mINP":
        ...}``; figures without any value are left out.

    Raises:
        ValueError: If there are groups.

    Example:
        >>> import numpy as np
        >>> from keras_featx.labelled import Labelled
        >>> from keras_featx.paddle_protocol import paddle_figures
        >>> points = Labelled(np.eye(2, dtype="float32"), np.array([0, 1]))
        >>> paddle_figures(points, points, topk=(1,))
        {'paddle/recall1': 1.0, 'paddle/precision@1': 1.0, 'paddle/mAP': 1.0}
    """
    if query.groups is not None or gallery.groups is not None:
        raise ValueError("groups: expected none, as PaddleClas has none")
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    right = gallery.embeddings.T.astype("float64")
    for start in range(0, len(query.labels), block_size):
        block = query.take(slice(start, start + block_size))
        similar = (block.embeddings.astype("float64") @ right).astype("float32")
        relevant = _relevant(similar, block, gallery)
        for name, values in _values(relevant, topk).items():
            finite = values[np.isfinite(values)]
            if len(finite):
                sums[name] = sums.get(name, 0.0) + finite.mean() * len(relevant)
                weights[name] = weights.get(name, 0.0) + len(relevant)
    return {f"paddle/{name}": float(total / weights[name]) for name, total in sums.items()}


def _relevant(similar: np.ndarray, block: Labelled, gallery: Labelled) -> np.ndarray:
    """Whether each entry of the rankings counts, ``(queries, entries)``."""
    matching = block.labels[:, None] == gallery.labels
    if block.ids is not None and gallery.ids is not None:
        kept = ~(matching & (block.ids[:, None] == gallery.ids))
        similar, matching = similar * kept, matching & kept
    order = np.argsort(-similar, axis=1, kind="stable")
    return np.take_along_axis(matching, order, 1)


def _values(relevant: np.ndarray, topk: tuple[int, ...]) -> dict[str, np.ndarray]:
    found = {}
    scored = relevant[relevant.any(1)]
    for k in topk:
        found[f"recall{k}"] = scored[:, :k].any(1).astype("float64")
        found[f"precision@{k}"] = relevant[:, :k].sum(1) / k
    hits = np.cumsum(scored, 1)
    totals = hits[:, -1:].ravel()
    precision = hits / np.arange(1, scored.shape[1] + 1)
    found["mAP"] = (precision * scored).sum(1) / totals
    last = scored.shape[1] - 1 - np.argmax(scored[:, ::-1], 1)  # counted from 0
    found["mINP"] = np.divide(totals, last, out=np.full(len(totals), np.inf), where=last > 0)
    return found
