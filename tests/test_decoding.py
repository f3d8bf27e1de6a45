"""Kinds of pixels in each format against Pillow and NumPy: three channels in the same way."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from pictures import (
    chunk,
    decoded,
    difference,
    encoded,
    noise,
    pillow,
    png,
    segment,
    smooth,
    windows,
)
from PIL import Image

from keras_featx import images
from keras_featx.data.sniff import DECODABLE, sniff
from keras_featx.sections import PreprocessSection

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def over(image, background):
    """An image with opacity over a colour, in float64."""
    opacity = image[..., 3:].astype("float64") / 255
    return np.round(image[..., :3] * opacity + np.array(background) * (1 - opacity))


# JPEG


def cmyk_of(data):
    """Cyan, magenta, yellow and black as stored, 0 to 255, and the marker of Adobe taken out."""
    at = data.index(b"\xff\xee")
    without = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    # Pillow undoes the inversion of Adobe's, with or without the marker.
    return 255 - np.array(Image.open(io.BytesIO(data))), without


def test_a_cmyk_jpeg_of_adobe_is_inverted():
    data = encoded(Image.fromarray(smooth(40, 60)).convert("CMYK"), "JPEG", quality=95)
    stored, _ = cmyk_of(data)
    exact = stored[..., :3] * (stored[..., 3:] / 255)
    # The product is cut off, not rounded.
    assert difference(decoded(data), exact).max() <= 1
    assert difference(decoded(data), pillow(data)).max() <= 1


def test_a_cmyk_jpeg_without_the_marker_is_not_inverted():
    data = encoded(Image.fromarray(smooth(40, 60)).convert("CMYK"), "JPEG", quality=95)
    stored, without = cmyk_of(data)
    exact = (255 - stored[..., :3]) * ((255.0 - stored[..., 3:]) / 255)
    assert difference(decoded(without), exact).max() <= 1


def test_a_ycck_jpeg_is_read():
    """The marker says that the first three channels are stored as luma and chroma."""
    picture = Image.fromarray(smooth(40, 60))
    inverted = Image.merge("CMYK", [*picture.convert("YCbCr").split(), Image.new("L", (60, 40))])
    data = encoded(inverted, "JPEG", quality=98, subsampling="4:4:4")
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    # Pillow stores 255 - x: luma and chroma of the inverted picture, and full black (none).
    data = data[:at] + b"\x02" + data[at + 1 :]
    ours = decoded(data)
    assert difference(ours, pillow(data)).max() <= 1
    assert ours.std() > 20


@pytest.mark.parametrize("kind", ["CMYK", "L"])
def test_a_window_of_other_jpegs_is_a_part_of_the_whole(kind):
    data = encoded(Image.fromarray(noise(53, 67)).convert(kind), "JPEG", quality=90)
    whole = decoded(data)
    for top, left, height, width in windows(53, 67, 12):
        ours = decoded(data, lambda size, part=(top, left, height, width): tf.constant(part))
        np.testing.assert_array_equal(ours, whole[top : top + height, left : left + width])


def test_a_jpeg_stored_as_red_green_and_blue_is_read():
    data = encoded(noise(20, 30), "JPEG", quality=95, keep_rgb=True)
    assert difference(decoded(data), pillow(data)).max() <= 1


# PNG


def wide(height, width, channels):
    rng = np.random.default_rng(1)
    return rng.integers(0, 65536, (height, width, channels)).astype("uint16")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_of_16_bits_the_high_8_are_taken(colour, channels):
    image = wide(13, 17, channels)
    high = (image >> 8).astype("uint8")
    colours = high[..., :3] if channels > 2 else high[..., :1].repeat(3, axis=2)
    data = png(image, bits=16, colour=colour)
    np.testing.assert_array_equal(decoded(data), colours)
    if channels in (2, 4):
        whole = np.concatenate([colours, high[..., -1:]], axis=2)
        ours = decoded(data, preprocess=PreprocessSection(background=(10.0, 20.0, 30.0)))
        np.testing.assert_array_equal(ours, over(whole, (10, 20, 30)))


def paletted(opacities=None):
    image = Image.fromarray(noise(13, 17)).quantize(64)
    return encoded(image, "PNG", **({} if opacities is None else {"transparency": opacities}))


PNGS = {
    "black and white": encoded(Image.fromarray(noise(13, 17)).convert("1"), "PNG"),
    "grey": encoded(noise(13, 17, 1), "PNG"),
    "grey with opacity": encoded(Image.fromarray(noise(13, 17, 2), "LA"), "PNG"),
    "grey with one clear level": encoded(noise(13, 17, 1), "PNG", transparency=100),
    "colour": encoded(noise(13, 17), "PNG"),
    "colour with opacity": encoded(noise(13, 17, 4), "PNG"),
    "colour with one clear colour": encoded(
        noise(13, 17), "PNG", transparency=tuple(int(v) for v in noise(13, 17)[3, 4])
    ),
    "palette": paletted(),
    "palette with opacities": paletted(bytes(range(0, 256, 4))),
    "palette of 2 bits": encoded(Image.fromarray(noise(13, 17)).quantize(4), "PNG", bits=2),
    "palette of 2 bits with opacities": encoded(
        Image.fromarray(noise(13, 17)).quantize(4), "PNG", bits=2, transparency=b"\0\x80\xf0"
    ),
}


@pytest.mark.parametrize("name", PNGS)
def test_every_kind_of_png_is_read(name):
    data = PNGS[name]
    whole = pillow(data, "RGBA")
    np.testing.assert_array_equal(decoded(data), whole[..., :3])
    background = (255.0, 128.0, 7.0)
    ours = decoded(data, preprocess=PreprocessSection(background=background))
    np.testing.assert_array_equal(ours, over(whole, background))


def test_a_clear_level_of_few_bits_is_clear():
    """Pillow compares it with the level widened to 8 bits."""
    packed = noise(13, 8)[..., 0]
    data = png(packed, bits=4, colour=0, extra=chunk(b"tRNS", b"\0\x07"), width=16)
    levels = np.stack([packed >> 4, packed & 15], axis=2).reshape(13, 16, 1)
    expected = np.where(levels == 7, (255, 128, 7), levels * 17)
    background = PreprocessSection(background=(255.0, 128.0, 7.0))
    np.testing.assert_array_equal(decoded(data, preprocess=background), expected)


def test_a_gamma_is_not_applied():
    picture = noise(13, 17)
    data = png(picture, extra=chunk(b"gAMA", struct.pack(">I", 100_000)))
    np.testing.assert_array_equal(decoded(data), picture)


# Opacity


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_background_shows_through(kind):
    image = noise(13, 17, 4)
    image[0, :, 3], image[1, :, 3] = 0, 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(image, kind, **options)
    preprocess = PreprocessSection(background=(255.0, 0.0, 127.5))
    ours = decoded(data, preprocess=preprocess)
    assert difference(ours, over(image, (255, 0, 127.5))).max() <= 1  # halves
    np.testing.assert_array_equal(ours[0, :, :2], np.tile([255, 0], (17, 1)))
    np.testing.assert_array_equal(ours[1], image[1, :, :3])
    canvas = Image.new("RGBA", (17, 13), (255, 0, 128))
    canvas.alpha_composite(Image.fromarray(image))
    assert difference(ours, np.array(canvas)[..., :3]).max() <= 1
    part = decoded(data, lambda size: tf.constant([2, 3, 5, 7]), preprocess=preprocess)
    np.testing.assert_array_equal(part, ours[2:7, 3:10])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "BMP", "GIF"])
def test_a_background_changes_no_opaque_image(kind):
    image = Image.fromarray(noise(13, 17))
    data = encoded(image.quantize(99) if kind == "GIF" else image, kind)
    ours = decoded(data, preprocess=PreprocessSection(background=(1.0, 2.0, 3.0)))
    np.testing.assert_array_equal(ours, decoded(data))


def test_a_clear_pixel_of_a_gif_is_black():
    image = Image.fromarray(noise(13, 17)).quantize(16)
    ours = decoded(encoded(image, "GIF", transparency=3))
    clear = np.array(image) == 3
    assert clear.any()
    np.testing.assert_array_equal(ours[clear], 0)
    np.testing.assert_array_equal(ours[~clear], np.array(image.convert("RGB"))[~clear])


# Animations


def animation(kind, frames, **options):
    frames = [Image.fromarray(frame) for frame in frames]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == len(frames)
    return data


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("options", [{"lossless": True, "exact": True}, {"quality": 80}])
def test_an_animated_webp_gives_its_first_frame(channels, options):
    """Without opacity, TensorFlow's own decoder overwrites memory on these."""
    frames = [noise(40, 56, channels, seed) for seed in range(3)]
    if channels == 4:
        for frame in frames:
            frame[..., 3] |= 1  # Pillow makes clear pixels black
    data = animation("WEBP", frames, **options)
    reference = pillow(data, "RGBA")
    whole = tf.function(lambda data: images.decode(data))(tf.constant(data)).numpy()
    assert difference(whole, reference[..., :3]).max() <= (2 if "quality" in options else 0)
    part = decoded(data, lambda size: tf.constant([3, 5, 11, 13]))
    np.testing.assert_array_equal(part, whole[3:14, 5:18])
    ours = decoded(data, preprocess=PreprocessSection(background=(9.0, 99.0, 199.0)))
    assert difference(ours, over(reference, (9, 99, 199))).max() <= (
        2 if "quality" in options else 0
    )


