"""What a request asks for: encoded images or pixels, in rows or in columns.

The rules and the messages are those of TensorFlow Serving, except where it takes what it should
not: numbers that are no pixels, an empty list, a tensor of another shape.
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from keras_featx.serving.json_text import about, type_name
from keras_featx.serving.refusals import Refused, invalid

# Of each signature, the name of its input and the type of it.
SIGNATURES = {"embed_images": ("image", "uint8"), "serving_default": ("image_bytes", "string")}


@dataclass(frozen=True)
class Wanted:
    """What is to be embedded.

    Attributes:
        images: Encoded images, or pixels, uint8 ``(images, height, width, 3)``.
        rows: Whether the request came, and the answer goes, in rows.
    """

    images: list[bytes] | np.ndarray
    rows: bool


def wanted(
    document: dict[str, Any], image_size: tuple[int, int], most: int, encoded_only: bool = False
) -> Wanted:
    """Read a request.

    Args:
        document: Its JSON object.
        image_size: (height, width) of pixels.
        most: Images of a request.
        encoded_only: Take encoded images only, whatever the signature.

    Raises:
        Refused: With status 400, or 413 for too many images.

    Example:
        >>> from keras_featx.serving.instances import wanted
        >>> wanted({"instances": [{"b64": "QUJD"}]}, (32, 32), most=8).images
        [b'ABC']
    """
    name, dtype = SIGNATURES["serving_default"] if encoded_only else signature(document)
    if "instances" in document:
        if "inputs" in document:
            raise about(
                document,
                "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to "
                "exist ",
            )
        given = document["instances"]
        if not isinstance(given, list):
            raise about(document, "Excepting 'instances' to be an list/array")
        if not given:
            raise about(document, "No values in 'instances' array")
        shape, values = _rows(given, name, dtype, most)
    elif "inputs" in document:
        shape, values = _column(document["inputs"], name, dtype, most)
    else:
        raise invalid("Missing 'inputs' or 'instances' key")
    expected = ["?"] if dtype == "string" else ["?", *image_size, 3]
    if len(shape) != len(expected) or shape[1:] != expected[1:]:
        raise invalid(
            f"Shape of tensor {name} [{_join(shape)}] is not compatible with expected shape "
            f"[{_join(expected)}]."
        )
    if not shape[0]:
        raise about(document, "No values in 'inputs'")
    images = values if dtype == "string" else np.asarray(values, "uint8").reshape(shape)
    return Wanted(images, "instances" in document)


def signature(document: dict[str, Any]) -> tuple[str, str]:
    """Name and type of the input of the signature that a request names."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise about(
            document, "not formatted correctly. 'signature_name' key must be a string value."
        )
    name = name or "serving_default"
    if name not in SIGNATURES:
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
    return SIGNATURES[name]


def _join(shape: list) -> str:
    return ",".join(map(str, shape))


def check_count(value: Any, most: int) -> None:
    """Refuse a list of more images than a request may have: 413."""
    if isinstance(value, list) and len(value) > most:
        raise Refused(413, f"Expected at most {most} images in a request, got {len(value)}")


def _rows(given: list, name: str, dtype: str, most: int) -> tuple[list[int], Any]:
    """Shape and values of the form ``instances``."""
    check_count(given, most)
    named = _is_named(given[0])
    items = []
    for i, item in enumerate(given):
        if _is_named(item) != named:
            expected = "object but got list" if named else "value/list but got object"
            raise invalid(f"Expecting {expected} at item {i} of input list")
        items.append(_named_item(item, i, name) if named else item)
    pixels = _quick(items) if dtype == "uint8" else None
    if pixels is not None:
        return list(pixels.shape), pixels
    shape, values = [], []
    for i, item in enumerate(items):
        try:
            found, one = _dense(item, dtype)
            if i and len(one) != len(values) // i:
                raise invalid(f"Expecting tensor size: {len(values) // i} but got: {len(one)}")
            if i and found != shape:
                raise invalid(f"Expecting shape [{_join(shape)}] but got: [{_join(found)}]")
        except Refused as error:
            key = f" key: {name}" if named else ""
            raise invalid(_failed(i, key, error.message)) from None
        shape = found
        values += one
    return [len(given), *shape], values


def _failed(i: int, key: str, message: str) -> str:
    return (
        f"Failed to process element: {i}{key} of 'instances' list. Error: INVALID_ARGUMENT: "
        f"{message}"
    )


def _named_item(item: dict, i: int, name: str) -> Any:
    for key in item:
        if key != name:
            message = f"JSON object: does not have named input: {key}"
            raise invalid(_failed(i, f" key: {key}", message))
    if not item:
        raise invalid(
            f"Failed to process element: {i} of 'instances' list. JSON object: {{}} must only have "
            f"keys: {name}"
        )
    return item[name]


def _column(given: Any, name: str, dtype: str, most: int) -> tuple[list[int], Any]:
    """Shape and values of the form ``inputs``."""
    if _is_named(given):
        if name not in given:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        given = given[name]
    check_count(given, most)
    pixels = _quick(given) if dtype == "uint8" else None
    return (list(pixels.shape), pixels) if pixels is not None else _dense(given, dtype)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value: Any) -> bool:
    """Whether it is ``{"b64": "..."}``, without a look at the text."""
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _quick(value: Any) -> np.ndarray | None:
    """Lists of pixels as an array; ``None`` where a closer look must say what is wrong."""
    try:
        numbers = chain.from_iterable(chain.from_iterable(chain.from_iterable(value)))
        # Before NumPy sees them, which takes true for 1 and would make room for the longest string
        # in every place.
        if set(map(type, numbers)) != {int}:
            return None
        array = np.array(value)
    except (TypeError, ValueError, OverflowError):  # of another depth, ragged, of no type
        return None
    if array.ndim != 4 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        return None
    return array.astype("uint8")


def _dense(value: Any, dtype: str) -> tuple[list[int], list]:
    """Shape, by the first value of each list, and all values."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    values: list = []
    _fill(value, 0, shape, _string if dtype == "string" else _pixel, values)
    return shape, values


def _fill(value: Any, level: int, shape: list[int], read: Callable, values: list) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise about(
                value,
                f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: "
                f"{len(shape)}",
            )
        values.append(read(value))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for one in value:
        _fill(one, level + 1, shape, read, values)


def _pixel(value: Any) -> int:
    # TensorFlow Serving takes 256 for 0.
    if type(value) is not int or not 0 <= value <= 255:
        raise about(value, f"Type: {type_name(value)} is not of expected type: uint8")
    return value


def _string(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    if not isinstance(value, dict):
        raise about(value, f"Type: {type_name(value)} is not of expected type: string")
    if not is_base64(value):
        raise about(value, "not formatted correctly for base64 data")
    return from_base64(value["b64"])


def from_base64(text: str) -> bytes:
    """Decode what a request has as ``{"b64": ...}``.

    Raises:
        Refused: 400 if it is no base64.

    Example:
        >>> from keras_featx.serving.instances import from_base64
        >>> from_base64("QUI")
        b'AB'
    """
    try:
        if not text.isascii():
            raise binascii.Error
        # As there: blanks do not count, and the end may go without "=".
        text = re.sub(r"\s", "", text) if re.search(r"\s", text) else text
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise invalid("Unable to base64 decode") from None
