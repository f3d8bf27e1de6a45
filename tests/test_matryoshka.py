"""Matryoshka training against float64 NumPy: losses of the embedding's first numbers, summed."""

import keras
import numpy as np
import pytest
from conftest import tiny_config

from keras_featx import heads, models
from keras_featx.config import from_dict
from keras_featx.errors import ConfigError
from keras_featx.losses.cross_entropy import CELoss
from keras_featx.sections import MatryoshkaSection
from keras_featx.training import train

SIZES, WEIGHTS = (2, 3, 6), (0.5, 2.0, 1.5)
LABEL = np.array([0, 3, 1, 1, 4, 4, 0, 3])
OTHER = np.array([1, 3, 0, 2, 2, 0, 4, 1])
SHARE = np.linspace(0.1, 0.9, 8).astype("float32")


def network(head, losses=None, sizes=SIZES, weights=WEIGHTS, mixed=False):
    """A classifier over one dense layer, and the embeddings of eight rows before they are unit."""
    keras.utils.set_random_seed(0)
    image = keras.Input((5,), name="image")
    neck = keras.layers.Dense(6, name="neck")
    unit = keras.layers.UnitNormalization(name="embedding")(neck(image))
    section = MatryoshkaSection(sizes=sizes, weights=weights)
    extractor = keras.Model(image, unit)
    classifier = models.build_classifier(extractor, head, losses, mixed, section)
    x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    feed = {"image": x, "label": LABEL}
    if mixed:
        feed |= {"label_2": OTHER, "share": SHARE}
    return classifier, feed, np.asarray(neck(x), "float64")


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cos_loss(raw, centres, label, margin, scale, epsilon):
    """Of each row: cross-entropy with an additive cosine margin (arXiv:1801.09414)."""
    own = label[:, None] == np.arange(len(centres))
    logits = scale * (unit(raw) @ unit(centres).T - margin * own)
    target = (1 - epsilon) * own + epsilon / len(centres)
    return np.log(np.exp(logits).sum(1)) - (target * logits).sum(1)


def nested(raw, centres, label, *how):
    return sum(
        weight * cos_loss(raw[:, :size], centres[:, :size], label, *how)
        for size, weight in zip(SIZES, WEIGHTS, strict=True)
    )


@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_is_the_weighted_sum_of_those_of_the_first_numbers(mixed):
    head = heads.CosMargin(class_num=5, margin=0.1, scale=4.0)
    classifier, feed, raw = network(head, {"ce_loss": CELoss(epsilon=0.1)}, mixed=mixed)
    centres = np.asarray(head.centres, "float64")
    assert centres.shape == (5, 6)
    expected = nested(raw, centres, LABEL, 0.1, 4.0, 0.1)
    if mixed:
        expected = SHARE * expected + (1 - SHARE) * nested(raw, centres, OTHER, 0.1, 4.0, 0.1)
    outputs = classifier(feed)
    np.testing.assert_allclose(outputs["ce_loss"], expected, rtol=2e-5)
    nearest = np.argmax(unit(raw) @ unit(centres).T, 1)
    np.testing.assert_array_equal(outputs["correct"], nearest == LABEL)


def test_a_plain_head_cuts_its_centres_and_keeps_its_offsets():
    head = heads.Linear(class_num=5)
    classifier, feed, raw = network(head, weights=None)
    head.bias.assign(np.linspace(-1, 1, 5))
    centres, bias = (np.asarray(w, "float64") for w in (head.centres, head.bias))
    expected = 0
    for size in SIZES:
        logits = raw[:, :size] @ centres[:, :size].T + bias
        expected = expected + np.log(np.exp(logits).sum(1)) - logits[np.arange(8), LABEL]
    np.testing.assert_allclose(classifier(feed)["ce_loss"], expected, rtol=2e-5)


def test_losses_on_embeddings_take_the_first_numbers_as_unit_vectors():
    section = from_dict({"Loss": {"Train": [{"TripletLossV2": {"margin": 0.5, "weight": 3.0}}]}})
    classifier, feed, raw = network(None, models.build_losses(section.Loss))
    expected = 0
    for size, weight in zip(SIZES, WEIGHTS, strict=True):
        vectors = unit(raw[:, :size])
        distance = np.linalg.norm(vectors[:, None] - vectors, axis=-1)
        same = LABEL[:, None] == LABEL
        terms = [
            max(d[s].max() - d[~s].min() + 0.5, 0) for d, s in zip(distance, same, strict=True)
        ]
        expected += weight * 3 * np.mean(terms)
    np.testing.assert_allclose(classifier(feed)["triplet_loss_v2"], np.full(8, expected), rtol=1e-4)