def test_a_first_frame_smaller_than_its_canvas_stands_where_it_belongs():
    data = bytearray(animation("WEBP", [noise(40, 56), noise(40, 56, seed=1)], lossless=True))
    data[24:27], data[27:30] = (99).to_bytes(3, "little"), (79).to_bytes(3, "little")
    at = data.index(b"ANMF") + 8
    data[at : at + 3], data[at + 3 : at + 6] = (6).to_bytes(3, "little"), (4).to_bytes(3, "little")
    ours = decoded(bytes(data))
    expected = np.zeros((80, 100, 3), "uint8")
    expected[8:48, 12:68] = noise(40, 56)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(ours, pillow(bytes(data)))
    white = decoded(bytes(data), preprocess=PreprocessSection(background=(255.0, 255.0, 255.0)))
    assert (white[:8] == 255).all() and (white[:, 68:] == 255).all()
    # A frame that does not fit is an error, and so is an animation without frames.
    data[at : at + 3] = (99).to_bytes(3, "little")
    for broken in (bytes(data), bytes(data[: at - 8])):
        with pytest.raises(tf.errors.InvalidArgumentError):
            images.decode(tf.constant(broken))


def test_a_damaged_animation_is_an_error_or_pixels():
    data = animation("WEBP", [noise(40, 56), noise(40, 56, seed=1)], lossless=True)
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data[: rng.integers(21, len(data))])
        broken[rng.integers(12, min(len(broken), 80))] = rng.integers(256)
        try:
            ours = decoded(bytes(broken))
        except tf.errors.InvalidArgumentError:
            continue
        assert ours.shape[2] == 3


