"""What searches a gallery: exactly, by indexes of faiss or usearch, or in Milvus.

A backend has ``search(query, k)``: float32 queries to cosines and numbers of items, ``(queries,
k)`` each, for ``k`` up to the items there are. Cosines are always those with the stored vectors;
only which items are found may be approximate.
"""

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from keras_featx import components
from keras_featx.errors import ConfigError
from keras_featx.gallery.exact import Exact

# Items from which on `auto` takes HNSW: there exact search takes 10 ms and more for a query.
LARGE = 100_000
# What can be set, with defaults.
SETTINGS: dict[str, dict[str, Any]] = {
    "exact": {},
    "auto": {},
    "faiss-flat": {},
    "faiss-hnsw": {"links": 32, "build": 200, "search": 128},
    "faiss-ivfpq": {"lists": 0, "probes": 32, "bytes": 64},
    "usearch": {"links": 16, "build": 128, "search": 128},
    "milvus": {"uri": None, "collection": None, "token": None, "index": "AUTOINDEX"},
}

log = logging.getLogger(__name__)


class Backend(Protocol):
    """Searches one version of a gallery."""

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines, float32, and numbers of items, uint64, each ``(queries, k)``, best first."""


def check_settings(settings: str | Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a backend, whole.

    Args:
        settings: A name, or ``{"name": ..., ...}``.

    Raises:
        ConfigError: On a name or key that is none, with the closest one, or an impossible value.

    Example:
        >>> from keras_featx.gallery.backends import check_settings
        >>> check_settings("faiss-hnsw")
        {'name': 'faiss-hnsw', 'links': 32, 'build': 200, 'search': 128}
    """
    if not isinstance(settings, str | Mapping):
        raise ConfigError(f"backend: expected a name or settings, got {settings!r}")
    given = {"name": settings} if isinstance(settings, str) else dict(settings)
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in SETTINGS:
        raise ConfigError(
            f"backend: expected one of {', '.join(SETTINGS)}, got {name!r}"
            f"{components.closest(str(name), list(SETTINGS))}"
        )
    known = SETTINGS[name]
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"backend {name}: expected {', '.join(known) or 'no settings'}, got {key!r}"
                f"{components.closest(key, list(known))}"
            )
        default = known[key]
        if isinstance(default, int) and (type(value) is not int or value < min(default, 1)):
            raise ConfigError(
                f"backend {name}: {key}: expected a whole number of at least {min(default, 1)}, "
                f"got {value!r}"
            )
        if not isinstance(default, int) and value is not None and not isinstance(value, str):
            raise ConfigError(f"backend {name}: {key}: expected a text, got {value!r}")
    found = {"name": name, **known, **given}
    for key in ("uri", "collection", "index"):
        if key in found and not found[key]:
            raise ConfigError(f"backend {name}: {key}: expected one, got {found[key]!r}")
    return found


def make_backend(gallery: Any, settings: str | Mapping[str, Any]) -> Backend:
    """What searches a version of a gallery.

    Args:
        gallery: An opened :class:`~keras_featx.Gallery`.
        settings: ``exact``; ``faiss-flat``, ``faiss-hnsw``, ``faiss-ivfpq`` or ``usearch``, whose
            indexes lie in the gallery's folder, one a segment, and are made when first needed;
            ``milvus`` with ``uri`` and ``collection``; ``auto``: exact below 100,000 items, else
            HNSW of faiss where that is installed. A dict ``{"name": ..., ...}`` sets more, see
            ``SETTINGS``.

    Raises:
        ConfigError: On settings that are none, or a package that is missing.
    """
    found = check_settings(settings)
    name = found.pop("name")
    if name == "auto":
        name = _automatic(len(gallery))
        found = dict(SETTINGS[name])
    if name == "exact":
        return Exact(gallery)
    if name == "milvus":
        from keras_featx.gallery.milvus_backend import Milvus

        return Milvus(gallery, **found)
    from keras_featx.gallery.indexes import Indexed

    return Indexed(gallery, name, found)


def _automatic(items: int) -> str:
    if items < LARGE:
        return "exact"
    if importlib.util.find_spec("faiss") is None:
        log.info("%d items are searched exactly: pip install 'keras_featx[faiss]' is faster", items)
        return "exact"
    return "faiss-hnsw"
