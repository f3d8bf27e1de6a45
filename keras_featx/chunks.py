"""Finding a block of an image file in a TensorFlow graph: JPEG segments, PNG and RIFF chunks.

Sizes in a file are claims: whatever they say, nothing outside the file is read, and every search
ends after a bounded number of steps. What is not found is an empty string.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

FILE = tf.TensorSpec((), tf.string)

# A search gives up after so many. A JPEG has few segments before its picture; a PNG has its
# picture in pieces of often 8 KB.
MAX_SEGMENTS = 256
MAX_CHUNKS = 4096

# The first bytes of a segment as (values, bits that matter).
_SEGMENTS = (
    (b"\xff\xe1\0\0Exif\0\0", b"\xff\xff\0\0\xff\xff\xff\xff\xff\xff"),
    (b"\xff\xe0", b"\xff\xf0"),  # APP0 to APP15
    (b"\xff\xfe", b"\xff\xff"),  # a comment
    (b"\xff\xff", b"\xff\xff"),  # a byte that only fills up
)


def apart(*signature: tf.TensorSpec) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a function of tensors becomes a single node of the graph around it.

    Every node costs a little even in a branch that is not taken: rare and large ones hide in one.
    """
    return functools.partial(
        tf.function,
        input_signature=signature,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def number(octets: tf.Tensor, big_endian: bool | tf.Tensor) -> tf.Tensor:
    """Unsigned integers from the last axis of uint8 ``(..., bytes)``: int64 ``(...)``."""
    powers = [256**i for i in range(octets.shape[-1])]
    places = tf.where(big_endian, tf.constant(powers[::-1], tf.int64), powers)
    return tf.reduce_sum(tf.cast(octets, tf.int64) * places, axis=-1)


def part(data: tf.Tensor, start: tf.Tensor | int, size: tf.Tensor | int) -> tf.Tensor:
    """What there is of ``size`` bytes from ``start``: a scalar string, perhaps shorter."""
    start = tf.minimum(tf.cast(start, tf.int64), length(data))
    return tf.strings.substr(data, start, tf.cast(size, tf.int64))


def octets(data: tf.Tensor, start: tf.Tensor | int, size: int) -> tf.Tensor:
    """``size`` bytes from ``start`` as uint8 ``(size,)``; zeros stand for what is not there."""
    return tf.io.decode_raw(part(data, start, size), tf.uint8, fixed_length=size)


def length(data: tf.Tensor) -> tf.Tensor:
    """Bytes of a scalar string, int64."""
    return tf.cast(tf.strings.length(data), tf.int64)


def matches(head: tf.Tensor, patterns: Sequence[tuple[bytes, bytes]]) -> tf.Tensor:
    """Which patterns the bytes fit: bool ``(patterns,)``.

    Args:
        head: uint8 ``(bytes,)``.
        patterns: (values, bits that matter) of the first bytes; a pattern may be shorter.
    """
    size = head.shape[0]
    values, masks = (
        tf.constant([list(pattern[i].ljust(size, b"\0")) for pattern in patterns], tf.uint8)
        for i in (0, 1)
    )
    return tf.reduce_all(tf.equal(tf.bitwise.bitwise_and(head, masks), values), axis=1)


def jpeg_exif(data: tf.Tensor) -> tf.Tensor:
    """What the first Exif segment holds, among the application segments and comments in front."""

    def is_searching(position, size, found):
        return (size > 0) & ~found

    def step(position, size, found):
        position += size
        head = octets(data, position, 10)
        exif, application, comment, filler = tf.unstack(matches(head, _SEGMENTS))
        claimed = number(head[2:4], big_endian=True)
        # A segment shorter than its own size field is none; 0 ends the search.
        size = tf.where((application | comment) & (claimed >= 2), claimed + 2, 0)
        return position, tf.where(filler, tf.constant(1, tf.int64), size), exif & (claimed > 8)

    position, size, found = tf.while_loop(
        is_searching,
        step,
        (tf.constant(0, tf.int64), tf.constant(2, tf.int64), tf.constant(False)),
        maximum_iterations=MAX_SEGMENTS,
        parallel_iterations=1,
    )
    return tf.where(found, part(data, position + 10, tf.where(found, size - 10, 0)), b"")


def png_chunk(data: tf.Tensor, name: bytes) -> tf.Tensor:
    """What the first chunk of that name holds; its checksum is not looked at."""
    return _chunk(data, name, 8, riff=False)


def riff_chunk(data: tf.Tensor, name: bytes, start: int = 12) -> tf.Tensor:
    """What the first chunk of that name holds, from the chunk at ``start`` on."""
    return _chunk(data, name, start, riff=True)


def _chunk(data: tf.Tensor, name: bytes, start: int, riff: bool) -> tf.Tensor:
    """PNG: size, name, body, checksum. RIFF: name, size (low byte first), body of even size."""
    end = length(data)
    wanted = tf.constant(list(name), tf.uint8)

    def is_searching(position, size, found):
        return ~found & (position + 8 <= end)

    def step(position, size, found):
        head = octets(data, position, 8)
        found = tf.reduce_all(tf.equal(head[:4] if riff else head[4:], wanted))
        size = number(head[4:] if riff else head[:4], big_endian=not riff)
        beyond = position + 8 + size + (size % 2 if riff else 4)
        return tf.where(found, position, beyond), size, found

    position, size, found = tf.while_loop(
        is_searching,
        step,
        (tf.constant(start, tf.int64), tf.constant(0, tf.int64), tf.constant(False)),
        maximum_iterations=MAX_CHUNKS,
        parallel_iterations=1,
    )
    return part(data, position + 8, tf.where(found, size, 0))
