"""From files to pixels against OpenCV's numbers and Pillow; windows; the whole way in a graph."""

import io

import numpy as np
import pytest
import tensorflow as tf
from pictures import decoded, difference, encoded, noise, resized, windows
from PIL import Image

from keras_featx import images
from keras_featx.sections import PreprocessSection


@pytest.fixture
def golden(data_dir):
    return np.load(data_dir / "preprocess.npz")


@pytest.fixture
def photo(data_dir):
    return (data_dir / "img_photo.jpg").read_bytes()


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
    assert difference(ours, np.stack([reference] * 3, axis=2)).max() <= (1 if kind == "JPEG" else 0)


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
