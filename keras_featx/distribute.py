"""Strategies: which devices a training step runs on."""

import functools

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
