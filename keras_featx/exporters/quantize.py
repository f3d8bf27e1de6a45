"""Integer form: an extractor that rounds as int8 inference does, calibrated and fine-tuned.

Every tensor of activations is rounded to 256 levels between two bounds, every kernel to 255 levels
per output channel (arXiv:1712.05877). Bounds come from real images; where that costs too much, the
network is trained for a while to give the embeddings it gave in float (self-distillation).
"""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_featx.data import faults, pipeline
from keras_featx.data.samplers.plain import shuffle
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.export_section import TuneSection
from keras_featx.exporters.deploy import POOLING, Projection, consumers, deploy_form, inputs
from keras_featx.sections import Config

_BATCH, _BINS = 32, 2048
_MOVES = (keras.layers.ZeroPadding2D, keras.layers.Flatten)

log = logging.getLogger(__name__)


class FakeQuantize(keras.layers.Layer):
    """Round to 256 levels between two bounds; in training the gradient passes within them.

    It lives while an artefact is made and is never saved.
    """

    def __init__(self, low: float, high: float, **kwargs):
        super().__init__(**kwargs)
        initial = keras.initializers.Constant(np.float32([low, high]))
        self.bounds = self.add_weight(shape=(2,), initializer=initial, name="bounds")

    def call(self, x):
        low, high = tf.unstack(tf.convert_to_tensor(self.bounds))
        return tf.quantization.fake_quant_with_min_max_vars(x, low, high)

    def compute_output_shape(self, input_shape):
        return input_shape


def integer_form(
    extractor: keras.Model, images: np.ndarray, projection: Projection | None = None
) -> keras.Model:
    """The deploy form with rounding, its bounds from images.

    Args:
        extractor: From :func:`keras_featx.build_model`.
        images: Typical ones, uint8 ``(images, height, width, 3)``.
        projection: As of :func:`~keras_featx.exporters.deploy.deploy_form`.

    Returns:
        A functional model; converted to TFLite, its layers compute in integers.
    """
    if any(isinstance(layer, keras.Model) for layer in extractor.layers):
        raise ConfigError("tflite_int8: expected an extractor of one view, got one of several")
    plain = deploy_form(extractor, projection, basic=True)
    pools = _feature_pools(plain)
    bounds = _bounds(plain, _rounded_operations(plain, pools), images)

    def follow(operation, *args, **kwargs):
        if operation in pools:
            # The converter passes integers on through averages and concatenations, in one scale
            # for all. A product without bounds of its own keeps what follows in float.
            (x,) = args
            return 2.0 * operation(0.5 * x)
        result = operation(*args, **kwargs)
        if operation.name not in bounds:
            return result
        return FakeQuantize(*bounds[operation.name], name=f"{operation.name}_rounded")(result)

    return keras.models.clone_model(plain, clone_function=lambda layer: layer, call_function=follow)


def _feature_pools(model: keras.Model) -> list[keras.Layer]:
    """The averages that the feature is made of; those of squeeze-and-excitation are not.

    What follows them is a thousandth of the work, and there one number stands for a whole map:
    rounding cost more Recall than all the rest. It keeps floats.
    """
    readers = consumers(model)
    pools = [layer for layer in model.layers if isinstance(layer, POOLING)]
    return [pool for pool in pools if _map_size(pool, readers) == _positions(pool.output)]


def _positions(tensor) -> int:
    """Of a map."""
    return math.prod(tensor.shape[1:-1])


