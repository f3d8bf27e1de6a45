"""Averages over views against float64 NumPy, in evaluation and in exports."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, randomize, tiny_config

import keras_featx
from keras_featx import RetrievalCallback, embedding, models
from keras_featx.data import memory, pipeline
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError, RunError
from keras_featx.evaluation import measure_sets
from keras_featx.evaluation_data import load_eval_samples, load_eval_sets
from keras_featx.evaluation_sections import MetricSection, ViewsSection
from keras_featx.exporters import gate
from keras_featx.sections import PreprocessSection
from keras_featx.views import with_views

PICTURES = sorted(str(p) for p in (EMOJI_MINI / "test").rglob("*.png"))[:9]
# The height is odd, and so is the room beside crops of one and of the other side.
SIZE = (45, 38)


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("e"), f"Arch.image_size={list(SIZE)}")
    return randomize(models.build_extractor(config.Arch))


def noise(count, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3)).astype("uint8")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def along(values, axis, size):
    """Bilinear: pixels lie at the middle of their width, beyond the edge is the edge."""
    count = values.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, count - 1)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return values.take(low, axis) * (1 - share) + values.take(high, axis) * share


def views_of(images, flip, crops, crop):
    """Every view of the images, by slices, in float64."""
    images = images.astype("float64")
    height, width = images.shape[1:3]
    tall, wide = round(height * crop), round(width * crop)
    middle = ((height - tall) // 2, (width - wide) // 2)
    down, right = height - tall, width - wide
    corners = [(0, 0), (0, right), (down, 0), (down, right)]
    places = {0: [], 1: [middle], 5: [*corners, middle]}[crops]
    cut = [images[:, y : y + tall, x : x + wide] for y, x in places]
    found = [images, *(along(along(part, 1, height), 2, width) for part in cut)]
    return found + [view[:, :, ::-1] for view in found] if flip else found


CASES = [(True, 0, 0.875), (False, 1, 0.875), (False, 5, 0.6), (True, 5, 0.875), (True, 1, 0.06)]


@pytest.mark.parametrize(("flip", "crops", "crop"), CASES)
def test_the_embedding_is_the_mean_of_the_embeddings_of_views(extractor, flip, crops, crop):
    images = noise(3)
    model = with_views(extractor, flip=flip, crops=crops, crop=crop)
    views = views_of(images, flip, crops, crop)
    assert len(views) == (1 + crops) * (1 + flip)
    each = np.stack([extractor(view.astype("float32")).numpy() for view in views]).astype("float64")
    np.testing.assert_allclose(np.linalg.norm(each, axis=-1), 1, atol=1e-6)
    # Views are far enough apart for each to count, and so are images.
    apart = [np.abs(a - b).max() for i, a in enumerate(each) for b in each[:i]]
    assert min(apart) > 1e-3
    expected = unit(each.mean(0))
    np.testing.assert_allclose(model(images), expected, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(model(images), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(model(images[1:2]), expected[1:2], atol=2e-5)
    assert np.abs(expected - each[0]).max() > 1e-3


def passing(size):
    """An "extractor" of the pixels themselves."""
    image = keras.Input((*size, 3))
    return keras.Model(image, keras.layers.UnitNormalization()(keras.layers.Flatten()(image)))


def test_pixels_of_views_are_those_of_slices():
    """No network blurs the difference: the mean of unit vectors of pixels."""
    images = noise(2, (8, 7))
    model = with_views(passing((8, 7)), flip=True, crops=5, crop=0.5)
    views = np.stack(views_of(images, True, 5, 0.5)).reshape(12, 2, -1)
    expected = unit(unit(views).mean(0))
    np.testing.assert_allclose(model(images), expected, atol=1e-6)
    # The least crop is a pixel, the upper left one of four in the middle.
    middle = np.broadcast_to(images[:, 3:4, 3:4], images.shape)
    flat = np.stack([images, middle]).reshape(2, 2, -1).astype("float64")
    found = with_views(passing((8, 7)), crops=1, crop=1e-6)(images)
    np.testing.assert_allclose(found, unit(unit(flat).mean(0)), atol=1e-6)
    # A crop of the whole image is the image.
    model = with_views(passing((8, 7)), crops=1, crop=1.0)
    np.testing.assert_allclose(model(images), unit(images.reshape(2, -1).astype("float64")), 1e-5)


def test_the_input_is_the_extractor_s_and_the_extractor_stays_as_it_is(extractor):
    before = json.loads(extractor.to_json())
    model = with_views(extractor, flip=True, crops=5)
    assert model.input_shape == extractor.input_shape == (None, *SIZE, 3)
    assert model.output_shape == extractor.output_shape == (None, 16)
    assert model.input.dtype == model.output.dtype == "float32"
    assert json.loads(extractor.to_json()) == before
    assert {id(w) for w in model.weights} == {id(w) for w in extractor.weights}
    # A call that says nothing of training is none.
    weights = extractor.get_weights()
    np.testing.assert_array_equal(model(noise(2)), model(noise(2), training=False))
    for one, other in zip(extractor.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_survives_saving(extractor, tmp_path):
    model = with_views(extractor, flip=True, crops=5, crop=0.7)
    model.save(tmp_path / "views.keras")
    again = keras_featx.load_model(tmp_path / "views.keras")
    np.testing.assert_array_equal(again(noise(3)), model(noise(3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, ": expected flip or crops, got nothing to average"),
        ({"flip": True, "crops": 4}, ".crops: expected 0, 1 or 5, got 4"),
        ({"crops": 5, "crop": 0.0}, ".crop: expected in (0, 1], got 0.0"),
        ({"crops": 1, "crop": 1.01}, ".crop: expected in (0, 1], got 1.01"),
    ],
)
def test_impossible_views_are_refused(extractor, tiny, arguments, message):
    with pytest.raises(ConfigError) as error:
        with_views(extractor, **arguments)
    assert str(error.value) == f"views{message}"
    with pytest.raises(ConfigError) as error:
        tiny(f"Metric.Views={json.dumps(arguments)}")
    assert str(error.value) == f"Metric.Views{message}"
    metrics = MetricSection(Views=ViewsSection(**arguments))
    pair = (noise(2), [0, 1])
    with pytest.raises(ConfigError) as error:
        RetrievalCallback(extractor, {"a": (pair, pair)}, metrics=metrics)
    assert str(error.value) == f"views{message}"


def test_a_crop_that_is_no_number_is_refused(extractor, tiny):
    with pytest.raises(ConfigError) as error:
        with_views(extractor, crops=1, crop=float("nan"))
    assert str(error.value) == "views.crop: expected in (0, 1], got nan"
    with pytest.raises(ConfigError) as error:
        tiny("Metric.Views={flip: 1}")
    assert str(error.value) == "Metric.Views.flip: expected bool, got 1"


def test_a_config_without_views_has_none(tiny):
    assert tiny().Metric.Views is None
    config = tiny("Metric.Views={flip: true, crops: 5}")
    assert config.Metric.Views == ViewsSection(flip=True, crops=5, crop=0.875)


def sided():
    """An "extractor" of whether red is on the left or on the right, and of how blue all is."""
    image = keras.Input((4, 4, 3))
    weights = np.zeros((4, 4, 3, 2), "float32")
    weights[:, :2, 0, 0], weights[:, 2:, 0, 0], weights[..., 2, 1] = 1, -1, 1
    dense = keras.layers.Dense(2, use_bias=False)
    vector = dense(keras.layers.Flatten()(image))
    dense.set_weights([weights.reshape(48, 2)])
    return keras.Model(image, keras.layers.UnitNormalization()(vector))


@pytest.mark.parametrize("bad_images", ["raise", "skip"])
def test_views_that_cancel_are_an_error_and_never_nan(bad_images, tiny, tmp_path):
    """The mirror of a picture that is red on one side has the opposite embedding."""
    pictures = np.zeros((6, 4, 4, 3), "uint8")
    pictures[..., :2, 0] = 200
    pictures[:5, ..., 2] = 50
    samples = memory.from_arrays(pictures, [0, 1, 0, 1, 0, 1], source="shop")
    extractor = sided()
    alone = embed(extractor, samples)
    np.testing.assert_allclose(alone, unit(np.array([[16.0, 8]] * 5 + [[16, 0]])), atol=1e-6)
    model = with_views(extractor, flip=True)
    np.testing.assert_allclose(model(pictures), [[0, 1]] * 5 + [[0, 0]], atol=1e-6)
    model.save(tmp_path / "views.keras")
    message = (
        "shop[5] (row 5 of shop): expected views whose embeddings do not cancel, got a mean of "
        "norm 0 after normalisation; the weights may be untrained or broken"
    )
    for one in (model, keras_featx.load_model(tmp_path / "views.keras")):
        np.testing.assert_allclose(embed(one, samples.take(np.arange(5))), [[0, 1]] * 5, atol=1e-6)
        with pytest.raises(RunError) as error:
            embed(one, samples, batch_size=4)
        assert str(error.value) == message
    config = tiny("Metric.Views={flip: true}", f"DataLoader.Eval.Query.bad_images={bad_images}")
    with pytest.raises(RunError) as error:
        keras_featx.evaluate(config, extractor, samples, samples.take(np.arange(5)))
    assert str(error.value) == message
    callback = RetrievalCallback(extractor, {"a": (samples, samples)}, metrics=config.Metric)
    with pytest.raises(RunError) as error:
        callback.on_epoch_end(0, {})
    assert str(error.value) == message


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("small"))
    return randomize(models.build_extractor(config.Arch))


def views_by_hand(model, samples, crops=1, flip=True, crop=0.875):
    """Means over views of the images as `embed` resizes them; 32 is half of their 64 pixels."""
    images = pipeline.image_dataset(
        samples, (32, 32), PreprocessSection(), 500
    ).get_single_element()
    views = views_of(images.numpy(), flip, crops, crop)
    return unit(np.mean([model(view.astype("float32")).numpy() for view in views], axis=0))


def test_evaluation_averages_query_and_gallery_alike(tiny, small, monkeypatch):
    config = tiny(
        "Metric.Views={flip: true, crops: 1}",
        "DataLoader.Eval.Query.batch_size=30",
        "DataLoader.Eval.Gallery.batch_size=3",
        "DataLoader.Eval.Gallery.bad_images=skip",
    )
    seen = set()
    real = embedding.forward
    monkeypatch.setattr(embedding, "forward", lambda m, x: seen.add(len(x)) or real(m, x))
    (found,) = measure_sets(config, small, load_eval_sets(config)).values()
    # Batches of the network, all views together, are of the size that is configured.
    assert seen == {7, 200 % 7, 1}
    vectors = [views_by_hand(small, part) for part in load_eval_samples(config)]
    np.testing.assert_allclose(found.query_embeddings, vectors[0], atol=2e-5)
    np.testing.assert_allclose(found.gallery_embeddings, vectors[1], atol=2e-5)
    best = (vectors[0] @ vectors[1].T).argmax(1)
    right = found.gallery.labels[best] == found.query.labels
    assert found.result["recall@1"] == pytest.approx(right.mean())
    plain = keras_featx.evaluate(tiny(), small)
    assert dict(found.result) != {**plain, "gallery_skipped": 0}


def test_the_callback_averages_views(small):
    images, labels = noise(12, (32, 32), 3), np.arange(12) % 4
    pair = ((images[:6], labels[:6]), (images[6:], labels[6:]))
    metrics = MetricSection(Views=ViewsSection(flip=True, crops=5))
    callback = RetrievalCallback(small, {"a": pair}, metrics=metrics)
    logs = {}
    callback.on_epoch_end(0, logs)
    views = views_of(images, True, 5, 0.875)
    vectors = unit(np.mean([small(view.astype("float32")).numpy() for view in views], axis=0))
    order = np.argsort(-(vectors[:6] @ vectors[6:].T), axis=1)
    first = labels[6:][order[:, 0]] == labels[:6]
    np.testing.assert_array_equal(callback.results["a"].per_query["recall@1"], first)
    assert logs["a/recall@1"] == first.mean()


def test_exports_average_too(tiny, small):
    """SavedModel and TFLite are compared with Keras by the exporter; here with views by hand."""
    config = tiny()
    model = with_views(small, flip=True, crops=5)
    result = keras_featx.export(config, model, images=PICTURES)
    samples = pipeline.as_samples(PICTURES)
    expected = views_by_hand(small, samples, crops=5)
    signature = tf.saved_model.load(result["saved_model"]).signatures["serving_default"]
    data = tf.constant([open(path, "rb").read() for path in PICTURES])
    np.testing.assert_allclose(signature(image_bytes=data)["embedding"], expected, atol=2e-5)
    pixels = gate.load_probes(data.numpy(), config.Arch)
    for name in ("tflite", "onnx"):
        variant = gate.open_variant(name, Path(result[name]), (32, 32))
        np.testing.assert_allclose(variant.from_pixels(pixels), expected, atol=2e-5)


def test_several_devices_embed_with_views(small, tmp_path):
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        mirrored = models.build_extractor(tiny_config(tmp_path).Arch)
        mirrored.set_weights(small.get_weights())
    model = with_views(mirrored, flip=True)
    assert model.distribute_strategy.num_replicas_in_sync == 2
    expected = embed(with_views(small, flip=True), PICTURES)
    np.testing.assert_allclose(embed(model, PICTURES, batch_size=5), expected, atol=1e-6)
