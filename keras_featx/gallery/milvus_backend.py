"""A gallery in Milvus, for what outgrows one machine: an embedded file, or a cluster by address.

The collection holds the numbers of items and their vectors, and follows the gallery: whatever the
gallery has more is put in, whatever it has less is deleted. What was interrupted is thereby mended.
"""

import os
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError, RunError, first_line
from keras_featx.gallery.exact import Exact
from keras_featx.similarities import pair_values

_SERIAL = "serial"
# Rows of a request: 2 MiB of 512 numbers.
_ROWS = 1_000
# Candidates for each neighbour wanted; exact cosines decide among them.
_CANDIDATES = 2


class Milvus:
    """Searches a gallery's collection in Milvus.

    Args:
        gallery: An opened :class:`~keras_featx.Gallery`.
        uri: A file ending in ``.db`` (milvus-lite), or an address such as
            ``http://localhost:19530``.
        collection: Of this gallery alone: what it does not have is deleted there.
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
        self._index, self._types = index, DataType
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
            ``{"added": ..., "deleted": ...}``.

        Raises:
            ConfigError: If the collection is of another kind.
        """
        self._ensure()
        have = self._serials()
        want = [
            segment.serials if alive is None else segment.serials[alive]
            for segment, alive in zip(self.gallery.segments, self.gallery.alive, strict=True)
        ]
        wanted = np.concatenate(want).astype("int64") if want else np.zeros(0, np.int64)
        gone = np.setdiff1d(have, wanted)
        for i in range(0, len(gone), _ROWS):
            self.client.delete(self.collection, ids=gone[i : i + _ROWS].tolist())
        added = 0
        for items in self.gallery.items(_ROWS):
            serials = items.serials.astype("int64")
            new = np.flatnonzero(~np.isin(serials, have))
            if len(new):
                rows = [
                    {_SERIAL: int(serials[i]), self._vector_field: items.vectors[i].tolist()}
                    for i in new
                ]
                self.client.upsert(self.collection, rows)
                added += len(rows)
        self.synced = self.gallery.version
        return {"added": added, "deleted": len(gone)}

    def _ensure(self) -> None:
        size = self.gallery.manifest.size
        if not self.client.has_collection(self.collection):
            schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field(_SERIAL, self._types.INT64, is_primary=True)
            schema.add_field(self._vector_field, self._types.FLOAT_VECTOR, dim=size)
            how = self.client.prepare_index_params()
            how.add_index(self._vector_field, index_type=self._index, metric_type="IP")
            self.client.create_collection(self.collection, schema=schema, index_params=how)
            return
        about = self.client.describe_collection(self.collection)
        fields = {one["name"]: int(one.get("params", {}).get("dim", 0)) for one in about["fields"]}
        if fields != (wanted := {_SERIAL: 0, self._vector_field: size}):
            raise ConfigError(
                f"collection {self.collection}: expected fields {list(wanted)}, of the gallery's "
                f"model and {size} numbers, got {fields}; name another"
            )

    def _serials(self) -> np.ndarray:
        """int64: what the collection has."""
        rows = self.client.query_iterator(
            self.collection, filter=f"{_SERIAL} >= 0", output_fields=[_SERIAL], batch_size=_ROWS,
            consistency_level="Strong",
        )  # fmt: skip
        found: list[int] = []
        while batch := rows.next():
            found += [one[_SERIAL] for one in batch]
        rows.close()
        return np.array(found, np.int64)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`~keras_featx.gallery.backends.Backend`."""
        if self.synced != self.gallery.version:
            self.sync()
        rows = self.client.search(
            self.collection, data=query.tolist(), limit=min(_CANDIDATES * k, len(self.gallery)),
            output_fields=[_SERIAL], consistency_level="Strong",
            search_params={"metric_type": "IP"},
        )  # fmt: skip
        values = np.zeros((len(query), k), "float32")
        serials = np.zeros((len(query), k), "uint64")
        for i, found in enumerate(rows):
            names = np.array(sorted(one[_SERIAL] for one in found), "uint64")
            if len(names) < k:  # an index may find fewer than there are
                one, other = Exact(self.gallery).search(query[i : i + 1], k)
                values[i], serials[i] = one[0], other[0]
                continue
            vectors = np.stack([self._vector(serial) for serial in names.tolist()])
            owners = np.zeros(len(names), np.int64)
            own = pair_values(
                "inner_product", query[i : i + 1], vectors, owners, np.arange(len(names))
            )
            order = np.argsort(-own, kind="stable")[:k]
            values[i], serials[i] = own[order], names[order]
        return values, serials

    def _vector(self, serial: int) -> np.ndarray:
        segment, row = self.gallery.place_of(serial)
        return np.asarray(segment.vectors[row], "float32")
