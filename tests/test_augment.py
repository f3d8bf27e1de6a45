"""Augmentation against the statistics of the reference and its sampling rule in NumPy."""

import json

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import ks_2samp

from keras_featx import augment
from keras_featx.config import from_dict
from keras_featx.errors import ConfigError
from keras_featx.sections import Component

PATH = "DataLoader.Train.dataset.transform_ops"
DRAWS = 20_000


def seeds(number, first=5):
    """Seeds as the pipeline makes them: int64 pairs that count up."""
    return tf.stack(
        [tf.fill([number], tf.constant(first, tf.int64)), tf.range(number, dtype="int64")], 1
    )


def drawer(window):
    """From a size and many seeds to windows: top, left, height, width."""
    return tf.function(
        lambda size, all_seeds: tf.vectorized_map(lambda seed: window(size, seed), all_seeds)
    )


def draw_windows(window, size, number, first=5):
    return drawer(window)(tf.constant(size), seeds(number, first)).numpy()


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype("float32")


def applied(function, image, number, first=5):
    """The image under each of many seeds, ``(number, height, width, 3)``."""
    image = tf.constant(image)
    draw = tf.function(
        lambda s: tf.map_fn(lambda seed: function(image, seed), s, fn_output_signature=tf.float32)
    )
    return draw(seeds(number, first)).numpy()


def spread(values, low, high):
    """Uniform between the bounds, by Kolmogorov and Smirnov, to one in a million."""
    values = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    distance = max(np.abs(values - steps[1:]).max(), np.abs(values - steps[:-1]).max())
    return distance < 2.7 / len(values) ** 0.5


