"""Segments of a gallery on disk: items that were added together, never changed, memory-mapped.

A segment is a folder of arrays (``.npy``) and texts. Nothing in it is executed or unpickled.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.errors import RunError

PRECISIONS = ("float32", "float16", "int8")
_SCALES, _CODES = "scales.npy", "codes.npy"
_VECTORS, _LABELS, _SERIALS, _HASHES, _ORDER, _ENDS = (
    f"{name}.npy" for name in ("vectors", "labels", "serials", "hashes", "order", "ends")
)
_TEXTS, _IDENTITIES = "texts.bin", "identities.json"


@dataclass(frozen=True)
class Items:
    """Items in memory.

    Attributes:
        ids: Of each, all different.
        identities: Whose each is.
        vectors: Float32 ``(items, size)``, unit norm.
        metadata: JSON objects.
        serials: uint64 ``(items,)``: the number of each, never given twice in a gallery, rising.
    """

    ids: Sequence[str]
    identities: Sequence[str]
    vectors: np.ndarray
    metadata: Sequence[Mapping[str, Any]]
    serials: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Segment:
    """An opened segment.

    Attributes:
        folder: Where it lies.
        vectors: float32 or float16 ``(items, size)``.
        codes: int8 ``(items, size)`` of a segment in int8, else ``None``.
        scales: float32 ``(items,)``: an item is about ``codes * scale``.
        labels: uint32 ``(items,)``: places in ``identities``.
        serials: uint64 ``(items,)``, rising.
        identities: Names.
    """

    folder: Path
    vectors: np.ndarray
    codes: np.ndarray | None
    scales: np.ndarray | None
    labels: np.ndarray
    serials: np.ndarray
    identities: list[str]
    _hashes: np.ndarray
    _order: np.ndarray
    _ends: np.ndarray
    _texts: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def id_of(self, row: int) -> str:
        """The id of an item."""
        return self._text(2 * row)

    def metadata_of(self, row: int) -> dict[str, Any]:
        """The metadata of an item."""
        return json.loads(self._text(2 * row + 1))

    def identity_of(self, row: int) -> str:
        """Whose an item is."""
        return self.identities[self.labels[row]]

    def _text(self, place: int) -> str:
        first, last = self._ends[place : place + 2].tolist()
        return self._texts[first:last].tobytes().decode()

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """int64 ``(ids,)``: the row of each id, or -1."""
        wanted = hashes_of(ids)
        places = np.searchsorted(self._hashes, wanted)
        found = np.full(len(ids), -1, np.int64)
        near = np.minimum(places, len(self) - 1)
        for i in np.flatnonzero(self._hashes[near] == wanted).tolist():
            place, value = int(places[i]), wanted[i]
            # Two ids may have one hash.
            while place < len(self) and self._hashes[place] == value:
                row = int(self._order[place])
                if self.id_of(row) == ids[i]:
                    found[i] = row
                    break
                place += 1
        return found

    def items(self, rows: np.ndarray) -> Items:
        """Copies of some items."""
        places = rows.tolist()
        return Items(
            [self.id_of(row) for row in places],
            [self.identity_of(row) for row in places],
            self.vectors[rows].astype("float32"),
            [self.metadata_of(row) for row in places],
            np.asarray(self.serials[rows]),
        )


def hashes_of(ids: Sequence[str]) -> np.ndarray:
    """uint64 ``(ids,)``: the same in every process, unlike Python's own."""
    digests = b"".join(hashlib.blake2b(one.encode(), digest_size=8).digest() for one in ids)
    return np.frombuffer(digests, "<u8")


