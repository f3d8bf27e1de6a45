"""The operations of the policies, level for level what Pillow does.

All take and return uint8 ``(height, width, 3)`` and are deterministic; arguments are scalars,
numbers or tensors. Enhancements work on planes of one channel, as TensorFlow's broadcasting along
a last dimension of three is slow.
"""

import math
from collections.abc import Callable

import tensorflow as tf


def invert(image: tf.Tensor) -> tf.Tensor:
    """The negative: ``ImageOps.invert``."""
    return 255 - image


def solarize(image: tf.Tensor, threshold) -> tf.Tensor:
    """The negative of all values from the threshold on: ``ImageOps.solarize``.

    Args:
        image: uint8 image.
        threshold: int32 in [0, 256]; 0 is the negative, 256 changes nothing.
    """
    # Arithmetic on bytes, as `where` takes five times as long. 256 is no byte.
    first = tf.cast(tf.minimum(threshold, 255), tf.uint8)
    turned = tf.cast(tf.where(threshold < 256, 255, 0), tf.uint8)
    return tf.bitwise.bitwise_xor(image, tf.cast(image >= first, tf.uint8) * turned)


def solarize_add(image: tf.Tensor, addition) -> tf.Tensor:
    """Brighten the values below 128 (the authors' code of arXiv:1909.13719).

    Args:
        image: uint8 image.
        addition: int32 in [0, 128).
    """
    dark = 1 - tf.bitwise.right_shift(image, tf.constant(7, tf.uint8))
    return image + dark * tf.cast(addition, tf.uint8)


def posterize(image: tf.Tensor, bits) -> tf.Tensor:
    """Keep the highest bits: ``ImageOps.posterize``.

    Args:
        image: uint8 image.
        bits: int32 in [1, 8].
    """
    mask = 256 - tf.bitwise.left_shift(1, 8 - bits)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0..255: ``ImageOps.autocontrast``; a flat channel stays."""
    values = tf.range(256, dtype=tf.float64)

    def stretched(channel: tf.Tensor) -> tf.Tensor:
        places = tf.cast(channel, tf.int32)
        low, high = (tf.cast(f(places), tf.float64) for f in (tf.reduce_min, tf.reduce_max))
        # In double precision and in this order: the fraction is cut off, so the last bit counts.
        scale = 255 / tf.maximum(high - low, 1)
        table = tf.clip_by_value(values * scale - low * scale, 0, 255)
        table = tf.where(high > low, table, values)
        return tf.gather(tf.cast(table, tf.uint8), places)

    return _by_channel(image, stretched)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Even out the histogram of each channel: ``ImageOps.equalize``."""
    values = tf.range(256)

    def equalized(channel: tf.Tensor) -> tf.Tensor:
        places = tf.cast(channel, tf.int32)
        counts = tf.raw_ops.DenseBincount(
            input=tf.reshape(places, [-1]), size=256, weights=tf.zeros([0], tf.int32)
        )
        last = counts[tf.reduce_max(places)]
        step = (tf.size(places) - last) // 255
        table = (step // 2 + tf.cumsum(counts, exclusive=True)) // tf.maximum(step, 1)
        # Too few pixels besides the brightest: Pillow leaves the channel.
        table = tf.where(step > 0, tf.minimum(table, 255), values)
        return tf.gather(tf.cast(table, tf.uint8), places)

    return _by_channel(image, equalized)


def color(image: tf.Tensor, factor) -> tf.Tensor:
    """Away from grey (factor above 1) or towards it: ``ImageEnhance.Color``."""
    grey = tf.cast(_luma(image), tf.float32)
    return _by_channel(image, lambda channel: _blend(grey, tf.cast(channel, tf.float32), factor))


def contrast(image: tf.Tensor, factor) -> tf.Tensor:
    """Away from the mean luma or towards it: ``ImageEnhance.Contrast``."""
    luma = tf.cast(_luma(image), tf.int64)
    mean = (2 * tf.reduce_sum(luma) + tf.size(luma, tf.int64)) // (2 * tf.size(luma, tf.int64))
    return _blend(tf.cast(mean, tf.float32), tf.cast(image, tf.float32), factor)


def brightness(image: tf.Tensor, factor) -> tf.Tensor:
    """Away from black or towards it: ``ImageEnhance.Brightness``."""
    return _blend(0.0, tf.cast(image, tf.float32), factor)


def sharpness(image: tf.Tensor, factor) -> tf.Tensor:
    """Away from the smoothed image or towards it: ``ImageEnhance.Sharpness``.

    The kernel has 5 in its middle and 1 around it; pixels at the edge stay, and so does an image
    with a side below 3.
    """
    values = tf.cast(image, tf.float32)

    def sharpened():
        columns = values[:-2] + values[1:-1] + values[2:]
        middle = values[1:-1, 1:-1]
        total = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] + 4 * middle
        inner = _blend(tf.floor(total / 13 + 0.5), middle, factor)
        rows = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
        return tf.concat([image[:1], rows, image[-1:]], axis=0)

    return tf.cond(tf.reduce_min(tf.shape(image)[:2]) < 3, lambda: image, sharpened)


