"""A pickle file of arrays, read without executing anything of it.

A pickle is a program for a small stack machine: its commands import whatever they name and call it.
Here nothing is unpickled. :mod:`pickletools` splits the file into commands, which carries out none
of them, and the loop below carries out those that make dicts, lists, tuples, texts, numbers and
NumPy arrays, on a list of its own. What a command would import is looked up as a text in a table of
:mod:`~keras_featx.interop.pickled_arrays` and never in Python; what is not in it ends the reading.
So all that is ever called are the functions of that table, which check their arguments and make
nothing but numbers. Nothing sets an attribute that a file names, and commands that are not listed
are refused.

Nor can a small file ask for much memory: every text and array is made of bytes that are in the
file, as reading from a memory map ends where the file ends, and what is made of the same bytes
again and again is added up.
"""

import mmap
import os
import pickletools
from collections.abc import Callable
from typing import Any

from keras_featx.errors import ConfigError, first_line
from keras_featx.interop.pickled_arrays import Refused, Unfilled, fill, make, maker, size

# Commands that push what stands behind them in the file.
_VALUES = set(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE "
    "BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 SHORT_BINSTRING "
    "BINSTRING".split()
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# First bytes of files that are often taken for a pickle of weights.
_OTHERS = {
    b"PK\x03\x04": "a zip archive, such as .npz or a file of PyTorch",
    b"\x89HDF": "an HDF5 file",
    b"\0\0\0\0": "bare tensors, such as those of .pdiparams",
}
_MARK = object()


def read(path: str | os.PathLike) -> Any:
    """Read a pickle of dicts, lists, tuples, texts, numbers and NumPy arrays.

    Args:
        path: A file of pickle protocol 2 to 5, written by any version of NumPy.

    Returns:
        The value. Its arrays have the machine's byte order and may be read-only.

    Raises:
        ConfigError: If the file would import anything else (the message names it), is damaged, or
            is no pickle.
    """
    try:
        with open(path, "rb") as file:
            _check_beginning(file.read(4))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                value = _run(data)
                if data.tell() != len(data):
                    raise Refused(f"has {len(data) - data.tell()} bytes behind its end")
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable file: {error.strerror}") from None
    except Refused as error:
        raise ConfigError(f"{path}: expected a pickle of arrays alone, but it {error}") from None
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: expected a whole pickle: {first_line(error)}") from None
    return value


def _check_beginning(begin: bytes) -> None:
    if begin in _OTHERS:
        raise Refused(f"is {_OTHERS[begin]}")
    if len(begin) < 2 or begin[0] != 0x80 or not 2 <= begin[1] <= 5:
        raise Refused(f"begins with {begin!r} instead of pickle protocol 2 to 5")


def _run(data: mmap.mmap) -> Any:
    """Carry out the commands of a file."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    made = 0
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _SHORT_TUPLES:
            items = [_pop(stack) for _ in range(_SHORT_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            _remember(memo, len(memo) if name == "MEMOIZE" else argument, stack)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in memo:
                raise Refused(f"asks for entry {argument} of its memo, which is not there")
            stack.append(memo[argument])
        else:
            _command(name, argument, stack, memo)
            if name in ("REDUCE", "BUILD"):
                made += size(stack[-1])
                if made > 4 * len(data):  # each array once, and its bytes out of a text
                    raise Refused("makes more than it holds")
    value = _pop(stack)
    if stack:
        raise Refused("leaves values over")
    return value


def _command(name: str, argument: Any, stack: list, memo: dict[int, Any]) -> None:
    """Carry out one of the commands that are neither a value nor about the memo."""
    match name:
        case "PROTO" | "FRAME" | "STOP":
            pass
        case "MARK":
            stack.append(_MARK)
        case "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        case "LIST":
            stack.append(_pop_to_mark(stack))
        case "APPEND":
            item = _pop(stack)
            _top(stack, list).append(item)
        case "APPENDS":
            items = _pop_to_mark(stack)
            _top(stack, list).extend(items)
        case "DICT":
            items = _pop_to_mark(stack)
            stack.append({})
            _set_items(stack[-1], items)
        case "SETITEM":
            value, key = _pop(stack), _pop(stack)
            _set_items(_top(stack, dict), [key, value])
        case "SETITEMS":
            items = _pop_to_mark(stack)
            _set_items(_top(stack, dict), items)
        case "GLOBAL":
            stack.append(maker(*argument.split(" ", 1)))
        case "STACK_GLOBAL":
            attribute, module = _pop(stack), _pop(stack)
            stack.append(maker(module, attribute))
        case "REDUCE":
            arguments, called = _pop(stack), _pop(stack)
            stack.append(make(called, arguments))
        case "BUILD":
            state, target = _pop(stack), _pop(stack)
            stack.append(fill(target, state))
            if isinstance(target, Unfilled):
                memo.update(dict.fromkeys(target.memo_keys, stack[-1]))
        case _:
            if name == "INST":
                maker(*argument.split(" ", 1))  # says what it asks for
            raise Refused(f"has the command {name}")


def _pop(stack: list) -> Any:
    _check_operand(stack)
    return stack.pop()


def _pop_to_mark(stack: list) -> list:
    items = []
    while stack:
        item = stack.pop()
        if item is _MARK:
            return items[::-1]
        items.append(item)
    raise Refused("has a command without its operands")


def _check_operand(stack: list) -> None:
    if not stack or stack[-1] is _MARK:
        raise Refused("has a command without its operands")


def _top(stack: list, kind: type) -> Any:
    if not stack or type(stack[-1]) is not kind:
        raise Refused(f"puts something into what is no {kind.__name__}")
    return stack[-1]


def _set_items(target: dict, items: list) -> None:
    if len(items) % 2:
        raise Refused("has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int):
            raise Refused(f"has a key of the type {type(key).__name__}")
        if key in target:
            raise Refused(f"has the key {ascii(key)[:100]} twice")
        target[key] = value


def _remember(memo: dict[int, Any], key: int, stack: list) -> None:
    _check_operand(stack)
    memo[key] = stack[-1]
    if isinstance(stack[-1], Unfilled):
        stack[-1].memo_keys.append(key)
