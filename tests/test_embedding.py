"""Embedding into files that are gone on with, in half precision, and on several devices."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, randomize, tiny_config

from keras_featx import embedding, models
from keras_featx.data import pipeline
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError, RunError
from keras_featx.sections import PreprocessSection


def extractor_of(folder, seed=0):
    return randomize(models.build_extractor(tiny_config(folder).Arch), seed)


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return extractor_of(tmp_path_factory.mktemp("e"))


@pytest.fixture
def pictures(tmp_path):
    found = sorted((EMOJI_MINI / "test").rglob("*.png"))[:23]
    (tmp_path / "images").mkdir()
    return [shutil.copy(path, tmp_path / "images" / f"{i:02}.png") for i, path in enumerate(found)]


def stop_after(monkeypatch, batches):
    """A run that dies in the middle of its work; returns how many images were embedded."""
    seen = []
    real = embedding.forward

    def forward(model, batch):
        if len(seen) == batches:
            raise KeyboardInterrupt
        seen.append(len(batch))
        return real(model, batch)

    monkeypatch.setattr(embedding, "forward", forward)
    return seen


def test_a_stopped_run_goes_on_where_it_was(extractor, pictures, tmp_path, monkeypatch):
    expected = embed(extractor, pictures, batch_size=4)
    output = tmp_path / "out" / "all.npy"
    with monkeypatch.context() as patch:
        assert stop_after(patch, 3) == []
        with pytest.raises(KeyboardInterrupt):
            embed(extractor, pictures, batch_size=4, output=output)
    assert not output.exists()
    with monkeypatch.context() as patch:
        seen = stop_after(patch, 99)
        found = embed(extractor, pictures, batch_size=5, output=output)
    assert seen == [5, 5, 1]  # 12 of 23 were there
    assert isinstance(found, np.memmap)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.load(output), expected, atol=1e-6)
    assert [path.name for path in output.parent.iterdir()] == ["all.npy"]


def test_a_run_stopped_after_its_last_batch_only_renames(
    extractor, pictures, tmp_path, monkeypatch
):
    output = tmp_path / "all.npy"
    with monkeypatch.context() as patch:
        patch.setattr(embedding.EmbeddingFile, "finished", lambda self: None)
        embed(extractor, pictures, output=output)
    seen = stop_after(monkeypatch, 0)
    found = embed(extractor, pictures, output=output)
    assert seen == [] and found.shape == (23, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("change", ["weights", "images", "content", "preprocess", "note", "dtype"])
def test_what_is_not_the_same_work_starts_again(change, extractor, pictures, tmp_path, monkeypatch):
    output = tmp_path / "all.npy"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            embed(extractor, pictures, batch_size=4, output=output)
    arguments = {"preprocess": PreprocessSection(), "dtype": "float32"}
    model = extractor
    if change == "weights":
        model = extractor_of(tmp_path, seed=1)
    elif change == "images":
        pictures = pictures[::-1]
    elif change == "content":
        shutil.copy(pictures[9], pictures[2])
    elif change == "preprocess":
        arguments["preprocess"] = PreprocessSection(interpolation="area")
    elif change == "dtype":
        arguments["dtype"] = "float16"
    else:
        (tmp_path / "all.npy.part.json").write_text("{broken")
    seen = stop_after(monkeypatch, 99)
    found = embed(model, pictures, batch_size=4, output=output, **arguments)
    assert sum(seen) == 23
    monkeypatch.undo()
    expected = embed(model, pictures, batch_size=4, **arguments)
    assert found.dtype == expected.dtype == arguments["dtype"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_note_of_other_work_is_not_taken_for_one_of_this(extractor, pictures, tmp_path):
    """A run stops; another begins in its place and is killed before its first note."""
    output = tmp_path / "all.npy"
    first = embedding.EmbeddingFile(output, (23, 16), "float32", "first")
    first.add(np.ones((9, 16)))
    first.note()
    second = embedding.EmbeddingFile(output, (23, 16), "float32", "second")
    second.add(np.zeros((2, 16)))
    del second
    assert embedding.EmbeddingFile(output, (23, 16), "float32", "first").done == 0
    (tmp_path / "all.npy.part.json").write_text("[]")
    assert embedding.EmbeddingFile(output, (23, 16), "float32", "first").done == 0


def test_two_models_of_the_same_weights_are_two():
    def model(activation):
        image = keras.Input((4, 4, 3))
        vector = keras.layers.Flatten()(keras.layers.Activation(activation, name="a")(image))
        return keras.Model(
            image, keras.layers.Dense(2, name="d", kernel_initializer="ones")(vector)
        )

    samples = pipeline.as_samples([])
    found = {
        embedding._fingerprint(model(name), samples, PreprocessSection(), "float32")
        for name in ("relu", "tanh")
    }
    assert len(found) == 2


def test_no_images_have_no_embeddings(extractor, tmp_path):
    assert embed(extractor, []).shape == (0, 16)
    assert embed(extractor, [], output=tmp_path / "none.npy").shape == (0, 16)
    assert [path.name for path in tmp_path.glob("none*")] == ["none.npy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype: expected 'float32' or 'float16', got 'int8'"),
        ({"output": "gs://b/x.npy"}, "output: expected a local file, got 'gs://b/x.npy'"),
    ],
)
def test_impossible_arguments_are_refused(extractor, pictures, arguments, message):
    with pytest.raises(ConfigError) as error:
        embed(extractor, pictures, **arguments)
    assert str(error.value) == message


def test_half_precision_is_the_rounded_embedding(extractor, pictures):
    whole = embed(extractor, pictures)
    half = embed(extractor, pictures, dtype="float16")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, whole, atol=5e-4)


def test_a_bad_image_is_named_and_what_was_done_is_kept(extractor, pictures, tmp_path):
    good = (tmp_path / "images" / "17.png").read_bytes()
    (tmp_path / "images" / "17.png").write_bytes(b"no image")
    output = tmp_path / "all.npy"
    with pytest.raises(RunError, match="17.png"):
        embed(extractor, pictures, batch_size=2, output=output)
    note = json.loads((tmp_path / "all.npy.part.json").read_text())
    assert note["done"] <= 16
    (tmp_path / "images" / "17.png").write_bytes(good)
    np.testing.assert_allclose(
        embed(extractor, pictures, output=output), embed(extractor, pictures), atol=1e-6
    )


def test_several_devices_embed_each_image_once(tmp_path, extractor, pictures, monkeypatch):
    """Batches of five on two devices; the last one has three images, or one."""
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        mirrored = extractor_of(tmp_path)
        mirrored.set_weights(extractor.get_weights())
    assert mirrored.distribute_strategy.num_replicas_in_sync == 2
    used = []
    real = embedding._on_replicas
    monkeypatch.setattr(
        embedding, "_on_replicas", lambda *given: used.append(len(given[2])) or real(*given)
    )
    for count in (23, 21):
        expected = embed(extractor, pictures[:count])
        found = embed(mirrored, pictures[:count], batch_size=5)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert used == [5, 5, 5, 5, 3, 5, 5, 5, 5]  # a single image has no second device
