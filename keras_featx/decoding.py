"""Files to pixels in a TensorFlow graph, one function a format.

All give uint8 ``(height, width, 3)``, upright, of the whole picture or of a window of it. What
TensorFlow's decoders get wrong is put right here: opacity, animated WebP, BMP, orientation.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_featx import bmp, chunks, exif

# The default is fast but up to 6 levels off what other decoders give.
_DCT = "INTEGER_ACCURATE"

# (height, width) of the whole image -> (top, left, height, width) of a part of it.
Window = Callable[[tf.Tensor], tf.Tensor]
# (height, width) of an image -> the (height, width) it will be resized to.
Target = Callable[[tf.Tensor], tf.Tensor]
Background = tuple[float, float, float]

_FULL = b"\xff"
# The first bytes of a file as (values, bits that matter).
_PLAIN_JPEG = (
    # Of a JPEG, an Exif segment lies in front of the tables (markers C0 to DF): here these come at
    # once, or after the usual 16 bytes of JFIF.
    (b"\xff\xd8\xff\xc0", b"\xff\xff\xff\xe0"),
    (b"\xff\xd8\xff\xe0\0\x10" + b"\0" * 14 + b"\xff\xc0", _FULL * 6 + b"\0" * 14 + b"\xff\xe0"),
)
# The first match counts.
_OTHERS = (
    (b"\x89PNG\r\n\x1a\n", _FULL * 8),
    (b"\xff\xd8\xff", _FULL * 3),
    (b"RIFF\0\0\0\0WEBP", _FULL * 4 + b"\0" * 4 + _FULL * 4),
    (b"BM", _FULL * 2),
    (b"", b""),
)
_ANIMATED_WEBP = ((b"VP8X\0\0\0\0\x02", _FULL * 4 + b"\0" * 4 + b"\x02"),)


def any_format(
    data: tf.Tensor,
    window: Window | None = None,
    target: Target | None = None,
    background: Background | None = None,
) -> tf.Tensor:
    """Decode any file that can be decoded.

    Args:
        data: Scalar string.
        window: Asked with the upright size.
        target: See :func:`jpeg`.
        background: See :class:`keras_featx.sections.PreprocessSection`.
    """
    head = tf.io.decode_raw(data, tf.uint8, fixed_length=22)
    return tf.cond(
        tf.reduce_any(chunks.matches(head, _PLAIN_JPEG)),
        lambda: jpeg(data, window, target),
        # Apart, so that the most common files pay little for all others.
        lambda: _apart(lambda: _other_format(data, head, window, target, background)),
    )


def _apart(function: Callable[[], tf.Tensor]) -> tf.Tensor:
    return function() if tf.executing_eagerly() else chunks.apart()(function)()


def _other_format(data, head, window, target, background) -> tf.Tensor:
    first = tf.argmax(chunks.matches(head, _OTHERS), output_type=tf.int32)

    def finished(image: tf.Tensor, orientation: tf.Tensor | None = None) -> tf.Tensor:
        return _finished(image, orientation, window, background)

    branches = [
        lambda: finished(*_png(data, background)),
        lambda: jpeg(data, window, target, exif.jpeg_orientation(data)),
        lambda: finished(_webp(data), exif.webp_orientation(data)),
        lambda: finished(bmp.decode(data)),
        # A GIF, or TensorFlow's error.
        lambda: finished(tf.io.decode_image(data, 3, expand_animations=False)),
    ]
    return tf.switch_case(first, branches)


def _finished(image, orientation, window, background) -> tf.Tensor:
    """Cut, lay over the background and turn what is decoded whole."""
    if orientation is None:
        image = cut(image, window)
    elif window is not None:
        size = tf.shape(image)[:2]
        part = window(exif.upright_size(size, orientation))
        image = _cut(image, exif.stored_window(part, size, orientation))
    image = image[..., :3] if background is None else _over(image, background)
    return image if orientation is None else exif.turn(image, orientation)


def _over(image: tf.Tensor, background: Background) -> tf.Tensor:
    """Lay an image over a colour, where it has a fourth channel."""
    opacity = tf.cast(image[..., 3:], tf.float32)
    # Without one, a sum of no channels: nothing to take away.
    absent = tf.reduce_sum(255 - opacity, axis=2, keepdims=True)
    colours = tf.cast(image[..., :3], tf.float32)
    return tf.cast(tf.round(colours + (background - colours) * (absent / 255)), tf.uint8)


def jpeg(
    data: tf.Tensor,
    window: Window | None = None,
    target: Target | None = None,
    orientation: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decode a JPEG; of a window, only that part.

    Args:
        data: Scalar string.
        window: Asked with the upright size.
        target: Decode at 1/2, 1/4 or 1/8 where the image, or the window, stays as large as this.
        orientation: By EXIF; ``None`` means upright.
    """
    if window is None and target is None:
        image = tf.io.decode_jpeg(data, 3, dct_method=_DCT)
        return image if orientation is None else exif.turn(image, orientation)
    size = tf.io.extract_jpeg_shape(data)[:2]
    upright = size if orientation is None else exif.upright_size(size, orientation)
    part = tf.concat([[0, 0], upright], axis=0) if window is None else window(upright)
    wanted = None if target is None else target(part[2:])
    if orientation is not None:
        part = exif.stored_window(part, size, orientation)
        wanted = None if wanted is None else exif.upright_size(wanted, orientation)
    if wanted is None:
        image = _jpeg_part(data, size, part)
    else:
        image = _reduced_jpeg_part(data, size, part, wanted)
    return image if orientation is None else exif.turn(image, orientation)


