"""An extractor from whatever holds one: an export, a ``.tflite``, trained or shipped weights."""

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_featx import fingerprints, runtimes
from keras_featx.data import faults, pipeline
from keras_featx.data.samples import Samples
from keras_featx.embedding import embed_batches
from keras_featx.errors import ConfigError, first_line
from keras_featx.models import build_model
from keras_featx.search_backends import cores
from keras_featx.sections import PreprocessSection
from keras_featx.serving.folders import find_artefacts
from keras_featx.weights import WEIGHTS, shipped, shipped_config

# Images at a time, if not said otherwise.
BATCH = 64
# In the archive behind the model; exporters.tflite_metadata writes it.
FACTS = "keras_featx.json"
CARD = "card.json"
_FILES = (".tflite", ".onnx")


@dataclass(frozen=True, eq=False)
class Extractor:
    """What turns images into embeddings, wherever it runs.

    Attributes:
        source: What it was opened from.
        image_size: (height, width).
        preprocess: How images become its input.
        fingerprint: Of its embeddings; that of an export in float is that of its weights.
        embedding_size: Numbers of an embedding.
        threshold: Cosine from which on two images are the same, where it comes with one.
        embeddings: From uint8 ``(batch, height, width, 3)`` to float32 ``(batch, size)``, for each
            of many batches.
    """

    source: str
    image_size: tuple[int, int]
    preprocess: PreprocessSection
    fingerprint: str
    embedding_size: int
    threshold: float | None
    embeddings: Callable[[Iterator[Any]], Iterator[np.ndarray]]

    def embed(self, samples: Samples, batch_size: int = BATCH) -> Iterator[np.ndarray]:
        """Embed images in their order, a batch at a time.

        Args:
            samples: Files, parts of files (``boxes``), or pixels; see :mod:`keras_featx.data`.
            batch_size: Images at a time.

        Raises:
            RunError: On an undecodable image, with its path.
        """
        dataset = pipeline.image_dataset(samples, self.image_size, self.preprocess, batch_size)
        try:
            yield from self.embeddings(iter(dataset))
        except tf.errors.OpError as error:
            raise faults.explain(error, samples) from None


def open_extractor(source: str | os.PathLike) -> Extractor:
    """Open an extractor.

    Args:
        source: A folder or a file of ``keras-featx export`` (``.tflite``, ``.onnx``), a folder of
            weights such as ``best_model``, or the name of shipped ones.

    Raises:
        ConfigError: If it is none of these.
        RunError: If a file cannot be opened.

    Example:
        >>> from keras_featx.extractors import open_extractor
        >>> open_extractor("emoji-lcnet-x0_5").embedding_size
        256
    """
    path = Path(source)
    if os.fspath(source) in shipped() or (path / WEIGHTS).is_file():
        return _of_weights(os.fspath(source))
    if path.suffix == ".tflite":
        about = read_model(path)
        return _of_file(path, about.image_size, about.preprocess, about.fingerprint)
    folder, name = (path.parent, path.name) if path.suffix in _FILES else (path, None)
    if not folder.is_dir() or (name and not path.is_file()):
        raise ConfigError(
            f"{source}: expected an export, a folder of weights, or one of {shipped()}"
        )
    artefacts = find_artefacts(folder, name)
    artefact = artefacts[max(artefacts)]
    if artefact.path.suffix == ".tflite":
        return open_extractor(artefact.path)
    try:
        whole = json.loads(artefact.path.with_name(CARD).read_text())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{artefact.path.with_name(CARD)}: expected the card of the export, with its "
            "fingerprint"
        ) from None
    return _of_file(artefact.path, artefact.arch.image_size, artefact.arch.Preprocess, whole)


def _of_weights(source: str) -> Extractor:
    config = shipped_config(source)
    model = build_model(config)
    return Extractor(
        source,
        config.Arch.image_size,
        config.Arch.Preprocess,
        fingerprints.fingerprint(model.get_weights(), config.Arch.Preprocess),
        model.output_shape[-1],
        None,
        lambda batches: embed_batches(model, batches),
    )


def _of_file(path: Path, image_size, preprocess: PreprocessSection, fingerprint: str) -> Extractor:
    """With a network for each core."""
    count = cores()
    opened = runtimes.open_networks(path, image_size, count)

    def share(batch: np.ndarray, i: int) -> np.ndarray:
        return np.array([opened.networks[i](image) for image in batch[i::count]])

    def embeddings(batches: Iterator[Any]) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(count) as pool:
            for batch in batches:
                batch = np.asarray(batch)
                parts = list(pool.map(lambda i, b=batch: share(b, i), range(count)))
                found = np.empty((len(batch), opened.embedding_size), "float32")
                for i, part in enumerate(parts):
                    if len(part):
                        found[i::count] = part
                yield found

    return Extractor(
        str(path), image_size, preprocess, fingerprint, opened.embedding_size,
        _threshold(path.with_name(CARD)), embeddings,
    )  # fmt: skip


@dataclass(frozen=True)
class DeviceModel:
    """What a ``.tflite`` says of itself.

    Attributes:
        path: Of the file.
        image_size: (height, width).
        preprocess: How images become its input.
        fingerprint: Of its embeddings.
    """

    path: Path
    image_size: tuple[int, int]
    preprocess: PreprocessSection
    fingerprint: str


def read_model(path: str | os.PathLike) -> DeviceModel:
    """Read what a ``.tflite`` says of itself.

    Raises:
        ConfigError: If it is none, or says nothing.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read(FACTS))
        preprocess = PreprocessSection(**facts["preprocess"])
        fingerprint = facts["fingerprint"]
        if facts["format"] != 1 or not isinstance(fingerprint, str):
            raise ValueError
    except OSError as error:
        raise ConfigError(f"{path}: expected a .tflite file: {error.strerror}") from None
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError):
        raise ConfigError(
            f"{path}: expected a .tflite of keras-featx export, with {FACTS} in it"
        ) from None
    return DeviceModel(path, _image_size(path), preprocess, fingerprint)


def _image_size(path: Path) -> tuple[int, int]:
    from ai_edge_litert.interpreter import Interpreter

    try:
        details = Interpreter(model_path=str(path)).get_input_details()
        height, width = details[0]["shape"].tolist()[1:3]
    except (ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"{path}: expected a .tflite of images: {first_line(error)}") from None
    return height, width


def _threshold(card: Path) -> float | None:
    try:
        return json.loads(card.read_text())["threshold"]["cosine"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
