"""What is to be in a gallery: images from folders, lists and tables, or embeddings from files."""

import csv
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.config import from_dict
from keras_featx.data import files, lists, tables
from keras_featx.data.samples import Samples, load_samples, read_image
from keras_featx.errors import ConfigError, RunError, first_line
from keras_featx.progress import progress

# What an item's metadata has of its image.
PATH, BOX, DIGEST = "path", "box", "sha256"
_KINDS = "a folder with one folder per identity, .csv, .parquet, .npz, or {name: ..., ...}"
# Columns of a table that are no metadata.
_IDENTITY, _LABEL, _ID, _EMBEDDING = "identity", "label", "id", "embedding"
_READERS = 8


@dataclass(frozen=True, eq=False)
class Wanted:
    """Items that are to be in a gallery.

    Attributes:
        source: Where they come from, for messages.
        ids: Of each.
        identities: Whose each is.
        metadata: JSON objects.
        samples: Their images, or ``None``.
        vectors: Where there are no images: ``(items, size)``.
        fingerprint: Of the model that made the vectors.
    """

    source: str
    ids: list[str]
    identities: list[str]
    metadata: list[dict[str, Any]]
    samples: Samples | None = None
    vectors: np.ndarray | None = None
    fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.ids)


def read_wanted(
    source: str | os.PathLike | Mapping[str, Any], image_root: str | os.PathLike = ""
) -> Wanted:
    """Read what a person wants in a gallery.

    The id of an image is its path below the folder of images, with its box behind it where only
    that part is meant; a table may name ids in a column ``id``.

    Args:
        source: A folder with one folder per identity; a data set such as ``{name: ImageNetDataset,
            image_root: ..., cls_label_path: ...}``; a ``.csv`` or ``.parquet`` table with columns
            ``identity`` (or ``label``) and ``path``, or in Parquet ``embedding`` in its place,
            maybe ``id`` and ``box``, all others being metadata; or ``.npz`` with ``ids`` (or
            ``paths``), ``identities``, ``features`` and ``fingerprint``.
        image_root: Folder the paths of a table are relative to.

    Raises:
        ConfigError: If it is none of these, with the file and the row.

    Example:
        >>> from keras_featx.gallery.sources import read_wanted
        >>> wanted = read_wanted("keras_featx/assets/emoji_mini/test")
        >>> len(wanted), wanted.ids[0], wanted.identities[0]
        (240, '2nd-place-medal/emojione.png', '2nd-place-medal')
    """
    if isinstance(source, Mapping):
        tree = {"DataLoader": {"Train": {"dataset": dict(source)}}}
        try:
            component = from_dict(tree).DataLoader.Train.dataset.source
        except ConfigError as error:
            raise ConfigError(str(error).replace("DataLoader.Train.dataset", "dataset")) from None
        samples = load_samples(component, "dataset")
        return _of_samples(samples, str(component.args.get("image_root", "")))
    name = os.fspath(source)
    ending = Path(name).suffix.lower()
    if ending == ".npz":
        return _of_arrays(name)
    if ending in (".csv", ".parquet"):
        return _of_table(name, ending, os.fspath(image_root))
    if not files.is_folder(name):
        raise ConfigError(f"{name}: expected {_KINDS}")
    return read_wanted({"name": "ClassFolders", "image_root": name})


def _of_samples(samples: Samples, root: str) -> Wanted:
    prefix = os.path.join(root, "") if root else ""
    ids = [path.removeprefix(prefix) for path in samples.paths]
    if samples.spans is not None:
        ids = [f"{one}#{row}" for one, row in zip(ids, samples.rows.tolist(), strict=True)]
    if samples.boxes is not None:
        ids = [
            f"{one}#{','.join(map(str, box))}" if any(box) else one
            for one, box in zip(ids, samples.boxes.tolist(), strict=True)
        ]
    identities = [
        str(label) if samples.names is None else samples.names[label]
        for label in samples.labels.tolist()
    ]
    own_file = samples.spans is None and samples.pixels is None
    metadata: list[dict[str, Any]] = [{PATH: path} if own_file else {} for path in samples.paths]
    if samples.boxes is not None:
        for more, box in zip(metadata, samples.boxes.tolist(), strict=True):
            more |= {BOX: box} if any(box) else {}
    return Wanted(samples.source, ids, identities, metadata, samples)


