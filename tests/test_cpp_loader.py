"""A SavedModel is loaded as TensorFlow Serving loads it: by C++ and TensorFlow's library."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, ROOT, randomize, tiny_config

import keras_featx
from keras_featx import images, models
from keras_featx.embedding import embed

PICTURES = sorted(str(p) for p in (EMOJI_MINI / "test").glob("*/noto.png"))[:3]

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler: g++ is missing")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Compiled as docs/export.md says."""
    path = tmp_path_factory.mktemp("cpp") / "load_saved_model"
    library = tf.sysconfig.get_lib()
    done = subprocess.run(
        [
            "g++", "-std=c++17", "-O1", "-DNDEBUG", "-w", *tf.sysconfig.get_compile_flags(),
            str(ROOT / "tests/cpp/load_saved_model.cc"), "-o", str(path),
            f"-L{library}", "-Wl,--no-as-needed", "-l:libtensorflow_cc.so.2",
            "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{library}",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("export"))
    model = randomize(models.build_extractor(config.Arch))
    return config, model, keras_featx.export(config, model, formats=["saved_model"])["saved_model"]


def run(program, *arguments):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


def test_both_signatures_answer_as_keras(program, exported, tmp_path, data_dir):
    config, model, folder = exported
    files = [*PICTURES, str(data_dir / "img_photo.jpg")]
    expected = embed(model, files, config.Arch.Preprocess)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    raw = []
    for path in files:
        pixels = images.load(tf.constant(path), (32, 32), config.Arch.Preprocess).numpy()
        raw.append(tmp_path / f"{len(raw)}.raw")
        raw[-1].write_bytes(pixels.tobytes())
    for signature, name, given in (
        ("serving_default", "image_bytes", files),
        ("embed_images", "image", raw),
    ):
        done = run(program, folder, signature, name, "embedding", *given)
        assert done.returncode == 0, done.stderr
        found = np.array([list(map(float, line.split())) for line in done.stdout.splitlines()])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_no_image_is_an_error_and_no_abort(program, exported, tmp_path):
    _, _, folder = exported
    Path(tmp_path / "bad").write_bytes(b"no image")
    done = run(program, folder, "serving_default", "image_bytes", "embedding", tmp_path / "bad")
    assert done.returncode == 1 and "Unknown image file format" in done.stderr
    done = run(program, folder, "other", "image_bytes", "embedding", tmp_path / "bad")
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "no such signature"
