"""mobile/android: its core on the JVM, over the C++ library, gives what Keras gives."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from pictures import encoded, smooth
from served import expected, export_folder
from test_mobile_cpp import build
from test_mobile_cpp import missing as missing_cpp

from keras_featx.exporters import litert, tflite_metadata
from keras_featx.gallery_file import read_gallery, write_gallery

PRINT = "ab" * 32
LIBRARY = ROOT / "mobile" / "android" / "library" / "src"


def kotlin():
    """The folder of Kotlin's compiler, or none."""
    if home := os.environ.get("KOTLIN_HOME"):
        return Path(home)
    found = shutil.which("kotlinc")
    return Path(found).resolve().parent.parent if found else None


def missing():
    """Why it cannot be built here, if it cannot."""
    if shutil.which("javac") is None and shutil.which("java") is None:
        return "no JDK is installed"
    if kotlin() is None:
        return "no Kotlin compiler: npm install kotlin-compiler@2.4.20, and KOTLIN_HOME names it"
    return missing_cpp()


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


def test_on_the_jvm_it_gives_what_keras_gives(tmp_path):
    config, model = export_folder(tmp_path)
    about = tflite_metadata.facts("tflite", config.Arch.Preprocess, PRINT)
    litert.save(model, tmp_path / "model.tflite", about=about)
    picture = smooth(50, 70)
    (tmp_path / "a.png").write_bytes(encoded(picture, "PNG"))
    (tmp_path / "pixels").write_bytes(picture.tobytes())
    others = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(others):
        path.write_bytes(encoded(smooth(40, 40, seed=i + 1), "PNG"))
    (want,) = expected(config, model, [tmp_path / "a.png"])
    known = expected(config, model, others)
    names = [f"thing {i} “ü𝄞”" for i in range(5)]
    write_gallery(tmp_path / "a.kfg", known, names, PRINT, threshold=0.5)
    write_gallery(tmp_path / "other.kfg", known, names, "cd" * 32)

    built = build(tmp_path / "native", "-DKERAS_FEATX_JNI=ON")
    jar = tmp_path / "check.jar"
    sources = [*(LIBRARY / "main" / "kotlin").rglob("*.kt"), *(LIBRARY / "check").rglob("*.kt")]
    compiler = kotlin() / "bin" / "kotlinc"
    done = subprocess.run(
        ["bash", compiler, "-Werror", *sources, "-include-runtime", "-d", jar],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    arguments = ["model.tflite", "a.kfg", "other.kfg", "pixels", "50", "70"]
    done = subprocess.run(
        ["java", f"-Djava.library.path={built}", "-Dstdout.encoding=UTF-8", "-cp", jar,
         "kerasfeatx.CheckKt", *arguments],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"32 32 {PRINT}"
    for line in lines[1:3]:
        np.testing.assert_allclose(np.array(line.split(), float), want, atol=1e-5)
    assert lines[3] == "5 0.5"
    values, rows = read_gallery(tmp_path / "a.kfg").search(want[None], 3)
    assert lines[4] == names[rows[0, 0]]
    for line, value, row in zip(lines[5:8], values[0], rows[0], strict=True):
        identity, similarity, item = line.rsplit(" ", 2)
        assert (identity, int(item)) == (names[row], row)
        assert float(similarity) == pytest.approx(value, abs=1e-5)
    assert lines[8:10] == ["null", "true"]
    assert lines[10:] == [
        "EmbedException: query: expected 16 numbers, got 3",
        "IllegalArgumentException: k: expected at least 1, got 0",
        "IllegalArgumentException: pixels: expected 10650 numbers, got 10500",
        f"EmbedException: other.kfg: expected a gallery of the model {PRINT}, got one of "
        + "cd" * 32,
        "EmbedException: none.kfg: expected a gallery file: No such file or directory",
        "IllegalStateException: it is closed",
        "EmbedException: a.kfg: expected a .tflite of keras-featx export",
        "IllegalArgumentException: threads: expected at least 1, got 0",
    ]
