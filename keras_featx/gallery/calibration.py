"""From which similarity on an answer is believed: by how often a stranger would be."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.gallery.decisions import Asked, Rule, ask, asked_of, score_of
from keras_featx.gallery.means import mean_neighbours
from keras_featx.gallery.neighbourhoods import Contents, contents, neighbours
from keras_featx.gallery.opened import Opened

# Items of a gallery that are looked up at most; more hardly move the threshold.
_MOST = 20_000
_RESAMPLES, _TAIL = 1000, 0.025
# False accepts of an identity that weigh as much as those of all.
_SHRINKAGE = 50


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it rests on.

    Intervals are of 95 %: percentiles of 1,000 bootstrap resamples of the identities of the
    queries, each with all its queries; ``None`` where all queries are of one identity.

    Attributes:
        threshold: Scores from it on are believed.
        interval: Of it.
        far: The share of strangers that may be accepted (false accept rate; of an open set the
            false positive identification rate, FPIR).
        accepted: The share of these strangers that is, never more than ``far``.
        accepted_interval: Of that, at this threshold.
        unknown: Queries that nobody known is the answer to, and their identities.
        recognised: The share of known queries that are accepted and given their own identity (the
            detection and identification rate, DIR@FAR); ``None`` without known queries.
        recognised_interval: Of that, at this threshold.
        known: Known queries, and their identities.
        left_out: Items that could not be asked as known ones: the only one of their identity.
        held_out: What was asked: ``items`` of the gallery itself, without their identity, or
            ``queries``.
        rule: With the threshold in it.
    """

    threshold: float
    interval: tuple[float, float] | None
    far: float
    accepted: float
    accepted_interval: tuple[float, float] | None
    unknown: tuple[int, int]
    recognised: float | None
    recognised_interval: tuple[float, float] | None
    known: tuple[int, int]
    left_out: int
    held_out: str
    rule: Rule

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def _ask_itself(known: Contents, rows: np.ndarray, rule: Rule, others: bool) -> Asked:
    answers = []
    means = rule.combine == "mean"
    search = mean_neighbours if means else neighbours
    for _, values, places in search(known, rows, rule.k, others):
        labels = places if means else known.labels[places]
        for near, where in zip(values.tolist(), labels.tolist(), strict=True):
            count = sum(value > -math.inf for value in near)
            names = [known.names[label] for label in where[:count]]
            answers.append(score_of(near[:count], names, rule))
    return asked_of(answers, [known.names[label] for label in known.labels[rows].tolist()])


def calibrate(
    gallery: Opened,
    far: float = 0.01,
    rule: Rule | None = None,
    *,
    unknown: tuple[np.ndarray, Sequence[str]] | None = None,
    known: tuple[np.ndarray, Sequence[str]] | None = None,
    per_identity: bool = False,
    seed: int = 0,
) -> Calibration:
    """Find the threshold at which a share ``far`` of strangers is accepted.

    It is the smallest that accepts at most ``floor(far * n)`` of ``n`` strangers, all of equal
    scores or none; a score is that of the rule's way of combining, and strangers that its margin
    refuses have none. Of fresh strangers that are drawn as these were, a share of
    ``(floor(far * n) + 1) / (n + 1)`` at most is accepted on average.

    Without ``unknown`` every item of the gallery is a stranger: it is looked up among the items of
    all other identities (of more than 20,000 items, so many drawn by the seed), exactly. That is
    what a new identity of the same kind would meet. Without ``known`` every item is looked up among
    all others, but for those that are the only one of their identity.

    With ``per_identity`` the threshold of an identity that strangers are taken for ``m`` times is
    ``(m a + 50 t) / (m + 50)``, where ``a`` is the threshold by these alone and ``t`` that of all;
    these are then moved by one number, so that together they accept the same share. Identities
    that no stranger is taken for keep ``t``.

    Args:
        gallery: Searched as it is.
        far: Of strangers, between 0 and 1.
        rule: How neighbours become a score; its thresholds do not matter.
        unknown: Embeddings of strangers, ``(queries, size)``, and whose each is.
        known: Likewise of identities that are in the gallery.
        per_identity: Also a threshold for each identity.
        seed: Of resamples and draws.

    Returns:
        With the rule that has the threshold.

    Raises:
        ConfigError: On fewer than ``1 / far`` strangers, which cannot tell; a stranger of an
            identity that is known, or a known query of one that is not; an empty gallery.

    Example:
        >>> import numpy as np
        >>> from keras_featx import Gallery
        >>> from keras_featx.gallery.calibration import calibrate
        >>> vectors = np.random.default_rng(0).normal(size=(400, 16))
        >>> vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        >>> shelf = Gallery.create("output/example_calibration", "0" * 64, 16, overwrite=True)
        >>> shelf.add(range(400), [i // 4 for i in range(400)], vectors)
        400
        >>> calibrate(shelf, far=0.05).accepted
        0.05
    """
    if not 0 < far < 1:
        raise ConfigError(f"far: expected a share between 0 and 1, got {far}")
    rule = replace(rule or Rule(), threshold=None, thresholds={})
    names = gallery.identities()
    if unknown is not None and not names:
        raise ConfigError(f"{gallery.store.folder}: expected items, got none")
    every = contents(gallery) if unknown is None or known is None else None
    strangers = _strangers(gallery, every, rule, unknown, names, seed)
    if not allowed(far, len(strangers)):
        raise ConfigError(
            f"far: expected at least {math.ceil(1 / far)} strangers to tell a share of {far:g}, "
            f"got {len(strangers)}"
        )
    threshold = smallest(strangers.score, far)
    found = replace(rule, threshold=threshold)
    if per_identity:
        found = replace(found, thresholds=_own_thresholds(strangers, far, threshold))
    friends, left_out = _friends(gallery, every, rule, known, names, seed)
    rng = np.random.default_rng(seed)
    accepted = strangers.believed(found)
    rates = [
        (smallest(strangers.score[rows], far), accepted[rows].mean())
        for rows in resamples(strangers.own, rng)
    ]
    recognised, hits = None, []
    if friends is not None:
        right = friends.believed(found) & friends.right()
        recognised = float(right.mean())
        hits = [right[rows].mean() for rows in resamples(friends.own, rng)]
    return Calibration(
        threshold, interval_of([one for one, _ in rates]), far,
        float(accepted.mean()), interval_of([one for _, one in rates]),
        (len(strangers), len(set(strangers.own))), recognised, interval_of(hits),
        (0, 0) if friends is None else (len(friends), len(set(friends.own))),
        left_out, "items" if unknown is None else "queries", found,
    )  # fmt: skip


