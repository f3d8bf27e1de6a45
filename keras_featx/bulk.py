"""Embed many images by workers that know nothing of each other: shards of a list, then one file.

Shard ``k`` of a list is embedded by worker ``k % workers``. A shard is written whole or not at all,
so workers may be killed, started again, and be more or fewer the next time.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_featx.data import outputs
from keras_featx.errors import ConfigError, RunError
from keras_featx.extractors import BATCH, Extractor, open_extractor
from keras_featx.gallery.sources import Wanted, read_wanted

MANIFEST, WHOLE = "manifest.json", "embeddings"
FORMATS = ("parquet", "npy")
_FACTS = {"fingerprint", "embedding_size", "images", "list", "shard_size", "shards", "files"}
_FACTS |= {"dtype"}
_NOTED = {"images", "sha256", "bytes", "run"}

log = logging.getLogger(__name__)


def embed_shards(
    extractor: Extractor | str | os.PathLike,
    source: str | os.PathLike | Mapping[str, Any],
    output: str | os.PathLike,
    *,
    image_root: str | os.PathLike = "",
    worker: tuple[int, int] = (0, 1),
    shard_size: int = 10_000,
    format: Literal["parquet", "npy"] = "parquet",
    dtype: Literal["float32", "float16"] = "float32",
    batch_size: int = BATCH,
) -> dict[str, Any]:
    """Embed one worker's shards of a list.

    Args:
        extractor: What embeds; or what :func:`keras_featx.extractors.open_extractor` opens.
        source: The images, as of :func:`keras_featx.gallery.sources.read_wanted`.
        output: A folder for all workers. It gets ``shard-00000.parquet`` with columns ``id``,
            ``identity`` and ``embedding``, or ``.npy`` for a memory map, each beside a ``.json``
            with its checksum, and a ``manifest.json`` that all workers must agree with.
        image_root: Folder the paths of a table are relative to.
        worker: (index, count).
        shard_size: Images of a shard; what a killed worker loses at most.
        format: Of the shards.
        dtype: Of the embeddings.
        batch_size: Images at a time.

    Returns:
        ``shards`` that are this worker's, how many were ``written`` and how many were ``there``,
        and ``images`` of those written.

    Raises:
        ConfigError: If the folder was begun with another extractor, list or format, or a value is
            impossible.
        RunError: On an undecodable image, with its path.

    Example:
        >>> import tempfile
        >>> from keras_featx.bulk import embed_shards, merge_shards
        >>> folder = tempfile.mkdtemp()
        >>> images = "keras_featx/assets/emoji_mini/test"
        >>> for i in range(2):
        ...     _ = embed_shards("emoji-lcnet-x0_5", images, folder, worker=(i, 2), shard_size=100)
        >>> merge_shards(folder)["images"]
        240
    """
    index, count = worker
    if not 0 <= index < count:
        raise ConfigError(f"worker: expected an index below the count, got {list(worker)}")
    if shard_size < 1:
        raise ConfigError(f"shard_size: expected at least 1, got {shard_size}")
    if format not in FORMATS:
        raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    if dtype not in ("float32", "float16"):
        raise ConfigError(f"dtype: expected 'float32' or 'float16', got {dtype!r}")
    if format == "parquet":
        _pyarrow()
    wanted = read_wanted(source, image_root)
    if wanted.samples is None:
        raise ConfigError(f"{wanted.source}: expected images, got embeddings")
    if not isinstance(extractor, Extractor):
        extractor = open_extractor(extractor)
    folder = Path(output)
    facts = {
        "format": 1,
        "fingerprint": extractor.fingerprint,
        "embedding_size": extractor.embedding_size,
        "images": len(wanted),
        "list": _digest(wanted, source, image_root),
        "shard_size": shard_size,
        "shards": -(-len(wanted) // shard_size),
        "files": format,
        "dtype": dtype,
    }
    _agree(folder, facts)
    own = range(index, facts["shards"], count)
    missing = [k for k in own if _read_note(folder, k, facts) is None]
    images = 0
    for k in missing:
        rows = np.arange(k * shard_size, min((k + 1) * shard_size, len(wanted)))
        _write(folder, k, rows, wanted, extractor, facts, batch_size)
        images += len(rows)
        log.info("%s: shard %d of %d, %d images", folder, k, facts["shards"], len(rows))
    return {
        "output": str(folder),
        "shards": len(own),
        "written": len(missing),
        "there": len(own) - len(missing),
        "images": images,
    }


def merge_shards(output: str | os.PathLike) -> dict[str, Any]:
    """Write one file of all shards, whose checksums are compared first.

    It is ``embeddings.parquet``, which ``keras-featx gallery build`` takes, or ``embeddings.npy``,
    for ``numpy.load(..., mmap_mode="r")``, beside ``embeddings.json`` with ``ids`` and
    ``identities``. One shard at a time is in memory.

    Raises:
        ConfigError: If the folder is none of :func:`embed_shards`.
        RunError: If a shard is missing or damaged, with its number.
    """
    folder = Path(output)
    facts = _read_manifest(folder)
    if facts is None:
        raise ConfigError(f"{folder}: expected a folder of keras-featx embed, with {MANIFEST}")
    notes = [_read_note(folder, k, facts) for k in range(facts["shards"])]
    absent = [k for k, note in enumerate(notes) if note is None]
    if absent:
        raise RunError(
            f"{folder}: expected {facts['shards']} shards, {len(absent)} are missing, the first is "
            f"{absent[0]}"
        )
    for k, note in enumerate(notes):
        path = _shard(folder, k, facts["files"])
        if _checksum(path) != note["sha256"]:
            raise RunError(f"{path}: damaged: its checksum is another; remove it and embed again")
    whole = folder / f"{WHOLE}.{facts['files']}"
    beside = folder / f".{whole.name}.part"
    try:
        (_merge_parquet if facts["files"] == "parquet" else _merge_arrays)(beside, folder, facts)
        os.replace(beside, whole)
    finally:
        beside.unlink(missing_ok=True)
    if facts["files"] == "npy":
        items = {key: [one for note in notes for one in note[key]] for key in ("ids", "identities")}
        outputs.write_bytes(folder / f"{WHOLE}.json", json.dumps(items).encode())
    return {"output": str(whole), "images": facts["images"], "shards": facts["shards"]}


class EmbedBatch:
    """The same as a step of Ray Data: adds ``embedding`` to batches with a column of paths.

    ``dataset.map_batches(EmbedBatch, fn_constructor_args=("best_model",), concurrency=4,
    batch_size=256)``: each of four workers opens the extractor once. In Apache Beam it is called
    from a ``DoFn`` whose ``setup`` makes one.

    Args:
        extractor: What :func:`keras_featx.extractors.open_extractor` opens.
        column: That has paths of images.

    Example:
        >>> from keras_featx.bulk import EmbedBatch
        >>> step = EmbedBatch("emoji-lcnet-x0_5")
        >>> step({"path": ["keras_featx/assets/emoji_mini/test/ant/noto.png"]})["embedding"].shape
        (1, 256)
    """

    def __init__(self, extractor: str, column: str = "path"):
        self.extractor, self.column = open_extractor(extractor), column

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch, columns by name, with float32 ``(rows, embedding_size)`` added."""
        from keras_featx.data.pipeline import as_samples

        paths = [str(path) for path in batch[self.column]]
        found = [np.zeros((0, self.extractor.embedding_size), "float32")]
        if paths:  # engines hand out empty batches too
            found += self.extractor.embed(as_samples(paths))
        return {**batch, "embedding": np.concatenate(found)}


