"""Labels that are likely wrong: the images that a network finds most similar have another one.

Every other image of the list votes for its label with weight ``exp(cosine / 0.15)``, and the votes
for a label are divided by its images, so that large identities do not outvote small ones. Copies of
an image have no vote on it. A label is suspect where another one gets four times the votes of its
own. On grocery photos with 5 % of the labels drawn anew, half of these suspects are right, where a
vote of the ten nearest neighbours has one right of five at the same recall.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from keras_featx.data.samples import Samples
from keras_featx.doctor.findings import Finding, Part, label_name
from keras_featx.embedding import embed
from keras_featx.models import build_model
from keras_featx.progress import progress
from keras_featx.sections import Config

# Of cosines, after the mean of all embeddings is taken out.
_TEMPERATURE = 0.15
# Share of the votes that the other label must have among itself and the own one.
SUSPECT = 0.8
_SHOWN, _ROWS = 3, 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Votes:
    """What the others say of each image.

    Attributes:
        share: Of the votes for the best other label among those for it and for the own one, 0 to
            1; NaN where no other image has the own label.
        label: The best other label.
        closest: int64 ``(images, 3)``: the most similar images of that label; -1 where it has
            fewer.
    """

    share: np.ndarray
    label: np.ndarray
    closest: np.ndarray


def find(parts: Sequence[Part], group: Sequence[np.ndarray], model: Config):
    """Suspect labels, and a sentence on how well the network knows the images.

    Training images vote on each other, and those of query and gallery on each other.

    Args:
        parts: The lists.
        group: For each part, equal numbers for copies.
        model: Config of the network, with its weights.
    """
    extractor = build_model(model)
    found: list[Finding] = []
    told = []
    for names in (("train",), ("query", "gallery")):
        some = [(p, g) for p, g in zip(parts, group, strict=True) if p.name in names]
        if not some:
            continue
        voters = [(part, place) for part, _ in some for place in np.flatnonzero(part.usable)]
        embeddings = np.concatenate(
            [embed(extractor, _usable(part), model.Arch.Preprocess) for part, _ in some]
        )
        labels, known = _common_labels([part for part, _ in some])
        copies = np.concatenate([own[part.usable] for part, own in some])
        votes = vote(embeddings, labels, copies)
        found += _findings(votes, voters, known)
        sure = np.isfinite(votes.share)
        agree = 100 * float((votes.share[sure] < 0.5).mean()) if sure.any() else 0.0
        told.append(f"{agree:.0f} % of {' and '.join(part.name for part, _ in some)}")
    remark = (
        f"Wrong labels were looked for with {model.Global.pretrained_model}. Most similar to "
        f"others of their own label are {', '.join(told)}: the more, the more suspects are right."
    )
    log.info("%s", remark)
    return found, remark


def _usable(part: Part) -> Samples:
    return part.samples.take(np.flatnonzero(part.usable))


def _common_labels(parts: Sequence[Part]) -> tuple[np.ndarray, list[str]]:
    """Labels of the usable images of several lists by name, numbered anew, and the names."""
    number: dict[str, int] = {}
    labels = []
    for part in parts:
        used, place = np.unique(part.samples.labels[part.usable], return_inverse=True)
        own = [number.setdefault(label_name(part.samples, x), len(number)) for x in used.tolist()]
        labels.append(np.array(own, np.int64)[place.reshape(-1)])
    return np.concatenate(labels), list(number)


def _findings(votes: Votes, voters: list[tuple[Part, int]], names: list[str]) -> Iterator[Finding]:
    for i in np.flatnonzero(votes.share > SUSPECT).tolist():
        part, place = voters[i]
        image, better = part.ref(place), names[votes.label[i]]
        shown = [voters[j] for j in votes.closest[i].tolist() if j >= 0]
        yield Finding(
            "wrong_labels",
            image,
            f"label {image.label!r}, but most like {better!r}",
            tuple(other.ref(at) for other, at in shown),
            round(float(votes.share[i]), 4),
            better,
        )


def vote(embeddings: np.ndarray, labels: np.ndarray, copies: np.ndarray) -> Votes:
    """Let all images vote on each other.

    All pairs are compared: under a minute for 50,000 images on two cores, four times that for
    twice as many.

    Args:
        embeddings: ``(images, size)``, unit norm.
        labels: int64 ``(images,)``, each from 0 to the largest.
        copies: ``(images,)``: equal for copies, which have no vote on each other.

    Example:
        >>> import numpy as np
        >>> from keras_featx.doctor.wrong_labels import vote
        >>> turns = np.array([0.0, 0.1, 0.2, 2.0, 2.1, 2.2])
        >>> embeddings = np.stack([np.cos(turns), np.sin(turns)], 1)
        >>> votes = vote(embeddings, np.array([0, 0, 1, 1, 1, 1]), np.arange(6))
        >>> (votes.share > 0.8).tolist()
        [False, False, True, False, False, False]
    """
    order = np.argsort(labels, kind="stable")
    labels, copies = labels[order], copies[order]
    vectors = embeddings[order] - embeddings.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    vectors = vectors.astype(np.float32)
    count = np.bincount(labels)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    share, best = np.full(len(labels), np.nan), np.zeros(len(labels), np.int64)
    closest = np.full((len(labels), _SHOWN), -1)
    firsts = range(0, len(labels), _ROWS)
    for first in progress(firsts, total=len(firsts), what="voting"):
        rows = np.arange(first, min(first + _ROWS, len(labels)))
        weight = np.exp((vectors[rows] @ vectors.T - 1) / _TEMPERATURE)
        voters = np.tile(count, (len(rows), 1))
        for i, row in enumerate(rows):
            same = np.flatnonzero(copies == copies[row])
            weight[i, same] = 0
            np.subtract.at(voters[i], labels[same], 1)
        found = _density(weight, voters, start)
        at = np.arange(len(rows))
        own = found[at, labels[rows]].copy()
        found[at, labels[rows]] = -1
        best[rows] = found.argmax(axis=1)
        other = found[at, best[rows]]
        several = (voters[at, labels[rows]] > 0) & (other > 0)
        share[rows[several]] = (other / np.maximum(other + own, 1e-30))[several]
        for i, row in enumerate(rows):
            if share[row] > SUSPECT:
                some = np.arange(start[best[row]], start[best[row]] + count[best[row]])
                nearest = some[np.argsort(-weight[i, some], kind="stable")][:_SHOWN]
                nearest = nearest[weight[i, nearest] > 0]
                closest[row, : len(nearest)] = order[nearest]
    back = np.argsort(order)
    return Votes(share[back], best[back], closest[back])


def _density(weight: np.ndarray, voters: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Mean weight of the voters of each label: ``(rows, labels)``.

    One vote of mean weight is added to each, lest a single image decide.
    """
    votes = np.add.reduceat(weight, start, axis=1)
    mean = votes.sum(axis=1, keepdims=True) / np.maximum(voters.sum(axis=1, keepdims=True), 1)
    return (votes + mean) / (voters + 1)
