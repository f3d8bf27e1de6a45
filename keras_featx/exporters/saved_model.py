"""SavedModel for TensorFlow Serving: from encoded bytes or from pixels to embeddings."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_featx import images
from keras_featx.exporters.graph import frozen
from keras_featx.exporters.warmup import write_warmup
from keras_featx.models import EMBEDDING, IMAGE
from keras_featx.sections import PreprocessSection

# Sizes of the batches a server is warmed up with.
WARM_BATCHES = (1, 8)


def save(
    network: keras.Model,
    preprocess: PreprocessSection,
    path: Path,
    assets: Mapping[str, str] | None = None,
    examples: Sequence[bytes] = (),
) -> None:
    """Write a version folder.

    Signatures: ``serving_default`` takes ``image_bytes``, a string vector of JPEG, PNG, GIF, BMP
    or WebP files, and decodes and resizes in the graph; ``embed_images`` takes ``image``, uint8
    ``(batch, height, width, 3)`` of the network's size. Both give ``embedding``.

    Args:
        network: The extractor, or its deploy form.
        preprocess: How to resize.
        path: Of the folder.
        assets: Texts by the names of their files below ``assets``.
        examples: Image files for warm-up requests of both signatures; none are written without.
    """
    height, width = network.input_shape[1:3]
    embed = frozen(network)

    def load(data):
        return images.load_bytes(data, (height, width), preprocess)

    def from_bytes(image_bytes):
        spec = tf.TensorSpec((height, width, 3), tf.uint8)
        pixels = tf.map_fn(load, image_bytes, fn_output_signature=spec)
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
    with tempfile.TemporaryDirectory() as folder:
        module.files = []
        for name, text in (assets or {}).items():
            file = Path(folder, name)
            file.write_text(text)
            module.files.append(tf.saved_model.Asset(str(file)))
        tf.saved_model.save(module, str(path), signatures=signatures)
    if examples:
        _warm_up(path, examples, load)


def _warm_up(path: Path, examples: Sequence[bytes], load) -> None:
    requests = []
    for size in WARM_BATCHES:
        some = [examples[i % len(examples)] for i in range(size)]
        pixels = np.stack([load(tf.constant(data)) for data in some])
        requests.append(("serving_default", {"image_bytes": np.array(some, object)}))
        requests.append(("embed_images", {IMAGE: pixels}))
    write_warmup(path, requests)


def serving_files(folder: str, version: int, model: str = "embedder") -> dict[str, str]:
    """Settings for TensorFlow Serving, by the names of their files.

    Args:
        folder: Where the server sees the model.
        version: The one that is labelled ``stable``.
        model: Its name in addresses.
    """
    models = f"""model_config_list {{
  config {{
    name: "{model}"
    base_path: "{folder}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
    version_labels {{ key: "stable" value: {version} }}
  }}
}}
"""
    batching = """max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: 2 }
"""
    return {"models.config": models, "batching_parameters.txt": batching}
