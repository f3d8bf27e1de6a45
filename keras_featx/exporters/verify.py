"""Open exports again in their own runtimes and compare them with Keras on real images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_featx import images
from keras_featx.errors import RunError
from keras_featx.models import EMBEDDING, IMAGE
from keras_featx.sections import PreprocessSection

# Another order of float32 sums moves a unit vector by about 1e-6; anything wrong by far more.
TOLERANCE = 1e-4


def saved_model(
    folder: Path, paths: Sequence[str], size: tuple[int, int], preprocess: PreprocessSection
) -> dict[str, np.ndarray]:
    """Embeddings of image files by each signature of a SavedModel, as a server would load it."""
    signatures = tf.saved_model.load(str(folder)).signatures
    data = tf.constant([Path(path).read_bytes() for path in paths])
    pixels = tf.stack([images.load_bytes(one, size, preprocess) for one in data])
    return {
        "serving_default": signatures["serving_default"](image_bytes=data)[EMBEDDING].numpy(),
        "embed_images": signatures["embed_images"](image=pixels)[EMBEDDING].numpy(),
    }


def tflite(
    file: Path, paths: Sequence[str], size: tuple[int, int], preprocess: PreprocessSection
) -> dict[str, np.ndarray]:
    """Embeddings of image files by a .tflite in the LiteRT interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file)).get_signature_runner("serving_default")
    rows = []
    for path in paths:
        pixels = images.load(tf.constant(path), size, preprocess).numpy()[None]
        rows.append(runner(**{IMAGE: pixels})[EMBEDDING][0])
    return {"serving_default": np.stack(rows)}


def compare(expected: np.ndarray, found: dict[str, np.ndarray], artefact: Path) -> float:
    """The largest difference of any number; refuses one above the tolerance."""
    largest = 0.0
    for signature, embeddings in found.items():
        if embeddings.shape != expected.shape:
            raise RunError(
                f"{artefact}: {signature}: expected embeddings of shape {expected.shape}, "
                f"got {embeddings.shape}"
            )
        difference = float(np.abs(embeddings - expected).max())
        if not difference <= TOLERANCE:  # NaN is refused too
            raise RunError(
                f"{artefact}: {signature}: embeddings differ from Keras by {difference:.2g}, "
                f"expected at most {TOLERANCE}"
            )
        largest = max(largest, difference)
    return largest


def check_unit_norm(embeddings: np.ndarray) -> None:
    """Refuse embeddings whose comparison would prove nothing: those of a dead network."""
    norms = np.linalg.norm(embeddings, axis=1)
    if not np.allclose(norms, 1, atol=1e-3):
        raise RunError(
            f"the network gives embeddings of norm {norms.min():.2g} to {norms.max():.2g}, "
            "expected 1: its weights are untrained or broken"
        )
