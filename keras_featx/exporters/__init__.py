"""Write an extractor for other runtimes, and prove each artefact equal to Keras.

(Named so, as a package called `export` would hide the function `keras_featx.export`.)
"""

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_featx.data import files
from keras_featx.errors import ConfigError
from keras_featx.export_section import FORMATS
from keras_featx.sections import Config

_COMPARED = 8  # images
EXAMPLES = Path(__file__).parent.parent / "assets" / "emoji_mini"

log = logging.getLogger(__name__)


def export(
    config: Config,
    model=None,
    formats: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    overwrite: bool | None = None,
) -> dict[str, Any]:
    """Write artefacts, open each again, compare it with Keras, and only then keep them.

    Args:
        config: ``Export`` says what and how; ``Global.save_inference_dir`` (or
            ``output_dir/inference``) says where.
        model: The extractor; built from the config (with ``Global.pretrained_model``) if absent.
        formats: In place of ``Export.formats``.
        images: Image files to compare on; by default the first queries of the config, where it
            names some that are there, else pictures that ship with the package.
        overwrite: In place of ``Export.overwrite``.

    Returns:
        Paths by format (``saved_model``: of its version folder), ``largest_difference`` of any
        number of an embedding of those that compute as Keras does, ``images`` compared,
        ``variants``: all figures by format, and ``recall@1`` by format where the config has query
        and gallery.

    Raises:
        ConfigError: On an unknown format, an export that is there, or without weights.
        RunError: When an artefact falls short of ``Export.min_cosine`` or
            ``Export.max_recall_loss``. Nothing is left of it then.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import quickstart_config
        >>> config = quickstart_config("output/example")
        >>> result = keras_featx.export(config, formats=["tflite"], overwrite=True)
        >>> result["largest_difference"] < 1e-4
        True
    """
    section = config.Export
    if formats is not None:
        formats = [formats] if isinstance(formats, str) else list(formats)
        unknown = [f for f in formats if f not in FORMATS]
        if unknown:
            raise ConfigError(f"format: expected one of {list(FORMATS)}, got {unknown[0]!r}")
        section = dataclasses.replace(section, formats=tuple(formats))
    if overwrite is not None:
        section = dataclasses.replace(section, overwrite=overwrite)
    section.check("Export")
    config = dataclasses.replace(config, Export=section)
    if model is None and not config.Global.pretrained_model:
        raise ConfigError("Global.pretrained_model: expected the weights to export, got null")
    folder = config.Global.save_inference_dir or os.path.join(config.Global.output_dir, "inference")
    if files.is_remote(folder):
        raise ConfigError(f"Global.save_inference_dir: expected a local folder, got {folder!r}")
    target = Path(folder).resolve()
    check_target(target, section.overwrite)

    from keras_featx.exporters import gate, writing

    paths, skip = (list(images), False) if images else _example_images(config)
    return writing.write_export(
        config, model, target, gate.read_images(paths, skip, len(paths) if images else _COMPARED)
    )


def check_target(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or that holds something else than an export."""
    refusal = f"Global.save_inference_dir: expected a folder that can be written, got {folder}"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{refusal}: it is a file")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise ConfigError(
                f"{folder}: expected no export there, as none is overwritten unless "
                "Export.overwrite is true (--overwrite)"
            )
        _check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{refusal}: {error.strerror}") from None


def _check_replaceable(folder: Path) -> None:
    """What is deleted must be an export and nothing else."""
    try:
        known = {"parity.json", *json.loads((folder / "parity.json").read_text())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{folder}: expected an export to overwrite, got other files") from None
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in known:
            raise ConfigError(f"{folder}: expected an export to overwrite, got {name} beside it")


def _example_images(config: Config) -> tuple[list[str], bool]:
    """Real images to compare on, more than are needed, and whether bad ones are passed over."""
    from keras_featx.data.files import find_images
    from keras_featx.data.samples import load_samples

    section = config.DataLoader.Eval
    if section is not None:
        key, pair = next(iter(section.pairs().values()))
        try:
            query = load_samples(pair.Query.dataset, f"{key}.Query.dataset")
            if query.spans is None and query.pixels is None:
                return query.paths[: 4 * _COMPARED], pair.Query.bad_images == "skip"
        except ConfigError as error:
            log.info("comparing on the package's own pictures: %s", error)
    found = find_images(EXAMPLES)
    return found[:: max(len(found) // _COMPARED, 1)][:_COMPARED], False
