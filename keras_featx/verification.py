"""Are two images of one identity? All pairs of query and gallery, judged by their similarity.

A *genuine* pair is of one identity, an *impostor* pair of two. Pairs that rankings exclude, and
those of another group, are neither. All pairs are counted, in memory that does not grow with them:
similarities of unit vectors, rounded from float64, are compared in steps of 2**-16.
"""

from dataclasses import dataclass

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled, Matches
from keras_featx.matching import same_label
from keras_featx.search import BLOCKS, check_vectors
from keras_featx.similarities import pair_values

# Steps from -1 to 1.
STEPS = 2**17
_QUERIES = 256
# Unit vectors in half precision are not farther from it.
_UNIT_SLACK = 2e-3


@dataclass(frozen=True)
class Pairs:
    """All pairs by similarity.

    Attributes:
        genuine: The step of each genuine pair, int64 ``(pairs,)``, in the order of the matches.
        impostor: How many impostor pairs there are at each step, int64 ``(STEPS,)``.
    """

    genuine: np.ndarray
    impostor: np.ndarray


def roc_auc(pairs: Pairs) -> dict[str, np.ndarray]:
    """The area under the ROC curve: how often a genuine pair is more similar than an impostor.

    Of a genuine pair: the share of impostor pairs at lower steps, those at its own counting half.
    The figure is the mean over genuine pairs.

    Example:
        >>> import numpy as np
        >>> from keras_featx.verification import Pairs, roc_auc, steps_of
        >>> impostor = np.bincount(steps_of([0.1, 0.5, 0.7, 0.7]), minlength=2**17)
        >>> roc_auc(Pairs(steps_of([0.9, 0.5]), impostor))["roc_auc"]
        array([1.   , 0.375])
    """
    below = np.cumsum(pairs.impostor) - pairs.impostor / 2
    return {"roc_auc": below[pairs.genuine] / pairs.impostor.sum()}


def tar_at_far(
    pairs: Pairs, *, far: tuple[float, ...] = (0.01, 0.001)
) -> dict[str, np.ndarray | float]:
    """TAR@FAR: the share of genuine pairs accepted where few impostor pairs are.

    The threshold is the lowest step at and above which no more than ``far`` of the impostor pairs
    lie; pairs at or above it are accepted.

    Args:
        pairs: All pairs.
        far: False accept rates, each in (0, 1).

    Returns:
        ``tar@far=RATE`` of each genuine pair, 0 or 1, and ``threshold@far=RATE``, a cosine. Where
        even the highest step has too many impostors the threshold is 1 and nothing is accepted.

    Example:
        >>> import numpy as np
        >>> from keras_featx.verification import Pairs, steps_of, tar_at_far
        >>> impostor = np.bincount(steps_of(np.linspace(-1, 0.5, 100)), minlength=2**17)
        >>> found = tar_at_far(Pairs(steps_of([0.9, 0.3]), impostor), far=(0.01,))
        >>> found["tar@far=0.01"], found["threshold@far=0.01"] < 0.5
        (array([1., 0.]), True)
    """
    found: dict[str, np.ndarray | float] = {}
    for rate in far:
        if not 0 < rate < 1:
            raise ConfigError(f"far: expected rates in (0, 1), got {rate}")
        accepted = np.cumsum(pairs.impostor[::-1])[::-1]  # at this step and above
        step = int(np.count_nonzero(accepted > rate * pairs.impostor.sum()))
        found[f"tar@far={rate:g}"] = (pairs.genuine >= step).astype("float64")
        found[f"threshold@far={rate:g}"] = step * 2 / STEPS - 1
    return found


PAIR_METRICS = (roc_auc, tar_at_far)


def steps_of(similarities: np.ndarray) -> np.ndarray:
    """From similarities to steps, 0 to ``STEPS - 1``."""
    steps = np.floor((np.asarray(similarities, "float64") + 1) * (STEPS / 2))
    return np.clip(steps, 0, STEPS - 1).astype("int64")


def count_pairs(
    query: Labelled, gallery: Labelled, matches: Matches, rows: int = BLOCKS[1]
) -> Pairs:
    """Count all pairs.

    Args:
        query: Unit vectors.
        gallery: Unit vectors.
        matches: What :func:`keras_featx.matching.find_matches` found: the genuine pairs.
        rows: Gallery rows of a matrix product.

    Raises:
        ConfigError: If there are no unit vectors, or no impostor pair.
    """
    for name, norms in zip(
        ("query", "gallery"), check_vectors(query.embeddings, gallery.embeddings), strict=True
    ):
        far = np.abs(norms - 1)
        if far.max(initial=0) > _UNIT_SLACK:
            row = int(far.argmax())
            raise ConfigError(
                f"{name}: expected unit vectors to judge pairs, got a norm of {norms[row]:g} in "
                f"row {row}"
            )
    by_label = np.argsort(gallery.labels, kind="stable")
    counts = np.zeros(STEPS + 1, "int64")
    for start in range(0, len(query.labels), _QUERIES):
        part = slice(start, start + _QUERIES)
        block = query.take(part)
        owners, mates = same_label(block.labels, gallery.labels[by_label], by_label)
        left = block.embeddings.astype("float64")
        for first in range(0, len(gallery.labels), rows):
            there = slice(first, first + rows)
            # Rounded as those of genuine pairs are.
            similar = (left @ gallery.embeddings[there].astype("float64").T).astype("float32")
            steps = steps_of(similar)
            inside = (mates >= first) & (mates < first + steps.shape[1])
            steps[owners[inside], mates[inside] - first] = STEPS
            if query.groups is not None:
                steps[block.groups[:, None] != gallery.groups[there]] = STEPS
            # Two images of nobody known may be of one identity.
            steps[np.ix_(block.labels < 0, gallery.labels[there] < 0)] = STEPS
            counts += np.bincount(steps.ravel(), minlength=STEPS + 1)
    impostor = counts[:STEPS]
    if not impostor.any():
        raise ConfigError("expected pairs of two identities to judge pairs, got one identity")
    owners = np.repeat(np.arange(len(query.labels)), matches.counts)
    values = pair_values(
        "inner_product", query.embeddings, gallery.embeddings, owners, matches.rows
    )
    return Pairs(steps_of(values), impostor)
