"""Decoding and resizing against OpenCV's numbers, Pillow and float64 NumPy."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_featx import images
from keras_featx.sections import PreprocessSection

RESIZED = {  # name in preprocess.npz: (height, width), interpolation, largest difference
    "resize_only_cv2_224": ((224, 224), "bilinear", 1),
    "resize_only_cv2_128x256": ((256, 128), "bilinear", 1),
    "resize_only_cv2_area_112": ((112, 112), "area", 1),
}
SIZES = [((13, 29), (32, 32)), ((97, 113), (41, 64)), ((50, 7), (33, 35)), ((1, 1), (32, 40))]


@pytest.fixture
def golden(data_dir):
    return np.load(data_dir / "preprocess.npz")


@pytest.fixture
def photo(data_dir):
    return (data_dir / "img_photo.jpg").read_bytes()


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


def encoded(image, kind, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data, window=None):
    image = images.decode(tf.constant(data), window)
    assert image.dtype == tf.uint8
    return image.numpy()


def resized(image, image_size, **preprocess):
    image = images.resize(tf.constant(image), image_size, PreprocessSection(**preprocess))
    assert image.dtype == tf.uint8
    assert image.shape == (*image_size, 3)
    return image.numpy()


def difference(ours, reference):
    return np.abs(ours.astype("float64") - reference)


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


def test_a_png_decodes_exactly(golden, data_dir):
    ours = decoded((data_dir / "img_photo.png").read_bytes())
    np.testing.assert_array_equal(ours, golden["photo/decode"])


def test_a_jpeg_decodes_as_elsewhere(golden, photo):
    """libjpeg-turbo's accurate transform gives the same bits in OpenCV and Pillow.

    One step is left for libraries that interpolate chroma otherwise.
    """
    ours = decoded(photo)
    assert difference(ours, golden["photo/jpg_decode_rgb"]).max() <= 1
    assert difference(ours, np.array(Image.open(io.BytesIO(photo)).convert("RGB"))).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_lossless_formats_decode_exactly(kind):
    image = Image.fromarray(noise(13, 17))
    if kind == "GIF":
        image = image.quantize(100)
    ours = decoded(encoded(image, kind))
    np.testing.assert_array_equal(ours, np.array(image.convert("RGB")))


def test_webp_decodes_exactly():
    image = noise(13, 17)
    np.testing.assert_array_equal(decoded(encoded(image, "WEBP", lossless=True)), image)


def test_a_lossy_webp_decodes_as_in_pillow():
    data = encoded(noise(13, 17), "WEBP", quality=80)
    reference = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert difference(decoded(data), reference).max() <= 2


def test_a_gif_gives_its_first_frame():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    frames = [Image.new("RGB", (9, 8), colour) for colour in colours]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    np.testing.assert_array_equal(decoded(data), np.full((8, 9, 3), colours[0]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_grey_image_gives_three_equal_channels(kind):
    data = encoded(noise(13, 17, channels=1), kind)
    ours = decoded(data)
    assert ours.shape == (13, 17, 3)
    reference = np.array(Image.open(io.BytesIO(data)))
    assert difference(ours, reference[..., None]).max() <= (1 if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "I;16"])
def test_other_kinds_of_png_give_three_channels(mode):
    grey = noise(13, 17, channels=1)
    if mode == "I;16":
        image = Image.fromarray(grey.astype("uint16") * 257)
        reference = np.stack([grey] * 3, axis=-1)
    else:
        image = Image.fromarray(noise(13, 17)).convert("L" if mode == "LA" else "RGB").convert(mode)
        reference = np.array(image.convert("RGB"))
    assert image.mode == mode
    np.testing.assert_array_equal(decoded(encoded(image, "PNG")), reference)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_opacity_is_left_out(kind):
    image = noise(13, 17, channels=4)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decoded(encoded(image, kind, **options)), image[..., :3])


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_an_error(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        images.decode(tf.constant(data))


def test_half_an_image_is_an_error(photo, data_dir):
    png = (data_dir / "img_photo.png").read_bytes()
    for data in (photo, png):
        with pytest.raises(tf.errors.InvalidArgumentError):
            images.decode(tf.constant(data[: len(data) // 2]))


def windows(height, width, number):
    """Random parts of an image, with the whole of it and single pixels."""
    rng = np.random.default_rng(0)
    yield from [(0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1)]
    for _ in range(number):
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        yield int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w


def check_windows(data, number):
    whole, differing = decoded(data), []
    decode_part = tf.function(lambda part: images.decode(tf.constant(data), lambda size: part))
    for part in windows(*whole.shape[:2], number):
        top, left, height, width = part
        ours = decode_part(tf.constant(part)).numpy()
        expected = whole[top : top + height, left : left + width]
        assert ours.shape == expected.shape
        if difference(ours, expected).max() > 0:
            differing.append(part)
    assert not differing, f"{len(differing)} of {number + 3} windows, such as {differing[0]}"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP"])
def test_a_window_is_a_part_of_the_whole(kind):
    image = Image.fromarray(noise(23, 37))
    options = {"lossless": True} if kind == "WEBP" else {}
    check_windows(encoded(image.quantize(64) if kind == "GIF" else image, kind, **options), 20)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_window_of_a_jpeg_is_a_part_of_the_whole(subsampling, progressive):
    image = noise(53, 67)
    options = {"quality": 90, "subsampling": subsampling, "progressive": progressive}
    check_windows(encoded(image, "JPEG", **options), 60)


def test_a_window_of_a_grey_jpeg_is_a_part_of_the_whole():
    check_windows(encoded(noise(53, 67, channels=1), "JPEG"), 30)


def test_a_window_of_the_photo_is_a_part_of_the_whole(photo):
    check_windows(photo, 100)


def test_the_window_is_asked_with_height_and_width(photo, data_dir):
    for data in (photo, (data_dir / "img_photo.png").read_bytes()):
        asked = []

        def window(size, asked=asked):
            asked.append(size.numpy().tolist())
            return tf.constant([2, 3, 40, 50])

        assert decoded(data, window).shape == (40, 50, 3)
        assert asked == [[240, 320]]


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


@pytest.mark.parametrize("mode", ["squash", "crop"])
def test_in_a_graph_of_unknown_size_the_numbers_are_the_same(photo, tmp_path, mode):
    """As the pipelines and exported models run it, from the file to the pixels."""
    file = tmp_path / "photo.jpg"
    file.write_bytes(photo)
    preprocess = PreprocessSection(resize=mode)
    load = tf.function(
        lambda path: images.load(path, (64, 48), preprocess),
        input_signature=[tf.TensorSpec((), tf.string)],
    )
    ours = load(tf.constant(str(file)))
    assert ours.shape == (64, 48, 3)
    np.testing.assert_array_equal(ours, resized(decoded(photo), (64, 48), resize=mode))


def test_loading_a_window_resizes_that_part(tmp_path):
    image = noise(40, 60)
    file = tmp_path / "noise.png"
    file.write_bytes(encoded(image, "PNG"))
    ours = images.load(
        tf.constant(str(file)),
        (32, 32),
        PreprocessSection(),
        lambda size: tf.constant([5, 7, 9, 11]),
    )
    np.testing.assert_array_equal(ours, resized(image[5:14, 7:18], (32, 32)))
