"""The deploy form: one function with its weights as constants, from which exports are written."""

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_featx.models import EMBEDDING, IMAGE


def frozen(extractor: keras.Model):
    """The extractor at inference, weights as constants, as a TensorFlow function.

    Keras' own export stores each weight twice; constants are stored once and run faster.

    Returns:
        ``function(image) -> embedding`` for float32 ``(batch, height, width, 3)``, values 0..255.
    """
    spec = tf.TensorSpec((None, *extractor.input_shape[1:]), tf.float32, name=IMAGE)
    function = tf.function(lambda image: extractor(image, training=False))
    constant = convert_variables_to_constants_v2(function.get_concrete_function(spec))
    return lambda image: tf.identity(constant(image)[0], name=EMBEDDING)
