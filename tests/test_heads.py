"""Heads against the reference, pytorch-metric-learning and float64 restatements."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from test_margins import ada_of, arc_of, circle_others_of, circle_own_of, combined_of, curricular_of

from keras_featx import components, models
from keras_featx.config import from_dict
from keras_featx.errors import ConfigError
from keras_featx.heads import (
    AdaMargin,
    ArcMargin,
    CircleMargin,
    CombinedMargin,
    Cosine,
    CosMargin,
    CurricularFace,
    ElasticFace,
    Linear,
    SubCenterArcFace,
    softmax,
)
from keras_featx.losses import CELoss

HEADS = {name: components.builder("head", name) for name in components.REGISTRIES["head"]}
GOLDEN = {  # name in heads.npz: the head
    "arc_m0.2_s30": lambda: ArcMargin(class_num=20, margin=0.2, scale=30.0),
    "arc_default_m0.5_s80": lambda: ArcMargin(class_num=20, margin=0.5, scale=80.0),
    "arc_m0.15_s32": lambda: ArcMargin(class_num=20, margin=0.15, scale=32.0),
    "arc_easy_m0.5_s80": lambda: ArcMargin(class_num=20, margin=0.5, scale=80.0, easy_margin=True),
    "cos_default_m0.35_s64": lambda: CosMargin(class_num=20, scale=64.0),
    "circle_m0.35_s64": lambda: CircleMargin(class_num=20, margin=0.35, scale=64.0),
    "circle_m0.25_s256": lambda: CircleMargin(class_num=20, scale=256.0),
    "ada_m0.4_h0.333_s64_t1": lambda: AdaMargin(class_num=20, scale=64.0, t_alpha=1.0),
}
PML = {  # name in margin_losses_pml.npz: the head, without its number of classes
    "ArcFaceLoss(margin=28.6,scale=64)": (ArcMargin, {"margin": math.radians(28.6), "scale": 64.0}),
    "ArcFaceLoss(margin=28.64789,scale=30)": (ArcMargin, {"scale": 30.0}),
    "ArcFaceLoss(margin=17.188734,scale=10)": (
        CombinedMargin,
        {"m1": 1.0, "m2": 0.3, "m3": 0.0, "scale": 10.0},
    ),
    "CosFaceLoss(margin=0.35,scale=64)": (CosMargin, {"scale": 64.0}),
    "CosFaceLoss(margin=0.2,scale=10)": (
        CombinedMargin,
        {"m1": 1.0, "m2": 0.0, "m3": 0.2, "scale": 10.0},
    ),
    "SubCenterArcFaceLoss(margin=28.6,scale=64,sub_centers=2)": (
        SubCenterArcFace,
        {"margin": math.radians(28.6), "scale": 64.0, "sub_centres": 2},
    ),
    "NormalizedSoftmaxLoss(temperature=0.05)": (Cosine, {"scale": 20.0}),
}
CLASSES, SIZE, BATCH = 20, 5, 7


@pytest.fixture
def golden(data_dir):
    return np.load(data_dir / "heads.npz")


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def built(head, centres):
    """The head with these centres, ``(classes * sub_centres, size)``."""
    if not head.built:
        head.build((None, centres.shape[1]))
    head.centres.assign(centres)
    return head


def cosines_of(embedding, centres):
    """Float64 cosines, ``(batch, classes)``."""
    embedding, centres = np.asarray(embedding, "float64"), np.asarray(centres, "float64")
    embedding = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T


def random_head(head, seed=0):
    """A head with random centres, and an embedding with labels for it, one of them twice."""
    rng = np.random.default_rng(seed)
    rows = head.class_num * head.sub_centres
    centres = rng.normal(size=(rows, SIZE)).astype("float32")
    embedding = rng.normal(size=(BATCH, SIZE)).astype("float32")
    label = rng.integers(head.class_num, size=BATCH)
    label[-1] = label[0]
    return built(head, centres), embedding, label, centres


def mean_loss(head, embedding, label, way):
    """Mean cross-entropy by either way, for its gradients."""
    if way == "logits":
        return CELoss()(label, head(embedding, label, training=True))
    return tf.reduce_mean(head(embedding, label, with_loss=True, training=True)[0])


def gradients_of(head, embedding, label, way):
    embedding = tf.constant(embedding)
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        loss = mean_loss(head, embedding, label, way)
    return float(loss), tape.gradient(loss, [embedding, head.centres.value])


# Against the reference and pytorch-metric-learning.


def on_the_jump(name):
    """Rows at pi - margin, where rounding decides which side of the jump they are on."""
    return np.arange(12) == (3 if name == "arc_m0.15_s32" else -1)


def sine_noise(cosine):
    """A float32 cosine is off by some 2^-23, so its sine by 2^-23 * cosine / sine."""
    return 3 * 2**-23 / np.sqrt(1 - cosine**2 + 1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_equal_the_reference(golden, name):
    head, label, rows = built(GOLDEN[name](), golden["w"].T), golden["y"][:, 0], np.arange(12)
    logits = np.array(head(golden["x"], label, training=True))
    reference = golden[f"{name}/logits"]
    allowed = np.full(logits.shape, 1e-4 * head.scale / 30)
    cosine = cosines_of(golden["x"], golden["w"].T)[rows, label]
    if name.startswith("arc"):  # both sides' sines are off
        allowed[rows, label] += 2 * sine_noise(cosine) * math.sin(head.margin) * head.scale
    exact = ~on_the_jump(name)
    assert (np.abs(logits - reference) <= allowed)[exact].all()
    for row in rows[~exact]:
        either = [arc_of(c, c, head.margin) for c in (cosine[row] - 1e-6, cosine[row] + 1e-6)]
        assert np.abs(logits[row, label[row]] / head.scale - either).min() < 1e-5
    if not name.startswith("ada"):
        # At inference the reference gives the cosine, ours the cosine times the scale.
        inference = np.array(head(golden["x"])) / head.scale
        np.testing.assert_allclose(inference, golden[f"{name}/logits_eval"], rtol=0, atol=1e-4 / 30)


@pytest.mark.parametrize("name", GOLDEN)
def test_cross_entropy_equals_the_reference(golden, name):
    head, label, rows = built(GOLDEN[name](), golden["w"].T), golden["y"][:, 0], np.arange(12)
    reference = golden[f"{name}/logits"].astype("float64")
    logits = np.where(
        on_the_jump(name)[:, None], reference, head(golden["x"], label, training=True)
    )
    # The reference's softmax takes nothing below -64 from the largest logit; ours does.
    cut = np.maximum(logits - logits.max(axis=1, keepdims=True), -64)
    np.testing.assert_allclose(CELoss()(label, cut), golden[f"{name}/ce"], rtol=2e-5)
    loss, _ = built(GOLDEN[name](), golden["w"].T)(
        golden["x"], label, with_loss=True, training=True
    )
    expected = np.log(np.exp(reference).sum(axis=1)) - reference[rows, label]
    exact = ~on_the_jump(name)
    np.testing.assert_allclose(loss[exact], expected[exact], rtol=1e-4, atol=1e-4)
    if (cut > -64).all() and exact.all():
        np.testing.assert_allclose(np.mean(loss), golden[f"{name}/ce"], rtol=2e-5)


@pytest.mark.parametrize("way", ["logits", "loss"])
@pytest.mark.parametrize("name", GOLDEN)
def test_gradients_equal_the_reference(golden, name, way, monkeypatch):
    monkeypatch.setattr(softmax, "BLOCK", 6)
    head, label = built(GOLDEN[name](), golden["w"].T), golden["y"]
    _, (grad_x, grad_w) = gradients_of(head, golden["x"], label, way)
    jump = on_the_jump(name)
    found = [(grad_x, golden[f"{name}/grad_x"], np.flatnonzero(jump))]
    if not name.startswith("ada"):  # not in the golden file
        found.append((grad_w, golden[f"{name}/grad_w"].T, label[jump, 0]))
    for ours, reference, left_out in found:
        error = np.delete(np.abs(ours - reference), left_out, axis=0)
        assert error.max() <= 1e-3 * np.abs(reference).max()


@pytest.mark.parametrize("way", ["logits", "loss"])
@pytest.mark.parametrize("batch", ["a", "b", "raw"])
@pytest.mark.parametrize("name", PML)
def test_losses_and_gradients_equal_pytorch_metric_learning(data_dir, name, batch, way):
    golden, key = np.load(data_dir / "margin_losses_pml.npz"), f"pml.{name}/{batch}"
    head, arguments = PML[name]
    centres = golden[f"{key}/W"].T
    head = head(class_num=len(centres) // arguments.get("sub_centres", 1), **arguments)
    found = gradients_of(
        built(head, centres), golden[f"{batch}/emb"], golden[f"{batch}/labels"], way
    )
    # Ours has the guard of 1e-6 inside the sine.
    assert found[0] == pytest.approx(float(golden[f"{key}/value"]), rel=1e-5)
    for ours, what in zip(found[1], ("grad", "grad_W"), strict=True):
        reference = golden[f"{key}/{what}"] if what == "grad" else golden[f"{key}/{what}"].T
        assert np.abs(ours - reference).max() <= 1e-4 * np.abs(reference).max()


# Against float64, in another way: one logit after the other, gradients by differences.


# `at` is the cosine at which gradients are taken: what has no gradient stays as it is there. `row`
# knows what else a formula looks at.


def ada_of_row(c, at, row):
    """Statistics of 2 and 1.5 before a step of which a batch is 0.2."""
    mean = 0.8 * 2 + 0.2 * np.mean(row.norms_at)
    std = 0.8 * 1.5 + 0.2 * np.std(row.norms_at, ddof=1)
    score = min(max((row.norm_at - mean) / (std + 1e-3) * 0.333, -1), 1)
    return ada_of(c, at, score, 0.4)


def curricular_of_row(c, at, row):
    """A statistic of 0.3 before the step."""
    t = 0.99 * 0.3 + 0.01 * np.mean(row.owns_at)
    return curricular_of(c, at, arc_of(row.own_at, row.own_at, 0.5), t)


def mag_of_row(c, at, row):
    part = (min(max(row.norm, 1.5), 3.5) - 1.5) / 2
    return arc_of(c, at, 0.2 + 0.4 * part)


COUNTS = np.arange(CLASSES) ** 2


def dynamic_of_row(c, at, row):
    rarity = [max(n, 1) ** -0.25 for n in COUNTS]
    part = (rarity[row.label] - min(rarity)) / (max(rarity) - min(rarity))
    return arc_of(c, at, 0.05 + 0.45 * part)


# Name: arguments, state before, the own logit, other logits (where they are not the cosine).
RESTATED = {
    "ArcMargin": ({}, {}, lambda c, at, row: arc_of(c, at, 0.5), None),
    "ArcMargin easy": (
        {"easy_margin": True, "margin": 0.3},
        {},
        lambda c, at, row: arc_of(c, at, 0.3, True),
        None,
    ),
    "SubCenterArcFace": ({"sub_centres": 3}, {}, lambda c, at, row: arc_of(c, at, 0.5), None),
    "CosMargin": ({"margin": 0.2}, {}, lambda c, at, row: c - 0.2, None),
    "CombinedMargin": ({}, {}, lambda c, at, row: combined_of(c, at, 0.9, 0.4, 0.15), None),
    "CircleMargin": (
        {},
        {},
        lambda c, at, row: circle_own_of(c, at, 0.25),
        lambda c, at, row: circle_others_of(c, at, 0.25),
    ),
    "DynamicArcMargin": ({}, {}, dynamic_of_row, None),
    "AdaMargin": ({"t_alpha": 0.2}, {"norm_mean": 2.0, "norm_std": 1.5}, ada_of_row, None),
    "CurricularFace": ({}, {"t": 0.3}, lambda c, at, row: arc_of(c, at, 0.5), curricular_of_row),
    "MagFace": (
        {"lower_norm": 1.5, "upper_norm": 3.5, "lower_margin": 0.2, "upper_margin": 0.6},
        {},
        mag_of_row,
        None,
    ),
    "ElasticFace": ({"std": 0.0}, {}, lambda c, at, row: arc_of(c, at, 0.5), None),
    "ElasticFace cos": ({"std": 0.0, "kind": "cos"}, {}, lambda c, at, row: c - 0.5, None),
    "Cosine": ({}, {}, lambda c, at, row: c, None),
    "Linear": ({"use_bias": False}, {}, lambda c, at, row: c, None),
    "Linear bias": ({}, {}, lambda c, at, row: c, None),
}
WAYS = {"logits": CLASSES, "one block": CLASSES, "blocks and a rest": 6, "whole blocks": 5}


def test_every_head_is_restated():
    assert {name.split()[0] for name in RESTATED} == set(HEADS)


def restated_head(name):
    """A head with its weights and state set, and a batch."""
    arguments, state, _, _ = RESTATED[name]
    scale = {} if name.startswith("Linear") else {"scale": 6.0}
    head = HEADS[name.split()[0]](class_num=CLASSES, **scale, **arguments)
    head, embedding, label, centres = random_head(head)
    for weight, value in state.items():
        getattr(head, weight).assign(value)
    weights = [embedding, centres]
    if name == "DynamicArcMargin":
        head.set_counts(COUNTS)
    if name == "Linear bias":
        weights.append(np.linspace(-1, 1, CLASSES).astype("float32"))
        head.bias.assign(weights[-1])
    return head, label, weights


def restated_scores(head, embedding, centres, bias=0.0):
    if isinstance(head, Linear):
        return embedding @ centres.T + bias
    cosine = cosines_of(embedding, centres)
    return cosine.reshape(len(cosine), CLASSES, -1).max(axis=2)


def restated_logits(name, head, label, weights, weights_at):
    _, _, own, others = RESTATED[name]
    scores, at = (restated_scores(head, *w) for w in (weights, weights_at))
    norms, norms_at = (np.sqrt((w[0].astype("f8") ** 2).sum(1)) for w in (weights, weights_at))
    owns_at = at[np.arange(BATCH), label]
    logits = scores.copy()
    for i, y in enumerate(label):
        row = SimpleNamespace(
            label=y, norm=norms[i], norm_at=norms_at[i], own_at=owns_at[i],
            norms_at=norms_at, owns_at=owns_at,
        )  # fmt: skip
        for k in range(CLASSES) if others else [y]:
            formula = own if k == y else others
            logits[i, k] = formula(float(scores[i, k]), float(at[i, k]), row)
    return head.scale * logits


def restated_losses(name, head, label, weights, weights_at, epsilon, penalty=True):
    logits = restated_logits(name, head, label, weights, weights_at)
    losses = np.log(np.exp(logits).sum(axis=1))
    losses -= (1 - epsilon) * logits[np.arange(BATCH), label] + epsilon * logits.mean(axis=1)
    if name == "MagFace" and penalty:
        norm = np.linalg.norm(weights[0], axis=1)
        inside, slope = norm / 3.5**2 + 1 / norm, 1 / 3.5**2 - 1 / 1.5**2
        short = 1.5 / 3.5**2 + 1 / 1.5 + (norm - 1.5) * slope
        losses += 35 * np.where(norm < 1.5, short, inside)
    return losses


ROW_WEIGHTS = np.linspace(0.5, 2.0, BATCH)


@pytest.fixture(
    scope="module",
    params=[(name, epsilon) for name in RESTATED for epsilon in (0.0, 0.1)],
    ids=lambda p: f"{p[0]}, {p[1]}",
)
def restated(request):
    """A name, an epsilon, and losses, gradients and logits for them; with and without penalty."""
    name, epsilon = request.param
    head, label, weights = restated_head(name)
    exact = [w.astype("float64") for w in weights]
    expected = {}
    for penalty in (True, False):
        gradients = []
        for w in exact:
            gradient = np.zeros(w.size)
            for i, value in enumerate(w.ravel()):
                for step in (1e-6, -1e-6):
                    w.flat[i] = value + step
                    args = (name, head, label, exact, weights, epsilon, penalty)
                    gradient[i] += ROW_WEIGHTS @ restated_losses(*args) / (2 * step)
                w.flat[i] = value
            gradients.append(gradient.reshape(w.shape))
        expected[penalty] = restated_losses(name, head, label, exact, exact, epsilon, penalty)
        expected[penalty] = expected[penalty], gradients
        if name != "MagFace":
            expected[False] = expected[True]
            break
    return name, epsilon, expected, restated_logits(name, head, label, exact, exact)


@pytest.mark.parametrize("way", WAYS)
def test_losses_and_gradients_equal_a_restatement(restated, way, monkeypatch):
    monkeypatch.setattr(softmax, "BLOCK", WAYS[way])
    name, epsilon, expected, logits = restated
    losses, gradients = expected[way != "logits"]  # logits know no penalty
    head, label, weights = restated_head(name)
    embedding = tf.constant(weights[0])
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        if way == "logits":
            found = head(embedding, label, training=True)
            np.testing.assert_allclose(found, logits, rtol=0, atol=2e-5)
            found = CELoss(epsilon=epsilon, reduction="none")(label, found)
        else:
            kwargs = {"with_loss": True, "epsilon": epsilon, "training": True}
            found, correct = head(embedding, label, **kwargs)
            scores = restated_scores(head, *weights)
            np.testing.assert_array_equal(correct, scores.argmax(axis=1) == label)
        total = tf.reduce_sum(found * ROW_WEIGHTS.astype("float32"))
    np.testing.assert_allclose(found, losses, rtol=1e-5, atol=2e-5)
    variables = [embedding, head.centres.value]
    if name == "Linear bias":
        variables.append(head.bias.value)
    for ours, reference in zip(tape.gradient(total, variables), gradients, strict=True):
        assert np.abs(ours - reference).max() <= 1e-4 * np.abs(reference).max()


def test_some_rows_of_the_restatement_are_correct():
    found = []
    for name in RESTATED:
        head, label, weights = restated_head(name)
        found.append(np.mean(restated_scores(head, *weights).argmax(axis=1) == label))
    assert 0 < np.mean(found) < 1


@pytest.mark.parametrize("name", RESTATED)
def test_without_labels_logits_are_scaled_scores(name):
    head, _, weights = restated_head(name)
    reference = head.scale * restated_scores(head, *weights)
    np.testing.assert_allclose(head(weights[0]), reference, rtol=0, atol=2e-5)
    np.testing.assert_allclose(head.scores(weights[0]), reference / head.scale, rtol=0, atol=1e-5)


# Angles and edges.


@pytest.mark.parametrize("margin", [0.2, 0.5])
def test_the_layer_at_every_angle(margin):
    """Embeddings of any length turned from their centre, in float32."""
    angles = np.linspace(0, math.pi, 721)
    angles = angles[abs(angles - (math.pi - margin)) > 1e-3]  # where float32 may fall either side
    lengths = np.random.default_rng(0).uniform(0.1, 10, len(angles))
    embedding = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]).astype("f4")
    centres = np.array([[1.0, 0.0], [0.6, -0.8]], "float32")
    head = built(ArcMargin(class_num=2, margin=margin, scale=30.0), centres)
    label = np.zeros(len(angles), "int32")
    logits = np.array(head(embedding, label)) / 30
    cosine = cosines_of(embedding, centres)
    np.testing.assert_allclose(logits[:, 1], cosine[:, 1], rtol=0, atol=1e-6)
    reference = [arc_of(c, c, margin) for c in cosine[:, 0]]
    allowed = 1e-6 + sine_noise(cosine[:, 0]) * math.sin(margin)
    assert (np.abs(logits[:, 0] - reference) <= allowed).all()
    loss, correct = head(embedding, label, with_loss=True)
    expected = np.logaddexp(0, 30 * (cosine[:, 1] - reference))
    assert (np.abs(loss - expected) <= 1e-5 + 30 * (allowed + 1e-6)).all()
    clear = abs(cosine[:, 0] - cosine[:, 1]) > 1e-6
    np.testing.assert_array_equal(correct[clear], (cosine[:, 0] > cosine[:, 1])[clear])


@pytest.mark.parametrize("name", [n for n in HEADS if n != "Linear"])
def test_an_embedding_of_zeros_has_no_direction_but_finite_numbers(name):
    head = HEADS[name](class_num=4)
    rows = 4 * head.sub_centres
    built(head, np.random.default_rng(0).normal(size=(rows, 8)).astype("float32"))
    np.testing.assert_array_equal(head(tf.zeros((2, 8))), np.zeros((2, 4)))
    for way in ("logits", "loss"):
        loss, gradients = gradients_of(head, np.zeros((2, 8), "float32"), np.array([1, 2]), way)
        assert np.isfinite(loss) and all(np.isfinite(g).all() for g in gradients)


ONE = np.float32(1)
EDGES = [np.nextafter(ONE, np.float32(towards), dtype="float32") for towards in (0, 1, 2)]


def embeddings_at_the_edges(dtype="float32"):
    """Centres; embeddings, exact in a dtype, at cosine 1 and -1 to theirs, one float step from
    there, at 0 and next to it; and their labels."""
    rng = np.random.default_rng(0)
    vectors = np.array(tf.cast(tf.cast(rng.normal(size=(400, 8)), dtype), "float32"))
    # Rounding decides which vector's cosine to itself is 1 and which one's is next to it.
    own = np.array(softmax.Scores().of_own(tf.constant(vectors), vectors[:, None]))
    chosen = [vectors[own == edge][:2] for edge in EDGES]
    assert len(chosen[1]) == 2 and len(chosen[0]) + len(chosen[2])
    chosen = np.concatenate(chosen)
    unit = np.eye(8, dtype="float32")
    aside = np.stack([unit[1], unit[3] + 1e-30 * unit[2], unit[5] - 1e-30 * unit[4]])
    embedding = np.concatenate([chosen, chosen, aside, chosen[:1]])
    centres = np.concatenate([chosen, -chosen, unit[[0, 2, 4]]])
    label = np.append(np.arange(len(centres)), 0)
    others = rng.normal(size=(CLASSES - len(centres), 8))
    return np.concatenate([centres, others]).astype("f4"), embedding.astype("f4"), label


def test_the_edges_are_edges():
    for dtype in ("float32", "float16", "bfloat16"):
        centres, embedding, label = embeddings_at_the_edges(dtype)
        found = np.array(softmax.Scores().of_own(embedding, centres[label][:, None]))
        assert {ONE, -ONE, 0.0} <= set(found)
        assert np.sum((0 < np.abs(found)) & (np.abs(found) < 1e-29)) == 2
        assert {EDGES[0], EDGES[2]} & set(found) and {-EDGES[0], -EDGES[2]} & set(found)
        rounded = tf.cast(tf.cast(embedding, dtype), "float32")
        np.testing.assert_allclose(rounded, embedding, rtol=0, atol=1e-29)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("name", HEADS)
def test_training_from_the_edges_stays_finite_and_learns(name, policy, monkeypatch):
    """200 compiled steps at scale 64 of a dense layer under the policy and a head."""
    monkeypatch.setattr(softmax, "BLOCK", 6)
    centres, embedding, label = embeddings_at_the_edges(policy.removeprefix("mixed_"))
    scale = {} if name == "Linear" else {"scale": 64.0}
    head = HEADS[name](class_num=CLASSES, **scale)
    built(head, np.repeat(centres, head.sub_centres, axis=0))
    dense = keras.layers.Dense(8, use_bias=False)
    dense.build((None, 8))
    dense.kernel.assign(np.eye(8))
    weights = [*dense.trainable_weights, *head.trainable_weights]
    assert {w.dtype for w in weights} == {"float32"}
    velocity = [tf.Variable(tf.zeros(w.shape)) for w in weights]
    losses, finite = tf.Variable(tf.zeros(200)), tf.Variable(True)

    @tf.function
    def train():
        for step in tf.range(200):
            with tf.GradientTape() as tape:
                loss, _ = head(dense(embedding), label, with_loss=True, training=True)
                loss = tf.reduce_mean(loss)
            losses.scatter_nd_update([[step]], [loss])
            for w, v, g in zip(
                weights, velocity, tape.gradient(loss, [w.value for w in weights]), strict=True
            ):
                finite.assign(finite & tf.reduce_all(tf.math.is_finite(g)))
                v.assign(0.9 * v + g)
                w.value.assign_sub(0.001 * v)

    assert dense(embedding).dtype == policy.removeprefix("mixed_")
    train()
    assert bool(finite) and np.isfinite(losses).all()
    assert all(np.isfinite(w).all() for w in head.weights)
    assert np.mean(losses[-10:]) < 0.8 * losses[0]


# Margins of nothing, and growing ones.

NO_MARGIN = {
    "ArcMargin": {"margin": 0.0},
    "ArcMargin easy": {"margin": 0.0, "easy_margin": True},
    "SubCenterArcFace": {"margin": 0.0, "sub_centres": 1},
    "CosMargin": {"margin": 0.0},
    "CombinedMargin": {"m1": 1.0, "m2": 0.0, "m3": 0.0},
    "DynamicArcMargin": {"smallest": 0.0, "largest": 0.0},
    "AdaMargin": {"margin": 0.0},
    "MagFace": {"lower_margin": 0.0, "upper_margin": 0.0, "norm_weight": 0.0},
    "ElasticFace": {"margin": 0.0, "std": 0.0},
    "ElasticFace cos": {"margin": 0.0, "std": 0.0, "kind": "cos"},
}
WITHOUT = ["Cosine", "CircleMargin", "Linear"]  # no margin that 0 would switch off


def equals_the_cosine_head(head):
    head, embedding, label, centres = random_head(head)
    embedding[:3] = centres[label[:3]] + 0.5 * embedding[:3]  # near their centre
    cosine = built(Cosine(class_num=head.class_num, scale=head.scale), centres)
    tolerance = {"rtol": 0, "atol": 1e-6 * head.scale}
    for training in (False, True):
        logits = head(embedding, label, training=training)
        np.testing.assert_allclose(logits, cosine(embedding, label), **tolerance)
        ours = head(embedding, label, with_loss=True, training=training)
        plain = cosine(embedding, label, with_loss=True)
        np.testing.assert_allclose(ours[0], plain[0], **tolerance)
        np.testing.assert_array_equal(ours[1], plain[1])
    assert 0 < np.mean(plain[1]) < 1


@pytest.mark.parametrize("name", NO_MARGIN)
def test_without_margin_a_head_is_the_cosine_head(name):
    equals_the_cosine_head(HEADS[name.split()[0]](class_num=CLASSES, **NO_MARGIN[name]))


@pytest.mark.parametrize("name", [n for n in HEADS if n not in [*WITHOUT, "CurricularFace"]])
def test_a_margin_factor_of_0_is_the_cosine_head(name):
    arguments = {"SubCenterArcFace": {"sub_centres": 1}, "MagFace": {"norm_weight": 0.0}}
    head = HEADS[name](class_num=CLASSES, **arguments.get(name, {}))
    head.build((None, SIZE))
    assert float(head.margin_factor) == 1
    assert [w.name for w in head.trainable_weights] == ["centres"]
    head.margin_factor.assign(0.0)
    equals_the_cosine_head(head)


def test_without_margin_curricular_face_is_the_cosine_head_for_rows_at_their_centre():
    for arguments, factor in (({"margin": 0.0}, 1.0), ({"margin": 0.5}, 0.0)):
        head = CurricularFace(class_num=CLASSES, **arguments)
        head, embedding, label, centres = random_head(head)
        head.margin_factor.assign(factor)
        cosine = built(Cosine(class_num=CLASSES), centres)
        embedding = centres[label] + 0.1 * embedding
        logits = head(embedding, label)
        np.testing.assert_allclose(logits, cosine(embedding, label), rtol=0, atol=1e-4)
        # Others above the own cosine weigh differently, however small the margin.
        away = np.abs(head(-embedding, label) - cosine(-embedding, label)).max()
        assert away > 1


@pytest.mark.parametrize(
    ("name", "arguments", "halved"),
    [
        ("ArcMargin", {"margin": 0.4}, {"margin": 0.2}),
        ("SubCenterArcFace", {"margin": 0.4}, {"margin": 0.2}),
        ("CosMargin", {"margin": 0.4}, {"margin": 0.2}),
        ("CombinedMargin", {"m1": 1.5, "m2": 0.4, "m3": 0.2}, {"m1": 1.25, "m2": 0.2, "m3": 0.1}),
        ("AdaMargin", {"margin": 0.4}, {"margin": 0.2}),
        ("CurricularFace", {"margin": 0.4}, {"margin": 0.2}),
        ("ElasticFace", {"margin": 0.4, "std": 0.1}, {"margin": 0.2, "std": 0.05}),
        ("DynamicArcMargin", {"smallest": 0.1, "largest": 0.4}, {"smallest": 0.05, "largest": 0.2}),
        (
            "MagFace",
            {"lower_norm": 1.0, "lower_margin": 0.2, "upper_margin": 0.8, "upper_norm": 4.0},
            {"lower_norm": 1.0, "lower_margin": 0.1, "upper_margin": 0.4, "upper_norm": 4.0},
        ),
    ],
)
def test_half_a_margin_factor_is_half_the_margin(name, arguments, halved):
    head, embedding, label, _ = random_head(HEADS[name](class_num=CLASSES, **arguments))
    other, *_ = random_head(HEADS[name](class_num=CLASSES, **halved))
    full = np.array(head(embedding, label))
    head.margin_factor.assign(0.5)
    if name == "DynamicArcMargin":
        head.set_counts(COUNTS), other.set_counts(COUNTS)
    for training in (False, True):
        logits = head(embedding, label, training=training)
        np.testing.assert_allclose(
            logits, other(embedding, label, training=training), rtol=0, atol=1e-4
        )
    assert np.abs(full - logits).max() > 1


# Running statistics.


def test_ada_margin_follows_the_norms_while_training_only():
    head, _, label, _ = random_head(AdaMargin(class_num=CLASSES, t_alpha=0.25))
    rng = np.random.default_rng(3)
    mean, std = 20.0, 100.0
    for step in range(6):
        embedding = rng.normal(size=(BATCH, SIZE)).astype("float32") * (1 + step)
        embedding[0] *= 1000  # longer than what counts
        for way in ({}, {"with_loss": True}):
            head(embedding, label, **way)
            head(embedding)
            np.testing.assert_allclose([head.norm_mean, head.norm_std], [mean, std], rtol=1e-6)
        norm = [min(max(math.hypot(*row), 1e-3), 100) for row in embedding.astype("float64")]
        centre = sum(norm) / BATCH
        spread = math.sqrt(sum((n - centre) ** 2 for n in norm) / (BATCH - 1))
        mean, std = mean + 0.25 * (centre - mean), std + 0.25 * (spread - std)
        head(embedding, label, with_loss=step % 2 == 0, training=True)
        np.testing.assert_allclose([head.norm_mean, head.norm_std], [mean, std], rtol=1e-6)


def test_curricular_face_follows_the_cosines_while_training_only():
    head, embedding, label, centres = random_head(CurricularFace(class_num=CLASSES))
    t = 0.0
    for step in range(6):
        embedding = embedding + centres[label]
        for way in ({}, {"with_loss": True}):
            head(embedding, label, **way)
            head(embedding)
            assert float(head.t) == pytest.approx(t, rel=1e-5)
        t = 0.99 * t + 0.01 * np.mean(cosines_of(embedding, centres)[np.arange(BATCH), label])
        head(embedding, label, with_loss=step % 2 == 0, training=True)
        assert float(head.t) == pytest.approx(t, rel=1e-5)
    assert t > 0.02


def drawn_margins(head, steps=50, rows=40, training=True):
    """The margins of each row and step, by what they take off the cosine."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, SIZE)).astype("float32")
    embedding = rng.normal(size=(rows, SIZE)).astype("float32")
    label = rng.integers(CLASSES, size=rows)
    built(head, centres)
    cosine = cosines_of(embedding, centres)[np.arange(rows), label]
    found = []
    for _ in range(steps):
        logits = np.array(head(embedding, label, training=training))
        found.append(cosine - logits[np.arange(rows), label] / head.scale)
    return np.array(found), cosine


