"""An identity as the mean of its items: one vector to compare with, however many there are."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_featx.gallery.neighbourhoods import Contents, contents
from keras_featx.gallery.opened import Match, Opened
from keras_featx.search import nearest

_RESULTS = 2**24


@dataclass(frozen=True, eq=False)
class Means:
    """The means of a version's identities.

    Attributes:
        names: Of identities.
        counts: Items of each.
        vectors: float32 ``(identities, size)``, unit norm.
    """

    names: list[str]
    counts: list[int]
    vectors: np.ndarray

    def search(self, query: np.ndarray, k: int) -> list[list[Match]]:
        """The ``k`` identities whose mean is nearest to each query, best first.

        The ``id`` of a match is the identity, its metadata says how many items were averaged.
        """
        if not self.names or not len(query):
            return [[] for _ in query]
        values, rows = nearest(np.asarray(query, "float32"), self.vectors, k)
        return [
            [
                Match(self.names[row], self.names[row], value, {"items": self.counts[row]})
                for row, value in zip(*pair, strict=True)
            ]
            for pair in zip(rows.tolist(), values.tolist(), strict=True)
        ]


def identity_means(gallery: Opened) -> Means:
    """The means of all identities, each scaled to norm 1.

    Example:
        >>> import numpy as np
        >>> from keras_featx import Gallery
        >>> from keras_featx.gallery.means import identity_means
        >>> shelf = Gallery.create("output/example_means", "0" * 64, size=2, overwrite=True)
        >>> shelf.add(["a.jpg", "b.jpg"], ["ant", "ant"], np.eye(2))
        2
        >>> identity_means(shelf).vectors.round(4).tolist()
        [[0.707099974155426, 0.707099974155426]]
    """
    known = contents(gallery)
    counts = np.bincount(known.labels, minlength=len(known.names)).tolist()
    return Means(known.names, counts, _unit(sums_of(known)).astype("float32"))


def sums_of(known: Contents) -> np.ndarray:
    """float64 ``(identities, size)``."""
    order = np.argsort(known.labels, kind="stable")
    if not len(order):
        return np.zeros((0, known.vectors.shape[1]))
    starts = np.flatnonzero(np.diff(known.labels[order], prepend=-1))
    return np.add.reduceat(known.vectors[order].astype("float64"), starts)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def mean_neighbours(
    known: Contents, rows: np.ndarray, k: int, others: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The identities whose means are nearest to some items; an item is in no mean of its own.

    Args:
        known: All items.
        rows: int64: which are looked up.
        k: Identities, fewer where there are not so many.
        others: Leave out the item's own identity.

    Yields:
        Some of ``rows``, their cosines, falling, float64 ``(rows, k)``, and the identities. Where
        there are fewer than ``k``, cosines are ``-inf``.
    """
    sums = sums_of(known)
    means, counts = _unit(sums), np.bincount(known.labels)
    k = min(k, len(means))
    size = max(1, _RESULTS // max(len(means), 1))
    for i in range(0, len(rows), size):
        some = rows[i : i + size]
        labels, vectors = known.labels[some], known.vectors[some].astype("float64")
        scores = vectors @ means.T
        own = np.full(len(some), -np.inf)
        if not others:
            rest = (vectors * _unit(sums[labels] - vectors)).sum(1)
            own = np.where(counts[labels] > 1, rest, -np.inf)
        scores[np.arange(len(some)), labels] = own
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        yield some, np.take_along_axis(scores, order, 1), order
