"""mobile/python/embed.py: pixels of training, embeddings of Keras, answers and errors."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, ROOT
from pictures import encoded, exif_segment, into_jpeg, noise, oriented, png, smooth
from PIL import Image
from served import expected, export_folder

from keras_featx import images
from keras_featx.exporters import litert, tflite_metadata
from keras_featx.gallery_file import write_gallery
from keras_featx.sections import PreprocessSection

PROGRAM = ROOT / "mobile" / "python" / "embed.py"
PRINT = "ab" * 32
SIZES = [(31, 47), (64, 64), (7, 5), (200, 33), (1, 1), (480, 640)]


def load_program():
    spec = importlib.util.spec_from_file_location("embed_on_device", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


program = load_program()


def how(**changes):
    return tflite_metadata.facts("tflite", PreprocessSection(**changes), PRINT)["preprocess"]


def test_it_imports_nothing_but_litert_numpy_and_pillow():
    code = (
        f"import sys; sys.argv = ['embed.py']; sys.path.insert(0, {str(PROGRAM.parent)!r}); "
        "import embed; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    )
    code = "import json; " + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "keras_featx", "cv2"} & set(json.loads(done.stdout))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resize": "pad", "pad_value": 127.0},
        {"resize": "crop"},
        {"resize": "crop", "resize_short": 40},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "squash",
)
def test_pixels_are_those_of_training(size, changes):
    for seed, picture in enumerate((noise(*size), smooth(*size))):
        want = images.resize(tf.constant(picture), (32, 24), PreprocessSection(**changes)).numpy()
        np.testing.assert_array_equal(program.prepare(picture, (32, 24), how(**changes)), want)
        assert want.std() > 0 or size == (1, 1), seed


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
def test_with_antialias_no_pixel_is_more_than_a_level_off(size, resize):
    changes = {"resize": resize, "antialias": True}
    picture = noise(*size)
    want = images.resize(tf.constant(picture), (32, 24), PreprocessSection(**changes)).numpy()
    found = program.prepare(picture, (32, 24), how(**changes))
    wrong = np.abs(found.astype(int) - want)
    assert wrong.max() <= 1 and (wrong > 0).mean() < 0.002


def picture_files(data_dir):
    photo = (data_dir / "img_photo.jpg").read_bytes()
    clear = noise(40, 30, channels=4)
    return {
        "photo": photo,
        **{f"turned {n}": into_jpeg(photo, exif_segment(oriented(n))) for n in range(2, 9)},
        "grey": encoded(noise(20, 30, channels=1), "PNG"),
        "grey jpeg": encoded(smooth(50, 60)[..., 0], "JPEG"),
        "clear": encoded(clear, "PNG"),
        "clear grey": encoded(Image.fromarray(clear[..., :2], "LA"), "PNG"),
        "palette": encoded(Image.fromarray(noise(20, 30)).quantize(16), "PNG"),
        "two levels": encoded(Image.fromarray(noise(20, 30, channels=1)).convert("1"), "PNG"),
        "16 bits": png(np.random.default_rng(0).integers(0, 65536, (9, 11)), 16, 0),
        "webp": encoded(noise(20, 30), "WEBP", lossless=True),
        "bmp": encoded(noise(20, 30), "BMP"),
        "gif": encoded(Image.fromarray(noise(20, 30)).quantize(16), "GIF"),
    }


@pytest.mark.parametrize("background", [None, (255.0, 128.0, 0.0)])
def test_files_are_decoded_as_in_training(tmp_path, data_dir, background):
    for name, data in picture_files(data_dir).items():
        path = tmp_path / "a"
        path.write_bytes(data)
        want = images.decode(tf.constant(data), None, PreprocessSection(background=background))
        np.testing.assert_array_equal(
            program.load_image(path, background), want.numpy(), err_msg=name
        )


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A model that says what it is, a gallery of it, and pictures with Keras' embeddings."""
    folder = tmp_path_factory.mktemp("device")
    config, model = export_folder(folder)
    about = tflite_metadata.facts("tflite", config.Arch.Preprocess, PRINT)
    litert.save(model, folder / "model.tflite", about=about)
    paths = sorted((EMOJI_MINI / "test").glob("*/noto.png"))[:12]
    embeddings = expected(config, model, paths)
    names = [path.parent.name for path in paths]
    for precision in ("float16", "int8"):
        write_gallery(folder / f"{precision}.kfg", embeddings, names, PRINT, precision, 0.9999)
    write_gallery(folder / "other.kfg", embeddings, names, "cd" * 32)
    return folder, paths, embeddings, names


def run(*arguments):
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], errors


