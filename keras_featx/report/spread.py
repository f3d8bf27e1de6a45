"""How similar the pairs of a set are, and where its embeddings lie."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_featx.labelled import Labelled, Matches, reordered
from keras_featx.similarities import pair_values, row_blocks
from keras_featx.verification import STEPS, Pairs, count_pairs, steps_of, tar_at_far

# Impostor pairs that are counted, in some seconds; of more, those of a sample of the queries.
MOST_PAIRS = 2**27
BARS = 64
RATES = (0.01, 0.001)
# Identities with a colour of their own, and points drawn, half of them of those.
COLOURED, POINTS = 10, 2000


@dataclass(frozen=True, eq=False)
class PairCurves:
    """Pairs of one identity (genuine) and of two (impostor) by their cosine.

    Attributes:
        edges: Of the bars, cosines ``(bars + 1,)``.
        genuine: Pairs in each bar, int64 ``(bars,)``.
        impostor: Likewise.
        thresholds: Rising cosines ``(thresholds,)``.
        true_rate: Share of the genuine pairs at or above each threshold ``(thresholds,)``.
        false_rate: Share of the impostor pairs.
        points: ``{rate: (threshold, share of genuine pairs accepted there)}``.
        queries: Queries whose impostor pairs were counted.
    """

    edges: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray
    thresholds: np.ndarray
    true_rate: np.ndarray
    false_rate: np.ndarray
    points: dict[float, tuple[float, float]]
    queries: int


def pair_curves(
    query: Labelled, gallery: Labelled, matches: Matches, most_pairs: int = MOST_PAIRS
) -> PairCurves:
    """Count the pairs that rankings do not exclude.

    Args:
        query: Unit vectors.
        gallery: Unit vectors.
        matches: What :func:`keras_featx.matching.find_matches` found.
        most_pairs: Of more, the impostor pairs of a sample of the queries are counted.

    Raises:
        ConfigError: If there are no unit vectors, or no impostor pair.
    """
    count = min(len(query.labels), max(1, most_pairs // len(gallery.labels)))
    rows = np.arange(len(query.labels))
    if count < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(rows, count, replace=False))
    impostor = count_pairs(query.take(rows), gallery, reordered(matches, rows)).impostor
    owners = np.repeat(np.arange(len(query.labels)), matches.counts)
    values = pair_values(
        "inner_product", query.embeddings, gallery.embeddings, owners, matches.rows
    )
    pairs = Pairs(steps_of(values), impostor)
    genuine = np.bincount(pairs.genuine, minlength=STEPS)
    filled = np.flatnonzero(genuine + impostor)
    first, last = int(filled[0]), int(filled[-1]) + 1
    width = -(-(last - first) // BARS)
    starts = np.arange(first, last, width)
    bars = [np.add.reduceat(counts, starts) for counts in (genuine, impostor)]
    accepted = [np.append(counts[::-1].cumsum()[::-1], 0) for counts in (genuine, impostor)]
    steps = _curve_steps(first, last, accepted[1])
    rates = [counts[steps] / counts[0] for counts in accepted]
    found = tar_at_far(pairs, far=RATES)
    points = {
        rate: (found[f"threshold@far={rate:g}"], float(found[f"tar@far={rate:g}"].mean()))
        for rate in RATES
    }
    edges = np.append(starts, starts[-1] + width)
    return PairCurves(_cosines(edges), *bars, _cosines(steps), *rates, points, len(rows))


def _curve_steps(first: int, last: int, accepted: np.ndarray) -> np.ndarray:
    """Steps of a curve: evenly spaced, and where the false accepts become fewer and fewer."""
    even = np.linspace(first, last, 200).astype("int64")
    counts = np.geomspace(accepted[0], 1, 100)
    return np.unique(np.concatenate([even, [np.count_nonzero(accepted > c) for c in counts]]))


def _cosines(steps: np.ndarray) -> np.ndarray:
    return steps * 2 / STEPS - 1


class Plane(NamedTuple):
    """Embeddings on the plane in which they vary most.

    Attributes:
        rows: Of query and gallery, one after the other: the points that are drawn.
        x: Along the component of the largest variance.
        y: Along the next.
        share: Of the variance of all embeddings that the two show, together.
        coloured: Labels with a colour of their own, the most frequent first.
    """

    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray
    share: float
    coloured: np.ndarray


def plane(query: Labelled, gallery: Labelled, points: int = POINTS) -> Plane:
    """Principal components of query and gallery together, and a seeded sample of both.

    The identities with the most images have a colour, and at least half of the points where they
    have as many; the lower label first where identities have as many images.
    """
    parts = (query.embeddings, gallery.embeddings)
    total = sum(map(len, parts))
    mean = sum(part.sum(0, dtype="float64") for part in parts) / total
    covariance = np.zeros((len(mean), len(mean)))
    for part in parts:
        for some in row_blocks(part):
            centred = part[some] - mean
            covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.where(axes.sum(0) < 0, -1, 1)  # a component has no sign of its own
    labels = np.concatenate([query.labels, gallery.labels])
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    coloured = numbers[np.argsort(-counts, kind="stable")[:COLOURED]]
    inside = np.isin(labels, coloured)
    own, others = np.flatnonzero(inside), np.flatnonzero(~inside)
    rng = np.random.default_rng(0)
    own = _sample(rng, own, max(points // 2, points - len(others)))
    rows = np.concatenate([_sample(rng, others, points - len(own)), own])
    ours, theirs = rows[rows < len(query.labels)], rows[rows >= len(query.labels)]
    vectors = np.empty((len(rows), len(mean)))
    vectors[rows < len(query.labels)] = parts[0][ours]
    vectors[rows >= len(query.labels)] = parts[1][theirs - len(query.labels)]
    shown = (vectors - mean) @ axes
    x, y = np.pad(shown, ((0, 0), (0, 2 - shown.shape[1]))).T
    share = float(values[::-1][:2].sum() / max(values.sum(), 1e-300))
    return Plane(rows, x, y, share, coloured)


def _sample(rng: np.random.Generator, rows: np.ndarray, most: int) -> np.ndarray:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
