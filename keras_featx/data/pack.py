"""Packing: all images of a data set into few files, with an index that finds each of them.

Small files are slow to read from network disks and object stores, and slow to copy. Shards are
TFRecord files or tars that other programs read as well. What lies in which shard follows from the
list and the options alone, so a pack that was stopped goes on where it was.
"""

import collections
import contextlib
import functools
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from keras_featx.data import encoding, files, memory, outputs, pack_images, pack_index
from keras_featx.data import pack_plan as plans
from keras_featx.data import pack_shards as writing
from keras_featx.data.labels import read_labels
from keras_featx.data.pack_plan import Options, Plan
from keras_featx.data.samples import Samples, join
from keras_featx.errors import ConfigError
from keras_featx.progress import progress

log = logging.getLogger(__name__)

_ENDS = {"tfrecord": b"", "tar": b"\0" * 1024}
_PROBES = 32
_BLOCK = 512  # images whose files are asked for at once
_AHEAD = 64  # images that are read or encoded while earlier ones are written


def pack(
    samples: Samples,
    output: str | os.PathLike,
    name: str = "train",
    *,
    format: Literal["tfrecord", "tar"] = "tfrecord",
    shard_mb: float = 256.0,
    short_side: int | None = None,
    quality: int = 95,
    lossless: bool = False,
) -> dict[str, Any]:
    """Write all images of a data set into shards, on all cores.

    ``output`` gets ``NAME-00000-of-000NN.tfrecord`` (or ``.tar``), ``NAME.index.npz`` (where each
    image lies, with labels, class names, ids, cameras, groups and boxes), ``NAME_list.csv`` (the
    same to read), ``NAME_classes.txt`` and ``NAME.manifest.json``. Images are in the order of the
    list.

    A run that was stopped goes on with the shards that are not there or not whole.

    Args:
        samples: The images, of :func:`~.samples.load_samples` or :mod:`keras_featx.data.memory`;
            arrays become PNG.
        output: A folder or an address.
        name: Of the set.
        format: ``tfrecord`` with a ``tf.train.Example`` an image, or ``tar`` as WebDataset has it.
        shard_mb: About the size of a shard, in MiB.
        short_side: Shrink larger images to this short side in pixels; without it, and for smaller
            ones, the encoded image stays as it is, to the byte.
        quality: Of shrunk JPEGs, 1 to 100.
        lossless: Shrunk images that were PNG, BMP or GIF become PNG, not JPEG.

    Returns:
        ``{"images", "shards", "bytes", "seconds", "images_per_second", "resumed_shards"}``.

    Raises:
        ConfigError: If something else was packed there under this name, with what differs.
        RunError: On an image that cannot be read, with its row.

    Example:
        >>> import tempfile
        >>> from keras_featx.data.lists import imagenet_list
        >>> from keras_featx.data.pack import pack
        >>> from keras_featx.data.packed import packed
        >>> root = "keras_featx/assets/emoji_mini"
        >>> samples = imagenet_list(image_root=root, cls_label_path=f"{root}/query_list.txt")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = pack(samples, folder, "query")
        ...     again = packed(folder=folder, part="query")
        >>> result["images"], result["shards"], again.labels.tolist() == samples.labels.tolist()
        (200, 1, True)
    """
    options = Options(
        format=format, shard_mb=float(shard_mb), short_side=short_side, quality=quality,
        lossless=lossless,
    )  # fmt: skip
    return _pack(samples, plans.titles_of(samples), os.fspath(output), name, options)


