"""What looks wrong in a gallery: outliers, near-duplicates, and identities that look like one."""

from typing import Any

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.gallery.means import sums_of
from keras_featx.gallery.neighbourhoods import contents, neighbours
from keras_featx.gallery.opened import Opened

# Spread of a normal distribution by its median absolute deviation.
_SIGMA = 1.4826


def outliers(gallery: Opened, most: int = 50) -> list[dict[str, Any]]:
    """Items that are unlike the others of their identity.

    An item's similarity to its own is the cosine to the mean of the other items of its identity.
    It is an outlier where that is below the median of its identity by more than three times the
    spread (1.4826 times the median absolute deviation, at least 0.01), or where the mean of another
    identity is nearer. Identities with fewer than 3 items are left alone.

    Args:
        gallery: Whose items are compared, all with the means of all identities.
        most: Of them, at most.

    Returns:
        ``{"id", "identity", "similarity", "spreads": below the median, "nearer": another identity
        or None, "nearer_similarity"}`` each; first those with a nearer identity, by how much nearer
        it is, then the others by spreads.
    """
    known = contents(gallery)
    if not len(known):
        return []
    counts = np.bincount(known.labels)
    sums = sums_of(known)
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    found: list[dict[str, Any]] = []
    others = _nearest_means(known, means)
    for label in np.flatnonzero(counts >= 3).tolist():
        rows = np.flatnonzero(known.labels == label)
        vectors = known.vectors[rows].astype("float64")
        rest = sums[label] - vectors
        rest /= np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-12)
        own = (vectors * rest).sum(1)
        middle = np.median(own)
        spread = max(_SIGMA * float(np.median(np.abs(own - middle))), 0.01)
        for row, similarity in zip(rows.tolist(), own.tolist(), strict=True):
            spreads = float(middle - similarity) / spread
            other, near = int(others[0][row]), float(others[1][row])
            nearer = near > similarity
            if nearer or spreads > 3:
                found.append(
                    {
                        "id": known.ids[row],
                        "identity": known.names[label],
                        "similarity": similarity,
                        "spreads": spreads,
                        "nearer": known.names[other] if nearer else None,
                        "nearer_similarity": near if nearer else None,
                    }
                )
    found.sort(key=_order)
    return found[:most]


def _order(one: dict[str, Any]) -> tuple[bool, float]:
    if one["nearer"] is None:
        return True, -one["spreads"]
    return False, one["similarity"] - one["nearer_similarity"]


def _nearest_means(known, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each item the identity, other than its own, whose mean is nearest, and the cosine."""
    best = np.zeros(len(known), np.int64)
    values = np.full(len(known), -np.inf)
    size = max(1, 2**24 // len(means))
    for i in range(0, len(known), size):
        scores = known.vectors[i : i + size].astype("float64") @ means.T
        scores[np.arange(len(scores)), known.labels[i : i + size]] = -np.inf
        best[i : i + size] = scores.argmax(1)
        values[i : i + size] = scores.max(1)
    return best, values


def near_duplicates(
    gallery: Opened, similarity: float = 0.95, most: int = 50
) -> list[dict[str, Any]]:
    """Items of one identity that look like an item of another: perhaps one image, filed twice.

    Args:
        gallery: Each item is compared with all of other identities, and its nearest 5 are looked
            at.
        similarity: Cosine from which on a pair is one.
        most: Pairs, at most.

    Returns:
        ``{"id", "identity", "other_id", "other_identity", "similarity"}`` each, the most similar
        first, each pair once.
    """
    if not -1 <= similarity <= 1:
        raise ConfigError(f"similarity: expected a cosine, got {similarity}")
    known = contents(gallery)
    pairs: dict[tuple[int, int], float] = {}
    for some, values, places in neighbours(known, np.arange(len(known)), 5, others=True):
        rows, columns = np.nonzero(values >= similarity)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            pair = sorted((int(some[row]), int(places[row, column])))
            pairs[pair[0], pair[1]] = float(values[row, column])
    ordered = sorted(pairs.items(), key=lambda one: (-one[1], one[0]))[:most]
    return [
        {
            "id": known.ids[a],
            "identity": known.names[known.labels[a]],
            "other_id": known.ids[b],
            "other_identity": known.names[known.labels[b]],
            "similarity": value,
        }
        for (a, b), value in ordered
    ]


def merges(gallery: Opened, most: int = 50) -> list[dict[str, Any]]:
    """Pairs of identities that look like one.

    The mean cosine of pairs of items between two identities is compared with the mean cosine within
    each. A pair is suggested where it reaches the lower one of these two, and each is the
    other's nearest identity by it. Identities with one item count as 1 within.

    Args:
        gallery: Whose identities are compared.
        most: Pairs, at most.

    Returns:
        ``{"identity", "other_identity", "between", "within", "other_within", "items",
        "other_items"}`` each, by ``between`` less the lower of the two, the largest first.
    """
    known = contents(gallery)
    if not len(known):
        return []
    counts = np.bincount(known.labels)
    sums = sums_of(known)
    squares = np.bincount(known.labels, (known.vectors.astype("float64") ** 2).sum(1))
    pairs = np.maximum(counts * (counts - 1), 1)
    within = np.where(counts > 1, ((sums**2).sum(1) - squares) / pairs, 1.0)
    averages = sums / counts[:, None]
    nearest = np.zeros(len(counts), np.int64)
    between = np.full(len(counts), -np.inf)
    size = max(1, 2**24 // len(counts))
    for i in range(0, len(counts), size):
        scores = averages[i : i + size] @ averages.T
        scores[np.arange(len(scores)), np.arange(i, i + len(scores))] = -np.inf
        nearest[i : i + size], between[i : i + size] = scores.argmax(1), scores.max(1)
    found = []
    for a, b in enumerate(nearest.tolist()):
        lower = min(within[a], within[b])
        if a < b and nearest[b] == a and between[a] >= lower:
            found.append(
                {
                    "identity": known.names[a],
                    "other_identity": known.names[b],
                    "between": float(between[a]),
                    "within": float(within[a]),
                    "other_within": float(within[b]),
                    "items": int(counts[a]),
                    "other_items": int(counts[b]),
                }
            )
    found.sort(key=lambda one: min(one["within"], one["other_within"]) - one["between"])
    return found[:most]
