"""What is known of embeddings, and what a search of them found."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Labelled:
    """Embeddings with what is known of them.

    Attributes:
        embeddings: Float array ``(items, embedding_size)``.
        labels: Int array ``(items,)``. In a gallery, negative ones are distractors: of no identity
            that is looked for.
        ids: Image or camera ids ``(items,)`` or ``None``.
        cameras: Cameras ``(items,)``, where they are known besides the ids, or ``None``.
        groups: Groups ``(items,)`` or ``None``: a query is looked up in the gallery's part of its
            group only.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    ids: np.ndarray | None = None
    cameras: np.ndarray | None = None
    groups: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Labelled":
        """Some of the items."""
        return Labelled(*(x if x is None else x[rows] for x in vars(self).values()))


@dataclass(frozen=True)
class Matches:
    """The relevant entries of each query, ragged: those of query ``i`` lie from ``starts[i]`` on.

    Attributes:
        starts: int64 ``(queries + 1,)``.
        ranks: Their ranks, from 1, rising within a query; excluded entries have none.
        rows: Their rows in the gallery.
        similarities: Of the query and each, float32.
        entries: How many entries the ranking of each query has, int64 ``(queries,)``.
        excluded: How many were taken out of it.
    """

    starts: np.ndarray
    ranks: np.ndarray
    rows: np.ndarray
    similarities: np.ndarray
    entries: np.ndarray
    excluded: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Relevant entries of each query, int64 ``(queries,)``."""
        return np.diff(self.starts)


def nothing(count: int) -> Matches:
    """Of queries without a gallery."""
    none, zeros = np.zeros(0, "int64"), np.zeros(count, "int64")
    starts = np.zeros(count + 1, "int64")
    return Matches(starts, none, none, none.astype("float32"), zeros, zeros)


def stacked(parts: list[Matches]) -> Matches:
    """Matches of several sets of queries, one after the other."""
    parts = [nothing(0), *parts]
    ends = np.cumsum(np.concatenate([one.counts for one in parts]))
    names = ("ranks", "rows", "similarities", "entries", "excluded")
    columns = [np.concatenate([getattr(one, name) for one in parts]) for name in names]
    return Matches(np.concatenate([[0], ends]), *columns)


def reordered(matches: Matches, order: np.ndarray) -> Matches:
    """The queries put in another order: ``order`` tells where each stood."""
    counts = matches.counts[order]
    starts = np.concatenate([[0], np.cumsum(counts)])
    places = np.repeat(matches.starts[order] - starts[:-1], counts) + np.arange(starts[-1])
    return Matches(
        starts, matches.ranks[places], matches.rows[places], matches.similarities[places],
        matches.entries[order], matches.excluded[order],
    )  # fmt: skip
