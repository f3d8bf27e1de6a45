"""What an evaluation found: each figure with its interval, and what was counted and left out."""

import csv
import functools
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_featx.data import outputs
from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled, Matches
from keras_featx.matching import Distances, find_matches
from keras_featx.search import BLOCKS
from keras_featx.verification import Pairs, count_pairs

Metric = Callable[[Matches], dict[str, np.ndarray]]
PairMetric = Callable[[Pairs], dict[str, np.ndarray | float]]
# Resamples, and the part of them the interval leaves out on each side.
RESAMPLES = 1000
_TAIL = 0.025
_CHUNK = 4_000_000

NO_ENTRY = "no image of the identity in the gallery"
ALL_EXCLUDED = "all images of the identity excluded by id, camera or row"
NO_GROUP = "nothing in the gallery's part of the group"


@dataclass(frozen=True, eq=False)
class RetrievalResult(Mapping):
    """Figures by name, as of a dict, with what stands behind them.

    ``result["recall@1"]`` is the mean over the queries that could be scored, ``result["queries"]``
    their number, ``result["queries_without_match"]`` the number of the others and
    ``result["gallery"]`` the entries. ``str(result)`` is a table.

    Attributes:
        per_query: ``{name: float64 (scored queries,)}``.
        labels: Their labels.
        scored: Their rows among the queries.
        left_out: ``{reason: queries}``.
        gallery: Entries of the gallery.
        excluded: Entries that were taken out of rankings, over all queries.
        more: Other counts and figures, such as ``query_skipped``.
        weights: ``{name: float64 (scored queries,)}`` where queries do not count alike: figures of
            pairs weigh each query by its genuine pairs.
    """

    per_query: dict[str, np.ndarray]
    labels: np.ndarray
    scored: np.ndarray
    left_out: dict[str, int]
    gallery: int
    excluded: int
    more: dict[str, Any]
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float | int:
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def __str__(self) -> str:
        width = max(map(len, self.per_query))
        lines = [f"{'':{width}}   mean    95 % interval     mean of identities"]
        averaged = self.class_averaged()
        for name in self.per_query:
            low, high = self.intervals.get(name, (None, None))
            interval = "no interval     " if low is None else f"{low:.4f} to {high:.4f}"
            lines.append(f"{name:{width}}  {self[name]:.4f}  {interval}  {averaged[name]:.4f}")
        lines.append(
            f"{len(self.scored)} queries of {len(np.unique(self.labels))} identities, "
            f"{self.gallery} gallery images"
        )
        lines += [f"left out: {count} queries, {reason}" for reason, count in self.left_out.items()]
        lines += [f"{name}: {value}" for name, value in self.more.items()]
        return "\n".join(lines)

    @functools.cached_property
    def _figures(self) -> dict[str, float | int]:
        return {
            **{
                name: float(np.average(v, weights=self._weight(name)))
                for name, v in self.per_query.items()
            },
            "queries": len(self.scored),
            "queries_without_match": sum(self.left_out.values()),
            "gallery": self.gallery,
            **self.more,
        }

    @functools.cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the means, ``{name: (low, high)}``.

        Percentiles of 1,000 bootstrap resamples of the identities, each with all its queries, as
        the next data set will hold other identities. Empty with a single identity. Takes seconds
        with tens of thousands of identities, once.
        """
        names, sums, weights = self._by_identity
        if len(sums) < 2:
            return {}
        rng = np.random.default_rng(0)
        means, step = [], max(1, _CHUNK // len(sums))
        for start in range(0, RESAMPLES, step):
            size = min(step, RESAMPLES - start)
            drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size)
            means.append((drawn @ sums) / (drawn @ weights))
        bounds = np.quantile(np.concatenate(means), [_TAIL, 1 - _TAIL], axis=0)
        return {name: (float(a), float(b)) for name, a, b in zip(names, *bounds, strict=True)}

    def by_class(self) -> dict[int | str, dict[str, float | int]]:
        """``{label: {name: mean, ..., "queries": number}}``."""
        names, sums, weights = self._by_identity
        labels, counts = np.unique(self.labels, return_counts=True)
        return {
            label: dict(zip(names, row.tolist(), strict=True)) | {"queries": int(count)}
            for label, row, count in zip(labels.tolist(), sums / weights, counts, strict=True)
        }

    def class_averaged(self) -> dict[str, float]:
        """The mean over identities of their queries' mean: each identity counts alike."""
        names, sums, weights = self._by_identity
        return dict(zip(names, (sums / weights).mean(0).tolist(), strict=True))

    def _weight(self, name: str) -> np.ndarray:
        return self.weights.get(name, np.ones(len(self.scored)))

    @functools.cached_property
    def _by_identity(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Names, and sums of weighted values and of weights, ``(identities, names)``."""
        place = np.unique(self.labels, return_inverse=True)[1]
        weights = [self._weight(name) for name in self.per_query]
        sums = [
            np.bincount(place, v * w) for v, w in zip(self.per_query.values(), weights, strict=True)
        ]
        totals = [np.bincount(place, w) for w in weights]
        return list(self.per_query), np.stack(sums, 1), np.stack(totals, 1)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values of single queries and classes, fit for JSON."""
        averaged = self.class_averaged()
        return {
            "metrics": {
                name: {
                    "mean": self[name],
                    "interval": list(self.intervals[name]) if self.intervals else None,
                    "mean_of_identities": averaged[name],
                }
                for name in self.per_query
            },
            "queries": len(self.scored),
            "identities": len(np.unique(self.labels)),
            "gallery": self.gallery,
            "excluded_entries": self.excluded,
            "left_out": self.left_out,
            **self.more,
        }

    def write_json(self, path: str | os.PathLike) -> None:
        """Write :meth:`to_dict`."""
        outputs.write_bytes(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    def write_csv(self, path: str | os.PathLike) -> None:
        """Write a row for each scored query: its row, label and values."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["query", "label", *self.per_query])
        table.writerows(
            zip(self.scored.tolist(), self.labels.tolist(),
                *(v.tolist() for v in self.per_query.values()), strict=True)
        )  # fmt: skip
        outputs.write_bytes(path, text.getvalue().encode())


def score(
    query: Labelled,
    gallery: Labelled,
    functions: list[Metric],
    *,
    pair_functions: Sequence[PairMetric] = (),
    leave_one_out: bool = False,
    block_sizes: tuple[int, int] = BLOCKS,
    distances: Distances | None = None,
    more: dict[str, Any] | None = None,
) -> RetrievalResult:
    """Measure retrieval: each metric of each query that has a relevant gallery entry.

    Args:
        query: What is looked up.
        gallery: What it is looked up in.
        functions: Such as those of :mod:`keras_featx.metrics`.
        pair_functions: Such as those of :mod:`keras_featx.verification`.
        leave_one_out: Query and gallery are one set; a query does not find itself.
        block_sizes: See :func:`keras_featx.matching.find_matches`.
        distances: What to rank by instead of the inner product, see there. Pairs are judged by
            the inner product all the same.
        more: What else to tell in the result.

    Raises:
        ConfigError: If no query has a relevant gallery entry, or embeddings cannot be compared.

    Example:
        >>> import numpy as np
        >>> from keras_featx.labelled import Labelled
        >>> from keras_featx.metrics import recall_at_k
        >>> from keras_featx.results import score
        >>> points = Labelled(np.eye(3, dtype="float32"), np.array([0, 1, 2]))
        >>> score(points, points, [recall_at_k])["recall@1"]
        1.0
    """
    try:
        matches = find_matches(
            query,
            gallery,
            leave_one_out=leave_one_out,
            block_sizes=block_sizes,
            distances=distances,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    scored = np.flatnonzero(matches.counts)
    if not len(scored):
        grouped = "" if query.groups is None else " within groups"
        raise ConfigError(
            f"none of the {len(query.labels)} queries has an image of its identity in the gallery "
            f"({len(gallery.labels)} images): expected query and gallery to share labels{grouped}"
        )
    kept = with_match(matches)
    values = {}
    for function in functions:
        values |= function(kept)
    weights, more = {}, dict(more or {})
    pairs = count_pairs(query, gallery, matches, block_sizes[1]) if pair_functions else None
    for function in pair_functions:
        for name, found in function(pairs).items():
            if isinstance(found, float):
                more[name] = found
            else:
                values[name] = np.add.reduceat(found, kept.starts[:-1]) / kept.counts
                weights[name] = kept.counts.astype("float64")
    without = matches.counts == 0
    no_group = without & (matches.entries + matches.excluded == 0)
    reasons = {
        NO_GROUP: no_group,
        ALL_EXCLUDED: without & (matches.excluded > 0),
        NO_ENTRY: without & ~no_group & (matches.excluded == 0),
    }
    left_out = {reason: int(which.sum()) for reason, which in reasons.items() if which.any()}
    return RetrievalResult(
        values, query.labels[scored], scored, left_out, len(gallery.labels),
        int(matches.excluded.sum()), more, weights,
    )  # fmt: skip


def with_match(matches: Matches) -> Matches:
    """The queries that have a relevant entry; the others have no ragged part to lose."""
    kept = matches.counts > 0
    starts = np.concatenate([matches.starts[:-1][kept], matches.starts[-1:]])
    return Matches(
        starts, matches.ranks, matches.rows, matches.similarities,
        matches.entries[kept], matches.excluded[kept],
    )  # fmt: skip