def reference_windows(height, width, number, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """The reference's RandCropImage: no ten tries, the share is capped by the aspect drawn."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(number):
        aspect = rng.uniform(*ratio)
        bound = min(width / height / aspect, height / width * aspect)
        area = height * width * rng.uniform(min(scale[0], bound), min(scale[1], bound))
        w, h = int((area * aspect) ** 0.5), int((area / aspect) ** 0.5)
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        found.append((top, left, h, w))
    return np.array(found)


def test_windows_have_the_statistics_of_the_reference(data_dir):
    stats = json.loads((data_dir / "randcrop_stats.json").read_text())
    height, width = stats["image"]
    _, _, h, w = draw_windows(augment.random_resized_crop(), (height, width), stats["n"]).T
    fraction, aspect = h * w / (height * width), w / h
    for values, mean in ((fraction, "mean_area_fraction"), (aspect, "mean_w_over_h")):
        error = values.std() * (2 / stats["n"]) ** 0.5  # of the difference of two means
        assert values.mean() == pytest.approx(stats[mean], abs=5 * error), mean
    # Sides are cut to whole pixels, so a window may be a little below the bound of 0.08.
    assert fraction.min() == pytest.approx(stats["min_area"], abs=0.002)
    assert fraction.max() == pytest.approx(stats["max_area"], abs=0.01)


@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ((240, 320), {}),
        ((320, 240), {}),
        ((60, 400), {}),  # the aspect bounds the largest share
        ((100, 100), {"scale": (0.5, 0.6), "ratio": (0.5, 2.0)}),
    ],
)
def test_windows_are_distributed_as_in_the_reference(size, arguments):
    ours = draw_windows(augment.random_resized_crop(**arguments), size, DRAWS)
    reference = reference_windows(*size, DRAWS, **arguments)
    for ours_column, column, name in zip(
        ours.T, reference.T, ("top", "left", "height", "width"), strict=True
    ):
        assert ks_2samp(ours_column, column).pvalue > 1e-6, name


def test_windows_of_a_narrow_image_have_its_whole_height():
    """The aspect bounds even the smallest share; the side is then cut to 29 or 30 by rounding."""
    ours = draw_windows(augment.random_resized_crop(), (30, 600), DRAWS)
    reference = reference_windows(30, 600, DRAWS)
    assert set(ours[:, 2]) <= {29, 30}
    for column, name in ((1, "left"), (3, "width")):
        assert ks_2samp(ours[:, column], reference[:, column]).pvalue > 1e-6, name


def test_every_place_is_as_likely():
    """Windows of 2 by 2 in 4 by 5 pixels: 12 places, the last row and column among them."""
    window = augment.random_resized_crop(scale=(0.2, 0.2), ratio=(1.0, 1.0))
    ours = draw_windows(window, (4, 5), 12_000)
    np.testing.assert_array_equal(ours[:, 2:], 2)
    places, counts = np.unique(ours[:, :2], axis=0, return_counts=True)
    assert len(places) == 12
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.01, 100.0)], ids=str)
@pytest.mark.parametrize("scale", [(0.08, 1.0), (1.0, 1.0), (1e-6, 1e-6)], ids=str)
def test_windows_lie_in_the_image(scale, ratio):
    draw = drawer(augment.random_resized_crop(scale=scale, ratio=ratio))
    for size in [
        (1, 1), (1, 2), (2, 1), (1, 5000), (5000, 1), (3, 7), (2, 3000), (3000, 2), (8000, 9000),
    ]:  # fmt: skip
        top, left, height, width = draw(tf.constant(size), seeds(500)).numpy().T
        assert (top >= 0).all() and (left >= 0).all(), size
        assert (height >= 1).all() and (width >= 1).all(), size
        assert (top + height <= size[0]).all() and (left + width <= size[1]).all(), size


@pytest.mark.parametrize("side", [1, 7, 97, 224, 300, 1999])
def test_a_share_of_one_is_the_whole_square(side):
    window = augment.random_resized_crop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    expected = np.tile([0, 0, side, side], (20, 1))
    np.testing.assert_array_equal(draw_windows(window, (side, side), 20), expected)


def test_the_same_seed_gives_the_same_window():
    window = augment.random_resized_crop()
    ours = draw_windows(window, (240, 320), 200)
    np.testing.assert_array_equal(draw_windows(window, (240, 320), 200), ours)
    for row in (0, 17, 199):  # alone and eagerly, too
        alone = window(tf.constant([240, 320]), seeds(200)[row])
        np.testing.assert_array_equal(alone, ours[row])


def test_different_seeds_give_different_windows():
    window = augment.random_resized_crop()
    first, second = (draw_windows(window, (2400, 3200), 500, first) for first in (5, 6))
    assert len(np.unique(first, axis=0)) == 500
    assert (first != second).any(axis=1).all()


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_flip_mirrors_with_its_probability(probability):
    flip, number = augment.random_flip(probability=probability), 4000
    image = noise(3, 5)
    ours = applied(flip, image, number)
    mirrored = (ours == image[:, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(ours[~mirrored], np.broadcast_to(image, ours[~mirrored].shape))
    error = (probability * (1 - probability) / number) ** 0.5
    assert mirrored.mean() == pytest.approx(probability, abs=5 * error)


def test_flip_of_the_same_seed_is_the_same():
    flip = augment.random_flip()
    image = tf.constant(np.arange(24).reshape(2, 4, 3).astype("uint8"))
    for seed in seeds(50):
        np.testing.assert_array_equal(flip(image, seed), flip(image, seed))


def test_each_operation_has_a_seed_of_its_own():
    """Over neighbouring samples and passes, so that no two draws are the same by construction."""
    seen = []

    def record(image, seed):
        seen.append(tuple(seed.numpy().tolist()))
        return image + 1

    for number in range(3):
        for row in range(50):
            seed = tf.constant([number, row], tf.int64)
            seen.append(tuple(augment.op_seed(seed, 0).numpy().tolist()))  # the window's
            image = augment.apply_all([record] * 4, tf.constant(0), seed)
            assert int(image) == 4
    assert len(set(seen)) == len(seen) == 3 * 50 * 5


def test_crop_and_flip_of_a_sample_are_independent():
    crop, flip = augment.random_resized_crop(), augment.random_flip()
    image = tf.constant([[[1], [2]]], tf.uint8)

    def both(seed):
        window = crop(tf.constant([1000, 1000]), augment.op_seed(seed, 0))
        return window[2] * window[3], flip(image, augment.op_seed(seed, 1))[0, 0, 0]

    spec = (tf.int32, tf.uint8)
    area, first = tf.function(lambda s: tf.map_fn(both, s, fn_output_signature=spec))(seeds(4000))
    mirrored = first.numpy() == 2
    assert ks_2samp(area.numpy()[mirrored], area.numpy()[~mirrored]).pvalue > 1e-6


def affine_maps(number, **arguments):
    """The map from output to input of each draw, found from ramps: ``(number, 2, 3)``.

    Rows: x and y of the input; columns: their share of the output's x, of its y, and their shift,
    all from the centre of the image.
    """
    side = 65
    y, x = np.mgrid[:side, :side].astype("float32") - side // 2
    image = np.stack([x, y, np.ones_like(x)], axis=2)
    ours = applied(augment.random_affine(fill=-1000.0, **arguments), image, number)
    found = []
    for one in ours:
        inside = np.abs(one[..., 2] - 1) < 1e-3  # not mixed with the fill
        assert inside.sum() > 100
        basis = np.stack([x[inside], y[inside], np.ones(inside.sum())], axis=1)
        solution, *_ = np.linalg.lstsq(basis, one[inside][:, :2].astype("float64"), rcond=None)
        np.testing.assert_allclose(basis @ solution, one[inside][:, :2], atol=1e-2)
        found.append(solution.T)
    return np.stack(found)


def test_an_affine_map_of_nothing_changes_nothing():
    image = noise(33, 47)
    ours = applied(augment.random_affine(), image, 5)
    np.testing.assert_allclose(ours, np.broadcast_to(image, ours.shape), atol=0.05)


def test_rotation_is_uniform_and_only_that():
    maps = affine_maps(300, rotation=30.0)
    angles = np.degrees(np.arctan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert spread(angles, -30, 30)
    cos, sin = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    rotations = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    np.testing.assert_allclose(maps[:, :, :2], rotations, atol=1e-3)
    np.testing.assert_allclose(maps[:, :, 2], 0, atol=1e-2)


def test_zoom_is_uniform_in_its_logarithm():
    maps = affine_maps(300, zoom=(0.5, 2.0))
    np.testing.assert_allclose(maps[:, 0, 0], maps[:, 1, 1], atol=1e-3)
    assert spread(-np.log(maps[:, 0, 0]), np.log(0.5), np.log(2))
    np.testing.assert_allclose(maps[:, [0, 1, 0, 1], [1, 0, 2, 2]], 0, atol=1e-2)


def test_zoom_magnifies():
    """By two, every other pixel is one of the middle of the input."""
    image = noise(33, 33)
    (ours,) = applied(augment.random_affine(zoom=(2.0, 2.0)), image, 1)
    np.testing.assert_allclose(ours[::2, ::2], image[8:25, 8:25], atol=0.05)


def test_aspect_stretches_the_width():
    maps = affine_maps(300, aspect=0.25)
    assert spread(np.log(maps[:, 0, 0]), -np.log(1.25), np.log(1.25))
    np.testing.assert_allclose(maps[:, 1, 1], 1, atol=1e-3)
    np.testing.assert_allclose(maps[:, [0, 1, 0, 1], [1, 0, 2, 2]], 0, atol=1e-2)


def test_shear_slants():
    maps = affine_maps(300, shear=0.3)
    assert spread(maps[:, 0, 1], -0.3, 0.3)
    np.testing.assert_allclose(maps[:, [0, 1, 1], [0, 0, 1]], [[1, 0, 1]] * 300, atol=1e-3)


def test_shift_moves_by_a_share_of_each_side():
    maps = affine_maps(300, shift=0.2)
    for row in range(2):
        assert spread(maps[:, row, 2], -0.2 * 65, 0.2 * 65)
    np.testing.assert_allclose(maps[:, :, :2], np.tile(np.eye(2), (300, 1, 1)), atol=1e-3)
    assert abs(np.corrcoef(maps[:, 0, 2], maps[:, 1, 2])[0, 1]) < 0.3


def test_around_the_image_is_the_fill():
    black = np.zeros((32, 32, 3), "float32")
    (ours,) = applied(augment.random_affine(zoom=(0.25, 0.25), fill=77.0), black, 1)
    np.testing.assert_array_equal(ours[:8], 77)
    np.testing.assert_array_equal(ours[14:18, 14:18], 0)


LUMA = np.array([0.299, 0.587, 0.114])


def test_brightness_is_an_offset_of_all_values():
    image = noise(4, 4)
    offsets = applied(augment.color_jitter(brightness=0.2), image, 300) - image
    first = offsets[:, :1, :1, :1]
    np.testing.assert_allclose(offsets, np.broadcast_to(first, offsets.shape), atol=1e-3)
    assert spread(first.ravel(), -0.2 * 255, 0.2 * 255)


def test_contrast_is_a_factor_about_mid_grey():
    image = noise(4, 4)
    ours = applied(augment.color_jitter(contrast=0.5), image, 300)
    factors = (ours - 127.5) / (image - 127.5)
    first = factors[:, :1, :1, :1]
    np.testing.assert_allclose(factors, np.broadcast_to(first, factors.shape), atol=1e-3)
    assert spread(np.log(first.ravel()), -np.log(1.5), np.log(1.5))


@pytest.mark.parametrize("arguments", [{"saturation": 0.5}, {"hue": 40.0}], ids=str)
def test_colours_turn_about_grey_and_keep_their_luma(arguments):
    image = noise(4, 4)
    image[0] = image[0, :, :1]  # a grey row
    ours = applied(augment.color_jitter(**arguments), image, 200)
    np.testing.assert_allclose(ours @ LUMA, np.broadcast_to(image @ LUMA, ours.shape[:3]), atol=0.2)
    np.testing.assert_allclose(ours[:, 0], np.broadcast_to(image[0], ours[:, 0].shape), atol=0.2)
    assert (np.abs(ours[:, 1:] - image[1:]).max(axis=(1, 2, 3)) > 1).mean() > 0.9


def test_saturation_is_a_factor_about_grey():
    image = noise(4, 4)
    ours = applied(augment.color_jitter(saturation=0.5), image, 300)
    grey = (image @ LUMA)[..., None]
    factors = (ours - grey)[:, 0, 0, 0] / (image - grey)[0, 0, 0]
    np.testing.assert_allclose(
        ours, grey + factors[:, None, None, None] * (image - grey), rtol=0, atol=0.5
    )
    assert spread(np.log(factors), -np.log(1.5), np.log(1.5))


def test_hue_turns_the_colour_circle():
    """Angles in the plane of NTSC's I and Q."""
    plane = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    image = noise(1, 1)
    before = plane @ image[0, 0]
    after = applied(augment.color_jitter(hue=40.0), image, 300)[:, 0, 0] @ plane.T
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.linalg.norm(before), rtol=1e-3)
    turned = np.degrees(np.arctan2(after[:, 1], after[:, 0]) - np.arctan2(before[1], before[0]))
    assert spread((turned + 180) % 360 - 180, -40, 40)


