"""What a file is, by its first bytes, for messages about files that cannot be decoded."""

# What keras_featx.images decodes.
DECODABLE = frozenset({"jpeg", "png", "gif", "bmp", "webp"})

# The first bytes of a format; where two fit, the first one counts.
_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jpegxl"),
    (b"\xff\x0a", "jpegxl"),
    (b"8BPS", "psd"),
    (b"%PDF-", "pdf"),
    (b"%!PS", "postscript"),
    (b"\0\0\1\0", "ico"),
    (b"\x76\x2f\x31\x01", "exr"),
    (b"DDS ", "dds"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\3\4", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\7", "rar"),
    (b"\x93NUMPY", "npy"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"BM", "bmp"),
)
_RIFF = {b"WEBP": "webp", b"AVI ": "avi", b"WAVE": "wav"}
# Brands of an ISO media file (ISO/IEC 14496-12), the telling ones first.
_BRANDS = {
    b"avif": "avif",
    b"avis": "avif",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "heic"),
    b"mif1": "heic",
    b"msf1": "heic",
    b"qt  ": "mov",
}
# Control characters, other than whitespace.
_NO_TEXT = frozenset(range(32)) - frozenset(b"\t\n\f\r")


def sniff(data: bytes) -> str:
    r"""Name the format of a file by its first bytes.

    Args:
        data: The file, or its first kilobyte.

    Returns:
        A name in small letters, such as ``"jpeg"``, ``"tiff"`` or ``"heic"``; ``"text"`` for text
        that is none of ``"svg"``, ``"html"``, ``"xml"`` and ``"git-lfs"`` (a pointer to a file that
        was not fetched); ``"unknown"`` for everything else, no bytes included.

    Example:
        >>> from keras_featx.data.sniff import sniff
        >>> sniff(b"\x89PNG\r\n\x1a\n"), sniff(b"<!DOCTYPE html>"), sniff(b"not found")
        ('png', 'html', 'text')
    """
    data = bytes(data[:1024])
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], "riff")
    if data[4:8] == b"ftyp":
        size = int.from_bytes(data[:4], "big")
        brands = {data[i : i + 4] for i in range(8, min(size, len(data)), 4)}
        return next((name for brand, name in _BRANDS.items() if brand in brands), "mp4")
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "pnm"
    return _sniff_text(data)


def _sniff_text(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16 with its byte-order mark
        return "text"
    data = data.removeprefix(b"\xef\xbb\xbf")
    # The last character may be cut off.
    if not data or _NO_TEXT & set(data) or not _is_utf8(data):
        return "unknown"
    start = data.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "git-lfs"
    if not start.startswith(b"<"):
        return "text"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "html"
    return "svg" if b"<svg" in start else "xml" if start.startswith(b"<?xml") else "text"


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return len(data) == 1024 and error.start > len(data) - 4
    return True