def test_an_animated_png_gives_the_picture_in_front():
    data = animation("PNG", [noise(8, 9, seed=seed) for seed in range(3)])
    assert b"acTL" in data
    np.testing.assert_array_equal(decoded(data), noise(8, 9))


def test_an_animated_gif_gives_its_first_frame():
    data = animation("GIF", [np.full((8, 9, 3), colour, "uint8") for colour in COLOURS])
    np.testing.assert_array_equal(decoded(data), np.full((8, 9, 3), COLOURS[0]))


def test_a_first_frame_of_a_gif_comes_without_its_canvas():
    data = bytearray(encoded(Image.fromarray(noise(8, 9)).quantize(64), "GIF"))
    expected = pillow(bytes(data))
    data[6:8], data[8:10] = (19).to_bytes(2, "little"), (18).to_bytes(2, "little")
    assert Image.open(io.BytesIO(data)).size == (19, 18)
    np.testing.assert_array_equal(decoded(bytes(data)), expected)


# BMP


def bmp(rows, width, bits, compression=0, palette=b"", top_first=False, header=40, tail=b""):
    """A BMP from its rows as bytes, the lowest first unless ``top_first``."""
    row_bytes = (bits * width + 31) // 32 * 4
    body = b"".join(row.ljust(row_bytes, b"\xaa") for row in (rows if top_first else rows[::-1]))
    first = 14 + header + len(palette)
    height = -len(rows) if top_first else len(rows)
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    info = info.ljust(header, b"\0")
    head = b"BM" + struct.pack("<IHHI", first + len(body) + len(tail), 0, 0, first)
    return head + info + palette + body + tail


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("width", [16, 17, 19])
def test_a_bmp_of_pillow_is_read(mode, width):
    image = Image.fromarray(noise(13, width))
    image = image.quantize(200) if mode == "P" else image.convert(mode)
    data = encoded(image, "BMP")
    np.testing.assert_array_equal(decoded(data), np.array(image.convert("RGB")))
    np.testing.assert_array_equal(decoded(data), pillow(data))


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("top_first", [False, True])
def test_a_palette_is_looked_up(bits, top_first):
    indices = np.random.default_rng(0).integers(0, 2**bits, (13, 19))
    palette = noise(1, 2**bits, 4)[0]
    packed = np.unpackbits(indices.astype("uint8")[..., None], axis=2)[..., 8 - bits :]
    rows = [np.packbits(row.reshape(-1)).tobytes() for row in packed]
    data = bmp(rows, 19, bits, palette=palette.tobytes(), top_first=top_first)
    expected = palette[indices][..., 2::-1]
    np.testing.assert_array_equal(decoded(data), expected)
    np.testing.assert_array_equal(decoded(data), pillow(data))