def test_gamma_is_a_power_of_each_channel():
    image = np.full((2, 1, 3), 255.0, "float32")
    image[0] = 64
    ours = applied(augment.color_jitter(gamma=0.3), image, 2000)
    np.testing.assert_allclose(ours[:, 1], 255, atol=1e-3)  # white stays
    power = np.log(np.log(ours[:, 0, 0] / 255) / np.log(64 / 255))
    # A common draw and half a draw of each channel's own.
    covariance = 0.3**2 * (np.ones((3, 3)) + 0.25 * np.eye(3))
    error = 5 * 0.3**2 * 1.25 * (2 / 2000) ** 0.5
    np.testing.assert_allclose(np.cov(power.T), covariance, rtol=0, atol=error)
    assert np.abs(power.mean(axis=0)).max() < 5 * 0.3 * (1.25 / 2000) ** 0.5


def test_grey_is_luma_with_its_probability():
    image = noise(3, 5)
    ours = applied(augment.random_grayscale(probability=0.3), image, 4000)
    changed = (ours != image).any(axis=(1, 2, 3))
    assert changed.mean() == pytest.approx(0.3, abs=5 * (0.21 / 4000) ** 0.5)
    grey = np.repeat((image @ LUMA)[..., None], 3, axis=2)
    np.testing.assert_allclose(ours[changed], np.broadcast_to(grey, ours[changed].shape), atol=1e-3)


