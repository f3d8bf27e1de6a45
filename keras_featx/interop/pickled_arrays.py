"""What a pickle of NumPy arrays names, and what is made of it here: arrays, of checked arguments.

NumPy pickles an array as a call of one of its functions, which are named, and a later command that
sets shape and numbers. The functions below stand for those; nothing is looked up in NumPy.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_LARGEST_SIDE = 2**31


class Refused(ValueError):
    """What a file asks for is not arrays."""


@dataclass(frozen=True)
class Maker:
    """Stands for what a file would import.

    Attributes:
        name: Such as ``numpy.dtype``.
        make: A function of this module, called instead.
    """

    name: str
    make: Callable[..., Any]


@dataclass
class DType:
    """A type of numbers; its byte order comes with a later command."""

    code: str
    order: str = "="


@dataclass
class Unfilled:
    """An array whose shape and numbers come with a later command.

    Attributes:
        memo_keys: Where the file has it remembered meanwhile.
    """

    memo_keys: list[int] = field(default_factory=list)


def maker(module: Any, attribute: Any) -> Maker:
    """What stands for a name that a file would import; refuses all others."""
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise Refused("asks for what is no name")
    name = f"{module}.{attribute}"
    if name not in _MAKERS:
        raise Refused(f"asks for {ascii(name[:100])[1:-1]}")  # a terminal must not obey it
    return Maker(name, _MAKERS[name])


def make(called: Any, arguments: Any) -> Any:
    """What a call of a :class:`Maker` gives; refuses to call anything else."""
    if not isinstance(called, Maker) or not isinstance(arguments, tuple):
        raise Refused("calls what is no part of an array")
    try:
        return called.make(*arguments)
    except TypeError:
        raise Refused(f"calls {called.name} with other arguments than NumPy") from None


def fill(target: Any, state: Any) -> DType | np.ndarray:
    """The array of an unfilled one, or a type of numbers with its byte order."""
    if isinstance(target, DType) and isinstance(state, tuple) and len(state) >= 5:
        if all(part is None for part in state[2:5]):  # no fields, no shape of its own
            target.order = state[1]
            return target
    if isinstance(target, Unfilled) and isinstance(state, tuple) and len(state) == 5:
        _, shape, dtype, columns_first, data = state
        if isinstance(columns_first, int):
            return _array(data, dtype, shape, "F" if columns_first else "C")
    raise Refused("sets the state of what is no array of numbers")


def size(made: Any) -> int:
    """About how many bytes of memory something takes."""
    if isinstance(made, np.ndarray):
        return made.nbytes
    if isinstance(made, bytes | tuple):
        return len(made) * (8 if isinstance(made, tuple) else 1)
    return 0


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """Numbers of bytes that are in the file, so that the file bounds their count."""
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin-1")
    if not isinstance(dtype, DType) or dtype.order not in list("<>=|"):
        raise Refused("has an array without a type of numbers")
    if not isinstance(shape, tuple) or not all(_is_side(side) for side in shape):
        raise Refused("has an array without a shape")
    if not isinstance(data, bytes | bytearray) or order not in list("CF"):
        raise Refused("has an array without numbers")
    kind = np.dtype(dtype.code).newbyteorder(dtype.order)
    expected = math.prod(shape) * kind.itemsize
    if len(data) != expected:
        raise Refused(
            f"has an array of {kind.name} and the shape {shape}, {expected} bytes, in {len(data)}"
        )
    found = np.frombuffer(data, kind) if data else np.empty(0, kind)
    return found.reshape(shape, order=order).astype(kind.newbyteorder("="), copy=False)


def _is_side(side: Any) -> bool:
    return type(side) is int and 0 <= side < _LARGEST_SIDE


def _dtype(code: Any, align: Any = False, copy: Any = False) -> DType:
    if not isinstance(code, str) or not re.fullmatch("b1|[iu][1248]|f[248]", code):
        shown = ascii(code[:100]) if isinstance(code, str) else "no text"
        raise Refused(f"has an array of the type {shown}")
    return DType(code)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Unfilled:
    if not isinstance(kind, Maker) or kind.make is not _ndarray:
        raise Refused("makes an array of another kind than numpy.ndarray")
    return Unfilled()


def _ndarray() -> None:
    raise Refused("calls numpy.ndarray")


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 of Python 3 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("encodes what is no text of latin1")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """How protocol 2 of Python 3 writes those of an array without numbers."""
    return b""


def _tuple(items: Any) -> tuple:
    if not isinstance(items, tuple | list):
        raise Refused("makes a tuple of what is no list")
    return tuple(items)


def _ordered_dict() -> dict:
    return {}


_MAKERS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "builtins.tuple": _tuple,
    "__builtin__.tuple": _tuple,
    "collections.OrderedDict": _ordered_dict,
}
for _core in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    _MAKERS[f"{_core}.multiarray._reconstruct"] = _reconstruct
    _MAKERS[f"{_core}.numeric._frombuffer"] = _array
