"""How many pixels decoding an image would hold, by its bytes alone.

A few kilobytes can claim a thousand megapixels. Nothing is decoded here and nothing allocated by
what a file claims.
"""

import struct

import tensorflow as tf

from keras_featx.doctor.headers import read_header

_DECODED = ("JPEG", "PNG", "GIF", "BMP", "WebP")
_UNKNOWN = "Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, WebP required."
# The decoder takes a file that begins otherwise for bare data, with a size at another place.
_WEBP_STARTS = (b"VP8 ", b"VP8L", b"VP8X")


def pixels_of(data: bytes) -> int:
    """Pixels that decoding holds at once: of a GIF, those of all its frames.

    Args:
        data: An encoded image.

    Raises:
        ValueError: If it is none of the kinds that are decoded, or ends before its size.
        InvalidArgumentError: If it is a JPEG that does.

    Example:
        >>> from keras_featx.serving.headers import pixels_of
        >>> frame = b"," + bytes([0, 0, 0, 0, 3, 0, 2, 0, 0, 2, 0])
        >>> pixels_of(b"GIF89a" + bytes([3, 0, 2, 0, 0, 0, 0]) + frame + frame + b";")
        12
    """
    header = read_header(data)
    if header.format == "JPEG XL":  # TensorFlow decodes it, but its header is not read here
        raise ValueError("JPEG XL is not served. One of JPEG, PNG, GIF, BMP, WebP required.")
    if header.format not in _DECODED:
        raise ValueError(_UNKNOWN)
    if header.format == "JPEG":
        # Asks the decoder itself, which passes over bytes between segments: a file made to mislead
        # can tell another reader another size.
        height, width, _ = tf.io.extract_jpeg_shape(data).numpy().tolist()
        return height * width
    pixels = header.width * header.height
    if not pixels or (header.format == "WebP" and data[12:16] not in _WEBP_STARTS):
        raise ValueError(f"{header.format}: expected a header with the size of the image.")
    if header.format == "GIF":
        return max(pixels, _gif_frames(data))
    return max(pixels, _webp_frame(data)) if header.format == "WebP" else pixels


def _gif_frames(data: bytes) -> int:
    """Of all frames together, as the decoder holds all of them, whatever is wanted of them."""
    total, place = 0, 13 + (_colours(data[10]) if len(data) > 10 else 0)
    while place < len(data) and data[place] in (0x21, 0x2C):
        if data[place] == 0x21:
            place += 2
        elif place + 10 > len(data):
            break
        else:
            width, height = struct.unpack_from("<HH", data, place + 5)
            total += width * height
            place += 10 + _colours(data[place + 9]) + 1
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
    return total


def _colours(flags: int) -> int:
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def _webp_frame(data: bytes) -> int:
    """Of the largest frame, which may claim more than the canvas."""
    largest, place = 0, 12
    while place + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, place + 4)
        if data[place : place + 4] == b"ANMF":
            width, height = (
                int.from_bytes(data[i : i + 3], "little") + 1 for i in (place + 14, place + 17)
            )
            largest = max(largest, width * height)
        place += 8 + length + (length & 1)
    return largest
