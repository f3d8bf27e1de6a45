"""Exports: opened again in their own runtimes, equal to Keras on real images; faults found."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import EMOJI_MINI, randomize, tiny_config
from pictures import encoded, exif_segment, into_jpeg, noise, oriented
from PIL import Image

import keras_featx
from keras_featx import images, models
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError, RunError
from keras_featx.evaluation import evaluate
from keras_featx.evaluation_data import load_eval_samples
from keras_featx.export_section import REDUCED
from keras_featx.exporters import gate, litert, measuring, onnx_file, saved_model
from keras_featx.exporters.warmup import read_warmup, write_warmup
from keras_featx.reranking import fit_pca, whitened
from keras_featx.sections import PreprocessSection

PICTURES = sorted(str(p) for p in (EMOJI_MINI / "test").glob("*/noto.png"))[:5]
FLOATS = ("saved_model", "tflite", "onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    config = tiny_config(folder, "Export.licence=CC-BY-4.0")
    model = randomize(models.build_extractor(config.Arch))
    return config, model, keras_featx.export(config, model)


def copied(exported, tmp_path):
    """The export, to be spoilt."""
    folder = Path(exported[2]["tflite"]).parent
    return Path(shutil.copytree(folder, tmp_path / "copy"))


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
    stored = (Path(result["saved_model"]) / "saved_model.pb").stat().st_size
    assert stored < 1.6 * 4 * model.count_params() + 300_000


def test_the_tflite_equals_keras_with_builtin_operators_only(exported):
    config, model, result = exported
    interpreter = Interpreter(model_path=result["tflite"])
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert inputs["shape"].tolist() == [1, 32, 32, 3] and inputs["dtype"] == np.uint8
    assert outputs["shape"].tolist() == [1, 16] and outputs["dtype"] == np.float32
    assert list(interpreter.get_signature_list()) == ["serving_default"]
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    assert names.count("HARD_SWISH") == 28 and names.count("DELEGATE") == 1
    assert not any(name.startswith(("Flex", "CUSTOM")) for name in names)
    runner = interpreter.get_signature_runner("serving_default")
    for path, expected in zip(PICTURES, embed(model, PICTURES), strict=True):
        pixels = images.load(tf.constant(path), (32, 32), config.Arch.Preprocess).numpy()
        found = runner(image=pixels[None])["embedding"][0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    black = runner(image=np.zeros((1, 32, 32, 3), np.uint8))["embedding"]
    expected = model(np.zeros((1, 32, 32, 3), "uint8"))
    np.testing.assert_allclose(black, expected, atol=1e-5)


def test_what_stands_beside_the_artefacts(exported):
    config, model, result = exported
    folder = Path(result["tflite"]).parent
    measured = evaluate(config, model)
    card = json.loads((folder / "card.json").read_text())
    assert card["licence"] == "CC-BY-4.0" and card["embedding_size"] == 16
    assert card["evaluation"]["recall@1"] == measured["recall@1"]
    assert card["evaluation"]["intervals"]["recall@1"] == list(measured.intervals["recall@1"])
    assert (card["evaluation"]["queries"], card["evaluation"]["gallery"]) == (200, 40)
    assert card["trained_on"] == {"list": "train.txt", "images": 48, "identities": 8}
    text = (folder / "README.md").read_text()
    assert f"Recall@1 {100 * measured['recall@1']:.1f} % (95 % interval" in text
    assert "Licence of the weights: CC-BY-4.0." in text and card["fingerprint"] in text
    parity = json.loads((folder / "parity.json").read_text())
    query, gallery = load_eval_samples(config)
    left, right = (embed(model, part, config.Arch.Preprocess) for part in (query, gallery))
    best = np.sort(left.astype("float64") @ right.T.astype("float64"), axis=1)
    clear = np.mean(best[:, -1] - best[:, -2] > 1e-6)
    assert clear > 0.9
    for name in FLOATS:
        figures = parity["variants"][name]
        assert figures["probes"]["smallest_cosine"] > 0.999999
        assert figures["recall@1"] == measured["recall@1"] == result["recall@1"][name]
        # Where the two best are not within rounding of one another, the best is the same.
        assert clear <= figures["neighbours_agree"] <= 1 and figures["latency_ms"] > 0
    again = keras_featx.load_config(folder / "config.yaml")
    assert again.Arch == config.Arch
    threshold = json.loads((Path(result["saved_model"]) / "assets/threshold.json").read_text())
    assert threshold == card["threshold"] and -1 < threshold["cosine"] <= 1


def test_the_threshold_is_the_one_of_the_pairs(exported):
    """Counted once more, by hand."""
    config, model, result = exported
    card = json.loads((Path(result["tflite"]).parent / "card.json").read_text())
    query, gallery = load_eval_samples(config)
    left, right = (embed(model, part, config.Arch.Preprocess) for part in (query, gallery))
    similar = left.astype("float64") @ right.T
    same = query.labels[:, None] == gallery.labels[None]
    threshold = card["threshold"]["cosine"]
    assert (
        np.mean(similar[~same] >= threshold) <= 0.01 < np.mean(similar[~same] >= threshold - 1e-4)
    )
    assert np.mean(similar[same] >= threshold) == pytest.approx(
        card["threshold"]["genuine_pairs_accepted"], abs=1e-3
    )


def test_settings_and_requests_are_tensorflow_servings(exported):
    """Read with TensorFlow Serving's own messages."""
    from google.protobuf import text_format
    from tensorflow_serving.apis import prediction_log_pb2
    from tensorflow_serving.config import model_server_config_pb2

    _, _, result = exported
    version = Path(result["saved_model"])
    folder = version.parent.parent
    settings = text_format.Parse(
        (folder / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    (model,) = settings.model_config_list.config
    assert (model.name, model.model_platform) == ("embedder", "tensorflow")
    assert dict(model.version_labels) == {"stable": 1}
    batching = (folder / "batching_parameters.txt").read_text()
    assert re.findall(r"^(\w+) \{ value: \d+ \}$", batching, re.M) == [
        "max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads",
    ]  # fmt: skip
    records = tf.data.TFRecordDataset(str(version / "assets.extra/tf_serving_warmup_requests"))
    ours = list(read_warmup(version))
    signatures = tf.saved_model.load(str(version)).signatures
    seen = set()
    for record, (name, inputs) in zip(records, ours, strict=True):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "embedder" and request.model_spec.signature_name == name
        (key,) = request.inputs
        value = tf.make_ndarray(request.inputs[key])
        assert (value == inputs[key]).all()
        found = signatures[name](**{key: tf.constant(value)})["embedding"]
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        seen.add((name, len(value)))
    assert seen == {(n, k) for n in ("serving_default", "embed_images") for k in (1, 8)}


def test_verify_opens_it_elsewhere(exported, tmp_path):
    config, _, _ = exported
    found = keras_featx.verify(copied(exported, tmp_path))
    assert sorted(found["variants"]) == sorted(FLOATS) and found["files"] >= 9
    for figures in found["variants"].values():
        assert figures["probes"]["smallest_cosine"] > 0.999999


def spoil(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.tflite", lambda data: data[:-8] + b"\0" * 8, "expected the file that was exported"),
        ("model.onnx", lambda data: data[:-100], "expected the file that was exported"),
        ("saved_model/1/saved_model.pb", lambda data: data + b"\0", "expected the file that was"),
        ("probes.npz", lambda data: data[:-1], "expected the file that was exported"),
    ],
)
def test_verify_finds_what_was_changed(exported, tmp_path, name, change, message):
    folder = copied(exported, tmp_path)
    spoil(folder / name, change)
    with pytest.raises(RunError) as error:
        keras_featx.verify(folder)
    assert str(error.value).startswith(f"{folder / name}: {message}")
    (folder / name).unlink()
    with pytest.raises(RunError) as error:
        keras_featx.verify(folder)
    assert str(error.value) == f"{folder / name}: missing; parity.json beside it names it"


def test_verify_refuses_what_is_no_export(exported, tmp_path):
    with pytest.raises(ConfigError) as error:
        keras_featx.verify(tmp_path / "none")
    assert str(error.value) == f"{tmp_path}/none: expected a folder that keras-featx export wrote"
    with pytest.raises(ConfigError, match=r"parity.json: expected that of an export: No such file"):
        keras_featx.verify(tmp_path)
    folder = copied(exported, tmp_path)
    good = json.loads((folder / "parity.json").read_text())
    for bad in (
        [], {}, {**good, "variants": {"pb": {}}}, {**good, "files": {}},
        {**good, "min_cosine": "x"},
        {**good, "files": {**good["files"], "../secret": "0"}}, {**good, "variants": {}},
        {**good, "files": list(good["files"])}, {**good, "variants": {"tflite": {"probes": {}}}},
        {**good, "min_cosine": "0.5"}, {**good, "min_cosine": 0},
    ):  # fmt: skip
        (folder / "parity.json").write_text(json.dumps(bad))
        with pytest.raises(ConfigError) as error:
            keras_featx.verify(folder)
        assert str(error.value) == f"{folder}/parity.json: expected the figures of an export"


# Faults as they happen: each is planted in what is written, and the gate must find it.
def swapped(model):
    image = keras.Input(model.input_shape[1:])
    return keras.Model(image, model(image[..., ::-1]))


def other_mean(model):
    image = keras.Input(model.input_shape[1:])
    return keras.Model(image, model(image + 2.0))


def dropped_constant(model):
    copy = keras.models.clone_model(model)
    copy.set_weights([np.zeros_like(w) if i == 5 else w for i, w in enumerate(model.get_weights())])
    return copy


@pytest.mark.parametrize("fault", [swapped, other_mean, dropped_constant])
@pytest.mark.parametrize("kind", FLOATS)
def test_the_gate_finds_a_wrong_network(exported, tmp_path, monkeypatch, fault, kind):
    config, model, _ = exported
    module = {"saved_model": saved_model, "tflite": litert, "onnx": onnx_file}[kind]
    save = module.save
    monkeypatch.setattr(module, "save", lambda network, *rest: save(fault(network), *rest))
    config = dataclasses.replace(
        config, Global=dataclasses.replace(config.Global, output_dir=str(tmp_path / "run"))
    )
    with pytest.raises(RunError) as error:
        keras_featx.export(config, model, formats=[kind])
    path = tmp_path / "run/inference" / gate.FILES[kind]
    assert re.fullmatch(
        rf"{re.escape(str(path))}: embeddings differ from Keras by up to [\d.e-]+, cosine [\d.-]+; "
        r"expected at least 0.999999 \(Export.min_cosine\)",
        str(error.value),
    )
    assert not list((tmp_path / "run").rglob("*.*"))


def test_the_gate_finds_another_way_of_resizing(exported, tmp_path, monkeypatch):
    config, model, _ = exported
    save = saved_model.save
    other = dataclasses.replace(config.Arch.Preprocess, antialias=True)
    monkeypatch.setattr(saved_model, "save", lambda n, p, *rest: save(n, other, *rest))
    config = dataclasses.replace(
        config, Global=dataclasses.replace(config.Global, output_dir=str(tmp_path / "run"))
    )
    with pytest.raises(RunError, match="embeddings differ from Keras by up to"):
        keras_featx.export(config, model, formats=["saved_model"])


@pytest.mark.parametrize("kind", REDUCED)
def test_the_gate_finds_swapped_channels_where_numbers_are_rounded(tmp_path, monkeypatch, kind):
    """Recall alone would let them pass: another network may find as much."""
    config = tiny_config(
        tmp_path, "Arch.image_size=[64,64]", "Export.calibration_images=40",
        "Export.max_recall_loss=1",
    )  # fmt: skip
    model = models.build_model("emoji-lcnet-x0_5")
    save = litert.save
    monkeypatch.setattr(litert, "save", lambda network, *rest: save(swapped(network), *rest))
    with pytest.raises(RunError) as error:
        keras_featx.export(config, model, formats=[kind])
    assert re.search(
        rf"{gate.FILES[kind]}: embeddings differ from Keras, mean cosine 0.\d+; expected at least "
        f"{REDUCED[kind]}$",
        str(error.value),
    )


def test_an_export_stays_until_the_next_has_passed(exported, tmp_path, monkeypatch):
    config, model, _ = exported
    folder = copied(exported, tmp_path)
    where = dataclasses.replace(config.Global, save_inference_dir=str(folder))
    config = dataclasses.replace(config, Global=where)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    save = litert.save
    with monkeypatch.context() as patch:
        patch.setattr(litert, "save", lambda network, *rest: save(swapped(network), *rest))
        with pytest.raises(RunError):
            keras_featx.export(config, model, formats=["tflite"], overwrite=True)
    rename = Path.rename

    def interrupted(path, target):
        if str(path).endswith(".part"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            keras_featx.export(config, model, formats=["tflite"], overwrite=True)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    (folder / "thesis.tex").write_text("mine")
    assert refusal(config, model, overwrite=True) == (
        f"{folder}: expected an export to overwrite, got thesis.tex beside it"
    )
    (folder / "thesis.tex").unlink()
    keras_featx.export(config, model, formats=["tflite"], overwrite=True)
    assert not (folder / "model.onnx").exists() and (folder / "model.tflite").exists()


def test_bad_images_are_named_or_passed_over(tmp_path):
    rows = (EMOJI_MINI / "query_list.txt").read_text().splitlines()[:30]
    rows.insert(1, "../" * 20 + f"{tmp_path}/junk.png {rows[0].split()[1]}".lstrip("/"))
    (tmp_path / "junk.png").write_bytes(b"junk")
    (tmp_path / "query.txt").write_text("\n".join(rows) + "\n")
    where = f"DataLoader.Eval.Query.dataset.cls_label_path={tmp_path}/query.txt"
    config = tiny_config(tmp_path, where)
    model = randomize(models.build_extractor(config.Arch))
    with pytest.raises(RunError, match="junk.png: expected an image to compare on: Unknown image"):
        keras_featx.export(config, model, formats=["tflite"])
    with pytest.raises(RunError, match="junk.png: expected a decodable image: "):
        keras_featx.export(config, model, formats=["tflite"], images=PICTURES)
    config = tiny_config(tmp_path, where, "DataLoader.Eval.Query.bad_images=skip")
    result = keras_featx.export(config, model, formats=["tflite"])
    assert result["images"] == 8 + 3
    card = json.loads((tmp_path / "run/inference/card.json").read_text())
    assert card["evaluation"]["queries"] == 30


def test_the_gate_compares_shapes_numbers_and_norms():
    unit = np.eye(4, dtype="float32")
    for wrong, message in (
        (unit[:, :3], r"x: expected embeddings of shape \(4, 4\), got \(4, 3\)"),
        (
            np.full((4, 4), np.nan, "float32"),
            "x: expected finite embeddings, got some that are not",
        ),
        (unit / 2, "x: expected embeddings of norm 1, got 0.5"),
    ):
        with pytest.raises(RunError, match=message):
            gate.compare(unit, wrong, "x")
    found = gate.compare(unit, np.roll(unit, 1, 0), "x")
    assert (found.largest_difference, found.smallest_cosine, found.mean_cosine) == (1, 0, 0)


def test_a_warm_up_request_that_fails_is_found(exported, tmp_path):
    folder = copied(exported, tmp_path)
    version = folder / "saved_model/1"
    for requests, message in (
        ([("embed_images", {"picture": np.zeros(1)})], "warm-up request of embed_images: "),
        ([("other", {"image": np.zeros(1)})], "warm-up request of other: "),
        (
            [("embed_images", {"image": np.zeros((1, 9, 9, 3), "uint8")})],
            "warm-up request of embed",
        ),
        ([], "expected 1 to 1000 requests, got 0"),
    ):
        write_warmup(version, requests)
        with pytest.raises(RunError, match=message):
            gate.open_variant("saved_model", folder / "saved_model", (32, 32))
    (version / "assets.extra/tf_serving_warmup_requests").write_bytes(b"no record" * 9)
    with pytest.raises(RunError, match="expected warm-up requests"):
        gate.open_variant("saved_model", folder / "saved_model", (32, 32))


def test_less_precise_variants_are_held_to_their_recall(trained, tmp_path):
    config = tiny_config(
        tmp_path, f"pretrained_model={trained}/latest", "Export.calibration_images=40",
        "Export.max_recall_loss=0.5", "Export.tune={steps: 3, batch_size: 8}",
    )  # fmt: skip
    formats = list(REDUCED)
    result = keras_featx.export(config, formats=formats)
    measured = evaluate(config)["recall@1"]
    for name in formats:
        figures = result["variants"][name]
        assert figures["recall@1_loss"] == pytest.approx(measured - figures["recall@1"])
    float16 = result["variants"]["tflite_float16"]
    assert 0.9999 < float16["probes"]["smallest_cosine"] < 1 - 1e-9
    assert result["largest_difference"] is None
    assert keras_featx.verify(tmp_path / "run/inference")["variants"].keys() == set(formats)
    with pytest.raises(RunError) as error:
        measuring.check_recall(
            "tflite_int8",
            {"recall@1": 0.5, "recall@1_loss": 0.01},
            dataclasses.replace(config.Export, max_recall_loss=0.0),
            "x",
        )
    assert str(error.value) == (
        "x: Recall@1 0.5000, 0.0100 below that of Keras; expected at most 0.0 "
        "(Export.max_recall_loss)"
    )


def test_a_projection_is_learnt_from_training_images(exported, tmp_path):
    config, model, _ = exported
    config = tiny_config(tmp_path, "Export.projection={size: 5, whiten: true}")
    result = keras_featx.export(config, model, formats=["tflite", "onnx"])
    from keras_featx.data.samples import load_samples

    train = load_samples(config.DataLoader.Train.dataset.source, "train")
    fitted = fit_pca(embed(model, train, config.Arch.Preprocess), size=5)
    pixels = np.stack(
        [images.load(tf.constant(p), (32, 32), config.Arch.Preprocess) for p in PICTURES]
    )
    expected = whitened(model(pixels).numpy(), *fitted)
    for name in ("tflite", "onnx"):
        found = gate.open_variant(name, Path(result[name]), (32, 32)).from_pixels(pixels)
        np.testing.assert_allclose(found, expected, atol=2e-5)
    too_long = tiny_config(
        tmp_path, "Export.projection={size: 17}", "output_dir=" + str(tmp_path / "b")
    )
    with pytest.raises(ConfigError, match="^Export.projection.size: expected 1 to "):
        keras_featx.export(too_long, model, formats=["tflite"])


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
    assert not (tmp_path / "run/inference").exists()


def refusal(config, model=None, **how):
    with pytest.raises(ConfigError) as error:
        keras_featx.export(config, model, **how)
    return str(error.value)


def test_bad_requests_are_refused(exported, tiny, tmp_path):
    _, model, result = exported
    folder = Path(result["tflite"]).parent
    assert refusal(tiny(), model, formats=["tflite", "pb"]) == (
        "format: expected one of ['saved_model', 'tflite', 'onnx', 'tflite_float16', "
        "'tflite_dynamic', 'tflite_int8'], got 'pb'"
    )
    assert refusal(tiny()) == "Global.pretrained_model: expected the weights to export, got null"
    assert "expected one of ['emoji-lcnet-x0_5'] or a folder with weights.npz" in refusal(
        tiny(f"pretrained_model={tmp_path}")
    )
    assert refusal(tiny(f"save_inference_dir={tmp_path}/train.txt"), model) == (
        "Global.save_inference_dir: expected a folder that can be written, got "
        f"{tmp_path}/train.txt: it is a file"
    )
    assert refusal(tiny(f"save_inference_dir={tmp_path}/train.txt/x"), model) == (
        "Global.save_inference_dir: expected a folder that can be written, got "
        f"{tmp_path}/train.txt/x: File exists"
    )
    assert refusal(tiny("save_inference_dir=gs://bucket/x"), model) == (
        "Global.save_inference_dir: expected a local folder, got 'gs://bucket/x'"
    )
    assert refusal(tiny("Arch.image_size=[64,64]"), model) == (
        "Arch.image_size: expected [32, 32], that of the model, got [64, 64]"
    )
    assert refusal(tiny(f"save_inference_dir={folder}"), model) == (
        f"{folder}: expected no export there, as none is overwritten unless Export.overwrite is "
        "true (--overwrite)"
    )
    assert refusal(tiny(f"save_inference_dir={tmp_path}"), model, overwrite=True) == (
        f"{tmp_path}: expected an export to overwrite, got other files"
    )
    assert refusal(tiny(), model, formats=["tflite_int8"]) == (
        "Export.calibration_images: expected at most 48, the images of "
        f"{tmp_path}/train.txt, got 128"
    )
    assert refusal(tiny("DataLoader.Train=null"), model, formats=["tflite_int8"]) == (
        "DataLoader.Train: missing; tflite_int8 learns from training images"
    )
    assert refusal(tiny("DataLoader.Eval=null"), model, formats=["tflite_dynamic"]) == (
        "tflite_dynamic: expected DataLoader.Eval, to measure Recall@1 on"
    )
    lost = tiny("DataLoader.Eval.Query.dataset.cls_label_path=none.txt")
    assert refusal(lost, model, formats=["tflite_dynamic"]).startswith(
        "tflite_dynamic: expected query and gallery to measure Recall@1 on: "
    )
    # The exact ones need no Recall.
    result = keras_featx.export(lost, model, formats=["tflite"], images=PICTURES)
    assert "recall@1" not in result
    assert "Not measured" in (tmp_path / "run/inference/README.md").read_text()


def test_a_projection_may_be_the_first_numbers(exported, tmp_path):
    _, model, _ = exported
    section = "Export.projection={by: prefix, size: 6}"
    # Nothing is learnt, so no training images are needed.
    config = tiny_config(tmp_path, section, "Export.min_cosine=0.99999")
    result = keras_featx.export(config, model, formats=["tflite", "onnx"])
    pixels = np.stack(
        [images.load(tf.constant(p), (32, 32), config.Arch.Preprocess) for p in PICTURES]
    )
    expected = model(pixels).numpy().astype("float64")[:, :6]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for name in ("tflite", "onnx"):
        found = gate.open_variant(name, Path(result[name]), (32, 32)).from_pixels(pixels)
        np.testing.assert_allclose(found, expected, atol=2e-5)
    for section, message in {
        "{by: prefix}": "Export.projection: expected with by: prefix a size and no whitening",
        "{by: prefix, size: 17}": "Export.projection.size: expected at most 16, that of the "
        "embedding, got 17",
    }.items():
        with pytest.raises(ConfigError) as error:
            bad = tiny_config(
                tmp_path, f"Export.projection={section}", f"output_dir={tmp_path / 'b'}"
            )
            keras_featx.export(bad, model, formats=["tflite"])
        assert str(error.value) == message
