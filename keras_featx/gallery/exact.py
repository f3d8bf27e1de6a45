"""Exact search in a gallery: every item is compared."""

from typing import Any

import numpy as np

from keras_featx.gallery.segments import Segment
from keras_featx.search import nearest
from keras_featx.similarities import norms

# Of a search in int8, for each neighbour wanted; float16 decides among them.
_CANDIDATES = 4
# Codes that are turned into float32 at a time.
_BLOCK = 16_384


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


def in_segment(
    query: np.ndarray,
    segment: Segment,
    alive: np.ndarray | None,
    k: int,
    lengths: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of one segment that are not removed; ``lengths`` are norms of all."""
    count = len(segment) if alive is None else len(alive)
    if segment.codes is None or _CANDIDATES * k >= count:
        vectors = segment.vectors if alive is None else segment.vectors[alive]
        if lengths is not None and alive is not None:
            lengths = lengths[alive]
        values, rows = nearest(query, vectors, k, gallery_norms=lengths)
        return values, rows if alive is None else alive[rows]
    values = np.empty((len(query), k), "float32")
    rows = np.empty((len(query), k), np.int64)
    for i, some in enumerate(_by_codes(query, segment, alive, _CANDIDATES * k)):
        values[i], best = nearest(query[i : i + 1], segment.vectors[some], k)
        rows[i] = some[best]
    return values, rows


def _by_codes(
    query: np.ndarray, segment: Segment, alive: np.ndarray | None, count: int
) -> np.ndarray:
    """Rising rows ``(queries, count)`` that are nearest by codes."""
    best = np.full((len(query), count), -np.inf, "float32")
    rows = np.zeros((len(query), count), np.int64)
    where = np.arange(len(segment)) if alive is None else alive
    for i in range(0, len(where), _BLOCK):
        some = where[i : i + _BLOCK]
        scores = query @ segment.codes[some].astype("float32").T * segment.scales[some]
        scores = np.concatenate([best, scores], axis=1)
        names = np.concatenate([rows, np.broadcast_to(some, (len(query), len(some)))], axis=1)
        chosen = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        best = np.take_along_axis(scores, chosen, 1)
        rows = np.take_along_axis(names, chosen, 1)
    return np.sort(rows, axis=1)
