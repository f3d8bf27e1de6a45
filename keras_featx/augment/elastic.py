"""Smooth bending."""

import tensorflow as tf

from keras_featx.augment.common import (
    Augmentation,
    as_floats,
    check_probability,
    check_within,
    other_seed,
)


def random_elastic(
    *, probability: float = 1.0, amount: float = 0.03, grid: int = 3, fill: float = 255.0
) -> Augmentation:
    """Bend the image smoothly, as one hand writes a letter differently from another.

    Displacements are normal on a coarse grid, bicubic between, and the pixels bilinear
    (arXiv:1505.04597, section 3.1).

    Args:
        probability: Of bending at all.
        amount: Standard deviation of the displacement at a node, as a fraction of the side; above
            a tenth or so the image folds over itself.
        grid: Nodes along each side.
        fill: Value around the image.
    """
    check_probability(probability)
    check_within("amount", amount, 0, 1)
    check_within("grid", grid, 2, 64)
    check_within("fill", fill, 0, 255)

    def bend(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        def bent():
            size = tf.shape(image)[:2]
            nodes = tf.random.stateless_normal([grid, grid, 2], other_seed(seed))
            moves = tf.image.resize(nodes, size, "bicubic") * amount * tf.cast(size, tf.float32)
            rows, columns = tf.meshgrid(tf.range(size[0]), tf.range(size[1]), indexing="ij")
            return _bilinear_at(
                image, tf.cast(tf.stack([rows, columns], -1), tf.float32) + moves, fill
            )

        draw = tf.random.stateless_uniform([], seed)
        return tf.cond(draw < probability, bent, lambda: image)

    return as_floats(bend)


def _bilinear_at(image: tf.Tensor, places: tf.Tensor, fill: float) -> tf.Tensor:
    """Pixels at (row, column) of ``places``, float32 ``(height, width, 2)``."""
    size = tf.shape(image)[:2]
    # One pixel of the fill all around; what is farther out is the fill as well.
    padded = tf.pad(image, [[1, 1], [1, 1], [0, 0]], constant_values=fill)
    places = tf.clip_by_value(places + 1, 0, tf.cast(size + 1, tf.float32))
    first = tf.minimum(tf.cast(places, tf.int32), size)
    down, right = tf.split(places - tf.cast(first, tf.float32), 2, -1)

    def pixels(row: int, column: int) -> tf.Tensor:
        return tf.gather_nd(padded, first + [row, column])

    upper = pixels(0, 0) * (1 - right) + pixels(0, 1) * right
    lower = pixels(1, 0) * (1 - right) + pixels(1, 1) * right
    return upper * (1 - down) + lower * down
