"""The callback in a `fit` that is not ours."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_featx import RetrievalCallback, evaluate
from keras_featx.config import Config, from_dict
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError
from keras_featx.sections import MetricSection


def blocks(seed, count=40):
    """Noisy pictures of four colours."""
    rng = np.random.default_rng(seed)
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]])
    labels = np.arange(count) % 4
    pixels = colours[labels][:, None, None] + rng.normal(0, 40, (count, 6, 6, 3))
    return np.clip(pixels, 0, 255).astype("uint8"), labels


def models():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, -1)(image))
    embedding = keras.layers.UnitNormalization()(keras.layers.Dense(3, use_bias=False)(x))
    extractor = keras.Model(image, embedding)
    model = keras.Model(image, keras.layers.Dense(4)(embedding))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    return extractor, model


def test_every_set_is_measured_and_the_best_extractor_kept(tmp_path):
    extractor, model = models()
    query, gallery = blocks(1), blocks(2)
    other = tf.data.Dataset.from_tensor_slices(blocks(3))
    sets = {"first": (query, gallery), "second": (query, other)}
    callback = RetrievalCallback(
        extractor, sets, every=2, monitor="second/map", best_path=tmp_path / "best.keras"
    )
    history = model.fit(*blocks(0), epochs=6, verbose=0, callbacks=[callback]).history
    for name in ("recall@1", "map", "queries"):
        for set_name in sets:
            assert len(history[f"{set_name}/{name}"]) == 3
    assert history["first/queries"] == [40, 40, 40]
    # What the last measurement found is what the extractor now gives.
    expected = evaluate(Config(), extractor, query, gallery)
    assert callback.results["first"] == expected
    assert history["first/map"][-1] == expected["map"]
    assert callback.best == max(history["second/map"])
    kept = keras.models.load_model(tmp_path / "best.keras")
    assert evaluate(Config(), kept, query, other)["map"] == pytest.approx(callback.best, abs=1e-6)


def test_it_measures_after_every_so_many_epochs():
    extractor, _ = models()
    callback = RetrievalCallback(extractor, {"a": (blocks(1), blocks(2))}, every=3)
    logs = [{} for _ in range(7)]
    for epoch, log in enumerate(logs):
        callback.on_epoch_end(epoch, log)
    assert [epoch for epoch, log in enumerate(logs, start=1) if log] == [3, 6]


def test_the_first_figure_is_watched_unless_another_is_named():
    extractor, model = models()
    metric = from_dict({"Metric": {"Eval": ["MRR", "Recallk"]}}).Metric
    callback = RetrievalCallback(extractor, {"a": (blocks(1), blocks(2))}, metrics=metric)
    history = model.fit(*blocks(0), epochs=3, verbose=0, callbacks=[callback]).history
    assert isinstance(metric, MetricSection)
    assert callback.best == max(history["a/mrr"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sets": {}}, "sets: expected at least one pair of query and gallery, got none"),
        ({"every": 0}, "every: expected at least 1, got 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    extractor, _ = models()
    given = {"sets": {"a": (blocks(1), blocks(2))}, **arguments}
    with pytest.raises(ConfigError) as error:
        RetrievalCallback(extractor, **given)
    assert str(error.value) == message


def test_a_pair_that_does_not_fit_is_named():
    extractor, _ = models()
    named = Samples("list", ["a.png"], np.array([0]), [1], names=["cat"], ids=np.array([1]))
    with pytest.raises(ConfigError) as error:
        RetrievalCallback(extractor, {"shop": (named, blocks(2))})
    assert str(error.value) == "sets.shop.Gallery: expected ids (a third column) in both lists"


def test_a_figure_that_is_not_there_is_refused():
    extractor, _ = models()
    sets = {"a": (blocks(1), blocks(2)), "b": (blocks(1), blocks(3))}
    with pytest.raises(ConfigError) as error:
        RetrievalCallback(extractor, sets, monitor="a/recall@2")
    assert str(error.value) == (
        "monitor: expected one of ['a/recall@1', 'a/recall@5', 'a/map', 'b/recall@1', "
        "'b/recall@5', 'b/map'], got 'a/recall@2'"
    )
