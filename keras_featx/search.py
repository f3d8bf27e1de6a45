"""Exact nearest neighbours, block by block: of the gallery only the norms are held at once.

A block of scores is one matrix product. Whatever in it may still belong to the ``k`` nearest goes
on as a candidate; that is little, as the k-th best score so far is a threshold. Only candidates
are ranked, by exact values. Threads have blocks of queries each, so that one may multiply while
another looks for candidates.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_featx.search_backends import Backend, cores, make_backend
from keras_featx.similarities import SIMILARITIES, Similarity, norms, pair_values

# Queries and gallery rows of a product: 32 MiB of scores.
BLOCKS = (1024, 8192)
# Likewise, of one thread of several: 8 MiB.
_THREAD_BLOCKS = (512, 4096)
# Queries of a block whose candidates are kept together.
_ROWS = 128
# Scores of a query that give its first threshold.
_FIRST = 1024
# Candidates of a query, besides the k nearest, before they are ranked to make room.
_SPARE = 4096


def nearest(
    query: np.ndarray,
    gallery: np.ndarray,
    k: int,
    metric: str = "inner_product",
    *,
    block_sizes: tuple[int, int] = _THREAD_BLOCKS,
    backend: str | None = None,
    gallery_norms: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` gallery rows nearest to each query, best first.

    Values are float64 sums rounded to float32, and ties of them go to the lowest gallery row: the
    answer depends neither on the sizes of blocks nor on the machine. Where float32 can hardly tell
    entries apart (thousands of near copies), exact values decide, which takes much longer.

    Args:
        query: Float ``(queries, size)``; for ``hamming`` packed bits, uint8 ``(queries, bytes)``
            as of ``np.packbits``. A memory map is read block by block.
        gallery: ``(entries, size)`` likewise.
        k: Neighbours; more than the gallery holds means all of it.
        metric: ``inner_product`` (of unit vectors the cosine), ``cosine``, ``euclidean`` or
            ``hamming``.
        block_sizes: Queries and gallery rows of a matrix product, of which every core has one at a
            time. They change time and memory.
        backend: ``numpy`` or ``tensorflow``; by default TensorFlow where it has a GPU.
        gallery_norms: As of :func:`keras_featx.similarities.norms`, where they are known: a query
            alone then takes a fifth of the time.

    Returns:
        Similarities, or distances in rising order (``euclidean``, and ``hamming`` in bits),
        float32, and gallery rows, int64, each ``(queries, min(k, entries))``.

    Raises:
        ValueError: On shapes that do not fit, an empty gallery, values that are not finite, and
            zero vectors where the metric is the cosine; with the row.

    Example:
        >>> import numpy as np
        >>> from keras_featx.search import nearest
        >>> nearest(np.eye(2), np.array([[1.0, 0.0], [0.6, 0.8]]), k=1)[1].tolist()
        [[0], [1]]
        >>> nearest(np.zeros((1, 2)), np.array([[3.0, 4.0]]), k=1, metric="euclidean")[0].tolist()
        [[5.0]]
    """
    query, gallery = np.asanyarray(query), np.asanyarray(gallery)
    similarity = _checked_metric(metric)
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    if min(block_sizes) < 1:
        raise ValueError(f"block_sizes: expected at least 1, got {block_sizes}")
    query_norms, gallery_norms = check_vectors(query, gallery, metric, gallery_norms)
    k = min(k, len(gallery))
    values = np.empty((len(query), k), "float32")
    rows = np.empty((len(query), k), "int64")
    run = make_backend(backend)

    def search(start: int) -> None:
        """One block of queries."""
        part, product = slice(start, start + block_sizes[0]), run.product()
        block = query[part]
        found = [
            Candidates(block[i : i + _ROWS], gallery, metric, k)
            for i in range(0, len(block), _ROWS)
        ]
        left = similarity.query(block)
        for first in range(0, len(gallery), block_sizes[1]):
            there = slice(first, first + block_sizes[1])
            scores = product(left, similarity.gallery(gallery[there]))
            error = similarity.error(query_norms[part], gallery_norms[there].max(), query.shape[1])
            for i, one in enumerate(found):
                ours = slice(i * _ROWS, (i + 1) * _ROWS)
                one.add(scores[ours], error[ours], first, run)
        for i, one in enumerate(found):
            at = slice(start + i * _ROWS, start + i * _ROWS + len(one.query))
            values[at], rows[at] = one.ranked()

    starts = range(0, len(query), block_sizes[0])
    threads = max(1, min(cores(), len(starts)))
    with run.scope(threads), ThreadPoolExecutor(threads) as pool:
        list(pool.map(search, starts))
    return values, rows


