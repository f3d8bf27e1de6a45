"""From bytes to pixels: the one implementation for training, evaluation and serving.

Everything is a TensorFlow graph operation, so an exported model decodes and resizes exactly as
evaluation did.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_featx.sections import PreprocessSection

_METHODS = {
    "bilinear": tf.image.ResizeMethod.BILINEAR,
    "nearest": tf.image.ResizeMethod.NEAREST_NEIGHBOR,
    "area": tf.image.ResizeMethod.AREA,
    "bicubic": tf.image.ResizeMethod.BICUBIC,
}

# The default is fast but up to 6 levels off what other decoders give.
_DCT = "INTEGER_ACCURATE"

# (height, width) of the whole image -> (top, left, height, width) of a part of it.
Window = Callable[[tf.Tensor], tf.Tensor]


def decode(data: tf.Tensor, window: Window | None = None) -> tf.Tensor:
    """Decode an encoded image to red, green and blue.

    Args:
        data: Scalar string: JPEG, PNG, GIF (its first frame), BMP or WebP.
        window: Cuts a part out; of a JPEG, only that part is decoded.

    Returns:
        uint8 ``(height, width, 3)``.
    """
    if window is None:
        return _decode_whole(data)
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: _decode_jpeg_window(data, window),
        lambda: cut(_decode_whole(data), window),
    )


def _decode_whole(data: tf.Tensor) -> tf.Tensor:
    # Bytes 8 to 12 of a WebP; padded, as a shorter string is an error to `substr`.
    webp = tf.equal(tf.strings.substr(data + b" " * 12, 8, 4), b"WEBP")
    image = tf.case(
        [
            (tf.io.is_jpeg(data), lambda: tf.io.decode_jpeg(data, 3, dct_method=_DCT)),
            # Asked for three channels, the decoder refuses a WebP with opacity.
            (webp, lambda: tf.io.decode_image(data, 0, expand_animations=False)[..., :3]),
        ],
        default=lambda: tf.io.decode_image(data, 3, expand_animations=False),
    )
    return tf.ensure_shape(image, (None, None, 3))


def _decode_jpeg_window(data: tf.Tensor, window: Window) -> tf.Tensor:
    size = tf.io.extract_jpeg_shape(data)[:2]
    top, left, height, width = tf.unstack(window(size))
    # One column more on each side: chroma is interpolated from its neighbours.
    first = tf.maximum(left - 1, 0)
    last = tf.minimum(left + width + 1, size[1])
    part = tf.stack([top, first, height, last - first])
    image = tf.io.decode_and_crop_jpeg(data, part, channels=3, dct_method=_DCT)
    return tf.ensure_shape(image[:, left - first : left - first + width], (None, None, 3))


def cut(image: tf.Tensor, window: Window) -> tf.Tensor:
    """The part of an image that a window of its size names."""
    top, left, height, width = tf.unstack(window(tf.shape(image)[:2]))
    return image[top : top + height, left : left + width]


def resize(
    image: tf.Tensor, image_size: tuple[int, int], preprocess: PreprocessSection
) -> tf.Tensor:
    """Resize as ``Arch.Preprocess`` says.

    Args:
        image: uint8 ``(height, width, 3)``.
        image_size: (height, width) wanted.
        preprocess: Mode and interpolation.

    Returns:
        uint8 ``(*image_size, 3)``, rounded to nearest.
    """
    if preprocess.resize == "crop":
        image = _centre_of_aspect(image, image_size)
    method = _METHODS[preprocess.interpolation]
    resized = tf.image.resize(image, image_size, method=method)
    if resized.dtype == tf.uint8:
        return resized
    return tf.saturate_cast(tf.round(resized), tf.uint8)


def _centre_of_aspect(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """The largest centred part with the aspect ratio of ``image_size``."""
    size = tf.shape(image)[:2]
    factor = tf.reduce_min(tf.cast(size, tf.float64) / tf.constant(image_size, tf.float64))
    part = tf.round(tf.constant(image_size, tf.float64) * factor)
    part = tf.minimum(tf.maximum(tf.cast(part, tf.int32), 1), size)
    top, left = tf.unstack((size - part) // 2)
    return image[top : top + part[0], left : left + part[1]]


def load(
    path: tf.Tensor,
    image_size: tuple[int, int],
    preprocess: PreprocessSection,
    window: Window | None = None,
) -> tf.Tensor:
    """Read, decode and resize one image file: uint8 ``(*image_size, 3)``."""
    return load_bytes(tf.io.read_file(path), image_size, preprocess, window)


def load_bytes(
    data: tf.Tensor,
    image_size: tuple[int, int],
    preprocess: PreprocessSection,
    window: Window | None = None,
) -> tf.Tensor:
    """Decode and resize one encoded image: uint8 ``(*image_size, 3)``."""
    return resize(decode(data, window), image_size, preprocess)
