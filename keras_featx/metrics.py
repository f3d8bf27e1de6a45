"""Retrieval metrics, each a function of the ranks of a query's relevant entries. NumPy only.

An entry is *relevant* when it carries the query's label. With the relevant entries of a query at
ranks ``r_1 < ... < r_R`` of ``n`` (from 1; ties in similarity go to the lowest gallery row;
excluded entries have no rank), the formulas are those of the functions below. Each returns
``{name: float64 (queries,)}``; the figure of a set is the mean. Queries without a relevant entry
have no value and are not passed to them.
"""

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.labelled import Matches


def recall_at_k(matches: Matches, *, topk: tuple[int, ...] = (1, 5)) -> dict[str, np.ndarray]:
    """Recall@k, the CMC curve: 1 if ``r_1 <= k``, else 0.

    Args:
        matches: Of queries with at least one relevant entry each.
        topk: The values of k; k beyond the gallery means the whole gallery.

    Example:
        >>> import numpy as np
        >>> from keras_featx.metrics import from_relevant, recall_at_k
        >>> recall_at_k(from_relevant([[False, True, False]]), topk=(1, 5))
        {'recall@1': array([0.]), 'recall@5': array([1.])}
    """
    first = matches.ranks[matches.starts[:-1]]
    return {f"recall@{k}": (first <= k).astype("float64") for k in _checked(topk)}


def precision_at_k(matches: Matches, *, topk: tuple[int, ...] = (1, 5)) -> dict[str, np.ndarray]:
    """Precision@k: the number of ``r_i <= k``, divided by k.

    Below 1 whatever the ranking where a query has fewer than k relevant entries.

    Args:
        matches: As of :func:`recall_at_k`.
        topk: The values of k.

    Example:
        >>> from keras_featx.metrics import from_relevant, precision_at_k
        >>> precision_at_k(from_relevant([[True, False, True, True]]), topk=(2, 4))
        {'precision@2': array([0.5]), 'precision@4': array([0.75])}
    """
    return {f"precision@{k}": _sums(matches, matches.ranks <= k) / k for k in _checked(topk)}


def mean_average_precision(matches: Matches) -> dict[str, np.ndarray]:
    """Average precision: the mean of ``i / r_i``; its mean over queries is mAP.

    Args:
        matches: As of :func:`recall_at_k`.

    Example:
        >>> from keras_featx.metrics import from_relevant, mean_average_precision
        >>> mean_average_precision(from_relevant([[True, False, True]]))["map"].round(4)
        array([0.8333])
    """
    return {"map": _sums(matches, _numbers(matches) / matches.ranks) / matches.counts}


def map_at_k(matches: Matches, *, topk: tuple[int, ...] = (10,)) -> dict[str, np.ndarray]:
    """Average precision at k: the sum of ``i / r_i`` for ``r_i <= k``, over ``min(R, k)``.

    Args:
        matches: As of :func:`recall_at_k`.
        topk: The values of k.

    Example:
        >>> from keras_featx.metrics import from_relevant, map_at_k
        >>> map_at_k(from_relevant([[True, False, True]]), topk=(2,))
        {'map@2': array([0.5])}
    """
    precision = _numbers(matches) / matches.ranks
    return {
        f"map@{k}": _sums(matches, precision * (matches.ranks <= k)) / np.minimum(matches.counts, k)
        for k in _checked(topk)
    }


def map_at_r(matches: Matches) -> dict[str, np.ndarray]:
    """mAP@R (arXiv:2003.08505): the sum of ``i / r_i`` for ``r_i <= R``, over R.

    Args:
        matches: As of :func:`recall_at_k`.

    Example:
        >>> from keras_featx.metrics import from_relevant, map_at_r
        >>> map_at_r(from_relevant([[True, False, True, False]]))
        {'map@r': array([0.5])}
    """
    precision = _numbers(matches) / matches.ranks
    return {"map@r": _sums(matches, precision * _within_r(matches)) / matches.counts}


