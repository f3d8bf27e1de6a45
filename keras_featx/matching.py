"""Where in its ranking each query finds the entries of its identity, by counting, not sorting.

The rank of an entry is one more than the number of entries that come before it: those of a larger
similarity, and those of the same one in a lower row. Similarities are float64 sums rounded to
float32. A float32 matrix product decides nearly all comparisons; the few that are closer than its
error are decided by the exact values, so ranks do not depend on the sizes of blocks.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from keras_featx.matches import Labelled, Matches, nothing, reordered, stacked
from keras_featx.search import BLOCKS, check_vectors
from keras_featx.similarities import SIMILARITIES

# Pairs whose exact values are computed at a time.
_PAIRS = 8192
# With more entries to place, sorting a query's scores is faster than passing over them for each.
_MANY = 24

Distances = Callable[[np.ndarray, np.ndarray], Callable[[slice], np.ndarray]]


def find_matches(
    query: Labelled,
    gallery: Labelled,
    *,
    leave_one_out: bool = False,
    block_sizes: tuple[int, int] = BLOCKS,
    distances: Distances | None = None,
) -> Matches:
    """Ranks of all entries of each query's identity, by inner product.

    Entries of the query's label are excluded from its ranking where they have its id, its camera
    or, with ``leave_one_out``, its row.

    Args:
        query: What is looked up.
        gallery: What it is looked up in.
        leave_one_out: Query and gallery are one set, row by row.
        block_sizes: Queries and gallery rows of a matrix product; time and memory, not the result.
        distances: What to rank by instead, such as :func:`keras_featx.reranking.k_reciprocal`: from
            both embeddings to a function from a slice of the queries to distances; similarities
            are these with the other sign.

    Raises:
        ValueError: On embeddings that cannot be compared, see :func:`~.search.check_vectors`, and
            on labels, ids, cameras or groups of another number than embeddings.

    Example:
        >>> import numpy as np
        >>> from keras_featx.matches import Labelled
        >>> from keras_featx.matching import find_matches
        >>> points = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], "float32")
        >>> found = find_matches(
        ...     Labelled(points[:1], np.array([7])), Labelled(points, np.array([3, 7, 7]))
        ... )
        >>> found.ranks.tolist(), found.rows.tolist()
        ([2, 3], [1, 2])
    """
    _check(query, gallery, leave_one_out)
    if query.groups is None:
        return _find(query, gallery, leave_one_out, block_sizes, distances)
    parts, order = [], []
    for group in np.unique(query.groups):
        ours, theirs = (np.flatnonzero(x.groups == group) for x in (query, gallery))
        found = nothing(len(ours))
        if len(theirs):
            parted = query.take(ours), gallery.take(theirs)
            found = _find(*parted, leave_one_out, block_sizes, distances)
        parts.append(replace(found, rows=theirs[found.rows]))
        order.append(ours)
    found = stacked(parts)
    return reordered(found, np.argsort(np.concatenate(order or [found.rows])))


def _check(query: Labelled, gallery: Labelled, leave_one_out: bool) -> None:
    for name, part in (("query", query), ("gallery", gallery)):
        for field in ("labels", "ids", "cameras", "groups"):
            values = getattr(part, field)
            if values is not None and np.shape(values) != (len(part.embeddings),):
                raise ValueError(
                    f"{name}: expected {len(part.embeddings)} {field}, one for each embedding, "
                    f"got {' x '.join(map(str, np.shape(values)))}"
                )
    if (query.groups is None) != (gallery.groups is None):
        raise ValueError("groups: expected of both query and gallery, or of neither")
    if leave_one_out and len(query.labels) != len(gallery.labels):
        raise ValueError(
            f"leave_one_out: expected one set as query and gallery, got {len(query.labels)} and "
            f"{len(gallery.labels)} items"
        )
    if leave_one_out and query.groups is not None and (query.groups != gallery.groups).any():
        raise ValueError("leave_one_out: expected the same groups of query and gallery")
    check_vectors(query.embeddings, gallery.embeddings)


def _find(query, gallery, leave_one_out: bool, block_sizes, distances) -> Matches:
    own_rows = np.arange(len(query.labels)) if leave_one_out else None
    by_label = np.argsort(gallery.labels, kind="stable")
    ordered = gallery.labels[by_label]
    source = _products(query, gallery, block_sizes[1])
    if distances is not None:
        source = _given(distances(query.embeddings, gallery.embeddings))
    found = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for part in _slices(len(query.labels), block_sizes[0]):
            block = query.take(part)
            owners, rows = same_label(block.labels, ordered, by_label)
            out = _excluded(block, gallery, owners, rows)
            if own_rows is not None:
                out |= rows == own_rows[part][owners]
            scores = source(part)
            values = scores.of_pairs(owners, rows)
            before = np.zeros(len(owners), "int64")
            starts = np.searchsorted(owners, np.arange(len(block.labels) + 1))
            for first, ours in scores.blocks:
                sure, open_pairs = _counted(pool, ours, starts, values, scores.error)
                before += sure + _decided(scores, owners, rows, values, open_pairs, first)
            one = _ranked(owners, rows, values, before, out, len(block.labels))
            found.append(replace(one, entries=len(gallery.labels) - one.excluded))
    return stacked(found)


class _Scores(NamedTuple):
    """Scores of a block of queries.

    Attributes:
        blocks: Pairs of a first gallery row and float32 scores ``(queries, rows)`` from it on.
        of_pairs: Exact values, float32, of queries of the block and gallery rows.
        error: The most by which a score differs from its value ``(queries,)``.
    """

    blocks: Iterable[tuple[int, np.ndarray]]
    of_pairs: Callable[[np.ndarray, np.ndarray], np.ndarray]
    error: np.ndarray


def _products(query: Labelled, gallery: Labelled, size: int) -> Callable[[slice], _Scores]:
    """Inner products."""
    similarity = SIMILARITIES["inner_product"]
    norms = check_vectors(query.embeddings, gallery.embeddings)
    error = similarity.error(norms[0], norms[1].max(), query.embeddings.shape[1])

    def scores(part: slice) -> _Scores:
        vectors = query.embeddings[part]
        left = similarity.query(vectors)
        blocks = (
            (there.start, left @ similarity.gallery(gallery.embeddings[there]).T)
            for there in _slices(len(gallery.labels), size)
        )

        def of_pairs(owners: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return pair_values(vectors, gallery.embeddings, owners, rows)

        return _Scores(blocks, of_pairs, error[part])

    return scores


def pair_values(query: np.ndarray, gallery: np.ndarray, owners, rows) -> np.ndarray:
    """Exact inner products of query and gallery rows, float32 ``(pairs,)``."""
    values = np.empty(len(owners), "float32")
    for some in _slices(len(owners), _PAIRS):
        pairs = query[owners[some]], gallery[rows[some]]
        values[some] = SIMILARITIES["inner_product"].pairs(*pairs)
    return values


def _given(distances: Callable[[slice], np.ndarray]) -> Callable[[slice], _Scores]:
    def scores(part: slice) -> _Scores:
        found = -distances(part)
        return _Scores([(0, found)], lambda *pairs: found[pairs], np.zeros(len(found)))

    return scores


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def same_label(labels: np.ndarray, ordered: np.ndarray, by_label: np.ndarray):
    """All (query, gallery row) of one label, rows rising within a query."""
    first = np.searchsorted(ordered, labels, "left")
    counts = np.where(labels < 0, 0, np.searchsorted(ordered, labels, "right") - first)
    owners = np.repeat(np.arange(len(labels)), counts)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owners, by_label[first[owners] + place]


def _excluded(block: Labelled, gallery: Labelled, owners: np.ndarray, rows: np.ndarray):
    out = np.zeros(len(owners), bool)
    for name in ("ids", "cameras"):
        own, others = getattr(block, name), getattr(gallery, name)
        if own is not None and others is not None:
            out |= own[owners] == others[rows]
    return out


def _counted(pool, scores: np.ndarray, starts: np.ndarray, values: np.ndarray, error: np.ndarray):
    """Of each pair, how many scores are surely larger, and which are too close to tell."""

    def look(i: int):
        wanted = values[starts[i] : starts[i + 1]].astype("float64")
        if not len(wanted):
            return np.zeros(0, "int64"), []
        row = scores[i]
        # Rounded away from the value, so that whatever is in doubt is between the bounds.
        high = np.nextafter((wanted + error[i]).astype("float32"), np.float32(np.inf))
        low = np.nextafter((wanted - error[i]).astype("float32"), np.float32(-np.inf))
        if len(wanted) > _MANY:
            ordered = np.sort(row)
            sure = len(row) - np.searchsorted(ordered, high, "right")
            close = len(row) - np.searchsorted(ordered, low, "left") - sure
        else:
            sure = np.array([np.count_nonzero(row > bound) for bound in high])
            close = np.array([np.count_nonzero(row >= bound) for bound in low]) - sure
        return sure, [
            (starts[i] + j, np.flatnonzero((row >= low[j]) & (row <= high[j])))
            for j in np.flatnonzero(close)
        ]

    found = list(pool.map(look, range(len(scores)), chunksize=64))
    sure = np.concatenate([counts for counts, _ in found])
    return sure, [pair for _, pairs in found for pair in pairs]


def _decided(scores: _Scores, owners, rows, values, open_pairs, first: int) -> np.ndarray:
    """Of each pair, how many of the scores that were too close come before it."""
    before = np.zeros(len(owners), "int64")
    if not open_pairs:
        return before
    numbers = np.repeat([n for n, _ in open_pairs], [len(columns) for _, columns in open_pairs])
    others = np.concatenate([columns for _, columns in open_pairs]) + first
    different = others != rows[numbers]
    numbers, others = numbers[different], others[different]
    theirs = scores.of_pairs(owners[numbers], others)
    ours = values[numbers]
    ahead = (theirs > ours) | ((theirs == ours) & (others < rows[numbers]))
    np.add.at(before, numbers[ahead], 1)
    return before


def _ranked(owners, rows, values, before, out, count: int) -> Matches:
    """From what comes before each pair to ranks, without the excluded."""
    # Within a query the pairs in the order of the ranking.
    order = np.lexsort((before, owners))
    owners, rows, values = owners[order], rows[order], values[order]
    before, out = before[order], out[order]
    passed = np.cumsum(out) - out  # excluded ones before, of all queries
    starts = np.searchsorted(owners, np.arange(count))
    passed_before_query = np.concatenate([passed, [0]])[np.minimum(starts, len(passed))]
    ranks = before + 1 - (passed - passed_before_query[owners])
    excluded = np.bincount(owners[out], minlength=count)
    kept = ~out
    return Matches(
        np.searchsorted(owners[kept], np.arange(count + 1)),
        ranks[kept],
        rows[kept],
        values[kept],
        np.zeros_like(excluded),
        excluded,
    )
