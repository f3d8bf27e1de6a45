"""Resizing against OpenCV's numbers, the reference's, Pillow and float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from pictures import difference, noise, resized, smooth
from PIL import Image

from keras_featx import images, models, resizing
from keras_featx.errors import ConfigError
from keras_featx.sections import PreprocessSection

RESIZED = {  # name in preprocess.npz: (height, width), interpolation, largest difference
    "resize_only_cv2_224": ((224, 224), "bilinear", 1),
    "resize_only_cv2_128x256": ((256, 128), "bilinear", 1),
    "resize_only_cv2_area_112": ((112, 112), "area", 1),
}
SIZES = [((13, 29), (32, 32)), ((97, 113), (41, 64)), ((50, 7), (33, 35)), ((1, 1), (32, 40))]


PILLOW = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos3": Image.LANCZOS}


@pytest.fixture
def golden(data_dir):
    return {**np.load(data_dir / "preprocess.npz"), **np.load(data_dir / "preprocess_more.npz")}


@pytest.fixture(scope="module")
def opencv(request):
    """{case: {"source": image, interpolation: what cv2.resize made of it}}."""
    arrays = np.load(request.config.rootpath / "tests" / "data" / "resize_opencv.npz")
    cases = {}
    for key in arrays.files:
        case, kind = key.split("/")
        cases.setdefault(case, {})[kind] = arrays[key]
    assert len(cases) == 22
    return cases


def weights_of(kind, source, target):
    """Float64 weights of the source pixels in each target pixel, ``(target, source)``."""
    weights = np.zeros((target, source))
    scale = source / target
    for i in range(target):
        centre = (i + 0.5) * scale - 0.5
        for j in range(-2, source + 2):
            if kind == "bilinear":  # beyond the edge, the edge pixel goes on
                weights[i, min(max(j, 0), source - 1)] += max(0, 1 - abs(centre - j))
            elif kind == "area":
                overlap = min(j + 1, (i + 1) * scale) - max(j, i * scale)
                if 0 <= j < source:
                    weights[i, j] = max(0, overlap) / scale
            elif 0 <= j < source:  # Keys' cubic with a = -0.5; beyond the edge there is nothing
                x = abs(centre - j)
                near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
                weights[i, j] = near if x <= 1 else far if x < 2 else 0
    return weights / weights.sum(axis=1, keepdims=True)


def resize_of(kind, image, image_size):
    """Not rounded, not cut to 0..255."""
    rows, columns = (weights_of(kind, image.shape[i], image_size[i]) for i in (0, 1))
    return np.einsum("ih,jw,hwc->ijc", rows, columns, image.astype("float64"))


@pytest.mark.parametrize("name", RESIZED)
def test_resizing_equals_opencv(golden, name):
    image_size, interpolation, largest = RESIZED[name]
    ours = resized(golden["photo/decode"], image_size, interpolation=interpolation)
    error = difference(ours, golden[f"photo/{name}"])
    assert error.max() <= largest
    # OpenCV's fixed point puts about a tenth of the bilinear pixels one too low.
    assert error.mean() < 0.15


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    ("interpolation", "slack"),
    # Coordinates are float32 (bilinear, area) or in steps of 1/1024 (bicubic).
    [("bilinear", 0.01), ("area", 0.01), ("bicubic", 0.3)],
)
def test_resizing_rounds_the_exact_value_to_nearest(sizes, interpolation, slack):
    source, image_size = sizes
    image = noise(*source)
    ours = resized(image, image_size, interpolation=interpolation)
    exact = np.clip(resize_of(interpolation, image, image_size), 0, 255)
    assert difference(ours, exact).max() <= 0.5 + slack


@pytest.mark.parametrize("source", [(1, 1), (5, 300), (97, 113), (64, 80), (251, 333)])
def test_bilinear_from_floats_and_from_bytes_is_the_same(monkeypatch, source):
    image = noise(*source)
    monkeypatch.setattr(resizing, "_FEW", 0)
    from_bytes = resized(image, (64, 56))
    monkeypatch.setattr(resizing, "_FEW", 10**6)
    np.testing.assert_array_equal(resized(image, (64, 56)), from_bytes)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_nearest_takes_the_pixel_under_each_centre(sizes):
    source, image_size = sizes
    image = noise(*source)
    rows, columns = (
        ((np.arange(image_size[i]) + 0.5) * source[i] / image_size[i]).astype(int) for i in (0, 1)
    )
    ours = resized(image, image_size, interpolation="nearest")
    np.testing.assert_array_equal(ours, image[rows][:, columns])


def test_overshoot_is_cut_not_wrapped():
    """A bicubic edge between black and white swings beyond both."""
    image = np.zeros((40, 40, 3), "uint8")
    image[:, 20:] = 255
    exact = resize_of("bicubic", image, (64, 64))
    assert exact.min() < -5 and exact.max() > 260
    ours = resized(image, (64, 64), interpolation="bicubic")
    np.testing.assert_array_equal(ours[exact < -1], 0)
    np.testing.assert_array_equal(ours[exact > 256], 255)


def test_values_are_rounded_not_cut_off():
    image = np.array([[0, 3]], "uint8")[:, :, None].repeat(3, axis=2)  # 0, 0.75, 2.25, 3
    ours = resized(image, (1, 4))
    np.testing.assert_array_equal(ours[0, :, 0], [0, 1, 2, 3])


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "area", "bicubic"])
def test_the_same_size_changes_nothing(interpolation):
    image = noise(33, 47)
    np.testing.assert_array_equal(resized(image, (33, 47), interpolation=interpolation), image)


@pytest.mark.parametrize(
    ("source", "image_size", "part"),  # part: top, left, height, width
    [
        ((240, 320), (224, 224), (0, 40, 240, 240)),
        ((320, 240), (224, 224), (40, 0, 240, 240)),
        ((100, 301), (64, 32), (0, 125, 100, 50)),
        ((301, 100), (64, 32), (50, 0, 200, 100)),
        ((60, 120), (32, 64), (0, 0, 60, 120)),
        ((33, 33), (64, 64), (0, 0, 33, 33)),
        ((5, 7), (32, 32), (0, 1, 5, 5)),
        ((1, 500), (32, 64), (0, 249, 1, 2)),
        ((500, 1), (32, 64), (249, 0, 1, 1)),  # half a pixel high, at least one
    ],
)
def test_crop_resizes_the_largest_centred_part(source, image_size, part):
    image = noise(*source)
    top, left, height, width = part
    expected = resized(image[top : top + height, left : left + width], image_size)
    ours = resized(image, image_size, resize="crop")
    np.testing.assert_array_equal(ours, expected)


# OpenCV's arithmetic


def differing(opencv, kind):
    """The share of numbers that differ, by case; none by more than 1."""
    shares = {}
    for case, arrays in opencv.items():
        image_size = arrays[kind].shape[:2]
        ours = resized(arrays["source"], image_size, interpolation=kind, backend="opencv")
        error = difference(ours, arrays[kind])
        assert error.max() <= 1, case
        shares[case] = (error > 0).mean()
    return shares


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "area"])
def test_with_the_backend_opencv_numbers_are_equal(opencv, kind):
    assert not any(differing(opencv, kind).values())


def test_the_bicubic_of_opencv_differs_at_few_pixels(opencv):
    """This OpenCV has Intel's IPP, whose weights are not rounded to 1/2048."""
    shares = differing(opencv, "bicubic")
    assert np.mean(list(shares.values())) < 0.03 and max(shares.values()) < 0.12