def _rounded_operations(model: keras.Model, pools: list[keras.Layer]) -> list:
    """The operations whose result is rounded: those of the stages between the first and the last.

    Both ends keep floats, as is usual (arXiv:1606.06160): they are a fifth of the work, and
    rounding them costs more than rounding all between: the last maps, as few places are averaged;
    the first, as all that follows sees their error.
    """
    wanted, body = [tensor for pool in pools for tensor in inputs(pool)], []
    last = min((_positions(tensor) for tensor in wanted), default=0)
    for operation in reversed(model.operations):
        if any(tensor is operation.output for tensor in wanted):
            body.append(operation)
            wanted.extend(inputs(operation))
    readers = consumers(model)
    layers = [one for one in body if not isinstance(one, keras.layers.InputLayer)]
    # What moves numbers keeps their bounds; an addition and its ReLU6 are one kernel.
    layers = [one for one in layers if not isinstance(one, _MOVES)]
    first = max((_positions(one.output) for one in layers if hasattr(one, "kernel")), default=0)
    into_relu6 = [id(one.input) for one in layers if type(one).__name__ == "Relu6"]
    return [
        one
        for one in layers
        if last < _map_size(one, readers) <= first / 4 and id(one.output) not in into_relu6
    ]


def _map_size(operation, readers: dict[int, list]) -> int:
    """Positions of the map it is for: in squeeze-and-excitation, that which is multiplied."""
    own = _positions(operation.output)
    ahead, seen = [operation], set()
    while ahead:
        for reader in readers.get(id(ahead.pop().output), []):
            if _positions(reader.output) > own and not isinstance(reader, _MOVES):
                return _positions(reader.output)
            if id(reader) not in seen:
                seen.add(id(reader))
                ahead.append(reader)
    return own


def _bounds(model: keras.Model, operations: list, images: np.ndarray) -> dict[str, tuple]:
    """Between which bounds each result is rounded best: with the smallest mean square error.

    The error of an image counts relative to its own values, as an embedding has norm 1: a single
    image of values three times as large would else widen the bounds for all.
    """
    readers = consumers(model)
    useful = [_useful(operation, readers) for operation in operations]
    probe = keras.Model(model.input, [operation.output for operation in operations])
    run = tf.function(lambda batch: probe(tf.cast(batch, tf.float32), training=False))
    ranges = [(0.0, 0.0)] * len(operations)  # zero must be among the levels: padding is zero
    counts = np.zeros((len(operations), _BINS))
    ends = np.full((2, *images.shape[1:]), [[[[0]]], [[[255]]]], images.dtype)
    images = np.concatenate([ends, images])
    batches = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
    for batch in batches:
        for i, values in enumerate(run(batch)):
            low, high = ranges[i]
            values = tf.clip_by_value(values, *useful[i])
            ranges[i] = (
                min(low, float(tf.reduce_min(values))),
                max(high, float(tf.reduce_max(values))),
            )
    for batch in batches:
        for i, values in enumerate(run(batch)):
            values = values.numpy().clip(*useful[i]).reshape(len(batch), -1)
            power = np.maximum((values.astype("float64") ** 2).mean(axis=1, keepdims=True), 1e-30)
            weights = np.broadcast_to(1 / power, values.shape)
            counts[i] += np.histogram(values, _BINS, ranges[i], weights=weights)[0]
    found = {}
    for operation, (low, high), count in zip(operations, ranges, counts, strict=True):
        # Pixels have 256 levels already: all of them, whatever these images hold.
        pixels = any(tensor is model.input for tensor in keras.tree.flatten(operation.input))
        found[operation.name] = (low, high) if pixels else _best(low, high, count)
    return found


def _useful(operation, readers: dict[int, list]) -> tuple[float, float]:
    """Between which values a result matters to what reads it.

    Hard-swish is 0 up to -3, and hard sigmoid flat from 3 on, too: levels there are lost.
    """
    gates, others = [], []
    for reader in readers.get(id(operation.output), []):
        behind = readers.get(id(reader.output), [])
        is_gate = _adds_three(reader) and [type(one).__name__ for one in behind] == ["Relu6"]
        (gates if is_gate else others).append(reader)
    products = [
        one
        for gate in gates
        for relu6 in readers[id(gate.output)]
        for one in readers.get(id(relu6.output), [])
    ]
    if not gates or any(one not in products for one in others):
        return -np.inf, np.inf
    return -3.0, np.inf if others else 3.0


