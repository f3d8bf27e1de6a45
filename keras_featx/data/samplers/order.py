"""What a sampler is, and the counter-based randomness under all of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

KEY = "DataLoader.Train.sampler"
# After r rounds a number is where it began with probability 2^-r, else anywhere.
ROUNDS = 24


class Order(NamedTuple):
    """An order of samples.

    Attributes:
        batch_size: Samples per step, over all replicas.
        steps_per_pass: Full batches in as many samples as the list has; at least 1.
        batch: From a step of the run (scalar int64 tensor, from 0) to the rows of the list in
            that step's batch and a number for each, both int64 ``(batch_size,)``. A row never
            comes twice with the same number, which is below 2^32: together they seed the
            augmentation. The function reads what :attr:`refresh` was given last when it is
            traced, so a dataset keeps the table it was built with.
        refresh: Takes the class centres, ``(classes, embedding_size)``, at the start of an
            epoch, before its dataset is built. ``None`` where batches do not depend on them.
    """

    batch_size: int
    steps_per_pass: int
    batch: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    refresh: Callable[[np.ndarray], None] | None = None


def hashed(*parts: tf.Tensor | int) -> tf.Tensor:
    """A random number for each combination of integers: int64 in [0, 2^63), of their joint shape.

    The finalizer of SplitMix64 (doi:10.1145/2660193.2660195), part by part. Samplers give the seed
    first, then a number of their own for each use, so that no two choices share a random number.

    Example:
        >>> from keras_featx.data.samplers.order import hashed
        >>> bool(hashed(1, 2) == hashed(1, 2)), bool(hashed(1, 2) == hashed(2, 1))
        (True, False)
    """
    return _signed(_words(*parts))


def permuted(place: tf.Tensor, size: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """What a random permutation of ``range(size)`` has at each place, without making it.

    The swap-or-not shuffle (doi:10.1007/978-3-642-32009-5_1): a round pairs up all numbers and
    swaps each pair or not. TensorFlow's op for this (``RandomIndexShuffle``) takes 0.1 ms where
    ``size`` is about 5, as the images of an identity often are.

    Args:
        place: int64 ``(n,)``, each in [0, size).
        size: int64, one for all or ``(n,)``.
        key: Chooses the permutation: from :func:`hashed`, one for all or ``(n,)``.

    Returns:
        int64 ``(n,)``.

    Example:
        >>> import tensorflow as tf
        >>> from keras_featx.data.samplers.order import hashed, permuted
        >>> places = tf.range(5, dtype=tf.int64)
        >>> sorted(permuted(places, tf.constant(5, tf.int64), hashed(7)).numpy().tolist())
        [0, 1, 2, 3, 4]
    """
    sums, factors, offsets = tf.split(_words(key, tf.range(3 * ROUNDS)[:, None]), 3)
    draws = _signed(sums) % size, factors, offsets
    half = _word(2**63)
    # Unrolled: a loop of the graph runs half as fast.
    for total, factor, offset in zip(*(tf.unstack(d, ROUNDS) for d in draws), strict=True):
        partner = (total - place) % size
        high = tf.cast(tf.maximum(place, partner), tf.uint64)
        # The highest bit of a random line: fair, and independent for any two pairs.
        place = tf.where(factor * high + offset >= half, partner, place)
    return place


def _words(*parts: tf.Tensor | int) -> tf.Tensor:
    step, one, other = map(_word, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    state = tf.constant(0, tf.uint64)
    for part in parts:
        state += tf.cast(part, tf.uint64) + step
        state = _mixed(state, 30) * one
        state = _mixed(state, 27) * other
        state = _mixed(state, 31)
    return state


def _signed(words: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.bitwise.right_shift(words, _word(1)), tf.int64)


def _mixed(state: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _word(bits)))


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
