"""What a data set is to the rest of the package: images that can be fetched by row, with labels."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from keras_featx import components
from keras_featx.data import files
from keras_featx.errors import ConfigError
from keras_featx.sections import Component


@dataclass(frozen=True)
class Problem:
    """A row of a list that cannot be used.

    Attributes:
        source: The list.
        row: Of the list, from 1.
        what: What was expected and what came.
        kind: ``row`` (it cannot be read) or ``missing`` (there is no such image).
        path: The image that is missing.
    """

    source: str
    row: int
    what: str
    kind: str = "row"
    path: str = ""


@dataclass(frozen=True)
class Samples:
    """Images with their identities. An image is a file, a part of a file, or an array in memory.

    Attributes:
        source: The list, folder or shards they came from, for messages.
        paths: The file of each image; for arrays, a name for messages.
        labels: int64 ``(images,)``, from 0.
        rows: int64 ``(images,)``: row of each image in the list, from 1.
        ids: Image ids ``(images,)``, where the list has them.
        names: Class name of each label, where the source has names.
        turns: Quarter turns to give each image, see :func:`turned_identities`.
        cameras: Camera of each image, where the list has them.
        groups: Group of each image, where the list has them: a query is looked up in the gallery's
            part of its group only. Training has no use for them.
        boxes: int64 ``(images, 4)``: left, top, right, bottom in pixels of the upright image, the
            part that is used; all zero for the whole image.
        spans: int64 ``(images, 2)``: offset and length in bytes of each image in its file, where
            a file holds several.
        pixels: The images themselves, uint8 ``(height, width, 3)`` each, where they are in memory.
    """

    source: str
    paths: list[str]
    labels: np.ndarray
    rows: np.ndarray
    ids: np.ndarray | None = None
    names: list[str] | None = None
    turns: np.ndarray | None = None
    cameras: np.ndarray | None = None
    groups: np.ndarray | None = None
    boxes: np.ndarray | None = None
    spans: np.ndarray | None = None
    pixels: Sequence[np.ndarray] | None = None

    def __post_init__(self):
        object.__setattr__(self, "rows", np.asarray(self.rows, np.int64))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def class_num(self) -> int:
        """Largest label plus one."""
        return int(self.labels.max()) + 1

    def take(self, rows: Sequence[int] | np.ndarray) -> "Samples":
        """The samples at these places, in this order; a place may come twice.

        Example:
            >>> import numpy as np
            >>> from keras_featx.data.samples import Samples
            >>> Samples("list", ["a", "b", "c"], np.array([0, 1, 2]), [1, 2, 4]).take([2, 0]).paths
            ['c', 'a']
        """
        rows = np.asarray(rows, np.int64)
        changed = {"labels": self.labels[rows], "rows": self.rows[rows]}
        for name in ("ids", "turns", "cameras", "groups", "boxes", "spans"):
            value = getattr(self, name)
            changed[name] = None if value is None else value[rows]
        places = rows.tolist()
        changed["paths"] = [self.paths[row] for row in places]
        if self.pixels is not None:
            changed["pixels"] = [self.pixels[row] for row in places]
        return dataclasses.replace(self, **changed)

    def title(self, row: int) -> str:
        """An image for a message: its file, or the list and the row where files hold several."""
        if self.spans is None and self.pixels is None:
            return self.paths[row]
        return f"{self.paths[row]} (row {self.rows[row]} of {self.source})"

    def images(self) -> Iterator[tuple]:
        """What makes each image another: file, place in it, box."""
        rest = [
            map(tuple, value.tolist()) if value is not None and value.ndim > 1 else value
            for value in (self.spans, self.boxes)
        ]
        empty = [None] * len(self)
        return zip(self.paths, *(empty if v is None else v for v in rest), strict=True)


def read_image(samples: Samples, row: int) -> bytes:
    """An encoded image that is not in memory.

    Raises:
        OSError: Where it cannot be read.
    """
    if samples.spans is None:
        return files.read_bytes(samples.paths[row])
    return files.read_range(samples.paths[row], *samples.spans[row].tolist())


def load_samples(dataset: Component, path: str, problems: list[Problem] | None = None) -> Samples:
    """Read and check the data set a config names.

    Args:
        dataset: Name and arguments of a registered data set.
        path: The config's key, for messages.
        problems: Where to put rows that cannot be used. Without it, the first one is an error.

    Raises:
        ConfigError: With the file and row, what was expected and what came.
    """
    try:
        return components.builder("dataset", dataset.name, path)(problems, **dataset.args)
    except OSError as error:
        raise ConfigError(f"{path}: {error.filename}: {error.strerror}") from None


def refuse(
    problems: list[Problem] | None, source: str, row: int, what: str, kind: str = "row"
) -> None:
    """Raise a problem, or put it with the others where they are collected."""
    if problems is None:
        raise ConfigError(f"{source}:{row}: {what}")
    problems.append(Problem(source, row, what, kind))


def check_labels(samples: Samples, class_num: int | None, key: str) -> int:
    """The number of classes of a training list, checked against what a config states.

    Raises:
        ConfigError: A label outside ``[0, class_num)``, with its row; or a ``class_num`` the list
            does not reach.
    """
    if class_num is None:
        return samples.class_num
    outside = np.flatnonzero(samples.labels >= class_num)
    if len(outside):
        i = int(outside[0])
        raise ConfigError(
            f"{samples.source}:{samples.rows[i]}: label {samples.labels[i]} is outside "
            f"[0, {class_num}), the classes of {key} ({len(outside)} such rows)"
        )
    if samples.class_num != class_num:
        raise ConfigError(
            f"{key}: expected {samples.class_num}, as the labels of {samples.source} go from 0 to "
            f"{samples.class_num - 1}, got {class_num}"
        )
    return class_num


def turned_identities(samples: Samples) -> Samples:
    """Each image four times, turned by 0, 90, 180 and 270 degrees, as four identities.

    More identities to tell apart make a better embedder where each has few images (class
    augmentation, as in arXiv:1606.04080). Identity ``i`` turned ``t`` times gets label
    ``4 * i + t``.
    """
    turns = np.tile(np.arange(4), len(samples))
    four = samples.take(np.repeat(np.arange(len(samples)), 4))
    names = samples.names and [f"{n} turned {90 * t}" for n in samples.names for t in range(4)]
    return dataclasses.replace(four, labels=4 * four.labels + turns, names=names, turns=turns)


def join(root: str | os.PathLike, name: str) -> str:
    """A path of a list below its ``image_root``; absolute paths and addresses stay as they are."""
    return name if "://" in name else os.path.join(root, name)


def join_all(root: str | os.PathLike, names: list[str]) -> None:
    """Put paths of a list below its ``image_root``, in place, as a list may be long.

    Absolute paths and addresses stay as they are.

    Example:
        >>> from keras_featx.data.samples import join_all
        >>> paths = ["a.jpg", "/b.jpg", "gs://c.jpg"]
        >>> join_all("photos", paths)
        >>> paths
        ['photos/a.jpg', '/b.jpg', 'gs://c.jpg']
    """
    prefix = os.path.join(root, "")
    for first in range(0, len(names), 2**16):
        some = slice(first, first + 2**16)
        names[some] = [
            name if name.startswith("/") or "://" in name else prefix + name for name in names[some]
        ]