def test_embeddings_are_those_of_keras(device):
    folder, paths, embeddings, _ = device
    status, lines, errors = run(folder / "model.tflite", "--threads", 2, *paths)
    assert (status, errors) == (0, [])
    assert [line["image"] for line in lines] == [str(path) for path in paths]
    found = np.array([line["embedding"] for line in lines])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, embeddings, atol=1e-5)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_answers_from_a_gallery(device, precision):
    folder, paths, embeddings, names = device
    gallery = folder / f"{precision}.kfg"
    status, lines, errors = run(folder / "model.tflite", "--gallery", gallery, "-k", 3, *paths[:4])
    assert (status, errors) == (0, [])
    similar = embeddings[:4].astype("float64") @ embeddings.astype("float16").astype("float64").T
    for line, row, name in zip(lines, similar, names, strict=False):
        order = np.argsort(-row, kind="stable")[:3]
        assert line["identity"] == name and [n["item"] for n in line["neighbours"]] == list(order)
        assert [n["identity"] for n in line["neighbours"]] == [names[i] for i in order]
        found = [n["similarity"] for n in line["neighbours"]]
        np.testing.assert_allclose(found, row[order], atol=1e-5)
        assert line["similarity"] == found[0]


def test_below_the_threshold_it_is_nobody(device):
    folder, paths, _, _ = device
    model, gallery = folder / "model.tflite", folder / "float16.kfg"
    stranger = sorted((EMOJI_MINI / "test").glob("*/noto.png"))[20]
    _, (line,), _ = run(model, "--gallery", gallery, stranger)
    assert line["identity"] is None and line["similarity"] < 0.9999
    _, (line,), _ = run(model, "--gallery", gallery, "--threshold", -1, stranger)
    assert line["identity"] == line["neighbours"][0]["identity"]


def test_a_bad_image_is_named_and_the_others_are_answered(device, tmp_path):
    folder, paths, _, _ = device
    cut = tmp_path / "cut.png"
    cut.write_bytes(paths[0].read_bytes()[:300])
    huge = tmp_path / "huge.png"
    huge.write_bytes(
        png(np.zeros((1, 1), int), 8, 0, width=1)[:16] + b"\0\1\0\0\0\1\0\0" + bytes(9)
    )
    status, lines, errors = run(folder / "model.tflite", cut, tmp_path / "none.jpg", paths[0])
    assert status == 1 and [line["image"] for line in lines] == [str(paths[0])]
    assert errors[0].startswith(f"error: {cut}: expected an image that can be decoded: ")
    assert errors[1] == (
        f"error: {tmp_path / 'none.jpg'}: expected an image that can be decoded: "
        "No such file or directory"
    )
    status, lines, errors = run(folder / "model.tflite", huge)
    assert status == 1 and lines == [] and len(errors) == 1


def test_wrong_use(device, tmp_path):
    folder, paths, _, _ = device
    model = folder / "model.tflite"
    plain, foreign, odd = (tmp_path / f"{name}.tflite" for name in ("plain", "foreign", "odd"))
    plain.write_bytes(model.read_bytes()[: model.read_bytes().rindex(b"PK\3\4")])
    foreign.write_bytes(b"no model")
    about = tflite_metadata.facts("tflite", PreprocessSection(interpolation="bicubic"), PRINT)
    odd.write_bytes(plain.read_bytes())
    odd.write_bytes(tflite_metadata.add(plain.read_bytes(), about))
    for path, message in [
        (tmp_path / "none", "expected a model: No such file or directory"),
        (plain, "expected a .tflite of keras-featx export"),
        (foreign, "expected a .tflite of keras-featx export"),
        (
            odd,
            "expected a preprocessing of bilinear, tensorflow, without reduced_decoding, got "
            "bicubic, tensorflow, without reduced_decoding",
        ),
    ]:
        assert run(path, paths[0]) == (2, [], [f"error: {path}: {message}"])
    gallery = folder / "other.kfg"
    assert run(model, "--gallery", gallery, paths[0]) == (
        2,
        [],
        [f"error: {gallery}: expected a gallery of the model {PRINT}, got one of {'cd' * 32}"],
    )
    assert run(model)[0] == 2 and run(model, "-k", 0, paths[0])[0] == 2


def test_galleries_that_are_damaged(device, tmp_path):
    whole = (device[0] / "int8.kfg").read_bytes()
    path = tmp_path / "a.kfg"
    for length in [*range(0, 130), *range(130, len(whole), 61)]:
        path.write_bytes(whole[:length])
        with pytest.raises(program.Refused, match="expected"):
            program.Gallery(path)
    for place in [*range(80), *range(128, len(whole), 17)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(program.Refused, match="expected|damaged"):
            program.Gallery(path, PRINT)


def test_a_video_is_watched(device, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is needed for --camera only")
    folder, paths, _, _ = device
    video = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(3):
        writer.write(smooth(48, 64, seed=i))
    writer.release()
    status, lines, errors = run(folder / "model.tflite", "--camera", video)
    assert (status, errors) == (0, [])
    assert [line["frame"] for line in lines] == [0, 1, 2]
    assert all(line["milliseconds"] > 0 for line in lines)
    status, lines, errors = run(folder / "model.tflite", "--camera", tmp_path / "none.avi")
    assert status == 1 and "expected a camera or a video that can be opened" in errors[0]
