"""How a gallery answers queries of whom some are in it and some are not."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.data import outputs
from keras_featx.errors import ConfigError
from keras_featx.gallery.calibration import ask, smallest
from keras_featx.gallery.decisions import Rule
from keras_featx.gallery.opened import Opened
from keras_featx.results import RetrievalResult

FARS = (0.1, 0.01, 0.001)


@dataclass(frozen=True, eq=False)
class OpenSetResult:
    """Figures of queries whose identity is in the gallery, and of those whose is not.

    Attributes:
        known: ``recall@1``: the best identity is the right one, believed or not;
            ``recognised``: right and believed; ``rejected``: not believed; ``mistaken``: believed
            and wrong; ``tar@far=F``: right, at the threshold at which a share F of strangers is
            accepted (detection and identification rate). ``None`` without such queries.
        unknown: ``false_accepts``: believed. ``None`` without such queries.
        more: ``threshold@far=F``, and ``auroc``: how often the score of a known query is above a
            stranger's.
    """

    known: RetrievalResult | None
    unknown: RetrievalResult | None
    more: dict[str, Any]

    def __str__(self) -> str:
        parts = [
            f"{title}\n{one}"
            for title, one in (("in the gallery", self.known), ("strangers", self.unknown))
            if one is not None
        ]
        lines = [f"{name}: {value}" for name, value in self.more.items()]
        return "\n".join([*parts, *lines])

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with intervals."""
        return {
            "known": self.known and self.known.to_dict(),
            "unknown": self.unknown and self.unknown.to_dict(),
            **self.more,
        }

    def write(self, folder: str | os.PathLike) -> None:
        """Write ``open_set.json``, and a row for each query in ``known.csv``, ``unknown.csv``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        outputs.write_bytes(folder / "open_set.json", text.encode())
        for name, one in (("known", self.known), ("unknown", self.unknown)):
            if one is not None:
                one.write_csv(folder / f"{name}.csv")


def evaluate(
    gallery: Opened, query: np.ndarray, identities: Sequence[str], rule: Rule
) -> OpenSetResult:
    """Measure how a rule answers.

    Args:
        gallery: Searched as it is.
        query: ``(queries, size)``, unit norm.
        identities: Whose each is; one that is not in the gallery is a stranger.
        rule: How neighbours become an answer.

    Raises:
        ConfigError: On queries that do not fit, or an empty gallery.

    Example:
        >>> import numpy as np
        >>> from keras_featx import Gallery
        >>> from keras_featx.gallery.decisions import Rule
        >>> from keras_featx.gallery.open_set import evaluate
        >>> shelf = Gallery.create("output/example_open_set", "0" * 64, size=2, overwrite=True)
        >>> shelf.add(["a.jpg"], ["ant"], np.eye(2)[:1])
        1
        >>> found = evaluate(shelf, np.eye(2), ["ant", "bee"], Rule(threshold=0.5))
        >>> found.known["recognised"], found.unknown["false_accepts"]
        (1.0, 0.0)
    """
    if not len(gallery):
        raise ConfigError(f"{gallery.store.folder}: expected items, got none")
    if not len(query):
        raise ConfigError("query: expected at least one, got none")
    asked = ask(gallery, query, identities, rule)
    names, labels = np.unique(np.array(asked.own, object), return_inverse=True)
    there = np.isin(names.astype(str), list(gallery.identities()))[labels]
    wanted = np.array([rule.threshold_of(one) for one in asked.best], float)
    believed = (asked.score >= wanted) & (asked.score > -np.inf)
    right = np.array([a == b for a, b in zip(asked.best, asked.own, strict=True)], bool)
    friends, strangers = np.flatnonzero(there), np.flatnonzero(~there)
    figures = {
        "recall@1": right,
        "recognised": right & believed,
        "rejected": ~believed,
        "mistaken": believed & ~right,
    }
    more: dict[str, Any] = {"threshold": rule.threshold}
    if len(friends) and len(strangers):
        more["auroc"] = _auroc(asked.score[friends], asked.score[strangers])
    for far in FARS if len(strangers) else ():
        if math.floor(far * len(strangers)) < 1:
            more[f"threshold@far={far:g}"] = None  # so few strangers do not tell
            continue
        threshold = smallest(asked.score[strangers], far)
        more[f"threshold@far={far:g}"] = threshold
        figures[f"tar@far={far:g}"] = right & (asked.score >= threshold)
    return OpenSetResult(
        _result(figures, labels, friends, len(gallery)),
        _result({"false_accepts": believed}, labels, strangers, len(gallery)),
        more,
    )


def _result(figures, labels, rows, items: int) -> RetrievalResult | None:
    if not len(rows):
        return None
    values = {name: value[rows].astype("float64") for name, value in figures.items()}
    return RetrievalResult(values, labels[rows], rows, {}, items, 0, {})


def _auroc(friends: np.ndarray, strangers: np.ndarray) -> float:
    """The share of pairs in which the friend scores higher; a tie is half of one."""
    ordered = np.sort(strangers)
    below = np.searchsorted(ordered, friends, "left") + np.searchsorted(ordered, friends, "right")
    return float(below.mean() / 2 / len(strangers))
