"""Small encoded images for tests, and comparisons of pixels."""

import io
import struct
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image, ImageFile

from keras_featx import images
from keras_featx.sections import PreprocessSection

ImageFile.MAXBLOCK = 2**22  # Pillow's encoder fails on progressive noise with less


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


def smooth(height, width, seed=0, detail=40):
    """A picture without sharp edges: colours change within ``detail`` pixels."""
    small = Image.fromarray(noise(height // detail + 2, width // detail + 2, seed=seed))
    return np.array(small.resize((width, height), Image.BICUBIC))


def encoded(image, kind, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pillow(data, mode="RGB"):
    return np.array(Image.open(io.BytesIO(data)).convert(mode))


def decoded(data, window=None, **options):
    image = images.decode(tf.constant(data), window, **options)
    assert image.dtype == tf.uint8
    return image.numpy()


def resized(image, image_size, **preprocess):
    image = images.resize(tf.constant(image), image_size, PreprocessSection(**preprocess))
    assert image.dtype == tf.uint8
    assert image.shape == (*image_size, 3)
    return image.numpy()


def difference(ours, reference):
    assert ours.shape == reference.shape
    return np.abs(ours.astype("float64") - reference)


def windows(height, width, number, seed=0):
    """Random parts of an image, with the whole of it and single pixels."""
    rng = np.random.default_rng(seed)
    yield from [(0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1)]
    for _ in range(number):
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        yield int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w


def chunk(name, body):
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(image, bits=8, colour=2, extra=b"", after=b"", width=None):
    """A PNG of any colour type, with chunks before and after its picture.

    Of fewer than 8 bits, ``image`` holds the bytes that ``width`` pixels are packed into.
    """
    height, width = image.shape[0], width or image.shape[1]
    kind = ">u2" if bits == 16 else "u1"
    rows = b"".join(b"\0" + row.astype(kind).tobytes() for row in image)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    picture = chunk(b"IDAT", zlib.compress(rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + picture + after + chunk(b"IEND", b"")
    )


def tiff(entries, big_endian=False, first=8, count=None):
    """A TIFF block with entries (tag, type, values, four bytes or a number)."""
    order = ">" if big_endian else "<"
    block = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "I", first)
    block += b"\0" * (first - 8)
    block += struct.pack(order + "H", len(entries) if count is None else count)
    for tag, kind, values, value in entries:
        if isinstance(value, int):
            value = struct.pack(order + ("H2x" if kind == 3 else "I"), value)
        block += struct.pack(order + "HHI", tag, kind, values) + value
    return block + struct.pack(order + "I", 0)


def oriented(number, big_endian=False):
    """A TIFF block that notes an orientation, between other entries."""
    entries = [(0x0100, 3, 1, 640), (0x0112, 3, 1, number), (0x0128, 3, 1, 2)]
    return tiff(entries, big_endian)


def segment(marker, body):
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def exif_segment(block):
    return segment(0xE1, b"Exif\0\0" + block)


def into_jpeg(data, segments, after_jfif=True):
    """Segments put into a JPEG of Pillow, behind its first (JFIF) or in front of it."""
    at = 20 if after_jfif else 2
    assert data[:4] == b"\xff\xd8\xff\xe0" and data[20:22] == b"\xff\xdb"
    return data[:at] + segments + data[at:]