def test_elastic_face_draws_anew_while_training_only():
    def elastic(**arguments):
        return ElasticFace(class_num=CLASSES, margin=0.35, std=0.05, kind="cos", **arguments)

    head = elastic(seed=4)
    fixed, _ = drawn_margins(head, steps=2, training=False)
    np.testing.assert_allclose(fixed, 0.35, atol=1e-5)
    assert int(head.draws) == 0
    drawn, _ = drawn_margins(head)
    assert int(head.draws) == 50
    assert drawn.mean() == pytest.approx(0.35, abs=4 * 0.05 / math.sqrt(2000))
    assert drawn.std() == pytest.approx(0.05, rel=4 / math.sqrt(4000))
    assert len(np.unique(drawn.round(5))) > 1800
    again, _ = drawn_margins(elastic(seed=4))
    np.testing.assert_array_equal(again, drawn)
    assert np.abs(drawn_margins(elastic(seed=5))[0] - drawn).max() > 0.05
    plus, cosine = drawn_margins(elastic(seed=4, plus=True))
    np.testing.assert_allclose(np.sort(plus), np.sort(drawn), atol=1e-6)
    assert (np.diff(plus[:, np.argsort(cosine)]) <= 1e-6).all()


def test_elastic_face_draws_the_margins_of_its_loss():
    one, embedding, label, _ = random_head(ElasticFace(class_num=CLASSES, std=0.2))
    two, *_ = random_head(ElasticFace(class_num=CLASSES, std=0.2))
    for _ in range(3):
        expected = CELoss(reduction="none")(label, one(embedding, label, training=True))
        loss, _ = two(embedding, label, with_loss=True, training=True)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
    assert int(one.draws) == int(two.draws) == 3


