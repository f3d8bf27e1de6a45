"""TFLite (LiteRT) for devices: uint8 pixels in, embedding out, builtin operators only."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_featx.exporters import tflite_metadata
from keras_featx.models import EMBEDDING, IMAGE

# What becomes of the weights; activations are floats unless the network rounds them itself.
WEIGHTS = ("float32", "float16", "int8")


def save(
    network: keras.Model,
    path: Path,
    weights: str = "float32",
    batch: int | None = 1,
    about: dict[str, Any] | None = None,
) -> None:
    """Write a ``.tflite`` with signature ``serving_default``. Resizing is the caller's.

    Args:
        network: From :func:`~keras_featx.exporters.deploy.deploy_form`, or from
            :func:`~keras_featx.exporters.quantize.integer_form`, with ``int8`` weights: it then
            computes in integers.
        path: Of the file.
        weights: One of ``WEIGHTS``. With ``int8`` and a float network, LiteRT rounds activations
            as they come where that is faster.
        batch: A fixed batch keeps the whole graph in one partition of the XNNPACK delegate; with
            ``None`` it is 1 until the caller resizes the input.
        about: What the file says of itself, from ``tflite_metadata.facts``.
    """
    spec = tf.TensorSpec((batch, *network.input_shape[1:]), tf.uint8, name=IMAGE)

    @tf.function
    def serving_default(image):
        return {EMBEDDING: network(tf.cast(image, tf.float32), training=False)}

    # The converter finds weights only through a module that holds the variables themselves.
    module = tf.Module()
    module.variables_of_model = [v.value for v in network.variables]
    module.serving_default = serving_default
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [serving_default.get_concrete_function(spec)], module
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    model = converter.convert()
    path.write_bytes(model if about is None else tflite_metadata.add(model, about))
