"""Encoded images: their kind, and smaller ones made of them."""

import tensorflow as tf

from keras_featx import images
from keras_featx.data import faults

_MAGIC = {
    "jpg": b"\xff\xd8\xff",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF8",
    "bmp": b"BM",
}

Box = tuple[int, int, int, int]


def kind_of(data: bytes) -> str | None:
    """``jpg``, ``png``, ``gif``, ``bmp`` or ``webp`` by the first bytes, ``None`` for others.

    Example:
        >>> from keras_featx.data.encoding import kind_of
        >>> kind_of(b"GIF89a...")
        'gif'
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for kind, magic in _MAGIC.items() if data.startswith(magic)), None)


def encode_png(image) -> bytes:
    """A uint8 image ``(height, width, 3)`` as PNG."""
    return tf.io.encode_png(image).numpy()


def smaller(
    data: bytes, box: Box | None, short_side: int, quality: int, lossless: bool
) -> tuple[bytes, Box | None]:
    """An encoded image whose short side is at most so many pixels.

    One that is small enough stays as it is, to the byte. Others are decoded upright, shrunk by the
    mean over the area of each new pixel, and encoded as JPEG; opacity is lost as in
    :func:`keras_featx.images.decode`.

    Args:
        data: The encoded image.
        box: Left, top, right, bottom of a part in pixels of the upright image; zeros for all of it.
        short_side: In pixels.
        quality: Of a JPEG, 1 to 100.
        lossless: Keep what was PNG, BMP or GIF lossless, as PNG.

    Returns:
        The image, and the box in it, rounded outward.

    Raises:
        ValueError: If the box is not inside the image.
        tf.errors.OpError: If the image cannot be decoded.
    """
    pixels, before = _shrunk(tf.constant(data), tf.constant(short_side))
    height, width = before.numpy().tolist()
    if box is not None and (box[3] > height or box[2] > width):
        raise ValueError(f"{faults.BOX} {list(box)} of an image of height, width {[height, width]}")
    if min(height, width) <= short_side:
        return data, box
    if lossless and kind_of(data) in ("png", "bmp", "gif"):
        data = encode_png(pixels)
    else:
        data = tf.io.encode_jpeg(pixels, quality=quality).numpy()
    new_height, new_width = pixels.shape[:2]
    return data, box and _scaled(box, (width, new_width), (height, new_height))


def _scaled(box: Box, across: tuple[int, int], down: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    return (
        left * across[1] // across[0],
        top * down[1] // down[0],
        -(-right * across[1] // across[0]),
        -(-bottom * down[1] // down[0]),
    )


@tf.function(input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int32)])
def _shrunk(data: tf.Tensor, short_side: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The image with that short side, unless it is smaller; and (height, width) before."""
    image = images.decode(data)
    size = tf.shape(image)[:2]
    factor = tf.cast(short_side, tf.float64) / tf.cast(tf.reduce_min(size), tf.float64)
    wanted = tf.cast(tf.round(tf.cast(size, tf.float64) * factor), tf.int32)

    def shrink() -> tf.Tensor:
        mean = tf.image.resize(image, wanted, method=tf.image.ResizeMethod.AREA)
        return tf.saturate_cast(tf.round(mean), tf.uint8)

    return tf.cond(tf.reduce_min(size) > short_side, shrink, lambda: image), size
