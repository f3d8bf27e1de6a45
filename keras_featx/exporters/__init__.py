"""Write an extractor for other runtimes, and prove each artefact equal to Keras.

(Named so, as a package called `export` would hide the function `keras_featx.export`.)
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_featx.errors import ConfigError
from keras_featx.sections import Config

FORMATS = ("saved_model", "tflite")
EXAMPLES = Path(__file__).parent.parent / "assets" / "emoji_mini"

log = logging.getLogger(__name__)


def export(
    config: Config,
    model=None,
    formats: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write a SavedModel and a .tflite, open both again and compare them with Keras.

    Args:
        config: ``Global.save_inference_dir`` (or ``output_dir/inference``) says where.
        model: The extractor; built from the config (with ``Global.pretrained_model``) if absent.
        formats: Of ``saved_model`` and ``tflite``; both if absent.
        images: Image files to compare on; by default the first queries of the config, where it
            names some that are there, else pictures that ship with the package.

    Returns:
        ``{"saved_model": path, "tflite": path, "largest_difference": of any number of an
        embedding, "images": compared}``.

    Raises:
        ConfigError: On an unknown format, or without weights.
        RunError: When an artefact differs from Keras by more than 1e-4.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import quickstart_config
        >>> config = quickstart_config("output/example")
        >>> result = keras_featx.export(config, formats=["tflite"])
        >>> result["largest_difference"] < 1e-4
        True
    """
    formats = list(formats or FORMATS)
    unknown = [f for f in formats if f not in FORMATS]
    if unknown:
        raise ConfigError(f"format: expected one of {list(FORMATS)}, got {unknown[0]!r}")
    if model is None and not config.Global.pretrained_model:
        raise ConfigError("Global.pretrained_model: expected the weights to export, got null")

    from keras_featx.embedding import embed
    from keras_featx.exporters import litert, saved_model, verify
    from keras_featx.models import build_model

    model = model or build_model(config)
    folder = _folder(config)
    paths = list(images or _example_images(config))
    size, preprocess = model.input_shape[1:3], config.Arch.Preprocess
    expected = embed(model, paths, preprocess)
    verify.check_unit_norm(expected)
    writers = {
        # TensorFlow Serving watches a folder of numbered versions.
        "saved_model": (folder / "saved_model" / "1", saved_model.save, verify.saved_model),
        "tflite": (folder / "model.tflite", litert.save, verify.tflite),
    }
    result: dict[str, Any] = {}
    largest = 0.0
    for name in formats:
        path, save, run = writers[name]
        beside = path.with_name(f"{path.name}.tmp")
        path.parent.mkdir(exist_ok=True)
        _remove(beside)
        save(model, preprocess, beside)
        difference = verify.compare(expected, run(beside, paths, size, preprocess), path)
        _remove(path)
        beside.rename(path)
        log.info("%s: within %.2g of Keras on %d images", path, difference, len(paths))
        largest = max(largest, difference)
        result[name] = str(path)
    return {**result, "largest_difference": largest, "images": len(paths)}


def _folder(config: Config) -> Path:
    folder = Path(config.Global.save_inference_dir or Path(config.Global.output_dir) / "inference")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"Global.save_inference_dir: expected a folder that can be written, got "
            f"{str(folder)!r}: {error.strerror}"
        ) from None
    return folder


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _example_images(config: Config, count: int = 8) -> list[str]:
    """Real images to compare on."""
    from keras_featx.data.files import find_images
    from keras_featx.data.samples import load_samples

    section = config.DataLoader.Eval
    if section is not None:
        key, pair = next(iter(section.pairs().values()))
        try:
            query = load_samples(pair.Query.dataset, f"{key}.Query.dataset")
            return query.paths[:count]
        except ConfigError as error:
            log.info("comparing on the package's own pictures: %s", error)
    found = find_images(EXAMPLES)
    return found[:: max(len(found) // count, 1)][:count]
