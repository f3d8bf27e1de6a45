"""What a request wants in the gallery: read and checked before anything is embedded."""

import json
from dataclasses import dataclass
from typing import Any

from keras_featx.gallery.sources import BOX, DIGEST, PATH
from keras_featx.serving.instances import check_count, from_base64, is_base64
from keras_featx.serving.json_text import echo, parse
from keras_featx.serving.refusals import Refused, invalid

_ITEM = ("id", "identity", "image", "metadata")
# Of items that were made of files: re-embedding opens the files they name.
_OF_FILES = (PATH, BOX, DIGEST)


@dataclass(frozen=True)
class Posted:
    """Items of a request.

    Attributes:
        ids: Of each, all different.
        identities: Whose each is.
        images: Encoded.
        metadata: JSON objects.
        replace: Whether items that are there are replaced.
    """

    ids: list[str]
    identities: list[str]
    images: list[bytes]
    metadata: list[dict[str, Any]]
    replace: bool


def read_items(body: bytes, most: int, put: bool) -> Posted:
    """Read ``{"items": [{"id", "identity", "image", "metadata"}], "replace"}``.

    Args:
        body: Of the request.
        most: Items.
        put: Whether it is a PUT, which always replaces.

    Raises:
        Refused: 400, or 413 for too many items.

    Example:
        >>> from keras_featx.serving.gallery_items import read_items
        >>> body = b'{"items": [{"id": "a", "identity": "ant", "image": {"b64": "QUJD"}}]}'
        >>> read_items(body, most=8, put=False).images
        [b'ABC']
    """
    document = parse(body)
    _check_keys(document, "", ("items", "replace"))
    given, replace = document.get("items"), document.get("replace", put)
    if not isinstance(given, list) or not given:
        raise invalid(f"items: expected a list of objects, got {_shown(given)}")
    check_count(given, most)
    if not isinstance(replace, bool):
        raise invalid(f"replace: expected true or false, got {echo(replace)}")
    if put and not replace:
        raise invalid("replace: a PUT replaces: expected true or nothing, got false")
    places: dict[str, int] = {}
    for i, item in enumerate(given):
        if not isinstance(item, dict):
            raise invalid(f"items[{i}]: expected an object, got {echo(item)}")
        _check_keys(item, f"items[{i}].", _ITEM)
        one = _text(item.get("id"), f"items[{i}].id")
        if one in places:
            raise invalid(f"items[{i}].id: expected each once, got {echo(one)} of "
                          f"items[{places[one]}] again")  # fmt: skip
        places[one] = i
    return Posted(
        list(places),
        [_text(item.get("identity"), f"items[{i}].identity") for i, item in enumerate(given)],
        [_image(item.get("image"), f"items[{i}].image") for i, item in enumerate(given)],
        [_metadata(item.get("metadata", {}), f"items[{i}].metadata")
         for i, item in enumerate(given)],
        replace,
    )  # fmt: skip


def _check_keys(value: dict[str, Any], place: str, known: tuple[str, ...]) -> None:
    for key in value:
        if key not in known:
            raise invalid(f"{place}{key}: expected one of {', '.join(known)}")


def _shown(value: Any) -> str:
    return "nothing" if value is None else echo(value)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(f"{place}: expected a text, got {_shown(value)}")
    _check_unicode(value, place)
    return value


def _check_unicode(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(f"{place}: expected Unicode, got half of a surrogate pair") from None


def _image(value: Any, place: str) -> bytes:
    if not is_base64(value):
        raise invalid(f'{place}: expected {{"b64": "..."}}, got {_shown(value)}')
    try:
        return from_base64(value["b64"])
    except Refused as refused:
        raise invalid(f"{place}: {refused.message}") from None


def _metadata(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(f"{place}: expected an object, got {_shown(value)}")
    for key in _OF_FILES:
        if key in value:
            raise invalid(f"{place}.{key}: expected another name: the gallery has {key} of its own")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise invalid(f"{place}: expected numbers that JSON has, got NaN or infinity") from None
    except RecursionError:
        raise invalid(f"{place}: nested too deeply") from None
    _check_unicode(text, place)
    return value
