"""From bytes to pixels: the one implementation for training, evaluation and serving.

Everything is a TensorFlow graph operation, so an exported model decodes and resizes exactly as
evaluation did.
"""

import tensorflow as tf

from keras_featx import decoding, resizing
from keras_featx.decoding import Window
from keras_featx.sections import PreprocessSection

__all__ = ["Window", "cut", "decode", "load", "load_bytes", "resize"]


@tf.autograph.experimental.do_not_convert
def decode(
    data: tf.Tensor,
    window: Window | None = None,
    preprocess: PreprocessSection | None = None,
    image_size: tuple[int, int] | None = None,
) -> tf.Tensor:
    """Decode an encoded image to red, green and blue, upright by its EXIF orientation.

    Args:
        data: Scalar string: JPEG, PNG, GIF, BMP or WebP; of an animation, the first frame.
        window: Cuts a part out of the upright image; of a JPEG, only that part is decoded.
        preprocess: For its ``background`` and ``reduced_decoding``.
        image_size: (height, width) that the result will be resized to; with
            ``preprocess.reduced_decoding``, a JPEG much larger than that is decoded smaller.

    Returns:
        uint8 ``(height, width, 3)``.

    Raises:
        InvalidArgumentError: No image, a damaged one, or a kind that cannot be read.

    Example:
        >>> import tensorflow as tf
        >>> from keras_featx import images
        >>> data = tf.io.encode_png(tf.zeros((40, 50, 3), tf.uint8))
        >>> images.decode(data).shape
        TensorShape([40, 50, 3])
        >>> images.decode(data, lambda size: tf.stack([0, 0, size[0] // 2, size[1]])).shape
        TensorShape([20, 50, 3])
    """
    background = None if preprocess is None else preprocess.background
    target = None
    if preprocess is not None and preprocess.reduced_decoding and image_size is not None:
        target = lambda size: resizing.whole_size(size, image_size, preprocess)  # noqa: E731
    image = decoding.any_format(data, window, target, background)
    return tf.ensure_shape(image, (None, None, 3))


def cut(image: tf.Tensor, window: Window | None) -> tf.Tensor:
    """The part of an image that a window names, for what is pixels already; all without one."""
    return decoding.cut(image, window)


@tf.autograph.experimental.do_not_convert
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
    return resizing.resize(image, image_size, preprocess)


def load_bytes(
    data: tf.Tensor,
    image_size: tuple[int, int],
    preprocess: PreprocessSection,
    window: Window | None = None,
) -> tf.Tensor:
    """Decode and resize one encoded image, a scalar string: uint8 ``(*image_size, 3)``."""
    return resize(decode(data, window, preprocess, image_size), image_size, preprocess)


def load(
    path: tf.Tensor,
    image_size: tuple[int, int],
    preprocess: PreprocessSection,
    window: Window | None = None,
) -> tf.Tensor:
    """Read, decode and resize one image file: uint8 ``(*image_size, 3)``."""
    return load_bytes(tf.io.read_file(path), image_size, preprocess, window)
