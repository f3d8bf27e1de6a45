"""Items of a gallery compared with each other: the nearest others, and pairs of two identities.

As in an exact search, cosines are float64 sums rounded to float32, whatever the sizes of blocks: a
float32 product tells what is not in question, and the exact values of the rest decide.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from keras_featx.gallery.opened import Opened
from keras_featx.matching import same_label
from keras_featx.search_backends import cores, make_backend
from keras_featx.similarities import SIMILARITIES, norms, pair_values

# Queries of a matrix product, and its most results: 128 MiB.
_BLOCK, _RESULTS = 256, 2**25
# Items of both sides of a product, of all pairs: 16 MiB.
_PAIRS = (512, 8192)
# Items whose scores give a first bound.
_SAMPLE = 4096
_LOWEST = np.finfo("float32").min


@dataclass(frozen=True, eq=False)
class Contents:
    """All items of a gallery in memory.

    Attributes:
        ids: Of each.
        vectors: float32 ``(items, size)``.
        labels: int64 ``(items,)``: places in ``names``.
        names: Of identities.
    """

    ids: list[str]
    vectors: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def contents(gallery: Opened) -> Contents:
    """Read all items of a gallery."""
    vectors = np.empty((len(gallery), gallery.manifest.size), "float32")
    ids: list[str] = []
    identities: list[str] = []
    for items in gallery.items():
        vectors[len(ids) : len(ids) + len(items)] = items.vectors
        ids += items.ids
        identities += items.identities
    names, labels = np.unique(np.array(identities, object), return_inverse=True)
    return Contents(ids, vectors, labels, names.tolist())


def neighbours(
    known: Contents, rows: np.ndarray, k: int, others: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The nearest items of some items, a block of them at a time.

    Args:
        known: All items.
        rows: int64: which are looked up.
        k: Neighbours, fewer where there are not so many.
        others: Among items of other identities only; else among all but itself.

    Yields:
        Some of ``rows``, their cosines, falling, float32 ``(rows, k)``, and the items; ties go to
        the item that was added first. Where there are fewer than ``k``, cosines are ``-inf``.
    """
    k = min(k, max(len(known) - 1, 1))
    error = _error(known)
    by_label = np.argsort(known.labels, kind="stable")
    ordered = known.labels[by_label]

    def block(some: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores = known.vectors[some] @ known.vectors.T
        if others:
            scores[same_label(known.labels[some], ordered, by_label)] = -np.inf
        else:
            scores[np.arange(len(some)), some] = -np.inf
        # What is below the k-th of some items is not of the k nearest; what is left out is -inf.
        least = np.maximum(_below(_kth(scores, k) - 2 * error), _LOWEST)
        owners, places = np.nonzero(scores >= least[:, None])
        exact = pair_values("inner_product", known.vectors, known.vectors, some[owners], places)
        order = np.lexsort((places, -exact, owners))
        owners = owners[order]
        rank = np.arange(len(owners)) - np.searchsorted(owners, np.arange(len(some)))[owners]
        first = rank < k
        values = np.full((len(some), k), -np.inf, "float32")
        found = np.zeros((len(some), k), np.int64)
        values[owners[first], rank[first]] = exact[order[first]]
        found[owners[first], rank[first]] = places[order[first]]
        return some, values, found

    size = max(1, min(_BLOCK, _RESULTS // max(len(known), 1)))
    yield from _in_threads(block, [rows[i : i + size] for i in range(0, len(rows), size)])


def _kth(scores: np.ndarray, k: int) -> np.ndarray:
    """Of each row a score that at least ``k`` reach: the k-th of a part, where that has so many."""
    part = scores[:, :: max(1, scores.shape[1] // _SAMPLE)]
    if part.shape[1] >= k:
        found = np.partition(part, -k, axis=1)[:, -k]
        if (found > -np.inf).all():
            return found
    return np.partition(scores, -k, axis=1)[:, -k]


def pairs_across(
    known: Contents, least: float, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The most similar pairs of items of two identities.

    Args:
        known: All items.
        least: Cosine from which on a pair is one.
        most: Pairs that are wanted.

    Returns:
        Both items of each, the earlier one first; their cosines, float32, falling (ties: the
        earliest items first); and how many pairs there are.
    """
    least, error = np.float64(least), _error(known)
    low, high = _below(least - error), -_below(-least - error)

    def block(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        best, count = (np.zeros(0, int), np.zeros(0, int), np.zeros(0, "float32")), 0
        left = slice(start, start + _PAIRS[0])
        for other in range(start, len(known), _PAIRS[1]):
            right = slice(other, other + _PAIRS[1])
            scores = known.vectors[left] @ known.vectors[right].T
            scores[known.labels[left][:, None] == known.labels[right]] = -np.inf
            if other == start:
                scores[np.tril_indices(len(scores), 0, scores.shape[1])] = -np.inf
            sure = scores > high
            unsure = _exact(known, start, other, np.nonzero((scores >= low) & ~sure))
            count += int(sure.sum()) + int((unsure[2] >= least).sum())
            worst = best[2][-1] if len(best[2]) == most else -np.inf
            chosen = np.nonzero(scores >= _below(max(least, worst) - error))
            if len(chosen[0]) > most:
                near = scores[chosen]
                kept = near >= _below(np.partition(near, -most)[-most] - 2 * error)
                chosen = chosen[0][kept], chosen[1][kept]
            best = _first_pairs([best, _exact(known, start, other, chosen)], least, most)
        return *best, count

    found = list(_in_threads(block, range(0, len(known), _PAIRS[0])))
    none = (np.zeros(0, int), np.zeros(0, int), np.zeros(0, "float32"))
    best = _first_pairs([none, *(one[:3] for one in found)], least, most)
    return *best, sum(one[3] for one in found)


def _exact(known: Contents, start: int, other: int, pairs) -> tuple[np.ndarray, ...]:
    one, two = pairs[0] + start, pairs[1] + other
    return one, two, pair_values("inner_product", known.vectors, known.vectors, one, two)


def _first_pairs(parts: Sequence[tuple], least: float, most: int) -> tuple[np.ndarray, ...]:
    one, two, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((two, one, -values))
    order = order[values[order] >= least][:most]
    return one[order], two[order], values[order]


def _error(known: Contents) -> float:
    """The most by which a product's score and the rounded value put two pairs in another order."""
    longest = norms(known.vectors).max(initial=0)
    bound = SIMILARITIES["inner_product"].error(
        np.array([longest]), longest, known.vectors.shape[1]
    )
    return float(bound[0])


def _below(bound: float | np.ndarray) -> np.ndarray:
    """In float32, rounded down."""
    return np.nextafter(np.asarray(bound, "float32"), np.float32(-np.inf))


def _in_threads(block: Callable, parts: Sequence) -> Iterator:
    """Blocks in their order, of which every core has one at a time."""
    threads = max(1, min(cores(), len(parts)))
    with make_backend("numpy").scope(threads), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(block, parts)
