"""tf.data pipelines over lists of images."""

from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from keras_featx import augment, images
from keras_featx.data.lists import Samples
from keras_featx.data.samplers import Order
from keras_featx.errors import RunError
from keras_featx.sections import ArchSection, Component, PreprocessSection


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
) -> tf.data.Dataset:
    """Batches of steps ``first_step`` to ``last_step`` (exclusive).

    Starting at step n gives the very batches an earlier start would have reached.

    Returns:
        Dataset of ``({"image": uint8 (batch, height, width, 3), "label": int32 (batch,)},
        {target: label ...})``, ready for the ``fit`` of a classifier whose outputs are ``targets``.
    """
    window, pixel_ops = augment.build_augmentations(
        transform_ops, "DataLoader.Train.dataset.transform_ops"
    )
    paths = tf.constant(samples.paths)
    labels = tf.constant(samples.labels, tf.int32)
    turns = None if samples.turns is None else tf.constant(samples.turns, tf.int32)

    def sample(row: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Numbers stay below 2^32, seeds below 2^31; samplers have their own use of the seed.
        key = tf.stack([tf.constant(seed * 2**32, tf.int64) + number, row])
        cut = None
        if window is not None:
            cut = lambda size: window(size, augment.op_seed(key, 0))  # noqa: E731
        image = images.load(paths[row], arch.image_size, arch.Preprocess, cut)
        image = augment.apply_all(pixel_ops, image, key)
        if turns is not None:
            # Last: most things are their own mirror image, and mirroring after a quarter turn
            # would show the identity of the three-quarter turn.
            image = tf.image.rot90(image, turns[row])
        return tf.ensure_shape(image, (*arch.image_size, 3)), labels[row]

    def pair(image: tf.Tensor, label: tf.Tensor):
        return {"image": image, "label": label}, dict.fromkeys(targets, label)

    return (
        tf.data.Dataset.range(first_step, last_step)
        .map(order.batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .unbatch()
        .map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(order.batch_size, drop_remainder=True)
        .map(pair)
        .prefetch(tf.data.AUTOTUNE)
    )


def image_dataset(
    paths: Iterable[str],
    image_size: tuple[int, int],
    preprocess: PreprocessSection,
    batch_size: int,
) -> tf.data.Dataset:
    """Decoded and resized images in the order given: uint8 ``(batch, height, width, 3)``."""
    return (
        tf.data.Dataset.from_tensor_slices(tf.constant(list(paths)))
        .map(
            lambda path: images.load(path, image_size, preprocess),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


def batch_rows(order: Order, step: int) -> list[int]:
    """Rows of the list that make up one step's batch."""
    return order.batch(tf.constant(step, tf.int64))[0].numpy().tolist()


def undecodable(paths: Iterable[str]) -> tuple[str, str] | None:
    """The first image that cannot be read or decoded, with the reason; ``None`` if all can.

    A graph stops with an error that does not name the file; this looks for it.
    """
    for path in paths:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            return path, error.strerror
        if not data:
            return path, "the file is empty"
        try:
            images.decode(tf.constant(data))
        except tf.errors.OpError as error:
            return path, error.message.splitlines()[0].split(" [Op:")[0]
    return None


def explain(error: Exception, paths: Iterable[str], source: str) -> Exception:
    """A TensorFlow error from reading images as one that names the image, where one is bad."""
    found = undecodable(paths)
    if found is None:
        return error
    return RunError(f"{source}: {found[0]}: expected a decodable image: {found[1]}")
