"""Blur, JPEG noise and the paints of erasing against SciPy, Pillow and NumPy."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from test_augment import PATH, applied, noise, seeds, spread

from keras_featx import augment
from keras_featx.errors import ConfigError
from keras_featx.sections import Component


def blurred(image, sigma):
    """In float64; weights of the pixels that are there sum to one."""
    arguments = {"sigma": (sigma, sigma, 0), "mode": "constant", "truncate": 100.0}
    image = image.astype("float64")
    return gaussian_filter(image, **arguments) / gaussian_filter(np.ones_like(image), **arguments)


@pytest.mark.parametrize("size", [(32, 32), (20, 47), (51, 18), (1, 9), (7, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("share", [0.001, 0.03, 0.12, 1.0])
def test_blur_is_a_gaussian_of_a_share_of_the_shorter_side(size, share):
    image = noise(*size)
    (ours,) = applied(augment.gaussian_blur(probability=1.0, sigma=(share, share)), image, 1)
    np.testing.assert_allclose(ours, blurred(image, share * min(size)), rtol=0, atol=2e-3)


def test_blur_keeps_flat_images():
    flat = np.full((9, 14, 3), 201.0, "float32")
    ours = applied(augment.gaussian_blur(probability=1.0, sigma=(0.01, 1.0)), flat, 5)
    np.testing.assert_allclose(ours, 201, atol=1e-3)


def test_the_width_of_a_blur_is_uniform_with_its_probability():
    """Found from the centre of a blurred point, in two dimensions 1 / (2 pi sigma^2)."""
    side = 41
    point = np.zeros((side, side, 3), "float32")
    point[side // 2, side // 2] = 255
    blur = augment.gaussian_blur(probability=0.4, sigma=(0.03, 0.06))
    centre = applied(blur, point, 2000)[:, side // 2, side // 2, 0] / 255
    changed = centre < 1
    assert changed.mean() == pytest.approx(0.4, abs=5 * (0.24 / 2000) ** 0.5)
    assert spread((2 * np.pi * centre[changed]) ** -0.5 / side, 0.03, 0.06)


def pillow_jpeg(picture, quality):
    data = io.BytesIO()
    PIL.Image.fromarray(picture).save(data, "JPEG", quality=quality, subsampling=2)
    return np.asarray(PIL.Image.open(data)).astype("float64")


def smooth_picture():
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (60, 83, 3)).astype("float64")
    return gaussian_filter(rough, (2, 2, 0)).astype("float64").round().astype("uint8")


@pytest.mark.parametrize("quality", [1, 10, 30, 50, 75, 90, 100])
def test_jpeg_noise_is_what_pillow_makes_of_a_quality(quality):
    picture = smooth_picture()
    noisy = augment.jpeg_noise(probability=1.0, quality=(quality, quality))
    ours = noisy(tf.constant(picture), seeds(1)[0])
    assert ours.dtype == tf.uint8
    difference = np.abs(ours.numpy() - pillow_jpeg(picture, quality))
    # Both are libjpeg-turbo; versions may differ by a level here and there.
    assert difference.mean() < 0.05 and difference.max() <= 3


def test_qualities_are_equally_likely_with_their_probability():
    picture = smooth_picture()[:16, :16]
    noisy = augment.jpeg_noise(probability=0.7, quality=(20, 23))
    count = lambda *given: tf.cast(noisy(*given), tf.float32)  # noqa: E731
    ours = applied(count, picture, 4000)
    fixed = [augment.jpeg_noise(probability=1.0, quality=(q, q)) for q in range(20, 24)]
    expected = [picture, *(f(tf.constant(picture), seeds(1)[0]).numpy() for f in fixed)]
    assert len({one.tobytes() for one in expected}) == 5
    shares = [(ours == one).all(axis=(1, 2, 3)).mean() for one in expected]
    assert sum(shares) == pytest.approx(1)
    np.testing.assert_allclose(shares, [0.3, *[0.175] * 4], atol=5 * (0.21 / 4000) ** 0.5)


def test_jpeg_noise_takes_floats_and_any_size():
    noisy = tf.function(
        augment.jpeg_noise(probability=1.0),
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.float32),
            tf.TensorSpec([2], tf.int64),
        ],
    )
    for size in ((1, 1), (3, 50), (17, 16)):
        ours = noisy(noise(*size) * 2 - 100, seeds(1)[0])
        assert ours.dtype == tf.uint8 and ours.shape == (*size, 3)


def painted(mode, number, **arguments):
    """Erased images, and which of their pixels are."""
    image = np.full((30, 40, 3), -1.0, "float32")  # no colour
    erase = augment.random_erasing(area=(0.1, 0.3), mode=mode, **arguments)
    ours = applied(erase, image, number)
    return ours, (ours != -1).any(axis=3)


def test_erasing_with_a_constant():
    ours, inside = painted("constant", 500, probability=0.4, fill=(1.0, 2.5, 255.0))
    assert np.unique(ours[inside], axis=0).tolist() == [[1.0, 2.5, 255.0]]
    assert inside.any(axis=(1, 2)).mean() == pytest.approx(0.4, abs=5 * (0.24 / 500) ** 0.5)


def test_erasing_with_the_mean_of_imagenet():
    ours, inside = painted("constant", 20, probability=1.0)
    mean = 255 * np.array([0.485, 0.456, 0.406])  # Arch.Preprocess.mean
    np.testing.assert_allclose(np.unique(ours[inside], axis=0), mean[None], rtol=1e-6)


def test_erasing_with_noise_in_every_pixel():
    ours, inside = painted("pixel", 100, probability=1.0)
    values = ours[inside]
    assert len(values) > 5000
    assert set(np.unique(values)) == set(range(256))
    for channel in values.T:
        assert ks_2samp(channel, np.arange(256)).pvalue > 1e-6
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.1
    # Anew for each seed: no two images share their noise.
    middle = ours[:, 15, 20][inside[:, 15, 20]]
    assert len(np.unique(middle, axis=0)) > 0.9 * len(middle)


def test_the_mode_does_not_move_the_rectangle():
    areas = [painted(mode, 50, probability=0.5)[1] for mode in ("constant", "colour", "pixel")]
    np.testing.assert_array_equal(areas[0], areas[1])
    np.testing.assert_array_equal(areas[0], areas[2])


@pytest.mark.parametrize(
    "function",
    [
        augment.gaussian_blur(probability=1.0, sigma=(0.05, 0.2)),
        augment.random_erasing(probability=1.0, mode="pixel"),
        augment.random_rotation(probability=1.0),
        augment.pad_and_crop(),
    ],
    ids=["blur", "erasing", "rotation", "crop"],
)
def test_the_same_seed_gives_the_same_image(function):
    image = noise(16, 16)
    ours = applied(function, image, 20)
    np.testing.assert_array_equal(applied(function, image, 20), ours)
    assert len({one.tobytes() for one in ours}) > 15


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("GaussianBlur", {"probability": -1.0}, "probability: expected in [0, 1], got -1.0"),
        (
            "GaussianBlur",
            {"sigma": (0.0, 0.1)},
            "sigma: expected 0 < low <= high <= 1, got [0.0, 0.1]",
        ),
        (
            "GaussianBlur",
            {"sigma": (0.2, 0.1)},
            "sigma: expected 0 < low <= high <= 1, got [0.2, 0.1]",
        ),
        ("JpegNoise", {"probability": 1.5}, "probability: expected in [0, 1], got 1.5"),
        (
            "JpegNoise",
            {"quality": (0, 90)},
            "quality: expected 1 <= low <= high <= 100, got [0, 90]",
        ),
        (
            "JpegNoise",
            {"quality": (90, 101)},
            "quality: expected 1 <= low <= high <= 100, got [90, 101]",
        ),
        (
            "RandomErasing",
            {"mode": "noise"},
            "mode: expected one of ['constant', 'colour', 'pixel'], got 'noise'",
        ),
        (
            "RandomErasing",
            {"fill": (0.0, 0.0, 256.0)},
            "fill: expected values in [0, 255], got [0.0, 0.0, 256.0]",
        ),
        (
            "RandomErasing",
            {"fill": (-1.0, 0.0, 0.0)},
            "fill: expected values in [0, 255], got [-1.0, 0.0, 0.0]",
        ),
    ],
)
def test_impossible_arguments_are_refused_with_their_key(name, arguments, message):
    with pytest.raises(ConfigError) as error:
        augment.build_augmentations((Component(name=name, args=arguments),), PATH)
    assert str(error.value) == f"{PATH}.0.{message}"
