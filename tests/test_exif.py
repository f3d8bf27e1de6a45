"""EXIF orientation against Pillow, in three containers; damaged blocks mean upright."""

import io

import numpy as np
import pytest
import tensorflow as tf
from pictures import (
    chunk,
    decoded,
    difference,
    encoded,
    exif_segment,
    into_jpeg,
    noise,
    oriented,
    png,
    segment,
    smooth,
    tiff,
    windows,
)
from PIL import Image, ImageOps

from keras_featx import exif, images
from keras_featx.sections import PreprocessSection

OPTIONS = {
    "JPEG": {"quality": 90, "subsampling": "4:2:0"},
    "PNG": {},
    "WEBP": {"lossless": True},
}
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def graphs():
    """As pipelines and exports run it: one graph for all files, of unknown size."""
    file, four = tf.TensorSpec((), tf.string), tf.TensorSpec((4,), tf.int32)
    whole = tf.function(lambda data: images.decode(data), input_signature=[file])
    part = tf.function(
        lambda data, part: images.decode(data, lambda size: part), input_signature=[file, four]
    )
    return whole, part


def transposed(data):
    """What Pillow shows."""
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def tagged(number, kind, height=37, width=53):
    tags = Image.Exif()
    tags[ORIENTATION], tags[0x010F], tags[0x8769] = number, "maker", {0x9003: "2020:01:01"}
    return encoded(smooth(height, width), kind, exif=tags.tobytes(), **OPTIONS[kind])


def read(data):
    return int(exif.tiff_orientation(tf.constant(data)))


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("number", range(1, 9))
def test_the_picture_stands_as_in_pillow(graphs, kind, number):
    data = tagged(number, kind)
    expected = transposed(data)
    assert expected.shape == ((53, 37, 3) if number > 4 else (37, 53, 3))
    whole, part = graphs
    ours = whole(tf.constant(data)).numpy()
    # libjpeg may be another one; what is stored without loss is equal.
    assert difference(ours, expected).max() <= (1 if kind == "JPEG" else 0)
    for top, left, height, width in windows(*ours.shape[:2], 12, seed=number):
        found = part(tf.constant(data), tf.constant([top, left, height, width])).numpy()
        np.testing.assert_array_equal(found, ours[top : top + height, left : left + width])


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_window_is_asked_with_the_upright_size(kind):
    for number, size in ((3, [37, 53]), (6, [53, 37])):
        asked = []

        def window(size, asked=asked):
            asked.append(size.numpy().tolist())
            return tf.constant([1, 2, 9, 8])

        assert decoded(tagged(number, kind), window).shape == (9, 8, 3)
        assert asked == [size]


def test_of_a_turned_jpeg_only_the_window_is_decoded():
    """The end of the file is missing, and what is asked for lies in front of it."""
    picture = noise(160, 160)
    data = into_jpeg(encoded(picture, "JPEG", quality=90), exif_segment(oriented(3)))
    whole = decoded(data)
    cut = data[: len(data) * 3 // 4]
    with pytest.raises(tf.errors.InvalidArgumentError):
        images.decode(tf.constant(cut))
    # Turned by 180 degrees, the first rows stored are the last.
    ours = decoded(cut, lambda size: tf.stack([size[0] - 16, 8, 16, 99]))
    np.testing.assert_array_equal(ours, whole[-16:, 8:107])


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("number", range(1, 9))
def test_both_byte_orders_are_read(big_endian, number):
    assert read(oriented(number, big_endian)) == number
    assert read(tiff([(ORIENTATION, 4, 1, number)], big_endian)) == number  # a long, as in Pillow
    assert read(tiff([(ORIENTATION, 3, 1, number)], big_endian, first=31)) == number


ABSURD = {
    "nothing": b"",
    "no TIFF": b"II+\0" + oriented(6)[4:],
    "the wrong order": b"MM\0*" + oriented(6)[4:],
    "no entries": tiff([]),
    "another tag": tiff([(0x0111, 3, 1, 6)]),
    "0": oriented(0),
    "9": oriented(9),
    "65535": oriented(65535),
    "a long of 65542": tiff([(ORIENTATION, 4, 1, 65542)]),
    "two values": tiff([(ORIENTATION, 3, 2, 6)]),
    "no value": tiff([(ORIENTATION, 3, 0, 6)]),
    "text": tiff([(ORIENTATION, 2, 1, 6)]),
    "a byte": tiff([(ORIENTATION, 1, 1, 6)]),
    "entries beyond the end": tiff([(0x0100, 3, 1, 6)], count=65535),
    "a list beyond the end": b"II*\0" + b"\xff\xff\xff\xff" + oriented(6)[8:],
    "a list at the end": b"II*\0" + b"\x0a\0\0\0" + b"\0\0",
    "a list with half a count": b"II*\0" + b"\x08\0\0\0" + b"\x01",
    "an entry cut short": oriented(6)[:32],
    "the first bytes only": b"II*\0",
}


@pytest.mark.parametrize("name", ABSURD)
def test_what_is_absurd_means_upright(name):
    assert read(ABSURD[name]) == 1


def test_an_entry_is_read_although_others_are_missing():
    assert read(tiff([(ORIENTATION, 3, 1, 6)], count=9999)) == 6
    assert read(oriented(6)[:34]) == 6  # the third entry and the end are cut off


def container(kind, block):
    if kind == "JPEG":
        return into_jpeg(encoded(smooth(20, 30), kind), exif_segment(block))
    if kind == "PNG":
        return png(noise(20, 30), extra=chunk(b"eXIf", block))
    data = encoded(noise(20, 30), kind, lossless=True, exif=b"Exif\0\0" + oriented(1))
    at = data.index(b"EXIF")
    body = b"EXIF" + len(block).to_bytes(4, "little") + block + b"\0" * (len(block) % 2)
    data = data[:at] + body
    return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]


