"""Which queries and identities a report shows."""

from typing import NamedTuple

import numpy as np


class Confusion(NamedTuple):
    """An identity whose queries are taken for another.

    Attributes:
        label: Of the queries.
        taken_for: Of the image that comes first.
        count: Queries of the one taken for the other.
        queries: All queries of the identity that could be scored.
        example: The most similar of those queries, a row.
    """

    label: int
    taken_for: int
    count: int
    queries: int
    example: int


def surest(
    wanted: np.ndarray, similarities: np.ndarray, labels: np.ndarray, most: int
) -> np.ndarray:
    """The wanted queries of the highest similarities, of each identity at most one.

    Args:
        wanted: bool ``(queries,)``.
        similarities: Of each query and its first neighbour ``(queries,)``.
        labels: ``(queries,)``.
        most: How many at most.

    Returns:
        Rows, the most similar first; of equal ones the lower row.

    Example:
        >>> import numpy as np
        >>> from keras_featx.report.panels import surest
        >>> wanted = np.array([True, True, True, False])
        >>> surest(wanted, np.array([0.2, 0.9, 0.8, 1.0]), np.array([4, 7, 7, 4]), 2).tolist()
        [1, 0]
    """
    rows = np.flatnonzero(wanted)
    rows = rows[np.argsort(-similarities[rows], kind="stable")]
    first = np.unique(labels[rows], return_index=True)[1]
    return rows[np.sort(first)][:most]


def confusions(
    labels: np.ndarray, taken_for: np.ndarray, similarities: np.ndarray, scored: np.ndarray
) -> list[Confusion]:
    """Pairs of identities by how many queries of one are taken for the other, most first.

    Of equal counts the one of the larger share comes first, then the lower labels.

    Args:
        labels: Of the queries ``(queries,)``.
        taken_for: Labels of their first neighbours; negative ones are all one: of nobody known.
        similarities: Of the two.
        scored: Queries that could have been right, bool ``(queries,)``.
    """
    taken_for = np.maximum(taken_for, -1)
    wrong = np.flatnonzero(scored & (taken_for != labels))
    wrong = wrong[np.argsort(-similarities[wrong], kind="stable")]
    pairs = np.stack([labels[wrong], taken_for[wrong]], axis=1)
    pairs, first, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    numbers, all_queries = np.unique(labels[scored], return_counts=True)
    of_label = all_queries[np.searchsorted(numbers, pairs[:, 0])]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -counts / of_label, -counts))
    return [
        Confusion(*map(int, (*pairs[i], counts[i], of_label[i], wrong[first[i]]))) for i in order
    ]
