"""TFLite (LiteRT) for devices: uint8 pixels in, embedding out, builtin operators only."""

from pathlib import Path

import keras
import tensorflow as tf

from keras_featx.models import EMBEDDING, IMAGE
from keras_featx.sections import PreprocessSection


def save(extractor: keras.Model, preprocess: PreprocessSection, path: Path) -> None:
    """Write a .tflite: float32, batch 1, signature ``serving_default``. Resizing is the caller's.

    A fixed batch keeps the whole graph in one partition of the XNNPACK delegate.
    """
    spec = tf.TensorSpec((1, *extractor.input_shape[1:]), tf.uint8, name=IMAGE)

    @tf.function
    def serving_default(image):
        return {EMBEDDING: extractor(tf.cast(image, tf.float32), training=False)}

    # The converter finds weights only through a module that holds the variables themselves.
    module = tf.Module()
    module.variables_of_model = [v.value for v in extractor.variables]
    module.serving_default = serving_default
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [serving_default.get_concrete_function(spec)], module
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    path.write_bytes(converter.convert())
