"""Exports: opened again in their own runtimes, equal to Keras on real images; faults found."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import EMOJI_MINI, randomize
from pictures import encoded, exif_segment, into_jpeg, noise, oriented
from PIL import Image

import keras_featx
from keras_featx import images, models
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError, RunError
from keras_featx.exporters import saved_model, verify
from keras_featx.sections import PreprocessSection

PICTURES = sorted(str(p) for p in (EMOJI_MINI / "test").glob("*/noto.png"))[:5]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    from conftest import tiny_config

    folder = tmp_path_factory.mktemp("export")
    config = tiny_config(folder)
    model = randomize(models.build_extractor(config.Arch))
    return config, model, keras_featx.export(config, model)


def test_the_saved_model_equals_keras_from_bytes_and_from_pixels(exported, data_dir):
    config, model, result = exported
    signatures = tf.saved_model.load(result["saved_model"]).signatures
    assert sorted(signatures) == ["embed_images", "serving_default"]
    # A photo in JPEG beside the PNG drawings, of another size than the network's.
    paths = [*PICTURES, str(data_dir / "img_photo.jpg"), str(data_dir / "img_photo.png")]
    expected = embed(model, paths, config.Arch.Preprocess)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    data = tf.constant([open(p, "rb").read() for p in paths])
    found = signatures["serving_default"](image_bytes=data)["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    pixels = [images.load(tf.constant(p), (32, 32), config.Arch.Preprocess) for p in paths]
    found = signatures["embed_images"](image=tf.stack(pixels))["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    one = signatures["serving_default"](image_bytes=data[-1:])["embedding"]
    np.testing.assert_allclose(one, expected[-1:], atol=1e-5)


def test_the_saved_model_turns_and_reduces_as_evaluation_does(tmp_path, data_dir):
    """A large JPEG in eight orientations, a BMP, an animation, and clear pixels over a colour."""
    from conftest import tiny_config

    config = tiny_config(
        tmp_path,
        "Arch.Preprocess.reduced_decoding=true",
        "Arch.Preprocess.background=[255,0,0]",
        "Arch.Preprocess.resize=pad",
        "Arch.Preprocess.backend=opencv",
    )
    model = randomize(models.build_extractor(config.Arch))
    photo = (data_dir / "img_photo.jpg").read_bytes()
    clear = noise(40, 30, channels=4)
    frames = [Image.fromarray(noise(40, 56, seed=seed)) for seed in range(2)]
    files = [
        *(into_jpeg(photo, exif_segment(oriented(number))) for number in range(1, 9)),
        encoded(Image.fromarray(noise(20, 30)).quantize(16), "BMP"),
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        encoded(clear, "PNG"),
        encoded(clear[..., :3], "PNG"),
    ]
    paths = [tmp_path / str(i) for i in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    expected = embed(model, [str(path) for path in paths], config.Arch.Preprocess)
    # Each of them is another picture.
    assert (expected @ expected.T)[~np.eye(len(files), dtype=bool)].max() < 1 - 1e-4
    saved_model.save(model, config.Arch.Preprocess, tmp_path / "saved")
    signature = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    found = signature(image_bytes=tf.constant(files))["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Neither the reduction nor the colour went without effect.
    for data, row in ((files[5], 5), (files[10], 10)):
        plain = images.load_bytes(tf.constant(data), (32, 32), PreprocessSection(resize="pad"))
        assert np.abs(model(plain[None]) - expected[row]).max() > 1e-3
    with pytest.raises(tf.errors.InvalidArgumentError, match="BMP: expected"):
        signature(image_bytes=tf.constant([files[8][:60]]))


@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (1, 32, 32, 1), (32, 32, 3), (3,)])
def test_a_tensor_of_another_shape_is_an_error_and_no_abort(exported, shape):
    _, _, result = exported
    signature = tf.saved_model.load(result["saved_model"]).signatures["embed_images"]
    name = signature.structured_input_signature[1]["image"].name
    # As the server does it: straight into the graph, past Python's checks.
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], result["saved_model"])
        spec = graph.signature_def["embed_images"]
        assert name in spec.inputs
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            session.run(
                spec.outputs["embedding"].name,
                {spec.inputs["image"].name: np.zeros(shape, np.uint8)},
            )


def test_bytes_that_are_no_image_are_an_error(exported):
    _, _, result = exported
    signature = tf.saved_model.load(result["saved_model"]).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        signature(image_bytes=tf.constant([b"no image"]))


def test_weights_are_stored_once(exported):
    _, model, result = exported
    stored = sum(p.stat().st_size for p in _files(result["saved_model"]))
    assert stored < 1.6 * 4 * model.count_params() + 300_000


def _files(folder):
    from pathlib import Path

    return (p for p in Path(folder).rglob("*") if p.is_file())


def test_the_tflite_equals_keras_with_builtin_operators_only(exported):
    config, model, result = exported
    interpreter = Interpreter(model_path=result["tflite"])
    inputs, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert inputs["shape"].tolist() == [1, 32, 32, 3] and inputs["dtype"] == np.uint8
    assert outputs["shape"].tolist() == [1, 16] and outputs["dtype"] == np.float32
    assert list(interpreter.get_signature_list()) == ["serving_default"]
    names = {op["op_name"] for op in interpreter._get_ops_details()}
    assert "HARD_SWISH" in names
    assert not any(name.startswith(("Flex", "CUSTOM")) for name in names)
    runner = interpreter.get_signature_runner("serving_default")
    for path, expected in zip(PICTURES, embed(model, PICTURES), strict=True):
        pixels = images.load(tf.constant(path), (32, 32), config.Arch.Preprocess).numpy()
        found = runner(image=pixels[None])["embedding"][0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    black = runner(image=np.zeros((1, 32, 32, 3), np.uint8))["embedding"]
    expected = model(np.zeros((1, 32, 32, 3), "uint8"))
    np.testing.assert_allclose(black, expected, atol=1e-5)


def test_an_export_that_differs_is_an_error(exported, tmp_path):
    config, model, result = exported
    size, preprocess = (32, 32), config.Arch.Preprocess
    found = verify.saved_model(result["saved_model"], PICTURES, size, preprocess)
    other = randomize(models.build_extractor(config.Arch), seed=1)
    with pytest.raises(RunError, match="serving_default: embeddings differ from Keras by"):
        verify.compare(embed(other, PICTURES), found, tmp_path)
    wrong = {"serving_default": np.full((5, 16), np.nan, "float32")}
    with pytest.raises(RunError, match="differ from Keras by nan"):
        verify.compare(embed(model, PICTURES), wrong, tmp_path)
    with pytest.raises(RunError, match=r"expected embeddings of shape \(5, 16\), got \(5, 8\)"):
        verify.compare(embed(model, PICTURES), {"a": np.zeros((5, 8))}, tmp_path)


def test_untrained_weights_are_no_proof(tiny, tmp_path):
    config = tiny()
    dead = randomize(models.build_extractor(config.Arch))
    dead.get_layer("neck").kernel.assign(np.zeros((32, 16)))
    dead.get_layer("neck").bias.assign(np.zeros(16))
    with pytest.raises(RunError) as error:
        keras_featx.export(config, dead)
    assert str(error.value) == (
        "the network gives embeddings of norm 0 to 0, expected 1: its weights are untrained or "
        "broken"
    )
    assert not list((tmp_path / "run/inference").iterdir())


def test_bad_requests_are_refused(tiny, tmp_path):
    config = tiny(f"save_inference_dir={tmp_path}/train.txt")
    model = randomize(models.build_extractor(config.Arch))
    with pytest.raises(ConfigError) as error:
        keras_featx.export(config, model, formats=["tflite", "pb"])
    assert str(error.value) == "format: expected one of ['saved_model', 'tflite'], got 'pb'"
    with pytest.raises(ConfigError, match="^Global.save_inference_dir: expected a folder that can"):
        keras_featx.export(config, model)
