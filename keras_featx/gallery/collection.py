"""A gallery that is safe to operate: items by id, changed atomically, searched, rolled back."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery.items import joined, make_items
from keras_featx.gallery.opened import Opened, named, refuse_missing
from keras_featx.gallery.segments import PRECISIONS, Items, open_segment, write_segment
from keras_featx.gallery.versions import Manifest, Part, Store, now

# A segment with more removed than this share of it is written anew.
_MOST_REMOVED = 0.25
# Settings that mean nothing for another model.
_OF_MODEL = ("threshold", "rule", "calibration", "model")


class Gallery(Opened):
    """Embeddings with ids, identities and metadata, in a folder.

    A change is atomic and durable: a process that is killed at any moment leaves the version before
    or the one after. One process changes at a time; others read the version they opened meanwhile.

    Args:
        folder: That :meth:`create` or ``keras-featx gallery build`` made.
        version: By default the newest.

    Raises:
        ConfigError: If there is no gallery, or no such version.
        RunError: If a file is missing or damaged.

    Example:
        >>> import numpy as np
        >>> from keras_featx import Gallery
        >>> shelf = Gallery.create("output/example_shelf", "0" * 64, size=2, overwrite=True)
        >>> shelf.add(["a.jpg", "b.jpg"], ["ant", "bee"], np.eye(2))
        2
        >>> [match.identity for match in shelf.search(np.eye(2)[1:], k=1)[0]]
        ['bee']
    """

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike,
        fingerprint: str,
        size: int,
        precision: str = "float16",
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> "Gallery":
        """Make an empty gallery.

        Args:
            folder: Of the gallery.
            fingerprint: Of the model whose embeddings it holds.
            size: Numbers of an embedding.
            precision: ``float32``; ``float16``; or ``int8``, where the search reads a byte a number
                and float16 decides among the best.
            settings: What belongs to it, as JSON.
            overwrite: Replace one that is there.

        Raises:
            ConfigError: If one is there, or on another precision.
        """
        store = Store(folder)
        if precision not in PRECISIONS:
            raise ConfigError(
                f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}"
            )
        if store.folder.exists() and not store.exists() and any(store.folder.iterdir()):
            raise ConfigError(f"{folder}: expected a gallery or nothing, got a folder of files")
        with store.writing():
            if store.exists():
                if not overwrite:
                    raise ConfigError(f"{folder}: expected nothing, got a gallery")
                for name in ("versions", "segments", "indexes"):
                    shutil.rmtree(store.folder / name, ignore_errors=True)
            made = Manifest(1, now(), "create", fingerprint, size, precision)
            store.commit(replace(made, settings={**(settings or {}), "next_serial": 1}))
        return cls(folder)

    def add(
        self,
        ids: Sequence[str],
        identities: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> int:
        """Add items; returns how many.

        Args:
            ids: Of each, none of which is there.
            identities: Whose each is.
            vectors: ``(items, size)``, unit norm.
            metadata: JSON objects.

        Raises:
            ConfigError: On items that do not fit, or an id that is there. Nothing is added then.
        """
        return self._put(ids, identities, vectors, metadata, old=False)

    def update(
        self,
        ids: Sequence[str],
        identities: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> int:
        """Replace items that are there; arguments as of :meth:`add`."""
        return self._put(ids, identities, vectors, metadata, old=True)

    def put(
        self,
        ids: Sequence[str],
        identities: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> int:
        """Add items, or replace those that are there, in one change."""
        return self._put(ids, identities, vectors, metadata, old=None)

    def _put(self, ids, identities, vectors, metadata, old: bool | None) -> int:
        def change(manifest: Manifest) -> Manifest | None:
            first = manifest.settings["next_serial"]
            items = make_items(ids, identities, vectors, metadata, manifest.size, first)
            if not len(items):
                return None
            places = self.places(items.ids)
            if old:
                refuse_missing(self.store.folder, items.ids, places)
            if old is False and (
                there := [i for i, p in zip(items.ids, places, strict=True) if p is not None]
            ):
                raise ConfigError(f"{self.store.folder}: {named(there)} already there")
            parts = self._without(manifest, [place for place in places if place is not None])
            what = {False: "add", True: "update", None: "put"}[old]
            settings = {**manifest.settings, "next_serial": first + len(items)}
            parts = self._merged(parts, items)
            return replace(manifest, parts=parts, settings=settings, what=f"{what} {len(items)}")

        return len(ids) if self._change(change) else 0

    def remove(self, ids: Sequence[str]) -> int:
        """Remove items; returns how many.

        Raises:
            ConfigError: At an id that is not there. Nothing is removed then.
        """
        ids = list(dict.fromkeys(map(str, ids)))

        def change(manifest: Manifest) -> Manifest | None:
            places = self.places(ids)
            refuse_missing(self.store.folder, ids, places)
            parts = self._without(manifest, places)
            return replace(manifest, parts=parts, what=f"remove {len(ids)}") if ids else None

        self._change(change)
        return len(ids)

    def set(self, **settings: Any) -> None:
        """Change what belongs to the gallery, such as ``threshold``; ``None`` takes it away."""

        def change(manifest: Manifest) -> Manifest:
            kept = {k: v for k, v in {**manifest.settings, **settings}.items() if v is not None}
            return replace(manifest, settings=kept, what=f"set {', '.join(sorted(settings))}")

        self._change(change)

    def replace_model(self, fingerprint: str, size: int, items: Items | None, version: int) -> None:
        """Put the same items, embedded by another model, in place of all.

        Args:
            fingerprint: Of the other model.
            size: Of its embeddings.
            items: All that are there, if any.
            version: That they were read from.

        Raises:
            RunError: If another process has made a newer version since.
        """

        def change(manifest: Manifest) -> Manifest:
            if manifest.version != version:
                raise RunError(
                    f"{self.store.folder}: version {manifest.version} was made meanwhile; do it "
                    "again"
                )
            kept = {k: v for k, v in manifest.settings.items() if k not in _OF_MODEL}
            made = replace(manifest, fingerprint=fingerprint, size=size, settings=kept)
            parts = () if items is None else (self._written(items),)
            return replace(made, parts=parts, what=f"another model for {len(items or ())}")

        self._change(change)

    def compact(self) -> None:
        """Write all items into one segment, without those that are removed."""

        def change(manifest: Manifest) -> Manifest:
            every = list(self.items())
            parts = (self._written(joined(every)),) if every else ()
            return replace(manifest, parts=parts, what="compact")

        self._change(change)

    def rollback(self, version: int) -> None:
        """Make a new version with what an older one had."""

        def change(manifest: Manifest) -> Manifest:
            old = self.store.read(version)
            # Numbers of items are never given twice, also not after going back.
            settings = {**old.settings, "next_serial": manifest.settings["next_serial"]}
            return replace(old, settings=settings, what=f"rollback to {version}")

        self._change(change)

    def prune(self, keep: int = 10) -> list[int]:
        """Forget all but the newest versions, and free what only these needed; returns them."""
        if keep < 1:
            raise ConfigError(f"keep: expected at least 1, got {keep}")
        with self.store.writing():
            return self.store.prune(keep)

    def _change(self, change: Callable[[Manifest], Manifest | None]) -> bool:
        """Make the next version out of the newest one."""
        with self.store.writing():
            self.refresh()
            made = change(self.manifest)
            if made is None:
                return False
            made = replace(made, version=self.store.numbers()[-1] + 1, made=now())
            self.store.commit(made)
            self._open(made)
            return True

    def _written(self, items: Items) -> Part:
        folder = self.store.new_segment()
        return Part(folder.name, len(items), write_segment(folder, items, self.manifest.precision))

    def _without(self, manifest: Manifest, places: Sequence[tuple[int, int]]) -> tuple[Part, ...]:
        """The segments with some items removed."""
        parts = list(manifest.parts)
        for number in sorted({number for number, _ in places}):
            rows = [row for other, row in places if other == number]
            removed = np.union1d(self.removed[number], rows)
            part, segment = parts[number], self.segments[number]
            if len(removed) <= _MOST_REMOVED * len(segment):
                parts[number] = self.store.write_removed(part, removed)
                continue
            rest = np.setdiff1d(np.arange(len(segment)), removed)
            parts[number] = self._written(segment.items(rest)) if len(rest) else None
        return tuple(part for part in parts if part is not None)

    def _merged(self, parts: tuple[Part, ...], items: Items) -> tuple[Part, ...]:
        """The segments with one more; small ones at the end become one with it.

        As each is at least twice the next, there are few, and an item is written few times.
        """
        kept, taken = list(parts), [items]
        while kept and kept[-1].items - kept[-1].removed_items < 2 * sum(map(len, taken)):
            part = kept.pop()
            segment = open_segment(self.store.segment(part.name), part.files, self.manifest.size)
            rows = np.setdiff1d(np.arange(len(segment)), self.store.read_removed(part))
            if len(rows):
                taken.append(segment.items(rows))
        return (*kept, self._written(joined(taken)))
