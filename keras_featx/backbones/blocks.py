"""Building blocks over stock Keras layers, with the reference's padding and initial weights."""

import math

import keras
import tensorflow as tf

from keras_featx.backbones.normalization import BatchNormActivation


def width(channels: int, scale: float) -> int:
    """The multiple of 8 nearest to ``channels * scale``, but not below 90 % of it."""
    exact = channels * scale
    width = max(8, int(exact + 4) // 8 * 8)
    return width + 8 if width < 0.9 * exact else width


def conv(x, filters: int, kernel_size: int, *, stride: int = 1, name: str, bias: bool = False):
    """Convolution padded symmetrically by ``(kernel_size - 1) // 2``, normal initial weights.

    Keras' ``padding="same"`` pads bottom and right at stride 2, the reference both sides alike.

    Args:
        x: ``(batch, height, width, channels)``.
        filters: Output channels.
        kernel_size: Odd.
        stride: Of both axes.
        name: Of the layer.
        bias: Whether to add one (initially zero).

    Returns:
        ``(batch, ceil(height / stride), ceil(width / stride), filters)``.
    """
    x, padding = _pad(x, kernel_size, stride, name)
    fan_in = x.shape[-1] * kernel_size**2
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=bias,
        kernel_initializer=keras.initializers.RandomNormal(stddev=math.sqrt(2 / fan_in)),
        name=name,
    )(x)


def depthwise_conv(x, kernel_size: int, *, stride: int = 1, name: str):
    """Depthwise convolution, padded and initialised like :func:`conv`, without bias."""
    x, padding = _pad(x, kernel_size, stride, name)
    return keras.layers.DepthwiseConv2D(
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=False,
        depthwise_initializer=keras.initializers.RandomNormal(stddev=math.sqrt(2) / kernel_size),
        name=name,
    )(x)


def _pad(x, kernel_size: int, stride: int, name: str):
    """At stride 1 ``same`` is symmetric already; otherwise pad by hand."""
    if stride == 1:
        return x, "same"
    pad = (kernel_size - 1) // 2
    if pad:
        x = keras.layers.ZeroPadding2D(pad, name=f"{name}_pad")(x)
    return x, "valid"


def norm_act(x, activation: str | None, *, name: str, center: bool = True):
    """Batch normalisation with the reference's epsilon and momentum, then the activation.

    Statistics are those of the whole batch, over all replicas.
    """
    return BatchNormActivation(
        activation,
        momentum=0.9,
        epsilon=1e-5,
        center=center,
        synchronized=tf.distribute.get_strategy().num_replicas_in_sync > 1,
        name=name,
    )(x)


def squeeze_excite(x, *, name: str, reduction: int = 4, gate_activation: str = "hard_sigmoid"):
    """Channel gate: mean over the image, two 1x1 convolutions, a sigmoid (arXiv:1709.01507)."""
    channels = x.shape[-1]
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    gate = conv(gate, channels // reduction, 1, name=f"{name}_conv1", bias=True)
    gate = keras.layers.Activation("relu", name=f"{name}_relu")(gate)
    gate = conv(gate, channels, 1, name=f"{name}_conv2", bias=True)
    gate = keras.layers.Activation(gate_activation, name=f"{name}_gate")(gate)
    return keras.layers.Multiply(name=f"{name}_scale")([x, gate])
