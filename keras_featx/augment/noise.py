"""Augmentations that lose detail: blur and JPEG compression."""

import tensorflow as tf

from keras_featx.augment.common import (
    Augmentation,
    as_bytes,
    as_floats,
    between,
    check_probability,
)


def gaussian_blur(
    *, probability: float = 0.5, sigma: tuple[float, float] = (0.0005, 0.009)
) -> Augmentation:
    """Blur with a Gaussian (as in arXiv:2002.05709).

    Beyond the edge there is nothing: the weights of the pixels there are sum to 1.

    Args:
        probability: Of blurring at all.
        sigma: Bounds of the standard deviation as a fraction of the shorter side, uniform, so
            that images of any size lose the same detail. The default is 0.1 to 2 pixels of 224.

    Example:
        >>> import tensorflow as tf
        >>> from keras_featx.augment import gaussian_blur
        >>> blur = gaussian_blur(probability=1.0, sigma=(0.2, 0.2))
        >>> image = tf.one_hot([1, 2, 0], 3, 255.0)[..., None] * tf.ones(3)
        >>> blurred = blur(image, tf.constant([1, 2], tf.int64))
        >>> bool(tf.math.reduce_std(blurred) < tf.math.reduce_std(image))
        True
    """
    check_probability(probability)
    if not 0 < sigma[0] <= sigma[1] <= 1:
        raise ValueError(f"sigma: expected 0 < low <= high <= 1, got {list(sigma)}")

    def blur(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([2], seed)

        def blurred():
            height, width, channels = tf.unstack(tf.shape(image))
            pixels = between(draw[1], *sigma) * tf.cast(tf.minimum(height, width), tf.float32)
            # As products of matrices: faster than a depthwise convolution at these sizes, and
            # exact for any sigma and any size.
            down = _weights(height, pixels) @ tf.reshape(image, [height, width * channels])
            down = tf.transpose(tf.reshape(down, [height, width, channels]), [1, 0, 2])
            across = _weights(width, pixels) @ tf.reshape(down, [width, height * channels])
            across = tf.reshape(across, [width, height, channels])
            return tf.ensure_shape(tf.transpose(across, [1, 0, 2]), image.shape)

        return tf.cond(draw[0] < probability, blurred, lambda: image)

    return as_floats(blur)


def _weights(side: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """The share of each pixel (column) in each blurred one (row)."""
    place = tf.range(side, dtype=tf.float32)
    weights = tf.exp(-tf.square((place[:, None] - place) / sigma) / 2)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def jpeg_noise(*, probability: float = 0.5, quality: tuple[int, int] = (30, 95)) -> Augmentation:
    """Compress as a JPEG and decode again.

    Args:
        probability: Of compressing at all.
        quality: Bounds of libjpeg's quality, whole numbers in 1..100, both included. Chroma is
            halved in both directions, as most encoders do.
    """
    check_probability(probability)
    if not 1 <= quality[0] <= quality[1] <= 100:
        raise ValueError(f"quality: expected 1 <= low <= high <= 100, got {list(quality)}")

    def compress(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([2], seed)

        def compressed():
            steps = tf.cast(draw[1] * (quality[1] - quality[0] + 1), tf.int32)
            level = tf.minimum(quality[0] + steps, quality[1])
            data = tf.raw_ops.EncodeJpegVariableQuality(images=image, quality=level)
            decoded = tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE")
            return tf.ensure_shape(decoded, image.shape)

        return tf.cond(draw[0] < probability, compressed, lambda: image)

    return as_bytes(compress)
