"""Pictures of a gallery's items and of queries, where there are any; an empty frame where not."""

import os
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import tensorflow as tf

from keras_featx import images
from keras_featx.data import files
from keras_featx.data.memory import from_arrays, rgb
from keras_featx.errors import ConfigError
from keras_featx.gallery.regions import check_boxes
from keras_featx.gallery.sources import BOX, PATH
from keras_featx.report.page import text
from keras_featx.report.pictures import picture_address

# Pixels of the long side of a small picture.
SIDE = 160


def pixels_of(image: Any, box: Any = None) -> np.ndarray | None:
    """An image, or its part in a box, uint8 ``(height, width, 3)``; ``None`` where there is none.

    Args:
        image: A file, which may be missing or no image; or pixels.
        box: Left, top, right, bottom in pixels of the upright image.
    """
    try:
        if isinstance(image, str | os.PathLike):
            path = os.fspath(image)
            if not files.is_file(path):  # nor a device, which might never end
                return None
            pixels = images.decode(tf.constant(files.read_bytes(path))).numpy()
        else:
            pixels = rgb(image, "image")
        if box is None:
            return pixels
        ((left, top, right, bottom),) = check_boxes([box], pixels.shape[:2], "image").tolist()
    except (OSError, tf.errors.OpError, ConfigError):
        return None
    return pixels[top:bottom, left:right]


def small(pixels: np.ndarray | None, side: int = 2 * SIDE) -> np.ndarray | None:
    """Pixels, fewer where there are many more than a small picture shows."""
    if pixels is None or max(pixels.shape[:2]) <= side:
        return pixels
    size = [max(1, round(side * length / max(pixels.shape[:2]))) for length in pixels.shape[:2]]
    shrunk = tf.image.resize(pixels, size, method=tf.image.ResizeMethod.AREA)
    return tf.saturate_cast(tf.round(shrunk), tf.uint8).numpy()


def item_pixels(metadata: Mapping[str, Any]) -> np.ndarray | None:
    """The image that an item of a gallery was embedded from, where it is still there."""
    path = metadata.get(PATH)
    return pixels_of(path, metadata.get(BOX)) if isinstance(path, str) else None


def name_of(image: Any, place: int) -> str:
    """What to call an image: the end of its path; of pixels, its place."""
    if isinstance(image, str | os.PathLike):
        return "/".join(PurePath(image).parts[-2:])
    return f"image {place + 1}"


def html_picture(pixels: np.ndarray | None, title: str, side: int = SIDE) -> str:
    """Pixels as HTML; without any, an empty frame with the title in it."""
    if pixels is None:
        return f'<span class="picture" title="{text(title)}">{text(title)}</span>'
    address = picture_address(from_arrays(pixels[None], [0]), 0, side)
    return f'<img class="picture" src="{address}" alt="{text(title)}" title="{text(title)}"/>'


def item_pictures() -> Callable[[str, Mapping[str, Any]], str]:
    """From the id and the metadata of an item to HTML; each is made once."""
    known: dict[str, str] = {}

    def picture(name: str, metadata: Mapping[str, Any]) -> str:
        if name not in known:
            known[name] = html_picture(item_pixels(metadata), name)
        return known[name]

    return picture
