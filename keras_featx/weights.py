"""Weights on disk: ``.npz`` files of plain arrays, written whole or not at all.

A weights folder (``best_model``, ``latest``, or one shipped with the package) holds
``weights.npz``, whose arrays carry the variables' paths (``extractor/conv1_conv/kernel``,
``head/centres``; ``training/...`` is only of use to resume), and ``config.yaml``, the config that
made them. Reading executes nothing: no pickle, no code.
"""

import io
import json
import logging
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_featx.config import load_config
from keras_featx.errors import ConfigError, RunError
from keras_featx.sections import ArchSection, Config

WEIGHTS, CONFIG = "weights.npz", "config.yaml"
TRAINING = "training/"
SHIPPED = Path(__file__).parent / "assets" / "weights"

log = logging.getLogger(__name__)


def shipped() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{WEIGHTS}"))


def shipped_config(name: str) -> Config:
    """The config of shipped weights, set to load them."""
    return pretrained_config(name, [f"Global.pretrained_model={name}"])


def pretrained_config(name_or_path: str, overrides: Iterable[str] = ()) -> Config:
    """The config that lies beside pretrained weights, set to load them."""
    path = weights_folder(name_or_path) / CONFIG
    return load_config(path, ["Global.checkpoint=null", *overrides])


def weights_folder(name_or_path: str) -> Path:
    """The folder of shipped weights by name, or of a path; refuses what is neither."""
    if name_or_path in shipped():
        return SHIPPED / name_or_path
    folder = Path(name_or_path)
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(
            f"Global.pretrained_model: expected one of {shipped()} or a folder with {WEIGHTS}, "
            f"got {name_or_path!r}"
        )
    return folder


def load_pretrained(
    name_or_path: str,
    extractor: keras.Model,
    head: keras.Layer | None = None,
    arch: ArchSection | None = None,
) -> None:
    """Load weights into an extractor and, where they fit, a head.

    Every weight of the extractor must be in the file with its shape. A head of another number of
    classes keeps its fresh centres; that is logged. With ``arch``, a difference in preprocessing
    is logged as a warning, as it changes what the weights see.
    """
    folder = weights_folder(name_or_path)
    arrays, _ = read_arrays(folder / WEIGHTS)
    arrays = {k: v for k, v in arrays.items() if not k.startswith(TRAINING)}
    wanted = named_variables(extractor, "extractor")
    assign(wanted, {k: v for k, v in arrays.items() if k in wanted}, str(folder / WEIGHTS))
    unused = [k for k in arrays if k not in wanted]
    foreign = [k for k in unused if not k.startswith("head/")]
    if foreign:
        raise ConfigError(
            f"{folder / WEIGHTS}: {foreign[0]} (and {len(foreign) - 1} more) has no place in this "
            "network: expected weights of the same architecture"
        )
    if head is not None:
        _load_head(head, {k: arrays[k] for k in unused}, folder)
    if arch is not None and (folder / CONFIG).is_file():
        theirs = load_config(folder / CONFIG).Arch
        if theirs.Preprocess != arch.Preprocess:
            log.warning(
                "%s were trained with %s, this config says %s",
                name_or_path,
                theirs.Preprocess,
                arch.Preprocess,
            )
    log.info("loaded %d arrays of %s", len(wanted), name_or_path)


def _load_head(head: keras.Layer, arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    wanted = named_variables(head, "head")
    if not arrays:
        log.info("%s holds no head: fresh class centres", folder)
    elif {k: v.shape for k, v in arrays.items()} != {k: tuple(v.shape) for k, v in wanted.items()}:
        theirs = arrays["head/centres"].shape if "head/centres" in arrays else sorted(arrays)
        log.info("fresh class centres: %s holds centres of %s", folder, theirs)
    else:
        assign(wanted, arrays, str(folder / WEIGHTS))


def named_variables(layer: keras.Layer, prefix: str) -> dict[str, keras.Variable]:
    """Variables by ``prefix/path``; the path of a head starts below the head's own name."""
    named = {}
    for variable in layer.weights:
        path = variable.path.removeprefix("head/").removeprefix("classifier/")
        named[f"{prefix}/{path}"] = variable
    if len(named) != len(layer.weights):
        raise RunError(f"{layer.name}: two weights share a path; expected unique layer names")
    return named


def assign(
    variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray], source: str
) -> None:
    """Set every variable, after checking that each has an array of its shape."""
    for path, variable in variables.items():
        if path not in arrays:
            raise ConfigError(f"{source}: {path}: missing; expected shape {tuple(variable.shape)}")
        if arrays[path].shape != tuple(variable.shape):
            raise ConfigError(
                f"{source}: {path}: expected shape {tuple(variable.shape)}, "
                f"got {arrays[path].shape}"
            )
    for path, variable in variables.items():
        variable.assign(arrays[path])


def save_weights(
    folder: str | os.PathLike,
    config_yaml: str,
    extractor: keras.Model,
    head: keras.Layer | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a weights folder; an interrupted write leaves the former file whole."""
    variables = named_variables(extractor, "extractor")
    if head is not None:
        variables |= named_variables(head, "head")
    save_variables(folder, config_yaml, variables, state or {})


def save_variables(
    folder: str | os.PathLike,
    config_yaml: str,
    variables: Mapping[str, keras.Variable],
    state: Mapping[str, Any],
) -> None:
    """Write named variables, a JSON-able state and the config as a weights folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / CONFIG, config_yaml.encode())
    write_arrays(folder / WEIGHTS, {k: np.asarray(v) for k, v in variables.items()}, state)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Write named arrays and a JSON-able state as one ``.npz``."""
    buffer = io.BytesIO()
    np.savez(buffer, **{"__state__": np.array(json.dumps(state))}, **arrays)
    write_bytes(path, buffer.getbuffer())


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`write_arrays` wrote; refuses anything else, pickled objects included."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files}
        state = json.loads(str(arrays.pop("__state__", "{}")))
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable .npz file: {error.strerror}") from None
    except (ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{path}: expected an intact .npz of plain arrays: {str(error).splitlines()[0]}"
        ) from None
    return arrays, state


def write_bytes(path: Path, data) -> None:
    """Write beside, then rename: the file is the old one or the new one, never half."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
