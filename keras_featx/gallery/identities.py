"""What looks wrong in a gallery: outliers, near-duplicates, and identities that look like one.

All items are in memory at once, in float32, and results of comparing them a block at a time.
"""

import logging
import math
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.gallery.means import mean_neighbours, own_cosines, sums_of
from keras_featx.gallery.neighbourhoods import Contents, contents, pairs_across
from keras_featx.gallery.opened import Opened
from keras_featx.search import nearest
from keras_featx.similarities import norms

# Spread of a normal distribution by its median absolute deviation.
_SIGMA = 1.4826
# Items of an identity that tell which of them is unlike the others.
_FEWEST = 3
# Of cosines: copies differ by less, and are no outliers for that.
_LEAST_SPREAD = 0.01

log = logging.getLogger(__name__)


def outliers(gallery: Opened, most: int = 50) -> list[dict[str, Any]]:
    """Items that are unlike the others of their identity.

    An item's similarity to its own is the cosine to the mean of the other items of its identity. It
    is an outlier where the mean of another identity is nearer, or where its similarity is below the
    median of its identity by more than three times the spread (1.4826 times the median absolute
    deviation, at least 0.01). Identities with fewer than 3 items are left alone, as nothing tells
    which of two is the wrong one; the log tells how many items that are.

    Args:
        gallery: Whose items are compared, all with the means of all identities.
        most: Of them, at most; the log tells how many there are.

    Returns:
        ``{"id", "identity", "similarity", "spreads": below the median, "nearer": another identity
        or None, "nearer_similarity"}`` each; first those with a nearer identity, by how much nearer
        it is, then the others by spreads.
    """
    _check_most(most)
    known = contents(gallery)
    if not len(known):
        return []
    every = np.arange(len(known))
    own = own_cosines(known, sums_of(known), every).astype("float64")
    spreads = _spreads(known.labels, own)
    near, other = np.full(len(known), -np.inf), np.zeros(len(known), np.int64)
    if len(known.names) > 1:
        for rows, values, labels in mean_neighbours(known, every, 1, others=True):
            near[rows], other[rows] = values[:, 0], labels[:, 0]
    asked = np.bincount(known.labels)[known.labels] >= _FEWEST
    nearer = near > own
    found = np.flatnonzero(asked & (nearer | (spreads > 3)))
    rank = np.where(nearer[found], own[found] - near[found], -spreads[found])
    found = found[np.lexsort((found, rank, ~nearer[found]))]
    _tell("outliers", len(found), most)
    if not asked.all():
        log.info("outliers: %d items of small identities were left alone", (~asked).sum())
    return [
        {
            "id": known.ids[row],
            "identity": known.names[known.labels[row]],
            "similarity": float(own[row]),
            "spreads": float(spreads[row]),
            "nearer": known.names[other[row]] if nearer[row] else None,
            "nearer_similarity": float(near[row]) if nearer[row] else None,
        }
        for row in found[:most].tolist()
    ]


def _spreads(labels: np.ndarray, own: np.ndarray) -> np.ndarray:
    """By how many spreads of its identity each similarity is below the median of it."""
    found = np.zeros(len(own))
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(labels))[:-1]):
        if len(rows) >= _FEWEST:
            below = np.median(own[rows]) - own[rows]
            found[rows] = below / max(_SIGMA * np.median(np.abs(below)), _LEAST_SPREAD)
    return found


def near_duplicates(
    gallery: Opened, similarity: float = 0.95, most: int = 50
) -> list[dict[str, Any]]:
    """Items of one identity that look like an item of another: perhaps one image, filed twice.

    All pairs are compared: a minute for 100,000 items of 256 numbers on two cores, four times that
    for twice as many.

    Args:
        gallery: Each item is compared with all of other identities.
        similarity: Cosine from which on a pair is one.
        most: Pairs, at most; the log tells how many there are.

    Returns:
        ``{"id", "identity", "other_id", "other_identity", "similarity"}`` each, the most similar
        first, each pair once, first what was added first.
    """
    if not -1 <= similarity <= 1:
        raise ConfigError(f"similarity: expected a cosine, got {similarity}")
    _check_most(most)
    known = contents(gallery)
    one, two, values, count = pairs_across(known, similarity, most)
    _tell("near-duplicates", count, most)
    return [
        {
            "id": known.ids[a],
            "identity": known.names[known.labels[a]],
            "other_id": known.ids[b],
            "other_identity": known.names[known.labels[b]],
            "similarity": value,
        }
        for a, b, value in zip(one.tolist(), two.tolist(), values.tolist(), strict=True)
    ]


def merges(gallery: Opened, threshold: float | None = None, most: int = 50) -> list[dict[str, Any]]:
    """Pairs of identities that look like one.

    The mean cosine of all pairs of items between two identities is compared with that of pairs
    within each. A pair of identities is suggested where each is the other's nearest by the mean
    between them (ties: the first by name), and that reaches the lower one of the two within them.
    Within an identity of one item there is no pair: the other one's counts, and for two of them the
    median of all identities.

    Args:
        gallery: Whose identities are compared, all with all.
        threshold: What the mean between two is to reach, in place of those within them.
        most: Pairs, at most; the log tells how many there are.

    Returns:
        ``{"identity", "other_identity", "between", "within": None for one item, "other_within",
        "items", "other_items"}`` each, by ``between`` less what it is to reach, the largest first.
    """
    _check_most(most)
    known = contents(gallery)
    if len(known.names) < 2:
        return []
    counts = np.bincount(known.labels)
    averages = sums_of(known) / counts[:, None]
    within = _within(known, averages, counts)
    one, two, between = _mutual(averages)
    level = np.fmin(within[one], within[two])
    if counts.max() > 1:
        level = np.where(np.isnan(level), np.nanmedian(within), level)
    if threshold is not None:
        level = np.full(len(one), float(threshold))
    over = between - level  # NaN where no identity has two items
    found = np.flatnonzero(over >= 0)
    found = found[np.argsort(-over[found], kind="stable")]
    _tell("merges", len(found), most)
    shown = [None if math.isnan(value) else value for value in within.tolist()]
    return [
        {
            "identity": known.names[a],
            "other_identity": known.names[b],
            "between": value,
            "within": shown[a],
            "other_within": shown[b],
            "items": int(counts[a]),
            "other_items": int(counts[b]),
        }
        for a, b, value in zip(
            *(column[found[:most]].tolist() for column in (one, two, between)), strict=True
        )
    ]


def _within(known: Contents, averages: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean cosine of two items of each identity; NaN for one with a single item."""
    squares = np.bincount(known.labels, norms(known.vectors) ** 2)
    pairs = counts * (counts - 1.0)
    sums = (counts[:, None] * averages) ** 2
    return np.divide(
        sums.sum(1) - squares, pairs, out=np.full(len(counts), np.nan), where=pairs > 0
    )


def _mutual(averages: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of rows, each the nearest of the other, and their products."""
    vectors = averages.astype("float32")
    places = nearest(vectors, vectors, 2, backend="numpy")[1]
    rows = np.arange(len(averages))
    other = np.where(places[:, 0] == rows, places[:, 1], places[:, 0])
    one = np.flatnonzero((other[other] == rows) & (rows < other))
    return one, other[one], (averages[one] * averages[other[one]]).sum(1)


def _check_most(most: int) -> None:
    if type(most) is not int or most < 1:
        raise ConfigError(f"most: expected a whole number of at least 1, got {most!r}")


def _tell(what: str, count: int, most: int) -> None:
    if count > most:
        log.info("%s: %d, of which the first %d are given", what, count, most)
