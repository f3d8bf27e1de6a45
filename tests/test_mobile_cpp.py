"""mobile/cpp: built by CMake; pixels of training, embeddings of Keras, answers and errors."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, ROOT, randomize, tiny_config
from pictures import encoded, exif_segment, into_jpeg, noise, oriented, png, smooth
from PIL import Image
from served import expected, export_folder

from keras_featx import images, models
from keras_featx.embedding import embed
from keras_featx.exporters import litert, tflite_metadata
from keras_featx.gallery_file import read_gallery, write_gallery
from keras_featx.sections import PreprocessSection

PRINT = "ab" * 32


def missing():
    """Why it cannot be built here, if it cannot."""
    for name in ("cmake", "c++", "pkg-config"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    for name in ("libjpeg", "libpng"):
        if subprocess.run(["pkg-config", "--exists", name]).returncode:
            return f"{name} is not installed with its headers"
    folder = litert_folder()
    return "" if (folder / "libLiteRt.so").exists() else "ai-edge-litert has no libLiteRt.so here"


def litert_folder():
    return Path(importlib.util.find_spec("ai_edge_litert").origin).parent


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def build(folder, *options):
    for command in (
        ["cmake", "-S", ROOT / "mobile" / "cpp", "-B", folder, f"-DLITERT_DIR={litert_folder()}"]
        + list(options),
        ["cmake", "--build", folder],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cpp")) / "embed"


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A model, galleries of it, and pictures with Keras' embeddings."""
    folder = tmp_path_factory.mktemp("device")
    config, model = export_folder(folder)
    about = tflite_metadata.facts("tflite", config.Arch.Preprocess, PRINT)
    litert.save(model, folder / "model.tflite", about=about)
    paths = sorted((EMOJI_MINI / "test").glob("*/noto.png"))[:12]
    embeddings = expected(config, model, paths)
    names = [f"{path.parent.name} “ü”\n" for path in paths]
    for precision in ("float16", "int8"):
        write_gallery(folder / f"{precision}.kfg", embeddings, names, PRINT, precision, 0.9999)
    write_gallery(folder / "other.kfg", embeddings, names, "cd" * 32)
    return folder, paths, embeddings, names


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], errors


def test_embeddings_are_those_of_keras(built, device):
    folder, paths, embeddings, _ = device
    for threads in (1, 2):
        status, lines, errors = run(built, folder / "model.tflite", *paths, "--threads", threads)
        assert (status, errors) == (0, [])
        assert [line["image"] for line in lines] == [str(path) for path in paths]
        found = np.array([line["embedding"] for line in lines])
        np.testing.assert_allclose(found, embeddings, atol=1e-5)


def files(data_dir):
    """Of all kinds that are read: by orientation, colours, depth, opacity, rows."""
    photo = (data_dir / "img_photo.jpg").read_bytes()
    clear = noise(40, 30, channels=4)
    inks = Image.fromarray(smooth(40, 50)).convert("CMYK")
    found = {
        **{f"{n}.jpg": into_jpeg(photo, exif_segment(oriented(n))) for n in range(1, 9)},
        "plain.jpg": photo,
        "grey.jpg": encoded(smooth(50, 60)[..., 0], "JPEG"),
        "progressive.jpg": encoded(smooth(70, 64), "JPEG", progressive=True),
        "full.jpg": encoded(smooth(33, 47), "JPEG", subsampling=0),
        "inks.jpg": encoded(inks, "JPEG"),
        "grey.png": encoded(noise(20, 30, channels=1), "PNG"),
        "clear.png": encoded(clear, "PNG"),
        "clear_grey.png": encoded(Image.fromarray(clear[..., :2], "LA"), "PNG"),
        "palette.png": encoded(Image.fromarray(noise(20, 30)).quantize(16), "PNG"),
        "bits.png": encoded(Image.fromarray(noise(20, 30, channels=1)).convert("1"), "PNG"),
        "deep.png": png(np.random.default_rng(0).integers(0, 65536, (9, 11)), 16, 0),
        "deep_colours.png": png(
            np.random.default_rng(0).integers(0, 65536, (9, 33)), 16, 2, width=11
        ),
        "small.png": encoded(noise(1, 1), "PNG"),
        "large.png": encoded(smooth(301, 517), "PNG"),
    }
    return found


