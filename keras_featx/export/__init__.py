"""Write an extractor for other runtimes, and prove each artefact equal to Keras."""

import logging
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
    if model is None:
        from keras_featx.models import build_model

        model = build_model(config)

    from keras_featx.evaluation import embed
    from keras_featx.export import litert, saved_model, verify

    folder = Path(config.Global.save_inference_dir or Path(config.Global.output_dir) / "inference")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"Global.save_inference_dir: expected a folder that can be written, got "
            f"{str(folder)!r}: {error.strerror}"
        ) from None
    paths = list(images or _example_images(config))
    size, preprocess = model.input_shape[1:3], config.Arch.Preprocess
    expected = embed(model, paths, preprocess)
    result: dict[str, Any] = {}
    largest = 0.0
    for name in formats:
        if name == "saved_model":
            artefact = saved_model.save(model, preprocess, folder / "saved_model")
            found = verify.saved_model(artefact, paths, size, preprocess)
        else:
            artefact = litert.save(model, folder)
            found = verify.tflite(artefact, paths, size, preprocess)
        difference = verify.compare(expected, found, artefact)
        log.info("%s: within %.2g of Keras on %d images", artefact, difference, len(paths))
        largest = max(largest, difference)
        result[name] = str(artefact)
    return {**result, "largest_difference": largest, "images": len(paths)}


def _example_images(config: Config, count: int = 8) -> list[str]:
    """Real images to compare on."""
    from keras_featx.data.lists import find_images, load_samples

    section = config.DataLoader.Eval
    if section is not None:
        try:
            query = load_samples(section.Query.dataset, "DataLoader.Eval.Query.dataset")
            return query.paths[:count]
        except ConfigError as error:
            log.info("comparing on the package's own pictures: %s", error)
    found = find_images(EXAMPLES)
    return found[:: max(len(found) // count, 1)][:count]
