"""Tar files in the layout of WebDataset: members of one key are one sample.

Nothing is unpacked: an image is read from where it lies in the tar.
"""

import functools
import json
import logging
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from keras_featx.data import files as file_system
from keras_featx.data import indexing, shards, tables
from keras_featx.data.indexing import Entry, Fault
from keras_featx.data.lists import Problems
from keras_featx.data.samples import Samples

log = logging.getLogger(__name__)

# The key is all up to the first dot of the last part, the suffix what follows it.
_KEY = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)")
_META = re.compile(r"__[^/]*__($|/)")  # WebDataset's own, no samples
_IMAGES = tuple(extension[1:] for extension in file_system.EXTENSIONS)
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
_BLOCK = 512


def tars(
    problems: Problems = None,
    *,
    files: str,
    label_from: Literal["auto", "cls", "json", "folder"] = "auto",
    label_key: str = "label",
    labels: Literal["auto", "numbers", "names"] = "auto",
    label_offset: int = 0,
    name_key: str | None = None,
    id_key: str | None = None,
    camera_key: str | None = None,
    group_key: str | None = None,
    box_key: str | None = None,
    class_id_map_file: str | None = None,
    index: str | None = None,
) -> Samples:
    """Tar files as WebDataset has them: consecutive members ``KEY.jpg``, ``KEY.cls``, ``KEY.json``.

    Args:
        problems: Where to put samples that cannot be used; see :func:`~.samples.load_samples`.
        files: A file, a folder of ``.tar`` files, or a pattern such as ``train-{0000..0099}.tar``.
        label_from: The member ``.cls``, the member ``.json``, or the folder in the key; ``auto``
            takes the first of these that the first sample has.
        label_key: Of the label in ``.json``.
        labels: ``numbers``, ``names``, or ``auto``: names where no label looks like a number.
        label_offset: The smallest label.
        name_key: In ``.json``: the name of the class.
        id_key: In ``.json``: an image id.
        camera_key: In ``.json``: a camera.
        group_key: In ``.json``: a group.
        box_key: In ``.json``: ``[left, top, right, bottom]`` in pixels.
        class_id_map_file: Names of the labels; see :func:`~.labels.class_names`.
        index: A file to keep the places of the images in, ``.npz``: made when it is missing.

    Raises:
        ConfigError: With the tar and the key, what was expected and what came.
    """
    keys = indexing.keys_of("WebDataset", locals())
    request = indexing.Request(labels, label_offset, class_id_map_file, index, keys)
    found = shards.find(files, ".tar")

    @functools.cache
    def source() -> str:
        return _first_source(found[0], label_key) if label_from == "auto" else label_from

    def walk(path: str) -> Iterator[Entry | Fault]:
        return _walk(path, keys | {"label_from": source()})

    return indexing.samples_of_shards(files, found, "tar", walk, request, problems)


@dataclass(frozen=True)
class _Sample:
    """Members of one key: from the suffix to (offset, size). ``number`` in the tar, from 1."""

    number: int
    key: str
    members: dict[str, tuple[int, int]]


def _first_source(path: str, label_key: str) -> str:
    """Where the first sample of a tar has its label."""
    with file_system.opened(path) as file:
        for sample in _samples(path, file):
            if isinstance(sample, Fault):
                continue
            if "cls" in sample.members:
                return "cls"
            try:
                found = _json(file, sample)
            except ValueError:
                found = {}
            if label_key in found:
                return "json"
            return "folder" if _folder(sample.key) else "cls"
    return "cls"


def _walk(path: str, keys: dict[str, Any]) -> Iterator[Entry | Fault]:
    with file_system.opened(path) as file:
        for sample in _samples(path, file):
            if isinstance(sample, Fault):
                yield sample
                continue
            try:
                yield _entry(file, sample, keys)
            except ValueError as error:
                yield Fault(sample.number, f"{sample.key!r}: {error}")


def _samples(path: str, file: BinaryIO) -> Iterator[_Sample | Fault]:
    """Consecutive members of one key; what is no plain file is a fault."""
    number, key, members, twice = 0, None, {}, False
    for member in _members(path, file):
        if isinstance(member, str):
            yield Fault(number + (key is None), member)
            continue
        found = _KEY.fullmatch(member.name)
        if found[1] != key:
            if key is not None and not twice:
                yield _Sample(number, key, members)
            number, key, members, twice = number + 1, found[1], {}, False
        suffix = found[2].lower()
        if suffix in members and not twice:
            twice = True
            yield Fault(number, f"{key!r}: expected one member .{suffix}, got two")
        members[suffix] = (member.offset_data, member.size)
    if key is not None and not twice:
        yield _Sample(number, key, members)


