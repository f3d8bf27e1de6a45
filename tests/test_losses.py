"""Losses against the numbers of the reference and against float64 NumPy."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_featx.losses import CELoss

GOLDEN = {  # name in losses.npz: arguments of CELoss
    "CELoss": {},
    "CELoss_eps0.1": {"epsilon": 0.1},
    "CELoss_sum": {"reduction": "sum"},
    "CELoss_none_eps0.1": {"epsilon": 0.1, "reduction": "none"},
}


@pytest.fixture
def golden(data_dir):
    return np.load(data_dir / "losses.npz")


def cross_entropy_of(logits, label, epsilon):
    """Float64, with the matrix of targets that ours does without."""
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    classes = logits.shape[1]
    target = (1 - epsilon) * np.eye(classes)[label] + epsilon / classes
    return -(target * log_probability).sum(axis=1)


def value_and_gradient(loss_fn, label, logits):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = loss_fn(label, logits)
    return np.array(loss), np.array(tape.gradient(loss, logits))


@pytest.mark.parametrize("weight", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("name", GOLDEN)
def test_cross_entropy_equals_the_reference(golden, name, weight):
    loss, gradient = value_and_gradient(
        CELoss(weight=weight, **GOLDEN[name]), golden["y"], golden["logits"]
    )
    assert loss.shape == golden[f"{name}/loss"].shape
    np.testing.assert_allclose(loss, weight * golden[f"{name}/loss"], rtol=2e-5)
    reference = weight * golden[f"{name}/grad"]
    np.testing.assert_allclose(gradient, reference, rtol=0, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("largest", [1.0, 80.0, 1e4])
def test_cross_entropy_of_large_logits(largest, epsilon):
    rng = np.random.default_rng(0)
    logits = (rng.uniform(-1, 1, (64, 9)) * largest).astype("float32")
    label = rng.integers(9, size=64)
    loss, gradient = value_and_gradient(CELoss(epsilon=epsilon), label, logits)
    assert loss == pytest.approx(cross_entropy_of(logits, label, epsilon).mean(), rel=1e-5)
    assert np.isfinite(gradient).all()


def test_labels_may_be_a_column():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    label = np.array([0, 2, 1, 1])
    expected = cross_entropy_of(logits, label, 0).mean()
    for shape in ((4,), (4, 1)):
        assert float(CELoss()(label.reshape(shape), logits)) == pytest.approx(expected, rel=1e-5)


def test_sample_weights_count():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    label = np.array([0, 2, 1, 1])
    per_row = cross_entropy_of(logits, label, 0)
    weights = np.array([1.0, 0.0, 2.0, 0.5], "float32")
    loss = CELoss(reduction="none")(label, logits, sample_weight=weights)
    np.testing.assert_allclose(loss, weights * per_row, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_impossible_smoothing_is_refused(epsilon):
    with pytest.raises(ValueError) as error:
        CELoss(epsilon=epsilon)
    assert str(error.value) == f"epsilon: expected in [0, 1), got {epsilon}"


def test_the_loss_survives_its_config():
    loss = CELoss(weight=0.25, epsilon=0.1, reduction="sum", name="other")
    again = CELoss.from_config(json.loads(json.dumps(loss.get_config())))
    assert again.get_config() == loss.get_config()
    registered = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert registered.get_config() == loss.get_config()
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    label = np.array([0, 2, 1, 1])
    expected = 0.25 * cross_entropy_of(logits, label, 0.1).sum()
    assert float(again(label, logits)) == pytest.approx(expected, rel=1e-5)