PREPROCESSINGS = {
    "squash": {},
    "pad": {"resize": "pad", "pad_value": 127.0},
    "crop": {"resize": "crop"},
    "crop short": {"resize": "crop", "resize_short": 40},
    "background": {"background": (255.0, 128.0, 0.0)},
}


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_pixels_are_those_of_training(built, tmp_path, data_dir, name):
    """Seen through a network: any other pixel would change its embedding by more."""
    config = tiny_config(tmp_path)
    model = randomize(models.build_extractor(config.Arch))
    preprocess = PreprocessSection(**PREPROCESSINGS[name])
    about = tflite_metadata.facts("tflite", preprocess, PRINT)
    litert.save(model, tmp_path / "model.tflite", about=about)
    paths = []
    for file, data in files(data_dir).items():
        paths.append(tmp_path / file)
        paths[-1].write_bytes(data)
    want = embed(model, [str(path) for path in paths], preprocess)
    assert np.abs(np.diff(want, axis=0)).max() > 0.01
    status, lines, errors = run(built, tmp_path / "model.tflite", *paths)
    assert (status, errors) == (0, [])
    for path, line, row in zip(paths, lines, want, strict=True):
        np.testing.assert_allclose(line["embedding"], row, atol=1e-5, err_msg=path.name)


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
def test_with_antialias_it_is_near(built, tmp_path, resize):
    config = tiny_config(tmp_path)
    model = randomize(models.build_extractor(config.Arch))
    preprocess = PreprocessSection(antialias=True, resize=resize)
    about = tflite_metadata.facts("tflite", preprocess, PRINT)
    litert.save(model, tmp_path / "model.tflite", about=about)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, size in zip(paths, [(300, 200), (33, 47), (9, 7)], strict=True):
        path.write_bytes(encoded(smooth(*size), "PNG"))
    want = embed(model, [str(path) for path in paths], preprocess)
    _, lines, errors = run(built, tmp_path / "model.tflite", *paths)
    found = np.array([line["embedding"] for line in lines])
    # A pixel may be a level off; without antialias the largest picture is far away.
    assert errors == [] and ((found * want).sum(1) > 0.9999).all()
    plain = [
        images.load(tf.constant(str(p)), (32, 32), PreprocessSection(resize=resize)) for p in paths
    ]
    other = model(np.stack(plain)).numpy()
    assert (found * want).sum(1)[0] > (other * want).sum(1)[0]


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("k", [1, 2, 30])
def test_answers_from_a_gallery(built, device, precision, k):
    folder, paths, embeddings, names = device
    gallery = folder / f"{precision}.kfg"
    status, lines, errors = run(
        built, folder / "model.tflite", "--gallery", gallery, "-k", k, *paths[:4]
    )
    assert (status, errors) == (0, [])
    values, rows = read_gallery(gallery).search(embeddings[:4], k)
    for line, value, row, name in zip(lines, values, rows, names, strict=False):
        assert line["identity"] == name and [n["item"] for n in line["neighbours"]] == row.tolist()
        assert [n["identity"] for n in line["neighbours"]] == [names[i] for i in row]
        similar = [n["similarity"] for n in line["neighbours"]]
        np.testing.assert_allclose(similar, value, atol=1e-5)
        assert line["similarity"] == similar[0]


def test_below_the_threshold_it_is_nobody(built, device):
    folder = device[0]
    model, gallery = folder / "model.tflite", folder / "float16.kfg"
    stranger = sorted((EMOJI_MINI / "test").glob("*/noto.png"))[20]
    _, (line,), _ = run(built, model, "--gallery", gallery, stranger)
    assert line["identity"] is None and line["similarity"] < 0.9999
    _, (line,), _ = run(built, model, "--gallery", gallery, "--threshold", -1, stranger)
    assert line["identity"] == line["neighbours"][0]["identity"]


