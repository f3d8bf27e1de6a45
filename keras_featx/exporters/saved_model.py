"""SavedModel for TensorFlow Serving: from encoded bytes or from pixels to embeddings."""

from pathlib import Path

import keras
import tensorflow as tf

from keras_featx import images
from keras_featx.exporters.graph import frozen
from keras_featx.models import EMBEDDING, IMAGE
from keras_featx.sections import PreprocessSection


def save(extractor: keras.Model, preprocess: PreprocessSection, path: Path) -> None:
    """Write a SavedModel folder.

    Signatures: ``serving_default`` takes ``image_bytes``, a string vector of JPEG, PNG, GIF, BMP
    or WebP files, and decodes and resizes in the graph; ``embed_images`` takes ``image``, uint8
    ``(batch, height, width, 3)`` of the network's size. Both give ``embedding``.
    """
    height, width = extractor.input_shape[1:3]
    embed = frozen(extractor)

    def from_bytes(image_bytes):
        pixels = tf.map_fn(
            lambda data: images.load_bytes(data, (height, width), preprocess),
            image_bytes,
            fn_output_signature=tf.TensorSpec((height, width, 3), tf.uint8),
        )
        return {EMBEDDING: embed(tf.cast(pixels, tf.float32))}

    def from_pixels(image):
        # Unlike an assertion this stays in the graph; without it a tensor of a wrong rank aborts
        # the serving process inside oneDNN.
        image = tf.raw_ops.EnsureShape(input=image, shape=(None, height, width, 3))
        return {EMBEDDING: embed(tf.cast(image, tf.float32))}

    module = tf.Module()
    module.from_bytes = tf.function(
        from_bytes, input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")]
    )
    module.from_pixels = tf.function(
        from_pixels, input_signature=[tf.TensorSpec((None, height, width, 3), tf.uint8, name=IMAGE)]
    )
    signatures = {"serving_default": module.from_bytes, "embed_images": module.from_pixels}
    tf.saved_model.save(module, str(path), signatures=signatures)
