"""Starting and stopping a server, versions and labels, the gallery, and the client."""

import base64
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, ROOT, randomize, tiny_config
from served import expected, export_folder, serving

import keras_featx
from keras_featx import cli, models
from keras_featx.config import dump_config
from keras_featx.errors import ConfigError, RunError
from keras_featx.exporters import litert

PICTURES = sorted(EMOJI_MINI.glob("test/*/*.png"))[:20]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two versions of different weights, with a gallery of the newer one."""
    folder = tmp_path_factory.mktemp("versions")
    made = {number: export_folder(folder / str(number), seed=number) for number in (1, 10)}
    features = expected(*made[10], PICTURES)
    gallery = folder / "gallery.npz"
    np.savez(gallery, paths=np.array([str(p) for p in PICTURES]), features=features)
    return folder, made, features


@pytest.fixture(scope="module")
def served(versions):
    folder = versions[0]
    with serving(folder, labels={"stable": 1}, gallery=folder / "gallery.npz") as running:
        yield running


@pytest.fixture
def client(served):
    return keras_featx.Client(served.url + "/")


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "keras_featx.cli", "serve", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip


def test_versions_and_labels(served, versions):
    wanted = {n: expected(*made, PICTURES[:1]) for n, made in versions[1].items()}
    assert np.abs(wanted[1] - wanted[10]).max() > 0.01
    data = PICTURES[0].read_bytes()
    body = {"instances": [{"b64": base64.b64encode(data).decode()}]}
    for place, number in (
        ("", 10),
        ("/versions/1", 1),
        ("/versions/10", 10),
        ("/labels/stable", 1),
    ):
        status, answer = served.post(f"/v1/models/embedder{place}:predict", body)
        assert status == 200
        np.testing.assert_allclose(answer["predictions"], wanted[number], atol=1e-5)
    assert served.error(body, "/v1/models/embedder/labels/new:predict") == (
        400, "Unrecognized servable version label: new",
    )  # fmt: skip

    def states(place):
        status, _, text = served.call("GET", f"/v1/models/embedder{place}")
        answer = json.loads(text)
        return status, [one["version"] for one in answer.get("model_version_status", [])]

    assert states("") == (200, ["10", "1"])
    assert states("/versions/1") == states("/labels/stable") == (200, ["1"])
    assert states("/labels/new")[0] == 400
    text = served.call("GET", "/v1/models/embedder/labels/stable/metadata")[2]
    assert json.loads(text)["model_spec"] == {
        "name": "embedder", "version": "1", "signature_name": "",
    }  # fmt: skip


def test_the_client_embeds(client, versions):
    _, made, features = versions
    np.testing.assert_allclose(client.embed(PICTURES), features, atol=1e-5)
    one = client.embed(str(PICTURES[3]))
    assert one.shape == (1, 16) and one.dtype == np.float32
    data = [path.read_bytes() for path in PICTURES[:3]]
    np.testing.assert_allclose(client.embed(data), features[:3], atol=1e-5)
    np.testing.assert_allclose(client.embed(data[0]), features[:1], atol=1e-5)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), "uint8")
    wanted = made[10][1](pixels).numpy()
    np.testing.assert_allclose(client.embed(pixels), wanted, atol=1e-5)
    np.testing.assert_allclose(client.embed(pixels[2]), wanted[2:3], atol=1e-5)
    assert client.status()["model_version_status"][0]["version"] == "10"
    assert "embed_images" in client.metadata()["metadata"]["signature_def"]["signature_def"]


def test_the_client_splits_what_is_much(client, versions, monkeypatch):
    sizes = []
    call = keras_featx.Client._call
    monkeypatch.setattr(
        keras_featx.Client, "_call", lambda self, method, path, request: sizes.append(
            len(request["instances"])
        ) or call(self, method, path, request),
    )  # fmt: skip
    np.testing.assert_allclose(client.embed(PICTURES), versions[2], atol=1e-5)
    assert sizes == [16, 4]
    monkeypatch.setattr(keras_featx.Client, "BATCH_BYTES", PICTURES[0].stat().st_size)
    client.embed([PICTURES[0]] * 3)
    assert sizes == [16, 4, 1, 1, 1]


def test_the_client_searches(client):
    found = client.search(PICTURES[:18], k=3)
    assert len(found) == 18
    for path, near in zip(PICTURES[:18], found, strict=True):
        assert [set(one) for one in near] == [{"path", "similarity"}] * 3
        assert near[0]["path"] == str(path)
        assert near[0]["similarity"] == pytest.approx(1, abs=1e-5)
        assert near[0]["similarity"] >= near[1]["similarity"] >= near[2]["similarity"]
    assert len(client.search(PICTURES[0], k=100)[0]) == 20


def test_what_a_search_refuses(served):
    for body, status, sentence in (
        ({"instances": ["x"], "k": 0}, 400, "k: expected a whole number of at least 1, got 0"),
        ({"instances": ["x"], "k": 1.5}, 400, "k: expected a whole number of at least 1, got 1.5"),
        ({"k": 1}, 400, "Missing 'inputs' or 'instances' key"),
        ({"instances": ["x"]}, 400, "Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, "
         "BMP, WebP required.\n\t [[image 0]]"),
    ):  # fmt: skip
        assert served.error(body, "/v1/search") == (status, sentence)


def test_the_errors_of_the_client(client, served, tmp_path):
    with pytest.raises(RunError) as error:
        client.embed(b"no image")
    assert str(error.value) == (
        f"{served.url}: 400: Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, WebP "
        "required.\n\t [[image 0]]"
    )
    with pytest.raises(RunError, match="404: Servable not found for request: Latest\\(other\\)$"):
        keras_featx.Client(served.url, model="other").embed(b"")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(RunError, match=f"^{url}: no answer: Connection refused$"):
            keras_featx.Client(url).status()
        closed.listen()
        with pytest.raises(RunError, match=f"^{url}: no answer within 0.2 s$"):
            keras_featx.Client(url, timeout=0.2).status()
    for images, message in (
        ([], "images: expected at least one, got none"),
        ([1], "images: expected paths or bytes, got int among them"),
        (np.zeros((2, 3)), "images: expected a uint8 array (images, height, width, 3), got float64 "
         "(2, 3)"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            client.embed(images)
        assert str(error.value) == message
    with pytest.raises(ConfigError, match="^images: expected paths or bytes to search with"):
        client.search(np.zeros((1, 32, 32, 3), "uint8"))
    with pytest.raises(FileNotFoundError):
        client.embed(tmp_path / "none.png")
    for url in ("127.0.0.1:8501", "http://x:port", "ftp://x"):
        with pytest.raises(ConfigError, match="^url: expected http://HOST:PORT, got"):
            keras_featx.Client(url)


def test_the_client_imports_no_framework():
    code = (
        "import sys, keras_featx\nkeras_featx.Client('http://localhost:1')\n"
        "assert not {'tensorflow', 'keras', 'starlette'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture
def folder(versions, tmp_path):
    return shutil.copytree(versions[0] / "1", tmp_path / "export")


def test_sigterm_finishes_what_runs(folder, client, versions):
    """A whole server as a process of its own, from its line in the log to its result."""
    arguments = [sys.executable, "-m", "keras_featx.cli", "serve", folder, "--port", "0"]
    process = subprocess.Popen(
        [*arguments, "--threads", "1", "--queue", "64"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        for line in process.stderr:
            if found := re.search(r"serving embedder at (http://127\.0\.0\.1:\d+): (.*)", line):
                break
        url, rest = found.groups()
        assert rest == (
            "versions 1; signatures embed_images, serving_default; 1 threads; "
            f"{folder}/model.tflite"
        )
        theirs = keras_featx.Client(url, timeout=30, batch_size=64)
        wanted = expected(*versions[1][1], PICTURES)
        np.testing.assert_allclose(theirs.embed(PICTURES), wanted, atol=1e-5)
        # 64 images for one worker are under way when the signal comes.
        many = [PICTURES[i % 20] for i in range(64)]
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(theirs.embed, many)
            address = url.removeprefix("http://")
            wait_until(lambda: queue_length(address) > 0 or running.done())
            process.send_signal(signal.SIGTERM)
            np.testing.assert_allclose(
                running.result(), wanted[[i % 20 for i in range(64)]], atol=1e-5
            )
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    result = json.loads(out)
    assert result["images"] == 84 and result["requests"] >= 3 and result["seconds"] > 0


def queue_length(address):
    connection = http.client.HTTPConnection(address)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return float(re.search(r"^featx_queue_images (.*)$", text, re.MULTILINE)[1])


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("waited in vain")


def test_a_port_in_use(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(folder, "--port", port)
    assert (done.returncode, done.stdout, done.stderr) == (
        1, "",
        f"error: --host 127.0.0.1 --port {port}: cannot listen there: address already in use\n",
    )  # fmt: skip


def test_a_corrupt_model(folder):
    data = (folder / "model.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(data[: len(data) // 2])
    done = run(folder, "--port", 0)
    assert (done.returncode, done.stdout, done.stderr) == (
        1, "",
        f"error: {folder}/model.tflite: expected a network that can be opened: The model is not a "
        "valid Flatbuffer buffer\n",
    )  # fmt: skip


def serve(*arguments):
    """Start in this process; nothing here gets as far as to listen."""
    return cli.main(["serve", *map(str, arguments), "--port", "0"])


def refused(capsys, status, *arguments):
    assert serve(*arguments) == status
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err.strip()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--name", "a/b"], "--name: expected a word without '/', ':' and blanks, got 'a/b'"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--label", "stable"], "--label stable: expected LABEL=VERSION, such as stable=1"),
        (["--label", "a=1", "--label", "a=1"], "--label a=1: a is 1 already"),
        (["--label", "a=2"], "--label a=2: expected a version of [1]"),
        (["--model", "../x.tflite"], "--model: expected the name of a .tflite or .onnx file in "
         "FOLDER, got '../x.tflite'"),
        (["--model", "saved_model"], "--model: expected the name of a .tflite or .onnx file in "
         "FOLDER, got 'saved_model'"),
        (["--timeout", "0"], "--timeout: expected a positive number, got 0"),
        (["--max-body", "0"], "--max-body: expected a positive number, got 0"),
        (["--max-pixels", "nan"], "--max-pixels: expected a positive number, got nan"),
        (["--max-images", "500"], "--queue: expected at least --max-images (500), got 256"),
        (["--gallery", "g.csv"], "--gallery: expected a name ending in .npz, got 'g.csv'"),
        (["--gallery", "none.npz"], "none.npz: expected a readable .npz file: No such file or "
         "directory"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid: expected an address: "),
    ],
)  # fmt: skip
def test_wrong_options(folder, capsys, arguments, message):
    found = refused(capsys, 2, folder, *arguments)
    if message.endswith(": "):  # the system's own words follow
        found = found[: len(f"error: {message}")]
    assert found == f"error: {message}"


def test_wrong_folders(folder, tmp_path, capsys):
    assert refused(capsys, 2, tmp_path / "none") == (
        f"error: FOLDER: expected a folder, got '{tmp_path}/none'"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(capsys, 2, empty) == (
        f"error: {empty}: expected model.tflite or model.onnx, got neither .tflite nor .onnx"
    )
    assert refused(capsys, 2, folder, "--model", "model_int8.tflite") == (
        f"error: {folder}: expected model_int8.tflite, got model.tflite"
    )
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("image_size: [32, 32]", "image_size: [32, 8]"))
    assert refused(capsys, 2, folder).startswith(
        f"error: {folder}/config.yaml: Arch.image_size: expected at least 32 pixels a side"
    )
    (folder / "config.yaml").write_text(
        text.replace("image_size: [32, 32]", "image_size: [64, 64]")
    )
    assert refused(capsys, 1, folder) == (
        f"error: {folder}/model.tflite: expected input image of shape [1, 64, 64, 3] as "
        "Arch.image_size in config.yaml beside it says, got [1, 32, 32, 3]"
    )
    (folder / "config.yaml").unlink()
    assert refused(capsys, 2, folder) == (
        f"error: {folder}/config.yaml: missing; expected the config of the model, for its image "
        "size"
    )
    for number in ("1", "01"):
        (tmp_path / "twice" / number).mkdir(parents=True)
    assert refused(capsys, 2, tmp_path / "twice") == (
        f"error: {tmp_path}/twice: expected one folder for version 1, got two"
    )


def test_wrong_galleries(folder, tmp_path, capsys):
    file = tmp_path / "gallery.npz"
    rows = np.eye(16, dtype="float32")[:2]
    names = np.array(["a", "b"])
    for arrays, message in (
        ({"paths": names}, "expected arrays paths and features, got ['paths']"),
        ({"paths": names[:1], "features": rows}, "expected one row of features for each of the "
         "paths, got (2, 16) and (1,)"),
        ({"paths": names, "features": rows[:, :8]}, "expected embeddings of size 16, as the "
         "model's, got 8"),
        ({"paths": names, "features": 2 * rows}, "expected features of norm 1, got 2 in row 0"),
    ):  # fmt: skip
        np.savez(file, **arrays)
        assert refused(capsys, 2, folder, "--gallery", file) == f"error: {file}: {message}"
    file.write_bytes(b"PK\3\4 no archive")
    assert refused(capsys, 2, folder, "--gallery", file).startswith(
        f"error: {file}: expected a readable .npz file: "
    )


def test_a_network_without_unit_norm_is_refused(tmp_path, capsys):
    config = tiny_config(tmp_path)
    dead = randomize(models.build_extractor(config.Arch))
    dead.get_layer("neck").kernel.assign(np.zeros((32, 16)))
    dead.get_layer("neck").bias.assign(np.zeros(16))
    litert.save(dead, tmp_path / "model.tflite")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    # By how the runtime divides by a norm of zero: 0 or nan.
    assert refused(capsys, 1, tmp_path).startswith(
        f"error: {tmp_path}/model.tflite: expected embeddings of norm 1, got "
    )


def test_a_missing_package_has_a_hint(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refused(capsys, 1, folder) == (
        "error: serve: uvicorn is missing: pip install 'keras_featx[serve]'"
    )


def test_an_onnx_file_is_served(folder, versions):
    pytest.importorskip("onnxruntime")
    tf2onnx = pytest.importorskip("tf2onnx")
    config, model = versions[1][1]
    for dtype in (tf.float32, tf.uint8):
        spec = tf.TensorSpec((None, 32, 32, 3), dtype, name="image")
        function = tf.function(
            lambda image: {"embedding": model(tf.cast(image, tf.float32), training=False)},
            input_signature=[spec], autograph=False,
        )  # fmt: skip
        path = folder / f"model_{dtype.name}.onnx"
        tf2onnx.convert.from_function(function, [spec], opset=17, output_path=str(path))
        with serving(folder, model=path.name) as running:
            found = keras_featx.Client(running.url).embed(PICTURES[:4])
        np.testing.assert_allclose(found, expected(config, model, PICTURES[:4]), atol=1e-5)
    (folder / "broken.onnx").write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RunError, match="broken.onnx: expected a network that can be opened: "):
        serving(folder, model="broken.onnx").__enter__()
