"""A set as a report looks at it: rankings, names and pictures of one evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import tensorflow as tf

from keras_featx.data import faults
from keras_featx.data.samples import Samples
from keras_featx.evaluation import Evaluation, Ranked, ranked
from keras_featx.labelled import Matches
from keras_featx.matching import find_matches
from keras_featx.neighbours import ranked_neighbours
from keras_featx.report.page import text
from keras_featx.report.pictures import picture_address
from keras_featx.sections import MetricSection

NEIGHBOURS = 5
# Pixels of a picture's long side.
_SIDE = 160


@dataclass(frozen=True, eq=False)
class View:
    """An evaluation with the rankings behind its figures.

    Attributes:
        found: The evaluation.
        ranked: What was ranked.
        matches: Where in its ranking each query finds its identity.
        similarities: Cosines of each query and its nearest, float32 ``(queries, NEIGHBOURS)``.
        rows: Their gallery rows; -1 where a ranking is shorter.
        picture: From ``"query"`` or ``"gallery"`` and a row to the HTML of a picture.
    """

    found: Evaluation
    ranked: Ranked
    matches: Matches
    similarities: np.ndarray
    rows: np.ndarray
    picture: Callable[[str, int], str]

    @property
    def scored(self) -> np.ndarray:
        """Queries that could be right, bool ``(queries,)``."""
        return self.matches.counts > 0

    @property
    def right(self) -> np.ndarray:
        """Queries whose nearest image is of their identity, bool ``(queries,)``."""
        right = self.scored.copy()
        right[right] = self.matches.ranks[self.matches.starts[:-1][right]] == 1
        return right

    @property
    def taken_for(self) -> np.ndarray:
        """The label of each query's nearest image; -1 where there is none."""
        labels = self.ranked.gallery.labels[self.rows[:, 0]]
        return np.where(self.rows[:, 0] < 0, -1, labels)

    def example(self, label: int) -> str:
        """A picture of an identity: of its first query or, without one, of its first entry."""
        for part in ("query", "gallery"):
            rows = np.flatnonzero(getattr(self.ranked, part).labels == label)
            if len(rows):
                return self.picture(part, int(rows[0]))
        return ""

    def name(self, label: int) -> str:
        """What an identity is called."""
        if label < 0:
            return "nobody known"
        return str(label) if self.ranked.names is None else str(self.ranked.names[label])

    def label(self, name: int | str) -> int:
        """The label of an identity as results call it."""
        names = self.ranked.names
        return int(name if names is None else np.flatnonzero(names == name)[0])


def make_view(section: MetricSection, found: Evaluation) -> View:
    """Rank anew what was measured: the same embeddings, the same exclusions, the same order."""
    vectors = (found.query_embeddings, found.gallery_embeddings)
    order = ranked(section, found.query, found.gallery, *vectors)
    matches = find_matches(order.query, order.gallery, distances=order.distances)
    values, rows = ranked_neighbours(order.query, order.gallery, NEIGHBOURS, order.distances)
    return View(found, order, matches, values, rows, _pictures(found))


def file_name(samples: Samples, row: int) -> str:
    """The end of an image's path: its folder and its name."""
    return "/".join(PurePath(samples.paths[row]).parts[-2:])


def _pictures(found: Evaluation) -> Callable[[str, int], str]:
    known: dict[tuple[str, int], str] = {}

    def picture(part: str, row: int) -> str:
        if (part, row) not in known:
            known[part, row] = _picture(getattr(found, part), row)
        return known[part, row]

    return picture


def _picture(samples: Samples, row: int) -> str:
    name = text(file_name(samples, row))
    try:
        address = picture_address(samples, row, _SIDE)
    except (OSError, tf.errors.OpError) as error:
        reason = faults.reason_of(samples, row) or str(error)
        return f'<span class="picture" title="{name}">cannot be read: {text(reason)}</span>'
    return f'<img class="picture" src="{address}" alt="{name}" title="{name}"/>'
