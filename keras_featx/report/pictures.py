"""Small pictures for the pages, as addresses that hold them."""

import base64

import tensorflow as tf

from keras_featx import images
from keras_featx.data.samples import Samples, read_image


def picture_address(samples: Samples, place: int, side: int = 128) -> str:
    """An image, or its box, as a ``data:`` address of a JPEG.

    Args:
        samples: The images.
        place: Which one.
        side: Pixels of the long side. Twice what is shown is sharp on every screen, and four times
            as large.

    Raises:
        OSError: Where the file cannot be read.
        tf.errors.OpError: Where the image cannot be decoded.

    Example:
        >>> import numpy as np
        >>> from keras_featx.data.memory import from_arrays
        >>> from keras_featx.report.pictures import picture_address
        >>> samples = from_arrays(np.zeros((1, 40, 40, 3), np.uint8), [0])
        >>> picture_address(samples, 0)[:23]
        'data:image/jpeg;base64,'
    """
    if samples.pixels is not None:
        image = tf.constant(samples.pixels[place])
    else:
        image = images.decode(tf.constant(read_image(samples, place)))
    if samples.boxes is not None and samples.boxes[place].any():
        left, top, right, bottom = samples.boxes[place].tolist()
        image = image[top:bottom, left:right]
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = [max(round(scale * length), 1) for length in (height, width)]
    small = tf.image.resize(image, size, method=tf.image.ResizeMethod.AREA)
    data = tf.io.encode_jpeg(tf.saturate_cast(tf.round(small), tf.uint8), quality=80).numpy()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
