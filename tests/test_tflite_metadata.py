"""What a .tflite says of itself: read by TensorFlow's own tools, by MediaPipe, and from its ZIP."""

import json
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from conftest import EMOJI_MINI, randomize, tiny_config
from PIL import Image
from served import expected

import keras_featx
from keras_featx import models
from keras_featx.export_section import REDUCED
from keras_featx.exporters import litert, tflite_metadata
from keras_featx.extractors import read_model
from keras_featx.fingerprints import fingerprint, rounded
from keras_featx.sections import PreprocessSection

PRINT = "ab" * 32


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same network without and with metadata."""
    folder = tmp_path_factory.mktemp("metadata")
    config = tiny_config(folder)
    model = randomize(models.build_extractor(config.Arch))
    litert.save(model, folder / "plain.tflite")
    about = tflite_metadata.facts("tflite", config.Arch.Preprocess, PRINT, "CC-BY-4.0")
    litert.save(model, folder / "model.tflite", about=about)
    return folder, config, model


def test_the_model_in_front_is_the_same(files):
    folder = files[0]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), "uint8")
    found = []
    for name in ("plain", "model"):
        interpreter = Interpreter(model_path=str(folder / f"{name}.tflite"))
        assert list(interpreter.get_signature_list()) == ["serving_default"]
        found.append(interpreter.get_signature_runner()(image=pixels)["embedding"])
    np.testing.assert_allclose(np.linalg.norm(found[0]), 1, atol=1e-5)
    np.testing.assert_array_equal(*found)


def test_weights_stay_where_kernels_expect_them(files):
    data = np.fromfile(files[0] / "model.tflite", np.uint8)
    model = schema.Model.GetRootAs(data.tobytes(), 0)
    assert data[4:8].tobytes() == b"TFL3"
    start = 0
    for i in range(model.BuffersLength()):
        if model.Buffers(i).DataLength():
            table = model.Buffers(i)._tab
            start = table.Vector(table.Offset(4))
            assert start % 16 == 0
    assert start


def test_the_archive_behind_it_says_how_to_use_it(files):
    folder, config, model = files
    with zipfile.ZipFile(folder / "model.tflite") as archive:
        assert archive.testzip() is None
        facts = json.loads(archive.read("keras_featx.json"))
    assert facts == {
        "format": 1,
        "fingerprint": PRINT,
        "licence": "CC-BY-4.0",
        "preprocess": {
            "resize": "squash",
            "resize_short": None,
            "pad_value": 0.0,
            "interpolation": "bilinear",
            "antialias": False,
            "backend": "tensorflow",
            "background": None,
            "reduced_decoding": False,
        },
    }
    known = read_model(folder / "model.tflite")
    assert known.image_size == (32, 32) and known.fingerprint == PRINT
    assert known.preprocess == PreprocessSection()


def test_the_same_model_is_the_same_file(files, tmp_path):
    plain = (files[0] / "plain.tflite").read_bytes()
    about = tflite_metadata.facts("tflite", PreprocessSection(), PRINT)
    assert tflite_metadata.add(plain, about) == tflite_metadata.add(plain, about)


def test_rounded_variants_are_of_another_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setitem(REDUCED, "tflite_dynamic", 0.9)  # the network has learnt nothing
    config = tiny_config(tmp_path, "Export.projection={size: 8}", "Export.max_recall_loss=1")
    model = models.build_extractor(config.Arch)
    pictures = [
        np.array(Image.open(path).convert("RGB").resize((32, 32)), "float32")
        for path in sorted((EMOJI_MINI / "test").glob("*/noto.png"))
    ]
    for _ in range(40):  # batch statistics that fit, so that rounding costs little
        model(np.stack(pictures), training=True)
    formats = ["tflite", "tflite_float16", "tflite_dynamic"]
    result = keras_featx.export(config, model, formats=formats)
    prints = {name: read_model(result[name]).fingerprint for name in formats}
    card = json.loads((tmp_path / "run" / "inference" / "card.json").read_text())
    plain = fingerprint(model.get_weights(), config.Arch.Preprocess)
    assert prints["tflite"] == prints["tflite_float16"] == card["fingerprint"] != plain
    assert prints["tflite_dynamic"] == rounded(card["fingerprint"], "tflite_dynamic")


class Table:
    """A flatbuffer table, read by the numbers of TensorFlow Lite's metadata_schema.fbs."""

    def __init__(self, data, place):
        self.table = flatbuffers.table.Table(bytearray(data), place)

    def at(self, slot):
        return self.table.Offset(4 + 2 * slot)

    def text(self, slot):
        return self.table.String(self.at(slot) + self.table.Pos).decode()

    def number(self, slot, flags):
        return self.table.Get(flags, self.at(slot) + self.table.Pos)

    def child(self, slot):
        return Table(self.table.Bytes, self.table.Indirect(self.at(slot) + self.table.Pos))

    def only(self, slot):
        assert self.table.VectorLen(self.at(slot)) == 1
        return Table(self.table.Bytes, self.table.Indirect(self.table.Vector(self.at(slot))))


def test_the_metadata_says_an_rgb_image_of_this_size(files):
    model = schema.Model.GetRootAs((files[0] / "model.tflite").read_bytes(), 0)
    (place,) = [
        model.Metadata(i).Buffer()
        for i in range(model.MetadataLength())
        if model.Metadata(i).Name() == b"TFLITE_METADATA"
    ]
    data = model.Buffers(place).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    types = flatbuffers.number_types
    root = Table(data, int.from_bytes(data[:4], "little"))
    assert root.text(5) == "CC-BY-4.0" and root.text(7) == "1.0.0"
    graph = root.only(3)
    image, embedding = graph.only(2), graph.only(3)
    assert image.text(0) == "image" and embedding.text(0) == "embedding"
    assert image.child(3).number(0, types.Uint8Flags) == 2  # ImageProperties
    properties = image.child(3).child(1)
    assert properties.number(0, types.Int8Flags) == 1  # RGB
    size = properties.child(1)
    assert [size.number(i, types.Uint32Flags) for i in (0, 1)] == [32, 32]
    assert embedding.child(3).number(0, types.Uint8Flags) == 1  # FeatureProperties


def test_mediapipe_gives_the_same_vector(files):
    vision = pytest.importorskip(
        "mediapipe.tasks.python.vision", reason="pip install mediapipe (it brings 500 MB)"
    )
    import mediapipe
    from mediapipe.tasks.python import BaseOptions

    folder, config, model = files
    paths = sorted((EMOJI_MINI / "test").glob("*/noto.png"))[:3]
    options = vision.ImageEmbedderOptions(
        base_options=BaseOptions(model_asset_path=str(folder / "model.tflite")), l2_normalize=False
    )
    with vision.ImageEmbedder.create_from_options(options) as embedder:
        for path in paths:
            # Of the network's size, so that MediaPipe's own way of resizing has no part in it.
            pixels = np.array(Image.open(path).convert("RGB").resize((32, 32)))
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            found = embedder.embed(image).embeddings[0].embedding
            small = folder / "small.png"
            Image.fromarray(pixels).save(small)
            np.testing.assert_allclose(found, expected(config, model, [small])[0], atol=1e-5)
