"""Embed what is new or changed into a gallery, and all of it anew for another model."""

import io
import logging
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_featx.data import outputs
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.extractors import BATCH, Extractor
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.items import joined
from keras_featx.gallery.opened import named
from keras_featx.gallery.segments import Items
from keras_featx.gallery.sources import BOX, DIGEST, PATH, Wanted, digests
from keras_featx.progress import progress

# Images between notes on disk; a run that is killed does at most so many again.
_NOTED = 1024
_PENDING = "pending"

log = logging.getLogger(__name__)


def fill(
    gallery: Gallery,
    wanted: Wanted,
    extractor: Extractor | None = None,
    mode: Literal["add", "update"] = "add",
) -> dict[str, int]:
    """Put items into a gallery, in one change.

    Only images that are new, or whose bytes or box are others than those of the item of that id,
    are embedded. What is embedded is noted in the folder of the gallery, so that a run that was
    killed is gone on with by doing it again.

    Args:
        gallery: The gallery.
        wanted: As of :func:`~keras_featx.gallery.sources.read_wanted`.
        extractor: Needed for images.
        mode: ``add`` puts all; ``update`` refuses ids that are not there.

    Returns:
        ``{"added": ..., "changed": ..., "unchanged": ..., "embedded": ...}``.

    Raises:
        ConfigError: On a model of another fingerprint, or items that do not fit.
        RunError: On an image that cannot be read or decoded, with its path. Nothing is changed
            then.
    """
    gallery.refresh()
    places = gallery.places(wanted.ids)
    if mode == "update" and None in places:
        missing = [one for one, place in zip(wanted.ids, places, strict=True) if place is None]
        raise ConfigError(f"{gallery.store.folder}: {named(missing)} not there")
    with _Pending(gallery.store.folder, gallery.fingerprint) as pending:
        vectors, metadata, embedded = _embeddings(gallery, wanted, extractor, places, pending)
        counts = _put(gallery, wanted, places, vectors, metadata)
    return {**counts, "embedded": embedded}


def _put(gallery: Gallery, wanted: Wanted, places, vectors, metadata) -> dict[str, int]:
    """Put what is another than what is there."""
    there = np.array([place is not None for place in places], bool)
    same = np.zeros(len(wanted), bool)
    for i in np.flatnonzero(there).tolist():
        segment, row = gallery.segments[places[i][0]], places[i][1]
        same[i] = (
            segment.identity_of(row) == wanted.identities[i]
            and segment.metadata_of(row) == metadata[i]
            and (wanted.samples is not None or _same_vector(segment.vectors[row], vectors[i]))
        )
    rows = np.flatnonzero(~same).tolist()
    if rows:
        gallery.put(
            [wanted.ids[i] for i in rows],
            [wanted.identities[i] for i in rows],
            vectors[rows],
            [metadata[i] for i in rows],
        )
    return {
        "added": int((~there).sum()),
        "changed": int((there & ~same).sum()),
        "unchanged": int(same.sum()),
    }


def _same_vector(kept: np.ndarray, new: np.ndarray) -> bool:
    return np.array_equal(kept, np.asarray(new, "float32").astype(kept.dtype))


def _embeddings(
    gallery: Gallery,
    wanted: Wanted,
    extractor: Extractor | None,
    places: Sequence,
    pending: "_Pending",
) -> tuple[np.ndarray, list[dict[str, Any]], int]:
    """Vectors and metadata of all, and how many were embedded for it."""
    if wanted.samples is None:
        if wanted.fingerprint is not None:
            gallery.check_fingerprint(wanted.fingerprint)
        return np.asarray(wanted.vectors), wanted.metadata, 0
    if extractor is None:
        raise ConfigError(f"{wanted.source}: expected a model to embed images with, got none")
    gallery.check_fingerprint(extractor.fingerprint)
    found = digests(wanted.samples)
    metadata = [{**own, DIGEST: one} for own, one in zip(wanted.metadata, found, strict=True)]
    vectors = np.zeros((len(wanted), gallery.manifest.size), "float32")
    rest = []
    for i, place in enumerate(places):
        segment, row = (gallery.segments[place[0]], place[1]) if place else (None, 0)
        if segment is not None and segment.metadata_of(row).get(DIGEST) == found[i]:
            vectors[i] = segment.vectors[row]
        else:
            rest.append(i)
    known = pending.read()
    missing = [i for i in rest if found[i] not in known]
    if len(missing) < len(rest):
        log.info("%d images were embedded by a run before", len(rest) - len(missing))
    pending.embed(extractor, wanted.samples, missing, found, known)
    for i in rest:
        vectors[i] = known[found[i]]
    return vectors, metadata, len(missing)


