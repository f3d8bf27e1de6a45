"""Where in its ranking each query finds the entries of its identity, by counting, not sorting.

The rank of an entry is one more than the number of entries that come before it: those of a larger
similarity, and those of the same one in a lower row. Similarities are float64 sums rounded to
float32. A float32 matrix product decides nearly all comparisons; the few that are closer than its
error are decided by the exact values, so ranks do not depend on the sizes of blocks.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from keras_featx.counting import ROWS, Block, Scores, count_before, slices
from keras_featx.labelled import Labelled, Matches, nothing, reordered, stacked
from keras_featx.search import BLOCKS, check_vectors
from keras_featx.search_backends import cores, product_function
from keras_featx.similarities import SIMILARITIES, pair_values

# Of NumPy's kinds of types, those that can be equal.
_KINDS = {"i": "numbers", "u": "numbers", "b": "numbers", "U": "names", "O": "names"}

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
        >>> from keras_featx.labelled import Labelled
        >>> from keras_featx.matching import find_matches
        >>> points = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], "float32")
        >>> found = find_matches(
        ...     Labelled(points[:1], np.array([7])), Labelled(points, np.array([3, 7, 7]))
        ... )
        >>> found.ranks.tolist(), found.rows.tolist()
        ([2, 3], [1, 2])
    """
    _check(query, gallery, leave_one_out)
    known = check_vectors(query.embeddings, gallery.embeddings)
    if query.groups is None:
        return _find(query, gallery, known, leave_one_out, block_sizes, distances)
    parts, order = [], []
    for group in np.unique(query.groups):
        ours, theirs = (np.flatnonzero(x.groups == group) for x in (query, gallery))
        found = nothing(len(ours))
        if len(theirs):
            parted = query.take(ours), gallery.take(theirs)
            norms = known[0][ours], known[1][theirs]
            found = _find(*parted, norms, leave_one_out, block_sizes, distances)
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
    if not len(query.labels):
        raise ValueError("query: expected at least one row, got none")
    for field in ("labels", "ids", "cameras", "groups"):
        ours, theirs = (getattr(part, field) for part in (query, gallery))
        if (ours is None) != (theirs is None):
            raise ValueError(f"{field}: expected of both query and gallery, or of neither")
        kinds = [np.asarray(values).dtype.kind for values in (ours, theirs)]
        if ours is not None and len({_KINDS.get(kind, kind) for kind in kinds}) > 1:
            raise ValueError(
                f"{field}: expected of one kind, got {ours.dtype} of the query and {theirs.dtype} "
                "of the gallery"
            )
        if field == "labels" and _KINDS.get(kinds[0]) != "numbers":
            raise ValueError(f"labels: expected whole numbers, got {ours.dtype}")
    if leave_one_out and len(query.labels) != len(gallery.labels):
        raise ValueError(
            f"leave_one_out: expected one set as query and gallery, got {len(query.labels)} and "
            f"{len(gallery.labels)} items"
        )
    if leave_one_out and query.groups is not None and (query.groups != gallery.groups).any():
        raise ValueError("leave_one_out: expected the same groups of query and gallery")


def _find(query, gallery, norms, leave_one_out: bool, block_sizes, distances) -> Matches:
    own_rows = np.arange(len(query.labels)) if leave_one_out else None
    by_label = np.argsort(gallery.labels, kind="stable")
    ordered = gallery.labels[by_label]
    source, size = _inner_products(query, gallery, norms, block_sizes[1]), block_sizes[0]
    if distances is not None:
        source = _given(distances(query.embeddings, gallery.embeddings))
        size = min(size, ROWS)  # a row of all distances for each
    found = []
    with ThreadPoolExecutor(cores()) as pool:
        for part in slices(len(query.labels), size):
            block = query.take(part)
            owners, rows = same_label(block.labels, ordered, by_label)
            out = excluded(block, gallery, owners, rows)
            if own_rows is not None:
                out |= rows == own_rows[part][owners]
            before, values = count_before(pool, source(part), owners, rows, len(block.labels))
            one = _ranked(owners, rows, values, before, out, len(block.labels))
            found.append(replace(one, entries=len(gallery.labels) - one.excluded))
    return stacked(found)


def _inner_products(
    query: Labelled, gallery: Labelled, norms: tuple[np.ndarray, np.ndarray], size: int
) -> Callable[[slice], Scores]:
    similarity, product = SIMILARITIES["inner_product"], product_function()

    def scores(part: slice) -> Scores:
        vectors = query.embeddings[part]
        left = similarity.query(vectors)
        blocks = (
            Block(
                there.start,
                product(left, similarity.gallery(gallery.embeddings[there])),
                similarity.error(norms[0][part], norms[1][there].max(), vectors.shape[1]),
            )
            for there in slices(len(gallery.labels), size)
        )
        return Scores(
            blocks, lambda *pairs: pair_values("inner_product", vectors, gallery.embeddings, *pairs)
        )

    return scores


def _given(distances: Callable[[slice], np.ndarray]) -> Callable[[slice], Scores]:
    def scores(part: slice) -> Scores:
        found = -distances(part)
        return Scores([Block(0, found, np.zeros(len(found)))], lambda *pairs: found[pairs])

    return scores


def same_label(labels: np.ndarray, ordered: np.ndarray, by_label: np.ndarray):
    """All (query, gallery row) of one label, rows rising within a query."""
    first = np.searchsorted(ordered, labels, "left")
    counts = np.where(labels < 0, 0, np.searchsorted(ordered, labels, "right") - first)
    owners = np.repeat(np.arange(len(labels)), counts)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owners, by_label[first[owners] + place]


def excluded(block: Labelled, gallery: Labelled, owners: np.ndarray, rows: np.ndarray):
    """Which pairs of one label are taken out of rankings: those that share an id or a camera."""
    out = np.zeros(len(owners), bool)
    for name in ("ids", "cameras"):
        own, others = getattr(block, name), getattr(gallery, name)
        if own is not None and others is not None:
            out |= own[owners] == others[rows]
    return out


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
