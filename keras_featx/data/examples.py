"""``tf.train.Example`` messages, read and written without TensorFlow.

Reading gives the place of each value in the message, so that an image can be found in a file
without parsing anything again. The wire format is Protocol Buffers':
https://protobuf.dev/programming-guides/encoding
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Field numbers of the lists of a Feature, by kind.
_LISTS = {1: "bytes", 2: "float", 3: "int64"}
_NUMBERS = {kind: number for number, kind in _LISTS.items()}
_VARINT, _FIXED64, _CHUNK, _FIXED32 = 0, 1, 2, 5

Value = bytes | str | int | float


@dataclass(frozen=True)
class Feature:
    """The values of one feature.

    Attributes:
        kind: ``bytes``, ``int64``, ``float``, or an empty string where it holds no list.
        values: The numbers; of bytes, (first, end) of each in the message.
    """

    kind: str
    values: list


def read(data: bytes) -> dict[str, Feature]:
    """The features of a serialised Example.

    Raises:
        ValueError: If it is none.

    Example:
        >>> from keras_featx.data import examples
        >>> data = examples.write({"image": b"...", "label": 7})
        >>> found = examples.read(data)
        >>> found["label"].values, data[slice(*found["image"].values[0])]
        ([7], b'...')
    """
    found: dict[str, Feature] = {}
    for number, features in fields(data, 0, len(data)):
        if number != 1:
            continue
        for inner, entry in fields(data, *_chunk(features)):
            if inner == 1:
                name, feature = _entry(data, *_chunk(entry))
                found[name] = feature
    return found


def write(features: Mapping[str, Value | list]) -> bytes:
    """A serialised Example: bytes, texts (UTF-8), whole numbers, floats, or lists of one of them.

    The same features give the same bytes, whatever their order.
    """
    entries = []
    for name in sorted(features):
        values = features[name]
        values = values if isinstance(values, list) else [values]
        feature = _feature(values)
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _feature(values: list) -> bytes:
    if isinstance(values[0], bytes | str):
        kind = "bytes"
        # Escapes stand for bytes of a file name that are no UTF-8.
        coded = (v.encode("utf-8", "surrogateescape") if isinstance(v, str) else v for v in values)
        inside = b"".join(_field(1, value) for value in coded)
    elif isinstance(values[0], int):
        kind = "int64"
        inside = _field(1, b"".join(_varint(value % 2**64) for value in values))
    else:
        kind = "float"
        inside = _field(1, struct.pack(f"<{len(values)}f", *values))
    return _field(_NUMBERS[kind], inside)


def _field(number: int, inside: bytes) -> bytes:
    return b"".join((_varint(number << 3 | _CHUNK), _varint(len(inside)), inside))


def _varint(value: int) -> bytes:
    coded = bytearray()
    while value > 127:
        coded.append(value & 127 | 128)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def _entry(data: bytes, first: int, end: int) -> tuple[str, Feature]:
    name, feature = "", Feature("", [])
    for number, value in fields(data, first, end):
        if number == 1:
            start, stop = _chunk(value)
            name = data[start:stop].decode()
        elif number == 2:
            feature = _read_feature(data, *_chunk(value))
    return name, feature


def _read_feature(data: bytes, first: int, end: int) -> Feature:
    kind, values = "", []
    for number, value in fields(data, first, end):
        if number not in _LISTS:
            continue
        if _LISTS[number] != kind:
            kind, values = _LISTS[number], []  # of a choice, the last one counts
        for inner, item in fields(data, *_chunk(value)):
            if inner != 1:
                continue
            if kind == "bytes":
                values.append(_chunk(item))
            elif kind == "int64":
                values += [_signed(v) for v in _whole_numbers(data, item)]
            else:
                values += _floats(data, item)
    return Feature(kind, values)


def _whole_numbers(data: bytes, item: "int | tuple[int, int]") -> list[int]:
    if isinstance(item, int):
        return [item]
    place, end = item
    values = []
    while place < end:
        value, place = _read_varint(data, place, end)
        values.append(value)
    return values


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _floats(data: bytes, item: "int | tuple[int, int]") -> list[float]:
    first, end = _chunk(item)
    if (end - first) % 4:
        raise ValueError("a list of floats whose bytes are no multiple of 4")
    return list(struct.unpack(f"<{(end - first) // 4}f", data[first:end]))


def _chunk(value: "int | tuple[int, int]") -> tuple[int, int]:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


def fields(data: bytes, place: int, end: int) -> Iterator[tuple[int, "int | tuple[int, int]"]]:
    r"""The fields of any message in ``data[place:end]``: field numbers, each with a value.

    A value is a number, or the (first, end) of bytes: a text, a message, a list of numbers, or a
    number of fixed size. Of those that repeat, each comes by itself.

    Raises:
        ValueError: If the bytes are no message.

    Example:
        >>> from keras_featx.data import examples
        >>> list(examples.fields(b"\x08\x07\x12\x02ab", 0, 6))
        [(1, 7), (2, (4, 6))]
    """
    while place < end:
        tag, place = _read_varint(data, place, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field without a number")
        if wire == _VARINT:
            value, place = _read_varint(data, place, end)
            yield number, value
            continue
        if wire == _CHUNK:
            length, place = _read_varint(data, place, end)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"an unknown wire type, {wire}")
        if length > end - place:
            raise ValueError(f"a field of {length} bytes where {end - place} are left")
        yield number, (place, place + length)
        place += length


def _read_varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value % 2**64, place
        shift += 7
    raise ValueError("a number that does not end")
