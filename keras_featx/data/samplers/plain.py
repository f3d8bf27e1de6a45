"""Samplers that give a batch no structure."""

import tensorflow as tf

from keras_featx.data.samplers.identities import by_identity
from keras_featx.data.samplers.order import KEY, Order, hashed, permuted
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError


def shuffle(samples: Samples, seed: int, *, batch_size: int = 256) -> Order:
    """Each pass is a new permutation; what does not fill a batch at its end waits.

    Args:
        samples: The training list (:class:`keras_featx.data.samples.Samples`).
        seed: Of the permutations, in [0, 2^31).
        batch_size: Samples per step, over all replicas.
    """
    size = len(samples)
    _check(batch_size, samples)
    steps = size // batch_size

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number = step // steps
        # The op keeps 8 bits of each word of its key for lists of up to 2^16 images: hash first.
        key = tf.random.stateless_uniform(
            [3], tf.stack([tf.constant(seed, tf.int64), number]), None, None, tf.uint32
        )
        rows = tf.raw_ops.RandomIndexShuffle(
            index=step % steps * batch_size + tf.range(batch_size, dtype=tf.int64),
            seed=key,
            max_index=tf.constant(size - 1, tf.int64),
            rounds=8,
        )
        return rows, tf.repeat(number, batch_size)

    return Order(batch_size, steps, batch)


def identity_balanced(samples: Samples, seed: int, *, batch_size: int = 256) -> Order:
    """Every identity as often as any other, however many images it has.

    A draw is identity ``i`` with probability 1 / identities, then each of its images with
    probability 1 / images of ``i``. Draws are not independent but even: of so many in a row as
    there are identities (from a multiple of that number), each is one identity's, in a new random
    order; and an identity shows all its images, in a new random order, before it shows one again.
    Images of one identity meet in a batch only by chance.

    Args:
        samples: The training list (:class:`keras_featx.data.samples.Samples`).
        seed: Of the order, in [0, 2^31).
        batch_size: Samples per step, over all replicas.

    Example:
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from keras_featx.data.samples import Samples
        >>> from keras_featx.data.samplers import identity_balanced
        >>> samples = Samples("list", list("abcd"), np.array([0, 1, 1, 1]), [1, 2, 3, 4])
        >>> order = identity_balanced(samples, 0, batch_size=2)
        >>> rows, numbers = order.batch(tf.constant(0, tf.int64))
        >>> sorted(samples.labels[rows].tolist())
        [0, 1]
    """
    _check(batch_size, samples)
    identities = by_identity(samples)
    found = tf.constant(len(identities.labels), tf.int64)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        visit = position // found
        identity = permuted(position % found, found, hashed(seed, 0, visit))
        rows = identities.images(identity, visit, 1, seed)
        return rows, visit

    return Order(batch_size, len(samples) // batch_size, batch)


def _check(batch_size: int, samples: Samples) -> None:
    if not 1 <= batch_size <= len(samples):
        raise ConfigError(
            f"{KEY}.batch_size: expected from 1 to {len(samples)} (the images of "
            f"{samples.source}), got {batch_size}"
        )
