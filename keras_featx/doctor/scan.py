"""Every image read once: whether it can be decoded, and what it is like."""

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_featx import images
from keras_featx.data import faults
from keras_featx.data.samples import Samples, read_image
from keras_featx.doctor.headers import Header, format_of_name, read_header
from keras_featx.doctor.options import Limits
from keras_featx.progress import progress

# Cells a side of the small picture that likeness is first judged by.
CELLS = 8
_AT_A_TIME = 64
# More than this is not decoded: three bytes a pixel, and no photograph.
_MOST_PIXELS = 400e6
_ONE_LARGE_AT_A_TIME = threading.Lock()
_TRACING = threading.Lock()


@dataclass(frozen=True)
class Scan:
    """What was seen of each image.

    Attributes:
        usable: bool ``(images,)``: it can be decoded.
        digests: uint8 ``(images, 20)``: SHA-1 of the content, and of the box where there is one.
        pictures: uint8 ``(images, CELLS, CELLS, 3)``: mean colours of its cells.
        sizes: int64 ``(images, 2)``: height and width; zeros where they are not known.
        bytes: int64 ``(images,)``.
        formats: Of each image.
        faults: (place, kind, what): everything worth telling.
    """

    usable: np.ndarray
    digests: np.ndarray
    pictures: np.ndarray
    sizes: np.ndarray
    bytes: np.ndarray
    formats: np.ndarray
    faults: list[tuple[int, str, str]]


def scan(samples: Samples, limits: Limits, what: str = "reading") -> Scan:
    """Read every image, on all cores.

    Args:
        samples: The images.
        limits: Of very small and very large.
        what: For the progress bar.
    """
    size = len(samples)
    found = Scan(
        np.zeros(size, bool),
        np.zeros((size, 20), np.uint8),
        np.zeros((size, CELLS, CELLS, 3), np.uint8),
        np.zeros((size, 2), np.int64),
        np.zeros(size, np.int64),
        np.full(size, "", "U12"),
        [],
    )

    def look(first: int) -> list[tuple[int, str, str]]:
        places = range(first, min(first + _AT_A_TIME, size))
        return [(i, *fault) for i in places for fault in _look_at(samples, i, limits, found)]

    firsts = range(0, size, _AT_A_TIME)
    with ThreadPoolExecutor() as pool:
        for told in progress(pool.map(look, firsts), total=len(firsts), what=what):
            found.faults.extend(told)
    return found


def picture(samples: Samples, place: int, cells: int) -> np.ndarray:
    """Mean colours of the cells of a usable image: uint8 ``(cells, cells, 3)``."""
    box = _box(samples, place)
    if samples.pixels is not None:
        return _shrink(tf.constant(samples.pixels[place]), tf.constant(box), cells)[1].numpy()
    return _looker(cells)(tf.constant(read_image(samples, place)), tf.constant(box))[1].numpy()


def _look_at(samples: Samples, place: int, limits: Limits, found: Scan) -> Iterable[tuple]:
    """Fill in a row of the scan; the faults as (kind, what)."""
    box = _box(samples, place)
    if samples.pixels is not None:
        pixels = np.ascontiguousarray(samples.pixels[place])
        told = _decode(samples, place, pixels, box, found, lambda *x: _shrink(*x, CELLS))
        _note_digest(found, place, str(pixels.shape).encode() + pixels.tobytes(), box)
        return told + _size_faults(found, place, box, limits)
    try:
        samples.paths[place].encode()  # as TensorFlow will
        data = read_image(samples, place)
    except UnicodeEncodeError:
        return [("unreadable_files", "expected a name in UTF-8")]
    except OSError as error:
        return [("unreadable_files", str(error.strerror))]
    if not data:
        return [("empty_files", "the file is empty")]
    header = read_header(data)
    _note_digest(found, place, data, box)
    found.bytes[place] = len(data)
    found.formats[place] = header.format
    found.sizes[place] = header.height, header.width
    pixels = header.width * header.height
    if pixels > _MOST_PIXELS:
        claim = f"says it is {header.width} x {header.height} pixels, too large to be decoded"
        return [("undecodable", claim)]
    with _ONE_LARGE_AT_A_TIME if pixels > limits.large * 1e6 else contextlib.nullcontext():
        bad = _decode(samples, place, data, box, found, _looker(CELLS))
    if bad and bad[0][0] == "undecodable":
        return [_undecodable(bad[0][1], header)]
    return _header_faults(samples, place, header) + bad + _size_faults(found, place, box, limits)


