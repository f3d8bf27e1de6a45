"""Strategies: which devices a training step runs on, and what each of them holds."""

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_featx.errors import ConfigError


def get_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of ``Global.strategy``.

    ``mirrored`` uses every GPU, or every logical CPU device where there is no GPU; ``auto`` is
    ``mirrored`` when there are several GPUs, else ``single``.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored":
        devices = gpus or tf.config.list_logical_devices("CPU")
        return _mirrored(tuple(device.name for device in devices))
    if name == "auto" and len(gpus) > 1:
        return _mirrored(tuple(device.name for device in gpus))
    return tf.distribute.get_strategy()


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One strategy per process.

    A second one over the same devices counts its collective operations from the start again, and
    TensorFlow takes them for those of the first.
    """
    return tf.distribute.MirroredStrategy(devices)


def check_batch_size(strategy: tf.distribute.Strategy, batch_size: int) -> None:
    """Refuse a global batch that does not divide among the replicas."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ConfigError(
            f"DataLoader.Train.sampler.batch_size: expected a multiple of the {replicas} replicas, "
            f"got {batch_size}"
        )


def replica() -> tuple[int, int]:
    """Number of the replica a step is being built for, and of replicas; (0, 1) outside of one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 0, 1
    index = tf.get_static_value(context.replica_id_in_sync_group)
    return int(index), context.num_replicas_in_sync


def shapes_only() -> bool:
    """Whether a step is being traced outside of the replicas, as Keras does to learn shapes."""
    return tf.distribute.get_strategy().num_replicas_in_sync > 1 and replica()[1] == 1


def gather(x: tf.Tensor) -> tf.Tensor:
    """Rows of all replicas, in their order; gradients return to the replica of each row, summed."""
    if replica()[1] == 1:
        return x
    return tf.distribute.get_replica_context().all_gather(x, axis=0)


def sum_over_replicas(x: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor over all replicas."""
    if replica()[1] == 1:
        return x
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, x)


def local_variable(
    initializer: Callable,
    shape: tuple[int, ...],
    *,
    name: str,
    dtype: str = "float32",
    trainable: bool = False,
    rows: int | None = None,
    transient: bool = False,
) -> keras.Variable:
    """A variable of which every replica reads and writes a value of its own.

    Args:
        initializer: From a shape and a dtype to values; called again for each replica.
        shape: Of one replica's value.
        name: Last part of its path.
        dtype: Of its values.
        trainable: Whether an optimizer updates it, on each replica by that replica's gradient.
        rows: Where the replicas' values are parts of one array, split by rows, the rows of all;
            what the last part has beyond them is not used.
        transient: It holds nothing from one step to the next, so checkpoints leave it out.
    """
    variable = keras.Variable(
        initializer,
        shape,
        dtype=dtype,
        trainable=trainable,
        name=name,
        synchronization="on_read",
        aggregation="only_first_replica",
    )
    # TensorFlow copies the first replica's initial value to the others.
    for part in _parts(variable)[1:]:
        part.assign(initializer(shape, dtype))
    variable.rows, variable.transient = rows, transient
    return variable


def is_local(variable: keras.Variable) -> bool:
    """Whether a Keras variable was made by :func:`local_variable`."""
    return getattr(variable, "synchronization", None) == "on_read"


def is_transient(variable: keras.Variable) -> bool:
    """Whether checkpoints leave a variable out."""
    return getattr(variable, "transient", False)


def shape(variable: keras.Variable) -> tuple[int, ...]:
    """The shape of a variable's value, of all parts where it is split over replicas."""
    rows = getattr(variable, "rows", None)
    return tuple(variable.shape) if rows is None else (rows, *variable.shape[1:])


def read(variable: keras.Variable) -> np.ndarray:
    """The value of a variable, of all parts where it is split over replicas."""
    if not is_local(variable):
        return np.asarray(variable)
    parts = _parts(variable)
    if variable.rows is None:
        return parts[0].numpy()
    return np.concatenate([part.numpy() for part in parts])[: variable.rows]


def write(variable: keras.Variable, value: np.ndarray) -> None:
    """Set a variable, each replica's part where it is split."""
    if not is_local(variable):
        variable.assign(value)
        return
    size = variable.shape[0] if variable.rows is not None else 0
    for i, part in enumerate(_parts(variable)):
        own = value if variable.rows is None else value[i * size : (i + 1) * size]
        if own.shape != part.shape:  # the last part has rows to spare
            own = np.concatenate([own, part.numpy()[len(own) :]])
        part.assign(own)


def own_part(variable: keras.Variable) -> tf.Variable:
    """This replica's value of a local variable, for reading and writing single rows."""
    return _parts(variable)[replica()[0]]


def _parts(variable: keras.Variable) -> list[tf.Variable]:
    return list(getattr(variable.value, "values", [variable.value]))
