"""How a gallery answers queries of whom some are in it and some are not."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.data import outputs
from keras_featx.errors import ConfigError
from keras_featx.gallery.calibration import allowed, interval_of, resamples, smallest
from keras_featx.gallery.decisions import Asked, Rule, ask
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
        more: ``threshold``: of the rule; ``threshold@far=F``, ``None`` where there are fewer than
            ``1 / F`` strangers, which cannot tell; ``auroc``: how often the best identity's score
            of a known query is above a stranger's, whatever the margin, ties counting half; and
            ``auroc_interval``, of 95 % by a bootstrap of identities, ``None`` where known or
            unknown queries are all of one.
        asked: What each query was taken for.
        believed: bool ``(queries,)``: which were answered.
    """

    known: RetrievalResult | None
    unknown: RetrievalResult | None
    more: dict[str, Any]
    asked: Asked
    believed: np.ndarray

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
        """Write figures and answers.

        ``open_set.json`` is :meth:`to_dict`; ``known.csv`` and ``unknown.csv`` have a row for each
        query with what it counts for each figure, ``answers.csv`` one with what it was taken for.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        outputs.write_bytes(folder / "open_set.json", text.encode())
        for name, one in (("known", self.known), ("unknown", self.unknown)):
            if one is not None:
                one.write_csv(folder / f"{name}.csv")
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["query", "identity", "best", "similarity", "believed"])
        asked = self.asked
        columns = asked.own, asked.best, asked.similarity.tolist(), self.believed.tolist()
        table.writerows(zip(range(len(asked)), *columns, strict=True))
        outputs.write_bytes(folder / "answers.csv", text.getvalue().encode())


def evaluate(
    gallery: Opened,
    query: np.ndarray,
    identities: Sequence[str],
    rule: Rule,
    fars: Sequence[float] = FARS,
) -> OpenSetResult:
    """Measure how a rule answers.

    Args:
        gallery: Searched as it is.
        query: ``(queries, size)``, unit norm.
        identities: Whose each is; one that is not in the gallery is a stranger.
        rule: How neighbours become an answer.
        fars: Shares of strangers, each between 0 and 1, for ``tar@far=F``; there the rule's
            thresholds do not matter.

    Raises:
        ConfigError: On queries that do not fit, an empty gallery, or a share that is none.

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
    for far in fars:
        if not 0 < far < 1:
            raise ConfigError(f"fars: expected shares between 0 and 1, got {far}")
    asked = ask(gallery, query, identities, rule)
    believed, right = asked.believed(rule), asked.right()
    known = gallery.identities()
    there = np.array([one in known for one in asked.own], bool)
    friends, strangers = np.flatnonzero(there), np.flatnonzero(~there)
    figures = {
        "recall@1": right,
        "recognised": right & believed,
        "rejected": ~believed,
        "mistaken": believed & ~right,
    }
    more: dict[str, Any] = {"threshold": rule.threshold}
    for far in fars if len(strangers) else ():
        if not allowed(far, len(strangers)):
            more[f"threshold@far={far:g}"] = None
            continue
        threshold = smallest(asked.score[strangers], far)
        more[f"threshold@far={far:g}"] = threshold
        figures[f"tar@far={far:g}"] = right & (asked.score >= threshold)
    if len(friends) and len(strangers):
        more["auroc"] = _auroc(asked.similarity[friends], asked.similarity[strangers])
        more["auroc_interval"] = _auroc_interval(asked, friends, strangers)
    return OpenSetResult(
        _result(figures, asked, friends, len(gallery)),
        _result({"false_accepts": believed}, asked, strangers, len(gallery)),
        more, asked, believed,
    )  # fmt: skip


def _result(figures, asked: Asked, rows, items: int) -> RetrievalResult | None:
    if not len(rows):
        return None
    values = {name: value[rows].astype("float64") for name, value in figures.items()}
    labels = np.array([asked.own[row] for row in rows.tolist()])
    return RetrievalResult(values, labels, rows, {}, items, 0, {})


def _auroc(friends: np.ndarray, strangers: np.ndarray) -> float:
    """The share of pairs in which the friend scores higher; a tie is half of one."""
    ordered = np.sort(strangers)
    below = np.searchsorted(ordered, friends, "left") + np.searchsorted(ordered, friends, "right")
    return float(below.mean() / 2 / len(strangers))


def _auroc_interval(
    asked: Asked, friends: np.ndarray, strangers: np.ndarray
) -> tuple[float, float] | None:
    rng = np.random.default_rng(0)

    def drawn(rows: np.ndarray) -> Iterator[np.ndarray]:
        for some in resamples([asked.own[row] for row in rows.tolist()], rng):
            yield asked.similarity[rows[some]]

    # Shorter where either is of one identity: then there is nothing.
    pairs = zip(drawn(friends), drawn(strangers), strict=False)
    return interval_of([_auroc(*pair) for pair in pairs])
