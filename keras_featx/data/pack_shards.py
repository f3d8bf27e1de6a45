"""Shards as they are written: a TFRecord or the members of a tar for each image."""

import hashlib
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_featx.data import examples, files, outputs, records
from keras_featx.errors import ConfigError

_BLOCK = 512


@dataclass(frozen=True)
class Image:
    """An encoded image and what is known of it: ``facts`` has its label and perhaps more."""

    data: bytes
    kind: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Payload:
    """What an image adds to a shard; ``start`` is where the encoded image begins in it."""

    data: bytes
    start: int
    length: int
    box: list[int] | None


@dataclass(frozen=True)
class Done:
    """A shard that is written.

    Attributes:
        size: In bytes.
        sha256: Of all of it.
        spans: int64 ``(images, 2)``: offset and length of each image.
        boxes: int64 ``(images, 4)``, where there are boxes.
    """

    size: int
    sha256: str
    spans: np.ndarray
    boxes: np.ndarray | None


def tfrecord_payload(image: Image) -> Payload:
    """A record with a ``tf.train.Example``."""
    facts = image.facts
    features = {
        "image/encoded": image.data,
        "image/format": {"jpg": "jpeg"}.get(image.kind, image.kind),
        "image/filename": facts["path"],
        "image/class/label": facts["label"],
    }
    for name, key in (
        ("name", "image/class/text"), ("id", "image/id"), ("camera", "image/camera"),
        ("group", "image/group"), ("box", "image/box"),
    ):  # fmt: skip
        if name in facts:
            features[key] = facts[name]
    example = examples.write(features)
    first, end = examples.read(example)["image/encoded"].values[0]
    return Payload(records.framed(example), records.HEAD + first, end - first, facts.get("box"))


def tar_payload(image: Image, key: str) -> Payload:
    """The members ``KEY.cls``, ``KEY.json`` and ``KEY.jpg`` or another image."""
    facts = image.facts
    text = json.dumps(facts, sort_keys=True)
    before = _member(f"{key}.cls", str(facts["label"]).encode())
    before += _member(f"{key}.json", text.encode())
    member = _member(f"{key}.{image.kind}", image.data)
    return Payload(before + member, len(before) + _BLOCK, len(image.data), facts.get("box"))


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)  # of 1970, mode 644: the same bytes every time
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % _BLOCK)


def write(path: str, payloads: Iterable[Payload], end: bytes) -> Done:
    """Write a shard, and beside it a note of what is in it; the shard stands there when whole."""
    digest = hashlib.sha256()
    place = 0
    spans, boxes = [], []
    with outputs.replacing(path) as file:
        for payload in payloads:
            file.write(payload.data)
            digest.update(payload.data)
            spans.append((place + payload.start, payload.length))
            boxes.append(payload.box)
            place += len(payload.data)
        file.write(end)
        digest.update(end)
        place += len(end)
        done = {"size": place, "sha256": digest.hexdigest(), "spans": spans}
        done["boxes"] = None if boxes[0] is None else boxes
        # First the note: a shard is done when it is what a note says.
        outputs.write_bytes(note_of(path), json.dumps(done).encode())
    return _done(done)


def note_of(path: str) -> str:
    """The path of the note of a shard: a hidden file beside it."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.done"


def noted(path: str) -> Done | None:
    """What a note says of a shard, if there is one."""
    note = note_of(path)
    if not files.is_file(note):
        return None
    try:
        return _done(json.loads(files.read_bytes(note)))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{note}: expected a note of pack: {error}") from None


def _done(note: dict[str, Any]) -> Done:
    boxes = note["boxes"]
    return Done(
        note["size"],
        note["sha256"],
        np.array(note["spans"], np.int64).reshape(-1, 2),
        None if boxes is None else np.array(boxes, np.int64).reshape(-1, 4),
    )


def is_whole(path: str, size: int, sha256: str) -> bool:
    """Whether a shard is there, to the byte."""
    if not files.is_file(path) or files.size_of(path) != size:
        return False
    digest = hashlib.sha256()
    with files.opened(path) as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest() == sha256
