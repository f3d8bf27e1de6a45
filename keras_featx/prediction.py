"""Features of images: in memory, or into a file with their paths."""

import io
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_featx.data import outputs
from keras_featx.data.files import find_images
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError
from keras_featx.fingerprints import fingerprint
from keras_featx.models import build_model
from keras_featx.sections import Config

log = logging.getLogger(__name__)


def predict(
    config: Config,
    images: str | os.PathLike | Sequence[str | os.PathLike],
    model: keras.Model | None = None,
    batch_size: int = 64,
) -> tuple[list[str], np.ndarray]:
    """Embed images, given as files or folders.

    Args:
        config: Names the network and, in ``Global.pretrained_model``, its weights.
        images: One or several files or folders; folders are searched through.
        model: The extractor, where it is built already.
        batch_size: Images at a time.

    Returns:
        The paths, and their embeddings: float32 ``(images, embedding_size)``, unit norm.

    Raises:
        ConfigError: If there is no image, or no weights are named.
        RunError: On an undecodable image, with its path.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import EMOJI_MINI, quickstart_config
        >>> paths, features = keras_featx.predict(quickstart_config(), EMOJI_MINI / "test")
        >>> features.shape
        (240, 256)
    """
    if isinstance(images, str | os.PathLike):
        images = [images]
    if batch_size < 1:
        raise ConfigError(f"batch size: expected at least 1, got {batch_size}")
    paths = [path for item in images for path in find_images(item)]
    model = _extractor(config) if model is None else model
    return paths, embed(model, paths, config.Arch.Preprocess, batch_size)


def _extractor(config: Config) -> keras.Model:
    if not config.Global.pretrained_model:
        raise ConfigError("Global.pretrained_model: expected the weights to use, got null")
    return build_model(config)


def predict_to_file(
    config: Config, images: Sequence[str], output: str | os.PathLike, batch_size: int = 64
) -> dict[str, Any]:
    """Embed images into ``.npz`` (arrays ``paths``, ``features``, ``fingerprint``) or ``.jsonl``.

    A line of ``.jsonl`` is ``{"path": ..., "feature": [...]}``. Returns what was written and how
    fast.
    """
    output = Path(output)
    if output.suffix not in (".npz", ".jsonl"):
        raise ConfigError(
            f"--output: expected a name ending in .npz or .jsonl, got {str(output)!r}"
        )
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise ConfigError(f"--output: expected a folder that can be written, got {output.parent}")
    started = time.perf_counter()
    paths = [path for item in images for path in find_images(item)]
    model = _extractor(config)
    paths, features = predict(config, paths, model, batch_size)
    seconds = time.perf_counter() - started
    if output.suffix == ".npz":
        buffer = io.BytesIO()
        known = fingerprint(model.get_weights(), config.Arch.Preprocess)
        np.savez(buffer, paths=np.array(paths), features=features, fingerprint=known)
        outputs.write_bytes(output, buffer.getbuffer())
    else:
        lines = [
            json.dumps({"path": path, "feature": [float(f"{x:.9g}") for x in feature]})
            for path, feature in zip(paths, features.tolist(), strict=True)
        ]
        outputs.write_bytes(output, ("\n".join(lines) + "\n").encode())
    return {
        "output": str(output),
        "images": len(paths),
        "embedding_size": features.shape[1],
        "seconds": round(seconds, 2),
    }
