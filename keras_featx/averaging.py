"""Exponential moving averages of the extractor's weights.

The averages are variables of the optimizer, so checkpoints hold them; the weights themselves stay
as they were trained, and :func:`averaged` puts the averages in their place for a while.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf


@dataclasses.dataclass
class Averages:
    """Averages of weights over an optimizer's updates.

    ``average += (1 - d) * (weight - average)`` after every update, beginning at the weights before
    the first. ``d`` is ``decay``, with ``warmup`` at most ``(1 + n) / (10 + n)`` at the update
    numbered ``n`` from 0, so that a short run does not keep its beginning. A weight that stays as
    it is has itself as average, bit for bit.

    Attributes:
        weights: What is averaged.
        decay: In [0, 1).
        warmup: Whether the first updates weigh more.
        variables: The averages, once an optimizer has made them.
    """

    weights: Sequence[keras.Variable]
    decay: float = 0.9999
    warmup: bool = True
    variables: list[keras.Variable] = dataclasses.field(default_factory=list)

    def build(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Make the averages, equal to the weights, among the variables of an optimizer."""
        for weight in self.weights:
            average = optimizer.add_variable_from_reference(weight, "average")
            with tf.init_scope():  # now, also while the first step is being traced
                for ours, theirs in zip(_copies(average), _copies(weight), strict=True):
                    ours.assign(theirs)
            self.variables.append(average)

    def update(self, count) -> None:
        """Take in the weights after the update numbered ``count``; within a replica."""
        rest = tf.constant(1 - self.decay, tf.float32)  # 1 - 0.9999 has three digits in float32
        if self.warmup:
            rest = tf.maximum(rest, 9 / (10 + tf.cast(count, tf.float32)))

        def approach(average, weight, rest):
            average.assign_add(rest * (weight - average))

        def everywhere(strategy, rest):
            for average, weight in zip(self.variables, self.weights, strict=True):
                arguments = (weight.value, rest)
                strategy.extended.update(average.value, approach, args=arguments, group=False)

        tf.distribute.get_replica_context().merge_call(everywhere, args=(rest,))


@contextlib.contextmanager
def averaged(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """While the block runs, the weights that an optimizer averages hold their averages.

    Evaluate and save ``best_model`` inside, ``latest`` outside. Afterwards the weights are what
    they were, bit for bit, after an exception too. Without averages nothing changes.

    Example:
        >>> import keras
        >>> from keras_featx.averaging import Averages, averaged
        >>> from keras_featx.optimizers import Momentum
        >>> weight, optimizer = keras.Variable([1.0]), Momentum(0.5)
        >>> optimizer.averages = Averages([weight], decay=0.75, warmup=False)
        >>> optimizer.apply([keras.ops.ones(1)], [weight])
        >>> with averaged(optimizer):
        ...     float(weight[0])
        0.875
        >>> float(weight[0])
        0.5
    """
    averages = getattr(getattr(optimizer, "inner_optimizer", optimizer), "averages", None)
    pairs = zip(averages.weights, averages.variables, strict=False) if averages else ()
    copies = [
        pair
        for weight, average in pairs
        for pair in zip(_copies(weight), _copies(average), strict=True)
    ]
    before = [weight.numpy() for weight, _ in copies]
    try:
        for weight, average in copies:
            weight.assign(average)
        yield
    finally:
        for (weight, _), value in zip(copies, before, strict=True):
            weight.assign(value)


def _copies(variable: keras.Variable) -> list[tf.Variable]:
    """A weight's copy on each replica. Those of batch statistics differ."""
    return list(getattr(variable.value, "values", [variable.value]))