@pytest.mark.parametrize("picture", ["photo", "synthetic"])
def test_pictures_resized_by_the_reference_are_equal(golden, picture):
    source = golden[f"{picture}/decode"]
    ours = resized(source, (224, 224), backend="opencv")
    np.testing.assert_array_equal(ours, golden[f"{picture}/resize_only_cv2_224"])
    ours = resized(source, (224, 224), backend="opencv", resize="crop", resize_short=256)
    np.testing.assert_array_equal(ours, golden[f"{picture}/short256_crop224"])
    ours = resized(source, (112, 112), backend="opencv", interpolation="area")
    np.testing.assert_array_equal(ours, golden[f"{picture}/resize_only_cv2_area_112"])


def test_a_picture_resized_bicubic_by_the_reference_is_close(golden):
    source = golden["synthetic/decode"]
    ours = resized(source, (224, 224), backend="opencv", interpolation="bicubic")
    error = difference(ours, golden["synthetic/resize_only_cv2_bicubic_224"])
    assert error.max() <= 1 and (error > 0).mean() < 0.05


def test_one_side_of_another_picture_is_equal(golden):
    ours = resized(golden["photo/decode"], (256, 128), backend="opencv")
    np.testing.assert_array_equal(ours, golden["photo/resize_only_cv2_128x256"])


