"""Losses with vectors of their own, against pytorch-metric-learning, PaddleClas and loops."""

import math
import re

import keras
import loss_loops as loops
import numpy as np
import pytest
import tensorflow as tf

from keras_featx import losses

PML = {
    "ProxyAnchorLoss(margin=0.1,alpha=32)": losses.ProxyAnchorLoss,
    "ProxyNCALoss(softmax_scale=1)": lambda **k: losses.ProxyNCALoss(scale=1.0, **k),
}


def owned(layer, rows, vectors):
    """A built layer and its proxies or centres, set to the given."""
    layer.build(rows.shape)
    (variable,) = layer.trainable_weights
    variable.assign(vectors)
    return layer, variable


def value_and_gradients(layer, variable, rows, label):
    rows = tf.constant(rows, "float32")
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = tf.reduce_mean(layer(rows, label))
    gradients = tape.gradient(value, [rows, variable.value])
    return [np.array(value), *(np.array(tf.convert_to_tensor(g)) for g in gradients)]


def assert_same(ours, reference, rtol_gradient=1e-4):
    np.testing.assert_allclose(ours[0], np.squeeze(reference[0]), rtol=1e-5, atol=1e-6)
    for found, expected in zip(ours[1:], reference[1:], strict=True):
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol_gradient * largest + 1e-7)


@pytest.mark.parametrize("case", ["a", "b", "raw"])
@pytest.mark.parametrize("name", PML)
def test_proxies_equal_pytorch_metric_learning(data_dir, name, case):
    golden = np.load(data_dir / "proxy_losses_pml.npz")
    inputs = np.load(data_dir / "pairwise_losses_legacy.npz")
    rows, label = inputs[f"input/{case}_emb"], inputs[f"input/{case}_labels"]
    proxies, *expected = (
        golden[f"pml.{name}/{case}/{k}"] for k in ("W", "value", "grad", "grad_W")
    )
    layer, variable = owned(PML[name](class_num=len(proxies)), rows, proxies)
    assert_same(value_and_gradients(layer, variable, rows, label), expected)


def test_centres_equal_paddleclas(data_dir):
    golden = np.load(data_dir / "pairwise_losses_paddle.npz")
    rows, centres = golden["x"], golden["centers"]
    layer, variable = owned(losses.CenterLoss(class_num=len(centres)), rows, centres)
    expected = [golden[f"CenterLoss/{k}"] for k in ("loss", "grad", "grad_centers")]
    assert_same(value_and_gradients(layer, variable, rows, golden["label_pk8x2"]), expected)


def dot(x, y):
    return float(np.dot(x, y)) / math.sqrt(float(np.dot(y, y)))  # of a unit row and any proxy


def proxy_anchor(rows, label, proxies, margin=0.1, alpha=32.0):
    pulls, pushes = [], []
    for k, proxy in enumerate(proxies):
        own = [math.exp(-alpha * (dot(e, proxy) - margin)) for e in rows[label == k]]
        others = [math.exp(alpha * (dot(e, proxy) + margin)) for e in rows[label != k]]
        pushes.append(math.log1p(sum(others)))
        if own:
            pulls.append(math.log1p(sum(own)))
    return loops.mean(pulls) + loops.mean(pushes)


def proxy_nca(rows, label, proxies, scale=9.0):
    terms = []
    for e, y in zip(rows, label, strict=True):
        chance = [math.exp(-scale * (float(e @ e) + 1 - 2 * dot(e, p))) for p in proxies]
        terms.append(-math.log(chance[y] / sum(chance)))
    return loops.mean(terms)


def center(rows, label, centres):
    return loops.mean([loops.squared(e, centres[y]) for e, y in zip(rows, label, strict=True)])