def test_a_bad_image_is_named_and_the_others_are_answered(built, device, tmp_path, data_dir):
    folder, paths, _, _ = device
    photo = (data_dir / "img_photo.jpg").read_bytes()
    bad = {
        "cut.png": paths[0].read_bytes()[:300],
        "cut.jpg": photo[: len(photo) // 2],
        "none.jpg": None,
        "text.jpg": b"no picture",
        "empty.png": b"",
        "head.jpg": photo[:3],
    }
    for name, data in bad.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    given = [tmp_path / name for name in bad]
    status, lines, errors = run(built, folder / "model.tflite", *given, paths[0])
    assert status == 1 and [line["image"] for line in lines] == [str(paths[0])]
    assert len(errors) == len(bad)
    for path, error in zip(given, errors, strict=True):
        assert error.startswith(f"error: {path}: expected an image that can be decoded: ")
    assert errors[2].endswith(": No such file or directory")
    assert errors[3].endswith(": it is no JPEG and no PNG")


def test_a_bomb_is_refused_by_its_header(built, device, tmp_path):
    path = tmp_path / "bomb.png"
    data = bytearray(png(np.zeros((1, 1), int), 8, 0))
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    assert run(built, device[0] / "model.tflite", path) == (
        1,
        [],
        [f"error: {path}: expected at most 100000000 pixels, got 400000000"],
    )


def test_wrong_use(built, device, tmp_path):
    folder, paths, _, _ = device
    model = folder / "model.tflite"
    whole = model.read_bytes()
    plain, foreign, odd = (tmp_path / f"{name}.tflite" for name in ("plain", "foreign", "odd"))
    plain.write_bytes(whole[: whole.rindex(b"PK\3\4")])
    foreign.write_bytes(b"no model")
    about = tflite_metadata.facts("tflite", PreprocessSection(interpolation="bicubic"), PRINT)
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
        assert run(built, path, paths[0]) == (2, [], [f"error: {path}: {message}"])
    gallery = folder / "other.kfg"
    for arguments, message in [
        (
            ["--gallery", gallery, paths[0]],
            f"{gallery}: expected a gallery of the model {PRINT}, got one of {'cd' * 32}",
        ),
        ([], "expected a model and images"),
        (["-k", "0", paths[0]], "-k: expected a number of at least 1, got '0'"),
        (["--threads", "x", paths[0]], "--threads: expected a number of at least 1, got 'x'"),
        (["--threshold", "x", paths[0]], "--threshold: expected a cosine, got 'x'"),
        (["--what", paths[0]], "expected an option that there is, got '--what'"),
        ([paths[0], "-k"], "-k: expected a value"),
    ]:
        assert run(built, model, *arguments) == (2, [], [f"error: {message}"])


@pytest.mark.slow
def test_damaged_files_are_refused_and_harm_nothing(tmp_path_factory, device, data_dir):
    """By a build that stops at each access beside what is allocated."""
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -g1"
    folder = tmp_path_factory.mktemp("sanitised")
    program = build(folder, f"-DCMAKE_CXX_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=Debug") / "embed"
    where, paths, _, _ = device
    rng = np.random.default_rng(0)
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}

    def safely(*arguments):
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, env=env
        )
        assert done.returncode in (0, 1, 2), done.stderr[-2000:]
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
        return done

    def spoilt(data, count):
        for i in range(count):
            some = bytearray(data)
            for place in rng.integers(0, len(data), 1 + i % 3):
                some[place] ^= 1 << rng.integers(8)
            yield bytes(some)
            yield data[: rng.integers(len(data))]

    pictures = []
    for name, data in files(data_dir).items():
        small = data if len(data) < 20_000 else encoded(smooth(40, 50), "JPEG")
        for i, some in enumerate(spoilt(small, 6)):
            pictures.append(folder / f"{i}_{name}")
            pictures[-1].write_bytes(some)
    done = safely(where / "model.tflite", *pictures)
    assert len(done.stdout.splitlines()) + done.stderr.count("error: ") == len(pictures)
    assert done.stderr.count("error: ") > len(pictures) // 3
    for precision in ("float16", "int8"):
        data = (where / f"{precision}.kfg").read_bytes()
        for some in [*spoilt(data[:200], 6), *spoilt(data, 6)]:
            (folder / "a.kfg").write_bytes(some)
            done = safely(where / "model.tflite", "--gallery", folder / "a.kfg", paths[0])
            assert done.returncode == 2 and "a.kfg: " in done.stderr
    whole = (where / "model.tflite").read_bytes()
    at = whole.rindex(b"PK\3\4")
    for some in spoilt(whole[at:], 12):
        (folder / "a.tflite").write_bytes(whole[:at] + some)
        safely(folder / "a.tflite", paths[0])