@pytest.mark.parametrize("picture", ["photo", "synthetic"])
def test_the_input_of_the_reference_is_ours(golden, picture):
    """From the decoded image to the numbers its network sees, every 7th of them."""
    preprocess = PreprocessSection(backend="opencv")
    pixels = resized(golden[f"{picture}/decode"], (224, 224), backend="opencv")
    ours = models._normalise_pixels(tf.constant(pixels[None]), preprocess).numpy()[0, ::7, ::7]
    np.testing.assert_allclose(ours, golden[f"{picture}/eval_v2_every_7th"], atol=1e-6)
    # The first version's scale is 1/255 in 8 decimals.
    np.testing.assert_allclose(ours, golden[f"{picture}/eval_v1_every_7th"], atol=3e-6)


def test_opencv_in_a_graph_of_unknown_size(opencv):
    for kind in ("bilinear", "area"):
        preprocess = PreprocessSection(interpolation=kind, backend="opencv")
        graph = tf.function(
            lambda image, preprocess=preprocess: images.resize(image, (32, 32), preprocess),
            input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
        )
        for case in ("0_13x29_32x32", "13_31x31_32x32", "12_33x33_32x32"):
            ours = graph(opencv[case]["source"])
            assert ours.shape == (32, 32, 3)
            assert difference(ours.numpy(), opencv[case][kind]).max() == 0


# Antialiasing


@pytest.mark.parametrize("kind", PILLOW)
@pytest.mark.parametrize(
    "sizes", [((97, 113), (41, 64)), ((130, 61), (32, 60)), ((75, 90), (33, 33))]
)
@pytest.mark.parametrize("binary", [False, True])
def test_antialiasing_is_that_of_pillow(kind, sizes, binary):
    (height, width), image_size = sizes
    image = noise(height, width)
    if binary:
        image = (image > 127).astype("uint8") * 255
    # Columns first, in two calls: Pillow 13 goes the other way about at some sizes.
    columns = Image.fromarray(image).resize((image_size[1], height), PILLOW[kind])
    expected = np.array(columns.resize(image_size[::-1], PILLOW[kind]))
    ours = resized(image, image_size, interpolation=kind, antialias=True)
    error = difference(ours, expected)
    # Bilinear is one step in both directions, without rounding in between.
    assert error.max() <= 1 and error.mean() < (0.25 if kind == "bilinear" else 0.01)
    assert difference(resized(image, image_size, interpolation=kind), expected).mean() > 5


def lanczos(x):
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_lanczos_without_antialiasing_is_the_exact_value(sizes):
    source, image_size = sizes
    image, weights = noise(*source), []
    for size, target in zip(source, image_size, strict=True):
        centres = (np.arange(target) + 0.5) * size / target - 0.5
        taps = lanczos(centres[:, None] - np.arange(size))
        weights.append(taps / taps.sum(axis=1, keepdims=True))
    exact = np.einsum("ih,jw,hwc->ijc", *weights, image.astype("float64"))
    ours = resized(image, image_size, interpolation="lanczos3")
    assert difference(ours, np.clip(exact, 0, 255)).max() <= 0.51


