"""OpenCV's resizing of 8-bit images in a TensorFlow graph, to the bit where it says so.

For networks trained on ``cv2.resize``: a tenth of its bilinear pixels differ by one grey level from
rounded exact values. Its weights are whole multiples of 1/2048, and what it drops when it shortens
numbers is dropped here. Checked against OpenCV 4.11 on x86.
"""

import tensorflow as tf

_ONE = 2048.0  # 11 bits


def resize(image: tf.Tensor, size: tuple[int, int] | tf.Tensor, interpolation: str) -> tf.Tensor:
    """Resize as ``cv2.resize`` does.

    Args:
        image: uint8 ``(height, width, channels)``.
        size: (height, width) wanted.
        interpolation: ``nearest``, ``bilinear`` (INTER_LINEAR) and ``area`` are equal to OpenCV,
            ``bicubic`` (a = -0.75) within one grey level.

    Returns:
        uint8 ``(*size, channels)``.
    """
    size = tf.convert_to_tensor(size, tf.int32)
    source = tf.shape(image)[:2]
    if interpolation == "area":
        return tf.cond(
            tf.reduce_all(source >= size),
            lambda: _area(image, source, size),
            lambda: _linear(image, source, size, _area_positions),
        )
    if interpolation == "nearest":
        rows, columns = (_nearest_positions(source[i], size[i]) for i in (0, 1))
        return tf.gather(tf.gather(image, rows), columns, axis=1)
    if interpolation == "bicubic":
        return _cubic(image, source, size)
    return _linear(image, source, size, _linear_positions)