def r_precision(matches: Matches) -> dict[str, np.ndarray]:
    """R-precision: the number of ``r_i <= R``, divided by R.

    Args:
        matches: As of :func:`recall_at_k`.

    Example:
        >>> from keras_featx.metrics import from_relevant, r_precision
        >>> r_precision(from_relevant([[False, True, True, False]]))
        {'r_precision': array([0.5])}
    """
    return {"r_precision": _sums(matches, _within_r(matches)) / matches.counts}


def mean_reciprocal_rank(matches: Matches) -> dict[str, np.ndarray]:
    """Reciprocal rank: ``1 / r_1``; its mean over queries is MRR.

    Args:
        matches: As of :func:`recall_at_k`.

    Example:
        >>> from keras_featx.metrics import from_relevant, mean_reciprocal_rank
        >>> mean_reciprocal_rank(from_relevant([[False, True]]))
        {'mrr': array([0.5])}
    """
    return {"mrr": 1 / matches.ranks[matches.starts[:-1]]}


def mean_inverse_negative_penalty(matches: Matches) -> dict[str, np.ndarray]:
    """Inverse negative penalty: ``R / r_R``; its mean over queries is mINP (arXiv:2001.04193).

    Args:
        matches: As of :func:`recall_at_k`.

    Example:
        >>> from keras_featx.metrics import from_relevant, mean_inverse_negative_penalty
        >>> mean_inverse_negative_penalty(from_relevant([[True, False, False, True]]))
        {'minp': array([0.5])}
    """
    return {"minp": matches.counts / matches.ranks[matches.starts[1:] - 1]}


def ndcg_at_k(matches: Matches, *, topk: tuple[int, ...] = (10,)) -> dict[str, np.ndarray]:
    """NDCG@k: the sum of ``1 / log2(r_i + 1)`` for ``r_i <= k``, over what ranks 1, 2, ... give.

    Args:
        matches: As of :func:`recall_at_k`.
        topk: The values of k.

    Example:
        >>> from keras_featx.metrics import from_relevant, ndcg_at_k
        >>> ndcg_at_k(from_relevant([[False, True]]), topk=(2,))["ndcg@2"].round(4)
        array([0.6309])
    """
    gains = 1 / np.log2(matches.ranks + 1.0)
    ideal = np.cumsum(1 / np.log2(np.arange(matches.counts.max(initial=1)) + 2.0))
    found = {}
    for k in _checked(topk):
        gain = _sums(matches, gains * (matches.ranks <= k))
        # Sums in two orders may differ in their last digit.
        found[f"ndcg@{k}"] = np.minimum(gain / ideal[np.minimum(matches.counts, k) - 1], 1.0)
    return found


def from_relevant(rankings: list) -> Matches:
    """Matches of rankings given as one list of bool each: is the entry relevant?

    Example:
        >>> from keras_featx.metrics import from_relevant
        >>> from_relevant([[True, False, True], [False, True]]).ranks.tolist()
        [1, 3, 2]
    """
    found = [np.flatnonzero(np.asarray(ranking, bool)) for ranking in rankings]
    rows = np.concatenate([np.zeros(0, "int64"), *found])
    sizes = np.array([len(ranking) for ranking in rankings], "int64")
    starts = np.cumsum([0, *map(len, found)])
    return Matches(starts, rows + 1, rows, -rows.astype("float32"), sizes, np.zeros_like(sizes))


def _numbers(matches: Matches) -> np.ndarray:
    """The i of each r_i."""
    return np.arange(len(matches.ranks)) - np.repeat(matches.starts[:-1], matches.counts) + 1


def _sums(matches: Matches, values: np.ndarray) -> np.ndarray:
    """Of each query, in float64; no query is without a relevant entry."""
    return np.add.reduceat(values.astype("float64"), matches.starts[:-1])


def _within_r(matches: Matches) -> np.ndarray:
    """Whether each ``r_i <= R``."""
    return matches.ranks <= np.repeat(matches.counts, matches.counts)


def _checked(topk: tuple[int, ...]) -> tuple[int, ...]:
    if not topk or min(topk) < 1:
        raise ConfigError(f"topk: expected numbers of at least 1, got {list(topk)}")
    return tuple(topk)
