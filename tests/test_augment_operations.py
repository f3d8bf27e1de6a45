"""The operations of the policies against Pillow, level for level."""

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from PIL import ImageEnhance, ImageOps

from keras_featx.augment import operations as ops

FILL = 128


def pictures():
    """Random, smooth, flat, of one level or two, dark, narrow and tiny images."""
    rng = np.random.default_rng(0)
    ramp = np.stack(np.meshgrid(np.arange(61), np.arange(47), indexing="ij"), 2)
    smooth = np.concatenate([ramp * 4, ramp[:, :, :1] + ramp[:, :, 1:]], 2) % 256
    spots = np.full((40, 50, 3), 17)
    spots[rng.random((40, 50)) < 0.1] = (18, 200, 0)
    one = np.full((9, 11, 3), 64)
    one[0, 0] = (65, 64, 255)
    found = {
        "noise": rng.integers(0, 256, (64, 64, 3)),
        "landscape": rng.integers(0, 256, (33, 70, 3)),
        "smooth": smooth,
        "photo": rng.normal(120, 25, (50, 41, 3)).clip(0, 255),
        "dark": rng.integers(0, 7, (31, 29, 3)),
        "spots": spots,
        "one pixel differs": one,
        "black": np.zeros((12, 8, 3)),
        "white": np.full((8, 12, 3), 255),
        "grey": np.full((20, 20, 3), 77),
        "flat colours": np.tile(np.array([3, 250, 128]), (10, 15, 1)),
        "row": rng.integers(0, 256, (1, 40, 3)),
        "column": rng.integers(0, 256, (37, 1, 3)),
        "two by two": rng.integers(0, 256, (2, 2, 3)),
        "pixel": np.array([[[1, 2, 3]]]),
        "few": rng.integers(0, 256, (15, 17, 3)),  # 255 pixels: the histogram has no step
        "few more": rng.integers(0, 256, (16, 17, 3)),
    }
    return {name: image.astype("uint8") for name, image in found.items()}


PICTURES = pictures()


def moved(matrix):
    """Pillow's affine map, nearest."""
    return lambda image: image.transform(
        image.size, PIL.Image.Transform.AFFINE, matrix, fillcolor=(FILL,) * 3
    )


def solarize_add(addition):
    table = [i + addition if i < 128 else i for i in range(256)]
    return lambda image: image.point(3 * table)


def cases():
    """(ours, name in messages, argument or None, Pillow's)."""
    yield ops.auto_contrast, None, ImageOps.autocontrast
    yield ops.equalize, None, ImageOps.equalize
    yield ops.invert, None, ImageOps.invert
    for bits in range(1, 9):
        yield ops.posterize, bits, lambda i, b=bits: ImageOps.posterize(i, b)
    for threshold in (0, 1, 64, 127, 128, 255, 256):
        yield ops.solarize, threshold, lambda i, t=threshold: ImageOps.solarize(i, t)
    for addition in (0, 1, 55, 110, 127):
        yield ops.solarize_add, addition, solarize_add(addition)
    for ours, theirs in (
        (ops.color, ImageEnhance.Color),
        (ops.contrast, ImageEnhance.Contrast),
        (ops.brightness, ImageEnhance.Brightness),
        (ops.sharpness, ImageEnhance.Sharpness),
    ):
        for factor in (0.0, 0.1, 0.37, 0.8, 0.99, 1.0, 1.09, 1.5, 1.9, 3.0):
            yield ours, factor, lambda i, t=theirs, f=factor: t(i).enhance(f)
    for degrees in (-180, -135, -90, -45, -30, -7.7, -0.01, 0, 0.5, 3, 12.25, 29.97, 60, 90, 180):
        yield ops.rotate, degrees, lambda i, d=degrees: i.rotate(d, fillcolor=(FILL,) * 3)
    for amount in (-0.3, -0.1234, 0.0, 0.007, 0.25, 0.3, 1.0):
        yield ops.shear_x, amount, moved((1, amount, 0, 0, 1, 0))
        yield ops.shear_y, amount, moved((1, 0, 0, amount, 1, 0))
    for pixels in (-100, -7, -3.25, -1, -0.75, 0, 0.25, 1, 5.5, 12, 40):
        yield ops.translate_x, pixels, moved((1, 0, pixels, 0, 1, 0))
        yield ops.translate_y, pixels, moved((1, 0, 0, 0, 1, pixels))


MOVES = {ops.rotate, ops.shear_x, ops.shear_y, ops.translate_x, ops.translate_y}
CASES = [(ours.__name__, argument, ours, theirs) for ours, argument, theirs in cases()]


@pytest.fixture(scope="module")
def traced():
    """Each operation as one graph for images of any size and any argument."""
    graphs = {}
    image = tf.TensorSpec([None, None, 3], tf.uint8)
    whole = {ops.posterize, ops.solarize, ops.solarize_add}
    for _, argument, ours, _ in CASES:
        if ours in graphs:
            continue
        if argument is None:
            graphs[ours] = tf.function(ours, input_signature=[image])
            continue
        spec = tf.TensorSpec([], tf.int32 if ours in whole else tf.float64)
        if ours in MOVES:
            call = lambda image, argument, ours=ours: ours(image, argument, FILL)  # noqa: E731
        else:
            call = ours
        graphs[ours] = tf.function(call, input_signature=[image, spec])
    return graphs


@pytest.mark.parametrize(
    ("argument", "ours", "theirs"),
    [case[1:] for case in CASES],
    ids=[f"{name}({'' if argument is None else argument})" for name, argument, *_ in CASES],
)
def test_an_operation_is_pillows(argument, ours, theirs, traced):
    for name, picture in PICTURES.items():
        expected = np.asarray(theirs(PIL.Image.fromarray(picture)))
        given = (picture,) if argument is None else (picture, argument)
        found = traced[ours](*given).numpy()
        assert found.dtype == np.uint8 and found.shape == picture.shape
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("seed", range(20))
def test_random_images_and_arguments_are_pillows(seed, traced):
    """Of any size, contrast and offset; the arguments are what a policy's float32 draws give."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 90, 2)
    low, high = np.sort(rng.integers(0, 257, 2))
    picture = rng.integers(low, max(high, low + 1), (height, width, 3)).clip(0, 255)
    image = PIL.Image.fromarray(picture.astype("uint8"))
    factor = float(np.float32(rng.uniform(0.1, 1.9)))
    degrees, amount = (float(np.float32(rng.uniform(-m, m))) for m in (30, 0.3))
    pixels = float(rng.integers(-width, width + 1))
    for ours, argument, expected in (
        (ops.auto_contrast, None, ImageOps.autocontrast(image)),
        (ops.equalize, None, ImageOps.equalize(image)),
        (ops.color, factor, ImageEnhance.Color(image).enhance(factor)),
        (ops.contrast, factor, ImageEnhance.Contrast(image).enhance(factor)),
        (ops.brightness, factor, ImageEnhance.Brightness(image).enhance(factor)),
        (ops.sharpness, factor, ImageEnhance.Sharpness(image).enhance(factor)),
        (ops.rotate, degrees, image.rotate(degrees, fillcolor=(FILL,) * 3)),
        (ops.shear_x, amount, moved((1, amount, 0, 0, 1, 0))(image)),
        (ops.shear_y, amount, moved((1, 0, 0, amount, 1, 0))(image)),
        (ops.translate_x, pixels, moved((1, 0, pixels, 0, 1, 0))(image)),
    ):
        given = (picture,) if argument is None else (picture, argument)
        found = traced[ours](*given).numpy()
        np.testing.assert_array_equal(found, np.asarray(expected), err_msg=ours.__name__)
