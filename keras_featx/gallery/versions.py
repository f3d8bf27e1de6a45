"""The versions of a gallery on disk: each a manifest, put in place whole; writers take turns.

A change writes its files beside those that are there and then one manifest, under its name from the
start of its existence. Whatever stops it before leaves the version before, whole. Readers keep the
files of the version they opened.
"""

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.data.outputs import write_bytes
from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery.segments import describe, sync_folder

FORMAT = 1
_VERSIONS, _SEGMENTS, _INDEXES, _LOCK = "versions", "segments", "indexes", "LOCK"


@dataclass(frozen=True)
class Part:
    """A segment in a version.

    Attributes:
        name: Of its folder.
        items: In it, removed ones too.
        files: As of ``segments.write_segment``.
        removed: Name of the array of removed rows in its folder, or ``None``.
        removed_items: How many.
        removed_file: Length and checksum of that array.
    """

    name: str
    items: int
    files: dict[str, dict[str, Any]]
    removed: str | None = None
    removed_items: int = 0
    removed_file: dict[str, Any] | None = None


@dataclass(frozen=True)
class Manifest:
    """A version.

    Attributes:
        version: Its number, from 1.
        made: When, UTC.
        what: A change in words.
        fingerprint: Of the model that embedded all items.
        size: Numbers of an embedding.
        precision: Of the vectors.
        parts: Its segments, oldest first.
        settings: What else belongs to it, such as thresholds.
    """

    version: int
    made: str
    what: str
    fingerprint: str
    size: int
    precision: str
    parts: tuple[Part, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> int:
        """Items that are not removed."""
        return sum(part.items - part.removed_items for part in self.parts)


class Busy(RunError):
    """Another process is changing the gallery."""


def now() -> str:
    """The time as manifests have it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """A gallery's folder.

    Args:
        folder: Of the gallery.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def exists(self) -> bool:
        """Whether a gallery is there."""
        return bool(self.numbers())

    def numbers(self) -> list[int]:
        """Of its versions, rising."""
        names = (self.folder / _VERSIONS).glob("*.json") if self.folder.is_dir() else ()
        return sorted(int(path.stem) for path in names if path.stem.isdecimal())

    def segment(self, name: str) -> Path:
        """The folder of a segment."""
        return self.folder / _SEGMENTS / name

    def new_segment(self) -> Path:
        """A folder for a segment that is to be written."""
        return self.segment(uuid.uuid4().hex[:16])

    def read(self, version: int | None = None) -> Manifest:
        """A version; by default the newest.

        Raises:
            ConfigError: If it is not there.
            RunError: If it is damaged, or of a newer format.
        """
        numbers = self.numbers()
        if not numbers:
            raise ConfigError(f"{self.folder}: expected a gallery")
        if version is not None and version not in numbers:
            raise ConfigError(
                f"{self.folder}: expected one of the versions {_ranges(numbers)}, got {version}"
            )
        path = self._path(numbers[-1] if version is None else version)
        data = path.read_bytes()
        body, newline, checksum = data.rpartition(b"\n")[0].rpartition(b"\n")
        if not newline or hashlib.sha256(body).hexdigest().encode() != checksum:
            raise RunError(f"{path}: damaged: its checksum is another")
        tree = json.loads(body)
        if tree.pop("format") != FORMAT:
            raise RunError(f"{path}: expected a gallery of format {FORMAT}; it is of a newer one")
        parts = tuple(_part(path, part) for part in tree.pop("parts"))
        return Manifest(parts=parts, **tree)

    def _path(self, version: int) -> Path:
        return self.folder / _VERSIONS / f"{version:08d}.json"

    def commit(self, manifest: Manifest) -> None:
        """Put a version in place; whoever opens the gallery from now on sees it.

        The caller has the lock.
        """
        path = self._path(manifest.version)
        body = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode()
        checksum = hashlib.sha256(body).hexdigest().encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder)
        for part in manifest.parts:
            sync_folder(self.segment(part.name))
        if manifest.parts:
            sync_folder(self.folder / _SEGMENTS)
        write_bytes(path, body + b"\n" + checksum + b"\n")
        sync_folder(path.parent)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer.

        Raises:
            Busy: If another process is.
        """
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise Busy(f"{self.folder}: {holder} is changing it; try again later") from None
            # The lock ends with the process, however that ends; the text is for people.
            file.truncate(0)
            file.write(f"process {os.getpid()}, since {now()},")
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def write_removed(self, part: Part, rows: np.ndarray) -> Part:
        """The same segment with these rows removed, all that are."""
        name = f"removed-{uuid.uuid4().hex[:8]}.npy"
        path = self.segment(part.name) / name
        with path.open("wb") as file:
            np.save(file, np.sort(rows).astype("uint32"), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        return Part(part.name, part.items, part.files, name, len(rows), describe(path))

    def read_removed(self, part: Part) -> np.ndarray:
        """Rising rows that are removed.

        Raises:
            RunError: If the file is missing or another.
        """
        if part.removed is None:
            return np.zeros(0, np.int64)
        path = self.segment(part.name) / part.removed
        try:
            if path.stat().st_size != part.removed_file["bytes"]:
                raise ValueError("its length is another")
            rows = np.load(path, allow_pickle=False).astype(np.int64)
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: expected the removed items of a segment: {error}") from None
        if len(rows) != part.removed_items or (len(rows) and rows[-1] >= part.items):
            raise RunError(f"{path}: expected the removed items of a segment, got others")
        return rows

    def prune(self, keep: int) -> list[int]:
        """Forget all but the newest versions, and files that none of these has.

        Returns:
            The versions that are gone. The caller has the lock.
        """
        numbers = self.numbers()
        gone, kept = numbers[:-keep], numbers[-keep:]
        for number in gone:
            self._path(number).unlink()
        used: dict[str, set[str]] = {}
        for number in kept:
            for part in self.read(number).parts:
                names = {*part.files, *([part.removed] if part.removed else [])}
                used.setdefault(part.name, set()).update(names)
        segments = self.folder / _SEGMENTS
        for folder in segments.iterdir() if segments.is_dir() else ():
            if folder.name not in used:
                shutil.rmtree(folder)
                continue
            for path in folder.iterdir():
                if path.name not in used[folder.name]:
                    path.unlink()
        # Also what was left behind half written, under a hidden name.
        for path in (self.folder / _INDEXES).glob("*.index*"):
            if path.name.partition("-")[0].removeprefix(".") not in used:
                path.unlink()
        return gone


def _part(path: Path, tree: dict[str, Any]) -> Part:
    names = [tree["name"], *tree["files"], *([tree["removed"]] if tree["removed"] else [])]
    if any("/" in name or name in ("", ".", "..") for name in names):
        raise RunError(f"{path}: expected names of files, got {names}")
    return Part(**tree)


def _ranges(numbers: list[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
