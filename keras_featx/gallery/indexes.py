"""Indexes of faiss and usearch in the folder of a gallery: one a segment, made when needed.

Segments never change, so an index is never updated: what is added has an index of its own, what is
removed is left out of the answers, and where segments are written anew so is the index.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.data import outputs
from keras_featx.errors import ConfigError, first_line
from keras_featx.gallery.exact import Exact, in_segment
from keras_featx.gallery.segments import Segment
from keras_featx.similarities import pair_values

# gallery.versions frees what is in it.
FOLDER = "indexes"
# Below it a segment is searched exactly, which is as fast; codes cannot be learnt from fewer.
_SMALL = {"faiss-ivfpq": 10_000}
_SMALL_OTHERS = 2_000
# Candidates for each neighbour wanted; exact cosines decide among them.
_CANDIDATES = {"faiss-flat": 1, "faiss-hnsw": 2, "faiss-ivfpq": 20, "usearch": 2}
_HEAD = b"KFXIDX1\n"
# Threads that search want one index, not one each.
_MAKING = threading.Lock()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """How an index is made, kept and asked.

    Attributes:
        build: From float32 vectors ``(items, size)`` and settings to an index.
        dump: To bytes.
        load: From bytes that ``dump`` gave.
        candidates: From an index, settings, queries, a number, and the rows that are not removed
            (``None`` for all) to rows int64 ``(queries, number)``, -1 where there are fewer.
    """

    build: Callable[[np.ndarray, dict], Any]
    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]
    candidates: Callable[[Any, dict, np.ndarray, int, np.ndarray | None], np.ndarray]


class Indexed:
    """Searches by an index a segment.

    Args:
        gallery: An opened :class:`~keras_featx.Gallery`.
        name: Of the kind.
        settings: Of it.
    """

    def __init__(self, gallery: Any, name: str, settings: dict[str, Any]):
        self.gallery, self.name, self.settings = gallery, name, settings
        self._kind = _kind(name)
        digest = hashlib.sha256(json.dumps([name, _of_build(settings)]).encode()).hexdigest()
        self._suffix = f"{name}-{digest[:8]}.index"

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`~keras_featx.gallery.backends.Backend`."""
        values, serials = [], []
        for segment, alive in zip(self.gallery.segments, self.gallery.alive, strict=True):
            found, rows = self._in_segment(query, segment, alive, k)
            values.append(found)
            serials.append(np.where(rows < 0, 0, segment.serials[np.maximum(rows, 0)]))
        value, serial = np.concatenate(values, axis=1), np.concatenate(serials, axis=1)
        order = np.argsort(-value, axis=1, kind="stable")[:, :k]
        value, serial = np.take_along_axis(value, order, 1), np.take_along_axis(serial, order, 1)
        # An index may find fewer than there are.
        short = np.flatnonzero(~np.isfinite(value).all(axis=1))
        if value.shape[1] < k:
            return Exact(self.gallery).search(query, k)
        if len(short):
            value[short], serial[short] = Exact(self.gallery).search(query[short], k)
        return value, serial

    def _in_segment(
        self, query: np.ndarray, segment: Segment, alive: np.ndarray | None, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        count = len(segment) if alive is None else len(alive)
        wanted = _CANDIDATES[self.name] * k
        if len(segment) < _SMALL.get(self.name, _SMALL_OTHERS) or wanted >= count:
            return in_segment(query, segment, alive, k)
        rows = self._kind.candidates(self._index(segment), self.settings, query, wanted, alive)
        values = np.full(rows.shape, -np.inf, "float32")
        owners, places = np.nonzero(rows >= 0)
        values[owners, places] = pair_values(
            "inner_product", query, segment.vectors, owners, rows[owners, places]
        )
        # The lower row first where values are equal.
        order = np.lexsort((rows, -values), axis=1)[:, :k]
        return np.take_along_axis(values, order, 1), np.take_along_axis(rows, order, 1)

    def _index(self, segment: Segment) -> Any:
        """From memory, from disk, or made and put on disk."""
        key = (segment.folder.name, self._suffix)
        cache = self.gallery.index_cache
        with _MAKING:
            if key not in cache:
                path = self.gallery.store.folder / FOLDER / f"{segment.folder.name}-{self._suffix}"
                cache[key] = self._read(path) or self._make(segment, path)
        return cache[key]

    def _read(self, path: Path) -> Any:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be read (%s): it is made again", path, error)
            return None
        head, checksum, body = data[: len(_HEAD)], data[len(_HEAD) :][:32], data[len(_HEAD) + 32 :]
        # Only what this package wrote, whole, is given to a library that trusts its files.
        if head != _HEAD or hashlib.sha256(body).digest() != checksum:
            log.warning("%s is damaged: its checksum is another; it is made again", path)
            return None
        try:
            return self._kind.load(body)
        except Exception as error:  # of many classes: written by another version of the library
            log.warning("%s cannot be read (%s): it is made again", path, first_line(error))
            return None

    def _make(self, segment: Segment, path: Path) -> Any:
        log.info("%s: making an index of %d items", path, len(segment))
        index = self._kind.build(segment.vectors.astype("float32"), self.settings)
        body = self._kind.dump(index)
        try:
            path.parent.mkdir(exist_ok=True)
            outputs.write_bytes(path, _HEAD + hashlib.sha256(body).digest() + body)
        except OSError as error:
            log.warning("%s cannot be written (%s): the index stays in memory", path, error)
        return index


def _of_build(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that make another index."""
    return {k: v for k, v in sorted(settings.items()) if k not in ("search", "probes")}


def _kind(name: str) -> Kind:
    package = name.partition("-")[0]
    try:
        if package == "faiss":
            import faiss

            return _faiss(faiss, name)
        from usearch.index import Index
    except ImportError:
        raise ConfigError(
            f"backend {name}: {package} is not installed: pip install 'keras_featx[{package}]'"
        ) from None
    return _usearch(Index)


def _faiss(faiss, name: str) -> Kind:
    inner = faiss.METRIC_INNER_PRODUCT

    def build(vectors: np.ndarray, settings: dict) -> Any:
        size = vectors.shape[1]
        if name == "faiss-flat":
            index = faiss.IndexFlatIP(size)
        elif name == "faiss-hnsw":
            half = faiss.ScalarQuantizer.QT_fp16
            index = faiss.IndexHNSWSQ(size, half, settings["links"], inner)
            index.hnsw.efConstruction = settings["build"]
        else:
            parts = next(n for n in range(min(settings["bytes"], size), 0, -1) if size % n == 0)
            # "np": without what takes minutes and serves only Hamming distances of codes.
            # Some 40 vectors a list are wanted to train it, and 10,000 for the codes.
            lists = settings["lists"] or max(1, int(4 * len(vectors) ** 0.5))
            lists = min(lists, max(1, len(vectors) // 40))
            index = faiss.index_factory(size, f"IVF{lists},PQ{parts}np", inner)
        index.train(vectors)
        index.add(vectors)
        return index

    def candidates(index, settings, query, count, alive) -> np.ndarray:
        how = {} if alive is None else {"sel": faiss.IDSelectorBatch(alive.astype("int64"))}
        if name == "faiss-hnsw":
            how["efSearch"] = max(settings["search"], count)
            parameters = faiss.SearchParametersHNSW(**how)
        elif name == "faiss-ivfpq":
            parameters = faiss.SearchParametersIVF(nprobe=settings["probes"], **how)
        else:
            parameters = faiss.SearchParameters(**how)
        return index.search(np.ascontiguousarray(query), count, params=parameters)[1]

    return Kind(
        build,
        lambda index: faiss.serialize_index(index).tobytes(),
        lambda data: faiss.deserialize_index(np.frombuffer(data, np.uint8)),
        candidates,
    )


def _usearch(index_class) -> Kind:
    def build(vectors: np.ndarray, settings: dict) -> Any:
        index = index_class(
            ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=settings["links"],
            expansion_add=settings["build"], expansion_search=settings["search"],
        )  # fmt: skip
        index.add(np.arange(len(vectors)), vectors)
        return index

    def candidates(index, settings, query, count, alive) -> np.ndarray:
        # It cannot filter: more are asked for, by as many as are removed, within bounds.
        removed = 0 if alive is None else len(index) - len(alive)
        index.expansion_search = max(settings["search"], count)
        more = min(len(index), count + min(removed, 8 * count))
        keys = np.atleast_2d(index.search(query, more).keys).astype("int64").reshape(len(query), -1)
        found = np.full((len(query), count), -1, np.int64)
        keep = np.ones(keys.shape, bool) if alive is None else np.isin(keys, alive)
        for row, (some, good) in enumerate(zip(keys, keep, strict=True)):
            some = some[good][:count]
            found[row, : len(some)] = some
        return found

    return Kind(
        build, lambda index: bytes(index.save()), lambda data: index_class.restore(data), candidates
    )
