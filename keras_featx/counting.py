"""How many gallery entries come before an entry in a query's ranking, without sorting.

Those of a larger value come before it, and those of the same one in a lower row. Scores decide
nearly all comparisons; what is closer than their error is decided by exact values, block by block.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

# With more entries to place, sorting a query's scores is faster than passing over them for each.
_MANY = 16
# Queries that one thread looks at, at a time.
ROWS = 64


class Block(NamedTuple):
    """Scores of a block of queries in a block of the gallery.

    Attributes:
        first: Its first gallery row.
        scores: float32 ``(queries, rows)``; may be gone when the next block is asked for.
        error: The most by which a score differs from its value ``(queries,)``.
    """

    first: int
    scores: np.ndarray
    error: np.ndarray


class Scores(NamedTuple):
    """Scores of a block of queries.

    Attributes:
        blocks: Of the gallery, one after the other.
        of_pairs: Exact values, float32, of queries of the block and gallery rows.
    """

    blocks: Iterable[Block]
    of_pairs: Callable[[np.ndarray, np.ndarray], np.ndarray]


def slices(count: int, size: int) -> Iterator[slice]:
    """Parts of ``count`` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def count_before(
    pool: Executor, scores: Scores, owners, rows, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair, how many gallery entries come before it; and its value."""
    values = scores.of_pairs(owners, rows)
    before = np.zeros(len(owners), "int64")
    starts = np.searchsorted(owners, np.arange(count + 1))
    chunks = list(slices(count, ROWS))

    for block in scores.blocks:

        def look(chunk: slice, block=block) -> np.ndarray:
            return _counted_in(block, scores.of_pairs, chunk, starts, rows, values)

        found = np.concatenate(list(pool.map(look, chunks)))
        before += found
    return before, values


def _counted_in(block: Block, of_pairs, chunk: slice, starts, rows, values) -> np.ndarray:
    """What comes before the pairs of some queries, of one block of the gallery."""
    queries = range(chunk.start, chunk.stop)
    bounds = [_bounds(block, i, values[starts[i] : starts[i + 1]]) for i in queries]
    doubtful = [
        _doubtful(block.scores[i], low, high)
        for i, (low, high) in zip(queries, bounds, strict=True)
    ]
    sizes = [len(columns) for columns in doubtful]
    exact = of_pairs(
        np.repeat(np.arange(chunk.start, chunk.stop), sizes),
        np.concatenate(doubtful) + block.first,
    )
    found, end = [], 0
    for i, (_, high), columns in zip(queries, bounds, doubtful, strict=True):
        own = slice(starts[i], starts[i + 1])
        ours, end = exact[end : end + len(columns)], end + len(columns)
        row = block.scores[i]
        # All that are surely before, less those in doubt among them, which are counted exactly.
        sure = _number_above(row, high) - _number_above(row[columns], high)
        there = columns + block.first
        found.append(sure + _number_before(ours, there, values[own], rows[own]))
    return np.concatenate(found)


def _bounds(block: Block, i: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores below and above which there is no doubt, rounded away from the values."""
    wide = values.astype("float64")
    low, high = wide - block.error[i], wide + block.error[i]
    return (
        np.nextafter(low.astype("float32"), np.float32(-np.inf)),
        np.nextafter(high.astype("float32"), np.float32(np.inf)),
    )


def _doubtful(row: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Columns of scores within any of the bounds, rising."""
    if len(low) <= _MANY:
        mask = np.zeros(len(row), bool)
        for least, most in zip(low, high, strict=True):
            mask |= (row >= least) & (row <= most)
        return np.flatnonzero(mask)
    order = np.argsort(row)
    ordered = row[order]
    marks = np.zeros(len(row) + 1, "int64")
    np.add.at(marks, np.searchsorted(ordered, low, "left"), 1)
    np.add.at(marks, np.searchsorted(ordered, high, "right"), -1)
    return np.sort(order[np.cumsum(marks[:-1]) > 0])


def _number_above(scores: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    if len(bounds) <= _MANY:
        return np.array([np.count_nonzero(scores > bound) for bound in bounds], "int64")
    return len(scores) - np.searchsorted(np.sort(scores), bounds, "right")


def _number_before(values, rows, ours: np.ndarray, own_rows: np.ndarray) -> np.ndarray:
    """How many come before each of ours: of a larger value, or the same one in a lower row."""
    order = np.lexsort((rows, -values))
    falling, rows = -values[order], rows[order]
    first = np.searchsorted(falling, -ours, "left")
    last = np.searchsorted(falling, -ours, "right")
    lower = [
        np.searchsorted(rows[a:b], row) for a, b, row in zip(first, last, own_rows, strict=True)
    ]
    return first + np.array(lower, "int64")
