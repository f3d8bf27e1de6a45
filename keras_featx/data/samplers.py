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
        # The op keeps 8 bits of each word of its key for lists of up to 2^16 images: hash first.
        key = tf.random.stateless_uniform(
            [3], tf.stack([tf.constant(seed, tf.int64), number]), None, None, tf.uint32
        )
        row = tf.raw_ops.RandomIndexShuffle(
            index=position % (steps * batch_size),
            seed=key,
            max_index=tf.constant(size - 1, tf.int64),
            rounds=8,
        )
        return row, number

    return Order(batch_size, steps, at)
