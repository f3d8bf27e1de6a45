"""From which similarity on an answer is believed: by how often a stranger would be."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.gallery.decisions import Rule, is_close, look_up, ranked
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
    """A threshold and what it rests on. Intervals are of 95 %, over other identities.

    Attributes:
        threshold: Scores from it on are believed.
        interval: Of it.
        far: The share of strangers that may be accepted.
        accepted: The share that is.
        accepted_interval: Of that.
        unknown: Queries that nobody known is the answer to, and their identities.
        recognised: The share of known queries that are accepted and given their own identity.
        recognised_interval: Of that.
        known: Known queries, and their identities.
        left_out: Items that could not be asked as known ones: the only one of their identity.
        held_out: What was asked: ``items`` of the gallery itself, without their identity, or
            ``queries``.
        rule: With the threshold in it.
    """

    threshold: float
    interval: tuple[float, float]
    far: float
    accepted: float
    accepted_interval: tuple[float, float]
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


@dataclass(frozen=True, eq=False)
class Asked:
    """What a rule says of queries, whatever the threshold.

    Attributes:
        best: The identity each is taken for.
        score: float64; ``-inf`` where the margin forbids an answer.
        own: Whose each is.
    """

    best: list[str | None]
    score: np.ndarray
    own: list[str]


def ask(gallery: Opened, query: np.ndarray, identities: Sequence[str], rule: Rule) -> Asked:
    """Look up queries and score them by a rule.

    Raises:
        ConfigError: On another number of identities than queries, or as of ``gallery.search``.
    """
    identities = [str(one) for one in identities]
    if len(identities) != len(query):
        raise ConfigError(f"identities: expected {len(query)}, one a query, got {len(identities)}")
    found = look_up(gallery, query, rule)
    pairs = [
        _scored([one.similarity for one in some], [one.identity for one in some], rule)
        for some in found
    ]
    return Asked([best for best, _ in pairs], np.array([s for _, s in pairs], float), identities)


def _scored(similarities: list[float], names: list[str], rule: Rule) -> tuple[str | None, float]:
    if not similarities:
        return None, -math.inf
    (best, score), *others = ranked(similarities, names, rule)[:2]
    close = others and is_close(score, others[0][1], rule)
    return best, -math.inf if close else score


def _ask_itself(known: Contents, rows: np.ndarray, rule: Rule, others: bool) -> Asked:
    best: list[str | None] = []
    scores: list[float] = []
    own: list[str] = []
    means = rule.combine == "mean"
    blocks = (mean_neighbours if means else neighbours)(known, rows, rule.k, others)
    for some, values, places in blocks:
        labels = places if means else known.labels[places]
        for row, near, where in zip(some.tolist(), values.tolist(), labels.tolist(), strict=True):
            count = sum(value > -math.inf for value in near)
            names = [known.names[label] for label in where[:count]]
            name, score = _scored(near[:count], names, rule)
            best.append(name)
            scores.append(score)
            own.append(known.names[known.labels[row]])
    return Asked(best, np.array(scores, float), own)


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

    It is the smallest that accepts at most ``floor(far * n)`` of ``n`` strangers. Without
    ``unknown`` every item of the gallery is one: it is looked up among the items of all other
    identities (of more than 20,000 items, so many drawn by the seed). That is what a new identity
    of the same kind would meet. Without ``known`` every item is looked up among all others.

    With ``per_identity`` the threshold of an identity that strangers are taken for ``m`` times is
    ``(m a + 50 t) / (m + 50)``, where ``a`` is the threshold by these alone and ``t`` that of all;
    all are then moved by one number, so that together they accept the same share.

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
        ConfigError: On too few strangers to tell, a stranger of an identity that is known, or a
            known query of one that is not.

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
    every = contents(gallery) if unknown is None or known is None else None
    names = gallery.identities()
    strangers = _strangers(gallery, every, rule, unknown, names, seed)
    count = len(strangers.score)
    if math.floor(far * count) < 1:
        raise ConfigError(
            f"far: expected at least {math.ceil(1 / far)} strangers to tell a share of {far:g}, "
            f"got {count}"
        )
    threshold = smallest(strangers.score, far)
    found = replace(rule, threshold=threshold)
    if per_identity:
        found = replace(found, thresholds=_own_thresholds(strangers, far, threshold))
    friends, left_out = _friends(gallery, every, rule, known, names, seed)
    rates, places = [], _places(strangers.own)
    accepted = _accepted(strangers, found)
    rng = np.random.default_rng(seed)
    for drawn in _resamples(places, rng):
        rates.append((smallest(strangers.score[drawn], far), accepted[drawn].mean()))
    low, high = np.quantile(np.array(rates), [_TAIL, 1 - _TAIL], axis=0)
    right = None
    if friends is not None:
        same = np.array([a == b for a, b in zip(friends.best, friends.own, strict=True)], bool)
        right = _accepted(friends, found) & same
    between = None
    if right is not None:
        means = [right[drawn].mean() for drawn in _resamples(_places(friends.own), rng)]
        between = tuple(np.quantile(means, [_TAIL, 1 - _TAIL]).tolist())
    return Calibration(
        threshold, (float(low[0]), float(high[0])), far,
        float(accepted.mean()), (float(low[1]), float(high[1])),
        (count, len(places)),
        None if right is None else float(right.mean()), between,
        (0, 0) if friends is None else (len(friends.own), len(set(friends.own))),
        left_out, "items" if unknown is None else "queries", found,
    )  # fmt: skip


def smallest(scores: np.ndarray, far: float) -> float:
    """The smallest threshold that at most ``floor(far * n)`` of ``n`` scores reach.

    Example:
        >>> import numpy as np
        >>> from keras_featx.gallery.calibration import smallest
        >>> threshold = smallest(np.array([0.1, 0.2, 0.2, 0.4]), 0.5)
        >>> 0.2 < threshold < 0.2000001
        True
    """
    allowed = math.floor(far * len(scores))
    if allowed >= len(scores):
        return -math.inf
    # All that equal the first one too many are refused, too.
    bound = np.partition(scores, len(scores) - 1 - allowed)[len(scores) - 1 - allowed]
    return float(np.nextafter(np.float32(bound), np.float32(np.inf)))


def _accepted(asked: Asked, rule: Rule) -> np.ndarray:
    wanted = np.array([rule.threshold_of(one) for one in asked.best], float)
    return (asked.score >= wanted) & (asked.score > -np.inf)


def _own_thresholds(strangers: Asked, far: float, threshold: float) -> dict[str, float]:
    taken: dict[str, list[float]] = {}
    for best, score in zip(strangers.best, strangers.score.tolist(), strict=True):
        if best is not None and score > -math.inf:
            taken.setdefault(best, []).append(score)
    found = {}
    for identity, scores in taken.items():
        own = smallest(np.array(scores), far)
        weight = len(scores)
        found[identity] = (weight * own + _SHRINKAGE * threshold) / (weight + _SHRINKAGE)
    above = [
        score - found.get(best, threshold)
        for best, score in zip(strangers.best, strangers.score.tolist(), strict=True)
    ]
    move = smallest(np.array(above), far)
    return {identity: value + move for identity, value in sorted(found.items())}


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
    if outside := sorted(set(asked.own) - set(names)):
        raise ConfigError(
            f"known: expected identities of {gallery.store.folder}, got {outside[0]!r}"
        )
    return asked, 0


def _drawn(rows: np.ndarray, seed: int) -> np.ndarray:
    if len(rows) <= _MOST:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, _MOST, replace=False))


def _places(own: Sequence[str]) -> list[np.ndarray]:
    """Rows of each identity."""
    labels = np.unique(np.array(own, object), return_inverse=True)[1]
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels))[:-1])


def _resamples(places: list[np.ndarray], rng: np.random.Generator) -> Iterable[np.ndarray]:
    for _ in range(_RESAMPLES):
        chosen = rng.integers(0, len(places), len(places))
        yield np.concatenate([places[i] for i in chosen])
