"""Augmentations that move pixels: windows, flips, affine maps."""

import math
from collections.abc import Callable
from typing import Literal

import tensorflow as tf

from keras_featx.augment.common import (
    Augmentation,
    as_floats,
    between,
    check_choice,
    check_probability,
    check_within,
)

TRIES = 10


def random_resized_crop(
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (0.75, 1.3333333333333333),
    draw: Literal["reference", "standard"] = "reference",
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A window of random area and aspect ratio (arXiv:1409.4842).

    Args:
        scale: Bounds of the window's share of the area, uniform, in (0, 1].
        ratio: Bounds of width / height.
        draw: ``reference`` draws the aspect uniformly, and the area below what that aspect
            leaves room for, as the reference's RandCropImage does. ``standard`` is the draw of
            most other libraries: the aspect uniform in its logarithm, the area whatever the
            aspect, the first of ten tries that fits, else the largest centred window within
            the bounds of the ratio.

    Returns:
        ``function(size, seed)``: from (height, width) to (top, left, height, width), int32.

    Example:
        >>> import tensorflow as tf
        >>> from keras_featx.augment import random_resized_crop
        >>> window = random_resized_crop(scale=(0.25, 0.25), ratio=(1.0, 1.0))
        >>> window(tf.constant([100, 100]), tf.constant([1, 2], tf.int64))[2:].numpy()
        array([50, 50], dtype=int32)
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale: expected 0 < low <= high <= 1, got {list(scale)}")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio: expected 0 < low <= high, got {list(ratio)}")
    check_choice("draw", draw, ("reference", "standard"))
    chosen = _reference_part if draw == "reference" else _standard_part

    def window(size: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        part, corner = chosen(size, seed, scale, ratio)
        return tf.concat([tf.minimum(corner, size - part), part], axis=0)

    return window


def _reference_part(size: tf.Tensor, seed: tf.Tensor, scale, ratio) -> tuple[tf.Tensor, tf.Tensor]:
    draw = tf.unstack(tf.random.stateless_uniform([4], seed))
    height, width = tf.unstack(tf.cast(size, tf.float32))
    aspect = between(draw[0], *ratio)
    # The largest share of the area that a window of this aspect can have.
    bound = tf.minimum(width / height / aspect, height / width * aspect)
    share = between(draw[1], tf.minimum(scale[0], bound), tf.minimum(scale[1], bound))
    side = tf.sqrt(share * height * width)
    part = tf.stack([side / tf.sqrt(aspect), side * tf.sqrt(aspect)])
    part = tf.minimum(tf.maximum(tf.cast(part, tf.int32), 1), size)
    return part, tf.cast(tf.stack(draw[2:]) * tf.cast(size - part + 1, tf.float32), tf.int32)


def _standard_part(size: tf.Tensor, seed: tf.Tensor, scale, ratio) -> tuple[tf.Tensor, tf.Tensor]:
    draw = tf.random.stateless_uniform([2 + 2 * TRIES], seed)
    height, width = tf.unstack(tf.cast(size, tf.float32))
    # All tries at once; the first that fits is taken.
    aspects = tf.exp(between(draw[2 : 2 + TRIES], math.log(ratio[0]), math.log(ratio[1])))
    areas = between(draw[2 + TRIES :], *scale) * height * width
    parts = tf.stack([tf.round(tf.sqrt(areas / aspects)), tf.round(tf.sqrt(areas * aspects))], 1)
    parts = tf.cast(parts, tf.int32)
    fits = tf.reduce_all((parts > 0) & (parts <= size), axis=1)
    # The centre: of an aspect beyond the bounds, the side that is too long is cut.
    whole = tf.stack([tf.minimum(height, width / ratio[0]), tf.minimum(width, height * ratio[1])])
    whole = tf.maximum(tf.cast(tf.round(whole), tf.int32), 1)
    any_fits = tf.reduce_any(fits)
    part = tf.where(any_fits, parts[tf.argmax(fits)], whole)
    anywhere = tf.cast(draw[:2] * tf.cast(size - part + 1, tf.float32), tf.int32)
    return part, tf.where(any_fits, anywhere, (size - whole) // 2)


def random_flip(
    *,
    probability: float = 0.5,
    direction: Literal["horizontal", "vertical", "both"] = "horizontal",
) -> Augmentation:
    """Mirror the image.

    Args:
        probability: Of mirroring at all.
        direction: ``horizontal`` swaps left and right, ``vertical`` top and bottom; ``both`` swaps
            both at once, which is half a turn (the reference's ``flip_code`` 1, 0 and -1).
    """
    check_probability(probability)
    axes = {"horizontal": [1], "vertical": [0], "both": [0, 1]}
    check_choice("direction", direction, list(axes))

    def flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([], seed)
        # A branch not taken costs nothing; `where` would compute both.
        mirrored = lambda: tf.reverse(image, axes[direction])  # noqa: E731
        return tf.cond(draw < probability, mirrored, lambda: image)

    return flip


def random_affine(
    *,
    rotation: float = 0.0,
    zoom: tuple[float, float] = (1.0, 1.0),
    aspect: float = 0.0,
    shear: float = 0.0,
    shift: float = 0.0,
    fill: float = 255.0,
) -> Augmentation:
    """Rotate, zoom, stretch, shear and shift in one bilinear resampling.

    Args:
        rotation: Largest angle, in degrees.
        zoom: Bounds of the magnification; drawn uniformly in its logarithm.
        aspect: Largest relative stretch of width against height.
        shear: Largest shear, as a fraction of the side.
        shift: Largest shift, as a fraction of the side.
        fill: Value around the image.
    """
    if not 0 < zoom[0] <= zoom[1]:
        raise ValueError(f"zoom: expected 0 < low <= high, got {list(zoom)}")
    for name, value in (("aspect", aspect), ("shear", shear), ("shift", shift)):
        if not 0 <= value < 1:
            raise ValueError(f"{name}: expected in [0, 1), got {value}")

    def affine(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([6], seed)
        angle = math.radians(rotation) * (2 * draw[0] - 1)
        size = tf.exp(-between(draw[1], math.log(zoom[0]), math.log(zoom[1])))
        stretch = tf.exp(math.log1p(aspect) * (2 * draw[2] - 1))
        slant = shear * (2 * draw[3] - 1)
        cos, sin = tf.cos(angle), tf.sin(angle)
        # From output to input, about the centre.
        a, b = cos * size * stretch, (slant * cos - sin) * size
        c, d = sin * size * stretch, (slant * sin + cos) * size
        return _resampled(image, (a, b, c, d), fill, shift, 2 * draw[4:] - 1)

    return as_floats(affine)


def random_rotation(
    *, probability: float = 0.5, degrees: float = 90.0, fill: float = 0.0
) -> Augmentation:
    """Rotate about the centre, bilinear; the reference's RandomRotation.

    Args:
        probability: Of rotating at all.
        degrees: The angle is uniform in [-degrees, degrees); at most 180.
        fill: Value around the image.
    """
    check_probability(probability)
    check_within("degrees", degrees, 0, 180)
    check_within("fill", fill, 0, 255)

    def rotate(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([2], seed)

        def turned():
            angle = math.radians(degrees) * (2 * draw[1] - 1)
            cos, sin = tf.cos(angle), tf.sin(angle)
            return _resampled(image, (cos, -sin, sin, cos), fill)

        return tf.cond(draw[0] < probability, turned, lambda: image)

    return as_floats(rotate)


def _resampled(
    image: tf.Tensor, matrix, fill: float, shift: float = 0.0, moves=(0.0, 0.0)
) -> tf.Tensor:
    """Bilinear resampling about the centre.

    Args:
        image: float32 ``(height, width, channels)``.
        matrix: (a, b, c, d): output (x, y) comes from input (a x + b y, c x + d y).
        fill: Value around the image.
        shift: Largest shift, as a fraction of the side.
        moves: How much of it the input makes, right and down, in [-1, 1].
    """
    a, b, c, d = matrix
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    x, y = (width - 1) / 2, (height - 1) / 2
    left = x + shift * width * moves[0] - a * x - b * y
    top = y + shift * height * moves[1] - c * x - d * y
    zero = tf.zeros([])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([a, b, left, c, d, top, zero, zero])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=fill,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def pad_and_crop(
    *,
    pixels: int = 10,
    mode: Literal["constant", "reflect"] = "constant",
    fill: int = 0,
) -> Augmentation:
    """Pad each side and cut the size of the image out again: a random shift by whole pixels.

    The reference's Pad and RandCropImageV2, but for its last row and column, which are never in a
    crop there.

    Args:
        pixels: The largest shift; every one from ``-pixels`` to ``pixels`` is as likely.
        mode: Around the image is the ``fill``, or its mirror image (without the edge twice).
        fill: Value around the image.
    """
    if pixels < 0:
        raise ValueError(f"pixels: expected at least 0, got {pixels}")
    check_choice("mode", mode, ("constant", "reflect"))
    check_within("fill", fill, 0, 255)

    def crop(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        shift = tf.random.stateless_uniform([2], seed, 0, 2 * pixels + 1, tf.int32)
        height, width = tf.unstack(tf.shape(image)[:2])
        if mode == "reflect":
            for axis, side in enumerate((height, width)):
                places = _reflected(tf.range(side) + shift[axis] - pixels, side)
                image = tf.gather(image, places, axis=axis)
            return image
        around = [[pixels, pixels], [pixels, pixels], [0, 0]]
        padded = tf.pad(image, around, constant_values=tf.cast(fill, image.dtype))
        return padded[shift[0] : shift[0] + height, shift[1] : shift[1] + width]

    return crop


def _reflected(places: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Places on a line that goes to and fro between 0 and ``side`` - 1."""
    period = tf.maximum(2 * side - 2, 1)
    places = places % period
    return tf.minimum(places, period - places)
