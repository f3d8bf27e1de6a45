"""Update rules: Keras' own, and the reference's Momentum with L2 regularisation."""

import keras
import numpy as np
from keras import ops

from keras_featx import components
from keras_featx.errors import ConfigError
from keras_featx.sections import OptimizerSection

# Scales and offsets of normalisation layers; the reference does not decay them.
NOT_DECAYED = ("gamma", "beta")


def build_optimizer(
    section: OptimizerSection, epochs: int, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """The optimizer of a config, with its schedule for a run of the given length."""
    try:
        table = components.builder("schedule", section.lr.name)(
            epochs, steps_per_epoch, **section.lr.args
        )
    except ValueError as error:
        raise ConfigError(f"Optimizer.lr.{error}") from None
    rate = TableSchedule(table)
    clip = {"global_clipnorm": section.clip_norm}
    decay = section.regularizer.args["coeff"] if section.regularizer else 0.0
    if section.name == "Momentum":
        return Momentum(rate, section.momentum, section.nesterov, l2=decay, **clip)
    if section.name == "SGD":
        return keras.optimizers.SGD(rate, section.momentum, section.nesterov, **clip)
    adam = {"beta_1": section.beta_1, "beta_2": section.beta_2, "epsilon": section.epsilon, **clip}
    if section.name == "Adam":
        return AdamL2(rate, l2=decay, **adam)
    return AdamW(rate, weight_decay=section.weight_decay, **adam)


def l2(*, coeff: float) -> float:
    """L2 regularisation: ``coeff * weight`` is added to the gradient."""
    return coeff


@keras.saving.register_keras_serializable("keras_featx")
class TableSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate looked up by step; after the last entry, the last entry."""

    def __init__(self, table):
        self.table = np.asarray(table, "float32")

    def __call__(self, step):
        step = ops.minimum(ops.cast(step, "int32"), len(self.table) - 1)
        return ops.take(ops.convert_to_tensor(self.table), step)

    def get_config(self):
        return {"table": self.table.tolist()}


class _L2:
    """Adds ``l2 * weight`` to the gradient of every weight that is decayed."""

    def build(self, variables):
        # By key: `update_step` sees TensorFlow's variables, each replica's with a name of its own.
        self._decayed = {self._var_key(v) for v in variables if v.name not in NOT_DECAYED}
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        if self.l2 and self._var_key(variable) in self._decayed:
            gradient = gradient + self.l2 * ops.cast(variable, gradient.dtype)
        self._update(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable("keras_featx")
class Momentum(_L2, keras.optimizers.Optimizer):
    """Momentum with the learning rate outside the velocity, as the reference has it.

    ``v = momentum * v + gradient + l2 * weight; weight -= learning_rate * v``. Keras' SGD scales
    the gradient before it enters the velocity: trajectories differ whenever the rate changes.

    Example:
        >>> from keras_featx.optimizers import Momentum
        >>> Momentum(0.1, momentum=0.9, l2=1e-5).momentum
        0.9
    """

    def __init__(
        self, learning_rate=0.01, momentum=0.9, nesterov=False, l2=0.0, name="momentum", **kwargs
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        self.l2 = l2

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def _update(self, gradient, variable, learning_rate):
        velocity = self._velocities[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        moved = self.momentum * ops.cast(velocity, variable.dtype) + gradient
        self.assign(velocity, moved)
        step = gradient + self.momentum * moved if self.nesterov else moved
        self.assign_sub(variable, rate * step)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


@keras.saving.register_keras_serializable("keras_featx")
class AdamL2(_L2, keras.optimizers.Adam):
    """Adam (arXiv:1412.6980) with L2 regularisation in the gradient, not decoupled."""

    def __init__(self, learning_rate=0.001, l2=0.0, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = l2

    def _update(self, gradient, variable, learning_rate):
        keras.optimizers.Adam.update_step(self, gradient, variable, learning_rate)


@keras.saving.register_keras_serializable("keras_featx")
class AdamW(keras.optimizers.AdamW):
    """Adam with decoupled decay (arXiv:1711.05101) of what is decayed."""

    def build(self, variables):
        if not self.built:
            self.exclude_from_weight_decay(var_list=[v for v in variables if v.name in NOT_DECAYED])
        super().build(variables)
