"""Embed images, on all devices a model has, into memory or into a file that can be gone on with."""

import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_featx import distribute
from keras_featx.data import faults, files, outputs, pipeline
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.progress import progress
from keras_featx.sections import ArchSection, PreprocessSection
from keras_featx.views import check_views

log = logging.getLogger(__name__)

# Seconds between notes of how far a file is.
NOTE_EVERY = 5.0


def embed(
    model: keras.Model,
    data: Samples | Iterable[str | os.PathLike],
    preprocess: PreprocessSection | ArchSection | None = None,
    batch_size: int = 64,
    *,
    output: str | os.PathLike | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> np.ndarray:
    """Embed images, each exactly once, in their order.

    A model that was built under a ``MirroredStrategy`` runs on all of its devices.

    Args:
        model: An extractor; its input shape tells the image size.
        data: Image files, or samples (see :mod:`keras_featx.data`).
        preprocess: How to resize; the default squashes, bilinear.
        batch_size: Images at a time, on all devices together.
        output: An ``.npy`` file to write, where embeddings should not stay in memory. Until it is
            whole it is called ``NAME.part``; a run that was stopped goes on where that ends, if the
            model, the images and the preprocessing are the same.
        dtype: Of the embeddings.

    Returns:
        ``(images, embedding_size)``, unit norm; a memory map where there is an ``output``.

    Raises:
        ConfigError: On an ``output`` that is an address, or another ``dtype``.
        RunError: On an undecodable image, or one whose views cancel, with its path.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import quickstart_config
        >>> from keras_featx.evaluation_data import load_eval_samples
        >>> query, _ = load_eval_samples(quickstart_config())
        >>> model = keras_featx.build_model("emoji-lcnet-x0_5")
        >>> keras_featx.embed(model, query.take([0, 1, 2])).shape
        (3, 256)
    """
    samples = pipeline.as_samples(data)
    if isinstance(preprocess, ArchSection):
        preprocess = preprocess.Preprocess
    preprocess = preprocess or PreprocessSection()
    if dtype not in ("float32", "float16"):
        raise ConfigError(f"dtype: expected 'float32' or 'float16', got {dtype!r}")
    if output is not None and files.is_remote(os.fspath(output)):
        raise ConfigError(f"output: expected a local file, got {os.fspath(output)!r}")
    shape = (len(samples), model.output_shape[-1])
    if output is None:
        store: Any = _Memory(np.empty(shape, dtype))
    else:
        fingerprint = _fingerprint(model, samples, preprocess, dtype)
        store = EmbeddingFile(Path(output), shape, dtype, fingerprint)
    if store.done == len(samples):
        return store.finished()
    rest = samples if not store.done else samples.take(np.arange(store.done, len(samples)))
    dataset = pipeline.image_dataset(rest, model.input_shape[1:3], preprocess, batch_size)
    try:
        steps = -(-len(rest) // batch_size)
        for found in progress(embed_batches(model, dataset), steps, "embedding", batch_size):
            check_views(model, found, samples, np.arange(store.done, store.done + len(found)))
            store.add(found)
    except tf.errors.OpError as error:
        raise faults.explain(error, rest) from None
    finally:
        store.note()
    return store.finished()


def embed_usable(
    model: keras.Model, samples: Samples, preprocess: PreprocessSection, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Embed the images that can be used; each of the others is logged.

    Returns:
        Their places in the samples, and their embeddings as of :func:`embed`.

    Raises:
        RunError: If there is none.
    """
    dataset = pipeline.image_dataset(
        samples, model.input_shape[1:3], preprocess, batch_size, guarded=True
    )
    good, parts = [], []
    steps = -(-len(samples) // batch_size)
    for batch, places in progress(dataset, steps, "embedding", batch_size):
        good.append(places.numpy())
        parts.append(forward(model, batch))
        check_views(model, parts[-1], samples, good[-1])
    places = np.concatenate(good) if good else np.zeros(0, np.int64)
    for row in sorted(set(range(len(samples))) - set(places.tolist())):
        log.warning("left out %s: %s", samples.title(row), faults.reason_of(samples, row))
    if not len(places):
        raise RunError(f"{samples.source}: expected images that can be decoded, got none")
    return places, np.concatenate(parts)


def embed_batches(model: keras.Model, batches: Iterable) -> Iterator[np.ndarray]:
    """The embeddings of each batch, in order.

    Two batches are under way at a time: where one leaves a core idle, as between its operations or
    in those that do not split, the other has it.
    """
    batches = iter(batches)
    for batch in itertools.islice(batches, 1):  # here, as it traces the model
        yield forward(model, batch)
    if model.distribute_strategy.num_replicas_in_sync > 1:  # devices are busy with one
        yield from (forward(model, batch) for batch in batches)
        return
    with ThreadPoolExecutor(2) as pool:
        before = None
        for batch in batches:
            found = pool.submit(forward, model, batch)
            if before is not None:
                yield before.result()
            before = found
        if before is not None:
            yield before.result()


def forward(model: keras.Model, batch) -> np.ndarray:
    """One batch of images ``(batch, height, width, 3)`` through an extractor, checked finite."""
    if not hasattr(model, "featx_forward"):
        # predict() would build a pipeline of its own for every call.
        spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        model.featx_forward = tf.function(
            lambda image: model(image, training=False), input_signature=[spec]
        )
    batch = tf.cast(batch, tf.float32)
    strategy = model.distribute_strategy
    if 1 < strategy.num_replicas_in_sync <= len(batch):
        embeddings = _on_replicas(strategy, model, batch)
    else:
        embeddings = model.featx_forward(batch).numpy()
    if not np.isfinite(embeddings).all():
        raise RunError("the network gave an embedding that is not finite; its weights are broken")
    return embeddings


def _on_replicas(strategy, model: keras.Model, batch: tf.Tensor) -> np.ndarray:
    """A part of the batch on each; parts may differ by one image."""
    if not hasattr(model, "featx_distributed"):
        model.featx_distributed = tf.function(
            lambda images: strategy.run(lambda one: model(one, training=False), (images,)),
            reduce_retracing=True,
        )
    count = strategy.num_replicas_in_sync
    ends = [len(batch) * i // count for i in range(count + 1)]
    parts = strategy.experimental_distribute_values_from_function(
        lambda context: batch[
            ends[context.replica_id_in_sync_group] : ends[context.replica_id_in_sync_group + 1]
        ]
    )
    found = strategy.experimental_local_results(model.featx_distributed(parts))
    return np.concatenate([part.numpy() for part in found])


class _Memory:
    """Embeddings in an array."""

    def __init__(self, array: np.ndarray):
        self.array, self.done = array, 0

    def add(self, embeddings: np.ndarray) -> None:
        end = self.done + len(embeddings)
        self.array[self.done : end] = embeddings
        self.done = end

    def note(self) -> None:
        """Nothing outlives the process."""

    def finished(self) -> np.ndarray:
        return self.array


class EmbeddingFile(_Memory):
    """Embeddings in a file under another name, beside a note of how many there are."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: str, fingerprint: str):
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self.beside = path.with_name(f"{path.name}.part.json")
        self.fingerprint, self.noted = fingerprint, time.monotonic()
        done = self._done()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not done:  # a note of other work must not be taken for one of this
            self.beside.unlink(missing_ok=True)
        array = np.lib.format.open_memmap(self.part, "r+" if done else "w+", dtype, shape)
        super().__init__(array)
        self.done = done
        if done:
            log.info("%s: goes on after %d of %d images", path, done, shape[0])

    def _done(self) -> int:
        try:
            note = json.loads(self.beside.read_text())
        except (OSError, ValueError):
            return 0
        same = isinstance(note, dict) and note.get("fingerprint") == self.fingerprint
        return int(note["done"]) if same and self.part.exists() else 0

    def add(self, embeddings: np.ndarray) -> None:
        super().add(embeddings)
        if time.monotonic() - self.noted > NOTE_EVERY:
            self.note()

    def note(self) -> None:
        self.array.flush()
        note = {"done": self.done, "fingerprint": self.fingerprint}
        outputs.write_bytes(self.beside, json.dumps(note).encode())
        self.noted = time.monotonic()

    def finished(self) -> np.ndarray:
        os.replace(self.part, self.path)
        self.beside.unlink(missing_ok=True)
        return np.load(self.path, mmap_mode="r")


def _fingerprint(model, samples: Samples, preprocess: PreprocessSection, dtype: str) -> str:
    """What makes embeddings these."""
    about = (preprocess, dtype, model.input_shape, len(samples))
    digest = hashlib.sha256(repr(about).encode() + model.to_json().encode())
    for weight in model.weights:
        digest.update(np.ascontiguousarray(distribute.read(weight)).tobytes())
    digest.update(images_digest(samples).encode())
    return digest.hexdigest()


def images_digest(samples: Samples) -> str:
    """SHA-256 of what makes images these: paths, places, boxes; sizes and times of local files.

    Of images in memory it is that of their pixels.
    """
    digest = hashlib.sha256(f"{len(samples)}".encode())
    for image in samples.images():
        digest.update(repr(image).encode())
    for path in sorted(set(samples.paths)) if samples.pixels is None else ():
        if not files.is_remote(path) and os.path.exists(path):
            about = os.stat(path)
            digest.update(repr((about.st_size, about.st_mtime_ns)).encode())
    for pixels in samples.pixels if samples.pixels is not None else ():
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()
