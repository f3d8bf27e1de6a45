"""The deploy form: an extractor without what only training needs, exact but for rounding.

Batch normalisation and constant factors go into the convolutions and dense layers beside them, in
float64 (arXiv:1712.05877, section 3.2); dropout is gone; everything computes in float32.
"""

import dataclasses

import keras
import numpy as np

from keras_featx.backbones.normalization import ACTIVATIONS
from keras_featx.models import EMBEDDING

Projection = tuple[np.ndarray, np.ndarray]

# The layers that normalisation goes into; the kernel's last axes are input and output channels.
_LINEAR = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
# Those that a factor and a shift pass unchanged.
POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.AveragePooling2D)


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """``tensor * factor + shift``, per channel, of which only ``tensor`` has been computed."""

    tensor: keras.KerasTensor
    factor: np.ndarray
    shift: np.ndarray

    def computed(self):
        """With what is left to do as operations of the graph."""
        x = self.without_shift()
        return x.tensor if (x.factor == 1).all() else x.tensor * x.factor.astype("float32")

    def without_shift(self) -> "_Scaled":
        """The shift as an addition in front of the factor."""
        if not self.shift.any():
            return self
        moved = self.tensor + (self.shift / self.factor).astype("float32")
        return _Scaled(moved, self.factor, np.zeros_like(self.shift))


@dataclasses.dataclass(frozen=True)
class _Folded:
    """A layer with other weights, float64, which has not been applied yet."""

    layer: keras.Layer
    tensor: keras.KerasTensor
    kernel: np.ndarray
    bias: np.ndarray

    def built(self):
        new = type(self.layer).from_config(
            {**self.layer.get_config(), "dtype": "float32", "use_bias": bool(self.bias.any())}
        )
        result = new(self.tensor)
        weights = (self.kernel, self.bias)[: len(new.weights)]
        new.set_weights([w.astype("float32") for w in weights])
        return result


def deploy_form(
    extractor: keras.Model, projection: Projection | None = None, *, basic: bool = False
) -> keras.Model:
    """Fold an extractor for inference.

    The mean of pixel normalisation stays as one subtraction in front of a padded convolution, as
    the border's zeros stand for it; its scale is in the kernel.

    Args:
        extractor: From :func:`keras_featx.build_model`, of any precision; it stays as it is.
        projection: ``mean (size,)`` and ``matrix (size, kept)``, as of
            :func:`keras_featx.reranking.fit_pca`. The network's output is then
            ``(embedding - mean) @ matrix``, of unit norm.
        basic: Hard-swish and hard sigmoid as sums, products and ReLU6: LiteRT has fast integer
            kernels for these, and TensorFlow no others. Their factor 1/6 goes into the layers
            behind them.

    Returns:
        A functional model of stock Keras layers with the extractor's input and output.

    Example:
        >>> import keras_featx
        >>> from keras_featx.exporters.deploy import deploy_form
        >>> model = deploy_form(keras_featx.build_model("emoji-lcnet-x0_5"))
        >>> "BatchNormActivation" in {type(layer).__name__ for layer in model.layers}
        False
    """
    source = in_float32(extractor)
    behind = _normalisation_behind(source)
    sums = _sums_of_branches(source, behind)
    branches = {branch for some in sums.values() for branch in some}

    def follow(layer, x, *args, **kwargs):
        if layer in behind.values():  # its normalisation is in the layer before
            return _activated(layer, x, basic)
        if isinstance(layer, keras.layers.Dropout):
            return x
        if isinstance(layer, keras.layers.Rescaling | keras.layers.BatchNormalization):
            return _activated(layer, _normalised(layer, _scaled(x)), basic)
        if isinstance(layer, keras.layers.Activation) and basic:
            return _basic(layer.activation, x) or _again(layer)(_computed(x))
        if isinstance(layer, POOLING):
            return _moved(layer, _scaled(x))
        if isinstance(layer, keras.layers.Multiply):
            return _product([_scaled(part) for part in x])
        if type(layer) in _LINEAR:
            if layer in branches:  # of one tensor: their kernels are added up, not what they read
                return _folded(layer, behind[layer], _scaled(x).without_shift())
            return _folded(layer, behind.get(layer), _scaled(x)).built()
        if layer in sums:
            return _merged(x).built()
        if isinstance(layer, keras.layers.ZeroPadding2D | keras.layers.Flatten):
            return _moved(layer, _scaled(x))
        if isinstance(layer, keras.layers.Concatenate):
            return _joined(layer, [_scaled(part) for part in x])
        again = deploy_form(layer) if isinstance(layer, keras.Model) else _again(layer)
        return again(keras.tree.map_structure(_computed, x), *args, **kwargs)

    folded = keras.models.clone_model(
        source, clone_function=lambda layer: layer, call_function=follow
    )
    if projection is None:
        return folded
    return keras.Model(folded.input, _projected(folded.output, *projection), name=folded.name)


