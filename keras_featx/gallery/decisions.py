"""How the nearest items of a query become an answer: an identity, or nobody known."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_featx import components
from keras_featx.errors import ConfigError
from keras_featx.gallery.means import identity_means
from keras_featx.gallery.opened import Match, Opened

COMBINE = ("max", "mean", "best_of", "vote")


@dataclass(frozen=True)
class Rule:
    """What is asked of the nearest items before they are believed.

    Attributes:
        threshold: Score below which a query is of nobody known; ``None`` believes all.
        margin: What the score of the best identity must at least be above that of the second. An
            identity without an item among the ``k`` is no second: where a margin counts, ``k`` is
            to be larger than the items of an identity.
        k: Neighbours that are looked at; with ``mean``, identities.
        combine: What scores an identity. ``max``: its most similar item. ``mean``: the cosine to
            the mean of all its items, see :class:`~.means.Means`. ``best_of``: the mean of
            its ``n`` most similar items, where each that is not among the ``k`` counts as the
            least similar one that is: it cannot be more. ``vote``: the identity of most of the
            ``k`` wins, at a tie that of the more similar item; its score is that of its most
            similar item, also for the margin, which a second identity with fewer but more similar
            items forbids.
        n: Of ``best_of``, at most ``k``.
        thresholds: Of single identities by name, in place of ``threshold``.

    Raises:
        ConfigError: On an impossible value.

    Example:
        >>> from keras_featx.gallery.decisions import Rule, decide
        >>> from keras_featx.gallery.opened import Match
        >>> near = [Match("a.jpg", "ant", 0.71, {}), Match("b.jpg", "bee", 0.69, {})]
        >>> decide(near, Rule(threshold=0.6)).identity
        'ant'
        >>> decide(near, Rule(threshold=0.6, margin=0.05)).why
        'within 0.05 of bee: 0.02'
    """

    threshold: float | None = None
    margin: float = 0.0
    k: int = 5
    combine: str = "max"
    n: int = 3
    thresholds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if self.threshold is not None and not _is_finite(self.threshold):
            raise ConfigError(f"threshold: expected a finite number, got {self.threshold!r}")
        if not isinstance(self.thresholds, Mapping):
            raise ConfigError(f"thresholds: expected numbers by identity, got {self.thresholds!r}")
        for identity, value in self.thresholds.items():
            if not _is_finite(value):
                raise ConfigError(
                    f"thresholds: expected a finite number for {identity!r}, got {value!r}"
                )
        if not _is_finite(self.margin) or self.margin < 0:
            raise ConfigError(f"margin: expected at least 0, got {self.margin!r}")
        if self.combine not in COMBINE:
            raise ConfigError(
                f"combine: expected one of {', '.join(COMBINE)}, got {self.combine!r}"
            )
        if type(self.k) is not int or self.k < 1:
            raise ConfigError(f"k: expected a whole number of at least 1, got {self.k!r}")
        if type(self.n) is not int or self.n < 1:
            raise ConfigError(f"n: expected a whole number of at least 1, got {self.n!r}")
        if self.combine == "best_of" and self.n > self.k:
            raise ConfigError(f"n: expected at most k ({self.k}), got {self.n}")
        if self.margin > 0 and self.k < 2:
            raise ConfigError("margin: expected a k of at least 2, to see a second identity, got 1")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Rule":
        """The rule of :meth:`to_dict`.

        Raises:
            ConfigError: On a key that is none, with the closest one, or an impossible value.
        """
        if not isinstance(tree, Mapping):
            raise ConfigError(f"rule: expected an object, got {tree!r}")
        names = [one.name for one in dataclasses.fields(cls)]
        for key in tree:
            if key not in names:
                raise ConfigError(
                    f"rule: expected {', '.join(names)}, got {key!r}"
                    f"{components.closest(key, names)}"
                )
        return cls(**tree)

    def threshold_of(self, identity: str) -> float:
        """The score from which on an identity is believed."""
        found = self.thresholds.get(identity, self.threshold)
        return -math.inf if found is None else found


@dataclass(frozen=True)
class Answer:
    """What is said of a query.

    Attributes:
        identity: Or ``None``: of nobody known.
        similarity: The score of the best identity, see ``combine`` of :class:`Rule`; ``None`` where
            there is no item.
        best: The best identity, whether it is believed or not.
        second: The next one, where another is among the neighbours; else ``None``.
        second_similarity: Its score.
        why: Why nobody is known, in words; else empty.
    """

    identity: str | None
    similarity: float | None
    best: str | None = None
    second: str | None = None
    second_similarity: float | None = None
    why: str = ""


def decide(matches: Sequence[Match], rule: Rule) -> Answer:
    """Whose a query is.

    Args:
        matches: Its nearest items, best first, as of ``gallery.search`` or, for ``mean``, of
            :func:`look_up`; the first ``rule.k`` of them count.
        rule: What is asked of them.
    """
    if not matches:
        return Answer(None, None, why="nothing is known")
    matches = matches[: rule.k]
    names = [match.identity for match in matches]
    (best, score), *others = ranked([match.similarity for match in matches], names, rule)[:2]
    second, below = others[0] if others else (None, None)
    about = {"similarity": score, "best": best, "second": second, "second_similarity": below}
    wanted = rule.threshold_of(best)
    if not score >= wanted:
        return Answer(None, why=f"below the threshold {wanted:g}: {_less(score, wanted)}", **about)
    if second is not None and is_close(score, below, rule):
        close = _less(score - below, rule.margin)
        why = f"within {rule.margin:g} of {second}: {close}"
        return Answer(None, why=why, **about)
    return Answer(best, **about)


def is_close(score: float, second: float, rule: Rule) -> bool:
    """Whether the second identity is too near for an answer; never where no margin is asked for."""
    return rule.margin > 0 and score - second < rule.margin


def look_up(gallery: Opened, query: np.ndarray, rule: Rule) -> list[list[Match]]:
    """What a rule looks at: the nearest items, or with ``mean`` the nearest identities.

    With ``mean`` each call reads all items; for many calls keep :func:`~.means.identity_means`.

    Raises:
        ConfigError: As of ``gallery.search``.
    """
    if rule.combine != "mean":
        return gallery.search(query, rule.k)
    return identity_means(gallery).search(gallery.check_query(query), rule.k)


def ranked(
    similarities: Sequence[float], identities: Sequence[Any], rule: Rule
) -> list[tuple[Any, float]]:
    """Identities and their scores, best first; at a tie that of the nearer item.

    Args:
        similarities: Of the neighbours, falling.
        identities: Of each.
        rule: Says how items become a score.
    """
    own: dict[Any, list[float]] = {}
    for identity, value in zip(identities, similarities, strict=True):
        own.setdefault(identity, []).append(value)
    if rule.combine == "best_of":
        least = similarities[-1]
        scores = {
            one: float(np.mean((values + [least] * rule.n)[: rule.n]))
            for one, values in own.items()
        }
        return sorted(scores.items(), key=lambda pair: -pair[1])
    found = [(one, values[0]) for one, values in own.items()]
    if rule.combine == "vote":
        found.sort(key=lambda pair: -len(own[pair[0]]))
    return found


@dataclass(frozen=True, eq=False)
class Asked:
    """What a rule says of queries, whatever the threshold.

    Attributes:
        best: The identity each is taken for; ``None`` where there is no item.
        similarity: Its score, float64; ``-inf`` where there is no item.
        score: Likewise; ``-inf`` also where the margin forbids an answer.
        own: Whose each is.
    """

    best: list[str | None]
    similarity: np.ndarray
    score: np.ndarray
    own: list[str]

    def __len__(self) -> int:
        return len(self.own)

    def believed(self, rule: Rule) -> np.ndarray:
        """Which are answered, by the thresholds of a rule."""
        wanted = np.array([rule.threshold_of(one) for one in self.best], float)
        return (self.score >= wanted) & (self.score > -np.inf)

    def right(self) -> np.ndarray:
        """Which are taken for their own identity."""
        return np.array([a == b for a, b in zip(self.best, self.own, strict=True)], bool)


def ask(gallery: Opened, query: np.ndarray, identities: Sequence[str], rule: Rule) -> Asked:
    """Look up queries and score them by a rule.

    Raises:
        ConfigError: On another number of identities than queries, or as of ``gallery.search``.
    """
    identities = [str(one) for one in identities]
    if len(identities) != len(query):
        raise ConfigError(f"identities: expected {len(query)}, one a query, got {len(identities)}")
    answers = [
        score_of([one.similarity for one in some], [one.identity for one in some], rule)
        for some in look_up(gallery, query, rule)
    ]
    return asked_of(answers, identities)


def asked_of(answers: Sequence[tuple[str | None, float, float]], own: Sequence[str]) -> Asked:
    """From the answers of :func:`score_of`, and whose each query is."""
    numbers = np.array([one[1:] for one in answers], float).reshape(-1, 2)
    return Asked([one[0] for one in answers], numbers[:, 0], numbers[:, 1], list(own))


def score_of(
    similarities: Sequence[float], identities: Sequence[str], rule: Rule
) -> tuple[str | None, float, float]:
    """The best identity, its score, and that again, ``-inf`` where the margin forbids an answer.

    Args:
        similarities: Of the neighbours, falling; where there are none, so is the identity.
        identities: Of each.
        rule: Its thresholds do not matter.
    """
    if not similarities:
        return None, -math.inf, -math.inf
    (best, score), *others = ranked(similarities, identities, rule)[:2]
    close = others and is_close(score, others[0][1], rule)
    return best, score, -math.inf if close else score


def _less(value: float, bound: float) -> str:
    """A value that is less, in so many digits that it reads so."""
    short = f"{value:.4g}"
    return short if float(short) < bound else f"{value:.9g}"


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