# What goes in and out.


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_bias_of_the_linear_head_trains(use_bias):
    head, *_ = random_head(Linear(class_num=7, use_bias=use_bias))
    assert len(head.trainable_weights) == 1 + use_bias
    if use_bias:
        np.testing.assert_array_equal(head.bias, np.zeros(7))


@pytest.mark.parametrize("label_type", ["int32", "int64", "float32"])
def test_labels_may_be_a_column_and_of_any_type(label_type):
    head, embedding, label, _ = random_head(ArcMargin(class_num=7))
    column = label[:, None].astype(label_type)
    np.testing.assert_array_equal(head(embedding, column), head(embedding, label))
    for ours, expected in zip(
        head(embedding, column, with_loss=True), head(embedding, label, with_loss=True), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("name", HEADS)
def test_one_class_or_one_row_is_enough(name):
    extra = {"norm_weight": 0.0} if name == "MagFace" else {}
    head, embedding, _, _ = random_head(HEADS[name](class_num=1, **extra))
    loss, correct = head(embedding, np.zeros(BATCH), with_loss=True, training=True)
    np.testing.assert_array_equal(loss, np.zeros(BATCH))
    assert np.all(correct)
    head, embedding, label, _ = random_head(HEADS[name](class_num=CLASSES, **extra))
    loss, _ = head(embedding[:1], label[:1], with_loss=True, training=True)
    other, *_ = random_head(HEADS[name](class_num=CLASSES, **extra))
    expected = CELoss()(label[:1], other(embedding[:1], label[:1], training=True))
    np.testing.assert_allclose(loss, [expected], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("name", HEADS)
def test_everything_is_float32_under_mixed_precision(policy, name):
    half = policy.removeprefix("mixed_")
    head, embedding, label, centres = random_head(HEADS[name](class_num=CLASSES))
    embedding = tf.cast(embedding, half)
    logits, (loss, _) = head(embedding, label), head(embedding, label, with_loss=True)
    assert {w.dtype for w in head.weights} <= {"float32", "int32"}
    assert logits.dtype == loss.dtype == head(embedding).dtype == "float32"
    # The embedding is rounded, what comes after it is not.
    rounded = tf.cast(embedding, "float32")
    reference = restated_scores(head, np.array(rounded, "float64"), centres)
    np.testing.assert_allclose(head.scores(rounded), reference, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(head(embedding), head(rounded))
    np.testing.assert_array_equal(loss, head(rounded, label, with_loss=True)[0])


@pytest.mark.parametrize("name", HEADS)
def test_shapes_are_known_before_the_values(name):
    head = HEADS[name](class_num=7)
    embedding, label = keras.Input((5,), dtype="float16"), keras.Input((), dtype="int32")
    for logits in (head(embedding), head(embedding, label)):
        assert (logits.shape, logits.dtype) == ((None, 7), "float32")
    loss, correct = head(embedding, label, with_loss=True)
    assert (loss.shape, loss.dtype, correct.shape, correct.dtype) == (
        (None,), "float32", (None,), "bool",
    )  # fmt: skip


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("with_loss", [False, True])
def test_a_label_outside_the_classes_is_refused(label, with_loss):
    """On the CPU; lists are checked before training begins."""
    head = ArcMargin(class_num=3)
    with tf.device("CPU"), pytest.raises(tf.errors.InvalidArgumentError):
        head(np.ones((2, 4), "float32"), np.array([0, label]), with_loss=with_loss)


def test_fresh_centres_have_the_spread_of_the_reference():
    """Xavier: the variance is 2 over the sum of both sizes."""
    head = ArcMargin(class_num=500)
    head.build((None, 300))
    assert head.centres.shape == (500, 300)
    assert np.std(head.centres) == pytest.approx(math.sqrt(2 / 800), rel=0.01)
    assert np.mean(head.centres) == pytest.approx(0, abs=1e-3)
    assert np.abs(head.centres).max() > 4 * math.sqrt(2 / 800)  # not truncated


# Saving.

OTHERS = {  # arguments that are not the defaults
    "ArcMargin": {"margin": 0.3, "easy_margin": True, "split": True},
    "SubCenterArcFace": {"sub_centres": 2, "margin": 0.3, "sample_rate": 0.8},
    "CosMargin": {"margin": 0.2, "seed": 3},
    "CombinedMargin": {"m1": 1.1, "m2": 0.3, "m3": 0.1},
    "CircleMargin": {"margin": 0.3},
    "DynamicArcMargin": {"smallest": 0.1, "largest": 0.4, "power": -0.5},
    "AdaMargin": {"margin": 0.3, "h": 0.5, "t_alpha": 0.5},
    "CurricularFace": {"margin": 0.4},
    "MagFace": {
        "lower_norm": 1.0, "upper_norm": 5.0, "lower_margin": 0.3, "upper_margin": 0.7,
        "norm_weight": 3.0,
    },
    "ElasticFace": {"margin": 0.4, "std": 0.1, "kind": "cos", "plus": True, "seed": 2},
    "Cosine": {},
    "Linear": {"use_bias": False},
}  # fmt: skip


def other_head(name):
    scale = {} if name == "Linear" else {"scale": 12.0}
    return HEADS[name](class_num=7, embedding_size=SIZE, name="head", **scale, **OTHERS[name])


@pytest.mark.parametrize("name", HEADS)
def test_heads_survive_their_config(name):
    head = other_head(name)
    config = json.loads(json.dumps(head.get_config()))
    again = type(head).from_config(config)
    assert again.get_config() == head.get_config()
    registered = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
    assert registered.get_config() == head.get_config() and type(registered) is type(head)
    for argument, value in {"class_num": 7, "embedding_size": SIZE, **OTHERS[name]}.items():
        assert getattr(again, argument) == value
    # Every argument of the config's schema.
    schema = components.parameters("head", name, "Arch.Head")
    assert set(schema) == set(head.arguments()) <= set(config)
    _, embedding, label, centres = random_head(head)
    loss, _ = built(again, centres)(embedding, label, with_loss=True)
    np.testing.assert_array_equal(loss, head(embedding, label, with_loss=True)[0])


def test_classifiers_load_in_a_fresh_process(tmp_path):
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(6, 4)).astype("float32"), np.array([0, 6, 2, 2, 5, 1])
    expected = {"x": x, "label": label}
    for name in HEADS:
        image = keras.Input((4,), name="image")
        neck = keras.layers.Dense(SIZE, name="neck")(image)
        unit = keras.layers.UnitNormalization(name="embedding")(neck)
        classifier = models.build_classifier(keras.Model(image, unit), other_head(name))
        head = classifier.get_layer("head")
        classifier({"image": x, "label": label}, training=True)  # statistics move on
        for weight in head.weights:
            if weight.name in ("margin_factor", "class_margins", "bias"):
                weight.assign(rng.uniform(0.3, 0.6, weight.shape))
        outputs = classifier({"image": x, "label": label})
        expected |= {f"{name} {key}": value for key, value in outputs.items()}
        expected |= {f"{name}/{w.path.split('/')[-1]}": np.asarray(w) for w in head.weights}
        classifier.save(tmp_path / f"{name}.keras")
    np.savez(tmp_path / "expected.npz", **expected)
    code = (
        "import glob, numpy as np, keras_featx\n"
        "z = dict(np.load('expected.npz'))\n"
        "x, label = z.pop('x'), z.pop('label')\n"
        "for file in sorted(glob.glob('*.keras')):\n"
        "    classifier = keras_featx.load_model(file)\n"
        "    name, head = file[:-6], classifier.get_layer('head')\n"
        "    for w in head.weights:\n"
        "        wanted = z.pop(name + '/' + w.path.split('/')[-1])\n"
        "        np.testing.assert_array_equal(w, wanted, w.path)\n"
        "    for key, value in classifier({'image': x, 'label': label}).items():\n"
        "        np.testing.assert_array_equal(value, z.pop(f'{name} {key}'), f'{name} {key}')\n"
        "assert not z, list(z)\n"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)


# Refusals.

RADIANS = "expected radians in [0, pi/2], got"
REFUSED = [
    *[(n, {"class_num": c}, f"class_num: expected a positive number, got {c}") for n in HEADS
      for c in (None, 0, -1)],
    *[(n, {"scale": s}, f"scale: expected a positive number, got {s}") for n in HEADS
      if n != "Linear" for s in (0.0, -30.0, math.nan, math.inf)],
    *[(n, {"sample_rate": r}, f"sample_rate: expected in (0, 1], got {r}") for n in HEADS
      for r in (0.0, -0.5, 1.5, math.nan)],
    *[(n, {"margin": m}, f"margin: {RADIANS} {m}") for m in (-0.1, 1.6, math.nan)
      for n in ("ArcMargin", "SubCenterArcFace", "CurricularFace", "ElasticFace")],
    *[(n, {"margin": m}, f"margin: expected in [0, 1], got {m}") for m in (-0.1, 1.1, math.nan)
      for n in ("CosMargin", "CircleMargin", "AdaMargin")],
    ("SubCenterArcFace", {"sub_centres": 0}, "sub_centres: expected at least 1, got 0"),
    *[("CombinedMargin", {"m1": m}, f"m1: expected in [0.5, 4], got {m}")
      for m in (0.4, 4.1, math.nan)],
    ("CombinedMargin", {"m2": 1.6}, f"m2: {RADIANS} 1.6"),
    ("CombinedMargin", {"m3": -0.1}, "m3: expected in [0, 1], got -0.1"),
    ("DynamicArcMargin", {"smallest": -0.1}, f"smallest: {RADIANS} -0.1"),
    ("DynamicArcMargin", {"largest": 1.6}, f"largest: {RADIANS} 1.6"),
    ("DynamicArcMargin", {"smallest": 0.6}, "smallest: expected at most largest 0.5, got 0.6"),
    *[("DynamicArcMargin", {"power": p}, f"power: expected a negative number, got {p}")
      for p in (0.0, 0.25, math.nan)],
    *[("AdaMargin", {"h": h}, f"h: expected a positive number, got {h}") for h in (0.0, math.nan)],
    *[("AdaMargin", {"t_alpha": t}, f"t_alpha: expected in (0, 1], got {t}")
      for t in (0.0, 1.1, math.nan)],
    ("MagFace", {"lower_norm": 0.0}, "lower_norm: expected a positive number, got 0.0"),
    *[("MagFace", {"upper_norm": u}, f"upper_norm: expected above lower_norm 10.0, got {u}")
      for u in (10.0, math.nan)],
    ("MagFace", {"lower_margin": -0.1}, f"lower_margin: {RADIANS} -0.1"),
    ("MagFace", {"upper_margin": 1.6}, f"upper_margin: {RADIANS} 1.6"),
    ("MagFace", {"upper_margin": 0.4}, "upper_margin: expected at least lower_margin 0.45, got "
     "0.4"),
    *[("MagFace", {"norm_weight": w}, f"norm_weight: expected at least 0, got {w}")
      for w in (-1.0, math.nan)],
    *[("ElasticFace", {"std": s}, f"std: expected at least 0, got {s}") for s in (-0.1, math.nan)],
    ("ElasticFace", {"kind": "sin"}, "kind: expected arc or cos, got 'sin'"),
    *[("Linear", {"stddev": s}, f"stddev: expected a positive number, got {s}")
      for s in (0.0, math.nan)],
    ("Linear", {"split": True}, "use_bias: expected false with sample_rate or split, got True"),
    ("Linear", {"sample_rate": 0.5}, "use_bias: expected false with sample_rate or split, got "
     "True"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_impossible_arguments_are_refused(name, arguments, message):
    with pytest.raises(ValueError) as error:
        HEADS[name](**{"class_num": 2, **arguments})
    assert str(error.value) == message


def test_every_number_of_a_head_has_its_refusal():
    """Flags, seeds and `embedding_size`, which is compared with the embedding, aside."""
    refused = {(name, argument) for name, arguments, _ in REFUSED for argument in arguments}
    free = {"embedding_size", "split", "seed", "easy_margin", "plus", "use_bias"}
    for name in HEADS:
        for argument in set(components.parameters("head", name, "Arch.Head")) - free:
            assert (name, argument) in refused, f"{name}.{argument}"


@pytest.mark.parametrize("name", HEADS)
def test_an_embedding_of_another_size_is_refused(name):
    head = HEADS[name](class_num=3, embedding_size=16)
    with pytest.raises(ValueError) as error:
        head(np.ones((2, 32), "float32"))
    assert str(error.value) == "embedding_size: expected the neck's 32, got 16"


@pytest.mark.parametrize("name", HEADS)
def test_refusals_name_the_key_of_the_config(name):
    arch = {
        "image_size": [32, 32],
        "Backbone": {"name": "LCNet", "scale": 0.25, "class_expand": 16},
        "Neck": {"name": "Dense", "embedding_size": 32},
        "Head": {"name": name, "embedding_size": 16, "class_num": 3},
    }
    arch = from_dict({"Arch": arch}).Arch
    head = models.build_head(arch)
    image = keras.Input((32,), name="image")
    extractor = keras.Model(image, keras.layers.UnitNormalization(name="embedding")(image))
    with pytest.raises(ConfigError) as error:
        models.build_classifier(extractor, head)
    assert str(error.value) == "Arch.Head.embedding_size: expected the neck's 32, got 16"
    arch = from_dict({"Arch": {"Head": {"name": name, "class_num": -1}}}).Arch
    with pytest.raises(ConfigError) as error:
        models.build_head(arch)
    assert str(error.value) == "Arch.Head.class_num: expected a positive number, got -1"
