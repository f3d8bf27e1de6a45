"""tf.data pipelines over samples: every image is found by its row, so a position is a number."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_featx import augment, images
from keras_featx.augment.mixing import build_mixing
from keras_featx.data import faults, files
from keras_featx.data.samplers import Order
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError
from keras_featx.search_backends import cores
from keras_featx.sections import ArchSection, Component, PreprocessSection

# From a row, and a window of the upright image or none, to a uint8 image of the network's size.
Loader = Callable[[tf.Tensor, images.Window | None], tf.Tensor]


def train_dataset(
    samples: Samples,
    order: Order,
    arch: ArchSection,
    transform_ops: tuple[Component, ...],
    *,
    seed: int,
    first_step: int,
    last_step: int,
    targets: tuple[str, ...] = ("ce_loss", "correct"),
    batch_transform_ops: tuple[Component, ...] = (),
    skipped: faults.Skipped | None = None,
    worker: tuple[int, int] = (0, 1),
    service: str | None = None,
    further: Mapping[str, np.ndarray] | None = None,
) -> tf.data.Dataset:
    """Batches of steps ``first_step`` to ``last_step`` (exclusive).

    Starting at step n gives the very batches an earlier start would have reached.

    Args:
        samples: The training images.
        order: Which of them come at which step.
        arch: Says how an image becomes the network's input.
        transform_ops: Augmentation.
        seed: Of the augmentation.
        first_step: Of the run, from 0.
        last_step: The step after the last.
        targets: Outputs of the classifier.
        batch_transform_ops: Mixing of the images of a batch; adds the inputs ``label_2`` and
            ``share``, see :func:`keras_featx.build_classifier`.
        skipped: Takes note of bad images and lets the others of the batch stand in for them; by
            default a bad image is an error.
        worker: (index, count): this machine's share of each batch, where several train together.
        service: Address of a tf.data service (``grpc://host:port``) that does the work. Several of
            its workers deliver batches as they finish: each once, in no certain order.
        further: Further inputs, float32 ``(images, size)`` each, of which a batch gets the rows of
            its images, such as a teacher's embeddings; they may be mapped from a file.

    Returns:
        Dataset of ``({"image": uint8 (batch, height, width, 3), "label": int32 (batch,)},
        {target: label ...})``, ready for the ``fit`` of a classifier whose outputs are ``targets``.
    """
    if service is not None and (
        skipped is not None or samples.spans is not None or samples.pixels is not None or further
    ):
        raise ConfigError(
            "DataLoader.Train.service: expected with images in files of their own, without cache "
            "and with bad_images: raise, as its workers run no Python"
        )
    batch_size = share_of(order.batch_size, worker)[1]
    sample = train_sample(samples, arch, transform_ops, seed)
    labels = tf.constant(samples.labels, tf.int32)

    def rows_of_step(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        first, size = share_of(order.batch_size, worker)
        rows, numbers = order.batch(step)
        return rows[first : first + size], numbers[first : first + size]

    def pair(image: tf.Tensor, row: tf.Tensor):
        label = tf.gather(labels, row)
        more = {name: _rows_of(array, row) for name, array in (further or {}).items()}
        return {"image": image, "label": label, **more}, dict.fromkeys(targets, label)

    mixing = build_mixing(batch_transform_ops, "DataLoader.Train.dataset.batch_transform_ops")

    def mix(batch: tuple[dict, dict], step: tf.Tensor) -> tuple[dict, dict]:
        inputs, targets = batch
        # Augmentation of single images has no negative seeds of steps from 0.
        seed_of_step = tf.stack([tf.constant(-1 - seed, tf.int64), step])
        image, partner, share = mixing(inputs["image"], seed_of_step)
        second = tf.gather(inputs["label"], partner)
        return inputs | {"image": image, "label_2": second, "share": share}, targets

    steps = tf.data.Dataset.range(first_step, last_step)
    rows = steps.map(rows_of_step, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if skipped is None:
        samples_in_order = rows.unbatch().map(
            lambda row, number: (sample(row, number), row),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        batches = samples_in_order.batch(batch_size, drop_remainder=True).map(pair)
    else:
        found = faults.guarded(rows.unbatch(), sample, (*arch.image_size, 3))
        batches = found.batch(batch_size, drop_remainder=True)
        batches = batches.map(lambda *batch: pair(*faults.stand_in(*batch, labels, skipped)))
    if mixing is not None:
        batches = tf.data.Dataset.zip(batches, steps).map(mix)
    if service is not None:
        batches = batches.apply(
            tf.data.experimental.service.distribute(
                tf.data.experimental.service.ShardingPolicy.DYNAMIC, service
            )
        )
    return batches.prefetch(tf.data.AUTOTUNE)


def train_sample(
    samples: Samples, arch: ArchSection, transform_ops: tuple[Component, ...], seed: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """``function(row, number)``: a training image, augmented as its ``number``-th showing."""
    window, pixel_ops = augment.build_augmentations(
        transform_ops, "DataLoader.Train.dataset.transform_ops"
    )
    load = image_loader(samples, arch.image_size, arch.Preprocess)
    turns = None if samples.turns is None else tf.constant(samples.turns, tf.int32)

    @tf.autograph.experimental.do_not_convert  # which takes seconds where there are policies
    def sample(row: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        # Numbers stay below 2^32, seeds below 2^31; samplers have their own use of the seed.
        key = tf.stack([tf.constant(seed * 2**32, tf.int64) + number, row])
        cut = None
        if window is not None:
            cut = lambda size: window(size, augment.op_seed(key, 0))  # noqa: E731
        image = augment.apply_all(pixel_ops, load(row, cut), key)
        if turns is not None:
            # Last: most things are their own mirror image, and mirroring after a quarter turn
            # would show the identity of the three-quarter turn.
            image = tf.image.rot90(image, turns[row])
        return tf.ensure_shape(image, (*arch.image_size, 3))

    return sample


def image_dataset(
    samples: Samples | Sequence[str],
    image_size: tuple[int, int],
    preprocess: PreprocessSection,
    batch_size: int,
    guarded: bool = False,
) -> tf.data.Dataset:
    """Decoded and resized images in the order given: uint8 ``(batch, height, width, 3)``.

    With ``guarded``, bad images are left out, and the rows of the others come with them.
    """
    samples = as_samples(samples)
    load = image_loader(samples, image_size, preprocess)
    rows = tf.data.Dataset.range(len(samples))
    how = {"num_parallel_calls": cores(), "deterministic": True}
    if not guarded and _is_ready(samples, image_size, preprocess):
        # A call of Python for each image takes longer than to copy it.
        found = rows.batch(batch_size).map(
            lambda some: _pixels(samples, some, (None, *image_size, 3)), **how
        )
    elif guarded:
        found = faults.guarded(rows, lambda row: load(row, None), (*image_size, 3))
        found = found.filter(lambda image, row, good: good).map(
            lambda image, row, good: (image, row)
        )
        found = found.batch(batch_size)
    else:
        found = rows.map(lambda row: load(row, None), **how).batch(batch_size)
    options = tf.data.Options()
    # It ends an iteration only when it next looks at it (2.21): up to two seconds after the last
    # batch.
    options.autotune.enabled = False
    return found.prefetch(2).with_options(options)


def image_loader(
    samples: Samples, image_size: tuple[int, int], preprocess: PreprocessSection
) -> Loader:
    """How an image of these samples is read, decoded, cut to its box or a window, and resized."""
    boxes = None if samples.boxes is None else tf.constant(samples.boxes, tf.int32)
    if samples.pixels is None:
        read = _reader(samples)

    def load(row: tf.Tensor, window: images.Window | None) -> tf.Tensor:
        if boxes is not None:
            window = _in_box(boxes[row], window)
        if samples.pixels is None:
            return images.load_bytes(read(row), image_size, preprocess, window)
        pixels = _pixels(samples, row, (None, None, 3))
        if window is not None:
            pixels = images.cut(pixels, window)
        return images.resize(pixels, image_size, preprocess)

    return load


def _is_ready(samples: Samples, image_size: tuple[int, int], preprocess: PreprocessSection) -> bool:
    """Whether all images lie in one array, as they go into the network."""
    array = isinstance(samples.pixels, np.ndarray) and samples.boxes is None
    return array and samples.pixels.shape[1:3] == image_size and preprocess.resize_short is None


def _pixels(samples: Samples, rows: tf.Tensor, shape: tuple[int | None, ...]) -> tf.Tensor:
    pixels = tf.numpy_function(lambda i: samples.pixels[i], [rows], tf.uint8, stateful=False)
    return tf.ensure_shape(pixels, shape)


def _rows_of(array: np.ndarray, rows: tf.Tensor) -> tf.Tensor:
    """Rows of an array that need not fit in memory."""
    found = tf.numpy_function(
        lambda i: np.asarray(array[i], "float32"), [rows], tf.float32, stateful=False
    )
    return tf.ensure_shape(found, (*rows.shape, *array.shape[1:]))


def _reader(samples: Samples) -> Callable[[tf.Tensor], tf.Tensor]:
    """From a row to the encoded image."""
    if samples.spans is None:
        paths = tf.constant(samples.paths)
        return lambda row: tf.io.read_file(paths[row])

    def read_range(row: np.int64) -> list[np.ndarray]:
        data = files.read_range(samples.paths[row], *samples.spans[row].tolist())
        # As an object NumPy does not copy it; TensorFlow never frees a string outside a list.
        return [np.array(data, object)]

    def read(row: tf.Tensor) -> tf.Tensor:
        data = tf.numpy_function(read_range, [row], tf.string, stateful=False)
        return tf.ensure_shape(data, ())

    return read


def _in_box(box: tf.Tensor, window: images.Window | None) -> images.Window:
    """The window of an image that is the box, or a window of the box."""

    def part(size: tf.Tensor) -> tf.Tensor:
        left, top, right, bottom = tf.unstack(box)
        whole = tf.equal(right, 0)
        corner = tf.where(whole, 0, tf.stack([top, left]))
        extent = tf.where(whole, size, tf.stack([bottom - top, right - left]))
        inside = tf.reduce_all(corner + extent <= size)
        check = tf.debugging.Assert(inside, [faults.BOX, box, "of an image of height, width", size])
        with tf.control_dependencies([check]):
            extent = tf.identity(extent)
        inner = tf.concat([tf.zeros_like(extent), extent], 0) if window is None else window(extent)
        return tf.concat([corner + inner[:2], inner[2:]], 0)

    return part


def as_samples(data: Samples | Iterable[str | os.PathLike]) -> Samples:
    """Paths without labels as samples."""
    if isinstance(data, Samples):
        return data
    paths = [os.fspath(path) for path in data]
    return Samples("embedding", paths, np.zeros(len(paths), np.int64), np.arange(1, len(paths) + 1))


def share_of(batch_size: int, worker: tuple[int, int]) -> tuple[int, int]:
    """(first, size): the part of each batch that is this machine's.

    Example:
        >>> from keras_featx.data.pipeline import share_of
        >>> share_of(256, (1, 4))
        (64, 64)
    """
    index, count = worker
    if not 0 <= index < count:
        raise ConfigError(f"worker: expected an index below the count, got {list(worker)}")
    if batch_size % count:
        raise ConfigError(
            f"DataLoader.Train.sampler.batch_size: expected a multiple of {count} machines, "
            f"got {batch_size}"
        )
    return index * (batch_size // count), batch_size // count


def batch_rows(order: Order, step: int) -> list[int]:
    """Rows of the list that make up one step's batch."""
    return order.batch(tf.constant(step, tf.int64))[0].numpy().tolist()
