"""Augmentations of tones and colours, and of sharpness."""

import math

import tensorflow as tf

from keras_featx.augment.common import (
    Augmentation,
    as_floats,
    between,
    check_probability,
    other_seed,
)


def color_jitter(
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    gamma: float = 0.0,
) -> Augmentation:
    """Change tones and colours.

    Args:
        brightness: Largest offset, as a fraction of the range.
        contrast: Largest relative change of the distance from mid-grey.
        saturation: Largest relative change of the distance from grey.
        hue: Largest rotation of the colour circle (of YIQ), in degrees.
        gamma: Standard deviation of the logarithm of the exponent, common to all channels; each
            channel varies by half of it besides.
    """
    for name, value in {
        "brightness": brightness,
        "contrast": contrast,
        "gamma": gamma,
        "saturation": saturation,
    }.items():
        if value < 0:
            raise ValueError(f"{name}: expected at least 0, got {value}")
    to_yiq = tf.constant(
        [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], tf.float32
    )
    from_yiq = tf.linalg.inv(to_yiq)

    def jitter(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([4], seed, -1, 1)
        if gamma:
            power = tf.random.stateless_normal([4], other_seed(seed), 0, gamma)
            image = tf.clip_by_value(image / 255, 1e-4, 1)
            image = 255 * tf.pow(image, tf.exp(power[:1] + power[1:] / 2))
        if saturation or hue:
            angle = math.radians(hue) * draw[0]
            chroma = tf.exp(math.log1p(saturation) * draw[1])
            cos, sin = chroma * tf.cos(angle), chroma * tf.sin(angle)
            one, zero = tf.ones([]), tf.zeros([])
            turn = tf.reshape(tf.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos]), (3, 3))
            image = tf.tensordot(image, from_yiq @ turn @ to_yiq, [[2], [1]])
        factor = tf.exp(math.log1p(contrast) * draw[2])
        return (image - 127.5) * factor + 127.5 + 255 * brightness * draw[3]

    return as_floats(jitter)


def random_grayscale(*, probability: float = 0.1) -> Augmentation:
    """Take the colour away (ITU-R BT.601 weights)."""
    check_probability(probability)

    def grey(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        def luma():
            value = tf.reduce_sum(image * [0.299, 0.587, 0.114], axis=-1, keepdims=True)
            return tf.broadcast_to(value, tf.shape(image))

        draw = tf.random.stateless_uniform([], seed)
        return tf.cond(draw < probability, luma, lambda: image)

    return as_floats(grey)


def random_sharpness(
    *, probability: float = 0.2, amount: tuple[float, float] = (-1.0, 0.5)
) -> Augmentation:
    """Sharpen (amount above 0) or blur (below; -1 is the mean of 3 x 3 pixels)."""
    check_probability(probability)

    def sharpen(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([2], seed)

        def changed():
            smooth = tf.nn.avg_pool2d(image[None], 3, 1, "SAME")[0]
            return image + between(draw[1], *amount) * (image - smooth)

        return tf.cond(draw[0] < probability, changed, lambda: image)

    return as_floats(sharpen)
