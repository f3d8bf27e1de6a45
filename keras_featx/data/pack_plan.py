"""Which image goes into which shard: fixed before the first is written, and never changed."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_featx._version import __version__
from keras_featx.data import files, outputs
from keras_featx.data.samples import Samples, join
from keras_featx.errors import ConfigError

VERSION = 1  # of what is written; another one does not go on with what this one began
SUFFIXES = {"tfrecord": "tfrecord", "tar": "tar"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to pack; see :func:`keras_featx.data.pack.pack`."""

    format: str = "tfrecord"
    shard_mb: float = 256.0
    short_side: int | None = None
    quality: int = 95
    lossless: bool = False

    def __post_init__(self):
        if self.format not in SUFFIXES:
            raise ConfigError(f"format: expected one of {list(SUFFIXES)}, got {self.format!r}")
        if not self.shard_mb > 0:
            raise ConfigError(f"shard_mb: expected more than 0, got {self.shard_mb}")
        if self.short_side is not None and self.short_side < 1:
            raise ConfigError(f"short_side: expected at least 1, got {self.short_side}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality: expected in 1..100, got {self.quality}")


@dataclass(frozen=True)
class Plan:
    """What a pack is made of.

    Attributes:
        folder: Where it is written.
        name: Of the set.
        options: How.
        source: The list.
        images: How many.
        classes: Largest label plus one.
        contents: A digest of each column of the list.
        bounds: First row of each shard, and the number of images at the end.
    """

    folder: str
    name: str
    options: Options
    source: str
    images: int
    classes: int
    contents: dict[str, str]
    bounds: list[int]

    @property
    def shards(self) -> list[str]:
        """Names of the shards."""
        count = len(self.bounds) - 1
        suffix = SUFFIXES[self.options.format]
        return [f"{self.name}-{k:05d}-of-{count:05d}.{suffix}" for k in range(count)]

    def path(self, ending: str) -> str:
        """A file of the set that is no shard."""
        return join(self.folder, f"{self.name}{ending}")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": VERSION,
            "package": f"keras_featx {__version__}",
            "options": dataclasses.asdict(self.options),
            "source": self.source,
            "images": self.images,
            "classes": self.classes,
            "contents": self.contents,
            "bounds": self.bounds,
        }


def make(
    samples: Samples,
    titles: list[str],
    sizes: np.ndarray,
    folder: str,
    name: str,
    options: Options,
    ratio: Callable[[], float],
) -> Plan:
    """The plan of a pack: the one that was begun there, or a new one, which is then written.

    Args:
        samples: The images.
        titles: Their names.
        sizes: int64 ``(images,)``, in bytes.
        folder: Where to pack to.
        name: Of the set.
        options: How.
        ratio: Tells how many bytes will be written for each of ``sizes``.

    Raises:
        ConfigError: If something else was begun there, with what differs.
    """
    check_name(name)
    contents = _digests(samples, titles, sizes)
    common = (folder, name, options, samples.source, len(samples), samples.class_num, contents)
    begun = stored(folder, name)
    if begun is not None:
        path, found = begun
        plan = Plan(*common, found["bounds"])
        _compare(path, found, plan.to_dict())
        return plan
    strange = [n for n in _names_in(folder) if re.fullmatch(rf"{re.escape(name)}-\d+-of-.*", n)]
    if strange:
        raise ConfigError(
            f"{join(folder, strange[0])}: expected no shards of this name, as none were begun "
            "here: pack into another folder, or remove them"
        )
    plan = Plan(*common, _bounds(sizes * ratio(), options.shard_mb * 2**20))
    outputs.make_folder(folder)
    outputs.write_bytes(plan.path(".plan.json"), to_json(plan.to_dict()))
    return plan


def check_name(name: str) -> None:
    """Refuse a name that does not make good file names."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name: expected letters, digits, '-', '_', '.', got {name!r}")


def stored(folder: str, name: str) -> tuple[str, dict[str, Any]] | None:
    """The manifest of a pack that is complete, or the plan of one that is not, with its path."""
    for ending in (".manifest.json", ".plan.json"):
        path = join(folder, f"{name}{ending}")
        if files.is_file(path):
            try:
                found = json.loads(files.read_bytes(path))
                if not isinstance(found, dict) or not isinstance(found.get("bounds"), list):
                    raise ValueError("no shards in it")
            except ValueError as error:
                raise ConfigError(f"{path}: expected what pack writes: {error}") from None
            return path, found
    return None


def to_json(tree: dict) -> bytes:
    """A tree as JSON that people can read."""
    return (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode()


def _names_in(folder: str) -> list[str]:
    return files.names_in(folder) if files.is_folder(folder) else []


def _compare(path: str, begun: dict, now: dict) -> None:
    """Refuse to go on with something else."""
    other = "pack into another folder, or remove what is there"
    for key in ("version", "images", "classes"):
        if begun.get(key) != now[key]:
            raise ConfigError(
                f"{path}: expected {key} {begun.get(key)}, as was begun, got {now[key]}: {other}"
            )
    for key, value in now["options"].items():
        before = begun.get("options", {}).get(key)
        if before != value:
            raise ConfigError(
                f"{path}: expected {key} {before!r}, as was begun, got {value!r}: {other}"
            )
    contents = begun.get("contents", {})
    for key in sorted({*contents, *now["contents"]}):
        if contents.get(key) != now["contents"].get(key):
            raise ConfigError(
                f"{path}: expected the {key} of the list as they were begun, got others: {other}"
            )


def _digests(samples: Samples, titles: list[str], sizes: np.ndarray) -> dict[str, str]:
    found = {"paths": _of_texts(titles), "sizes": _of_array(sizes)}
    found["labels"] = _of_array(samples.labels)
    if samples.names is not None:
        found["class names"] = _of_texts(samples.names)
    for name in ("ids", "cameras", "groups", "boxes"):
        value = getattr(samples, name)
        if value is not None:
            found[name] = _of_texts(map(str, value.tolist()))
    if samples.pixels is not None:
        digest = hashlib.sha256()
        for picture in samples.pixels:
            digest.update(str(picture.shape).encode() + np.ascontiguousarray(picture).tobytes())
        found["pixels"] = digest.hexdigest()
    return found


def _of_texts(texts) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()


def _of_array(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, "<i8").tobytes()).hexdigest()


def _bounds(sizes: np.ndarray, shard: float) -> list[int]:
    """First rows of shards of about equal size, none empty; and the number of images."""
    ends = np.cumsum(sizes, dtype=np.float64)
    count = max(1, -int(-ends[-1] // shard))
    edges = ends[-1] * np.arange(1, count) / count
    firsts = np.searchsorted(ends - np.asarray(sizes) / 2, edges)  # by the middle of each image
    return sorted({0, *firsts.tolist(), len(sizes)})


def titles_of(samples: Samples) -> list[str]:
    """A name for each image, the same on every machine: below the folder that holds them all."""
    if samples.pixels is not None:
        return samples.paths
    folders = {os.path.dirname(path) for path in set(samples.paths)}
    common = os.path.commonprefix(sorted(f"{folder}/" for folder in folders)).rpartition("/")[0]
    short = [path[len(common) :].lstrip("/") for path in samples.paths]
    if samples.spans is None:
        return short
    return [f"{p}:{row}" for p, row in zip(short, samples.rows.tolist(), strict=True)]
