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


def draw_windows(window, size, number, first=5):
    """``(number, 4)``: top, left, height, width."""
    size = tf.constant(size)
    draw = tf.function(lambda all_seeds: tf.vectorized_map(lambda s: window(size, s), all_seeds))
    return draw(seeds(number, first)).numpy()


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
        ((60, 400), {}),  # the bound caps the share
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


def test_every_place_is_as_likely():
    """Windows of 2 by 2 in 4 by 5 pixels: 12 places, the last row and column among them."""
    window = augment.random_resized_crop(scale=(0.2, 0.2), ratio=(1.0, 1.0))
    ours = draw_windows(window, (4, 5), 12_000)
    np.testing.assert_array_equal(ours[:, 2:], 2)
    places, counts = np.unique(ours[:, :2], axis=0, return_counts=True)
    assert len(places) == 12
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5


@pytest.mark.parametrize(
    "size",
    [(1, 1), (1, 2), (2, 1), (1, 5000), (5000, 1), (3, 7), (2, 3000), (3000, 2), (8000, 9000)],
    ids=str,
)
@pytest.mark.parametrize("scale", [(0.08, 1.0), (1.0, 1.0), (1e-6, 1e-6)], ids=str)
def test_windows_lie_in_the_image(size, scale):
    for ratio in ((3 / 4, 4 / 3), (0.01, 100.0)):
        window = augment.random_resized_crop(scale=scale, ratio=ratio)
        top, left, height, width = draw_windows(window, size, 500).T
        assert (top >= 0).all() and (left >= 0).all()
        assert (height >= 1).all() and (width >= 1).all()
        assert (top + height <= size[0]).all() and (left + width <= size[1]).all()


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
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3)).astype("uint8")
    ours = tf.function(
        lambda s: tf.map_fn(lambda seed: flip(tf.constant(image), seed), s, tf.uint8)
    )(seeds(number)).numpy()
    mirrored = (ours == image[:, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(ours[~mirrored], np.broadcast_to(image, ours[~mirrored].shape))
    error = (probability * (1 - probability) / number) ** 0.5
    assert mirrored.mean() == pytest.approx(probability, abs=5 * error)
    assert ours.dtype == np.uint8


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
    ],
)
def test_impossible_arguments_are_refused_with_their_key(builder, arguments, message):
    function, name = {
        "crop": (augment.random_resized_crop, "RandomResizedCrop"),
        "flip": (augment.random_flip, "RandomFlip"),
    }[builder]
    with pytest.raises(ValueError) as error:
        function(**arguments)
    assert str(error.value) == message
    with pytest.raises(ConfigError) as config_error:
        augment.build_augmentations((Component(name=name, args=arguments),), PATH)
    assert str(config_error.value) == f"{PATH}.0.{message}"


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
