"""Recognition in scenes: parts of a picture are looked up in a gallery, each on its own.

Where to look comes from given boxes, from a detector, or from windows that slide over the picture.
What was found several times at one place is kept once (greedy non-maximum suppression).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_featx import images
from keras_featx.data import faults
from keras_featx.data.memory import rgb
from keras_featx.data.samples import Samples, read_image
from keras_featx.errors import ConfigError, RunError
from keras_featx.extractors import Extractor
from keras_featx.gallery.opened import Match, Opened
from keras_featx.gallery.regions import check_boxes, suppress, windows
from keras_featx.sections import PreprocessSection

# From the upright picture, uint8 (height, width, 3), to boxes (n, 4), or to a pair of boxes and
# their scores (n,). `np.clip(boxes, 0, [width, height] * 2)` cuts those that reach out of it.
Detector = Callable[[np.ndarray], Any]
# From the nearest items, best first, to what has an `identity`, or none, and a `similarity`.
Decide = Callable[[list[Match]], Any]


@dataclass(frozen=True)
class Found:
    """A part of a picture, and whose it is.

    Attributes:
        box: Left, top, right and bottom in pixels of the upright picture.
        identity: Or ``None``: of nobody known.
        similarity: Cosine that it was decided by; ``None`` where the gallery is empty.
        matches: Its nearest items, best first.
        score: What the detector thinks of the box, where it says so.
    """

    box: tuple[int, int, int, int]
    identity: str | None
    similarity: float | None
    matches: list[Match]
    score: float | None = None


@dataclass(frozen=True)
class Nearest:
    """A decision by the nearest item.

    Attributes:
        identity: Its identity, or ``None`` below the threshold.
        similarity: To it; ``None`` where there is no item.
    """

    identity: str | None
    similarity: float | None


def by_threshold(threshold: float) -> Decide:
    """Decide for the identity of the nearest item, from a similarity on.

    Example:
        >>> from keras_featx.gallery.opened import Match
        >>> from keras_featx.gallery.scenes import by_threshold
        >>> near, far = Match("a.jpg", "ant", 0.9, {}), Match("b.jpg", "bee", 0.4, {})
        >>> decide = by_threshold(0.5)
        >>> decide([near, far]).identity, decide([far]).identity
        ('ant', None)
    """

    def decide(matches: list[Match]) -> Nearest:
        if not matches:
            return Nearest(None, None)
        best = matches[0]
        return Nearest(best.identity if best.similarity >= threshold else None, best.similarity)

    return decide


def recognise(
    gallery: Opened,
    extractor: Extractor,
    image: str | os.PathLike | np.ndarray,
    boxes: Any = None,
    detector: Detector | None = None,
    *,
    decide: Decide | None = None,
    k: int = 5,
    overlap: float | None = 0.5,
    across: bool = False,
    unknown: bool = True,
    backend: Any = None,
) -> list[Found]:
    """Find identities of a gallery in a picture.

    Args:
        gallery: Embeddings of the same model.
        extractor: Embeds each part as it embeds any image.
        image: A file, which is decoded once; or pixels ``(height, width, 3)`` in 0..255.
        boxes: Where to look: ``(n, 4)``, left, top, right and bottom in pixels of the upright
            picture, rounded outward.
        detector: Finds boxes. Without both, :func:`windows` of the picture.
        decide: From the nearest items to an answer with ``identity`` and ``similarity``; by default
            :func:`by_threshold` with the ``threshold`` of the gallery's settings.
        k: Neighbours of each part.
        overlap: Of two boxes of one identity whose intersection over union is larger, the less
            similar one is left out; ``None`` keeps all.
        across: Leave out boxes of other identities, too, and of nobody known, where a better one
            overlaps; an identity is better than none.
        unknown: Keep what is of nobody known.
        backend: Of :meth:`Opened.search`.

    Returns:
        Those of an identity first, the most similar first; of equal ones the earlier box.

    Raises:
        ConfigError: On a model of another fingerprint, a box that is not inside the picture, or
            without a way to decide.
        RunError: If the file cannot be read or decoded.

    Example:
        >>> from keras_featx import Gallery
        >>> from keras_featx.data.pipeline import as_samples
        >>> from keras_featx.extractors import open_extractor
        >>> from keras_featx.gallery.scenes import recognise
        >>> extractor = open_extractor("emoji-lcnet-x0_5")
        >>> ant, folder = "keras_featx/assets/emoji_mini/test/ant/noto.png", "output/example_scenes"
        >>> shelf = Gallery.create(folder, extractor.fingerprint, size=256, overwrite=True)
        >>> shelf.add(["ant"], ["ant"], next(extractor.embed(as_samples([ant]))))
        1
        >>> shelf.set(threshold=0.5)
        >>> (found,) = recognise(shelf, extractor, ant, [[0, 0, 64, 64]])
        >>> found.box, found.identity
        ((0, 0, 64, 64), 'ant')
    """
    gallery.check_fingerprint(extractor.fingerprint)
    decide = _default(gallery) if decide is None else decide
    if overlap is not None and not 0 <= overlap <= 1:
        raise ConfigError(f"overlap: expected a fraction in [0, 1], got {overlap}")
    name, pixels = _decoded(image, extractor.preprocess)
    where, scores = _places(name, pixels, boxes, detector)
    if not len(where):
        return []
    samples = _parts(image, name, pixels, where, extractor.preprocess)
    vectors = np.concatenate(list(extractor.embed(samples)))
    found = []
    for box, score, matches in zip(
        where.tolist(), scores, gallery.search(vectors, k, backend), strict=True
    ):
        answer = decide(matches)
        found.append(Found(tuple(box), answer.identity, answer.similarity, matches, score))
    found.sort(key=_order)
    if overlap is not None:
        groups = [0 if across else one.identity for one in found]
        found = [found[row] for row in suppress([one.box for one in found], groups, overlap)]
    return [one for one in found if unknown or one.identity is not None]


def _order(one: Found) -> tuple[bool, float]:
    return one.identity is None, np.inf if one.similarity is None else -one.similarity


def _default(gallery: Opened) -> Decide:
    threshold = gallery.settings.get("threshold")
    if threshold is None:
        raise ConfigError(
            f"{gallery.store.folder}: threshold: expected one in the settings of the gallery, or "
            "another way to decide, got none"
        )
    return by_threshold(threshold)


def _decoded(image: Any, preprocess: PreprocessSection) -> tuple[str, np.ndarray]:
    """What to call it, and its pixels."""
    if not isinstance(image, str | os.PathLike):
        return "image", rgb(image, "image")
    path = os.fspath(image)
    alone = Samples(path, [path], np.zeros(1, np.int64), np.ones(1))
    try:
        data = tf.constant(read_image(alone, 0))
        return path, images.decode(data, None, preprocess).numpy()
    except (OSError, tf.errors.OpError) as error:
        reason = faults.reason_of(alone, 0) or str(error)
        raise RunError(f"{path}: expected a decodable image: {reason}") from None


def _places(
    name: str, pixels: np.ndarray, boxes: Any, detector: Detector | None
) -> tuple[np.ndarray, list[float | None]]:
    """Where to look, and scores."""
    size = pixels.shape[:2]
    if boxes is not None and detector is not None:
        raise ConfigError(f"{name}: expected boxes or a detector, got both")
    scores = None
    if detector is not None:
        boxes = detector(pixels)
        if isinstance(boxes, tuple):
            boxes, scores = boxes
    elif boxes is None:
        boxes = windows(size)
    where = check_boxes(boxes, size, name)
    if scores is None:
        return where, [None] * len(where)
    scores = np.asarray(scores, "float64")
    if scores.shape != (len(where),):
        raise ConfigError(f"{name}: expected {len(where)} scores, one a box, got {scores.shape}")
    return where, scores.tolist()


def _parts(
    image: Any, name: str, pixels: np.ndarray, boxes: np.ndarray, preprocess: PreprocessSection
) -> Samples:
    """Each box as an image."""
    parts = Samples(
        name, [name] * len(boxes), np.zeros(len(boxes), np.int64), np.arange(len(boxes))
    )
    if isinstance(image, str | os.PathLike) and preprocess.reduced_decoding:
        return replace(parts, boxes=boxes)  # how a file is decoded depends on the box
    views = [pixels[top:bottom, left:right] for left, top, right, bottom in boxes.tolist()]
    return replace(parts, pixels=views)