class _Pending:
    """Embeddings that are not in the gallery yet, on disk by the digests of their images.

    Leaving the context without an error removes what was read and written in it.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = folder / _PENDING / fingerprint[:16]
        self._used: list[Path] = []

    def __enter__(self) -> "_Pending":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None and self._used:
            for path in self._used:
                path.unlink(missing_ok=True)
            for folder in (self.folder, self.folder.parent):
                if not any(folder.iterdir()):  # another process may be at work
                    folder.rmdir()

    def read(self) -> dict[str, np.ndarray]:
        """What is noted."""
        known: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as file:
                    names, vectors = file["digests"].tolist(), file["vectors"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                log.warning("%s is damaged: what it held is embedded again", path)
                self._used.append(path)
                continue
            known.update(zip(names, vectors, strict=True))
            self._used.append(path)
        return known

    def embed(
        self,
        extractor: Extractor,
        samples: Samples,
        rows: Sequence[int],
        digests_: Sequence[str],
        known: dict[str, np.ndarray],
    ) -> None:
        """Embed some images and note them."""
        if not len(rows):
            return
        batches = extractor.embed(samples.take(rows))
        found: list[np.ndarray] = []
        done = 0
        for batch in progress(batches, -(-len(rows) // BATCH), "embedding", BATCH):
            found.append(batch)
            count = sum(map(len, found))
            if count >= _NOTED or done + count == len(rows):
                names = [digests_[i] for i in rows[done : done + count]]
                vectors = np.concatenate(found)
                self._note(names, vectors)
                known.update(zip(names, vectors, strict=True))
                found, done = [], done + count

    def _note(self, names: list[str], vectors: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{uuid.uuid4().hex[:12]}.npz"
        buffer = io.BytesIO()
        np.savez(buffer, digests=np.array(names), vectors=vectors)
        outputs.write_bytes(path, buffer.getbuffer())
        self._used.append(path)


def reembed(
    gallery: Gallery, extractor: Extractor, moved: tuple[str, str] | None = None
) -> dict[str, int]:
    """Embed all images of a gallery by another model, as its next version.

    Ids, identities, metadata and order stay. What was calibrated for the model before (threshold,
    rule) is taken away, as it means nothing for another.

    Args:
        gallery: Whose items have images: ``path`` in their metadata.
        extractor: The other model.
        moved: Paths that begin with the first now begin with the second.

    Returns:
        ``{"items": ..., "embedded": ...}``.

    Raises:
        ConfigError: If an item has no image.
        RunError: If an image is another than the one that was added, or cannot be read; if another
            process changed the gallery meanwhile.
    """
    gallery.refresh()
    version, every = gallery.version, list(gallery.items())
    items = joined(every) if every else None
    if items is None:
        gallery.replace_model(extractor.fingerprint, extractor.embedding_size, None, version)
        return {"items": 0, "embedded": 0}
    samples = _images_of(gallery, items, moved)
    found = digests(samples)
    for i, digest in enumerate(found):
        if items.metadata[i].get(DIGEST) not in (None, digest):
            raise RunError(
                f"{samples.paths[i]}: expected the image that was added as {items.ids[i]!r}, got "
                "another; update it first"
            )
    with _Pending(gallery.store.folder, extractor.fingerprint) as pending:
        known = pending.read()
        missing = [i for i in range(len(found)) if found[i] not in known]
        pending.embed(extractor, samples, missing, found, known)
        metadata = [{**more, DIGEST: one} for more, one in zip(items.metadata, found, strict=True)]
        vectors = np.stack([known[digest] for digest in found])
        items = replace(items, vectors=vectors, metadata=metadata)
        gallery.replace_model(extractor.fingerprint, extractor.embedding_size, items, version)
    return {"items": len(found), "embedded": len(missing)}


def _images_of(gallery: Gallery, items: Items, moved: tuple[str, str] | None) -> Samples:
    paths, boxes = [], np.zeros((len(items), 4), np.int64)
    for i, (one, more) in enumerate(zip(items.ids, items.metadata, strict=True)):
        path = more.get(PATH)
        if not isinstance(path, str):
            raise ConfigError(
                f"{gallery.store.folder}: {one!r} was added without an image of its own; it cannot "
                "be embedded again"
            )
        boxes[i] = more.get(BOX, 0)
        if moved is not None and path.startswith(moved[0]):
            path = moved[1] + path.removeprefix(moved[0])
        paths.append(path)
    return Samples(
        str(gallery.store.folder), paths, np.zeros(len(paths), np.int64),
        np.arange(1, len(paths) + 1), boxes=boxes if boxes.any() else None,
    )  # fmt: skip
