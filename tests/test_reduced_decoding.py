"""Decoding of large JPEGs at a fraction of their size, against Pillow's draft and box filters."""

import io

import numpy as np
import pytest
import tensorflow as tf
from pictures import (
    decoded,
    difference,
    encoded,
    exif_segment,
    into_jpeg,
    noise,
    oriented,
    pillow,
    smooth,
)
from PIL import Image, ImageOps

from keras_featx import images
from keras_featx.sections import PreprocessSection

REDUCED = PreprocessSection(reduced_decoding=True)


def jpeg(height, width, orientation=1, kind="RGB", **options):
    image = Image.fromarray(smooth(height, width)).convert(kind)
    data = encoded(image, "JPEG", **{"quality": 90, **options})
    return data if orientation == 1 else into_jpeg(data, exif_segment(oriented(orientation)))


def reduced(data, image_size, window=None, **preprocess):
    section = PreprocessSection(reduced_decoding=True, **preprocess)
    return decoded(data, window, preprocess=section, image_size=image_size)


def draft(data, ratio):
    """Pillow's decoding at 1/ratio: pixels that are only partly there are part of it."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (image.width // ratio, image.height // ratio))
    return np.array(image.convert("RGB"))


def boxes(image, ratio):
    """Means of blocks of pixels, those at the edges of what is there."""
    reduced = Image.fromarray(image).reduce(ratio)
    return np.array(reduced)


@pytest.mark.parametrize(
    ("size", "image_size", "ratio"),
    [
        ((128, 128), (64, 64), 2),
        ((127, 128), (64, 64), 1),
        ((128, 127), (64, 64), 1),
        ((129, 255), (64, 64), 2),
        ((256, 257), (64, 64), 4),
        ((255, 300), (64, 64), 2),
        ((512, 700), (64, 64), 8),
        ((511, 700), (64, 64), 4),
        ((1200, 1030), (64, 64), 8),
        ((256, 900), (64, 32), 4),
        ((900, 256), (64, 32), 8),
        ((60, 60), (64, 64), 1),
    ],
)
def test_the_ratio_is_the_largest_that_leaves_enough(size, image_size, ratio):
    data = jpeg(*size)
    ours = reduced(data, image_size)
    # Edges go to the nearest edge of a reduced pixel.
    assert ours.shape == (*((side + ratio // 2) // ratio for side in size), 3)
    assert ours.shape[0] >= min(image_size[0], size[0])
    assert ours.shape[1] >= min(image_size[1], size[1])
    expected = draft(data, ratio)[: ours.shape[0], : ours.shape[1]]
    assert difference(ours, expected).max() <= 1


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_decoded_smaller_is_what_pillow_drafts(subsampling, progressive, ratio):
    image = noise(133, 201)
    options = {"quality": 90, "subsampling": subsampling, "progressive": progressive}
    data = encoded(image, "JPEG", **options)
    ours = reduced(data, (133 // ratio, 201 // ratio))
    expected = draft(data, ratio)[: ours.shape[0], : ours.shape[1]]
    assert difference(ours, expected).max() <= 1


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_a_smooth_image_is_that_of_a_box_filter(ratio):
    data = jpeg(512, 768, quality=98)
    ours = reduced(data, (512 // ratio, 768 // ratio))
    error = difference(ours, boxes(pillow(data), ratio))
    assert error.max() <= 4 and error.mean() < 0.6


@pytest.mark.parametrize(("ratio", "mean"), [(2, 1.5), (4, 1.0), (8, 0.7)])
def test_a_photo_is_near_that_of_a_box_filter(data_dir, ratio, mean):
    data = (data_dir / "img_photo.jpg").read_bytes()
    whole = pillow(data)
    ours = reduced(data, (240 // ratio, 320 // ratio))
    assert difference(ours, boxes(whole, ratio)).mean() < mean
    # One pixel out of so many, as without antialiasing, is far from it.
    assert difference(whole[::ratio, ::ratio], boxes(whole, ratio)).mean() > 8


def test_what_is_resized_is_near_to_the_antialiased():
    """The point of it all: a texture from 900x1300 to 64x64, with and without."""
    picture = smooth(900, 1300, detail=200) // 2 + noise(900, 1300) // 2
    data = tf.constant(encoded(picture, "JPEG", quality=95))
    section = PreprocessSection(reduced_decoding=True)
    assert images.decode(data, None, section, (64, 64)).shape == (113, 163, 3)
    exact = images.load_bytes(data, (64, 64), PreprocessSection(antialias=True)).numpy()
    with_it = difference(images.load_bytes(data, (64, 64), section).numpy(), exact).mean()
    without = difference(
        images.load_bytes(data, (64, 64), PreprocessSection()).numpy(), exact
    ).mean()
    assert with_it < 4 and with_it < without / 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_window_of_a_turned_image_is_a_part_of_the_reduced_one(orientation):
    """Windows on multiples of 8, so that edges lie between reduced pixels whatever the turn."""
    data = jpeg(400, 560, orientation, quality=95)
    upright = (560, 400) if orientation > 4 else (400, 560)
    full = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert full.size == upright[::-1]
    whole = reduced(data, (upright[0] // 8, upright[1] // 8))
    assert whole.shape == (upright[0] // 8, upright[1] // 8, 3)
    error = difference(whole, np.array(full.convert("RGB").reduce(8)))
    assert error.mean() < 1
    for part in ((0, 0, 320, 320), (40, 16, 240, 256), (80, 72, 320, 328)):
        asked = []

        def window(size, part=part, asked=asked):
            asked.append(size.numpy().tolist())
            return tf.constant(part)

        top, left, height, width = (side // 8 for side in part)
        ours = reduced(data, (height, width), window)
        assert asked == [list(upright)]
        np.testing.assert_array_equal(ours, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("part", [(3, 5, 131, 261), (1, 0, 399, 559), (100, 201, 64, 65)])
def test_the_ratio_of_a_window_is_its_own(part):
    data, image_size = jpeg(400, 560), (32, 48)
    top, left, height, width = part
    ratio = max(r for r in (1, 2, 4, 8) if height >= 32 * r and width >= 48 * r)
    ours = reduced(data, image_size, lambda size: tf.constant(part))
    edges = [(edge + ratio // 2) // ratio for edge in (top, left, top + height, left + width)]
    expected = draft(data, ratio)[edges[0] : edges[2], edges[1] : edges[3]]
    assert difference(ours, expected).max() <= 1


@pytest.mark.parametrize(
    ("preprocess", "shape"),
    [
        ({"resize": "squash"}, (120, 450)),
        ({"resize": "crop"}, (120, 450)),
        # 128 are wanted of the short side.
        ({"resize": "crop", "resize_short": 128}, (240, 900)),
        # The long side is to be 64, the short one 17.
        ({"resize": "pad"}, (60, 225)),
    ],
    ids=str,
)
def test_the_mode_says_what_is_large_enough(preprocess, shape):
    data = encoded(smooth(480, 1800, detail=240), "JPEG", quality=95)
    assert reduced(data, (64, 64), **preprocess).shape == (*shape, 3)
    section = PreprocessSection(reduced_decoding=True, **preprocess)
    plain = PreprocessSection(antialias=True, **preprocess)
    ours = images.load_bytes(tf.constant(data), (64, 64), section).numpy()
    exact = images.load_bytes(tf.constant(data), (64, 64), plain).numpy()
    assert difference(ours, exact).mean() < 2


def test_a_strip_keeps_a_pixel():
    data = jpeg(3, 1000)
    for mode in ("squash", "crop", "pad"):
        assert reduced(data, (32, 32), resize=mode).shape[0] >= 1
        section = PreprocessSection(reduced_decoding=True, resize=mode)
        assert images.load_bytes(tf.constant(data), (32, 32), section).shape == (32, 32, 3)


@pytest.mark.parametrize("kind", ["L", "CMYK"])
def test_other_jpegs_are_reduced_too(kind):
    data = jpeg(264, 320, kind=kind)
    ours = reduced(data, (64, 64))
    assert ours.shape == (66, 80, 3)
    assert difference(ours, boxes(pillow(data), 4)).mean() < 1.5


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_decoded_whole(kind):
    data = encoded(smooth(200, 300), kind)
    np.testing.assert_array_equal(reduced(data, (32, 32)), decoded(data))


def test_without_a_size_or_the_wish_all_is_decoded():
    data = jpeg(200, 300)
    assert decoded(data, preprocess=REDUCED).shape == (200, 300, 3)
    assert decoded(data, preprocess=PreprocessSection(), image_size=(32, 32)).shape == (200, 300, 3)


def test_in_a_graph_of_unknown_size_it_is_the_same():
    graph = tf.function(
        lambda data: images.load_bytes(data, (48, 32), REDUCED),
        input_signature=[tf.TensorSpec((), tf.string)],
    )
    for size, orientation in (((500, 700), 1), ((500, 701), 6), ((40, 30), 8)):
        data = tf.constant(jpeg(*size, orientation))
        ours = graph(data)
        assert ours.shape == (48, 32, 3)
        np.testing.assert_array_equal(ours, images.load_bytes(data, (48, 32), REDUCED))
