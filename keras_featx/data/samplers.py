"""Which sample comes when: pure functions of (seed, position), so that resuming is arithmetic.

A position counts samples from the first of the run. There is no shuffle buffer and no iterator
state to save.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_featx.errors import ConfigError


class Order(NamedTuple):
    """An order of samples.

    Attributes:
        batch_size: Samples per step, over all replicas.
        steps_per_pass: Full batches in one pass over the list.
        at: From a position (scalar int64 tensor) to (row of the list, number of the pass).
    """

    batch_size: int
    steps_per_pass: int
    at: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def shuffle(samples, seed: int, *, batch_size: int = 256) -> Order:
    """Each pass is a new permutation; what does not fill a batch at its end waits.

    Args:
        samples: The training list (:class:`keras_featx.data.lists.Samples`).
        seed: Of the permutations.
        batch_size: Samples per step, over all replicas.
    """
    size = len(samples)
    if not 1 <= batch_size <= size:
        raise ConfigError(
            f"DataLoader.Train.sampler.batch_size: expected from 1 to {size} (the images of "
            f"{samples.source}), got {batch_size}"
        )
    steps = size // batch_size

    def at(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number = position // (steps * batch_size)
        key = tf.stack([tf.constant(seed, tf.int64), number])
        row = tf.random.experimental.index_shuffle(
            position % (steps * batch_size),
            seed=tf.cast(key, tf.uint32),
            max_index=tf.cast(size - 1, tf.int64),
        )
        return row, number

    return Order(batch_size, steps, at)
