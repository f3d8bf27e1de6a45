"""BMP in a TensorFlow graph: the uncompressed kinds, with palette or channel masks.

TensorFlow's own decoder takes the indices of a palette for grey and refuses files with a byte
after the picture.
"""

import tensorflow as tf

from keras_featx import chunks

_RGB, _MASKS, _ALPHA_MASKS = 0, 3, 6
# Red, green and blue of 16 bits where the file names no masks.
_FIVE_BITS_EACH = (0x7C00, 0x03E0, 0x001F)


@chunks.apart(chunks.FILE)
def decode(data: tf.Tensor) -> tf.Tensor:
    """Decode a BMP of 1, 2, 4, 8, 16, 24 or 32 bits a pixel; opacity is left out.

    Args:
        data: Scalar string, beginning with ``BM``.

    Returns:
        uint8 ``(height, width, 3)``.

    Raises:
        InvalidArgumentError: Run-length coded, with the header of OS/2, or cut short.
    """
    head = chunks.octets(data, 0, 66)
    first, header = _number(head, 10, 4), _number(head, 14, 4)
    width, height = _number(head, 18, 4), _number(head, 22, 4)
    bits, compression = _number(head, 28, 2), _number(head, 30, 4)
    # A height below zero, in two's complement, means that the top row comes first.
    top_first = height >= 2**31
    height = tf.where(top_first, 2**32 - height, height)
    row_bytes = (bits * width + 31) // 32 * 4
    plain = compression == _RGB
    masked = (compression == _MASKS) | (compression == _ALPHA_MASKS)
    indexed = plain & ((bits == 1) | (bits == 2) | (bits == 4) | (bits == 8))
    bytewise = plain & ((bits == 24) | (bits == 32))
    by_masks = ((bits == 16) & (plain | masked)) | ((bits == 32) & masked)
    checks = [
        _assert(
            (header >= 40) & (indexed | bytewise | by_masks),
            "BMP: expected an uncompressed kind; got compression, bits, size of the header:",
            tf.stack([compression, bits, header]),
        ),
        _assert(
            (width > 0) & (width < 2**27) & (height > 0) & (height < 2**27)
            & (row_bytes * height <= chunks.length(data) - first),
            "BMP: expected all rows; got size of the file, width, height:",
            tf.stack([chunks.length(data), width, height]),
        ),
    ]  # fmt: skip
    with tf.control_dependencies([check for check in checks if check is not None]):
        rows = chunks.part(data, first, row_bytes * height)
    rows = tf.reshape(tf.io.decode_raw(rows, tf.uint8), tf.stack([height, row_bytes]))
    rows = tf.raw_ops.Reverse(tensor=rows, dims=tf.stack([~top_first, False]))
    return tf.case(
        [
            (indexed, lambda: _through_palette(data, rows, width, bits, 14 + header)),
            (bytewise, lambda: _pixels(rows, width, bits // 8)[..., 2::-1]),
        ],
        default=lambda: _through_masks(
            _pixels(rows, width, bits // 8),
            tf.where(
                plain,
                tf.constant(_FIVE_BITS_EACH, tf.int64),
                [_number(head, 54 + 4 * i, 4) for i in range(3)],
            ),
        ),
    )


def _assert(condition: tf.Tensor, message: str, numbers: tf.Tensor) -> tf.Operation | None:
    # tf.debugging.Assert would put two more functions into the graph.
    return tf.raw_ops.Assert(condition=condition, data=[message, numbers], summarize=9)


def _number(head: tf.Tensor, start: int, size: int) -> tf.Tensor:
    return chunks.number(head[start : start + size], big_endian=False)


def _pixels(rows: tf.Tensor, width: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Rows without their filling bytes: ``(height, width, size)``."""
    return tf.reshape(rows[:, : width * size], tf.stack([tf.shape(rows, tf.int64)[0], width, size]))


def _through_palette(data, rows, width, bits, start) -> tf.Tensor:
    """Indices, several to a byte and the first in its highest bits, to colours."""
    shifts = tf.cast(8 - bits * tf.range(1, 8 // bits + 1), tf.uint8)
    indices = tf.bitwise.right_shift(rows[..., None], shifts)
    indices = tf.bitwise.bitwise_and(indices, tf.cast(2**bits - 1, tf.uint8))
    indices = tf.reshape(indices, tf.stack([tf.shape(rows, tf.int64)[0], -1]))[:, :width]
    named = _number(chunks.octets(data, 46, 4), 0, 4)
    named = tf.where((named == 0) | (named > 2**bits), 2**bits, named)
    # Blue, green, red, nothing; what the palette does not name is black.
    palette = tf.io.decode_raw(chunks.part(data, start, 4 * named), tf.uint8, fixed_length=1024)
    return tf.gather(tf.reshape(palette, (256, 4))[:, 2::-1], tf.cast(indices, tf.int32))


def _through_masks(pixels: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """The bits of each channel, stretched to 0..255."""
    places = 256 ** tf.range(tf.shape(pixels, tf.int64)[2])
    values = tf.reduce_sum(tf.cast(pixels, tf.int64) * places, axis=2)
    lowest = tf.maximum(tf.bitwise.bitwise_and(masks, -masks), 1)
    bits = tf.bitwise.bitwise_and(values[..., None], masks) // lowest
    return tf.cast(bits * 255 // tf.maximum(masks // lowest, 1), tf.uint8)
