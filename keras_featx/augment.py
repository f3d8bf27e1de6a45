"""Training-time augmentation: pure functions of an image and a seed.

Each builder returns ``function(image, seed) -> image`` for images ``(height, width, 3)``, values
0..255 in uint8 or float32 (a function may leave that range; it is cut at the end), except
:func:`random_resized_crop`, which chooses a window of the undecoded image and so comes first. The
seed is an int64 vector of two; the same seed gives the same image.
"""

import math
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
    """Apply pixel functions to a uint8 image in order, each with a seed of its own."""
    for i, function in enumerate(functions):
        image = function(image, op_seed(seed, i + 1))
    return image if image.dtype == tf.uint8 else tf.saturate_cast(tf.round(image), tf.uint8)


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
        # A branch not taken costs nothing; `where` would compute both.
        return tf.cond(draw < probability, lambda: tf.reverse(image, [1]), lambda: image)

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
        size = tf.exp(-_between(draw[1], math.log(zoom[0]), math.log(zoom[1])))
        stretch = tf.exp(math.log1p(aspect) * (2 * draw[2] - 1))
        slant = shear * (2 * draw[3] - 1)
        cos, sin = tf.cos(angle), tf.sin(angle)
        # From output to input, about the centre.
        a, b = cos * size * stretch, (slant * cos - sin) * size
        c, d = sin * size * stretch, (slant * sin + cos) * size
        height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
        x, y = (width - 1) / 2, (height - 1) / 2
        left = x + shift * width * (2 * draw[4] - 1) - a * x - b * y
        top = y + shift * height * (2 * draw[5] - 1) - c * x - d * y
        zero = tf.zeros([])
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=tf.stack([a, b, left, c, d, top, zero, zero])[None],
            output_shape=tf.shape(image)[:2],
            fill_value=fill,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )[0]

    return _on_floats(affine)


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
            # Negative seeds are used by nothing else.
            power = tf.random.stateless_normal([4], -1 - seed, 0, gamma)
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

    return _on_floats(jitter)


def random_grayscale(*, probability: float = 0.1) -> Augmentation:
    """Take the colour away (ITU-R BT.601 weights)."""
    _check_probability(probability)

    def grey(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        def luma():
            value = tf.reduce_sum(image * [0.299, 0.587, 0.114], axis=-1, keepdims=True)
            return tf.broadcast_to(value, tf.shape(image))

        draw = tf.random.stateless_uniform([], seed)
        return tf.cond(draw < probability, luma, lambda: image)

    return _on_floats(grey)


def random_sharpness(
    *, probability: float = 0.2, amount: tuple[float, float] = (-1.0, 0.5)
) -> Augmentation:
    """Sharpen (amount above 0) or blur (below; -1 is the mean of 3 x 3 pixels)."""
    _check_probability(probability)

    def sharpen(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([2], seed)

        def changed():
            smooth = tf.nn.avg_pool2d(image[None], 3, 1, "SAME")[0]
            return image + _between(draw[1], *amount) * (image - smooth)

        return tf.cond(draw[0] < probability, changed, lambda: image)

    return _on_floats(sharpen)


def random_erasing(
    *, probability: float = 0.5, area: tuple[float, float] = (0.02, 0.4), ratio: float = 0.3
) -> Augmentation:
    """Paint a rectangle in one random colour (arXiv:1708.04896).

    Args:
        probability: Of erasing at all.
        area: Bounds of the rectangle's share of the image.
        ratio: Bounds of height / width are ``ratio`` and ``1 / ratio``.
    """
    _check_probability(probability)
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area: expected 0 < low <= high <= 1, got {list(area)}")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio: expected in (0, 1], got {ratio}")

    def erase(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([8], seed)
        share = _between(draw[1], *area)
        shape = tf.exp(_between(draw[2], math.log(ratio), -math.log(ratio)))
        half = tf.stack([tf.sqrt(share * shape), tf.sqrt(share / shape)]) / 2
        height, width = tf.unstack(tf.shape(image)[:2])
        rows = (tf.range(height, dtype=tf.float32) + 0.5) / tf.cast(height, tf.float32)
        columns = (tf.range(width, dtype=tf.float32) + 0.5) / tf.cast(width, tf.float32)
        inside = (tf.abs(rows - draw[3]) < half[0])[:, None] & (
            tf.abs(columns - draw[4]) < half[1]
        )[None]
        return tf.cond(
            draw[0] < probability,
            lambda: tf.where(inside[..., None], 255 * draw[5:], image),
            lambda: image,
        )

    return _on_floats(erase)


def _on_floats(function: Augmentation) -> Augmentation:
    return lambda image, seed: function(tf.cast(image, tf.float32), seed)


def _between(draw: tf.Tensor, low, high) -> tf.Tensor:
    return low + draw * (high - low)


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability: expected in [0, 1], got {probability}")
