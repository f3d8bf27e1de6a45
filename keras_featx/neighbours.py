"""The first of each query's ranking, as :mod:`keras_featx.matching` ranks."""

import numpy as np

from keras_featx.counting import slices
from keras_featx.labelled import Labelled
from keras_featx.matching import Distances, excluded, same_label
from keras_featx.search import nearest
from keras_featx.similarities import pair_values

# Queries at a time; with distances, each has a row of all of them.
_QUERIES = 1024
_WITH_DISTANCES = 64


def ranked_neighbours(
    query: Labelled, gallery: Labelled, k: int, distances: Distances | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` first entries of each query's ranking.

    What the ranking excludes (an entry of the query's label and id, or camera) or does not hold
    (another group) is not among them; ties go to the lowest gallery row.

    Args:
        query: What is looked up.
        gallery: What it is looked up in.
        k: Entries of each ranking.
        distances: What to rank by instead of the inner product, see
            :func:`keras_featx.matching.find_matches`.

    Returns:
        Inner products, float32, and gallery rows, int64, each ``(queries, k)``, best first; NaN
        and -1 where a ranking is shorter.

    Example:
        >>> import numpy as np
        >>> from keras_featx.labelled import Labelled
        >>> from keras_featx.neighbours import ranked_neighbours
        >>> points = Labelled(np.eye(3, dtype="float32"), np.arange(3), np.array(["a", "b", "c"]))
        >>> ranked_neighbours(points, points, k=3)[1].tolist()
        [[1, 2, -1], [0, 2, -1], [0, 1, -1]]
    """
    rows = np.full((len(query.labels), k), -1)
    if query.groups is None:
        rows[:] = _first(query, gallery, k, distances)
    else:
        for group in np.unique(query.groups):
            ours, theirs = (np.flatnonzero(x.groups == group) for x in (query, gallery))
            if len(theirs):
                found = _first(query.take(ours), gallery.take(theirs), k, distances)
                rows[ours] = np.where(found < 0, -1, theirs[found])
    owners, places = np.nonzero(rows >= 0)
    values = np.full(rows.shape, np.nan, "float32")
    values[owners, places] = pair_values(
        "inner_product", query.embeddings, gallery.embeddings, owners, rows[owners, places]
    )
    return values, rows


def _first(query: Labelled, gallery: Labelled, k: int, distances: Distances | None) -> np.ndarray:
    by_label = np.argsort(gallery.labels, kind="stable")
    ordered, size = gallery.labels[by_label], len(gallery.labels)
    rank = None if distances is None else distances(query.embeddings, gallery.embeddings)
    rows = np.full((len(query.labels), k), -1)
    for part in slices(len(query.labels), _QUERIES if rank is None else _WITH_DISTANCES):
        block = query.take(part)
        owners, mates = same_label(block.labels, ordered, by_label)
        out = excluded(block, gallery, owners, mates)
        owners, mates = owners[out], mates[out]
        most = k + np.bincount(owners, minlength=1).max()
        if rank is None:
            found = nearest(block.embeddings, gallery.embeddings, most)[1]
        else:
            found = np.argsort(rank(part), axis=1, kind="stable")[:, :most]
        left_out = np.isin(np.arange(len(found))[:, None] * size + found, owners * size + mates)
        first = np.argsort(left_out, axis=1, kind="stable")[:, :k]  # the others, in their order
        kept = np.take_along_axis(found, first, axis=1)
        kept[np.take_along_axis(left_out, first, axis=1)] = -1
        rows[part, : kept.shape[1]] = kept
    return rows
