"""From an exported ``.tflite`` and images of known identities to the gallery file of devices."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_featx.config import from_dict
from keras_featx.data.samples import Samples, load_samples
from keras_featx.errors import ConfigError
from keras_featx.extractors import BATCH, Extractor, open_extractor, read_model
from keras_featx.gallery.opened import Opened
from keras_featx.gallery_file import write_gallery
from keras_featx.progress import progress

log = logging.getLogger(__name__)


def pack_gallery(
    model: str | os.PathLike,
    images: Mapping[str, Any] | Samples | Opened,
    output: str | os.PathLike,
    precision: str = "float16",
    threshold: float | None = None,
) -> dict[str, Any]:
    """Embed images by a ``.tflite`` and write the gallery file of devices.

    Args:
        model: The ``.tflite``: the very file that the device runs.
        images: A data set, such as ``{name: ClassFolders, image_root: images}``; identities go by
            their names, or by their numbers where the data set has no names. Or a gallery that
            the model embedded.
        output: The file.
        precision: ``float16`` or ``int8``.
        threshold: Cosine from which on two images are taken for the same; by default that of the
            gallery, or of ``card.json`` beside the model, where there is one.

    Returns:
        ``{"gallery": path, "items": ..., "identities": ..., "bytes": ..., "threshold": ...}``.

    Raises:
        ConfigError: On a model that says nothing of itself, a data set that cannot be read, or a
            gallery of another model.
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
    about = read_model(model)
    if isinstance(images, Opened):
        images.check_fingerprint(about.fingerprint)
        names, embeddings = _taken(images)
        threshold = images.settings.get("threshold") if threshold is None else threshold
    else:
        extractor = open_extractor(model)
        names, embeddings = _embedded(images, extractor)
        if threshold is None:
            threshold = extractor.threshold
            none = "there is no card.json with one beside the model"
            log.info("threshold %s: %s", threshold, none if threshold is None else "of its card")
    write_gallery(output, embeddings, names, about.fingerprint, precision, threshold)
    return {
        "gallery": os.fspath(output),
        "items": len(names),
        "identities": len(set(names)),
        "bytes": os.path.getsize(output),
        "threshold": threshold,
    }


def _embedded(
    images: Mapping[str, Any] | Samples, extractor: Extractor
) -> tuple[list[str], np.ndarray]:
    """Identity and embedding of each image."""
    if isinstance(images, Samples):
        samples = images
    else:
        tree = {"DataLoader": {"Train": {"dataset": dict(images)}}}
        samples = load_samples(from_dict(tree).DataLoader.Train.dataset.source, "dataset")
    steps = -(-len(samples) // BATCH)
    found = list(progress(extractor.embed(samples, BATCH), steps, "embedding", BATCH))
    names = [
        str(label) if samples.names is None else samples.names[label]
        for label in samples.labels.tolist()
    ]
    return names, np.concatenate(found)


def _taken(gallery: Opened) -> tuple[list[str], np.ndarray]:
    """Likewise of each item."""
    every = list(gallery.items())
    if not every:
        raise ConfigError(f"{gallery.store.folder}: expected items, got none")
    names = [name for items in every for name in items.identities]
    return names, np.concatenate([items.vectors for items in every])
