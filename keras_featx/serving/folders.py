"""What lies in a folder that is to be served: versions, files, configs. Imports no framework."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from keras_featx.config import load_config
from keras_featx.errors import ConfigError
from keras_featx.sections import ArchSection

CONFIG = "config.yaml"
DEFAULTS = ("model.tflite", "model.onnx")


@dataclass(frozen=True)
class Artefact:
    """One version of a model.

    Attributes:
        version: Its number.
        path: The ``.tflite`` or ``.onnx`` file.
        arch: The section of the config beside it: image size and preprocessing.
    """

    version: int
    path: Path
    arch: ArchSection


def find_artefacts(folder: Path, model: str | None = None) -> dict[int, Artefact]:
    """The versions in a folder, in rising order.

    Args:
        folder: An export folder, which is version 1, or a folder of numbered ones.
        model: The name of the file; by default ``model.tflite``, else ``model.onnx``.

    Raises:
        ConfigError: If a model or its config is missing or wrong.
    """
    numbered = [
        one for one in folder.iterdir() if one.is_dir() and one.name.isdecimal() and int(one.name)
    ]
    if (folder / CONFIG).exists() or any((folder / name).exists() for name in DEFAULTS):
        numbered = []
    numbers = sorted(int(one.name) for one in numbered)
    for number, following in itertools.pairwise(numbers):
        if number == following:
            raise ConfigError(f"{folder}: expected one folder for version {number}, got two")
    found: dict[int, Artefact] = {}
    for place in sorted(numbered, key=lambda one: int(one.name)) or [folder]:
        version = int(place.name) if numbered else 1
        path = _find_model(place, model)
        found[version] = Artefact(version, path, _arch(path.with_name(CONFIG)))
    return found


def _find_model(folder: Path, model: str | None) -> Path:
    wanted = (model,) if model else DEFAULTS
    for name in wanted:
        if (folder / name).is_file():
            return folder / name
    there = sorted(p.name for p in folder.iterdir() if p.suffix in (".tflite", ".onnx"))
    raise ConfigError(
        f"{folder}: expected {' or '.join(wanted)}, got {', '.join(there) or 'neither .tflite'}"
        + ("" if there else " nor .onnx")
    )


def _arch(path: Path) -> ArchSection:
    if not path.is_file():
        raise ConfigError(f"{path}: missing; expected the config of the model, for its image size")
    try:
        return load_config(path).Arch
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def choose_labels(labels: dict[str, int], versions: dict[int, object]) -> None:
    """Refuse labels of versions that are not there."""
    for label, version in labels.items():
        if version not in versions:
            raise ConfigError(
                f"--label {label}={version}: expected a version of {sorted(versions)}"
            )
