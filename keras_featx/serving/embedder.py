"""The versions of a model in memory: from an encoded image, or from pixels, to an embedding."""

import functools
import queue
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_featx import images
from keras_featx.runtimes import Network, Opened
from keras_featx.sections import PreprocessSection
from keras_featx.serving.folders import Artefact
from keras_featx.serving.headers import pixels_of
from keras_featx.serving.refusals import Refused, invalid


@dataclass(frozen=True)
class Embedder:
    """One version. Any thread may call it, as many at a time as it was opened for.

    Attributes:
        version: Its number.
        image_size: (height, width).
        embedding_size: Numbers of an embedding.
        decode: From bytes to uint8 ``(height, width, 3)``.
        networks: Those no thread is using.
    """

    version: int
    image_size: tuple[int, int]
    embedding_size: int
    decode: Callable[[bytes], np.ndarray]
    networks: queue.SimpleQueue

    def embed_pixels(self, image: np.ndarray) -> np.ndarray:
        """Embed uint8 ``(height, width, 3)``: float32 ``(embedding_size,)``."""
        network: Network = self.networks.get()
        try:
            embedding = np.array(network(image), "float32")
        finally:
            self.networks.put(network)
        if not np.isfinite(embedding).all():
            raise RuntimeError("the network gave an embedding that is not finite")
        return embedding

    def embed_bytes(self, data: bytes, most: int) -> np.ndarray:
        """Embed an encoded image of at most so many pixels.

        Raises:
            Refused: 400 if it cannot be decoded, 413 if it is too large, which its header tells.
        """
        try:
            pixels = pixels_of(data)
            if pixels > most:
                raise Refused(
                    413,
                    f"Expected an image of at most {most} pixels, got {pixels} by its header",
                )
            image = self.decode(data)
        except ValueError as error:
            raise invalid(str(error)) from None
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
            raise invalid(_reason(error.message)) from None
        return self.embed_pixels(image)


def make_embedder(artefact: Artefact, opened: Opened) -> Embedder:
    """An opened version with the decoding and resizing that its config names."""
    arch = artefact.arch
    free: queue.SimpleQueue = queue.SimpleQueue()
    for network in opened.networks:
        free.put(network)
    decode = decoder(arch.image_size, arch.Preprocess)
    return Embedder(artefact.version, arch.image_size, opened.embedding_size, decode, free)


@functools.cache
def decoder(
    image_size: tuple[int, int], preprocess: PreprocessSection
) -> Callable[[bytes], np.ndarray]:
    """Decoding and resizing as evaluation does, compiled once.

    Returns:
        From an encoded image to uint8 ``(height, width, 3)``.
    """
    load = tf.function(
        lambda data: images.load_bytes(data, image_size, preprocess),
        input_signature=[tf.TensorSpec((), tf.string)],
        autograph=False,
    ).get_concrete_function()
    return lambda data: load(tf.constant(data)).numpy()


def _reason(message: str) -> str:
    """TensorFlow's message without the names of its graph."""
    first = message.strip().split("\n")[0].split(" [Op:")[0]
    return re.sub(r"^(\{\{.*?\}\} )+", "", first)
