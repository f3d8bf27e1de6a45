"""What file headers say, beside what Pillow reads, for every format; and broken ones."""

import numpy as np
import pytest
from PIL import Image
from planted import encoded

from keras_featx.doctor.headers import format_of, format_of_name, read_header

RNG = np.random.default_rng(0)
NAMES = {"WEBP": "WebP"}


def noise(width, height, mode="RGB"):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def animation(kind):
    more = {"save_all": True, "append_images": [noise(21, 33), noise(21, 33)], "duration": 50}
    return encoded(noise(21, 33), kind, **more)


CASES = {
    "jpeg": encoded(noise(21, 33), "JPEG"),
    "progressive jpeg": encoded(noise(21, 33), "JPEG", progressive=True),
    "grey jpeg": encoded(noise(21, 33, "L"), "JPEG"),
    "cmyk jpeg": encoded(noise(21, 33, "CMYK"), "JPEG"),
    "png": encoded(noise(21, 33)),
    "png with palette": encoded(noise(21, 33, "P")),
    "png with opacity": encoded(noise(21, 33, "RGBA")),
    "png of one bit": encoded(noise(21, 33, "1")),
    "gif": encoded(noise(21, 33), "GIF"),
    "bmp": encoded(noise(21, 33), "BMP"),
    "bmp with palette": encoded(noise(21, 33, "P"), "BMP"),
    "webp": encoded(noise(21, 33), "WEBP"),
    "webp without loss": encoded(noise(21, 33), "WEBP", lossless=True),
    "webp with opacity": encoded(noise(21, 33, "RGBA"), "WEBP"),
    "moving gif": animation("GIF"),
    "moving png": animation("PNG"),
    "moving webp": animation("WEBP"),
}


@pytest.mark.parametrize("name", CASES)
def test_headers_agree_with_pillow(name, tmp_path):
    (tmp_path / "image").write_bytes(CASES[name])
    image = Image.open(tmp_path / "image")
    header = read_header(CASES[name])
    assert header.format == NAMES.get(image.format, image.format)
    assert (header.width, header.height) == image.size == (21, 33)
    assert header.cmyk == (image.mode == "CMYK")
    assert header.frames == getattr(image, "n_frames", 1)
    assert header.bits == 8 and header.orientation == 1 and header.complete


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_was_cut_off_is_not_complete(name):
    data = CASES[name]
    assert read_header(data + b"\0" * 30).complete  # what comes behind does no harm
    for length in {len(data) - 1, len(data) - 2, len(data) * 9 // 10, len(data) // 2, 40}:
        assert not read_header(data[:length]).complete, length


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x010F] = "a maker, which stands before"
    exif[0x0112] = orientation
    assert read_header(encoded(noise(21, 33), kind, exif=exif)).orientation == orientation


def test_sixteen_bits():
    deep = Image.fromarray(RNG.integers(0, 2**16, (8, 9), np.uint16))
    assert read_header(encoded(deep)).bits == 16


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded(noise(9, 9), "TIFF"), "TIFF"),
        (encoded(noise(9, 9), "ICO"), "ICO"),
        (encoded(noise(9, 9), "JPEG2000"), "JPEG 2000"),
        (encoded(noise(9, 9), "PDF"), "PDF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\n<!DOCTYPE html>\n<html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (b"just text", "text"),
        (b"BM, two letters of something\xff", ""),
        (b"\0\1\2\3", ""),
        (b"", ""),
    ],
)
def test_other_formats_are_known_by_name(data, name):
    assert format_of(data) == name
    assert not read_header(data).complete and read_header(data).width == 0


def test_extensions():
    names = ["a/b.JPEG", "b.jpg", "c.v2.png", "d.webp", "e.tif", "f", "g.", "jpg", "h.jpg/i"]
    expected = ["JPEG", "JPEG", "PNG", "WebP", "TIFF", "", "", "", ""]
    assert [format_of_name(name) for name in names] == expected


@pytest.mark.parametrize("name", CASES)
def test_no_damage_makes_it_fail(name):
    data = CASES[name]
    for _ in range(60):
        damaged = bytearray(data[: RNG.integers(len(data))])
        for place in RNG.integers(0, max(len(damaged), 1), 4).tolist():
            if damaged:
                damaged[place] = int(RNG.integers(256))
        read_header(bytes(damaged))  # must return, not raise
