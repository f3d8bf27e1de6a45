"""What every update rule does the same way, whichever rule it is."""

from collections.abc import Iterable, Mapping

import keras
import tensorflow as tf

from keras_featx.averaging import Averages
from keras_featx.optimizer_section import PartSection
from keras_featx.optimizers.local import LocalWeights
from keras_featx.optimizers.parts import chosen

# Scales and offsets of normalisation layers; the reference does not decay them.
NOT_DECAYED = ("gamma", "beta")


class Updates(LocalWeights):
    """Goes before a Keras optimizer: ``class Rule(Updates, keras.optimizers.SGD)``.

    The order of an update: gradients are summed over replicas, averaged over ``update_freq``
    batches, clipped, regularised, and then each weight takes the rule's step, at its own rate.
    Keras clips each replica's gradient before the sum and cannot wait for further batches under a
    mirrored strategy. ``iterations`` counts updates, not batches.

    Args:
        *args: Of the rule.
        l1: Adds ``l1 * sign(weight)`` to the gradient of every weight that is decayed.
        l2: Adds ``l2 * weight``.
        update_freq: Batches whose mean gradient makes an update.
        **kwargs: Of the rule and of :class:`keras.optimizers.Optimizer`.

    Attributes:
        averages: Moving averages to keep up to date, or ``None``; to be set before ``build``.
    """

    def __init__(self, *args, l1=0.0, l2=0.0, update_freq=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.l1, self.l2, self.update_freq = l1, l2, update_freq
        self.averages: Averages | None = None
        self._banked: dict[str, list[keras.Variable]] = {}
        self.set_parts(())

    def set_parts(
        self, parts: Iterable[PartSection], names: Mapping[str, keras.Variable] | None = None
    ) -> None:
        """Choose rates and decay by name; before ``build``. Other weights go by their path."""
        self._parts = tuple(parts)
        self._names = {id(variable): name for name, variable in (names or {}).items()}

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        # By key: `update_step` sees TensorFlow's variables, each replica's with a name of its own.
        self._factors, self._decayed = {}, set()
        for variable in variables:
            key, whole = self._var_key(variable), getattr(variable, "bank", variable)
            part = chosen(self._parts, self._names.get(id(whole), whole.path))
            self._factors[key] = part.lr_factor
            if part.weight_decay and variable.name not in NOT_DECAYED:
                self._decayed.add(key)
        if self.update_freq > 1:
            self._sums = self.add_optimizer_variables(variables, "sum")
            self._batches = self.add_variable((), dtype="int", name="batches")
        if self.averages:
            self.averages.build(self)

    def apply(self, grads, trainable_variables=None):
        variables = list(trainable_variables or self._trainable_variables)
        if not self.built:
            self.build(variables)
        grads, variables = self._filter_empty_gradients(grads, variables)
        grads = self._sum_over_replicas(grads, variables)
        if self.update_freq == 1:
            self._update(grads, variables)
            return

        def collect(strategy, grads):
            self._collect(strategy, grads, variables)

        tf.distribute.get_replica_context().merge_call(collect, args=(grads,))

    def _collect(self, strategy, gradients, variables):
        """Add a batch's gradients to the sums, and update when there are enough."""
        sums = [self._sums[self._get_variable_index(v)].value for v in variables]
        for total, gradient in zip(sums, gradients, strict=True):
            strategy.extended.update(total, self.assign_add, args=(gradient,), group=False)
        self._batches.assign_add(1)

        def update():
            self._update([total / self.update_freq for total in sums], variables)

        def update_everywhere():
            strategy.extended.call_for_each_replica(update)
            for variable in (*sums, self._batches):
                variable.assign(tf.zeros(variable.shape, variable.dtype))

        # Here, outside of the replicas, as a branch of theirs could not meet the others.
        tf.cond(self._batches >= self.update_freq, update_everywhere, lambda: None)

    def _update(self, gradients, variables):
        count = tf.identity(self.iterations)
        super().apply(gradients, variables)
        if self.averages:
            self.averages.update(count)

    def update_step(self, gradient, variable, learning_rate):
        key = self._var_key(variable)
        rate = tf.cast(learning_rate, variable.dtype) * self._factors[key]
        if key in self._decayed:
            gradient = self._regularised(gradient, variable)
            self._decay(variable, rate)
        super().update_step(gradient, variable, rate)

    def _regularised(self, gradient, variable):
        if self.l2:
            gradient = gradient + self.l2 * tf.cast(variable, gradient.dtype)
        if self.l1:
            gradient = gradient + self.l1 * tf.sign(tf.cast(variable, gradient.dtype))
        return gradient

    def _decay(self, variable, rate):
        """Decoupled weight decay (arXiv:1711.05101)."""
        if self.weight_decay:
            self.assign_sub(variable, self.weight_decay * rate * variable)

    def _apply_weight_decay(self, variables):
        """Nothing: `update_step` knows each weight's own rate."""

    def get_config(self):
        own = {"l1": self.l1, "l2": self.l2, "update_freq": self.update_freq}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_featx")
class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras' dynamic loss scale for float16, for several replicas and exact resuming.

    A step whose gradients are not finite is left out on every replica; it counts neither as an
    update nor as one of ``update_freq`` batches.
    """

    def build(self, variables):
        if not self.built:  # Keras' would begin again with the initial scale
            with keras.name_scope(self.name, caller=self):  # so that names are always the same
                super().build(variables)

    def check_finite(self, grads):
        """Whether the gradients of all replicas are finite; Keras asks the first one only."""
        strange = tf.cast(~super().check_finite(grads), tf.float32)
        replica = tf.distribute.get_replica_context()
        return tf.equal(replica.all_reduce(tf.distribute.ReduceOp.SUM, strange), 0)
