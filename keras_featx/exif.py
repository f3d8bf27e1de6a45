"""EXIF orientation in a TensorFlow graph: how a stored picture is to be turned.

A camera stores the picture as its sensor lies and notes in the file how it was held. The note is a
number from 1 (upright) to 8, in a TIFF block (Exif 2.32, section 4.6.4, tag 0x0112) inside JPEG,
PNG and WebP. Whatever is missing, damaged or absurd means 1.
"""

import tensorflow as tf

from keras_featx import chunks

_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4
_ALL = b"\xff" * 4

# Where the numbers of an entry stand in its 12 bytes: tag, type, count, and the value by its type.
_PLACES = ((0, 2), (2, 4), (4, 8), (8, 10), (8, 12))


def _places(start: int, stop: int, big_endian: bool) -> list[int]:
    """What each byte of an entry counts in a number."""
    powers = [256**i for i in range(stop - start)]
    return [0] * start + (powers[::-1] if big_endian else powers) + [0] * (12 - stop)


# By byte order, ``(2, 12, 5)``.
_FIELDS = [
    list(zip(*(_places(*place, big_endian) for place in _PLACES), strict=True))
    for big_endian in (False, True)
]

# By orientation, counted from 1: upright = the stored picture with rows reversed, then columns
# reversed, then rows and columns exchanged.
_ROWS_REVERSED = [False, False, True, True, False, True, True, False]
_COLUMNS_REVERSED = [False, True, True, False, False, False, True, True]
_EXCHANGED = [False, False, False, False, True, True, True, True]


@chunks.apart(chunks.FILE)
def jpeg_orientation(data: tf.Tensor) -> tf.Tensor:
    """The orientation of a JPEG: int32, 1 to 8."""
    return tiff_orientation(chunks.jpeg_exif(data))


def png_orientation(data: tf.Tensor) -> tf.Tensor:
    """The orientation of a PNG, from its eXIf chunk: int32, 1 to 8."""
    # Most PNGs have no such chunk, and looking for its name is cheaper than the walk.
    split = tf.raw_ops.StringSplitV2(input=data[None], sep="eXIf", maxsplit=1)
    return tf.cond(
        tf.size(split.values) > 1,
        lambda: _noted_in_png(data),
        lambda: tf.constant(1),
    )


@chunks.apart(chunks.FILE)
def _noted_in_png(data: tf.Tensor) -> tf.Tensor:
    return tiff_orientation(chunks.png_chunk(data, b"eXIf"))


def webp_orientation(data: tf.Tensor) -> tf.Tensor:
    """The orientation of a WebP, from its EXIF chunk: int32, 1 to 8."""

    def read():
        block = chunks.riff_chunk(data, b"EXIF")
        # Some writers put JPEG's name in front.
        named = tf.equal(tf.strings.substr(block, 0, 6), b"Exif\0\0")
        return tiff_orientation(chunks.part(block, tf.where(named, 6, 0), chunks.length(block)))

    # An extended file says in its flags whether it has such a chunk.
    announced = chunks.matches(
        chunks.octets(data, 12, 9), [(b"VP8X\0\0\0\0\x08", _ALL + b"\0\0\0\0\x08")]
    )
    return tf.cond(announced[0], read, lambda: tf.constant(1))


@chunks.apart(chunks.FILE)
def tiff_orientation(block: tf.Tensor) -> tf.Tensor:
    r"""The orientation noted in a TIFF block, a scalar string: int32, 1 to 8.

    Example:
        >>> from keras_featx.exif import tiff_orientation
        >>> entry = b"\x12\x01" b"\x03\0" b"\x01\0\0\0" b"\x06\0\0\0"
        >>> int(tiff_orientation(b"II*\0" b"\x08\0\0\0" b"\x01\0" + entry))
        6
        >>> int(tiff_orientation(b"no TIFF"))
        1
    """
    head = chunks.octets(block, 0, 8)
    little, big = tf.unstack(chunks.matches(head, [(b"II*\0", _ALL), (b"MM\0*", _ALL)]))
    first = chunks.number(head[4:], big)
    count = chunks.number(chunks.octets(block, first, 2), big) * tf.cast(little | big, tf.int64)
    entries = tf.io.decode_raw(chunks.part(block, first + 2, 12 * count), tf.uint8)
    # A last entry of which not all is there is left out.
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], (-1, 12))
    weights = tf.constant(_FIELDS, tf.int64)[tf.cast(big, tf.int32)]
    fields = tf.matmul(tf.cast(entries, tf.int64), weights)
    tag, kind, values, short, long = tf.unstack(fields, axis=1)
    value = tf.where(kind == _SHORT, short, long)
    valid = (tag == _ORIENTATION) & ((kind == _SHORT) | (kind == _LONG)) & (values == 1)
    valid &= (value >= 1) & (value <= 8)
    # The first that is valid, and 1 for want of any.
    return tf.cast(tf.concat([value[valid], [1]], axis=0)[0], tf.int32)


def is_exchanged(orientation: tf.Tensor) -> tf.Tensor:
    """Whether the upright picture has the height of the stored one as its width."""
    return tf.gather(_EXCHANGED, orientation - 1)


def upright_size(size: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """(height, width) of the upright picture from those of the stored one, and back."""
    return tf.where(is_exchanged(orientation), size[::-1], size)


def stored_window(window: tf.Tensor, size: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Where a part of the upright picture lies in the stored one.

    Args:
        window: int32 (top, left, height, width) in the upright picture.
        size: int32 (height, width) of the stored one.
        orientation: int32, 1 to 8.

    Returns:
        int32 (top, left, height, width).
    """
    corner, extent = tf.split(tf.reshape(window, (2, 2)), 2)
    corner, extent = upright_size(corner[0], orientation), upright_size(extent[0], orientation)
    corner = tf.where(_reversed(orientation), size - extent - corner, corner)
    return tf.concat([corner, extent], axis=0)


def turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """The upright picture from the stored one, uint8 ``(height, width, channels)``."""
    return tf.cond(orientation == 1, lambda: image, lambda: _turned(image, orientation))


@chunks.apart(tf.TensorSpec((None, None, None), tf.uint8), tf.TensorSpec((), tf.int32))
def _turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    rows, columns = tf.unstack(_reversed(orientation))
    image = tf.raw_ops.Reverse(tensor=image, dims=tf.stack([rows, columns, False]))
    return tf.transpose(image, tf.where(is_exchanged(orientation), (1, 0, 2), (0, 1, 2)))


def _reversed(orientation: tf.Tensor) -> tf.Tensor:
    """Whether rows and whether columns are reversed, bool ``(2,)``."""
    return tf.gather(tf.constant([_ROWS_REVERSED, _COLUMNS_REVERSED]), orientation - 1, axis=1)
