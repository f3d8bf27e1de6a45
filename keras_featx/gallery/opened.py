"""One version of a gallery: what is in it, and what is nearest to a query."""

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery.backends import Backend, make_backend
from keras_featx.gallery.segments import Items, Segment, check_segment, open_segment
from keras_featx.gallery.versions import Manifest, Store

# Ids of a message.
_NAMED = 3


@dataclass(frozen=True)
class Match:
    """An item that was found.

    Attributes:
        id: Of the item.
        identity: Whose it is.
        similarity: The cosine.
        metadata: Of the item.
    """

    id: str
    identity: str
    similarity: float
    metadata: dict[str, Any]


class Opened:
    """One version of a gallery, for reading; :class:`~keras_featx.Gallery` can change it.

    Args:
        folder: Of the gallery.
        version: By default the newest.
    """

    def __init__(self, folder: str | os.PathLike, version: int | None = None):
        self.store = Store(folder)
        # Indexes of segments, by segment and kind; they outlive a version.
        self.index_cache: dict[tuple[str, str], Any] = {}
        self._open(self.store.read(version))

    def _open(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.segments: list[Segment] = []
        self.removed: list[np.ndarray] = []
        for part in manifest.parts:
            folder = self.store.segment(part.name)
            segment = open_segment(folder, part.files, manifest.size)
            if len(segment) != part.items:
                raise RunError(f"{folder}: expected {part.items} items, got {len(segment)}")
            self.segments.append(segment)
            self.removed.append(self.store.read_removed(part))
        for name in ("alive", "_last"):
            self.__dict__.pop(name, None)
        kept = {part.name for part in manifest.parts}
        self.index_cache = {k: v for k, v in self.index_cache.items() if k[0] in kept}
        self._backends: dict[str, Backend] = {}

    def __len__(self) -> int:
        return self.manifest.items

    @property
    def version(self) -> int:
        """The one that is open."""
        return self.manifest.version

    @property
    def fingerprint(self) -> str:
        """Of the model that embedded all items."""
        return self.manifest.fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        """What belongs to the gallery, such as ``threshold``."""
        return self.manifest.settings

    def refresh(self) -> "Opened":
        """Open the newest version, where another process made one."""
        if self.store.numbers()[-1:] != [self.version]:
            self._open(self.store.read())
        return self

    def adopt(self, other: "Opened") -> None:
        """Take over what another version of this gallery has in memory for the same files."""
        names = {part.name for part in self.manifest.parts}
        self.index_cache |= {k: v for k, v in other.index_cache.items() if k[0] in names}

    def check_fingerprint(self, fingerprint: str) -> None:
        """Refuse embeddings of another model.

        Raises:
            ConfigError: With both fingerprints.
        """
        if fingerprint != self.fingerprint:
            raise ConfigError(
                f"{self.store.folder}: expected embeddings of the model {self.fingerprint}, got "
                f"those of {fingerprint}"
            )

    @functools.cached_property
    def alive(self) -> list[np.ndarray | None]:
        """Rows of each segment that are not removed; ``None`` where all are there."""
        return [
            np.setdiff1d(np.arange(len(segment)), removed) if len(removed) else None
            for segment, removed in zip(self.segments, self.removed, strict=True)
        ]

    def _rows(self, number: int) -> np.ndarray:
        alive = self.alive[number]
        return np.arange(len(self.segments[number])) if alive is None else alive

    def items(self, batch_size: int = 10_000) -> Iterator[Items]:
        """All items, in the order they were added, some at a time."""
        for number, segment in enumerate(self.segments):
            rows = self._rows(number)
            for i in range(0, len(rows), batch_size):
                yield segment.items(rows[i : i + batch_size])

    def places(self, ids: Sequence[str]) -> list[tuple[int, int] | None]:
        """(segment, row) of each id that is there."""
        found: list[tuple[int, int] | None] = [None] * len(ids)
        for number, (segment, removed) in enumerate(zip(self.segments, self.removed, strict=True)):
            rows = segment.find(ids)
            rows[np.isin(rows, removed)] = -1
            for i in np.flatnonzero(rows >= 0).tolist():
                found[i] = number, int(rows[i])
        return found

    def get(self, ids: Sequence[str]) -> Items:
        """The items of some ids, in that order.

        Raises:
            ConfigError: At an id that is not there.
        """
        places = self.places(ids)
        refuse_missing(self.store.folder, ids, places)
        parts = [self.segments[n].items(np.array([row])) for n, row in places]
        return Items(
            list(ids),
            [part.identities[0] for part in parts],
            np.concatenate([part.vectors for part in parts])
            if parts
            else np.zeros((0, self.manifest.size), "float32"),
            [part.metadata[0] for part in parts],
            np.array([part.serials[0] for part in parts], "uint64"),
        )

    def identities(self) -> dict[str, int]:
        """How many items each identity has, by name."""
        counts: dict[str, int] = {}
        for number, segment in enumerate(self.segments):
            own = np.bincount(segment.labels[self._rows(number)], minlength=len(segment.identities))
            for name, count in zip(segment.identities, own.tolist(), strict=True):
                if count:
                    counts[name] = counts.get(name, 0) + count
        return dict(sorted(counts.items()))

    def search(self, query: np.ndarray, k: int = 5, backend: Any = None) -> list[list[Match]]:
        """The ``k`` nearest items of each query, best first.

        Args:
            query: ``(queries, size)``, unit norm.
            k: More than there are means all.
            backend: A name or settings, see :func:`keras_featx.gallery.backends.make_backend`; by
                default ``backend`` of the gallery's settings, else ``auto``.

        Raises:
            ConfigError: On queries of another size, or that are not finite; on a ``k`` below 1.
        """
        query = self.check_query(query)
        if k < 1:
            raise ConfigError(f"k: expected at least 1, got {k}")
        if not len(self) or not len(query):
            return [[] for _ in query]
        values, serials = self._backend(backend).search(query, min(k, len(self)))
        numbers, rows = self.places_of(serials)
        return [
            [self._match(*one) for one in zip(*some, strict=True)]
            for some in zip(numbers.tolist(), rows.tolist(), values.tolist(), strict=True)
        ]

    def _backend(self, given: Any) -> Backend:
        if given is None:
            given = self.settings.get("backend", "auto")
            if isinstance(given, Mapping) and given.get("token"):
                raise ConfigError(
                    f"{self.store.folder}: backend: token: expected in the environment, "
                    "MILVUS_TOKEN, not in a gallery"
                )
        if not isinstance(given, str | Mapping):
            return given
        key = json.dumps(given, sort_keys=True)
        if key not in self._backends:
            self._backends[key] = make_backend(self, given)
        return self._backends[key]

    def check_query(self, query: np.ndarray) -> np.ndarray:
        """The query in float32.

        Raises:
            ConfigError: On queries of another size, or that are not finite.
        """
        query = np.asarray(query, "float32")
        if query.ndim != 2 or query.shape[1] != self.manifest.size:
            raise ConfigError(f"query: expected (queries, {self.manifest.size}), got {query.shape}")
        if not np.isfinite(query).all():
            raise ConfigError("query: expected finite numbers")
        return query

    def _match(self, number: int, row: int, similarity: float) -> Match:
        segment = self.segments[number]
        return Match(
            segment.id_of(row), segment.identity_of(row), similarity, segment.metadata_of(row)
        )

    def places_of(self, serials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segments, by place, and rows of items that are there, by their numbers."""
        numbers = np.searchsorted(self._last, serials)
        rows = np.zeros(numbers.shape, np.int64)
        for number in np.unique(numbers).tolist():
            own = numbers == number
            rows[own] = np.searchsorted(self.segments[number].serials, serials[own])
        return numbers, rows

    @functools.cached_property
    def _last(self) -> np.ndarray:
        return np.array([segment.serials[-1] for segment in self.segments], "uint64")

    def check(self) -> list[str]:
        """Read every file and compare its checksum: what is wrong, a sentence each."""
        wrong = []
        for part in self.manifest.parts:
            files = dict(part.files)
            if part.removed is not None:
                files[part.removed] = part.removed_file
            wrong += check_segment(self.store.segment(part.name), files)
        return wrong


def refuse_missing(folder: Path, ids: Sequence[str], places: Sequence) -> None:
    """Refuse ids that are not there.

    Raises:
        ConfigError: Likewise.
    """
    if missing := [one for one, place in zip(ids, places, strict=True) if place is None]:
        raise ConfigError(f"{folder}: {named(missing)} not there")


def named(ids: Sequence[str]) -> str:
    """Some ids as the subject of a sentence."""
    shown = ", ".join(map(repr, ids[:_NAMED]))
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{shown}{more} {'is' if len(ids) == 1 else 'are'}"
