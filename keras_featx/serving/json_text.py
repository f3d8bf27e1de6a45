"""JSON as TensorFlow Serving reads and writes it, down to its error messages."""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_featx.serving.refusals import Refused, invalid

# Of a value that an error repeats; a request may be megabytes of pixels.
ECHO = 1000

# Python's words, and those of RapidJSON, which TensorFlow Serving reads with.
_MEANINGS = (
    ("Expecting property name", "Missing a name for object member."),
    ("Illegal trailing comma before end of object", "Missing a name for object member."),
    ("Expecting ':'", "Missing a colon after a name of object member."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid control character", "Invalid encoding in string."),
    ("Invalid \\u", "Incorrect hex digit after \\u escape in string."),
    ("Invalid \\", "Invalid escape character in string."),
    ("Extra data", "The document root must not be followed by other values."),
)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String"}


def parse(body: bytes) -> dict[str, Any]:
    """A request's body as a JSON object.

    Raises:
        Refused: If it is none, with the place of the fault in bytes.

    Example:
        >>> from keras_featx.serving.json_text import parse
        >>> parse(b'{"instances": [}')
        Traceback (most recent call last):
        keras_featx.serving.refusals.Refused: JSON Parse error: Invalid value. at offset: 15
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault("Invalid encoding in string.", error.start) from None
    if not text.strip():
        raise _fault("The document is empty.", len(body))
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        meaning, place = _meaning(error, text)
        raise _fault(meaning, len(text[:place].encode())) from None
    except (RecursionError, ValueError):  # numbers of more digits than Python reads
        raise invalid("JSON Parse error: nested too deeply, or a number of too many digits") from (
            None
        )
    if not isinstance(document, dict):
        raise about(document, "Is not object")
    return document


def _fault(meaning: str, place: int) -> Refused:
    return invalid(f"JSON Parse error: {meaning} at offset: {place}")


def _meaning(error: json.JSONDecodeError, text: str) -> tuple[str, int]:
    place = error.pos
    if error.msg.startswith("Illegal trailing comma"):  # the fault is what comes after it
        place = len(text) - len(text[place + 1 :].lstrip())
    if error.msg.startswith("Unterminated string"):
        place = len(text)
    if error.msg.startswith("Expecting ','"):
        brackets = re.sub(r"[^\[\]{}]", "", _STRING.sub("", text[:place]))
        while brackets != (brackets := re.sub(r"\[\]|\{\}", "", brackets)):
            pass
        if brackets.endswith("{"):
            return "Missing a comma or } after an object member.", place
        return "Missing a comma or ] after an array element.", place
    for start, meaning in _MEANINGS:
        if error.msg.startswith(start):
            return meaning, place
    return "Invalid value.", place


def about(value: Any, message: str) -> Refused:
    """The refusal of a value, which is repeated."""
    return invalid(f"JSON Value: {echo(value)} {message}")


def type_name(value: Any) -> str:
    """What JSON calls it."""
    if isinstance(value, bool):
        return str(value)
    return _TYPES.get(type(value), "Number")


def echo(value: Any) -> str:
    """A value as errors repeat it, cut where it is long.

    Example:
        >>> from keras_featx.serving.json_text import echo
        >>> print(echo({"instances": []}))
        {
            "instances": []
        }
    """
    text = ""
    for piece in _pieces(value, 0):
        text += piece
        if len(text) > ECHO:
            return text[:ECHO] + "..."
    return text


def _pieces(value: Any, depth: int) -> Iterator[str]:
    """Arrays in one line, each member of an object in a line of its own."""
    if isinstance(value, str):
        yield json.dumps(value[: ECHO + 1], ensure_ascii=False)
    elif isinstance(value, dict) and value:
        for i, (key, member) in enumerate(value.items()):
            lead = "{" if i == 0 else ","
            yield f"{lead}\n{'    ' * (depth + 1)}{json.dumps(key, ensure_ascii=False)}: "
            yield from _pieces(member, depth + 1)
        yield f"\n{'    ' * depth}}}"
    elif isinstance(value, list) and value:
        for i, member in enumerate(value):
            yield "[" if i == 0 else ", "
            yield from _pieces(member, depth + 1)
        yield "]"
    else:
        yield json.dumps(value)


def error(message: str) -> bytes:
    """The body of an answer that is an error."""
    text = f'{{\n    "error": {json.dumps(message, ensure_ascii=False)}\n}}'
    return text.encode(errors="replace")  # of what a request's string names, half may be missing


def decimals(values: np.ndarray) -> list[str]:
    """Float32 numbers in the fewest of 6 or 9 digits that read back equal, never as integers.

    Example:
        >>> import numpy as np
        >>> from keras_featx.serving.json_text import decimals
        >>> decimals(np.array([0.5, 1, -0.0359393246, 1e-7], "float32"))
        ['0.5', '1.0', '-0.0359393246', '1e-07']
    """
    numbers = values.tolist()
    short = [f"{number:g}" for number in numbers]
    equal = np.array([float(text) for text in short], "float32") == values
    texts = [
        text if same else f"{number:.9g}"
        for text, same, number in zip(short, equal.tolist(), numbers, strict=True)
    ]
    return [text if "." in text or "e" in text else f"{text}.0" for text in texts]


def predictions(rows: np.ndarray) -> bytes:
    """Embeddings ``(images, size)`` in answer to ``instances``."""
    text = ", ".join(f"[{', '.join(decimals(row))}]" for row in rows)
    return f'{{\n    "predictions": [{text}\n    ]\n}}'.encode()


def outputs(rows: np.ndarray) -> bytes:
    """Embeddings ``(images, size)`` in answer to ``inputs``."""
    between = f",\n{' ' * 12}"
    lines = [f"{' ' * 8}[\n{' ' * 12}{between.join(decimals(row))}\n{' ' * 8}]" for row in rows]
    text = ",\n".join(lines)
    return f'{{\n    "outputs": [\n{text}\n    ]\n}}'.encode()
