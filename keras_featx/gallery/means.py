"""An identity as the mean of its items: one vector to compare with, however many there are."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_featx.gallery.neighbourhoods import Contents, contents
from keras_featx.gallery.opened import Match, Opened
from keras_featx.search import nearest
from keras_featx.similarities import row_blocks

# Items that are looked up at a time.
_ROWS = 2048


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
    """The means of all identities, each scaled to norm 1. Reads all items.

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
    return Means(known.names, counts, _unit(sums_of(known)))


def sums_of(known: Contents) -> np.ndarray:
    """The sums of each identity's items, float64 ``(identities, size)``."""
    sums = np.zeros((len(known.names), known.vectors.shape[1]))
    order = np.argsort(known.labels, kind="stable")
    for part in row_blocks(known.vectors):
        rows = order[part]
        starts = np.flatnonzero(np.diff(known.labels[rows], prepend=-1))
        owners = known.labels[rows[starts]]  # each once: rows are in the order of labels
        sums[owners] += np.add.reduceat(known.vectors[rows].astype("float64"), starts)
    return sums


def _unit(vectors: np.ndarray) -> np.ndarray:
    """In float32, as they are searched."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype("float32")


def own_cosines(known: Contents, sums: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The cosines of some items to the mean of the other items of their identity.

    Args:
        known: All items.
        sums: As of :func:`sums_of`.
        rows: Which are asked for.

    Returns:
        float32 ``(rows,)``; ``-inf`` for the only item of an identity.
    """
    alone = np.bincount(known.labels, minlength=1)[known.labels[rows]] < 2
    found = np.empty(len(rows), "float32")
    for i in range(0, len(rows), _ROWS):
        some = rows[i : i + _ROWS]
        vectors = known.vectors[some].astype("float64")
        rest = _unit(sums[known.labels[some]] - vectors)
        found[i : i + _ROWS] = np.einsum("ij,ij->i", vectors, rest.astype("float64"))
    found[alone] = -np.inf
    return found


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
        Some of ``rows``, their cosines, falling, float32 ``(rows, k)``, and the identities; ties go
        to the first by name. Where there are fewer than ``k``, cosines are ``-inf``.
    """
    sums = sums_of(known)
    means = _unit(sums)
    k = min(k, len(means))
    for i in range(0, len(rows), _ROWS):
        some = rows[i : i + _ROWS]
        labels = known.labels[some][:, None]
        # NumPy: what looks a gallery through does not wait for TensorFlow.
        values, places = nearest(known.vectors[some], means, k + 1, backend="numpy")
        values[places == labels] = -np.inf
        if not others:
            values = np.concatenate([values, own_cosines(known, sums, some)[:, None]], 1)
            places = np.concatenate([places, labels], 1)
        order = np.lexsort((places, -values), axis=1)[:, :k]
        yield some, np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)
