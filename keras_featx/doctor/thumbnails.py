"""Small pictures for the report."""

import base64
from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_featx import images
from keras_featx.doctor.findings import Part, Ref
from keras_featx.doctor.scan import read

# Pixels of the long side; twice what is shown would be sharper and four times as large.
_SIDE = 128


def thumbnails(parts: Sequence[Part]) -> Callable[[Ref], str]:
    """From an image of these lists to a ``data:`` address; empty where there is none to show."""
    by_name = {part.name: part for part in parts}
    known: dict[tuple[str, int], str] = {}

    def thumbnail(ref: Ref) -> str:
        key = ref.part, ref.place
        if key not in known:
            known[key] = _address(by_name[ref.part], ref.place)
        return known[key]

    return thumbnail


def _address(part: Part, place: int) -> str:
    if place < 0 or not part.usable[place]:
        return ""
    samples = part.samples
    if samples.pixels is not None:
        image = tf.constant(samples.pixels[place])
    else:
        image = images.decode(tf.constant(read(samples, place)))
    if samples.boxes is not None and samples.boxes[place].any():
        left, top, right, bottom = samples.boxes[place].tolist()
        image = image[top:bottom, left:right]
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    size = [max(round(scale * side), 1) for side in (height, width)]
    small = tf.image.resize(image, size, method=tf.image.ResizeMethod.AREA)
    data = tf.io.encode_jpeg(tf.saturate_cast(tf.round(small), tf.uint8), quality=80).numpy()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