def _scale(source: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Source pixels a target pixel, through the inverse as OpenCV has it: float64."""
    return 1.0 / (tf.cast(size, tf.float64) / tf.cast(source, tf.float64))


def _nearest_positions(source: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    positions = tf.floor(
        tf.range(tf.cast(size, tf.float64), dtype=tf.float64) * _scale(source, size)
    )
    return tf.minimum(tf.cast(positions, tf.int32), source - 1)


def _linear_positions(source: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The pixel before each target pixel's centre, int32, and how far behind it, float32."""
    target = tf.range(tf.cast(size, tf.float64), dtype=tf.float64)
    position = tf.cast((target + 0.5) * _scale(source, size) - 0.5, tf.float32)
    first = tf.floor(position)
    return tf.cast(first, tf.int32), position - first


def _area_positions(source: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The same for an area where pixels become larger."""
    target = tf.range(tf.cast(size, tf.float64), dtype=tf.float64)
    first = tf.floor(target * _scale(source, size))
    inverse = tf.cast(size, tf.float64) / tf.cast(source, tf.float64)
    behind = tf.cast(target + 1 - (first + 1) * inverse, tf.float32)
    behind = tf.where(behind <= 0, 0.0, behind - tf.floor(behind))
    return tf.cast(first, tf.int32), behind


def _whole(weights: tf.Tensor) -> tf.Tensor:
    """Weights as multiples of 1/2048, int32."""
    return tf.cast(tf.round(weights * _ONE), tf.int32)


def _shift(numbers: tf.Tensor, bits: int) -> tf.Tensor:
    """Division by a power of two, cut off; far faster than ``//``."""
    return tf.bitwise.right_shift(numbers, bits)


def _linear(image, source, size, positions) -> tf.Tensor:
    top, below = positions(source[0], size[0])
    left, behind = positions(source[1], size[1])
    # Beyond its first and last pixel a row keeps their values; a column, whose weights stay,
    # loses a little more in rounding.
    outside = (left < 0) | (left >= source[1] - 1)
    behind = tf.where(outside, 0.0, behind)
    left = tf.clip_by_value(left, 0, source[1] - 1)
    right = tf.minimum(left + 1, source[1] - 1)
    channels = tf.shape(image)[2]
    # Rows of numbers instead of pixels: products with a row or a column of weights are fast.
    first, second = (tf.repeat(_whole(w), channels) for w in (1 - behind, behind))

    def row(offset: int, weight: tf.Tensor) -> tf.Tensor:
        pixels = tf.gather(image, tf.clip_by_value(top + offset, 0, source[0] - 1))
        across = _numbers(pixels, left) * first + _numbers(pixels, right) * second
        return _shift(_shift(across, 4) * _whole(weight)[:, None], 16)

    total = row(0, 1 - below) + row(1, below) + 2
    return tf.reshape(tf.cast(_shift(total, 2), tf.uint8), tf.concat([size, [channels]], axis=0))


def _numbers(pixels: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Some columns of an image, int32 ``(height, columns * channels)``."""
    chosen = tf.gather(pixels, columns, axis=1)
    return tf.cast(tf.reshape(chosen, tf.stack([tf.shape(pixels)[0], -1])), tf.int32)


def _cubic(image, source, size) -> tf.Tensor:
    def taps(axis: int) -> list[tuple[tf.Tensor, tf.Tensor]]:
        first, x = _linear_positions(source[axis], size[axis])
        a = -0.75
        weights = [
            ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a,
            ((a + 2) * x - (a + 3)) * x * x + 1,
            ((a + 2) * (1 - x) - (a + 3)) * (1 - x) * (1 - x) + 1,
        ]
        weights.append(1 - weights[0] - weights[1] - weights[2])
        return [
            (tf.clip_by_value(first + i - 1, 0, source[axis] - 1), _whole(weight))
            for i, weight in enumerate(weights)
        ]

    total, channels = 0.0, tf.shape(image)[2]
    columns = [(column, tf.repeat(weight, channels)) for column, weight in taps(1)]
    for row, down in reversed(taps(0)):  # the order in which float32 sums are equal
        pixels = tf.gather(image, row)
        across = sum(_numbers(pixels, column) * weight for column, weight in columns)
        total += tf.cast(across, tf.float32) * (tf.cast(down, tf.float32)[:, None] / _ONE**2)
    rounded = tf.saturate_cast(tf.round(total), tf.uint8)
    return tf.reshape(rounded, tf.concat([size, [channels]], axis=0))


def _area(image, source, size) -> tf.Tensor:
    count = source // size
    return tf.cond(
        tf.reduce_all(count * size == source),
        lambda: _whole_areas(image, size, count),
        lambda: _areas(image, source, size),
    )


def _whole_areas(image, size, count) -> tf.Tensor:
    """Means of whole pixels: added up, times the inverse in float32; of 2x2, halves go up."""
    mean = tf.image.resize(image, size, method=tf.image.ResizeMethod.AREA)
    pixels = tf.cast(tf.reduce_prod(count), tf.float32)
    total = tf.round(mean * pixels)
    rounded = tf.where(
        tf.reduce_all(count == 2), tf.floor((total + 2) / 4), tf.round(total * (1 / pixels))
    )
    return tf.cast(rounded, tf.uint8)


def _areas(image, source, size) -> tf.Tensor:
    """Weights and sums are float32, added in the order of the pixels, columns first."""
    total = image
    for axis in (1, 0):
        first, weights = _overlaps(source[axis], size[axis])
        total = _weighted(total, first, weights, axis)
    return tf.cast(tf.round(total), tf.uint8)


def _overlaps(source: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first pixel under each target pixel, and what it and those behind it count for.

    Returns:
        int32 ``(size,)`` and float32 ``(size, taps)``.
    """
    scale, length = _scale(source, size), tf.cast(source, tf.float64)
    start = tf.range(tf.cast(size, tf.float64), dtype=tf.float64) * scale
    stop = start + scale
    covered = tf.minimum(scale, length - start)
    last = tf.minimum(tf.floor(stop), length - 1)
    first = tf.minimum(tf.math.ceil(start), last)  # the first that is wholly covered
    # Slivers of less than a thousandth of a pixel are left out.
    before = tf.where(first - start > 1e-3, first - start, 0)
    behind = tf.where(stop - last > 1e-3, tf.minimum(tf.minimum(stop - last, 1), covered), 0)
    pixels = first[:, None] + tf.range(tf.reduce_max(last - first) + 1, dtype=tf.float64)
    shares = tf.where(pixels < last[:, None], tf.ones_like(pixels), 0)
    shares = tf.where(pixels == last[:, None], behind[:, None], shares)
    shares = tf.concat([before[:, None], shares], axis=1) / covered[:, None]
    return tf.cast(first, tf.int32) - 1, tf.cast(shares, tf.float32)


def _weighted(image, first, weights, axis: int) -> tf.Tensor:
    """Sums along an axis, one tap after the other."""
    last = tf.shape(image)[axis] - 1
    shape = (-1, 1, 1) if axis == 0 else (-1, 1)

    def tap(i: tf.Tensor) -> tf.Tensor:
        pixels = tf.gather(image, tf.clip_by_value(first + i, 0, last), axis=axis)
        return tf.cast(pixels, tf.float32) * tf.reshape(weights[:, i], shape)

    return tf.while_loop(
        lambda i, total: i < tf.shape(weights)[1],
        lambda i, total: (i + 1, total + tap(i)),
        (tf.constant(1), tap(tf.constant(0))),
        shape_invariants=(tf.TensorShape(()), tf.TensorShape((None, None, None))),
        parallel_iterations=1,
    )[1]
