"""Optimizer classes: Keras' with what all rules do here, and two of our own."""

import keras
import tensorflow as tf
from keras import ops

from keras_featx import distribute
from keras_featx.optimizers.updates import Updates


class _Momentum(keras.optimizers.Optimizer):
    def __init__(self, learning_rate=0.01, momentum=0.9, nesterov=False, name="momentum", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        # In place: a large head has no room for copies of its centres.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self._velocity(variable).handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            momentum=self.momentum,
            use_nesterov=self.nesterov,
        )

    def _velocity(self, variable):
        return self._velocities[self._get_variable_index(variable)].value

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


@keras.saving.register_keras_serializable("keras_featx")
class Momentum(Updates, _Momentum):
    """Momentum with the learning rate outside the velocity, as the reference has it.

    ``v = momentum * v + gradient; weight -= learning_rate * v``. Keras' SGD scales the gradient
    before it enters the velocity: trajectories differ whenever the rate changes.

    Example:
        >>> from keras_featx.optimizers import Momentum
        >>> Momentum(0.1, momentum=0.9, l2=1e-5).momentum
        0.9
    """

    def _regularised(self, gradient, variable):
        if self.l1 or self.nesterov or not self.momentum:
            return super()._regularised(gradient, variable)
        # Into the velocity instead of the gradient, which comes to the same, in place.
        tf.raw_ops.ResourceApplyGradientDescent(
            var=self._velocity(variable).handle,
            alpha=tf.cast(-self.l2 / self.momentum, variable.dtype),
            delta=tf.convert_to_tensor(variable),
        )
        return gradient


def _norm(x, variable):
    """The norm of a weight or its step, over all replicas where it is split over them."""
    if not distribute.is_local(variable):
        return tf.norm(x)
    if variable.rows is not None:  # the last part may have rows to spare
        x = x[: max(variable.rows - distribute.replica()[0] * variable.shape[0], 0)]
    return tf.sqrt(distribute.sum_over_replicas(tf.reduce_sum(tf.square(x))))


class _Lamb(keras.optimizers.Lamb):
    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        self.assign_add(mean, (1 - self.beta_1) * (gradient - mean))
        self.assign_add(square, (1 - self.beta_2) * (ops.square(gradient) - square))
        count = ops.cast(self.iterations + 1, variable.dtype)
        mean = mean / (1 - ops.power(self.beta_1, count))
        square = square / (1 - ops.power(self.beta_2, count))
        step = mean / (ops.sqrt(square) + self.epsilon)
        if self._var_key(variable) in self._decayed:
            step = step + (self.weight_decay or 0.0) * variable
            length, norm = _norm(tf.convert_to_tensor(variable), variable), _norm(step, variable)
            both = ops.logical_and(length > 0, norm > 0)
            step = step * ops.where(both, length / ops.where(both, norm, 1.0), 1.0)
        self.assign_sub(variable, learning_rate * step)


@keras.saving.register_keras_serializable("keras_featx")
class Lamb(Updates, _Lamb):
    """LAMB (arXiv:1904.00962): Adam's step, as long as the learning rate times the weight's norm.

    Decay is part of the step whose length is adapted, as in the paper; Keras decays apart from it.
    Weights exempt from decay take Adam's step as it is, as in the authors' code.
    """

    def _decay(self, variable, rate):
        """Nothing: the rule has its own."""


class _Nadam(keras.optimizers.Nadam):
    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        # Keras gives it the next free name, another one in the next run.
        self._untrack_variable(self._u_product)
        self._u_product = self.add_variable((), initializer="ones", name="product")


def _extended(rule: type) -> type:
    """A Keras optimizer after :class:`Updates`, under its own name."""
    name = rule.__name__.strip("_")
    own = {"__module__": __name__, "__doc__": f"``keras.optimizers.{name}`` after Updates."}
    extended = type(name, (Updates, rule), own)
    return keras.saving.register_keras_serializable("keras_featx")(extended)


SGD = _extended(keras.optimizers.SGD)
Adam = _extended(keras.optimizers.Adam)
AdamW = _extended(keras.optimizers.AdamW)
Lion = _extended(keras.optimizers.Lion)
Muon = _extended(keras.optimizers.Muon)
RMSprop = _extended(keras.optimizers.RMSprop)
Nadam = _extended(_Nadam)
Adamax = _extended(keras.optimizers.Adamax)
Adagrad = _extended(keras.optimizers.Adagrad)
Adadelta = _extended(keras.optimizers.Adadelta)
Adafactor = _extended(keras.optimizers.Adafactor)
Ftrl = _extended(keras.optimizers.Ftrl)
