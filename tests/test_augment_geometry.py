"""The standard window, directions of flips, rotation and padded crops against NumPy and Pillow."""

import math

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from scipy.ndimage import map_coordinates
from scipy.stats import ks_2samp, kstest
from test_augment import DRAWS, PATH, applied, draw_windows, drawer, noise, seeds, spread

from keras_featx import augment
from keras_featx.errors import ConfigError
from keras_featx.sections import Component


def standard(**arguments):
    return augment.random_resized_crop(draw="standard", **arguments)


def standard_windows(height, width, number, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """torchvision's rule: up to ten tries, then the centre."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(number):
        for _ in range(10):
            area = height * width * rng.uniform(*scale)
            aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
                break
        else:
            w, h = width, height
            if width / height < ratio[0]:
                h = round(width / ratio[0])
            elif width / height > ratio[1]:
                w = round(height * ratio[1])
            top, left = (height - h) // 2, (width - w) // 2
        found.append((top, left, h, w))
    return np.array(found)


@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ((240, 320), {}),
        ((320, 240), {}),
        ((60, 150), {}),  # ten tries often fail, the centre is cut in width
        ((150, 60), {}),
        ((100, 100), {"scale": (0.5, 0.6), "ratio": (0.5, 2.0)}),
        ((100, 130), {"scale": (0.9, 1.0), "ratio": (0.9, 1.4)}),  # the centre is the whole
    ],
)
def test_standard_windows_are_distributed_as_torchvisions(size, arguments):
    ours = draw_windows(standard(**arguments), size, DRAWS)
    reference = standard_windows(*size, DRAWS, **arguments)
    names = ("top", "left", "height", "width")
    for ours_column, column, name in zip(ours.T, reference.T, names, strict=True):
        assert ks_2samp(ours_column, column).pvalue > 1e-6, name
    areas = [windows[:, 2] * windows[:, 3] for windows in (ours, reference)]
    assert ks_2samp(*areas).pvalue > 1e-6


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((30, 600), (0, 280, 30, 40)),  # wide: 4 to 3 of the whole height
        ((600, 30), (280, 0, 40, 30)),
        ((10, 201), (0, 94, 10, 13)),
        ((1, 3000), (0, 1499, 1, 1)),
    ],
)
def test_where_no_try_fits_the_centre_is_taken(size, expected):
    """A share near 1 of a narrow image never fits."""
    ours = draw_windows(standard(scale=(0.95, 1.0)), size, 50)
    np.testing.assert_array_equal(ours, np.tile(expected, (50, 1)))


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.01, 100.0), (50.0, 100.0)], ids=str)
@pytest.mark.parametrize("scale", [(0.08, 1.0), (1.0, 1.0), (1e-6, 1e-6)], ids=str)
def test_standard_windows_lie_in_the_image(scale, ratio):
    draw = drawer(standard(scale=scale, ratio=ratio))
    for size in [(1, 1), (1, 2), (2, 1), (1, 5000), (5000, 1), (3, 7), (3000, 2), (8000, 9000)]:
        top, left, height, width = draw(tf.constant(size), seeds(300)).numpy().T
        assert (top >= 0).all() and (left >= 0).all(), size
        assert (height >= 1).all() and (width >= 1).all(), size
        assert (top + height <= size[0]).all() and (left + width <= size[1]).all(), size


def test_the_same_seed_gives_the_same_standard_window():
    window = standard()
    ours = draw_windows(window, (240, 320), 100)
    np.testing.assert_array_equal(draw_windows(window, (240, 320), 100), ours)
    for row in (0, 17, 99):  # alone and eagerly, too
        np.testing.assert_array_equal(window(tf.constant([240, 320]), seeds(100)[row]), ours[row])
    assert (draw_windows(window, (2400, 3200), 100, 6) != ours).any(axis=1).all()


@pytest.mark.parametrize(
    ("direction", "mirrored"),
    [
        ("horizontal", lambda image: image[:, ::-1]),
        ("vertical", lambda image: image[::-1]),
        ("both", lambda image: image[::-1, ::-1]),
    ],
)
def test_flips_go_in_their_direction(direction, mirrored):
    flip = augment.random_flip(probability=0.3, direction=direction)
    image = noise(4, 5)
    ours = applied(flip, image, 4000)
    flipped = (ours == mirrored(image)).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(ours[~flipped], np.broadcast_to(image, ours[~flipped].shape))
    assert flipped.mean() == pytest.approx(0.3, abs=5 * (0.21 / 4000) ** 0.5)


def angles(ours, side):
    """The turn of each image of ramps, in degrees, counter-clockwise."""
    y, x = np.mgrid[:side, :side] - side // 2
    found = []
    for one in ours:
        inside = np.abs(one[..., 2] - 1) < 1e-3
        basis = np.stack([x[inside], y[inside]], 1)
        (a, c), (b, d) = np.linalg.lstsq(basis, one[inside][:, :2].astype("float64"))[0]
        np.testing.assert_allclose([a, b], [d, -c], atol=1e-3)  # a rotation
        found.append(math.degrees(math.atan2(c, a)))
    return np.array(found)


def test_rotation_is_uniform_with_its_probability():
    side = 33
    y, x = np.mgrid[:side, :side].astype("float32") - side // 2
    ramps = np.stack([x, y, np.ones_like(x)], axis=2)
    ours = applied(augment.random_rotation(probability=0.6, degrees=120.0), ramps, 800)
    turned = (ours != ramps).any(axis=(1, 2, 3))
    assert turned.mean() == pytest.approx(0.6, abs=5 * (0.24 / 800) ** 0.5)
    assert spread(angles(ours[turned], side), -120, 120)


def test_rotation_is_pillows_within_the_image():
    """Pillow cuts fractions off and has no blend with the fill at the edge."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (41, 58, 3)).astype("uint8")
    side = 33
    y, x = np.mgrid[:side, :side].astype("float32") - side // 2
    ramps = np.stack([x, y, np.ones_like(x)], axis=2)
    rotate = augment.random_rotation(probability=1.0, degrees=45.0, fill=200.0)
    ours = applied(rotate, picture.astype("float32"), 12)
    same_seeds = applied(rotate, ramps, 12)
    for one, angle in zip(ours, angles(same_seeds, side), strict=True):
        pillow = PIL.Image.fromarray(picture).rotate(angle, PIL.Image.Resampling.BILINEAR)
        whole = PIL.Image.fromarray(np.full((41, 58), 255, "uint8"))
        inside = np.asarray(whole.rotate(angle, PIL.Image.Resampling.BILINEAR)) == 255
        inside = np.pad(inside, 1)
        inside = np.logical_and.reduce(
            [inside[i : i + 41, j : j + 58] for i in range(3) for j in range(3)]
        )
        assert inside.sum() > 500
        np.testing.assert_allclose(one[inside], np.asarray(pillow)[inside], atol=1.05)
        assert (one[0, 0] == 200).all() or abs(angle) < 5


def upsampled(nodes, width, height):
    """Pillow's bicubic, ``(nodes, nodes, 2)`` to ``(height, width, 2)``."""
    planes = [PIL.Image.fromarray(plane) for plane in np.moveaxis(nodes, -1, 0).astype("float32")]
    larger = [plane.resize((width, height), PIL.Image.Resampling.BICUBIC) for plane in planes]
    return np.stack([np.asarray(plane) for plane in larger], -1)


@pytest.mark.parametrize("grid", [2, 5])
def test_bending_is_a_bicubic_field_of_normal_nodes_and_bilinear_pixels(grid):
    width, height, amount, number = 64, 48, 0.05, 60
    picture = np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype("float32")
    y, x = np.mgrid[:height, :width].astype("float32")
    ramps = np.stack([y, x, np.ones_like(x)], axis=2)
    bend = augment.random_elastic(amount=amount, grid=grid, fill=200.0)
    ours = applied(bend, picture, number)
    places = applied(bend, ramps, number)
    unit = np.eye(grid * grid).reshape(-1, grid, grid, 1).repeat(2, -1)
    basis = np.stack([upsampled(one, width, height) for one in unit])
    nodes = []
    for one, at in zip(ours, places, strict=True):
        inside = np.abs(at[..., 2] - 1) < 1e-4
        moves = np.stack([at[..., 0] - y, at[..., 1] - x], -1)[inside]
        found = [
            np.linalg.lstsq(basis[:, inside, axis].T, moves[:, axis].astype("float64"))[0]
            for axis in (0, 1)
        ]
        field = np.einsum("nhwa,an->hwa", basis, np.stack(found))
        # TensorFlow takes bicubic weights from a table of 1,024 steps.
        np.testing.assert_allclose(field[inside], moves, atol=0.01)
        # Where the ramps say exactly from where a pixel comes, and at the edge and outside, where
        # the field says it to 0.01 of a pixel; neighbours differ by up to 255 on both axes.
        for (rows, columns), where, slack in (
            (np.moveaxis(at[..., :2], -1, 0), inside, 0.02),
            (np.stack([y, x]) + np.moveaxis(field, -1, 0), np.ones_like(inside), 5.1),
        ):
            for ours_plane, plane in zip(*np.moveaxis([one, picture], -1, 1), strict=True):
                expected = map_coordinates(
                    plane, [rows, columns], order=1, mode="grid-constant", cval=200.0
                )
                np.testing.assert_allclose(ours_plane[where], expected[where], atol=slack)
        nodes.append(np.stack(found) / amount / np.array([[height], [width]]))
    assert kstest(np.ravel(nodes), "norm").pvalue > 1e-6


def test_bending_has_its_probability():
    picture = noise(12, 12)
    ours = applied(augment.random_elastic(probability=0.3), picture, 800)
    bent = (ours != picture).any(axis=(1, 2, 3))
    assert bent.mean() == pytest.approx(0.3, abs=5 * (0.21 / 800) ** 0.5)
    np.testing.assert_array_equal(applied(augment.random_elastic(amount=0), picture, 1)[0], picture)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_padded_crop_is_any_shift_as_often(mode, dtype):
    """The last row and column among them, which the reference never reaches."""
    image = noise(4, 6).astype(dtype)
    crop = augment.pad_and_crop(pixels=2, mode=mode, fill=7)
    ours = applied(lambda *given: tf.cast(crop(*given), tf.float32), image, 10_000)
    arguments = {"constant_values": 7} if mode == "constant" else {}
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode, **arguments)
    counts = {}
    for top in range(5):
        for left in range(5):
            part = padded[top : top + 4, left : left + 6].astype("float32")
            counts[top, left] = (ours == part).all(axis=(1, 2, 3)).sum()
    assert sum(counts.values()) == 10_000
    assert np.abs(np.array(list(counts.values())) - 400).max() < 5 * 400**0.5