def _write(folder, k, rows, wanted: Wanted, extractor, facts, batch_size) -> None:
    parts = list(extractor.embed(wanted.samples.take(rows), batch_size))
    vectors = np.concatenate(parts).astype(facts["dtype"])
    ids = [wanted.ids[row] for row in rows.tolist()]
    identities = [wanted.identities[row] for row in rows.tolist()]
    path = _shard(folder, k, facts["files"])
    with outputs.replacing(str(path)) as file:
        if facts["files"] == "npy":
            np.save(file, vectors)
        else:
            arrow, parquet = _pyarrow()
            flat = arrow.array(vectors.ravel())
            column = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            columns = {"id": ids, "identity": identities, "embedding": column}
            parquet.write_table(arrow.table(columns), file)
    note = {"shard": k, "images": len(rows), "sha256": _checksum(path)}
    note |= {"bytes": path.stat().st_size, "run": _run(facts)}
    if facts["files"] == "npy":
        note |= {"ids": ids, "identities": identities}
    # Last: a shard counts from then on.
    outputs.write_bytes(_note(folder, k), json.dumps(note).encode())


def _merge_parquet(beside: Path, folder: Path, facts: Mapping[str, Any]) -> None:
    _, parquet = _pyarrow()
    writer = None
    for k in range(facts["shards"]):
        table = parquet.read_table(_shard(folder, k, "parquet"))
        if writer is None:
            schema = table.schema.with_metadata({"fingerprint": facts["fingerprint"]})
            writer = parquet.ParquetWriter(beside, schema)
        writer.write_table(table.replace_schema_metadata(schema.metadata))
    writer.close()


