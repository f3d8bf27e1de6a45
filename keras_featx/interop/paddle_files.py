"""Paddle's weight files as named arrays, without Paddle and without executing anything of them."""

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.interop import pickles
from keras_featx.interop.paddle_programs import Program, read_program, tensor_description

# Beside the arrays a .pdparams file holds a table from their names to those of the framework.
_FRAMEWORK_NAMES = "StructuredToParameterName@@"
# Data types of framework.proto; bfloat16 comes as its two bytes.
_TYPES = {0: "b1", 1: "i2", 2: "i4", 3: "i8", 4: "f2", 5: "f4", 6: "f8", 20: "u1", 21: "i1"}
_TYPES |= {22: "u2"}
_MODELS = (".pdmodel", ".json")


@dataclass(frozen=True)
class Exported:
    """The parameters of an exported network.

    Attributes:
        arrays: By name: such as ``base_model.backbone.conv1.conv.weight`` where the file
            ``.pdiparams.info`` tells names of layers, else numbered, such as ``conv2d_0.w_0``.
        numbered: Whether they are.
        program: What the network's own file says.
    """

    arrays: dict[str, np.ndarray]
    numbered: bool
    program: Program


def read_pdparams(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read what ``paddle.save(layer.state_dict(), path)`` wrote, by whatever version.

    Args:
        path: A ``.pdparams`` file.

    Returns:
        Arrays by name, maybe read-only. bfloat16, which Paddle writes as uint16, becomes float32.

    Raises:
        ConfigError: If the file holds anything but arrays, or is damaged. Nothing of it is executed
            (see :mod:`keras_featx.interop.pickles`).
    """
    tree = pickles.read(path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected arrays by name, got {type(tree).__name__}")
    arrays, widened = {}, {}
    for name, value in tree.items():
        if name == _FRAMEWORK_NAMES and isinstance(value, dict):
            continue
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            value = value[1]  # a tensor: its name in the framework and its numbers
        _check_name(name, path)
        if not isinstance(value, np.ndarray):
            raise ConfigError(f"{path}: {name}: expected an array, got {type(value).__name__}")
        if id(value) not in widened:  # one array may have several names
            widened[id(value)] = _widen(value)
        arrays[name] = widened[id(value)]
    return arrays


def read_pdiparams(path: str | os.PathLike, model: str | os.PathLike | None = None) -> Exported:
    """Read the parameters that ``paddle.jit.save`` wrote, such as those of PaddleClas' exports.

    Args:
        path: A ``.pdiparams`` file, which holds numbers without names.
        model: The ``.pdmodel`` or ``.json`` file that names them; by default the one beside it.

    Raises:
        ConfigError: If there is no such file beside it, or the two do not belong together.
    """
    path = Path(path)
    program = read_program(_beside(path) if model is None else model)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable file: {error.strerror}") from None
    arrays, place = {}, 0
    for name, shape in program.shapes.items():
        try:
            array, place = _tensor(data, place)
        except (ValueError, OverflowError, struct.error) as error:
            raise ConfigError(f"{path}: {name}: expected a tensor of Paddle: {error}") from None
        if array.shape != shape:
            raise ConfigError(
                f"{path}: {name}: expected shape {shape} as the network's file says, got "
                f"{array.shape}"
            )
        arrays[name] = _widen(array)
    if place != len(data):
        raise ConfigError(
            f"{path}: expected the {len(arrays)} tensors that the network's file names, got "
            f"{len(data) - place} bytes more"
        )
    info = Path(f"{path}.info")
    if not info.is_file():
        return Exported(arrays, True, program)
    return Exported(_named(arrays, info), False, program)


def _beside(path: Path) -> Path:
    """The file that names the parameters."""
    for suffix in _MODELS:
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    raise ConfigError(
        f"{path}: holds numbers without names: expected the network's file, "
        f"{path.stem}.pdmodel or {path.stem}.json, beside it, or --model"
    )


def _named(arrays: dict[str, np.ndarray], info: Path) -> dict[str, np.ndarray]:
    """Arrays under the names of their layers."""
    table, named = pickles.read(info), {}
    for name, array in arrays.items():
        entry = table.get(name) if isinstance(table, dict) else None
        layer = entry.get("structured_name") if isinstance(entry, dict) else None
        _check_name(layer, info)
        if layer in named:
            raise ConfigError(f"{info}: {layer}: expected once, got it for {name} too")
        named[layer] = array
    return named


def _tensor(data: bytes, place: int) -> tuple[np.ndarray, int]:
    """The tensor at a place, and the place behind it."""
    version, levels = struct.unpack_from("<IQ", data, place)
    inner_version, length = struct.unpack_from("<Ii", data, place + 12)
    if version or levels or inner_version:
        raise ValueError("another version, or rows of different lengths")
    first = place + 20
    if not 0 <= length <= len(data) - first:
        raise ValueError(f"a description of {length} bytes where {len(data) - first} are left")
    kind, shape = tensor_description(data, first, first + length)
    if kind not in _TYPES:
        raise ValueError(f"numbers of the unknown type {kind}")
    dtype, count = np.dtype(f"<{_TYPES[kind]}"), math.prod(shape)
    first, size = first + length, count * dtype.itemsize
    if size > len(data) - first:
        raise ValueError(f"shape {shape}, {size} bytes, where {len(data) - first} are left")
    found = np.frombuffer(data, dtype, count, first) if count else np.empty(0, dtype)
    return found.reshape(shape), first + size


def _widen(array: np.ndarray) -> np.ndarray:
    """bfloat16, which has no type in NumPy, as float32: the same numbers."""
    if array.dtype != np.uint16:
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _check_name(name: object, path: str | os.PathLike) -> None:
    if not isinstance(name, str) or not name.isprintable():
        shown = ascii(name)[:100] if isinstance(name, str) else type(name).__name__
        raise ConfigError(f"{path}: expected a printable name of an array, got {shown}")