def allowed(far: float, count: int) -> int:
    """The most of so many strangers that are no larger a share than ``far``.

    Example:
        >>> from keras_featx.gallery.calibration import allowed
        >>> allowed(0.29, 100), math.floor(0.29 * 100)
        (29, 28)
    """
    most = math.floor(far * count)
    return most + 1 if most < count and (most + 1) / count <= far else most


def smallest(scores: np.ndarray, far: float) -> float:
    """The smallest threshold in float32 that at most ``floor(far * n)`` of ``n`` scores reach.

    Where the scores to refuse are ``-inf``, it is the lowest number of float32.

    Args:
        scores: ``(n,)``, at least one.
        far: Between 0 and 1.

    Example:
        >>> import numpy as np
        >>> from keras_featx.gallery.calibration import smallest
        >>> threshold = smallest(np.array([0.1, 0.2, 0.2, 0.4]), 0.5)
        >>> 0.2 < threshold < 0.2000001
        True
    """
    # All that equal the first one too many are refused, too.
    place = len(scores) - 1 - allowed(far, len(scores))
    return _above(float(np.partition(scores, place)[place]))


def _above(value: float) -> float:
    """The smallest number of float32 that is larger."""
    near = np.float32(value)
    return float(near if float(near) > value else np.nextafter(near, np.float32(np.inf)))


def _own_thresholds(strangers: Asked, far: float, threshold: float) -> dict[str, float]:
    taken: dict[str, list[float]] = {}
    pairs = list(zip(strangers.best, strangers.score.tolist(), strict=True))
    for best, score in pairs:
        if best is not None and score > -math.inf:
            taken.setdefault(best, []).append(score)
    found = {}
    for identity, scores in taken.items():
        own, weight = smallest(np.array(scores), far), len(scores)
        found[identity] = (weight * own + _SHRINKAGE * threshold) / (weight + _SHRINKAGE)
    over = np.sort([score - found.get(best, threshold) for best, score in pairs])
    most = over[len(over) - 1 - allowed(far, len(over))]
    if most == -math.inf:
        return dict(sorted(found.items()))
    # Sums of float64 may be a little off; what is one too many must not get in by that.
    return {identity: _above(value + most + 1e-12) for identity, value in sorted(found.items())}


def _strangers(gallery, every, rule, unknown, names, seed) -> Asked:
    if unknown is None:
        if len(names) < 2:
            raise ConfigError(
                f"{gallery.store.folder}: expected at least 2 identities to calibrate with, got "
                f"{len(names)}"
            )
        return _ask_itself(every, _drawn(np.arange(len(every)), seed), rule, others=True)
    asked = ask(gallery, *unknown, rule)
    if inside := sorted(set(asked.own) & set(names)):
        raise ConfigError(
            f"unknown: expected identities that are not in {gallery.store.folder}, got "
            f"{inside[0]!r}"
        )
    return asked


def _friends(gallery, every, rule, known, names, seed) -> tuple[Asked | None, int]:
    if known is None:
        counts = np.bincount(every.labels)
        rows = np.flatnonzero(counts[every.labels] > 1)
        left_out = len(every) - len(rows)
        if not len(rows):
            return None, left_out
        return _ask_itself(every, _drawn(rows, seed), rule, others=False), left_out
    asked = ask(gallery, *known, rule)
    if not len(asked):
        raise ConfigError("known: expected queries, got none")
    if outside := sorted(set(asked.own) - set(names)):
        raise ConfigError(
            f"known: expected identities of {gallery.store.folder}, got {outside[0]!r}"
        )
    return asked, 0


def _drawn(rows: np.ndarray, seed: int) -> np.ndarray:
    if len(rows) <= _MOST:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, _MOST, replace=False))


def resamples(own: Sequence[str], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of queries, 1,000 times, each time by another draw of their identities.

    Nothing where all are of one identity: that does not tell how others differ.
    """
    labels = np.unique(np.array(own, object), return_inverse=True)[1]
    count = labels.max(initial=-1) + 1
    for _ in range(_RESAMPLES if count > 1 else 0):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        yield np.repeat(np.arange(len(labels)), times[labels])


def interval_of(values: Sequence[float]) -> tuple[float, float] | None:
    """That of 95 % of a figure, by its values in resamples, if there are any."""
    if not len(values):
        return None
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL], method="closest_observation")
    return float(low), float(high)
