"""Shards: files that hold many images each, and the index that says where each image lies."""

import io
import itertools
import json
import logging
import os
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_featx.data import files as file_system
from keras_featx.data.samples import Samples, join
from keras_featx.errors import ConfigError

log = logging.getLogger(__name__)

VERSION = 1
_BRACES = re.compile(r"\{([^{}]*)\}")
# A shard and how many there are, as TensorFlow numbers them; its own names end there.
_NUMBERED = re.compile(r"(.+)-\d{5}-of-(\d{5})(?:\.\w+)?")
_MOST_NAMES = 1_000_000
# Columns of numbers or texts.
_TEXTS = ("ids", "cameras", "groups")


@dataclass(frozen=True)
class Index:
    """Where the images of a set lie, and all that is known of them.

    Attributes:
        kind: ``tfrecord`` or ``tar``.
        shards: The files; relative to the index where :mod:`keras_featx.data.pack` wrote it.
        sizes: int64 ``(shards,)``, in bytes.
        shard: int64 ``(images,)``: the file of each image.
        spans: int64 ``(images, 2)``: its offset and length there.
        labels: int64 ``(images,)``.
        keys: Under which names they were found; what a reader must ask for to be served.
        names: As of :class:`~.samples.Samples`, like the rest.
        ids: Likewise.
        cameras: Likewise.
        groups: Likewise.
        boxes: Likewise.
    """

    kind: str
    shards: list[str]
    sizes: np.ndarray
    shard: np.ndarray
    spans: np.ndarray
    labels: np.ndarray
    keys: dict[str, Any] = field(default_factory=dict)
    names: list[str] | None = None
    ids: np.ndarray | None = None
    cameras: np.ndarray | None = None
    groups: np.ndarray | None = None
    boxes: np.ndarray | None = None

    def samples(self, paths: list[str], source: str) -> Samples:
        """Samples of the images; ``paths`` are those of the shards, in their order."""
        file_system.forget(paths)
        return Samples(
            source,
            [paths[i] for i in self.shard.tolist()],
            self.labels,
            np.arange(1, len(self.labels) + 1),
            ids=self.ids,
            names=self.names,
            cameras=self.cameras,
            groups=self.groups,
            boxes=self.boxes,
            spans=self.spans,
        )

    def to_bytes(self) -> bytes:
        """The index as an ``.npz`` of plain arrays. The same index gives the same bytes."""
        header = {"version": VERSION, "kind": self.kind, "keys": self.keys}
        arrays = {
            "header": np.array(json.dumps(header, sort_keys=True)),
            "shards": np.array(self.shards),
        }
        for name in ("sizes", "shard", "spans", "labels", *_TEXTS, "boxes"):
            if getattr(self, name) is not None:
                arrays[name] = np.asarray(getattr(self, name))
        if self.names is not None:
            arrays["names"] = np.array(self.names)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in arrays.items():
                member = zipfile.ZipInfo(f"{name}.npy")  # of 1980: no clock in it
                with archive.open(member, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        return buffer.getvalue()


def read_index(path: str) -> Index:
    """An index from its file.

    Raises:
        ConfigError: If it is none.
    """
    data = file_system.read_bytes(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays.pop("header")))
        version = header.pop("version")
        if version != VERSION:
            raise ConfigError(
                f"{path}: expected an index of version {VERSION}, got {version}: pack again, or "
                "remove the index to have the shards read"
            )
        shards = arrays.pop("shards").tolist()
        names = arrays.pop("names").tolist() if "names" in arrays else None
        index = Index(shards=shards, names=names, **header, **arrays)
        _check(index)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: expected an index of shards: {error}") from None
    return index


def _check(index: Index) -> None:
    images = len(index.labels)
    for name, shape in (
        ("sizes", (len(index.shards),)), ("shard", (images,)), ("spans", (images, 2)),
        ("labels", (images,)), *((name, (images,)) for name in _TEXTS), ("boxes", (images, 4)),
    ):  # fmt: skip
        array = getattr(index, name)
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} of shape {shape}, got {array.shape}")
        if name not in _TEXTS and array is not None and array.dtype != np.int64:
            raise ValueError(f"{name} of int64, got {array.dtype}")
    if not images or index.labels.min() < 0:
        raise ValueError("images with labels from 0")
    if index.names is not None and index.labels.max() >= len(index.names):
        raise ValueError(f"a name for label {index.labels.max()}")
    if index.shard.min() < 0 or index.shard.max() >= len(index.shards):
        raise ValueError("images in the shards")
    ends = index.spans.sum(1)
    if index.spans.min() < 0 or (ends > index.sizes[index.shard]).any():
        raise ValueError("images inside the shards")