def test_the_gradient_of_centres_is_that_of_finite_differences():
    import tensorflow as tf

    head = heads.CosMargin(class_num=5, margin=0.1, scale=4.0)
    classifier, feed, raw = network(head)
    centres = np.asarray(head.centres, "float64")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(classifier(feed)["ce_loss"])
    found = tape.gradient(loss, head.centres.value)
    for row, column in ((0, 0), (3, 2), (1, 5)):
        step = np.zeros_like(centres)
        step[row, column] = 1e-6
        up, down = (nested(raw, centres + s, LABEL, 0.1, 4.0, 0.0).sum() for s in (step, -step))
        assert float(found[row, column]) == pytest.approx((up - down) / 2e-6, rel=1e-3)


def test_a_nested_classifier_is_saved_and_loaded(tmp_path):
    classifier, feed, _ = network(heads.ArcMargin(class_num=5))
    classifier.save(tmp_path / "a.keras")
    again = models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(again(feed)["ce_loss"], classifier(feed)["ce_loss"])


NESTED = "Arch.Matryoshka={sizes: [4, 16], weights: [1, 1]}"


def test_nested_training_goes_on_where_it_stopped(tmp_path):
    def run(name, *more):
        (tmp_path / name).mkdir(exist_ok=True)
        train(tiny_config(tmp_path / name, NESTED, "eval_during_train=false", *more))
        with np.load(tmp_path / name / "run/latest/weights.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    lr = "Optimizer.lr.warmup_epoch=0"
    whole = run("whole", "epochs=2", lr)
    # The same schedule, stopped after the first epoch.
    import keras_featx.callbacks as callbacks

    end = callbacks.EpochEnd.on_epoch_end

    def stop(self, epoch, logs=None):
        end(self, epoch, logs)
        raise KeyboardInterrupt

    callbacks.EpochEnd.on_epoch_end = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            run("parts", "epochs=2", lr)
    finally:
        callbacks.EpochEnd.on_epoch_end = end
    latest = tmp_path / "parts/run/latest"
    resumed = run("parts", "epochs=2", lr, f"checkpoint={latest}")
    assert whole.keys() == resumed.keys()
    for name in whole.keys() - {"__state__"}:  # which has seconds
        array = whole[name]
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)


@pytest.mark.parametrize(
    "override, message",
    [
        ("{sizes: [16]}", "Arch.Matryoshka.sizes: expected two or more that rise, got [16]"),
        ("{sizes: [8, 4]}", "Arch.Matryoshka.sizes: expected two or more that rise, got [8, 4]"),
        (
            "{sizes: [4, 16], weights: [1]}",
            "Arch.Matryoshka.weights: expected 2 numbers of at least 0, the last above 0, "
            "got [1.0]",
        ),
        ("{weights: [1]}", "Arch.Matryoshka.sizes: missing"),
    ],
)
def test_bad_sizes_are_refused(tmp_path, override, message):
    with pytest.raises(ConfigError) as raised:
        tiny_config(tmp_path, f"Arch.Matryoshka={override}")
    assert str(raised.value) == message


def test_what_cannot_be_nested_is_refused():
    with pytest.raises(ConfigError) as raised:
        network(heads.ArcMargin(class_num=5), sizes=(2, 3, 5))
    assert str(raised.value) == (
        "Arch.Matryoshka.sizes: expected the last to be 6, the size of the embedding, got 5"
    )
    for head in (heads.CurricularFace(class_num=5), heads.Cosine(class_num=5, sample_rate=0.5)):
        with pytest.raises(ConfigError) as raised:
            network(head)
        assert str(raised.value) == (
            "Arch.Matryoshka: expected a head that keeps no statistics and samples no classes, got "
            f"{type(head).__name__}"
        )
    section = from_dict({"Loss": {"Train": [{"ContrastiveLoss": {"memory_size": 8}}]}})
    with pytest.raises(ConfigError) as raised:
        network(None, models.build_losses(section.Loss))
    assert str(raised.value) == (
        "Arch.Matryoshka: expected losses without weights and memory, got contrastive_loss"
    )
