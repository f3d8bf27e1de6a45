"""Exact search in a gallery: every item is compared.

Codes of int8 only choose candidates: by how much they can be off is known, so that what is found
is exactly what the vectors themselves would give.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_featx.errors import RunError
from keras_featx.gallery.segments import Segment
from keras_featx.search import Candidates
from keras_featx.search_backends import cores, make_backend
from keras_featx.similarities import SIMILARITIES, norms

# Queries and items of a product, of which every core has one at a time: 8 MiB.
_QUERIES, _BLOCK = 512, 4096
# Queries of a block whose candidates are kept together.
_TOGETHER = 128
# Items of a thread at least, where threads share the items.
_SHARE = 4 * _BLOCK
# Candidates of a query, of which codes that tell items apart leave fewer.
_MANY = 1000
_PRODUCT = SIMILARITIES["inner_product"]


class Exact:
    """Compares with all items of a version. Ties go to the item that was added first.

    Args:
        gallery: An opened :class:`~keras_featx.gallery.collection.Gallery`.
    """

    def __init__(self, gallery: Any):
        self.gallery = gallery

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest items.

        Args:
            query: Float32 ``(queries, size)``.
            k: At most as many as there are items.

        Returns:
            Cosines, float32, and numbers of items, uint64, each ``(queries, k)``.
        """
        values, serials = [], []
        for segment, alive in zip(self.gallery.segments, self.gallery.alive, strict=True):
            found, rows = in_segment(query, segment, alive, k, self._norms(segment))
            values.append(found)
            serials.append(segment.serials[rows])
        value, serial = np.concatenate(values, axis=1), np.concatenate(serials, axis=1)
        order = np.argsort(-value, axis=1, kind="stable")[:, :k]  # older segments come first
        return np.take_along_axis(value, order, 1), np.take_along_axis(serial, order, 1)

    def _norms(self, segment: Segment) -> np.ndarray | None:
        """Of all vectors of a segment, computed once; where codes are searched, of no use."""
        if segment.codes is not None:
            return None
        cache, key = self.gallery.index_cache, (segment.folder.name, "norms")
        if key not in cache:
            cache[key] = norms(segment.vectors)
        return cache[key]


class _Some:
    """Some rows of an array on disk, of which only what is asked for is read."""

    def __init__(self, array: np.ndarray, rows: np.ndarray | None, part: slice):
        # A slice of all rows is no copy.
        self.array, self.rows = (array[part], None) if rows is None else (array, rows[part])

    def __getitem__(self, at: Any) -> np.ndarray:
        return self.array[at] if self.rows is None else self.array[self.rows[at]]


def in_segment(
    query: np.ndarray,
    segment: Segment,
    alive: np.ndarray | None,
    k: int,
    lengths: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of one segment that are not removed.

    Threads have queries of their own, or where there are few, items.

    Args:
        query: Float32 ``(queries, size)``.
        segment: To search.
        alive: Rising rows that are not removed; ``None`` for all.
        k: More than there are means all.
        lengths: Norms of all vectors of the segment, where they are known.

    Returns:
        Cosines, float32, and rows, int64, each ``(queries, min(k, items))``, best first.

    Raises:
        RunError: On vectors that are not finite.
    """
    count = len(segment) if alive is None else len(alive)
    k = min(k, count)
    queries = [slice(i, i + _QUERIES) for i in range(0, max(1, len(query)), _QUERIES)]
    shares = max(1, min(-(-cores() // len(queries)), count // _SHARE))
    ends = [count * i // shares for i in range(shares + 1)]
    parts = [slice(*pair) for pair in itertools.pairwise(ends)]
    threads, run = min(cores(), len(queries) * shares), make_backend(None)
    coded = segment.codes is not None

    def search(task: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        some, part = task
        return _in_part(query[some], segment, alive, part, k, lengths, run, coded)

    with run.scope(threads), ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(search, itertools.product(queries, parts)))
    values, rows = [], []
    for i in range(0, len(found), shares):
        pair = found[i : i + shares]
        value, row = (np.concatenate(one, axis=1) for one in zip(*pair, strict=True))
        order = np.argsort(-value, axis=1, kind="stable")[:, :k]  # parts are in the order of rows
        values.append(np.take_along_axis(value, order, 1))
        rows.append(np.take_along_axis(row, order, 1))
    return np.concatenate(values), np.concatenate(rows)


def _in_part(
    query: np.ndarray,
    segment: Segment,
    alive: np.ndarray | None,
    part: slice,
    k: int,
    lengths: np.ndarray | None,
    run: Any,
    coded: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Likewise in some of the rows that are not removed, in one thread."""
    count, size, product = part.stop - part.start, query.shape[1], run.product()
    query_norms = norms(query)
    vectors = _Some(segment.vectors, alive, part)
    right = _Some(segment.codes, alive, part) if coded else vectors
    known = segment.scales if coded else lengths
    factors = None if known is None else _Some(known, alive, part)
    found = [
        Candidates(query[i : i + _TOGETHER], vectors, "inner_product", min(k, count))
        for i in range(0, max(1, len(query)), _TOGETHER)
    ]
    for first in range(0, count, _BLOCK):
        there = slice(first, min(first + _BLOCK, count))
        block = right[there]
        some = norms(block) if factors is None else factors[there]
        most = float(some.max())
        if not np.isfinite(most):
            raise RunError(f"{segment.folder}: damaged: expected finite vectors")
        scores = product(query, _PRODUCT.gallery(block))
        if coded:
            scores = scores * some
            lost, longest = _lost(most, size)
            error = _PRODUCT.error(query_norms, longest, size) + query_norms * lost
        else:
            error = _PRODUCT.error(query_norms, most, size)
        for i, one in enumerate(found):
            ours = slice(i * _TOGETHER, (i + 1) * _TOGETHER)
            one.add(scores[ours], error[ours], first, run)
        # Where codes hardly tell items apart, the vectors are quicker.
        if coded and sum(len(one.owners) for one in found) > len(query) * max(_MANY, 4 * k):
            return _in_part(query, segment, alive, part, k, lengths, run, coded=False)
    ranked = [one.ranked() for one in found]
    value, row = (np.concatenate(one) for one in zip(*ranked, strict=True))
    row = row + part.start
    return value, row if alive is None else alive[row]


def _lost(scale: float, size: int) -> tuple[float, float]:
    """How far a vector lies at most from what its codes stand for, and the norm of that at most.

    A code is off by half a step of at most ``scale``; float16, which decides, by 2^-11 of a number,
    or by 2^-25 where that is small. A number is at most 127 steps.
    """
    root = size**0.5
    return root * (scale * (0.5001 + 127 * 2.0**-11) + 2.0**-25), root * scale * 127.5