def _members(path: str, file: BinaryIO) -> Iterator[tarfile.TarInfo | str]:
    """The plain files of a tar that have a key, and what is wrong with others."""
    size = file_system.size_of(path)
    start = file.read(6)
    for magic, (name, unpack) in _COMPRESSED.items():
        if start.startswith(magic):
            yield (
                f"expected a tar that is not compressed, got {name}: unpack it with {unpack} "
                "(images are compressed already)"
            )
            return
    file.seek(0)
    ignored = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isdir() or _META.match(member.name):
                    continue
                fault = _fault(member, size)
                if fault:
                    yield fault
                elif _KEY.fullmatch(member.name):
                    yield member
                else:
                    ignored.append(member.name)
            # Python takes whatever is no header for the end.
            file.seek(archive.offset)
            block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            yield "expected the empty blocks that end a tar, got its end: it is cut short"
        elif any(block):
            yield f"expected a header at byte {archive.offset}, got other bytes"
    except tarfile.TarError as error:
        yield f"expected a tar: {error}"
    if ignored:
        log.warning(
            "%s: ignored %d members without a name before the first dot, such as %s",
            path, len(ignored), ignored[0],
        )  # fmt: skip


def _fault(member: tarfile.TarInfo, size: int) -> str | None:
    kind = None
    if member.issym() or member.islnk():
        kind = "a link"
    elif member.issparse():
        kind = "a sparse file"
    elif not member.isreg():
        kind = "a device"
    if kind:
        return f"{member.name!r}: expected a plain file, got {kind}"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return f"{member.name!r}: expected a path inside the tar"
    if member.offset_data + member.size > size:
        missing = member.offset_data + member.size - size
        return f"{member.name!r}: ends {missing} bytes behind the end of the file: it is cut short"
    return None


def _entry(file: BinaryIO, sample: _Sample, keys: dict[str, Any]) -> Entry:
    images = [suffix for suffix in sample.members if suffix in _IMAGES]
    if len(images) != 1:
        raise ValueError(
            f"expected one image ({' '.join(file_system.EXTENSIONS)}), got {sorted(sample.members)}"
        )
    offset, length = sample.members[images[0]]
    if not length:
        raise ValueError(f"expected an image in .{images[0]}, got 0 bytes")
    wanted = ("name_key", "id_key", "camera_key", "group_key", "box_key")
    record = {}
    if keys["label_from"] == "json" or any(keys[name] is not None for name in wanted):
        record = _json(file, sample)

    def optional(key: str) -> int | str | None:
        return None if keys[key] is None else _plain(record, keys[key])

    return Entry(
        sample.number,
        (offset, length),
        _label(file, sample, record, keys),
        name=None if keys["name_key"] is None else str(optional("name_key")),
        id=optional("id_key"),
        camera=optional("camera_key"),
        group=optional("group_key"),
        box=None if keys["box_key"] is None else _box(record, keys["box_key"]),
    )


def _label(file: BinaryIO, sample: _Sample, record: dict, keys: dict[str, Any]) -> int | str:
    if keys["label_from"] == "json":
        return _plain(record, keys["label_key"])
    if keys["label_from"] == "folder":
        folder = _folder(sample.key)
        if not folder:
            raise ValueError("expected a key in a folder, the label, got none")
        return folder
    text = _text(file, sample, "cls").strip()
    if not text:
        raise ValueError("expected a label in .cls, got ''")
    if keys["labels"] == "names":
        return text
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) else text


def _folder(key: str) -> str:
    """The folder that a member lies in."""
    folder = key.rpartition("/")[0].rpartition("/")[2]
    return "" if folder == "." else folder


def _json(file: BinaryIO, sample: _Sample) -> dict:
    try:
        record = json.loads(_text(file, sample, "json"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected JSON in .json: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"expected names and values in .json, got {type(record).__name__}")
    return record


def _text(file: BinaryIO, sample: _Sample, suffix: str) -> str:
    if suffix not in sample.members:
        raise ValueError(f"expected a member .{suffix} beside {sorted(sample.members)}")
    offset, length = sample.members[suffix]
    place = file.tell()
    file.seek(offset)
    data = file.read(length)
    file.seek(place)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"expected UTF-8 text in .{suffix}, got other bytes") from None


def _plain(record: dict, key: str) -> int | str:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected a number or a text {key!r} in .json, got {value!r}")
    return value


def _box(record: dict, key: str) -> tuple[int, int, int, int]:
    value = record.get(key)
    if value == [0, 0, 0, 0]:
        return 0, 0, 0, 0  # the whole image
    box = tables.parse_box(str(value)) if isinstance(value, list) else None
    if box is None:
        raise ValueError(
            f"expected a box [left, top, right, bottom] {key!r} in .json, with left < right, got "
            f"{value!r}"
        )
    return box