def _decode(samples, place, image, box, found: Scan, look: Callable) -> list[tuple[str, str]]:
    try:
        size, small = look(tf.constant(image), tf.constant(box))
    except tf.errors.OpError as error:
        reason = faults.reason_of(samples, place)  # as training would say it
        return [("undecodable", reason or error.message.splitlines()[0])]
    found.sizes[place] = size
    height, width = size.numpy().tolist()
    if box[2] > width or box[3] > height:
        what = f"the box {box.tolist()} leaves the image of {width} x {height} pixels"
        return [("boxes_outside", what)]
    found.pictures[place] = small
    found.usable[place] = True
    return []


def _looker(cells: int) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """From an encoded image and its box to its size and the mean colours of its cells."""
    with _TRACING:  # once, whichever thread comes first
        return _traced(cells)


@functools.cache
def _traced(cells: int) -> Callable:
    look = tf.function(lambda data, box: _shrink(images.decode(data), box, cells))
    return look.get_concrete_function(tf.TensorSpec((), tf.string), tf.TensorSpec((4,), tf.int32))


def _shrink(image: tf.Tensor, box: tf.Tensor, cells: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Size of an image, and mean colours of the cells of its box."""
    size = tf.shape(image)[:2]
    left, top, right, bottom = tf.unstack(box)
    inside = (right > 0) & (right <= size[1]) & (bottom <= size[0])
    part = tf.cond(inside, lambda: image[top:bottom, left:right], lambda: image)
    small = tf.image.resize(part, (cells, cells), method=tf.image.ResizeMethod.AREA)
    return size, tf.saturate_cast(tf.round(small), tf.uint8)


def _box(samples: Samples, place: int) -> np.ndarray:
    box = np.zeros(4, np.int32)
    return box if samples.boxes is None else samples.boxes[place].astype(np.int32)


def _note_digest(found: Scan, place: int, data: bytes, box: np.ndarray) -> None:
    digest = hashlib.sha1(data, usedforsecurity=False)
    if box.any():  # other parts of one file are other images
        digest.update(box.tobytes())
    found.digests[place] = np.frombuffer(digest.digest(), np.uint8)


def _undecodable(reason: str, header: Header) -> tuple[str, str]:
    if header.width and not header.complete:
        return "truncated", f"the {header.format} ends early"
    if header.format and not header.width:
        article = "an" if header.format[0] in "AHI" else "a"
        return "undecodable", f"{article} {header.format} file, which is not decoded"
    return "undecodable", reason


def _header_faults(samples: Samples, place: int, header: Header) -> list[tuple[str, str]]:
    told = []
    named = format_of_name(samples.paths[place]) if samples.spans is None else ""
    if named and header.format and header.format != named:
        told.append(("wrong_extensions", f"{header.format}, named as {named}"))
    if header.cmyk:
        told.append(("cmyk", "four colour channels"))
    if header.bits > 8:
        told.append(("sixteen_bit", f"{header.bits} bits a channel"))
    if header.frames > 1:
        told.append(("animated", f"{header.frames} frames"))
    if header.orientation != 1:
        told.append(("exif_rotated", f"EXIF orientation {header.orientation}"))
    return told


def _size_faults(found: Scan, place: int, box: np.ndarray, limits: Limits) -> list[tuple[str, str]]:
    if not found.usable[place]:
        return []
    height, width = found.sizes[place].tolist()
    told = []
    if height * width > limits.large * 1e6:
        told.append(("very_large", f"{width} x {height} pixels: above {limits.large:g} megapixels"))
    what = "image"
    if box.any():
        what, width, height = "box", int(box[2] - box[0]), int(box[3] - box[1])
    if min(height, width) < limits.small:
        below = f"{what} of {width} x {height} pixels: a side below {limits.small}"
        told.append(("very_small", below + limits.why_small))
    return told
