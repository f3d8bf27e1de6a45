"""Weights on disk: ``.npz`` files of plain arrays, written whole or not at all.

A weights folder (``best_model``, ``latest``, or one shipped with the package) holds
``weights.npz``, whose arrays carry the variables' paths (``extractor/conv1_conv/kernel``,
``head/centres``; ``training/...`` is only of use to resume), and ``config.yaml``, the config that
made them. ``class_names`` holds the identities' names where the training list has names, joined by
zero bytes, so that class centres are found again by name. Reading executes nothing: no pickle, no
code.
"""

import io
import json
import logging
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_featx import distribute
from keras_featx.config import load_config
from keras_featx.data import outputs
from keras_featx.errors import ConfigError, RunError
from keras_featx.sections import ArchSection, Config

WEIGHTS, CONFIG = "weights.npz", "config.yaml"
TRAINING = "training/"
CLASS_NAMES = "class_names"
# Arrays of a head that have a row (or sub_centres rows) for each class.
PER_CLASS = ("head/centres", "head/bias", "head/class_margins")
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
    class_names: Sequence[str] | None = None,
) -> np.ndarray | None:
    """Load weights into an extractor and, where they fit, a head.

    Every weight of the extractor must be in the file with its shape. Class centres are loaded by
    name where both sides have names, else whole where the shapes agree; what was matched, added
    and dropped is logged. With ``arch``, a difference in preprocessing is logged as a warning, as
    it changes what the weights see.

    Returns:
        Which classes of the head got their centres, bool ``(classes,)``; ``None`` without head.
    """
    folder = weights_folder(name_or_path)
    arrays, _ = read_arrays(folder / WEIGHTS)
    names = decode_names(arrays.pop(CLASS_NAMES, None))
    arrays = {k: v for k, v in arrays.items() if not k.startswith((TRAINING, "loss/"))}
    wanted = named_variables(extractor, "extractor")
    assign(wanted, {k: v for k, v in arrays.items() if k in wanted}, str(folder / WEIGHTS))
    unused = [k for k in arrays if k not in wanted]
    foreign = [k for k in unused if not k.startswith("head/")]
    if foreign:
        raise ConfigError(
            f"{folder / WEIGHTS}: {foreign[0]} (and {len(foreign) - 1} more) has no place in this "
            "network: expected weights of the same architecture"
        )
    loaded = None
    if head is not None:
        loaded = _load_head(head, {k: arrays[k] for k in unused}, names, class_names, folder)
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
    return loaded


def _load_head(head, arrays, names, class_names, folder: Path) -> np.ndarray:
    wanted = named_variables(head, "head")
    if not arrays:
        log.info("%s holds no head: fresh class centres", folder)
    elif names is not None and class_names is not None:
        return _load_by_name(wanted, arrays, names, class_names, folder)
    elif {k: v.shape for k, v in arrays.items()} != {
        k: distribute.shape(v) for k, v in wanted.items()
    }:
        theirs = arrays["head/centres"].shape if "head/centres" in arrays else sorted(arrays)
        log.info("fresh class centres: %s holds centres of %s", folder, theirs)
    else:
        assign(wanted, arrays, str(folder / WEIGHTS))
        return np.ones(head.class_num, bool)
    return np.zeros(head.class_num, bool)


def _load_by_name(wanted, arrays, names, class_names, folder: Path) -> np.ndarray:
    """Load what a head keeps per class by the classes' names; the rest where shapes agree."""
    index = {name: i for i, name in enumerate(names)}
    source = np.array([index.get(name, -1) for name in class_names])
    found = source >= 0
    for path, variable in wanted.items():
        array, shape = arrays.get(path), distribute.shape(variable)
        if array is None:
            continue
        if path in PER_CLASS:
            each = shape[0] // len(class_names)  # sub-centres
            if array.shape != (len(names) * each, *shape[1:]):
                log.info("fresh class centres: %s: %s of %s", folder, path, array.shape)
                return np.zeros(len(class_names), bool)
            value = distribute.read(variable).reshape(len(class_names), each, *shape[1:])
            value[found] = array.reshape(len(names), each, *shape[1:])[source[found]]
            distribute.write(variable, value.reshape(shape))
        elif array.shape == shape:
            distribute.write(variable, array)
    log.info(
        "class centres of %s by name: %d matched, %d added, %d dropped",
        folder,
        found.sum(),
        (~found).sum(),
        len(names) - found.sum(),
    )
    return found


def encode_names(names: Sequence[str]) -> np.ndarray:
    """Class names as one array of bytes."""
    return np.frombuffer("\0".join(names).encode(), np.uint8)


def decode_names(array: np.ndarray | None) -> list[str] | None:
    """What :func:`encode_names` wrote."""
    return None if array is None else array.tobytes().decode().split("\0")


def named_variables(layer: keras.Layer, prefix: str) -> dict[str, keras.Variable]:
    """Variables by ``prefix/path``; the path of a head starts below the head's own name."""
    kept = [v for v in layer.weights if not distribute.is_transient(v)]
    named = {}
    for variable in kept:
        path = variable.path.removeprefix("classifier/")
        named[f"{prefix}/{path.removeprefix(prefix + '/')}"] = variable
    if len(named) != len(kept):
        raise RunError(f"{layer.name}: two weights share a path; expected unique layer names")
    return named


def assign(
    variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray], source: str
) -> None:
    """Set every variable, after checking that each has an array of its shape."""
    for path, variable in variables.items():
        if path not in arrays:
            raise ConfigError(
                f"{source}: {path}: missing; expected shape {distribute.shape(variable)}"
            )
        if arrays[path].shape != distribute.shape(variable):
            raise ConfigError(
                f"{source}: {path}: expected shape {distribute.shape(variable)}, "
                f"got {arrays[path].shape}"
            )
    for path, variable in variables.items():
        distribute.write(variable, arrays[path])


def save_weights(
    folder: str | os.PathLike,
    config_yaml: str,
    extractor: keras.Model,
    head: keras.Layer | None = None,
    state: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write a weights folder; an interrupted write leaves the former file whole."""
    variables = named_variables(extractor, "extractor")
    if head is not None:
        variables |= named_variables(head, "head")
    save_variables(folder, config_yaml, variables, state or {}, class_names)


def save_variables(
    folder: str | os.PathLike,
    config_yaml: str,
    variables: Mapping[str, keras.Variable],
    state: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
) -> None:
    """Write named variables, a JSON-able state and the config as a weights folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    outputs.write_bytes(folder / CONFIG, config_yaml.encode())
    arrays = {k: distribute.read(v) for k, v in variables.items()}
    if class_names is not None:
        arrays[CLASS_NAMES] = encode_names(class_names)
    write_arrays(folder / WEIGHTS, arrays, state)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Write named arrays and a JSON-able state as one ``.npz``."""
    buffer = io.BytesIO()
    np.savez(buffer, **{"__state__": np.array(json.dumps(state))}, **arrays)
    outputs.write_bytes(path, buffer.getbuffer())


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
