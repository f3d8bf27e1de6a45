"""Items that are to be written to a gallery, checked."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.gallery.segments import Items


def make_items(
    ids: Sequence[str],
    identities: Sequence[str],
    vectors: np.ndarray,
    metadata: Sequence[Mapping[str, Any]] | None,
    size: int,
    first_serial: int,
) -> Items:
    """Check them and give them their numbers.

    Raises:
        ConfigError: On counts that differ, an id twice, vectors of another size or norm, or
            metadata that is no JSON object.
    """
    ids, identities = [str(one) for one in ids], [str(one) for one in identities]
    vectors = np.asarray(vectors, "float32")
    metadata = [{}] * len(ids) if metadata is None else list(metadata)
    if vectors.ndim != 2 or vectors.shape[1] != size:
        raise ConfigError(f"vectors: expected (items, {size}), got {vectors.shape}")
    counts = {"identities": len(identities), "vectors": len(vectors), "metadata": len(metadata)}
    for name, count in counts.items():
        if count != len(ids):
            raise ConfigError(f"{name}: expected {len(ids)}, one of each id, got {count}")
    _check_ids(ids)
    lengths = np.linalg.norm(vectors, axis=1)
    if len(bad := np.flatnonzero(~(np.abs(lengths - 1) < 1e-2))):  # NaN, too
        raise ConfigError(
            f"vectors: expected norm 1, got {lengths[bad[0]]:.3g} for {ids[bad[0]]!r}"
        )
    for one, more in zip(ids, metadata, strict=True):
        if not _is_object(more):
            raise ConfigError(f"metadata: expected a JSON object for {one!r}, got {more!r}")
    serials = np.arange(first_serial, first_serial + len(ids), dtype="uint64")
    return Items(ids, identities, vectors, metadata, serials)


def _check_ids(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for one in ids:
        if not one:
            raise ConfigError("ids: expected a text for each item, got an empty one")
        if one in seen:
            raise ConfigError(f"ids: expected each once, got {one!r} twice")
        seen.add(one)


def _is_object(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return isinstance(value, Mapping)


def joined(parts: Sequence[Items]) -> Items:
    """All of them, in the order of their numbers."""
    serials = np.concatenate([part.serials for part in parts])
    order = np.argsort(serials).tolist()
    ids, identities, metadata = (
        [one for part in parts for one in getattr(part, name)]
        for name in ("ids", "identities", "metadata")
    )
    vectors = np.concatenate([part.vectors for part in parts])
    return Items(
        [ids[i] for i in order],
        [identities[i] for i in order],
        vectors[order],
        [metadata[i] for i in order],
        serials[order],
    )
