"""From an exported ``.tflite`` and images of known identities to the gallery file of devices."""

import json
import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_featx import runtimes
from keras_featx.config import from_dict
from keras_featx.data import faults, pipeline
from keras_featx.data.samples import Samples, load_samples
from keras_featx.errors import ConfigError, first_line
from keras_featx.gallery_file import write_gallery
from keras_featx.progress import progress
from keras_featx.search_backends import cores
from keras_featx.sections import PreprocessSection

_BATCH = 64
# In the archive behind the model; exporters.tflite_metadata writes it.
FACTS = "keras_featx.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceModel:
    """A ``.tflite`` with what it says of itself.

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


def pack_gallery(
    model: str | os.PathLike,
    images: Mapping[str, Any] | Samples,
    output: str | os.PathLike,
    precision: str = "float16",
    threshold: float | None = None,
) -> dict[str, Any]:
    """Embed images by a ``.tflite`` and write the gallery file of devices.

    Args:
        model: The ``.tflite``: the very file that the device runs.
        images: A data set, such as ``{name: ClassFolders, image_root: images}``; identities go by
            their names, or by their numbers where the data set has no names.
        output: The file.
        precision: ``float16`` or ``int8``.
        threshold: Cosine from which on two images are taken for the same; by default that of
            ``card.json`` beside the model, where there is one.

    Returns:
        ``{"gallery": path, "items": ..., "identities": ..., "bytes": ..., "threshold": ...}``.

    Raises:
        ConfigError: On a model that says nothing of itself, or a data set that cannot be read.
        RunError: On an undecodable image, with its path.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import EMOJI_MINI, quickstart_config
        >>> config = quickstart_config("output/example_gallery")
        >>> exported = keras_featx.export(config, formats=["tflite"], overwrite=True)
        >>> found = keras_featx.pack_gallery(
        ...     exported["tflite"],
        ...     {"name": "ClassFolders", "image_root": str(EMOJI_MINI / "test")},
        ...     "output/example_gallery/test.kfg",
        ... )
        >>> found["items"], found["identities"]
        (240, 40)
    """
    known = read_model(model)
    if isinstance(images, Samples):
        samples = images
    else:
        tree = {"DataLoader": {"Train": {"dataset": dict(images)}}}
        samples = load_samples(from_dict(tree).DataLoader.Train.dataset.source, "dataset")
    names = [
        str(label) if samples.names is None else samples.names[label]
        for label in samples.labels.tolist()
    ]
    if threshold is None:
        threshold = _threshold(known.path.parent / "card.json")
    embeddings = np.concatenate(list(_embeddings(known, samples)))
    write_gallery(output, embeddings, names, known.fingerprint, precision, threshold)
    return {
        "gallery": os.fspath(output),
        "items": len(names),
        "identities": len(set(names)),
        "bytes": os.path.getsize(output),
        "threshold": threshold,
    }


def _embeddings(model: DeviceModel, samples: Samples) -> Iterator[np.ndarray]:
    """In batches, with a network for each core."""
    count = cores()
    networks = runtimes.open_networks(model.path, model.image_size, count).networks
    dataset = pipeline.image_dataset(samples, model.image_size, model.preprocess, _BATCH)

    def share(batch: np.ndarray, i: int) -> np.ndarray:
        return np.array([networks[i](image) for image in batch[i::count]])

    try:
        with ThreadPoolExecutor(count) as pool:
            for batch in progress(dataset, -(-len(samples) // _BATCH), "embedding", _BATCH):
                batch = batch.numpy()
                parts = list(pool.map(lambda i, b=batch: share(b, i), range(count)))
                found = np.empty((len(batch), parts[0].shape[1]), "float32")
                for i, part in enumerate(parts):
                    if len(part):
                        found[i::count] = part
                yield found
    except tf.errors.OpError as error:
        raise faults.explain(error, samples) from None


def _threshold(card: Path) -> float | None:
    try:
        threshold = json.loads(card.read_text())["threshold"]["cosine"]
    except (OSError, ValueError, KeyError, TypeError):
        log.info("no threshold: there is no card.json with one beside the model")
        return None
    log.info("threshold %.4f, from %s", threshold, card)
    return threshold
