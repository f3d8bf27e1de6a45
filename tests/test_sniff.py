"""Formats by their first bytes, on real files where Pillow writes them."""

import pytest
from pictures import encoded, noise

from keras_featx.data.sniff import DECODABLE, sniff

PILLOW = {
    "JPEG": "jpeg",
    "PNG": "png",
    "GIF": "gif",
    "BMP": "bmp",
    "WEBP": "webp",
    "TIFF": "tiff",
    "JPEG2000": "jpeg2000",
    "AVIF": "avif",
    "ICO": "ico",
    "PPM": "pnm",
    "PDF": "pdf",
    "DDS": "dds",
}
BYTES = {
    b"": "unknown",
    b"\xff\xd8": "unknown",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF87a" + bytes(9): "gif",
    b"MM\0*" + bytes(9): "tiff",
    b"\xff\x4f\xff\x51": "jpeg2000",
    b"\xff\x0a" + bytes(9): "jpegxl",
    b"\0\0\0\x0cJXL \r\n\x87\n": "jpegxl",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "heic",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic": "heic",
    b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf": "avif",
    b"\0\0\0\x14ftypisom\0\0\0\0mp42": "mp4",
    b"\0\0\0\x14ftypqt  \0\0\0\0qt  ": "mov",
    b"\xff\xff\xff\xffftypavif": "avif",
    b"8BPS\0\1": "psd",
    b"RIFF\0\0\0\0WAVE": "wav",
    b"RIFF": "riff",
    b"PK\3\4": "zip",
    b"\x1f\x8b\x08": "gzip",
    b"\x93NUMPY\1\0": "npy",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>": "svg",
    b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>": "svg",
    b"<?xml version='1.0'?><note/>": "xml",
    b"\xef\xbb\xbf\n  <!doctype HTML><title>404": "html",
    b"<HTML><body>": "html",
    b"<not html>": "text",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0": "git-lfs",
    b'{"error": "not found"}': "text",
    "größer\n".encode(): "text",
    "größer\n".encode("utf-16"): "text",
    ("x" * 1023 + "ö").encode(): "text",  # the last character is cut in two
    "größer\n".encode("latin-1"): "unknown",
    b"text\0": "unknown",
    b"P7\n": "text",
    bytes(2000): "unknown",
}


@pytest.mark.parametrize("kind", PILLOW)
def test_files_of_pillow_are_named(kind):
    assert sniff(encoded(noise(16, 16), kind)) == PILLOW[kind]


@pytest.mark.parametrize("data", BYTES, ids=lambda data: repr(data[:24]))
def test_first_bytes_are_named(data):
    assert sniff(data) == BYTES[data]


def test_what_images_decodes_is_told_apart():
    assert {PILLOW[kind] for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")} == DECODABLE
