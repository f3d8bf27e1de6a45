"""The gate: artefacts opened again in their own runtimes and compared with Keras on real images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_featx import images
from keras_featx.errors import RunError, first_line
from keras_featx.export_section import EXACT, REDUCED
from keras_featx.exporters.warmup import read_warmup
from keras_featx.models import EMBEDDING, IMAGE
from keras_featx.runtimes import open_networks
from keras_featx.sections import ArchSection

# From uint8 (images, height, width, 3) to float32 (images, embedding_size).
Run = Callable[[np.ndarray], np.ndarray]

FILES = {
    "saved_model": "saved_model",
    "tflite": "model.tflite",
    "tflite_float16": "model_float16.tflite",
    "tflite_dynamic": "model_dynamic.tflite",
    "tflite_int8": "model_int8.tflite",
    "onnx": "model.onnx",
}


@dataclass(frozen=True)
class Variant:
    """An artefact in its runtime.

    Attributes:
        from_pixels: Embeds images of the network's size.
        from_bytes: Embeds image files, where the artefact decodes them itself.
    """

    from_pixels: Run
    from_bytes: Callable[[Sequence[bytes]], np.ndarray] | None = None


@dataclass(frozen=True)
class Likeness:
    """How near embeddings are to those of Keras.

    Attributes:
        largest_difference: Of any number.
        smallest_cosine: Of any image.
        mean_cosine: Of all.
    """

    largest_difference: float
    smallest_cosine: float
    mean_cosine: float

    def with_other(self, other: "Likeness") -> "Likeness":
        """The worse of both in each."""
        return Likeness(
            max(self.largest_difference, other.largest_difference),
            min(self.smallest_cosine, other.smallest_cosine),
            min(self.mean_cosine, other.mean_cosine),
        )


def open_variant(name: str, path: Path, image_size: tuple[int, int]) -> Variant:
    """Open an artefact.

    Args:
        name: Of its format.
        path: Of the file; of a SavedModel, the folder of its versions.
        image_size: (height, width) of the network.

    Raises:
        RunError: If it cannot be opened, or is no embedder of such images.
    """
    if name == "saved_model":
        return _open_saved_model(path)
    network = open_networks(path, image_size, 1).networks[0]
    return Variant(lambda pixels: np.stack([network(image) for image in pixels]))


def _open_saved_model(folder: Path) -> Variant:
    versions = [one for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []
    if len(versions) != 1:
        raise RunError(f"{folder}: expected one version, got {len(versions)}")
    try:
        signatures = tf.saved_model.load(str(versions[0])).signatures
        by_bytes, by_pixels = signatures["serving_default"], signatures["embed_images"]
    except Exception as error:
        raise RunError(
            f"{versions[0]}: expected a SavedModel of an embedder: {first_line(error)}"
        ) from None
    for signature, inputs in read_warmup(versions[0]):
        _answer_warm_up(versions[0], signatures, signature, inputs)
    return Variant(
        lambda pixels: by_pixels(**{IMAGE: tf.constant(pixels)})[EMBEDDING].numpy(),
        lambda files: by_bytes(image_bytes=tf.constant(list(files)))[EMBEDDING].numpy(),
    )


def _answer_warm_up(folder: Path, signatures, signature: str, inputs: Mapping) -> None:
    """A server whose warm-up request fails does not serve the version at all."""
    try:
        found = signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})
        norms = np.linalg.norm(found[EMBEDDING], axis=1)
    except Exception as error:
        raise RunError(f"{folder}: warm-up request of {signature}: {first_line(error)}") from None
    if not np.allclose(norms, 1, atol=1e-3):
        raise RunError(f"{folder}: warm-up request of {signature}: embeddings of norm {norms}")


def read_images(paths: Sequence[str], skip: bool, most: int) -> list[bytes]:
    """The first image files of some that can be decoded.

    Raises:
        RunError: At one that cannot, unless it is to be skipped; and if there is none.
    """
    files: list[bytes] = []
    for path in paths:
        try:
            data = tf.io.read_file(path)
            images.decode(data)
        except tf.errors.OpError as error:
            if skip:
                continue
            reason = first_line(error).rpartition("}} ")[2]
            raise RunError(f"{path}: expected an image to compare on: {reason}") from None
        files.append(data.numpy())
        if len(files) == most:
            break
    if not files:
        raise RunError("expected images to compare on, got none that can be decoded")
    return files


def probes(files: Sequence[bytes]) -> list[bytes]:
    """Real images, and what is easily got wrong: a JPEG, a grey PNG, and a black image.

    Of odd sides, so that another way of resizing shows.
    """
    first = images.decode(tf.constant(files[0]))
    size = tf.maximum(tf.shape(first)[:2] * 3 // 4 // 2 * 2 + 1, 33)
    odd = tf.cast(tf.image.resize(first, size), tf.uint8)
    made = [
        tf.io.encode_jpeg(odd, quality=90),
        tf.io.encode_png(tf.image.rgb_to_grayscale(odd)),
        tf.io.encode_png(tf.zeros((57, 43, 3), tf.uint8)),
    ]
    return [*files, *(one.numpy() for one in made)]


def load_probes(files: Sequence[bytes], arch: ArchSection) -> np.ndarray:
    """Their pixels, uint8 ``(images, height, width, 3)``."""
    return np.stack(
        [images.load_bytes(tf.constant(one), arch.image_size, arch.Preprocess) for one in files]
    )


def compare(expected: np.ndarray, found: np.ndarray, where: str) -> Likeness:
    """How near embeddings are to the expected ones; refuses another shape and what is not finite.

    Raises:
        RunError: Likewise.
    """
    if found.shape != expected.shape:
        raise RunError(f"{where}: expected embeddings of shape {expected.shape}, got {found.shape}")
    if not np.isfinite(found).all():
        raise RunError(f"{where}: expected finite embeddings, got some that are not")
    wide, other = expected.astype("float64"), found.astype("float64")
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(other, axis=1)
    if not np.allclose(np.linalg.norm(other, axis=1), 1, atol=1e-3):
        raise RunError(f"{where}: expected embeddings of norm 1, got {norms.min():.3g}")
    cosines = (wide * other).sum(1) / norms
    largest = float(np.abs(wide - other).max())
    return Likeness(largest, float(cosines.min()), float(cosines.mean()))


def check_cosine(name: str, likeness: Likeness, least: float, where: str) -> None:
    """Refuse a variant that embeds otherwise than Keras.

    Args:
        name: Of its format.
        likeness: To Keras.
        least: Smallest cosine of one that should compute as Keras does; of the others the mean
            must be at least that of ``REDUCED``.
        where: What messages call it.

    Raises:
        RunError: Likewise.
    """
    if name in EXACT and not likeness.smallest_cosine >= least:
        raise RunError(
            f"{where}: embeddings differ from Keras by up to {likeness.largest_difference:.2g}, "
            f"cosine {likeness.smallest_cosine:.7f}; expected at least {least} "
            "(Export.min_cosine)"
        )
    if name in REDUCED and not likeness.mean_cosine >= REDUCED[name]:
        raise RunError(
            f"{where}: embeddings differ from Keras, mean cosine {likeness.mean_cosine:.5f}; "
            f"expected at least {REDUCED[name]}"
        )


def check_unit_norm(embeddings: np.ndarray) -> None:
    """Refuse embeddings whose comparison would prove nothing: those of a dead network."""
    norms = np.linalg.norm(embeddings, axis=1)
    if not np.allclose(norms, 1, atol=1e-3):
        raise RunError(
            f"the network gives embeddings of norm {norms.min():.2g} to {norms.max():.2g}, "
            "expected 1: its weights are untrained or broken"
        )


def embed_with(runs: Mapping[str, Run], batches: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Embeddings of the same images by several runs, each image decoded once."""
    parts: dict[str, list] = {name: [] for name in runs}
    for batch in batches:
        for name, run in runs.items():
            parts[name].append(run(batch))
    return {name: np.concatenate(part) for name, part in parts.items()}
