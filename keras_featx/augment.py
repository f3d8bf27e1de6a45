"""Training-time augmentation: pure functions of an image and a seed.

Each builder returns ``function(image, seed) -> image`` for uint8 images ``(height, width, 3)``,
except :func:`random_resized_crop`, which chooses a window of the undecoded image and so comes
first. The seed is an int64 vector of two; the same seed gives the same image.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_featx import components
from keras_featx.errors import ConfigError
from keras_featx.sections import Component

Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
MAX_OPS = 64


def build_augmentations(ops: tuple[Component, ...], path: str) -> tuple[Augmentation | None, list]:
    """The window function (or ``None``) and the pixel functions of ``transform_ops``."""
    window, pixel_ops = None, []
    for i, op in enumerate(ops):
        try:
            function = components.builder("augmentation", op.name, f"{path}.{i}")(**op.args)
        except ValueError as error:
            raise ConfigError(f"{path}.{i}.{error}") from None
        if op.name != "RandomResizedCrop":
            pixel_ops.append(function)
        elif i == 0:
            window = function
        else:
            raise ConfigError(f"{path}.{i}: expected RandomResizedCrop first, got it at {i}")
    return window, pixel_ops


def apply_all(functions: list[Augmentation], image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Apply pixel functions in order, each with a seed of its own."""
    for i, function in enumerate(functions):
        image = function(image, op_seed(seed, i + 1))
    return image


def op_seed(seed: tf.Tensor, number: int) -> tf.Tensor:
    """The seed of the ``number``-th operation (0 is the window) on one sample."""
    return tf.stack([seed[0], seed[1] * MAX_OPS + number])


def random_resized_crop(
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (0.75, 1.3333333333333333),
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A window of random area and aspect ratio, drawn as the reference's RandCropImage does.

    Args:
        scale: Bounds of the window's share of the area, uniform, in (0, 1].
        ratio: Bounds of width / height, uniform.

    Returns:
        ``function(size, seed)``: from (height, width) to (top, left, height, width).
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale: expected 0 < low <= high <= 1, got {list(scale)}")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio: expected 0 < low <= high, got {list(ratio)}")

    def window(size: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([4], seed)
        height, width = tf.unstack(tf.cast(size, tf.float32))
        aspect = _between(draw[0], *ratio)
        # The largest share of the area that a window of this aspect can have.
        bound = tf.minimum(width / height / aspect, height / width * aspect)
        share = _between(draw[1], tf.minimum(scale[0], bound), tf.minimum(scale[1], bound))
        side = tf.sqrt(share * height * width)
        part = tf.stack([side / tf.sqrt(aspect), side * tf.sqrt(aspect)])
        part = tf.minimum(tf.maximum(tf.cast(part, tf.int32), 1), size)
        corner = tf.cast(draw[2:] * tf.cast(size - part + 1, tf.float32), tf.int32)
        return tf.concat([tf.minimum(corner, size - part), part], axis=0)

    return window


def random_flip(*, probability: float = 0.5) -> Augmentation:
    """Mirror left and right."""
    _check_probability(probability)

    def flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([], seed)
        return tf.where(draw < probability, tf.reverse(image, [1]), image)

    return flip


def _between(draw: tf.Tensor, low, high) -> tf.Tensor:
    return low + draw * (high - low)


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability: expected in [0, 1], got {probability}")
