"""The gallery file of devices: embeddings and whose they are, to be memory-mapped.

``mobile/GALLERY.md`` has the layout, byte by byte; programs in other languages read and write the
same file.
"""

import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_featx.data.outputs import replacing
from keras_featx.errors import ConfigError
from keras_featx.search import nearest

MAGIC, VERSION = b"KFXGAL\r\n", 1
PRECISIONS = ("float16", "int8")
_HEADER = struct.Struct("<8sIIIIQ32sfII")  # and the CRC-32 of these 76 bytes
_HEADER_BYTES, _ALIGNED = 128, 64
# Of a search in int8, for each neighbour wanted; the exact similarity then decides among them.
_CANDIDATES = 4
# Rows that are turned into float32 at a time.
_BLOCK = 65536


@dataclass(frozen=True, eq=False)
class GalleryFile:
    """An opened gallery file; its arrays are memory maps.

    Attributes:
        identities: Their names.
        labels: uint32 ``(items,)``: the identity of each item, as a place in ``identities``.
        vectors: float16 ``(items, size)``, unit norm but for rounding.
        codes: int8 ``(items, size)`` of a file in int8, else ``None``.
        scales: float32 ``(items,)``: an item is about ``codes * scale``; ``None`` likewise.
        fingerprint: Of the model that embedded them: 64 hexadecimal digits.
        threshold: Cosine from which on two images are taken for the same, or ``None``.
    """

    identities: list[str]
    labels: np.ndarray
    vectors: np.ndarray
    codes: np.ndarray | None
    scales: np.ndarray | None
    fingerprint: str
    threshold: float | None

    def search(self, query: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest items of each query, best first, ties to the lowest row.

        With codes, the candidates are those nearest by codes, four for each neighbour wanted; which
        of them are nearest, the float16 vectors say.

        Args:
            query: Float32 ``(queries, size)``, unit norm.
            k: At least 1; more than there are means all.

        Returns:
            Similarities, float32, and rows, int64, each ``(queries, k)``.

        Raises:
            ConfigError: On another size.
        """
        query = np.asarray(query, "float32")
        size = self.vectors.shape[1]
        if query.ndim != 2 or query.shape[1] != size:
            raise ConfigError(f"query: expected (queries, {size}), got {query.shape}")
        if not len(self.labels):
            empty = np.zeros((len(query), 0))
            return empty.astype("float32"), empty.astype("int64")
        k = min(k, len(self.labels))
        if self.codes is None:
            return nearest(query, self._floats(slice(None)), k, backend="numpy")
        coarse = self._by_codes(query, min(_CANDIDATES * k, len(self.labels)))
        values = np.empty((len(query), k), "float32")
        rows = np.empty((len(query), k), "int64")
        for i, some in enumerate(coarse):
            some.sort()  # ties to the lowest row
            values[i], best = nearest(query[i : i + 1], self._floats(some), k, backend="numpy")
            rows[i] = some[best]
        return values, rows

    def _floats(self, rows) -> np.ndarray:
        return self.vectors[rows].astype("float32")

    def _by_codes(self, query: np.ndarray, count: int) -> np.ndarray:
        scores = np.concatenate(
            [
                query
                @ (self.codes[i : i + _BLOCK].astype("float32").T)
                * self.scales[i : i + _BLOCK]
                for i in range(0, len(self.labels), _BLOCK)
            ],
            axis=1,
        )
        return np.argpartition(-scores, count - 1, axis=1)[:, :count]


def write_gallery(
    path: str | os.PathLike,
    embeddings: np.ndarray,
    names: Sequence[str],
    fingerprint: str,
    precision: str = "float16",
    threshold: float | None = None,
) -> None:
    """Write a gallery file, whole or not at all.

    Args:
        path: Of the file.
        embeddings: Float ``(items, size)``, unit norm.
        names: The identity of each item.
        fingerprint: Of the model that embedded them: 64 hexadecimal digits.
        precision: ``float16``, or ``int8``: codes to search in besides the float16 vectors, which
            are then read for the best candidates only.
        threshold: Cosine from which on two images are taken for the same, -1 to 1.

    Raises:
        ConfigError: If they do not fit together.

    Example:
        >>> import numpy as np
        >>> from keras_featx.gallery_file import read_gallery, write_gallery
        >>> write_gallery("two.kfg", np.eye(2), ["ant", "bee"], "0" * 64)
        >>> values, rows = read_gallery("two.kfg").search(np.eye(2)[1:], k=1)
        >>> rows
        array([[1]])
    """
    embeddings = np.asarray(embeddings, "float32")
    if embeddings.ndim != 2 or len(names) != len(embeddings) or not embeddings.shape[1]:
        raise ConfigError(
            f"embeddings: expected one of (items, size) for each of {len(names)} names, got "
            f"{embeddings.shape}"
        )
    lengths = np.linalg.norm(embeddings, axis=1)
    if len(bad := np.flatnonzero(~(np.abs(lengths - 1) < 1e-2))):  # NaN, too
        raise ConfigError(f"embeddings: expected norm 1, got {lengths[bad[0]]:.3g} in row {bad[0]}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if threshold is not None and not -1 <= threshold <= 1:
        raise ConfigError(f"threshold: expected a cosine, -1 to 1, got {threshold}")
    identities, labels = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)
    texts = [str(name).encode() for name in identities]
    ends = np.cumsum([0, *map(len, texts)], dtype="<u4")
    parts = [labels.astype("<u4").tobytes(), ends.tobytes() + b"".join(texts)]
    if precision == "int8":
        scales = np.abs(embeddings).max(axis=1) / np.float32(127)
        codes = np.rint(embeddings / scales[:, None]).astype("int8")
        parts += [scales.astype("<f4").tobytes(), codes.tobytes()]
    parts.append(embeddings.astype("<f2").tobytes())
    body = b"".join(part + bytes(-len(part) % _ALIGNED) for part in parts)
    header = _HEADER.pack(
        MAGIC, VERSION, PRECISIONS.index(precision), embeddings.shape[1], len(texts),
        len(embeddings), _digest(fingerprint), math.nan if threshold is None else threshold,
        len(parts[1]), zlib.crc32(body),
    )  # fmt: skip
    header += struct.pack("<I", zlib.crc32(header))
    with replacing(os.fspath(path)) as file:
        file.write(header.ljust(_HEADER_BYTES, b"\0"))
        file.write(body)


def _digest(fingerprint: str) -> bytes:
    try:
        digest = bytes.fromhex(fingerprint)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ConfigError(f"fingerprint: expected 64 hexadecimal digits, got {fingerprint!r}")
    return digest


def read_gallery(path: str | os.PathLike, check: bool = True) -> GalleryFile:
    """Open a gallery file.

    Args:
        path: Of the file.
        check: Read all of it once and compare its checksum. Without, it opens at once, however
            large it is.

    Raises:
        ConfigError: If it cannot be read, is no gallery file, or is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
            length = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise ConfigError(f"{path}: expected a gallery file: {error.strerror}") from None
    if head[:8] != MAGIC:
        raise ConfigError(f"{path}: expected a gallery file, got another kind of file")
    if len(head) < _HEADER_BYTES:
        raise ConfigError(f"{path}: expected at least {_HEADER_BYTES} bytes, got {len(head)}")
    _, version, kind, size, identities, items, digest, threshold, names, checksum = (
        _HEADER.unpack_from(head)
    )
    if version != VERSION:
        raise ConfigError(f"{path}: expected a gallery file of version {VERSION}, got {version}")
    if struct.unpack_from("<I", head, _HEADER.size)[0] != zlib.crc32(head[: _HEADER.size]):
        raise ConfigError(f"{path}: damaged: the checksum of its header is another")
    if kind >= len(PRECISIONS) or not size or names < 4 * (identities + 1):
        raise ConfigError(f"{path}: damaged: its header holds impossible numbers")
    sizes = [4 * items, names, *([4 * items, size * items] if kind else []), 2 * size * items]
    places = np.cumsum([_HEADER_BYTES, *(n + -n % _ALIGNED for n in sizes)]).tolist()
    if length != places[-1]:
        raise ConfigError(f"{path}: expected {places[-1]:,} bytes, got {length:,}")
    data = np.memmap(path, np.uint8, "r")
    if check and zlib.crc32(data[_HEADER_BYTES:]) != checksum:
        raise ConfigError(f"{path}: damaged: the checksum of its contents is another")
    arrays = [data[at : at + n] for at, n in zip(places, sizes, strict=False)]
    labels = arrays[0].view("<u4")
    if items and labels.max() >= identities:
        raise ConfigError(f"{path}: damaged: an item names identity {labels.max()}")
    return GalleryFile(
        _names(path, arrays[1], identities),
        labels,
        arrays[-1].view("<f2").reshape(items, size),
        arrays[3].view("int8").reshape(items, size) if kind else None,
        arrays[2].view("<f4") if kind else None,
        digest.hex(),
        None if math.isnan(threshold) else threshold,
    )


def _names(path: Path, data: np.ndarray, count: int) -> list[str]:
    ends, text = data[: 4 * (count + 1)].view("<u4").tolist(), data[4 * (count + 1) :].tobytes()
    try:
        if ends[0] != 0 or ends[-1] != len(text) or ends != sorted(ends):
            raise ValueError
        return [text[a:b].decode() for a, b in zip(ends, ends[1:], strict=False)]
    except ValueError:  # and UnicodeDecodeError
        raise ConfigError(f"{path}: damaged: the names of its identities") from None