def in_float32(extractor: keras.Model) -> keras.Model:
    """A copy that computes in float32 throughout, whatever it was trained in."""

    def fresh(layer):
        return in_float32(layer) if isinstance(layer, keras.Model) else _again(layer)

    copy = keras.models.clone_model(extractor, clone_function=fresh)
    copy.set_weights(extractor.get_weights())
    return copy


def _again(layer: keras.Layer) -> keras.Layer:
    """A new layer of the same settings: no layer belongs to two models. Operations may."""
    if not isinstance(layer, keras.Layer):
        return layer
    return type(layer).from_config({**layer.get_config(), "dtype": "float32"})


def inputs(operation) -> list:
    """The tensors that an operation of a functional model reads."""
    if isinstance(operation, keras.layers.InputLayer):
        return []
    return keras.tree.flatten(operation.input)


def consumers(model: keras.Model) -> dict[int, list]:
    """The operations that read a tensor, by its identity."""
    found: dict[int, list] = {}
    for operation in model.operations:
        for tensor in inputs(operation):
            found.setdefault(id(tensor), []).append(operation)
    return found


def _normalisation_behind(model: keras.Model) -> dict[keras.Layer, keras.Layer]:
    """Of each linear layer whose output goes to batch normalisation and nowhere else: that."""
    readers_of = consumers(model)
    behind = {}
    for layer in model.layers:
        if type(layer) not in _LINEAR or layer.activation is not keras.activations.linear:
            continue
        readers = readers_of.get(id(layer.output), [])
        if len(readers) == 1 and isinstance(readers[0], keras.layers.BatchNormalization):
            behind[layer] = readers[0]
    return behind


def _sums_of_branches(model: keras.Model, behind: dict) -> dict[keras.Layer, list[keras.Layer]]:
    """Of each sum of depthwise convolutions of one tensor, each normalised: these.

    They have one stride and are padded alike on all sides, so that the centres of their kernels
    meet.
    """
    made_by = {id(norm.output): layer for layer, norm in behind.items()}
    found = {}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Add):
            continue
        branches = [made_by.get(id(tensor)) for tensor in inputs(layer)]
        if all(isinstance(one, keras.layers.DepthwiseConv2D) for one in branches):
            linear = all(getattr(behind[one], "activation", None) is None for one in branches)
            if linear and len({id(_unpadded(one)) for one in branches}) == 1:
                found[layer] = branches
    return found


def _unpadded(layer: keras.Layer):
    """What a convolution reads, before it is padded."""
    (before,) = inputs(layer)
    producer = before._keras_history.operation
    return producer.input if isinstance(producer, keras.layers.ZeroPadding2D) else before


def _scaled(x) -> _Scaled:
    if isinstance(x, _Scaled):
        return x
    channels = x.shape[-1]
    return _Scaled(x, np.ones(channels), np.zeros(channels))


def _computed(x):
    return x.computed() if isinstance(x, _Scaled) else x


def _normalised(layer, x: _Scaled) -> _Scaled:
    """Batch normalisation or a rescaling, left for later layers to take in."""
    if isinstance(layer, keras.layers.Rescaling):
        factor, shift = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
    else:
        factor, shift = _affine(layer)
    return _Scaled(x.tensor, x.factor * factor, x.shift * factor + shift)