def test_the_default_is_the_padding_of_the_reference():
    """Ten black pixels, all of which and none of which may be in the crop."""
    image = noise(30, 25) / 2 + 100
    ours = applied(augment.pad_and_crop(), image, 500)
    for axes in ((2, 3), (1, 3)):
        black = (ours == 0).all(axis=axes).sum(axis=1)
        assert set(black) == set(range(11))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (3, 2)])
def test_a_reflection_reaches_beyond_small_images(size):
    """NumPy reflects as often as the padding asks for."""
    image = noise(*size)
    ours = applied(augment.pad_and_crop(pixels=9, mode="reflect"), image, 200)
    padded = np.pad(image, ((9, 9), (9, 9), (0, 0)), "reflect")
    parts = {
        padded[top : top + size[0], left : left + size[1]].tobytes()
        for top in range(19)
        for left in range(19)
    }
    assert {one.tobytes() for one in ours} <= parts
    assert len({one.tobytes() for one in ours}) > 1 or size == (1, 1)


def test_no_padding_changes_nothing():
    image = noise(5, 4)
    for mode in ("constant", "reflect"):
        ours = applied(augment.pad_and_crop(pixels=0, mode=mode), image, 5)
        np.testing.assert_array_equal(ours, np.broadcast_to(image, ours.shape))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "RandomResizedCrop",
            {"draw": "torch"},
            "draw: expected one of ['reference', 'standard'], got 'torch'",
        ),
        (
            "RandomFlip",
            {"direction": "left"},
            "direction: expected one of ['horizontal', 'vertical', 'both'], got 'left'",
        ),
        ("RandomRotation", {"probability": 2.0}, "probability: expected in [0, 1], got 2.0"),
        ("RandomRotation", {"degrees": -1.0}, "degrees: expected in [0, 180], got -1.0"),
        ("RandomRotation", {"degrees": 181.0}, "degrees: expected in [0, 180], got 181.0"),
        ("RandomRotation", {"fill": 256.0}, "fill: expected in [0, 255], got 256.0"),
        ("RandomElastic", {"probability": 2.0}, "probability: expected in [0, 1], got 2.0"),
        ("RandomElastic", {"amount": -0.1}, "amount: expected in [0, 1], got -0.1"),
        ("RandomElastic", {"grid": 1}, "grid: expected in [2, 64], got 1"),
        ("RandomElastic", {"fill": -1}, "fill: expected in [0, 255], got -1"),
        ("PadAndCrop", {"pixels": -1}, "pixels: expected at least 0, got -1"),
        ("PadAndCrop", {"fill": -1}, "fill: expected in [0, 255], got -1"),
        (
            "PadAndCrop",
            {"mode": "wrap"},
            "mode: expected one of ['constant', 'reflect'], got 'wrap'",
        ),
    ],
)
def test_impossible_arguments_are_refused_with_their_key(name, arguments, message):
    with pytest.raises(ConfigError) as error:
        augment.build_augmentations((Component(name=name, args=arguments),), PATH)
    assert str(error.value) == f"{PATH}.0.{message}"
