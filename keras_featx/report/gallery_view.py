"""A gallery as its page looks at it: all its items, and how similar they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from keras_featx.gallery.opened import Opened
from keras_featx.gallery.segments import Segment

# Pairs of items that are compared, in some seconds; of more, those of a sample of the items.
MOST_PAIRS = 2**29
# Of the bars of a histogram of cosines.
EDGES = np.arange(-200, 201) / 200
_ROWS, _COLUMNS = 256, 8192


@dataclass(frozen=True, eq=False)
class GalleryView:
    """All items of one version.

    Attributes:
        names: The identities, sorted.
        labels: int64 ``(items,)``: places in ``names``; items stand in the order they were added.
        vectors: ``(items, size)`` as they are kept.
        firsts: The first item of each identity.
        parts: Segments with their rows that are there.
    """

    names: list[str]
    labels: np.ndarray
    vectors: np.ndarray
    firsts: np.ndarray
    parts: list[tuple[Segment, np.ndarray]]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> np.ndarray:
        """Items of each identity, int64 ``(identities,)``."""
        return np.bincount(self.labels, minlength=len(self.names))

    def item(self, place: int) -> tuple[str, dict[str, Any]]:
        """Id and metadata of an item."""
        for segment, rows in self.parts:
            if place < len(rows):
                return segment.id_of(rows[place]), segment.metadata_of(rows[place])
            place -= len(rows)
        raise IndexError(place)


def view_of(gallery: Opened) -> GalleryView:
    """Look at a gallery."""
    names = list(gallery.identities())
    number = {name: i for i, name in enumerate(names)}
    parts, labels, vectors = [], [], []
    for segment, alive in zip(gallery.segments, gallery.alive, strict=True):
        rows = np.arange(len(segment)) if alive is None else alive
        parts.append((segment, rows))
        of_segment = np.array([number.get(name, -1) for name in segment.identities], np.int64)
        labels.append(of_segment[segment.labels[rows]])
        # A segment without removed items stays on disk.
        vectors.append(segment.vectors if alive is None else segment.vectors[alive])
    if not parts:
        labels, vectors = [np.zeros(0, np.int64)], [np.zeros((0, gallery.manifest.size))]
    every = np.concatenate(labels)
    firsts = np.unique(every, return_index=True)[1]
    joined = vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
    return GalleryView(names, every, joined, firsts, parts)


class Spread(NamedTuple):
    """Items by their cosines with others.

    Attributes:
        within: Of each item and all others of its identity, how many in each bar of ``EDGES``.
        own: The highest of these of each item ``(items,)``; -inf where it is the only one.
        other: The highest of each item with one of another identity; -inf where there is none.
        rows: The items that were compared with all.
    """

    within: np.ndarray
    own: np.ndarray
    other: np.ndarray
    rows: np.ndarray


def spread_of(view: GalleryView, most_pairs: int = MOST_PAIRS) -> Spread:
    """Compare items with all others, in float64.

    Args:
        view: With at least one item.
        most_pairs: Of more, a seeded sample of the items is compared.
    """
    count = min(len(view), max(1, most_pairs // len(view)))
    rows = np.arange(len(view))
    if count < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(rows, count, replace=False))
    within = np.zeros(len(EDGES) - 1, np.int64)
    own, other = np.full(count, -np.inf), np.full(count, -np.inf)
    for some in _blocks(count, _ROWS):
        left, labels = view.vectors[rows[some]].astype("float64"), view.labels[rows[some]]
        for columns in _blocks(len(view), _COLUMNS):
            similar = left @ view.vectors[columns].astype("float64").T
            same = labels[:, None] == view.labels[columns]
            own_row = rows[some][:, None] == np.arange(columns.start, columns.stop)
            mates = same & ~own_row
            within += histogram(similar[mates])
            for best, which in ((own, mates), (other, ~same)):
                highest = np.where(which, similar, -np.inf).max(1)
                best[some] = np.maximum(best[some], highest)
    return Spread(within, own, other, rows)


def histogram(cosines: np.ndarray) -> np.ndarray:
    """How many are in each bar of ``EDGES``; -inf is none.

    Vectors in half precision have cosines a little beyond 1; these are in the last bar.
    """
    return np.histogram(np.minimum(cosines, 1), EDGES)[0]


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