def pack_dataset(
    dataset: tf.data.Dataset,
    output: str | os.PathLike,
    name: str = "train",
    *,
    source: str = "dataset",
    **options: Any,
) -> dict[str, Any]:
    """:func:`pack` for a ``tf.data.Dataset`` that does not fit in memory.

    It is read once, into one file of encoded images in ``output`` (or, for an address, in the
    folder for temporary files), which is then packed and removed: there must be room for both.

    Args:
        dataset: As of :func:`keras_featx.data.memory.from_dataset`. Encoded images stay as they
            are, others become PNG.
        output: A folder or an address.
        name: Of the set.
        source: What to call the dataset in messages and in the names of images.
        options: As of :func:`pack`.

    Returns:
        As :func:`pack`.
    """
    output = os.fspath(output)
    checked = Options(**options)
    plans.check_name(name)
    folder = tempfile.gettempdir() if files.is_remote(output) else output
    outputs.make_folder(folder)
    path = join(folder, f".{name}.spool")  # after a kill, the next run writes over it
    try:
        spans, texts = [], []
        with open(path, "wb") as file:
            for image, label in memory.elements(dataset, source, decode=False):
                if not isinstance(image, bytes):
                    image = encoding.encode_png(memory.rgb(image, f"{source}[{len(texts)}]"))
                spans.append((file.tell(), len(image)))
                texts.append(label.decode() if isinstance(label, bytes) else str(label))
                file.write(image)
        if not texts:
            raise ConfigError(f"{source}: expected images, got an empty dataset")
        files.forget([path])
        rows = np.arange(len(texts))
        numbers, names = read_labels(texts, rows, source)
        samples = Samples(
            source, [path] * len(texts), numbers, rows, names=names, spans=np.array(spans, np.int64)
        )
        titles = [f"{source}[{row}]" for row in range(len(texts))]
        return _pack(samples, titles, output, name, checked)
    finally:
        files.forget([path])
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def _pack(
    samples: Samples, titles: list[str], output: str, name: str, options: Options
) -> dict[str, Any]:
    started = time.monotonic()
    if samples.turns is not None:
        raise ConfigError(f"{samples.source}: expected images as they are, got turned identities")
    wrong = next((n for n in samples.names or () if len(n.splitlines()) != 1), None)
    if wrong is not None:
        raise ConfigError(f"{samples.source}: expected class names of one line, got {wrong!r}")
    encode = functools.partial(pack_images.encoded, samples, titles, options)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        sizes = _sizes(samples, pool)
        ratio = functools.partial(_ratio, encode, sizes, options, pool)
        plan = plans.make(samples, titles, sizes, output, name, options, ratio)
        done, resumed, written = [], 0, 0
        before = pack_index.finished_before(plan)
        for k, shard in enumerate(plan.shards):
            path = join(output, shard)
            found = writing.noted(path) or before.get(k)
            if found is not None and writing.is_whole(path, found.size, found.sha256):
                resumed += 1
            else:
                found = _write_shard(encode, plan, k, pool)
                written += len(found.spans)
                log.info("packed %s, %d of %d", path, k + 1, len(plan.shards))
            done.append(found)
    pack_index.complete(samples, titles, plan, done)
    seconds = time.monotonic() - started
    log.info("%d images are in %d shards in %s", len(samples), len(done), output)
    return {
        "images": len(samples),
        "shards": len(done),
        "bytes": sum(shard.size for shard in done),
        "seconds": round(seconds, 2),
        "images_per_second": round(written / seconds, 1),
        "resumed_shards": resumed,
    }


def _sizes(samples: Samples, pool: Executor) -> np.ndarray:
    """About how many bytes each image takes."""

    def some(first: int) -> list[int]:
        rows = range(first, min(first + _BLOCK, len(samples)))
        return [pack_images.size_of(samples, row) for row in rows]

    blocks = _in_order(pool, some, range(0, len(samples), _BLOCK))
    return np.array(list(itertools.chain.from_iterable(blocks)), np.int64)


def _ratio(encode: Callable, sizes: np.ndarray, options: Options, pool: Executor) -> float:
    """How much smaller the images will be, by a few of them."""
    if options.short_side is None:
        return 1.0
    rows = np.unique(np.linspace(0, len(sizes) - 1, _PROBES).astype(int)).tolist()
    after = sum(len(image.data) for image in pool.map(encode, rows))
    return after / max(1, int(sizes[rows].sum()))


def _write_shard(encode: Callable, plan: Plan, k: int, pool: Executor) -> writing.Done:
    form = plan.options.format

    def payload(row: int) -> writing.Payload:
        image = encode(row)
        if form == "tar":
            return writing.tar_payload(image, f"{row:09d}")
        return writing.tfrecord_payload(image)

    rows = range(plan.bounds[k], plan.bounds[k + 1])
    payloads = progress(_in_order(pool, payload, rows), total=len(rows), what=plan.shards[k])
    return writing.write(join(plan.folder, plan.shards[k]), payloads, _ENDS[form])


def _in_order(pool: Executor, function: Callable, rows: range) -> Iterator:
    """Results in order, with only some of them ahead of their use."""
    waiting: collections.deque = collections.deque()
    try:
        for row in rows:
            waiting.append(pool.submit(function, row))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
