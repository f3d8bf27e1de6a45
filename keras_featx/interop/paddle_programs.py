"""What a program that Paddle exported says of its parameters, read without Paddle.

Paddle up to 2.6 writes ``.pdmodel``, Protocol Buffers of ``framework.proto``; Paddle 3 writes
``.json``. The numbers lie in one ``.pdiparams`` beside it, in the order of the parameters' names.
"""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_featx.data import examples
from keras_featx.errors import ConfigError, first_line

# Field numbers of framework.proto.
_BLOCKS, _VARS, _OPS = 1, 3, 4
_VAR_NAME, _VAR_TYPE, _VAR_PERSISTABLE = 1, 2, 3
_KIND, _TENSOR, _TENSOR_DESC = 1, 3, 1
_DATA_TYPE, _DIMS = 1, 2
_DENSE = 7  # the kind of variable that is a tensor; others are the program's input and output
_OP_TYPE, _OP_ATTRIBUTES, _ATTRIBUTE_NAME, _FLOAT, _TEXT = 3, 4, 1, 4, 5
_SCALES_INFERENCE = "downgrade_in_infer"
# What reading other bytes as a program ends in.
_NO_PROGRAM = (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error)


@dataclass(frozen=True)
class Program:
    """The parameters of an exported network.

    Attributes:
        shapes: By the name of the parameter, in the order of ``.pdiparams``.
        feature_scale: What dropout layers multiply their input with at inference, 1 for none.
    """

    shapes: dict[str, tuple[int, ...]]
    feature_scale: float


def read_program(path: str | os.PathLike) -> Program:
    """Read a ``.pdmodel`` or ``.json`` file.

    Raises:
        ConfigError: If it is none.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        shapes, scale = _of_json(data) if str(path).endswith(".json") else _of_pdmodel(data)
        program = Program(dict(sorted(shapes.items())), scale)
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable file: {error.strerror}") from None
    except _NO_PROGRAM as error:
        raise ConfigError(f"{path}: expected a program of Paddle: {first_line(error)}") from None
    if not shapes:
        raise ConfigError(f"{path}: expected a program of Paddle with parameters, got none")
    return program


def tensor_description(data: bytes, first: int, end: int) -> tuple[int, tuple[int, ...]]:
    """The data type (a number of ``framework.proto``) and the shape of a tensor.

    Raises:
        ValueError: If the bytes are none.
    """
    kind, dims = None, []
    for number, value in examples.fields(data, first, end):
        if number == _DATA_TYPE:
            kind = value
        elif number == _DIMS:
            dims.append(value)
    if not isinstance(kind, int) or not all(isinstance(side, int) for side in dims):
        raise ValueError("a tensor without a data type")
    return kind, tuple(dims)


def _of_pdmodel(data: bytes) -> tuple[dict[str, tuple[int, ...]], float]:
    shapes, scale = {}, 1.0
    for block in _all(data, (0, len(data)), _BLOCKS):
        for variable in _all(data, block, _VARS):
            found = dict(examples.fields(data, *variable))
            kind = dict(examples.fields(data, *found[_VAR_TYPE]))
            if found.get(_VAR_PERSISTABLE) and kind[_KIND] == _DENSE:
                (tensor,) = _all(data, kind[_TENSOR], _TENSOR_DESC)
                shapes[_text(data, found[_VAR_NAME])] = tensor_description(data, *tensor)[1]
        for operation in _all(data, block, _OPS):
            (kind,) = _all(data, operation, _OP_TYPE)
            if _text(data, kind) == "dropout":
                scale *= _pdmodel_dropout(data, operation)
    return shapes, scale


def _pdmodel_dropout(data: bytes, operation: tuple[int, int]) -> float:
    mode, rate = None, None
    for attribute in _all(data, operation, _OP_ATTRIBUTES):
        found = dict(examples.fields(data, *attribute))
        name = _text(data, found[_ATTRIBUTE_NAME])
        if name == "dropout_implementation":
            mode = _text(data, found[_TEXT])
        elif name == "dropout_prob":
            (rate,) = struct.unpack("<f", data[slice(*found[_FLOAT])])
    return _scale(mode, rate)


def _of_json(data: bytes) -> tuple[dict[str, tuple[int, ...]], float]:
    ((block,),) = (region["blocks"] for region in json.loads(data)["program"]["regions"])
    shapes, scale, constants = {}, 1.0, {}
    for operation in block["ops"]:
        kind = operation["#"]
        if kind == "p":
            shapes[operation["A"][-1]] = tuple(operation["O"]["TT"]["D"][1])
        elif kind == "1.full":
            constants[operation["O"][0]["%"]] = _attribute(operation, "value")
        elif kind == "1.dropout":
            rate = constants[operation["I"][2]["%"]]
            scale *= _scale(_attribute(operation, "mode"), rate)
    return shapes, scale


def _attribute(operation: dict, name: str) -> Any:
    return {a["N"]: a["AT"]["D"] for a in operation["A"]}[name]


def _scale(mode: str | None, rate: float | None) -> float:
    if mode != _SCALES_INFERENCE:
        return 1.0
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout of {rate}")
    return round(1 - rate, 6)  # written as float32: 0.2 and not 0.20000000298


def _all(data: bytes, place: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    """Where the fields of a number are in a message."""
    for number, value in examples.fields(data, *place):
        if number == wanted:
            if isinstance(value, int):
                raise ValueError(f"a number as field {number}")
            yield value


def _text(data: bytes, place: tuple[int, int]) -> str:
    return data[slice(*place)].decode()