class Candidates:
    """What may be among the ``k`` nearest of a few queries.

    Args:
        query: Their vectors.
        gallery: All of the gallery.
        metric: How they are compared.
        k: Neighbours wanted.
    """

    def __init__(self, query: np.ndarray, gallery: np.ndarray, metric: str, k: int):
        self.query, self.gallery, self.metric, self.k = query, gallery, metric, k
        self.kth = np.full(len(query), -np.inf)  # the k-th best score is not below it
        self.owners = self.rows = np.zeros(0, "int64")
        self.scores = self.errors = np.zeros(0)
        self.kept = 0  # candidates when some were last dropped

    def add(self, scores: Any, error: np.ndarray, first: int, run: Backend) -> None:
        """Look at scores of gallery rows from ``first`` on, which are off by the error at most."""
        sample = max(_FIRST, 4 * self.k)
        if first == 0 and min(sample, scores.shape[1]) >= self.k:
            self.kth = run.kth(scores[:, :sample], self.k) - error
        # Rounded down, so that nothing is lost.
        bound = np.nextafter((self.kth - error).astype("float32"), np.float32(-np.inf))
        owners, rows, found = run.reaching(scores, bound[:, None])
        self.owners = np.concatenate([self.owners, owners])
        self.rows = np.concatenate([self.rows, rows + first])
        self.scores = np.concatenate([self.scores, found])
        self.errors = np.concatenate([self.errors, error[owners]])
        if len(self.owners) > 2 * self.kept:
            self._drop()
        if len(self.owners) > len(self.query) * (self.k + _SPARE):
            self._rank()

    def ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and gallery rows ``(queries, k)``, best first."""
        values = self._rank()
        shape = (len(self.query), self.k)
        return values.reshape(shape), self.rows.reshape(shape)

    def _drop(self) -> None:
        """Drop what the scores rule out by now."""
        least = self.scores - self.errors
        order = np.lexsort((-least, self.owners))
        ends = np.searchsorted(self.owners[order], np.arange(len(self.query) + 1))
        places = ends[:-1] + self.k - 1
        full = places < ends[1:]
        self.kth[full] = np.maximum(self.kth[full], least[order[places[full]]])
        self._take(self.scores + self.errors >= self.kth[self.owners])
        self.kept = len(self.owners)

    def _rank(self) -> np.ndarray:
        """Drop all but the k nearest, and return their values in order."""
        self._drop()
        values = pair_values(self.metric, self.query, self.gallery, self.owners, self.rows)
        near = values if SIMILARITIES[self.metric].is_distance else -values
        order = np.lexsort((self.rows, near, self.owners))
        owners = self.owners[order]
        place = np.arange(len(owners)) - np.searchsorted(owners, np.arange(len(self.query)))[owners]
        order = order[place < self.k]
        self._take(order)
        return values[order]

    def _take(self, kept: np.ndarray) -> None:
        self.owners, self.rows = self.owners[kept], self.rows[kept]
        self.scores, self.errors = self.scores[kept], self.errors[kept]


def check_vectors(
    query: np.ndarray,
    gallery: np.ndarray,
    metric: str = "inner_product",
    gallery_norms: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Refuse what cannot be compared; returns the norms of both, those given as they are.

    Raises:
        ValueError: With what was expected, what came, and the first row of it.
    """
    _checked_metric(metric)
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(
            "query and gallery: expected (rows, size) arrays of one size, "
            f"got {query.shape} and {gallery.shape}"
        )
    if not len(gallery):
        raise ValueError("gallery: expected at least one row, got none")
    found = []
    for name, vectors in (("query", query), ("gallery", gallery)):
        if (metric == "hamming") != (vectors.dtype == np.uint8):
            expected = "uint8, packed bits," if metric == "hamming" else "floats"
            raise ValueError(f"{name}: expected {expected} for {metric}, got {vectors.dtype}")
        known = gallery_norms if name == "gallery" else None
        lengths = norms(vectors) if known is None else known
        if len(lengths) != len(vectors):
            raise ValueError(
                f"gallery_norms: expected {len(vectors)}, one a row, got {len(lengths)}"
            )
        # Squares of float32's largest numbers are no float32.
        for bad, what in (
            (~np.isfinite(lengths), "finite values"),
            (~(lengths < 1e18), "norms below 1e18"),
            ((lengths == 0) & (metric == "cosine"), "no zero vector"),
        ):
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                raise ValueError(
                    f"{name}: expected {what}, got a norm of {lengths[row]:g} in row {row} "
                    f"({int(bad.sum())} such rows)"
                )
        found.append(lengths)
    return found[0], found[1]


def _checked_metric(name: str) -> Similarity:
    if name not in SIMILARITIES:
        raise ValueError(f"metric: expected one of {list(SIMILARITIES)}, got {name!r}")
    return SIMILARITIES[name]