@pytest.mark.parametrize("kind", OPTIONS)
def test_damage_is_never_an_error(graphs, kind):
    """Random bytes of the block are changed, and it is cut short anywhere."""
    rng, whole = np.random.default_rng(0), graphs[0]
    numbers = set()
    for trial in range(60):
        block = bytearray(oriented(int(rng.integers(1, 9)), bool(trial % 2)))
        for _ in range(int(rng.integers(0, 4))):
            block[rng.integers(len(block))] = rng.integers(256)
        block = bytes(block[: rng.integers(len(block) + 1)]) if trial % 3 == 0 else bytes(block)
        shape = tuple(whole(tf.constant(container(kind, block))).shape)
        assert shape == ((30, 20, 3) if read(block) > 4 else (20, 30, 3))
        numbers.add(read(block))
    assert len(numbers) == 8


FRONTS = {
    "after JFIF": (b"", True),
    "in front of JFIF": (b"", False),
    "after others": (
        segment(0xE2, b"ICC_PROFILE\0" + noise(1, 900).tobytes())
        + segment(0xED, b"Photoshop 3.0\0" + b"\xff\xd9\xff\xda" * 9)
        + segment(0xFE, b"a comment"),
        True,
    ),
    "after XMP": (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"), True),
    "after filling bytes": (b"\xff\xff\xff", True),
    "after an empty segment": (segment(0xE5, b""), False),
}


@pytest.mark.parametrize("name", FRONTS)
def test_the_segment_is_found_among_others(name):
    front, after_jfif = FRONTS[name]
    data = encoded(smooth(20, 30), "JPEG")
    data = into_jpeg(data, front + exif_segment(oriented(6)), after_jfif)
    np.testing.assert_array_equal(decoded(data).shape, (30, 20, 3))
    np.testing.assert_array_equal(transposed(data).shape, (30, 20, 3))


def test_the_first_segment_counts_and_only_in_front_of_the_picture():
    data = encoded(smooth(20, 30), "JPEG")
    six, one = exif_segment(oriented(6)), exif_segment(oriented(1))
    assert decoded(into_jpeg(data, one + six)).shape == (20, 30, 3)
    assert decoded(into_jpeg(data, six + one)).shape == (30, 20, 3)
    assert decoded(into_jpeg(data, exif_segment(b"") + six)).shape == (30, 20, 3)
    assert decoded(data + six).shape == (20, 30, 3)
    # What another segment holds is not looked into.
    assert decoded(into_jpeg(data, segment(0xE2, six))).shape == (20, 30, 3)


def test_the_search_ends():
    """A file of nothing but segments, fillers or chunks takes a bounded number of steps."""
    for front, number in (
        (segment(0xE0, b"") * 100_000, 1),
        (b"\xff" * 1_000_000, 1),
        (segment(0xE0, b"") * 200, 6),
    ):
        data = b"\xff\xd8" + front + exif_segment(oriented(6))
        assert int(exif.jpeg_orientation(tf.constant(data))) == number
    many = b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"") * 9000 + chunk(b"eXIf", oriented(6))
    assert int(exif.png_orientation(tf.constant(many))) == 1


@pytest.mark.parametrize("size", [0, 1, 2, 7, 0xFFFF])
def test_a_segment_with_an_absurd_size_is_none(size):
    broken = b"\xff\xe1" + size.to_bytes(2, "big") + b"Exif\0\0"
    data = b"\xff\xd8" + broken + exif_segment(oriented(6))
    assert int(exif.jpeg_orientation(tf.constant(data))) == 1


@pytest.mark.parametrize("size", [0, 5, 2**31, 2**32 - 1])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_chunk_with_an_absurd_size_is_none(kind, size):
    if kind == "PNG":
        data = b"\x89PNG\r\n\x1a\n" + size.to_bytes(4, "big") + b"eXIf"
        assert int(exif.png_orientation(tf.constant(data))) == 1
    else:
        data = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x08" + b"\0" * 9
        data += b"EXIF" + size.to_bytes(4, "little")
        assert int(exif.webp_orientation(tf.constant(data))) == 1


def test_a_png_may_have_it_behind_its_picture():
    block = chunk(b"eXIf", oriented(8))
    picture = noise(20, 30)
    for data in (png(picture, extra=block), png(picture, after=block)):
        np.testing.assert_array_equal(decoded(data), np.rot90(picture))
    # The name alone, in a text, is not the chunk.
    text = chunk(b"tEXt", b"Comment\0" + block)
    np.testing.assert_array_equal(decoded(png(picture, extra=text)), picture)


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_a_webp_may_have_the_name_of_jpeg_in_front(prefix):
    data = container("WEBP", prefix + oriented(6, big_endian=True))
    np.testing.assert_array_equal(decoded(data), np.rot90(noise(20, 30), 3))


def test_a_webp_that_announces_no_exif_has_none():
    data = bytearray(container("WEBP", oriented(6)))
    assert decoded(bytes(data)).shape == (30, 20, 3)
    data[20] &= ~0x08
    assert decoded(bytes(data)).shape == (20, 30, 3)


def test_loading_turns_and_then_resizes(tmp_path):
    file = tmp_path / "turned.png"
    picture = noise(40, 60)
    file.write_bytes(png(picture, extra=chunk(b"eXIf", oriented(6))))
    ours = images.load(tf.constant(str(file)), (32, 48), PreprocessSection())
    turned = tf.constant(np.rot90(picture, 3).copy())
    np.testing.assert_array_equal(ours, images.resize(turned, (32, 48), PreprocessSection()))
