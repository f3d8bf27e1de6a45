"""The framing of TFRecord files, read and written without TensorFlow.

A file is a row of records, each: its length (8 bytes, little-endian), the masked CRC of the length,
the data, the masked CRC of the data. The CRC is CRC-32C (Castagnoli polynomial, RFC 3720).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

_BLOCK = 1024  # bytes that are looked up at once
_MASK = 0xFFFFFFFF
HEAD, TAIL = 12, 4


@dataclass(frozen=True)
class Record:
    """A record of a file.

    Attributes:
        number: From 1.
        offset: Of its data in the file, in bytes.
        data: The data; empty where there is a fault.
        fault: What is wrong with it.
    """

    number: int
    offset: int
    data: bytes
    fault: str | None = None


def _tables() -> tuple[np.ndarray, list[int]]:
    """CRC of each byte at each place of a block, and of one byte for going on byte by byte."""
    last = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = (last >> 1) ^ np.where(last & 1, np.uint32(0x82F63B78), np.uint32(0))
    places = [last]
    for _ in range(_BLOCK - 1):
        places.append((places[-1] >> 8) ^ last[places[-1] & 255])  # one zero byte further
    return np.concatenate(places[::-1]), last.tolist()


_PLACES, _BYTE = _tables()
_STARTS = np.arange(_BLOCK, dtype=np.intp) * 256
_SHIFT = [_PLACES[256 * k : 256 * k + 256].tolist() for k in range(4)]  # a block further


def crc32c(data: bytes) -> int:
    """CRC-32C of bytes.

    Example:
        >>> from keras_featx.data.records import crc32c
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    crc = _MASK
    whole = len(data) // _BLOCK * _BLOCK
    if whole:
        blocks = np.frombuffer(data, np.uint8, whole).reshape(-1, _BLOCK)
        parts = np.bitwise_xor.reduce(_PLACES.take(blocks + _STARTS, mode="wrap"), axis=1)
        first, second, third, fourth = _SHIFT
        for part in parts.tolist():
            # What came before acts as if it stood in the first four bytes of the block.
            crc = (
                first[crc & 255]
                ^ second[(crc >> 8) & 255]
                ^ third[(crc >> 16) & 255]
                ^ fourth[crc >> 24]
                ^ part
            )
    for byte in data[whole:]:
        crc = _BYTE[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ _MASK


def masked_crc(data: bytes) -> bytes:
    """The CRC as TFRecord files hold it: turned by 15 bits, a constant added, little-endian."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & _MASK)


def framed(data: bytes) -> bytes:
    """A record around its data, which then begins at byte 12."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, masked_crc(length), data, masked_crc(data)))


def walk(file: BinaryIO, size: int) -> Iterator[Record]:
    """The records of an open file of ``size`` bytes, with every CRC checked.

    The walk goes on behind a record whose data are damaged; where a length is, it ends, as nothing
    tells where the next record begins.
    """
    number, place = 0, 0
    while place < size:
        number += 1
        head = file.read(HEAD)
        if len(head) < HEAD:
            yield Record(number, place, b"", f"expected {HEAD} bytes of a length, got {len(head)}")
            return
        if masked_crc(head[:8]) != head[8:]:
            what = _compression(head) if number == 1 else None
            what = what or "expected a length with its CRC, got other bytes"
            yield Record(number, place, b"", what)
            return
        length = struct.unpack("<Q", head[:8])[0]
        place += HEAD
        rest = size - place
        if length + TAIL > rest:
            what = f"expected {length + TAIL} bytes, got {rest}: the file is cut short"
            yield Record(number, place, b"", what)
            return
        data, tail = file.read(length), file.read(TAIL)
        if masked_crc(data) == tail:
            yield Record(number, place, data)
        else:
            yield Record(number, place, b"", f"expected {length} bytes with their CRC, got others")
        place += length + TAIL


def _compression(head: bytes) -> str | None:
    """What to do about a compressed file, if these are the first bytes of one."""
    if head.startswith(b"\x1f\x8b"):
        return (
            "expected a TFRecord file that is not compressed, got GZIP: unpack it with "
            "gunzip -c FILE > OTHER (images are compressed already)"
        )
    if head[0] == 0x78 and (head[0] * 256 + head[1]) % 31 == 0:
        return (
            "expected a TFRecord file that is not compressed, got ZLIB: write its records again "
            "with tf.io.TFRecordWriter(OTHER), read by "
            "tf.data.TFRecordDataset(FILE, compression_type='ZLIB')"
        )
    return None