def _jpeg_part(data: tf.Tensor, size: tf.Tensor, part: tf.Tensor, ratio: int = 1) -> tf.Tensor:
    top, left, height, width = tf.unstack(part)
    # One column more on each side: chroma is interpolated from its neighbours. On the left from
    # where a block begins, as the decoder starts there in any case and would copy what it made.
    first = tf.bitwise.bitwise_and(tf.maximum(left - 1, 0), -16)
    last = tf.minimum(left + width + 1, size[1])
    part = tf.stack([top, first, height, last - first])
    image = tf.io.decode_and_crop_jpeg(data, part, channels=3, ratio=ratio, dct_method=_DCT)
    return image[:, left - first : left - first + width]


def _reduced_jpeg_part(data, size, part, wanted) -> tf.Tensor:
    """Scaled by the decoder, which leaves out the high frequencies of each block of 8x8."""

    def at(ratio: int) -> tf.Tensor:
        # Edges go to the nearest edge between reduced pixels.
        first = (part[:2] + ratio // 2) // ratio
        last = (part[:2] + part[2:] + ratio // 2) // ratio
        reduced = (size + ratio - 1) // ratio
        return _jpeg_part(data, reduced, tf.concat([first, last - first], axis=0), ratio)

    ratios = [1, 2, 4, 8]
    large_enough = [tf.reduce_all(part[2:] >= ratio * wanted) for ratio in ratios[1:]]
    choice = tf.reduce_sum(tf.cast(tf.stack(large_enough), tf.int32))
    return tf.switch_case(choice, [lambda ratio=ratio: at(ratio) for ratio in ratios])


def _png(data: tf.Tensor, background: Background | None) -> tuple[tf.Tensor, tf.Tensor]:
    image = tf.io.decode_png(data, 3) if background is None else _png_with_opacity(data)
    return image, exif.png_orientation(data)


@chunks.apart(chunks.FILE)
def _png_with_opacity(data: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_png(data, 4)
    # Of 1, 2 or 4 bits and without opacity in the file, TensorFlow (2.21) gives the largest number
    # of so few bits for it.
    opaque = tf.cond(
        chunks.octets(data, 24, 1)[0] < 8,
        lambda: tf.equal(chunks.png_chunk(data, b"tRNS"), b""),
        lambda: tf.constant(False),
    )
    return tf.where(opaque, tf.bitwise.bitwise_or(image, [0, 0, 0, 255]), image)


@chunks.apart(chunks.FILE)
def _webp(data: tf.Tensor) -> tf.Tensor:
    """Three channels, or four where there is opacity."""
    # Asked for three channels, TensorFlow refuses a WebP with opacity. Given an animation without
    # opacity, it writes beyond its memory (2.21): it must never see one.
    return tf.cond(
        chunks.matches(chunks.octets(data, 12, 9), _ANIMATED_WEBP)[0],
        lambda: _first_frame(data),
        lambda: tf.io.decode_image(data, 0, expand_animations=False),
    )


def _first_frame(data: tf.Tensor) -> tf.Tensor:
    """The first frame of an animation on its canvas, as a file of its own."""
    frame = chunks.riff_chunk(data, b"ANMF")
    head = chunks.octets(frame, 0, 12)
    left, top, width, height = tf.unstack(chunks.number(tf.reshape(head, (4, 3)), big_endian=False))
    picture = chunks.part(frame, 16, chunks.length(frame))
    extended = b"VP8X\x0a\0\0\0\x10\0\0\0" + chunks.part(frame, 6, 6)
    body = b"WEBP" + extended + picture
    # tf.strings has no way from numbers to bytes but a table of all bytes.
    size = tf.bitwise.right_shift(chunks.length(body), tf.constant([0, 8, 16, 24], tf.int64))
    size = tf.gather([bytes([i]) for i in range(256)], tf.bitwise.bitwise_and(size, 255))
    still = b"RIFF" + tf.strings.reduce_join(size) + body
    image = tf.io.decode_image(still, 0, expand_animations=False)
    canvas = chunks.number(tf.reshape(chunks.octets(data, 24, 6), (2, 3)), big_endian=False) + 1
    opacity = tf.fill(tf.shape(image[..., :1]), tf.constant(255, tf.uint8))
    image = tf.concat([image, opacity], axis=2)[..., :4]
    below, right = canvas[1] - 2 * top - height - 1, canvas[0] - 2 * left - width - 1
    return tf.pad(image, [[2 * top, below], [2 * left, right], [0, 0]])


def cut(image: tf.Tensor, window: Window | None) -> tf.Tensor:
    """The part of an image that a window names; all of it without one."""
    if window is None:
        return image
    return _cut(image, window(tf.shape(image)[:2]))


def _cut(image: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    top, left, height, width = tf.unstack(part)
    return image[top : top + height, left : left + width]