LAYERS = {
    "anchor": (losses.ProxyAnchorLoss, {"margin": 0.2, "alpha": 8.0}, proxy_anchor),
    "nca": (losses.ProxyNCALoss, {}, proxy_nca),
    "center": (losses.CenterLoss, {}, center),
}
BATCHES = {
    "unbalanced": [0, 0, 3, 0, 1],
    "no positives": [4, 2, 0, 1],
    "no negatives": [2, 2, 2],
    "one row": [3],
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_equal_a_loop(name, batch):
    layer, arguments, loop = LAYERS[name]
    rng = np.random.default_rng(0)
    label = np.array(BATCHES[batch])
    rows = rng.normal(size=(len(label), 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = rng.normal(size=(5, 3))
    # The layer's own normalisation is off: the loop takes rows as they are.
    layer, variable = owned(layer(class_num=5, normalize_feature=False, **arguments), rows, vectors)
    ours = value_and_gradients(layer, variable, rows, label)
    expected = [
        loop(rows, label, vectors, **arguments),
        loops.slope(lambda e: loop(e, label, vectors, **arguments), rows),
        loops.slope(lambda v: loop(rows, label, v, **arguments), vectors),
    ]
    assert_same(ours, expected, rtol_gradient=5e-4)
    assert ours[0] > 0


@pytest.mark.parametrize("name", LAYERS)
def test_rows_that_coincide_and_the_order_of_the_batch(name):
    layer, arguments, _ = LAYERS[name]
    rng = np.random.default_rng(1)
    rows, label = rng.normal(size=(6, 3)).astype("float32"), np.array([0, 1, 1, 2, 0, 2])
    rows[2] = rows[1] = rows[0]
    vectors = rng.normal(size=(4, 3)).astype("float32")
    vectors[1] = rows[0]
    layer, variable = owned(layer(class_num=4, **arguments), rows, vectors)
    value, to_rows, to_vectors = value_and_gradients(layer, variable, rows, label)
    assert np.isfinite(value) and np.isfinite(to_rows).all() and np.isfinite(to_vectors).all()
    order = np.array([3, 1, 5, 0, 2, 4])
    shuffled = value_and_gradients(layer, variable, rows[order], label[order])
    assert_same(shuffled, [value, to_rows[order], to_vectors], rtol_gradient=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_training_learns_the_vectors(name):
    """Plain Keras on three well-separated classes: the loss falls to a fraction."""
    keras.utils.set_random_seed(0)
    layer, arguments, _ = LAYERS[name]
    rng = np.random.default_rng(0)
    label = np.arange(24) % 3
    rows = (np.eye(3)[label] + 0.05 * rng.normal(size=(24, 3))).astype("float32")
    embedding, truth = keras.Input((3,)), keras.Input((), dtype="int32")
    loss = layer(class_num=3, **arguments)
    model = keras.Model([embedding, truth], loss(embedding, truth))
    model.compile(keras.optimizers.SGD(0.2), loss=lambda _, value: value, jit_compile=False)
    history = model.fit([rows, label], np.zeros(24), batch_size=24, epochs=150, verbose=0)
    floor = {"anchor": 1.2, "nca": 0.1, "center": 0.02}[name]
    assert history.history["loss"][-1] < floor < history.history["loss"][0] / 1.5


def test_initial_vectors_have_the_documented_spread():
    keras.utils.set_random_seed(0)
    for layer, stddev in (
        (losses.CenterLoss(class_num=400), 1.0),
        (losses.ProxyAnchorLoss(class_num=400), math.sqrt(2 / 400)),
        (losses.ProxyNCALoss(class_num=400), math.sqrt(2 / 400)),
    ):
        layer.build((None, 64))
        (variable,) = layer.trainable_weights
        assert np.std(variable) == pytest.approx(stddev, rel=0.03)
        assert variable.shape == (400, 64)


@pytest.mark.parametrize(
    "layer, arguments, message",
    [
        (losses.ProxyAnchorLoss, {}, "class_num: expected a positive number, got None"),
        (losses.ProxyNCALoss, {"class_num": 0}, "class_num: expected a positive number, got 0"),
        (losses.CenterLoss, {"class_num": -1}, "class_num: expected a positive number, got -1"),
        (
            losses.ProxyAnchorLoss,
            {"class_num": 2, "margin": -0.1},
            "margin: expected a number of at least 0, got -0.1",
        ),
        (
            losses.ProxyAnchorLoss,
            {"class_num": 2, "alpha": 0.0},
            "alpha: expected a number above 0, got 0.0",
        ),
        (
            losses.ProxyNCALoss,
            {"class_num": 2, "scale": 0.0},
            "scale: expected a number above 0, got 0.0",
        ),
    ],
)
def test_bad_arguments(layer, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layer(**arguments)