def _merge_arrays(beside: Path, folder: Path, facts: Mapping[str, Any]) -> None:
    shape = (facts["images"], facts["embedding_size"])
    whole = np.lib.format.open_memmap(beside, "w+", facts["dtype"], shape)
    for k in range(facts["shards"]):
        part = np.load(_shard(folder, k, "npy"), mmap_mode="r", allow_pickle=False)
        whole[k * facts["shard_size"] :][: len(part)] = part
    whole.flush()


def _agree(folder: Path, facts: dict[str, Any]) -> None:
    """Begin a folder, or refuse one that was begun otherwise."""
    found = _read_manifest(folder)
    if found is None:
        os.makedirs(folder, exist_ok=True)
        outputs.write_bytes(folder / MANIFEST, json.dumps(facts).encode())
        return
    for key, value in facts.items():
        if found.get(key) != value:
            raise ConfigError(
                f"{folder / MANIFEST}: {key}: expected {value!r} as of this run, got "
                f"{found.get(key)!r}; give another folder"
            )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise RunError(f"{path}: damaged: expected JSON") from None
    if not isinstance(found, dict) or found.get("format") != 1 or not _FACTS <= found.keys():
        raise RunError(f"{path}: expected a manifest of keras-featx embed")
    return found


def _read_note(folder: Path, k: int, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is known of a shard; ``None`` where it is not whole."""
    path = _note(folder, k)
    try:
        note = json.loads(path.read_bytes())
        size = _shard(folder, k, facts["files"]).stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(note, dict) or not _NOTED <= note.keys() or note["bytes"] != size:
        return None
    # Workers of two runs that began at the same moment each found an empty folder.
    if note["run"] != _run(facts):
        raise RunError(
            f"{path}: expected a shard of the run of {MANIFEST}, got one of another; remove it and "
            "embed again"
        )
    return note


def _shard(folder: Path, k: int, suffix: str) -> Path:
    return folder / f"shard-{k:05d}.{suffix}"


def _note(folder: Path, k: int) -> Path:
    return folder / f"shard-{k:05d}.json"


def _digest(wanted: Wanted, source, image_root) -> str:
    """Of the ids, whose they are, which part of which file each is, and in which order.

    The folder of the images is left out: machines may see it by different names.
    """
    if isinstance(source, Mapping):
        image_root = source.get("image_root", "")
    elif wanted.source == os.fspath(source) and os.path.isdir(source):
        image_root = source
    root = os.path.join(os.fspath(image_root), "") if image_root else ""
    found = hashlib.sha256()
    rows = zip(wanted.ids, wanted.identities, wanted.samples.images(), strict=True)
    for one, identity, (path, *part) in rows:
        found.update(json.dumps([one, identity, path.removeprefix(root), part]).encode())
    return found.hexdigest()


def _run(facts: Mapping[str, Any]) -> str:
    """Tells shards of one run from those of another."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "format parquet: pyarrow is not installed: pip install 'keras_featx[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet
