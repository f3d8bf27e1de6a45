"""What the first bytes of an image file say, without decoding it. Imports no framework.

Nothing here allocates by what a file claims, so a file that claims to be huge does no harm; and no
data make it fail, as broken files are what it is for.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from keras_featx.data.sniff import sniff

# How people write the names of :mod:`keras_featx.data.sniff`; others are written in capitals.
_WRITTEN = {
    "webp": "WebP",
    "jpeg2000": "JPEG 2000",
    "jpegxl": "JPEG XL",
    "psd": "Photoshop",
    "postscript": "PostScript",
    "git-lfs": "Git LFS pointer",
    "text": "text",
    "gzip": "gzip",
    "pnm": "PNM",
    "matroska": "Matroska",
    "unknown": "",
}
_EXTENSIONS = {
    "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "png": "PNG", "apng": "PNG",
    "gif": "GIF", "bmp": "BMP", "dib": "BMP", "webp": "WebP", "tif": "TIFF", "tiff": "TIFF",
    "avif": "AVIF", "heic": "HEIC", "heif": "HEIC", "jp2": "JPEG 2000", "jxl": "JPEG XL",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a file says of its image.

    Attributes:
        format: ``JPEG``, ``PNG``, ``GIF``, ``BMP``, ``WebP``, another that is known but not
            decoded (``TIFF``, ``HTML`` ...), or empty.
        width: In pixels, before any turning; 0 where it is not known.
        height: Likewise.
        cmyk: Whether it has the four colours of printing.
        bits: Per channel.
        frames: 1, or more of an animation.
        orientation: Of EXIF, 1 to 8; 1 is upright.
        complete: Whether the data reach to their end mark.
    """

    format: str = ""
    width: int = 0
    height: int = 0
    cmyk: bool = False
    bits: int = 8
    frames: int = 1
    orientation: int = 1
    complete: bool = False


def read_header(data: bytes) -> Header:
    """The header of an image.

    Example:
        >>> from keras_featx.doctor.headers import read_header
        >>> header = read_header(b"GIF89a" + bytes([3, 0, 2, 0, 0, 0, 0]))
        >>> header.format, header.width, header.height, header.complete
        ('GIF', 3, 2, False)
    """
    header = Header(format_of(data))
    for step in _STEPS.get(header.format, ()):
        try:
            header = replace(header, **step(data))
        except (struct.error, IndexError):  # it ends before
            return header
    return header


def format_of(data: bytes) -> str:
    """The format by the first bytes; empty where they are not known.

    Example:
        >>> from keras_featx.doctor.headers import format_of
        >>> format_of(b"<!DOCTYPE html>"), format_of(b"")
        ('HTML', '')
    """
    name = sniff(data)
    if name == "bmp" and data[6:10] != b"\0\0\0\0":  # two letters may begin anything
        return ""
    return _WRITTEN.get(name, name.upper())


def format_of_name(path: str) -> str:
    """The format an extension stands for; empty where it stands for none.

    Example:
        >>> from keras_featx.doctor.headers import format_of_name
        >>> format_of_name("photos/A.JPG"), format_of_name("photos/a.dat")
        ('JPEG', '')
    """
    _, dot, extension = path.rpartition("/")[2].rpartition(".")
    return _EXTENSIONS.get(extension.lower(), "") if dot else ""


def _jpeg(data: bytes) -> dict:
    found: dict = {}
    place = 2
    while True:
        while data[place] == 0xFF:  # may be padded by more of them
            place += 1
        marker = data[place]
        place += 1
        if marker == 0xD9 or not marker:
            return found
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        if marker == 0xDA:  # pixels follow; they hold no 0xFF without a zero behind it
            return found | {"complete": data.rfind(b"\xff\xd9", place) > 0}
        (length,) = struct.unpack_from(">H", data, place)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, place + 2)
            found |= {"bits": bits, "height": height, "width": width, "cmyk": channels == 4}
        elif marker == 0xE1 and data[place + 2 : place + 8] == b"Exif\0\0":
            found["orientation"] = orientation_of(data[place + 8 : place + length])
        place += length


def _png(data: bytes) -> dict:
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    found = {"width": width, "height": height, "bits": max(bits, 8)}
    place = 8
    while True:
        (length,) = struct.unpack_from(">I", data, place)
        kind, start = data[place + 4 : place + 8], place + 8
        if kind == b"acTL":
            (found["frames"],) = struct.unpack_from(">I", data, start)
        elif kind == b"eXIf":
            found["orientation"] = orientation_of(data[start : start + length])
        elif kind == b"IEND" or not kind:
            return found | {"complete": len(data) >= start + 4}
        place = start + length + 4
        if place >= len(data):
            return found


def _gif_size(data: bytes) -> dict:
    return dict(zip(("width", "height"), struct.unpack_from("<HH", data, 6), strict=True))


def _gif_frames(data: bytes) -> dict:
    place = 13 + _colours(data[10])
    frames = 0
    while place < len(data) and data[place] in (0x21, 0x2C):
        if data[place] == 0x21:
            place += 2
        else:
            frames += 1
            place += 11 + _colours(data[place + 9])
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
    return {"frames": max(frames, 1), "complete": data[place : place + 1] == b"\x3b"}


def _colours(flags: int) -> int:
    """Bytes of a GIF's colour table."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def _bmp(data: bytes) -> dict:
    start, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packed = 0
    else:
        width, height, _, bits, packed = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)
    needed = start + (width * bits + 31) // 32 * 4 * height
    return {"width": width, "height": height, "complete": bool(packed) or len(data) >= needed}


def _webp(data: bytes) -> dict:
    (length,) = struct.unpack_from("<I", data, 4)
    found: dict = {"complete": len(data) >= 8 + length, "frames": 0}
    place = 12
    while place + 8 <= len(data):
        kind = data[place : place + 4]
        (length,) = struct.unpack_from("<I", data, place + 4)
        start = place + 8
        if kind == b"VP8X":
            width, height = (
                data[i] | data[i + 1] << 8 | data[i + 2] << 16 for i in (start + 4, start + 7)
            )
            found |= {"width": width + 1, "height": height + 1}
        elif kind == b"VP8 " and "width" not in found:
            width, height = struct.unpack_from("<HH", data, start + 6)
            found |= {"width": width & 0x3FFF, "height": height & 0x3FFF}
        elif kind == b"VP8L" and "width" not in found:
            (bits,) = struct.unpack_from("<I", data, start + 1)
            found |= {"width": (bits & 0x3FFF) + 1, "height": (bits >> 14 & 0x3FFF) + 1}
        elif kind == b"ANMF":
            found["frames"] += 1
        elif kind == b"EXIF":
            exif = data[start : start + length]
            found["orientation"] = orientation_of(exif.removeprefix(b"Exif\0\0"))
        place = start + length + (length & 1)
    return found | {"frames": max(found["frames"], 1)}


def orientation_of(exif: bytes) -> int:
    """The orientation an EXIF block (from its byte order on) states; 1 where it states none.

    Example:
        >>> from keras_featx.doctor.headers import orientation_of
        >>> start, entry = "4d4d 002a 00000008 0001", "0112 0003 00000001 0006 0000"
        >>> orientation_of(bytes.fromhex(start + entry))
        6
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, place)
            if tag == 0x0112 and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


_STEPS: dict[str, tuple[Callable[[bytes], dict], ...]] = {
    "JPEG": (_jpeg,),
    "PNG": (_png,),
    "GIF": (_gif_size, _gif_frames),
    "BMP": (_bmp,),
    "WebP": (_webp,),
}