def test_sharpness_minus_one_is_the_mean_of_nine():
    image = noise(5, 6)
    (ours,) = applied(augment.random_sharpness(probability=1.0, amount=(-1.0, -1.0)), image, 1)
    for row, column in ((2, 3), (0, 0), (4, 2)):  # within, at a corner, at an edge
        around = image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        np.testing.assert_allclose(ours[row, column], around.mean(axis=(0, 1)), atol=1e-3)


def test_sharpness_goes_away_from_the_mean():
    image = noise(5, 6)
    (blurred,) = applied(augment.random_sharpness(probability=1.0, amount=(-1.0, -1.0)), image, 1)
    ours = applied(augment.random_sharpness(probability=0.5, amount=(0.25, 1.0)), image, 2000)
    amounts = ((ours - image)[:, 2, 3, 0]) / (image - blurred)[2, 3, 0]
    used = amounts > 1e-6
    assert used.mean() == pytest.approx(0.5, abs=5 * (0.25 / 2000) ** 0.5)
    assert spread(amounts[used], 0.25, 1.0)
    expected = image + amounts[:, None, None, None] * (image - blurred)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=0.05)


def test_erasing_paints_one_rectangle():
    image = np.full((60, 80, 3), -1.0, "float32")  # no colour
    erase = augment.random_erasing(probability=0.5, area=(0.1, 0.2), ratio=0.5)
    painted, whole, draws = 0, [], []
    for one in applied(erase, image, 1000):
        inside = (one != -1).any(axis=2)
        if not inside.any():
            continue
        painted += 1
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert inside.sum() == len(rows) * len(columns)
        colours = np.unique(one[inside], axis=0)
        assert len(colours) == 1 and (colours >= 0).all() and (colours <= 255).all()
        draws.append((*colours[0], rows.mean(), columns.mean()))
        if rows[0] > 0 and columns[0] > 0 and rows[-1] < 59 and columns[-1] < 79:
            whole.append((len(rows) / 60, len(columns) / 80))  # not cut by the edge
    assert painted / 1000 == pytest.approx(0.5, abs=5 * (0.25 / 1000) ** 0.5)
    height, width = np.array(whole).T
    draws = np.array(draws).T
    assert all(spread(channel, 0, 255) for channel in draws[:3])
    assert np.abs(np.corrcoef(draws) - np.eye(5)).max() < 0.3
    slack = 1 / 13 + 1 / 17  # the shortest sides, in pixels, may each be one off
    assert (height * width > 0.1 * (1 - slack)).all() and (height * width < 0.2 * (1 + slack)).all()
    assert (height / width > 0.5 * (1 - slack)).all() and (height / width < 2 * (1 + slack)).all()
    assert np.corrcoef(height, width)[0, 1] < 0.5


