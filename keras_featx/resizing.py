"""Resizing in a TensorFlow graph: which part goes where, and how pixels in between are made."""

import tensorflow as tf

from keras_featx import opencv_resizing
from keras_featx.errors import ConfigError
from keras_featx.sections import PreprocessSection

_METHODS = {
    "bilinear": tf.image.ResizeMethod.BILINEAR,
    "nearest": tf.image.ResizeMethod.NEAREST_NEIGHBOR,
    "area": tf.image.ResizeMethod.AREA,
    "bicubic": tf.image.ResizeMethod.BICUBIC,
    "lanczos3": tf.image.ResizeMethod.LANCZOS3,
}
# Means of pixels, so within their bounds.
_NO_OVERSHOOT = ("bilinear", "area")
# So many times the pixels of the result.
_FEW = 3

Size = tuple[int, int] | tf.Tensor


def resize(
    image: tf.Tensor, image_size: tuple[int, int], preprocess: PreprocessSection
) -> tf.Tensor:
    """Resize uint8 ``(height, width, 3)`` to uint8 ``(*image_size, 3)`` as the section says."""
    if preprocess.resize == "squash":
        return _scaled(image, image_size, preprocess)
    if preprocess.resize == "pad":
        return _padded(image, image_size, preprocess)
    if preprocess.resize_short is None:
        return _scaled(_centre_of_aspect(image, image_size), image_size, preprocess)
    if preprocess.resize_short < max(image_size):
        raise ConfigError(
            f"resize_short: expected at least the larger side of {image_size}, got "
            f"{preprocess.resize_short}"
        )
    size = whole_size(tf.shape(image)[:2], image_size, preprocess)
    return _centre(_scaled(image, size, preprocess), image_size)


def whole_size(
    size: tf.Tensor, image_size: tuple[int, int], preprocess: PreprocessSection
) -> tf.Tensor:
    """What a whole image is resized to before parts of it are cut off or put around it.

    Args:
        size: int32 (height, width) of the image.
        image_size: (height, width) wanted in the end.
        preprocess: The mode.

    Returns:
        int32 (height, width). For ``crop`` without ``resize_short``, where the cut comes first,
        ``image_size``: the cut is larger than that in the same directions as the image.
    """
    exact = tf.cast(size, tf.float64)
    if preprocess.resize == "pad":
        factor = tf.reduce_min(tf.constant(image_size, tf.float64) / exact)
        fitted = tf.maximum(tf.cast(tf.round(exact * factor), tf.int32), 1)
        return tf.minimum(fitted, image_size)
    if preprocess.resize_short is not None:
        # The reference's arithmetic; both round a half to even.
        factor = tf.constant(preprocess.resize_short, tf.float64) / tf.reduce_min(exact)
        return tf.cast(tf.round(exact * factor), tf.int32)
    return tf.constant(image_size)


def _scaled(image: tf.Tensor, size: Size, preprocess: PreprocessSection) -> tf.Tensor:
    kind = preprocess.interpolation
    if preprocess.backend == "opencv":
        resized = opencv_resizing.resize(image, size, kind)
    elif preprocess.antialias and kind not in _NO_OVERSHOOT:
        # Columns first, rounded and cut to 8 bits in between, as Pillow does.
        columns = tf.stack([tf.shape(image)[0], size[1]])
        resized = _pass(_pass(image, columns, kind, antialias=True), size, kind, antialias=True)
    else:
        resized = _pass(image, size, kind, preprocess.antialias)
    return tf.ensure_shape(resized, (*size, 3)) if isinstance(size, tuple) else resized


def _pass(image: tf.Tensor, size: Size, kind: str, antialias: bool) -> tf.Tensor:
    if kind == "bilinear" and not antialias:
        resized = _bilinear(image, size)
    else:
        resized = tf.image.resize(image, size, method=_METHODS[kind], antialias=antialias)
    if resized.dtype == tf.uint8:
        return resized
    rounded = tf.round(resized)
    return (
        tf.cast(rounded, tf.uint8) if kind in _NO_OVERSHOOT else tf.saturate_cast(rounded, tf.uint8)
    )


def _bilinear(image: tf.Tensor, size: Size) -> tf.Tensor:
    """Float32, before rounding."""
    height, width = tf.unstack(tf.shape(image)[:2])
    # TensorFlow (2.21) gives the same numbers faster from floats, but making floats takes longer
    # than that saves where the image has many more pixels than the result.
    return tf.cond(
        height * width < _FEW * size[0] * size[1],
        lambda: tf.image.resize(tf.cast(image, tf.float32), size),
        lambda: tf.image.resize(image, size),
    )


def _centre_of_aspect(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """The largest centred part with the aspect ratio of ``image_size``."""
    size = tf.shape(image)[:2]
    factor = tf.reduce_min(tf.cast(size, tf.float64) / tf.constant(image_size, tf.float64))
    part = tf.round(tf.constant(image_size, tf.float64) * factor)
    part = tf.minimum(tf.maximum(tf.cast(part, tf.int32), 1), size)
    return _centre(image, part)


def _centre(image: tf.Tensor, size: Size) -> tf.Tensor:
    top, left = tf.unstack((tf.shape(image)[:2] - size) // 2)
    part = image[top : top + size[0], left : left + size[1]]
    return tf.ensure_shape(part, (*size, 3)) if isinstance(size, tuple) else part


def _padded(
    image: tf.Tensor, image_size: tuple[int, int], preprocess: PreprocessSection
) -> tf.Tensor:
    """The whole image in the middle; an odd pixel of border goes below or to the right."""
    size = whole_size(tf.shape(image)[:2], image_size, preprocess)
    before = (tf.constant(image_size) - size) // 2
    around = tf.stack([before, image_size - size - before], axis=1)
    border = tf.constant(round(preprocess.pad_value), tf.uint8)
    padded = tf.pad(
        _scaled(image, size, preprocess), tf.pad(around, [[0, 1], [0, 0]]), constant_values=border
    )
    return tf.ensure_shape(padded, (*image_size, 3))