@pytest.mark.parametrize("header", [40, 108, 124])
@pytest.mark.parametrize("tail", [b"", b"\0\0"])
def test_headers_and_bytes_behind_the_picture_do_not_matter(header, tail):
    picture = noise(5, 7)
    rows = [row[:, ::-1].tobytes() for row in picture]
    np.testing.assert_array_equal(decoded(bmp(rows, 7, 24, header=header, tail=tail)), picture)


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, None),
        (16, (0xF800, 0x07E0, 0x001F)),
        (16, (0x7C00, 0x03E0, 0x001F)),
        (32, (0x00FF0000, 0x0000FF00, 0x000000FF)),
        (32, (0xFF000000, 0x00FF0000, 0x0000FF00)),
        (32, (0x000000FF, 0x0000FF00, 0x00FF0000)),
    ],
)
def test_channel_masks_are_used(bits, masks):
    values = np.random.default_rng(0).integers(0, 2**bits, (13, 17), dtype="int64")
    rows = [row.astype(f"<u{bits // 8}").tobytes() for row in values]
    extra = b"" if masks is None else struct.pack("<3I", *masks)
    data = bmp(rows, 17, bits, compression=0 if masks is None else 3, palette=extra)
    expected = np.stack(
        [(values & m) // (m & -m) * 255 // (m // (m & -m)) for m in masks or (0x7C00, 0x3E0, 0x1F)],
        axis=2,
    )
    np.testing.assert_array_equal(decoded(data), expected)
    if bits == 16 or masks[1] != 0xFF00 or masks[0] > masks[2]:  # what Pillow knows
        np.testing.assert_array_equal(decoded(data), pillow(data))


ROWS = [bytes(3 * 7)] * 5
NO_BMP = {
    "run-length coded": bmp([bytes(7)] * 5, 7, 8, compression=1, palette=bytes(1024)),
    "16 bits of JPEG": bmp(ROWS, 7, 16, compression=4),
    "a header of OS/2": bmp(ROWS, 7, 24)[:14] + b"\x0c\0\0\0" + bmp(ROWS, 7, 24)[18:],
    "3 bits": bmp(ROWS, 7, 3),
    "0 bits": bmp(ROWS, 7, 0),
    "no width": bmp(ROWS, 0, 24),
    "no rows": bmp([], 7, 24),
    "a width below 0": bmp([b""] * 5, 7, 24)[:18] + b"\xff" * 4 + bytes(200),
    "half a picture": bmp(ROWS, 7, 24)[:-60],
    "a picture beyond the end": bmp(ROWS, 7, 24)[:10] + b"\xff" * 4 + bmp(ROWS, 7, 24)[14:],
    "an endless picture": bmp(ROWS, 7, 24)[:22] + b"\xff\xff\xff\x7f" + bmp(ROWS, 7, 24)[26:],
    "the first letters": b"BM",
}


@pytest.mark.parametrize("name", NO_BMP)
def test_what_is_no_bmp_of_ours_is_an_error(name):
    with pytest.raises(tf.errors.InvalidArgumentError, match="BMP: expected"):
        images.decode(tf.constant(NO_BMP[name]))


def test_a_bad_bmp_is_an_error_inside_a_pipeline():
    """Where an assertion could be left out of the graph."""
    data = tf.data.Dataset.from_tensors(NO_BMP["half a picture"]).map(images.decode)
    with pytest.raises(tf.errors.InvalidArgumentError, match="BMP: expected all rows"):
        next(iter(data))


# What cannot be decoded


def foreign():
    image = Image.fromarray(noise(16, 16))
    for kind in ("TIFF", "JPEG2000", "AVIF", "ICO", "PPM", "PDF", "TGA", "PCX", "SGI"):
        yield kind, encoded(image, kind)
    yield "HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    yield "PSD", b"8BPS\0\1" + bytes(40)
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "HTML", b"<!DOCTYPE html><html></html>"
    yield "a RIFF that is no WebP", b"RIFF\x24\0\0\0WAVEfmt " + bytes(40)
    yield "half a word", b"\xff\xd8"


@pytest.mark.parametrize(
    ("kind", "data"), list(foreign()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_what_tensorflow_cannot_decode_is_an_error(kind, data):
    assert sniff(data) not in DECODABLE
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        images.decode(tf.constant(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_damage_is_an_error_or_pixels(kind):
    """Random bytes changed, files cut short: never a crash, never anything but three channels."""
    image = Image.fromarray(smooth(40, 56))
    data = encoded(image.quantize(64) if kind == "GIF" else image, kind)
    if kind == "JPEG":
        data = data[:20] + segment(0xE2, b"front") + data[20:]
    rng = np.random.default_rng(0)
    decode = tf.function(images.decode, input_signature=[tf.TensorSpec((), tf.string)])
    for trial in range(80):
        broken = bytearray(data)
        for _ in range(trial % 4):
            broken[rng.integers(3, len(broken))] = rng.integers(256)
        if trial % 2:
            del broken[rng.integers(len(broken)) :]
        try:
            ours = decode(tf.constant(bytes(broken)))
        except tf.errors.OpError:
            continue
        assert ours.dtype == tf.uint8 and ours.shape[2] == 3
