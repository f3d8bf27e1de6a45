"""A gallery in Milvus, for what outgrows one machine: an embedded file, or a cluster by address.

The collection holds of each item its number, its vector and a mark of that. It follows the newest
version of the gallery: what the gallery has more, or otherwise, is put in, what it has less is
deleted. What was interrupted is thereby mended. An older version that is open is searched exactly.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError, RunError, first_line
from keras_featx.gallery.exact import Exact
from keras_featx.gallery.segments import Segment
from keras_featx.similarities import pair_values, row_blocks

_SERIAL, _MARK = "serial", "mark"
# Rows, or queries, of a request: 2 MiB of 512 numbers.
_ROWS = 1_000
# Candidates for each neighbour wanted; exact cosines decide among them.
_CANDIDATES = 2
# Milvus finds no more for a query.
_MOST = 16_384

log = logging.getLogger(__name__)


class Milvus:
    """Searches a gallery's collection in Milvus.

    Args:
        gallery: An opened :class:`~keras_featx.Gallery`.
        uri: A file ending in ``.db`` (milvus-lite), or an address such as
            ``http://localhost:19530``.
        collection: Of this gallery in this folder alone: what it does not have is deleted there.
        token: ``user:password``; by default the environment variable ``MILVUS_TOKEN``. It is never
            kept with a gallery.
        index: ``AUTOINDEX``, ``FLAT``, ``HNSW`` and so on, for a collection that is made.
    """

    def __init__(self, gallery: Any, uri: str, collection: str, token: str | None, index: str):
        try:
            from pymilvus import DataType, MilvusClient
        except ImportError:
            raise ConfigError(
                "backend milvus: pymilvus is not installed: pip install 'keras_featx[milvus]'"
            ) from None
        self.gallery, self.collection, self.synced = gallery, collection, None
        self._uri, self._index, self._types = uri, index, DataType
        # Of the model, so that vectors of two are never mixed.
        self._vector_field = f"vector_{gallery.fingerprint[:16]}"
        token = token or os.environ.get("MILVUS_TOKEN", "")
        try:
            self.client = MilvusClient(uri, token=token)
        except Exception as error:  # of many classes
            raise RunError(f"{uri}: expected Milvus: {first_line(error)}") from None

    def sync(self) -> dict[str, int]:
        """Bring the collection to the version of the gallery.

        Returns:
            ``{"added": ..., "deleted": ...}``; an item whose vector was another is added.

        Raises:
            ConfigError: If the collection is of another kind.
            RunError: If the gallery has a newer version, which the collection follows; or as
                Milvus says.
        """
        with self._errors():
            self._ensure()
            have, marks = self._contents()
        # Asked after that: whatever a newer version has put in until now is not deleted below.
        if not self._is_newest():
            raise RunError(
                f"{self.gallery.store.folder}: version {self.gallery.version} is not the newest, "
                f"which collection {self.collection} follows"
            )
        wanted, known = self._wanted()
        place = np.searchsorted(wanted, have)
        there = np.append(wanted, -1)[place] == have
        same = there & (np.append(known, 0)[place] == marks)
        missing = np.setdiff1d(wanted, have[same])
        with self._errors():
            for i in range(0, len(gone := have[~there]), _ROWS):
                self.client.delete(self.collection, ids=gone[i : i + _ROWS].tolist())
            for serials, vectors in self._items(missing):
                rows = [
                    {_SERIAL: serial, _MARK: mark, self._vector_field: vector}
                    for serial, mark, vector in zip(
                        serials.astype("int64").tolist(), _marks(vectors).tolist(),
                        vectors.astype("float32").tolist(), strict=True,
                    )
                ]  # fmt: skip
                self.client.upsert(self.collection, rows)
        self.synced, self._alive = self.gallery.version, wanted
        return {"added": len(missing), "deleted": len(gone)}

    def _is_newest(self) -> bool:
        return self.gallery.store.numbers()[-1:] == [self.gallery.version]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            raise RunError(
                f"{self._uri}: collection {self.collection}: {first_line(error)}"
            ) from None

    def _ensure(self) -> None:
        size = self.gallery.manifest.size
        if not self.client.has_collection(self.collection):
            schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field(_SERIAL, self._types.INT64, is_primary=True)
            schema.add_field(_MARK, self._types.INT64)
            schema.add_field(self._vector_field, self._types.FLOAT_VECTOR, dim=size)
            how = self.client.prepare_index_params()
            how.add_index(self._vector_field, index_type=self._index, metric_type="IP")
            self.client.create_collection(self.collection, schema=schema, index_params=how)
            return
        about = self.client.describe_collection(self.collection)
        fields = {one["name"]: int(one.get("params", {}).get("dim", 0)) for one in about["fields"]}
        if fields != (wanted := {_SERIAL: 0, _MARK: 0, self._vector_field: size}):
            raise ConfigError(
                f"collection {self.collection}: expected fields {list(wanted)}, of the gallery's "
                f"model and {size} numbers, got {fields}; name another"
            )

    def _contents(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and marks that the collection has, int64."""
        rows = self.client.query_iterator(
            self.collection, filter=f"{_SERIAL} >= 0", output_fields=[_SERIAL, _MARK],
            batch_size=_ROWS, consistency_level="Strong",
        )  # fmt: skip
        found: list[tuple[int, int]] = []
        while batch := rows.next():
            found += [(one[_SERIAL], one[_MARK]) for one in batch]
        rows.close()
        pairs = np.array(found, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def _wanted(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and marks that the gallery has, int64, by rising number."""
        serials, marks = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for segment, alive in self._segments():
            rows = slice(None) if alive is None else alive
            serials.append(segment.serials[rows].astype("int64"))
            cache, key = self.gallery.index_cache, (segment.folder.name, "marks")
            if key not in cache:
                cache[key] = _marks(segment.vectors)
            marks.append(cache[key][rows])
        found, order = np.concatenate(serials), np.argsort(np.concatenate(serials))
        return found[order], np.concatenate(marks)[order]

    def _segments(self) -> Iterator[tuple[Segment, np.ndarray | None]]:
        return zip(self.gallery.segments, self.gallery.alive, strict=True)

    def _items(self, serials: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers and stored vectors of items, some at a time."""
        for segment, alive in self._segments():
            rows = np.arange(len(segment)) if alive is None else alive
            rows = rows[np.isin(segment.serials[rows].astype("int64"), serials)]
            for i in range(0, len(rows), _ROWS):
                some = rows[i : i + _ROWS]
                yield segment.serials[some], segment.vectors[some]

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`~keras_featx.gallery.backends.Backend`."""
        if k > _MOST or not self._follows():
            return Exact(self.gallery).search(query, k)
        values = np.zeros((len(query), k), "float32")
        serials = np.zeros((len(query), k), "uint64")
        for i in range(0, len(query), _ROWS):
            part = slice(i, i + _ROWS)
            with self._errors():
                found = self.client.search(
                    self.collection, data=query[part].tolist(),
                    limit=min(_CANDIDATES * k, len(self.gallery), _MOST),
                    output_fields=[_SERIAL], consistency_level="Strong",
                    search_params={"metric_type": "IP"},
                )  # fmt: skip
            for j, rows in enumerate(found, i):
                names = np.array([one[_SERIAL] for one in rows], np.int64)
                values[j], serials[j] = self._nearest(query[j : j + 1], names, k)
        return values, serials

    def _follows(self) -> bool:
        """Whether the collection is at the open version, where it is brought if need be."""
        try:
            if self._is_newest() and self.synced != self.gallery.version:
                self.sync()
        except RunError:
            if self._is_newest():
                raise
        if newest := self._is_newest():
            return newest
        log.info("version %d is searched exactly: Milvus has a newer one", self.gallery.version)
        return False

    def _nearest(self, query: np.ndarray, names: np.ndarray, k: int) -> tuple:
        """Of candidates, by exact cosines; whatever they lack is searched exactly."""
        # The collection may have more: another process may be bringing it to a newer version.
        names = np.unique(names)
        place = np.searchsorted(self._alive, names)
        names = names[np.append(self._alive, -1)[place] == names]
        if len(names) < k:
            values, serials = Exact(self.gallery).search(query, k)
            return values[0], serials[0]
        places = np.stack(self.gallery.places_of(names.astype("uint64")), axis=1).tolist()
        vectors = np.stack([self.gallery.segments[number].vectors[row] for number, row in places])
        rows = np.arange(len(names))
        values = pair_values("inner_product", query, vectors, np.zeros_like(rows), rows)
        order = np.argsort(-values, kind="stable")[:k]
        return values[order], names[order]


def _marks(vectors: np.ndarray) -> np.ndarray:
    """int64 ``(items,)``: equal for equal vectors, and hardly ever for others.

    A sum of products with odd numbers that are drawn once, over 16 bits at a time, modulo 2^64.
    """
    words = vectors.shape[1] * vectors.dtype.itemsize // 2
    drawn = hashlib.shake_128(b"marks").digest(8 * words)
    factors = np.frombuffer(drawn, "<u8") | np.uint64(1)
    found = np.empty(len(vectors), np.uint64)
    for part in row_blocks(vectors):
        some = np.ascontiguousarray(vectors[part]).view("<u2").astype(np.uint64)
        found[part] = (some * factors).sum(axis=1, dtype=np.uint64)
    return found.view(np.int64)
