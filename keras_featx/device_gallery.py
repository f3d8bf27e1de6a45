"""From an exported ``.tflite`` and images of known identities to the gallery file of devices."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_featx.config import from_dict
from keras_featx.data.samples import Samples, load_samples
from keras_featx.extractors import BATCH, open_extractor, read_model
from keras_featx.gallery_file import write_gallery
from keras_featx.progress import progress

log = logging.getLogger(__name__)


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
    read_model(model)  # an extractor of another kind is not what the device runs
    extractor = open_extractor(model)
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
        threshold = extractor.threshold
        told = (
            "there is no card.json with one beside the model"
            if threshold is None
            else "of its card"
        )
        log.info("threshold %s: %s", threshold, told)
    steps = -(-len(samples) // BATCH)
    parts = list(progress(extractor.embed(samples, BATCH), steps, "embedding", BATCH))
    embeddings = np.concatenate(parts)
    write_gallery(output, embeddings, names, extractor.fingerprint, precision, threshold)
    return {
        "gallery": os.fspath(output),
        "items": len(names),
        "identities": len(set(names)),
        "bytes": os.path.getsize(output),
        "threshold": threshold,
    }