def _of_table(name: str, ending: str, root: str) -> Wanted:
    fingerprint = None
    if ending == ".csv":
        rows, columns = _csv(name)
    else:
        rows, columns, fingerprint = _parquet(name)
    identities = columns.pop(_IDENTITY, None) or columns.pop(_LABEL)
    ids, boxes, vectors = (columns.pop(key, None) for key in (_ID, BOX, _EMBEDDING))
    if vectors is not None:
        if ids is None:
            raise ConfigError(f"{name}: expected a column {_ID!r} beside {_EMBEDDING!r}")
        known = Wanted(name, ids, identities, [], vectors=_matrix(name, rows, vectors))
    else:
        more = {} if boxes is None else {"boxes": _boxes(name, rows, boxes)}
        table = (rows, [columns.pop(PATH), identities])
        samples = lists.make_samples(name, root, table, "names", None, None, **more)
        known = _of_samples(samples, root)
    for key in (PATH, DIGEST):
        if key in columns:
            raise ConfigError(f"{name}: expected no column {key!r}: the gallery has one of its own")
    metadata = []
    for i, own in enumerate(known.metadata or [{}] * len(known)):
        metadata.append({**{key: values[i] for key, values in columns.items()}, **own})
        try:
            json.dumps(metadata[-1], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}:{rows[i]}: expected values of JSON: {error}") from None
    return Wanted(
        name, known.ids if ids is None else ids, known.identities, metadata,
        known.samples, known.vectors, None if vectors is None else fingerprint,
    )  # fmt: skip


def _csv(name: str) -> tuple[np.ndarray, dict[str, list]]:
    header = next(csv.reader(files.read_lines(name)), [])
    named = [one.strip() for one in header]
    label = next((one for one in (_IDENTITY, _LABEL) if one in named), None)
    if label is None:
        raise ConfigError(f"{name}:1: expected a column {_IDENTITY!r} or {_LABEL!r}, got {named}")
    rows, columns = tables.read_csv(name, ",", {PATH: PATH, "label": label}, rest=True)
    columns[label] = columns.pop("label")
    return rows, columns


def _parquet(name: str) -> tuple[np.ndarray, dict[str, list], str | None]:
    """Rows, columns, and the fingerprint that ``keras-featx merge-shards`` puts beside them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            f"{name}: Parquet is read with: pip install 'keras_featx[parquet]'"
        ) from None
    try:
        table = pyarrow.parquet.read_table(name)
        columns = table.to_pydict()
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{name}: expected a Parquet file: {first_line(error)}") from None
    for needed in ((_IDENTITY, _LABEL), (PATH, _EMBEDDING)):
        if not set(needed) & set(columns):
            raise ConfigError(
                f"{name}: expected a column {needed[0]!r} or {needed[1]!r}, got {list(columns)}"
            )
    count = len(next(iter(columns.values())))
    if not count:
        raise ConfigError(f"{name}: expected rows, got none")
    for key in {_IDENTITY, _LABEL, PATH, _ID} & set(columns):
        if None in columns[key]:
            row = columns[key].index(None) + 1
            raise ConfigError(f"{name}:{row}: expected a value in column {key!r}, got none")
        columns[key] = [str(value) for value in columns[key]]
    known = (table.schema.metadata or {}).get(b"fingerprint")
    return np.arange(1, count + 1), columns, known and known.decode("ascii", "replace")


def _boxes(name: str, rows: np.ndarray, texts: list) -> np.ndarray:
    boxes = [tables.parse_box("" if text is None else str(text)) for text in texts]
    if None in boxes:
        i = boxes.index(None)
        raise ConfigError(
            f"{name}:{rows[i]}: expected a box 'left top right bottom' with left < right, got "
            f"{texts[i]!r}"
        )
    return np.array(boxes, np.int64)


def _matrix(name: str, rows: np.ndarray, vectors: list) -> np.ndarray:
    size = len(vectors[0]) if isinstance(vectors[0], list) else 0
    for row, vector in zip(rows.tolist(), vectors, strict=True):
        if not isinstance(vector, list) or len(vector) != size or None in vector or not size:
            raise ConfigError(f"{name}:{row}: expected an embedding of {size or 'some'} numbers")
    try:
        return np.array(vectors, "float32")
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: expected embeddings of numbers") from None


def _of_arrays(name: str) -> Wanted:
    try:
        with np.load(name, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{name}: expected a readable .npz file: {first_line(error)}") from None
    ids = arrays.get("ids", arrays.get("paths"))
    missing = [key for key in ("identities", "features", "fingerprint") if key not in arrays]
    if ids is None or missing:
        raise ConfigError(
            f"{name}: expected arrays ids, identities, features and fingerprint, got "
            f"{sorted(arrays)}"
        )
    return Wanted(
        name, ids.astype(str).tolist(), arrays["identities"].astype(str).tolist(),
        [{} for _ in ids], vectors=arrays["features"], fingerprint=str(arrays["fingerprint"]),
    )  # fmt: skip


def digests(samples: Samples) -> list[str]:
    """SHA-256 of each image as it is encoded, and of its box.

    Raises:
        RunError: If an image cannot be read.
    """
    boxes = None if samples.boxes is None else samples.boxes.tolist()

    def digest(row: int) -> str:
        if samples.pixels is not None:
            pixels = np.ascontiguousarray(samples.pixels[row])
            found = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes())
        else:
            try:
                found = hashlib.sha256(read_image(samples, row))
            except OSError as error:
                reason = error.strerror or first_line(error)
                raise RunError(f"{samples.title(row)}: cannot be read: {reason}") from None
        if boxes is not None and any(boxes[row]):
            found.update(repr(boxes[row]).encode())
        return found.hexdigest()

    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(digest, range(len(samples)))
        return list(progress(found, len(samples), "reading"))