def _adds_three(operation) -> bool:
    """Whether it is the sum in hard-swish and hard sigmoid, as the deploy form has them."""
    if type(operation).__name__ != "Add" or isinstance(operation, keras.layers.Layer):
        return False
    # Keras has no public name for what an operation was called with.
    return operation._inbound_nodes[0].arguments.args[1:] == (3.0,)


def _best(low: float, high: float, counts: np.ndarray) -> tuple[float, float]:
    """The bounds within ``low`` and ``high`` with the smallest error of rounding."""
    if low == high:  # always zero
        return 0.0, 1.0
    centres = low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS
    shares = np.linspace(0.2, 1, 33)
    candidates = [
        (low * a, high * b)
        for a in (shares if low < 0 else [0.0])
        for b in (shares if high > 0 else [0.0])
    ]

    def error(bounds):
        lower, upper = bounds
        step = (upper - lower) / 255
        zero = np.round(lower / step) * step  # as the zero point is a whole number
        levels = np.clip(np.round((centres - zero) / step), 0, 255) * step + zero
        return counts @ (levels - centres) ** 2

    return min(candidates, key=error)


def finetune(
    rounded: keras.Model,
    extractor: keras.Model,
    batches: Iterable[np.ndarray],
    steps: int,
    learning_rate: float = 1e-4,
) -> None:
    """Train the integer form to give the embeddings of the float network.

    Args:
        rounded: From :func:`integer_form`; its weights and bounds change.
        extractor: The float network.
        batches: Augmented training images, uint8 ``(batch, height, width, 3)`` each.
        steps: How many of them to learn from.
        learning_rate: Relative to the size of each weight; it falls to 0 along a half cosine.
    """
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    # Folding leaves kernels of very different sizes: steps must be relative (arXiv:1904.00962).
    optimizer = keras.optimizers.Lamb(schedule)
    variables = rounded.trainable_variables
    optimizer.build(variables)

    @tf.function
    def step(images):
        images = tf.cast(images, tf.float32)
        wanted = extractor(images, training=False)
        with tf.GradientTape() as tape:
            values = [_rounded_kernel(variable) for variable in variables]
            found, _ = rounded.stateless_call(values, [], images, training=True)
            loss = 1 - tf.reduce_mean(tf.reduce_sum(wanted * found, axis=-1))
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    losses = [float(step(batch)) for batch in itertools.islice(batches, steps)]
    if not np.isfinite(losses).all():
        raise RunError(
            "tflite_int8: expected a finite loss of Export.tune, got another; a smaller "
            "Export.tune.learning_rate may help"
        )
    log.info(
        "fine-tuned for int8: cosine %.4f at the start, %.4f at the end",
        1 - np.mean(losses[:20]),
        1 - np.mean(losses[-20:]),
    )


def augmented(config: Config, samples: Samples, section: TuneSection) -> Iterator[np.ndarray]:
    """Batches of training images, augmented as in training: uint8 each."""
    order = shuffle(samples, config.Global.seed, batch_size=min(section.batch_size, len(samples)))
    dataset = pipeline.train_dataset(
        samples, order, config.Arch, config.DataLoader.Train.dataset.transform_ops,
        seed=config.Global.seed, first_step=0, last_step=section.steps,
    )  # fmt: skip
    try:
        for inputs, _ in dataset:
            yield inputs["image"]
    except tf.errors.OpError as error:
        raise faults.explain(error, samples) from None


def _rounded_kernel(variable: keras.Variable) -> tf.Tensor:
    """A kernel as int8 inference has it: 255 levels for each output channel."""
    value = tf.convert_to_tensor(variable)
    if variable.path.rsplit("/", 1)[-1] != "kernel":
        return value
    channels = variable.shape[-1] * (variable.shape[-2] if variable.shape[-1] == 1 else 1)
    flat = tf.reshape(value, (-1, channels))
    most = tf.stop_gradient(tf.reduce_max(tf.abs(flat), axis=0))
    flat = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        flat, -most, most, narrow_range=True
    )
    return tf.reshape(flat, variable.shape)