def index_of_packed(paths: list[str]) -> str | None:
    """Where the index of these shards would be, if :mod:`keras_featx.data.pack` wrote them."""
    found = {(os.path.dirname(path), _NUMBERED.fullmatch(os.path.basename(path))) for path in paths}
    parts = {(folder, match and match[1]) for folder, match in found}
    if len(parts) != 1 or (parts := parts.pop())[1] is None:
        return None
    return join(parts[0], f"{parts[1]}.index.npz")


def indexed_samples(path: str, index: Index, listed: dict[str, str], source: str) -> Samples:
    """The samples of those shards of an index that were asked for.

    Args:
        path: Of the index, for messages.
        index: The index.
        listed: From the name of a shard in the index to its path.
        source: What was asked for.

    Raises:
        ConfigError: If the index is of other shards, or of an earlier state of these.
    """
    again = "remove the index to have the shards read, or write both anew"
    known = dict(zip(index.shards, index.sizes.tolist(), strict=True))
    strange = next((shard for name, shard in listed.items() if name not in known), None)
    if strange is not None:
        raise ConfigError(f"{strange}: expected a shard that {path} knows: {again}")
    folder = os.path.dirname(path)
    paths = [listed.get(name) or join(folder, name) for name in index.shards]
    absent = next((p for p in paths if not file_system.is_file(p)), None)
    if absent is not None:
        raise ConfigError(f"{absent}: expected this shard, which {path} has, found none")
    for name, shard in listed.items():
        size = file_system.size_of(shard)
        if size != known[name]:
            raise ConfigError(
                f"{shard}: expected {known[name]} bytes, as {path} has it, got {size}: {again}"
            )
    samples = index.samples(paths, source)
    if len(listed) == len(known):
        return samples
    wanted = np.array([name in listed for name in index.shards])
    return samples.take(np.flatnonzero(wanted[index.shard]))


def find(address: str, part: str) -> list[str]:
    """The shards that a config names.

    Args:
        address: A file, a folder, or a pattern with ``*``, ``?``, ``[...]``, ``{0000..0009}`` or
            ``{a,b}``.
        part: What the names of shards in a folder have in them.

    Raises:
        ConfigError: Where there is none.

    Example:
        >>> from keras_featx.data.shards import expand
        >>> expand("{a,b}-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    if file_system.is_folder(address):
        names = file_system.names_in(address)
        found = [join(address, name) for name in names if part in name and not name.startswith(".")]
        found = [path for path in found if file_system.is_file(path)]
        if not found:
            raise ConfigError(f"{address}: expected files with {part!r} in their name, found none")
        sets = {numbered[1] for numbered in map(_NUMBERED.fullmatch, names) if numbered}
        if len(sets) > 1:
            raise ConfigError(f"{address}: expected shards of one set, got {sorted(sets)}")
        _check_number(address, found)
        return found
    if file_system.is_file(address):
        return [address]
    found = []
    for pattern in expand(address):
        if any(sign in pattern for sign in "*?["):
            matches = file_system.matching(pattern)
        else:
            matches = [pattern] if file_system.is_file(pattern) else []
        if not matches:
            raise ConfigError(f"{pattern}: expected shards, found none")
        found += matches
    if len(set(found)) < len(found):
        twice = next(path for path in found if found.count(path) > 1)
        raise ConfigError(f"{address}: expected each shard once, got {twice} twice")
    _check_number(address, found)
    return found


def _check_number(address: str, found: list[str]) -> None:
    """Say so where names tell of more shards; a part of a set may be meant."""
    for (start, count), paths in itertools.groupby(found, _numbered):
        there = len(list(paths))
        if count and there != int(count):
            log.warning("%s: has %d of the %s shards of %s", address, there, int(count), start)


def _numbered(path: str) -> tuple[str, str]:
    found = _NUMBERED.fullmatch(path)
    return found.groups() if found else (path, "")


def expand(pattern: str) -> list[str]:
    """The names that braces stand for: ``{0000..0009}`` a range, ``{a,b}`` a choice."""
    pieces = _BRACES.split(pattern)
    choices = []
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            choices.append([piece])
            continue
        limits = re.fullmatch(r"(\d+)\.\.(\d+)", piece)
        if limits:
            first, last = limits.groups()
            padded = any(limit[0] == "0" and len(limit) > 1 for limit in limits.groups())
            width = max(len(first), len(last)) if padded else 1
            numbers = range(int(first), int(last) + 1)
            if not 0 < len(numbers) <= _MOST_NAMES:
                raise ConfigError(f"{pattern}: expected a range that rises, got {{{piece}}}")
            choices.append([f"{number:0{width}d}" for number in numbers])
        elif "," in piece:
            choices.append(piece.split(","))
        else:
            raise ConfigError(f"{pattern}: expected {{0000..0009}} or {{a,b}}, got {{{piece}}}")
    return ["".join(parts) for parts in itertools.product(*choices)]