def rotate(image: tf.Tensor, degrees, fill: int) -> tf.Tensor:
    """Turn counter-clockwise about the centre: ``Image.rotate``, nearest."""
    angle = tf.cast(degrees, tf.float64) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64) / 2)
    left = width - cos * width + sin * height
    top = height - sin * width - cos * height
    return _affine(image, (cos, -sin, left, sin, cos, top), fill)


def shear_x(image: tf.Tensor, amount, fill: int) -> tf.Tensor:
    """Move each row by ``amount`` times its number: ``Image.transform``, nearest."""
    return _affine(image, (1.0, amount, 0.0, 0.0, 1.0, 0.0), fill)


def shear_y(image: tf.Tensor, amount, fill: int) -> tf.Tensor:
    """Move each column by ``amount`` times its number: ``Image.transform``, nearest."""
    return _affine(image, (1.0, 0.0, 0.0, amount, 1.0, 0.0), fill)


def translate_x(image: tf.Tensor, pixels, fill: int) -> tf.Tensor:
    """Move to the left: ``Image.transform``, nearest."""
    return _affine(image, (1.0, 0.0, pixels, 0.0, 1.0, 0.0), fill)


def translate_y(image: tf.Tensor, pixels, fill: int) -> tf.Tensor:
    """Move up: ``Image.transform``, nearest."""
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, pixels), fill)


def _affine(image: tf.Tensor, matrix, fill: int) -> tf.Tensor:
    """``Image.transform`` with ``AFFINE`` and ``NEAREST``, in its fixed-point arithmetic.

    Args:
        image: uint8 image with sides below 2^14.
        matrix: (a, b, c, d, e, f): output (x, y) comes from input (a x + b y + c, d x + e y + f),
            where a pixel's coordinates are those of its centre, from 0.5.
        fill: Value around the image.
    """
    a, b, c, d, e, f = (tf.cast(number, tf.float64) for number in matrix)
    height, width = tf.unstack(tf.shape(image)[:2])
    # The frame of one pixel is where everything outside comes from.
    framed = tf.pad(image, [[1, 1], [1, 1], [0, 0]], constant_values=tf.cast(fill, tf.uint8))
    x, y = tf.range(width), tf.range(height)[:, None]
    columns = _fixed(a) * x + _fixed(b) * y + _fixed(c + a / 2 + b / 2)
    rows = _fixed(d) * x + _fixed(e) * y + _fixed(f + d / 2 + e / 2)
    columns = tf.clip_by_value(tf.bitwise.right_shift(columns, 16), -1, width) + 1
    rows = tf.clip_by_value(tf.bitwise.right_shift(rows, 16), -1, height) + 1
    return tf.gather(tf.reshape(framed, [-1, 3]), rows * (width + 2) + columns)


def _fixed(number: tf.Tensor) -> tf.Tensor:
    """16 binary places."""
    return tf.cast(tf.floor(number * 65536 + 0.5), tf.int32)


def _luma(image: tf.Tensor) -> tf.Tensor:
    """``Image.convert("L")``: int32 ``(height, width)``."""
    red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    return tf.bitwise.right_shift(red * 19595 + green * 38470 + blue * 7471 + 32768, 16)


def _blend(from_values, values: tf.Tensor, factor) -> tf.Tensor:
    """``Image.blend``: the fraction is cut off."""
    factor = tf.cast(factor, tf.float32)
    moved = from_values + factor * (values - from_values)
    return tf.cast(tf.clip_by_value(moved, 0.0, 255.0), tf.uint8)


def _by_channel(image: tf.Tensor, function: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    return tf.stack([function(channel) for channel in tf.unstack(image, axis=-1)], axis=-1)