def test_values_are_cut_and_rounded_at_the_end():
    image = tf.constant(np.full((1, 1, 3), 100, "uint8"))
    for add, expected in ((0.6, 101), (0.4, 100), (-100.2, 0), (200.0, 255)):
        functions = [lambda image, seed, add=add: tf.cast(image, tf.float32) + add]
        ours = augment.apply_all(functions, image, seeds(1)[0])
        assert ours.dtype == tf.uint8
        np.testing.assert_array_equal(ours, np.full((1, 1, 3), expected))
    beyond = [lambda image, seed: tf.cast(image, tf.float32) + 300, lambda image, seed: image - 300]
    np.testing.assert_array_equal(augment.apply_all(beyond, image, seeds(1)[0]), image)


@pytest.mark.parametrize(
    "function",
    [
        augment.random_affine(rotation=20.0, zoom=(0.8, 1.2), aspect=0.1, shear=0.1, shift=0.1),
        augment.random_elastic(),
        augment.color_jitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=9.0, gamma=0.1),
        augment.random_sharpness(probability=1.0),
        augment.random_erasing(probability=1.0),
    ],
    ids=["affine", "elastic", "jitter", "sharpness", "erasing"],
)
def test_the_same_seed_gives_the_same_image(function):
    image = noise(16, 16)
    ours = applied(function, image, 20)
    np.testing.assert_array_equal(applied(function, image, 20), ours)
    assert len({one.tobytes() for one in ours}) == 20
    assert (applied(function, image, 20, first=6) != ours).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("builder", "arguments", "message"),
    [
        ("crop", {"scale": (0.0, 1.0)}, "scale: expected 0 < low <= high <= 1, got [0.0, 1.0]"),
        ("crop", {"scale": (0.5, 0.4)}, "scale: expected 0 < low <= high <= 1, got [0.5, 0.4]"),
        ("crop", {"scale": (0.5, 1.1)}, "scale: expected 0 < low <= high <= 1, got [0.5, 1.1]"),
        ("crop", {"ratio": (0.0, 1.0)}, "ratio: expected 0 < low <= high, got [0.0, 1.0]"),
        ("crop", {"ratio": (2.0, 1.0)}, "ratio: expected 0 < low <= high, got [2.0, 1.0]"),
        ("flip", {"probability": -0.1}, "probability: expected in [0, 1], got -0.1"),
        ("flip", {"probability": 1.5}, "probability: expected in [0, 1], got 1.5"),
        ("grey", {"probability": 1.5}, "probability: expected in [0, 1], got 1.5"),
        ("sharp", {"probability": -1.0}, "probability: expected in [0, 1], got -1.0"),
        ("erase", {"probability": 2.0}, "probability: expected in [0, 1], got 2.0"),
        ("erase", {"area": (0.0, 0.1)}, "area: expected 0 < low <= high <= 1, got [0.0, 0.1]"),
        ("erase", {"area": (0.2, 0.1)}, "area: expected 0 < low <= high <= 1, got [0.2, 0.1]"),
        ("erase", {"ratio": 0.0}, "ratio: expected in (0, 1], got 0.0"),
        ("erase", {"ratio": 1.5}, "ratio: expected in (0, 1], got 1.5"),
        ("affine", {"zoom": (0.0, 1.0)}, "zoom: expected 0 < low <= high, got [0.0, 1.0]"),
        ("affine", {"zoom": (2.0, 1.0)}, "zoom: expected 0 < low <= high, got [2.0, 1.0]"),
        ("affine", {"aspect": -0.1}, "aspect: expected in [0, 1), got -0.1"),
        ("affine", {"shear": 1.0}, "shear: expected in [0, 1), got 1.0"),
        ("affine", {"shift": 1.0}, "shift: expected in [0, 1), got 1.0"),
        ("jitter", {"brightness": -0.1}, "brightness: expected at least 0, got -0.1"),
        ("jitter", {"contrast": -0.1}, "contrast: expected at least 0, got -0.1"),
        ("jitter", {"gamma": -0.1}, "gamma: expected at least 0, got -0.1"),
        # Minus one would make every colour infinite or not a number.
        ("jitter", {"saturation": -1.0}, "saturation: expected at least 0, got -1.0"),
    ],
)
def test_impossible_arguments_are_refused_with_their_key(builder, arguments, message):
    function, name = {
        "crop": (augment.random_resized_crop, "RandomResizedCrop"),
        "flip": (augment.random_flip, "RandomFlip"),
        "grey": (augment.random_grayscale, "RandomGrayscale"),
        "sharp": (augment.random_sharpness, "RandomSharpness"),
        "erase": (augment.random_erasing, "RandomErasing"),
        "affine": (augment.random_affine, "RandomAffine"),
        "jitter": (augment.color_jitter, "ColorJitter"),
    }[builder]
    with pytest.raises(ValueError) as error:
        function(**arguments)
    assert str(error.value) == message
    with pytest.raises(ConfigError) as config_error:
        augment.build_augmentations((Component(name=name, args=arguments),), PATH)
    assert str(config_error.value) == f"{PATH}.0.{message}"


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError) as error:
        augment.build_augmentations((Component(name="RandomFlop"),), PATH)
    assert str(error.value).startswith(f"{PATH}.0.name: expected one of ['AugMix', ")
    assert str(error.value).endswith("got 'RandomFlop'; did you mean 'RandomFlip'?")


def transform_ops(*ops):
    dataset = {"name": "ClassFolders", "image_root": "x", "transform_ops": list(ops)}
    return from_dict({"DataLoader": {"Train": {"dataset": dataset}}}).DataLoader.Train.dataset


@pytest.mark.parametrize(
    "ops",
    [("RandomFlip", "RandomResizedCrop"), ("RandomResizedCrop", "RandomResizedCrop")],
)
def test_the_crop_comes_first_and_once(ops):
    with pytest.raises(ConfigError) as error:
        augment.build_augmentations(transform_ops(*ops).transform_ops, PATH)
    assert str(error.value) == f"{PATH}.1: expected RandomResizedCrop first, got it at 1"


@pytest.mark.parametrize(
    ("ops", "has_window", "pixel_ops"),
    [
        ((), False, 0),
        (("RandomResizedCrop",), True, 0),
        (("RandomFlip",), False, 1),
        (("RandomResizedCrop", "RandomFlip", "RandomFlip"), True, 2),
    ],
)
def test_the_window_is_apart_from_the_pixel_operations(ops, has_window, pixel_ops):
    window, functions = augment.build_augmentations(transform_ops(*ops).transform_ops, PATH)
    assert (window is not None, len(functions)) == (has_window, pixel_ops)