def _activated(layer, x, basic: bool):
    """The activation of our layer of batch normalisation; other layers have none."""
    activation = keras.activations.get(ACTIVATIONS[getattr(layer, "activation", None)])
    if activation is keras.activations.linear:
        return x
    found = _basic(activation, x) if basic else None
    return found or keras.layers.Activation(activation, name=f"{layer.name}_act")(_computed(x))


def _basic(activation, x) -> _Scaled | None:
    """Hard-swish and hard sigmoid without their factor; None of another activation."""
    if activation is keras.activations.hard_silu:
        return _product([_scaled(_computed(x)), _basic(keras.activations.hard_sigmoid, x)])
    if activation is not keras.activations.hard_sigmoid:
        return None
    gate = _scaled(keras.ops.relu6(_computed(x) + 3.0))
    return _Scaled(gate.tensor, gate.factor / 6, gate.shift)


def _product(parts: list[_Scaled]) -> _Scaled:
    """Tensors multiplied, their factors too."""
    parts = [part.without_shift() for part in parts]
    tensor, factor = parts[0].tensor, parts[0].factor
    for part in parts[1:]:
        tensor, factor = keras.ops.multiply(tensor, part.tensor), factor * part.factor
    return _Scaled(tensor, factor, np.zeros_like(factor))


def _affine(layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift of batch normalisation at inference, float64 ``(channels,)``."""
    factor = 1 / np.sqrt(np.asarray(layer.moving_variance, "float64") + layer.epsilon)
    if layer.scale:
        factor *= np.asarray(layer.gamma, "float64")
    shift = -np.asarray(layer.moving_mean, "float64") * factor
    return factor, shift + np.asarray(layer.beta, "float64") if layer.center else shift


def _folded(layer, normalisation, x: _Scaled) -> _Folded:
    """A convolution or dense layer with what stands before and behind it."""
    if getattr(layer, "padding", "valid") == "same" and max(layer.kernel_size) > 1:
        x = x.without_shift()
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    kernel, *bias = (np.asarray(w, "float64") for w in layer.weights)
    shifted = kernel.sum(tuple(range(kernel.ndim - 2))) * x.shift[:, None]
    bias = sum(bias) + (shifted.ravel() if depthwise else shifted.sum(0))
    kernel = kernel * x.factor[:, None]
    if normalisation is not None:
        factor, shift = _affine(normalisation)
        kernel = kernel * (factor.reshape(kernel.shape[2:]) if depthwise else factor)
        bias = bias * factor + shift
    return _Folded(layer, x.tensor, kernel, bias)


def _merged(branches: list[_Folded]) -> _Folded:
    """Depthwise convolutions of one tensor, added up in the largest of them."""
    largest = max(branches, key=lambda branch: len(branch.kernel))
    kernel = np.zeros_like(largest.kernel)
    for branch in branches:
        edge = (len(kernel) - len(branch.kernel)) // 2
        inner = slice(edge, len(kernel) - edge)
        kernel[inner, inner] += branch.kernel
    return _Folded(largest.layer, largest.tensor, kernel, sum(one.bias for one in branches))


def _moved(layer, x: _Scaled) -> _Scaled:
    """Padding and flattening, in front of what is left to do."""
    if isinstance(layer, keras.layers.ZeroPadding2D):
        x = x.without_shift()
    result = _again(layer)(x.tensor)
    repeats = result.shape[-1] // len(x.factor)
    return _Scaled(result, np.tile(x.factor, repeats), np.tile(x.shift, repeats))


def _joined(layer, parts: list[_Scaled]) -> _Scaled:
    """Parts side by side, each with its own factor and shift."""
    if layer.axis not in (-1, len(parts[0].tensor.shape) - 1):
        return _again(layer)([part.computed() for part in parts])
    factor, shift = (np.concatenate([getattr(p, k) for p in parts]) for k in ("factor", "shift"))
    return _Scaled(_again(layer)([part.tensor for part in parts]), factor, shift)


def _projected(embedding, mean: np.ndarray, matrix: np.ndarray):
    bias = -np.asarray(mean, "float64") @ matrix
    layer = keras.layers.Dense(matrix.shape[1], name="projection")
    result = layer(embedding)
    layer.set_weights([matrix.astype("float32"), bias.astype("float32")])
    return keras.layers.UnitNormalization(name=f"projected_{EMBEDDING}")(result)