# Modes


def reference_short(source, short):
    """The reference's arithmetic: (height, width) after resizing the short side."""
    factor = float(short) / min(source)
    return round(source[0] * factor), round(source[1] * factor)


@pytest.mark.parametrize("source", [(240, 320), (97, 113), (40, 41), (64, 64), (33, 500), (7, 12)])
@pytest.mark.parametrize("short", [48, 49, 63])
def test_the_short_side_is_resized_and_the_centre_cut(source, short):
    image, (height, width) = noise(*source), reference_short(source, short)
    whole = resized(image, (height, width))
    top, left = (height - 48) // 2, (width - 40) // 2
    ours = resized(image, (48, 40), resize="crop", resize_short=short)
    np.testing.assert_array_equal(ours, whole[top : top + 48, left : left + 40])


def test_a_short_side_smaller_than_the_image_size_is_refused():
    preprocess = PreprocessSection(resize="crop", resize_short=47)
    with pytest.raises(ConfigError) as error:
        images.resize(tf.constant(noise(60, 60)), (48, 40), preprocess)
    assert str(error.value) == (
        "resize_short: expected at least the larger side of (48, 40), got 47"
    )


@pytest.mark.parametrize(
    ("source", "image_size", "place"),  # place: top, left, height, width
    [
        ((240, 320), (64, 64), (8, 0, 48, 64)),
        ((320, 240), (64, 64), (0, 8, 64, 48)),
        ((100, 301), (64, 32), (26, 0, 11, 32)),
        ((20, 20), (32, 64), (0, 16, 32, 32)),
        ((33, 50), (48, 64), (3, 0, 42, 64)),
        ((1, 500), (32, 64), (15, 0, 1, 64)),  # a fraction of a pixel high, at least one
        ((64, 32), (64, 32), (0, 0, 64, 32)),
    ],
)
@pytest.mark.parametrize("backend", ["tensorflow", "opencv"])
def test_pad_puts_the_whole_image_in_the_middle(source, image_size, place, backend):
    image, (top, left, height, width) = noise(*source), place
    expected = np.full((*image_size, 3), 37, "uint8")
    expected[top : top + height, left : left + width] = resized(
        image, (height, width), backend=backend
    )
    ours = resized(image, image_size, resize="pad", pad_value=37.0, backend=backend)
    np.testing.assert_array_equal(ours, expected)


def test_the_border_is_black_unless_said_otherwise():
    ours = resized(np.full((10, 40, 3), 255, "uint8"), (32, 32), resize="pad")
    assert ours[:12].max() == 0 and ours[12:20].min() == 255 and ours[20:].max() == 0


@pytest.mark.parametrize(
    "preprocess",
    [
        {"resize": "pad", "pad_value": 99.0},
        {"resize": "crop", "resize_short": 64},
        {"interpolation": "bicubic", "antialias": True},
        {"interpolation": "lanczos3", "resize": "crop"},
        {"backend": "opencv", "resize": "pad"},
        {"backend": "opencv", "interpolation": "area"},
    ],
    ids=str,
)
def test_in_a_graph_of_unknown_size_every_mode_is_the_same(preprocess):
    section = PreprocessSection(**preprocess)
    graph = tf.function(
        lambda image: images.resize(image, (64, 48), section),
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
    )
    for source in ((100, 75), (30, 90)):
        image = smooth(*source)
        ours = graph(tf.constant(image))
        assert ours.shape == (64, 48, 3)
        np.testing.assert_array_equal(ours, resized(image, (64, 48), **preprocess))


def test_cut_takes_a_part_of_pixels():
    image = noise(20, 30)
    window = lambda size: tf.stack([size[0] - 5, 2, 5, 7])  # noqa: E731
    np.testing.assert_array_equal(images.cut(tf.constant(image), window), image[15:, 2:9])
    np.testing.assert_array_equal(images.cut(tf.constant(image), None), image)
