"""Erasing part of an image."""

import math
from typing import Literal

import tensorflow as tf

from keras_featx.augment.common import (
    Augmentation,
    as_floats,
    between,
    check_choice,
    check_probability,
    other_seed,
)


def random_erasing(
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    ratio: float = 0.3,
    mode: Literal["constant", "colour", "pixel"] = "colour",
    fill: tuple[float, float, float] = (123.675, 116.28, 103.53),
) -> Augmentation:
    """Paint a rectangle over (arXiv:1708.04896).

    Args:
        probability: Of erasing at all.
        area: Bounds of the rectangle's share of the image.
        ratio: Bounds of height / width are ``ratio`` and ``1 / ratio``, uniform in the logarithm.
        mode: What is painted: ``constant``, the ``fill``; ``colour``, one random colour;
            ``pixel``, a random colour in every pixel.
        fill: Red, green and blue of ``constant``, 0..255; the default is the mean of ImageNet.
    """
    check_probability(probability)
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area: expected 0 < low <= high <= 1, got {list(area)}")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio: expected in (0, 1], got {ratio}")
    check_choice("mode", mode, ("constant", "colour", "pixel"))
    if not (0 <= min(fill) and max(fill) <= 255):
        raise ValueError(f"fill: expected values in [0, 255], got {list(fill)}")

    def erase(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([8], seed)

        def painted():
            inside = _rectangle(image, draw, area, ratio)
            if mode == "constant":
                paint = tf.constant(fill)
            elif mode == "colour":
                paint = 255 * draw[5:]
            else:
                values = tf.random.stateless_uniform(
                    tf.shape(image), other_seed(seed), 0, 256, tf.int32
                )
                paint = tf.cast(values, tf.float32)
            return tf.where(inside, paint, image)

        return tf.cond(draw[0] < probability, painted, lambda: image)

    return as_floats(erase)


def _rectangle(image: tf.Tensor, draw: tf.Tensor, area, ratio: float) -> tf.Tensor:
    """Which pixels lie in the rectangle: bool ``(height, width, 1)``."""
    share = between(draw[1], *area)
    shape = tf.exp(between(draw[2], math.log(ratio), -math.log(ratio)))
    half = tf.stack([tf.sqrt(share * shape), tf.sqrt(share / shape)]) / 2
    height, width = tf.unstack(tf.shape(image)[:2])
    rows = (tf.range(height, dtype=tf.float32) + 0.5) / tf.cast(height, tf.float32)
    columns = (tf.range(width, dtype=tf.float32) + 0.5) / tf.cast(width, tf.float32)
    inside = (tf.abs(rows - draw[3]) < half[0])[:, None] & (tf.abs(columns - draw[4]) < half[1])
    return inside[..., None]
