"""Batch normalisation with its activation in one layer, for speed in training on a CPU.

Keras normalises in a dozen elementwise passes over memory, which take longer than the
convolutions between them. In training this layer runs TensorFlow's fused operation, and
hard-swish with its gradient as one compiled pass each. At inference, over several replicas and in
other precisions it is Keras' own computation.
"""

import keras
import tensorflow as tf

ACTIVATIONS = {"hardswish": "hard_silu", "relu": "relu", "relu6": "relu6", None: "linear"}


@keras.saving.register_keras_serializable("keras_featx")
class BatchNormActivation(keras.layers.BatchNormalization):
    """``activation(batch_norm(x))`` over the last axis, with running statistics.

    Args:
        activation: ``hardswish`` (x * relu6(x + 3) / 6), ``relu``, ``relu6`` or ``None``.
        **kwargs: Of :class:`keras.layers.BatchNormalization`.

    Example:
        >>> import numpy as np
        >>> from keras_featx.backbones.normalization import BatchNormActivation
        >>> layer = BatchNormActivation(activation="hardswish")
        >>> layer(np.ones((2, 4, 4, 3), "float32"), training=True).shape
        TensorShape([2, 4, 4, 3])
    """

    def __init__(self, activation=None, **kwargs):
        if activation not in ACTIVATIONS:
            known = sorted(k for k in ACTIVATIONS if k)
            raise ValueError(f"activation: expected one of {known}, got {activation!r}")
        super().__init__(**kwargs)
        self.activation = activation

    def call(self, inputs, training=None, mask=None):
        fused = (
            training
            and self.trainable
            and not self.synchronized
            and len(inputs.shape) == 4
            and keras.backend.standardize_dtype(inputs.dtype) == "float32"
        )
        if not fused:
            x = super().call(inputs, training=training, mask=mask)
            return keras.activations.get(ACTIVATIONS[self.activation])(x)
        x, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation returns the unbiased variance; the reference, and Keras, average the
        # biased one.
        count = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], tf.float32)
        self._average(self.moving_mean, mean)
        self._average(self.moving_variance, variance * (count - 1) / count)
        if self.activation == "hardswish":
            return _hard_swish(x)
        return keras.activations.get(ACTIVATIONS[self.activation])(x)

    def _average(self, moving, value):
        moving.assign(moving * self.momentum + value * (1 - self.momentum))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}


@tf.custom_gradient
def _hard_swish(x):
    def gradient(upstream):
        return _hard_swish_backward(x, upstream)

    return _hard_swish_forward(x), gradient


@tf.function(jit_compile=True, autograph=False)
def _hard_swish_forward(x):
    return x * tf.clip_by_value(x + 3, 0, 6) / 6


@tf.function(jit_compile=True, autograph=False)
def _hard_swish_backward(x, upstream):
    slope = tf.where(x > 3, 1.0, x / 3 + 0.5)
    return upstream * tf.where(x < -3, 0.0, slope)