def write_segment(folder: Path, items: Items, precision: str) -> dict[str, dict[str, Any]]:
    """Write a segment and have the disk keep it.

    Args:
        folder: Which is made.
        items: At least one.
        precision: ``float32``, ``float16``, or ``int8``: codes besides float16.

    Returns:
        ``{file: {"bytes": ..., "sha256": ...}}``.
    """
    folder.mkdir(parents=True)
    identities, labels = np.unique(np.asarray(items.identities, object), return_inverse=True)
    texts = [
        text.encode()
        for one, more in zip(items.ids, items.metadata, strict=True)
        for text in (one, json.dumps(more, ensure_ascii=False, allow_nan=False, sort_keys=True))
    ]
    hashes = hashes_of(items.ids)
    order = np.argsort(hashes, kind="stable")
    kept = "float32" if precision == "float32" else "float16"
    arrays = {
        _VECTORS: items.vectors.astype(kept),
        _LABELS: labels.astype("uint32"),
        _SERIALS: np.asarray(items.serials, "uint64"),
        _HASHES: hashes[order],
        _ORDER: order.astype("uint32"),
        _ENDS: np.cumsum([0, *map(len, texts)], dtype="uint64"),
    }
    if precision == "int8":
        scales = np.abs(items.vectors).max(axis=1) / np.float32(127)
        arrays[_SCALES] = scales.astype("float32")
        arrays[_CODES] = np.rint(items.vectors / scales[:, None]).astype("int8")
    for name, array in arrays.items():
        with (folder / name).open("wb") as file:
            np.save(file, array, allow_pickle=False)
            _keep(file)
    for name, data in ((_TEXTS, b"".join(texts)), (_IDENTITIES, _json(identities.tolist()))):
        with (folder / name).open("wb") as file:
            file.write(data)
            _keep(file)
    sync_folder(folder)
    return {name: describe(folder / name) for name in (*arrays, _TEXTS, _IDENTITIES)}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _keep(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def describe(path: Path) -> dict[str, Any]:
    """Length and checksum of a file."""
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def open_segment(folder: Path, files: Mapping[str, Mapping[str, Any]], size: int) -> Segment:
    """Open a segment by memory map.

    Args:
        folder: Where it lies.
        files: As of :func:`write_segment`; lengths are compared, checksums are not.
        size: Numbers of an embedding.

    Raises:
        RunError: If a file is missing or another.
    """
    for name, about in files.items():
        path = folder / name
        try:
            length = path.stat().st_size
        except OSError as error:
            raise RunError(f"{path}: expected a file of the gallery: {error.strerror}") from None
        if length != about["bytes"]:
            raise RunError(f"{path}: expected {about['bytes']:,} bytes, got {length:,}")
    arrays = {name: _load(folder / name) for name in files if name.endswith(".npy")}
    identities = _read_identities(folder / _IDENTITIES)
    try:
        items = len(arrays[_LABELS])
        fits = (
            arrays[_VECTORS].shape == (items, size)
            and arrays[_ENDS].shape == (2 * items + 1,)
            and arrays[_ORDER].shape == arrays[_HASHES].shape == arrays[_SERIALS].shape == (items,)
            and (_CODES not in arrays or arrays[_CODES].shape == (items, size))
        )
    except KeyError:
        fits = False
    if not fits:
        raise RunError(f"{folder}: expected the files of a segment of the gallery")
    path = folder / _TEXTS
    # A plain array over the map: one item of that is read in half the time.
    texts = np.asarray(np.memmap(path, np.uint8, "r")) if files[_TEXTS]["bytes"] else np.zeros(0)
    return Segment(
        folder, arrays[_VECTORS], arrays.get(_CODES), arrays.get(_SCALES), arrays[_LABELS],
        arrays[_SERIALS], identities, arrays[_HASHES], arrays[_ORDER], arrays[_ENDS], texts,
    )  # fmt: skip


def _read_identities(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_bytes())
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list):
        raise RunError(f"{path}: expected the names of identities")
    return names


def _load(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected an array of the gallery: {error}") from None


def check_segment(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is wrong with a segment's files, a sentence each."""
    wrong = []
    for name, about in files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path}: missing")
        elif describe(path) != dict(about):
            wrong.append(f"{path}: damaged: its checksum is another")
    return wrong
