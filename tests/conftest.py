"""Shared fixtures. Two logical CPU devices stand for two accelerators in every test."""

import logging
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
logging.getLogger("keras_featx").setLevel(logging.INFO)


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Weights and batch statistics under which activations live (a fresh LCNet's die)."""
    rng = np.random.default_rng(seed)
    draws = {
        "gamma": lambda shape: rng.uniform(1.0, 2.0, shape),
        "beta": lambda shape: rng.normal(0.0, 0.5, shape),
        "moving_mean": lambda shape: rng.normal(0.0, 0.1, shape),
        "moving_variance": lambda shape: rng.uniform(0.05, 0.3, shape),
        "bias": lambda shape: rng.normal(0.0, 0.3, shape),
    }
    for variable in model.weights:
        name = variable.path.rsplit("/", 1)[-1]
        if name in draws:
            variable.assign(draws[name](variable.shape))
    return model


@pytest.fixture
def data_dir(request):
    return request.config.rootpath / "tests" / "data"
