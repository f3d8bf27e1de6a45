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
        threshold: Cosine below which a query is of nobody known; ``None`` believes all.
        margin: What the score of the best identity must be above that of the second.
        k: Neighbours that are looked at.
        combine: What scores an identity. ``max``: its most similar item. ``mean``: the cosine to
            the mean of all its items, see :class:`~.means.Means`. ``best_of``: the mean of
            its ``n`` most similar items, where those that are not among the ``k`` count as the
            least similar one that is. ``vote``: the identity of most of the ``k`` wins, at a tie
            that of the more similar item; its score is that of its most similar item.
        n: Of ``best_of``, at most ``k``.
        thresholds: Of single identities, in place of ``threshold``.

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
        known = {"threshold": self.threshold, **self.thresholds}
        for name, value in known.items():
            if value is not None and not _is_finite(value):
                raise ConfigError(f"{name}: expected a finite number, got {value!r}")
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Rule":
        """The rule of :meth:`to_dict`.

        Raises:
            ConfigError: On a key that is none, with the closest one, or an impossible value.
        """
        names = [one.name for one in dataclasses.fields(cls)]
        for key in tree:
            if key not in names:
                raise ConfigError(
                    f"rule: expected {', '.join(names)}, got {key!r}"
                    f"{components.closest(key, names)}"
                )
        return cls(**tree)

    def threshold_of(self, identity: str) -> float:
        """The cosine from which on an identity is believed."""
        found = self.thresholds.get(identity, self.threshold)
        return -math.inf if found is None else found


@dataclass(frozen=True)
class Answer:
    """What is said of a query.

    Attributes:
        identity: Or ``None``: of nobody known.
        similarity: The score of the best identity; ``None`` where there is no item.
        best: The best identity, whether it is believed or not.
        second: The next one, where another is among the neighbours.
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
        matches: Its nearest items, best first; the first ``rule.k`` of them count.
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
        return Answer(None, why=f"below the threshold {wanted:g}: {score:.4g}", **about)
    if second is not None and is_close(score, below, rule):
        why = f"within {rule.margin:g} of {second}: {score - below:.2g}"
        return Answer(None, why=why, **about)
    return Answer(best, **about)


def is_close(score: float, second: float, rule: Rule) -> bool:
    """Whether the second identity is too near for an answer; never where no margin is asked for."""
    return rule.margin > 0 and score - second < rule.margin


def look_up(gallery: Opened, query: np.ndarray, rule: Rule) -> list[list[Match]]:
    """What a rule looks at: the nearest items, or with ``mean`` the nearest identities."""
    if rule.combine != "mean":
        return gallery.search(query, rule.k)
    gallery.check_query(query)
    return identity_means(gallery).search(query, rule.k)


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


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
