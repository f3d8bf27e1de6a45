"""The nearest items to items of a gallery, among all others, or among those of other identities."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from keras_featx.gallery.opened import Opened
from keras_featx.search_backends import cores

# Queries of a matrix product, and its most results: 128 MiB.
_BLOCK, _RESULTS = 256, 2**25


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
    every = list(gallery.items())
    if not every:
        return Contents([], np.zeros((0, gallery.manifest.size), "float32"), np.zeros(0, int), [])
    identities = np.array([name for items in every for name in items.identities], object)
    names, labels = np.unique(identities, return_inverse=True)
    return Contents(
        [one for items in every for one in items.ids],
        np.concatenate([items.vectors for items in every]),
        labels,
        names.tolist(),
    )


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
        Some of ``rows``, their cosines, falling, float32 ``(rows, k)``, and the items. Where there
        are fewer than ``k``, cosines are ``-inf``.
    """
    k = min(k, max(len(known) - 1, 1))

    def block(some: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores = known.vectors[some] @ known.vectors.T
        if others:
            scores[known.labels[some][:, None] == known.labels[None]] = -np.inf
        else:
            scores[np.arange(len(some)), some] = -np.inf
        places = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
        found = np.take_along_axis(scores, places, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        return some, np.take_along_axis(found, order, 1), np.take_along_axis(places, order, 1)

    size = max(1, min(_BLOCK, _RESULTS // max(len(known), 1)))
    with ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(block, [rows[i : i + size] for i in range(0, len(rows), size)])
