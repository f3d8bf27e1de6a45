"""Weights that each replica has for itself: parts of class centres, and samples of their rows.

A head that splits its centres over replicas, or trains a sample of their rows at each step, has
variables made by :func:`keras_featx.distribute.local_variable`. Their gradients are not summed:
each replica's are already those of the whole batch. A sample is a weight of its own (``active``)
whose rows change from step to step; what an optimizer remembers of a row lies in a bank with a row
for every centre, and is brought in and put back around the rule's step.
"""

import keras
import tensorflow as tf
from keras import ops

from keras_featx import distribute


class LocalWeights:
    """Part of :class:`keras_featx.optimizers.updates.Updates`."""

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        if not distribute.is_local(reference_variable):
            return super().add_variable_from_reference(reference_variable, name, initializer)
        start = keras.initializers.get(initializer)
        bank = getattr(reference_variable, "bank", None)
        slot = self._add_local(reference_variable, name, start, transient=bank is not None)
        if bank is not None:
            slot.bank = self._add_local(bank, name, start)
            self._banked.setdefault(self._var_key(reference_variable), []).append(slot)
        return slot

    def _add_local(self, like, name, initializer, transient=False):
        with keras.name_scope(self.name, caller=self):
            variable = distribute.local_variable(
                lambda shape, dtype: ops.cast(initializer(shape, dtype), dtype),
                tuple(like.shape),
                name=f"{like.path.replace('/', '_')}_{name}",
                rows=like.rows,
                transient=transient,
            )
        self._track_variable(variable)
        return variable

    def _sum_over_replicas(self, gradients, variables):
        """The whole batch's gradients: clipping and waiting need them before Keras sums them."""
        shared = [i for i, v in enumerate(variables) if not distribute.is_local(v)]
        pairs = [(gradients[i], variables[i]) for i in shared]
        summed = super()._all_reduce_sum_gradients(pairs)
        gradients = list(gradients)
        for i, (gradient, _) in zip(shared, summed, strict=True):
            gradients[i] = gradient
        self._split = [distribute.is_local(v) for v in variables]
        return gradients

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars  # `apply` has done it

    def _clip_gradients(self, grads):
        if distribute.replica()[1] == 1 or not any(self._split):
            return super()._clip_gradients(grads)
        # The norm of a weight in parts is that of all its parts.
        squares = [tf.reduce_sum(tf.square(gradient)) for gradient in grads]
        squares = [
            distribute.sum_over_replicas(square) if split else square
            for square, split in zip(squares, self._split, strict=True)
        ]
        bound = self.global_clipnorm or self.clipnorm
        if bound is None:
            return super()._clip_gradients(grads)
        if self.global_clipnorm:
            squares = [tf.add_n(squares)] * len(grads)
        return [
            gradient * (bound / tf.maximum(tf.sqrt(square), bound))
            for gradient, square in zip(grads, squares, strict=True)
        ]

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        pairs = list(zip(grads, trainable_variables, strict=True))
        shared = [pair for pair in pairs if not distribute.is_local(pair[1])]
        if shared:
            super()._backend_update_step(*zip(*shared, strict=True), learning_rate)
        for gradient, variable in pairs:
            if distribute.is_local(variable):
                self._update_local(gradient, variable, learning_rate)

    def _update_local(self, gradient, variable, learning_rate):
        slots = self._banked.get(self._var_key(variable), ())
        if not hasattr(variable, "bank"):
            self.update_step(gradient, variable, learning_rate)
            return
        rows = tf.convert_to_tensor(variable.bank_rows)
        for slot in slots:
            slot.assign(tf.gather(distribute.own_part(slot.bank), rows))
        self.update_step(gradient, variable, learning_rate)
        for current in (variable, *slots):
            update = tf.IndexedSlices(tf.convert_to_tensor(current), rows)
            distribute.own_part(current.bank).scatter_update(update)
