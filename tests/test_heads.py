"""Heads against the numbers of the reference and against float64 NumPy."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_featx import models
from keras_featx.config import from_dict
from keras_featx.errors import ConfigError
from keras_featx.heads import ArcMargin, Cosine, Linear, margins
from keras_featx.losses import CELoss

GOLDEN = {  # name in heads.npz: arguments of ArcMargin
    "arc_m0.2_s30": {"margin": 0.2, "scale": 30.0},
    "arc_default_m0.5_s80": {"margin": 0.5, "scale": 80.0},
    "arc_m0.15_s32": {"margin": 0.15, "scale": 32.0},
    "arc_easy_m0.5_s80": {"margin": 0.5, "scale": 80.0, "easy_margin": True},
}
HEADS = [
    ArcMargin(class_num=7, embedding_size=5, margin=0.3, scale=20.0, easy_margin=True),
    Cosine(class_num=7, embedding_size=5, scale=12.0),
    Linear(class_num=7, embedding_size=5, use_bias=False),
]
MARGINS = [0.0, 0.15, 0.2, 0.5, 1.0, math.pi / 2]
ONE, ZERO = np.float32(1), np.float32(0)
EDGES = [
    *(np.nextafter(ONE, towards, dtype="float32") for towards in (ZERO, ONE, np.float32(2))),
    *(np.nextafter(-ONE, towards, dtype="float32") for towards in (ZERO, -ONE, np.float32(-2))),
    *(np.nextafter(ZERO, towards, dtype="float32") for towards in (-ONE, ZERO, ONE)),
    np.float32(1 + 1e-6),  # what the sum over a large embedding may round to
    np.float32(-1 - 1e-6),
]


@pytest.fixture
def golden(data_dir):
    return np.load(data_dir / "heads.npz")


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def built(head, centres):
    head.build((None, centres.shape[0]))
    head.centres.assign(centres)
    return head


def cosines_of(embedding, centres):
    """Float64 cosines, ``(batch, classes)``."""
    embedding, centres = np.asarray(embedding, "float64"), np.asarray(centres, "float64")
    embedding = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding @ (centres / np.linalg.norm(centres, axis=0))


def arc_margin_of(cosine, margin, easy_margin=False):
    """The formula of the reference in float64, one cosine at a time."""
    cosine = float(cosine)
    shifted = cosine * math.cos(margin)
    shifted -= math.sqrt(max(1 - cosine**2 + 1e-6, 0)) * math.sin(margin)
    if easy_margin:
        return shifted if cosine > 0 else cosine
    return shifted if cosine > -math.cos(margin) else cosine - margin * math.sin(margin)


def random_head(head, seed=0):
    """A head with random centres, and an embedding with labels for it."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, head.class_num)).astype("float32")
    embedding = rng.normal(size=(6, 5)).astype("float32")
    return built(head, centres), embedding, rng.integers(head.class_num, size=6), centres


def golden_head(golden, name):
    return built(ArcMargin(class_num=20, **GOLDEN[name]), golden["w"])


def on_the_jump(name):
    """Rows at pi - margin, where rounding decides which side of the jump they are on."""
    return np.arange(12) == (3 if name == "arc_m0.15_s32" else -1)


def sine_noise(cosine):
    """A float32 cosine is off by some 2^-23, so its sine by 2^-23 * cosine / sine."""
    return 3 * 2**-23 / np.sqrt(1 - cosine**2 + 1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_arc_margin_equals_the_reference(golden, name):
    head, label, rows = golden_head(golden, name), golden["y"][:, 0], np.arange(12)
    logits, scores = (np.array(a) for a in head(golden["x"], label, with_scores=True))
    reference = golden[f"{name}/logits"]
    allowed = np.full(logits.shape, 1e-4 * head.scale / 30)
    cosine = cosines_of(golden["x"], golden["w"])[rows, label]
    # Both sides' sines are off.
    allowed[rows, label] += 2 * sine_noise(cosine) * math.sin(head.margin) * head.scale
    exact = ~on_the_jump(name)
    assert (np.abs(logits - reference) <= allowed)[exact].all()
    for row in rows[~exact]:
        either = [arc_margin_of(cosine[row] + step, head.margin) for step in (-1e-6, 1e-6)]
        assert logits[row, label[row]] / head.scale == pytest.approx(either[0], abs=1e-5) or (
            logits[row, label[row]] / head.scale == pytest.approx(either[1], abs=1e-5)
        )
    # At inference the reference gives the cosine, ours the cosine times the scale.
    eval_logits = np.array(head(golden["x"]))
    np.testing.assert_allclose(scores, golden[f"{name}/logits_eval"], rtol=0, atol=1e-4 / 30)
    np.testing.assert_allclose(
        eval_logits / head.scale, golden[f"{name}/logits_eval"], rtol=0, atol=1e-4 / 30
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_cross_entropy_of_arc_margin_equals_the_reference(golden, name):
    head, label = golden_head(golden, name), golden["y"][:, 0]
    jump = on_the_jump(name)[:, None]
    logits = np.where(jump, golden[f"{name}/logits"], head(golden["x"], label))
    # The reference's softmax takes nothing below -64 from the largest logit; ours does.
    cut = np.maximum(logits - logits.max(axis=1, keepdims=True), -64)
    np.testing.assert_allclose(CELoss()(label, cut), golden[f"{name}/ce"], rtol=2e-5)
    if (cut[np.arange(12), label] > -64).all():
        np.testing.assert_allclose(CELoss()(label, logits), golden[f"{name}/ce"], rtol=2e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_arc_margin_gradients_equal_the_reference(golden, name):
    head, label = golden_head(golden, name), golden["y"]
    x = tf.constant(golden["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = CELoss()(label, head(x, label))
    grad_x, grad_w = tape.gradient(loss, [x, head.centres.value])
    jump = on_the_jump(name)
    for ours, reference, axis, left_out in (
        (grad_x, golden[f"{name}/grad_x"], 0, np.flatnonzero(jump)),
        (grad_w, golden[f"{name}/grad_w"], 1, label[jump, 0]),
    ):
        error = np.delete(np.abs(ours - reference), left_out, axis=axis)
        assert error.max() <= 1e-3 * np.abs(reference).max()


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("margin", MARGINS)
def test_the_margin_at_every_angle(margin, easy_margin):
    """In float64, where the formula has to hold to the last digits, on both sides of the jumps."""
    jumps = np.array([math.pi - margin, math.pi / 2])[:, None] + [[-1e-6, 1e-6]]
    angles = np.concatenate([np.linspace(0, math.pi, 1001), np.clip(jumps, 0, math.pi).ravel()])
    cosine = np.cos(angles)
    on_a_jump = np.isclose(cosine, -math.cos(margin), rtol=0, atol=1e-14) | (abs(cosine) < 1e-14)
    cosine = cosine[~on_a_jump]
    ours = margins.arc_margin(tf.constant(cosine), tf.constant(margin, tf.float64), easy_margin)
    reference = [arc_margin_of(c, margin, easy_margin) for c in cosine]
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-12)


def test_beyond_pi_minus_margin_the_logit_keeps_falling():
    angles = np.linspace(0, math.pi, 2001)
    values = np.array(margins.arc_margin(tf.constant(np.cos(angles)), 0.5))
    assert (np.diff(values) < 0).all()
    assert (values <= np.cos(angles) + 1e-12).all()


@pytest.mark.parametrize("margin", [0.2, 0.5])
def test_the_layer_at_every_angle(margin):
    """Embeddings of any length turned from their centre, in float32."""
    angles = np.linspace(0, math.pi, 721)
    angles = angles[abs(angles - (math.pi - margin)) > 1e-3]  # where float32 may fall either side
    lengths = np.random.default_rng(0).uniform(0.1, 10, len(angles))
    embedding = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]).astype("f4")
    centres = np.array([[1.0, 0.6], [0.0, -0.8]], "float32")
    head = built(ArcMargin(class_num=2, margin=margin, scale=30.0), centres)
    logits = np.array(head(embedding, np.zeros(len(angles), "int32"))) / 30
    cosine = cosines_of(embedding, centres)
    np.testing.assert_allclose(logits[:, 1], cosine[:, 1], rtol=0, atol=1e-6)
    reference = [arc_margin_of(c, margin) for c in cosine[:, 0]]
    allowed = 1e-6 + sine_noise(cosine[:, 0]) * math.sin(margin)
    assert (np.abs(logits[:, 0] - reference) <= allowed).all()


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("cosine", EDGES)
def test_values_and_gradients_are_finite_at_the_edges(cosine, easy_margin):
    value = tf.constant([cosine])
    with tf.GradientTape() as tape:
        tape.watch(value)
        shifted = margins.arc_margin(value, 0.5, easy_margin)
    gradient = tape.gradient(shifted, value)
    assert np.isfinite(gradient).all()
    # Below the smallest normal number, TensorFlow may take it for zero: either branch will do.
    tiny = 0 < abs(cosine) < np.finfo("float32").tiny
    references = [
        arc_margin_of(c, 0.5, easy_margin) for c in ([-1e-30, 1e-30] if tiny else [cosine])
    ]
    # With 1 - cosine^2 around 0 in float32, the sine is only known to some 1e-4.
    assert min(abs(float(shifted[0]) - reference) for reference in references) < 1e-3


@pytest.mark.parametrize(
    ("cosine", "easy_margin", "slope"),
    [
        (1.0, False, math.cos(0.5) + 1000 * math.sin(0.5)),  # the sine's floor is 1e-3
        (-1.0, False, 1.0),
        (0.0, False, math.cos(0.5)),
        (1.0, True, math.cos(0.5) + 1000 * math.sin(0.5)),
        (-1.0, True, 1.0),
        (0.0, True, 1.0),
    ],
)
def test_slopes_at_the_edges(cosine, easy_margin, slope):
    value = tf.constant([cosine])
    with tf.GradientTape() as tape:
        tape.watch(value)
        shifted = margins.arc_margin(value, 0.5, easy_margin)
    assert float(tape.gradient(shifted, value)[0]) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_gradients_through_the_layer_are_finite_at_the_edges(sign):
    """Embeddings equal to their centre, opposite to it, at right angles."""
    centres = np.random.default_rng(0).normal(size=(512, 3)).astype("float32")
    centres[:, 1] -= centres[:, 0] * (centres[:, 1] @ centres[:, 0]) / (centres[:, 0] ** 2).sum()
    head = built(ArcMargin(class_num=3, margin=0.5, scale=64.0), centres)
    embedding = tf.constant(centres[:, :1].T * sign if sign else centres[:, 1:2].T)
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        logits = head(embedding, np.array([0]))
        loss = CELoss()(np.array([0]), logits)
    assert float(logits[0, 0]) == pytest.approx(64 * arc_margin_of(sign, 0.5), abs=64 * 1e-3)
    for gradient in tape.gradient(loss, [embedding, head.centres.value]):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("head", [ArcMargin(class_num=4), Cosine(class_num=4)])
def test_an_embedding_of_zeros_has_no_direction_but_finite_numbers(head):
    built(head, np.random.default_rng(0).normal(size=(8, 4)).astype("float32"))
    embedding = tf.zeros((2, 8))
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        logits = head(embedding)
    np.testing.assert_array_equal(logits, np.zeros((2, 4)))
    assert np.isfinite(tape.gradient(logits, embedding)).all()


def test_without_margin_arc_margin_is_the_cosine_head():
    head, embedding, label, centres = random_head(ArcMargin(class_num=7, margin=0.0, scale=30.0))
    cosine = built(Cosine(class_num=7, scale=30.0), centres)
    np.testing.assert_array_equal(head(embedding, label), cosine(embedding, label))
    np.testing.assert_array_equal(head(embedding), cosine(embedding))


def test_the_cosine_head_is_scaled_cosines():
    head, embedding, label, centres = random_head(Cosine(class_num=7, scale=12.0))
    reference = cosines_of(embedding, centres)
    np.testing.assert_allclose(head(embedding), 12 * reference, rtol=0, atol=12 * 1e-6)
    logits, scores = head(embedding, label, with_scores=True)
    np.testing.assert_allclose(logits, 12 * reference, rtol=0, atol=12 * 1e-6)
    np.testing.assert_allclose(scores, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_linear_head_is_a_product(use_bias):
    head, embedding, label, centres = random_head(Linear(class_num=7, use_bias=use_bias))
    bias = np.zeros(7)
    if use_bias:
        np.testing.assert_array_equal(head.bias, np.zeros(7))
        bias = np.arange(7)
        head.bias.assign(bias)
    assert len(head.trainable_weights) == 1 + use_bias
    reference = embedding.astype("float64") @ centres + bias
    logits, scores = head(embedding, label, with_scores=True)
    np.testing.assert_allclose(logits, reference, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores, reference, rtol=0, atol=1e-5)
    np.testing.assert_allclose(head(embedding), reference, rtol=0, atol=1e-5)


def test_scores_are_cosines_without_margin_and_scale():
    head, embedding, label, centres = random_head(ArcMargin(class_num=7, margin=0.5, scale=64.0))
    logits, scores = head(embedding, label, with_scores=True)
    reference = cosines_of(embedding, centres)
    np.testing.assert_allclose(scores, reference, rtol=0, atol=1e-6)
    rows = np.arange(6)
    expected = reference.copy()
    expected[rows, label] = [arc_margin_of(c, 0.5) for c in reference[rows, label]]
    np.testing.assert_allclose(logits, 64 * expected, rtol=0, atol=1e-4 * 64 / 30)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_margin_factor_scales_the_margin(factor):
    head, embedding, label, centres = random_head(ArcMargin(class_num=7, margin=0.4, scale=30.0))
    assert [w.name for w in head.trainable_weights] == ["centres"]
    assert float(head.margin_factor) == 1
    head.margin_factor.assign(factor)
    reference = cosines_of(embedding, centres)
    rows = np.arange(6)
    own = reference[rows, label]
    reference[rows, label] = [arc_margin_of(c, 0.4 * factor) for c in own]
    np.testing.assert_allclose(head(embedding, label), 30 * reference, rtol=0, atol=1e-4)


@pytest.mark.parametrize("label_type", ["int32", "int64", "float32"])
def test_labels_may_be_a_column_and_of_any_type(label_type):
    head, embedding, label, _ = random_head(ArcMargin(class_num=7))
    expected = head(embedding, label)
    np.testing.assert_array_equal(head(embedding, label[:, None].astype(label_type)), expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("head_class", [ArcMargin, Cosine, Linear])
def test_logits_are_float32_under_mixed_precision(policy, head_class):
    half = policy.removeprefix("mixed_")
    head, embedding, label, centres = random_head(head_class(class_num=7))
    embedding = tf.cast(embedding, half)
    logits, scores = head(embedding, label, with_scores=True)
    assert {w.dtype for w in head.weights} == {"float32"}
    assert logits.dtype == scores.dtype == head(embedding).dtype == "float32"
    # The embedding is rounded, what comes after it is not.
    rounded = np.array(tf.cast(embedding, "float64"))
    reference = rounded @ centres if head_class is Linear else cosines_of(rounded, centres)
    np.testing.assert_allclose(scores, reference, rtol=0, atol=1e-5)
    symbolic = head(keras.Input((5,), dtype=half), keras.Input((), dtype="int32"))
    assert (symbolic.shape, symbolic.dtype) == ((None, 7), "float32")


@pytest.mark.parametrize("head", HEADS, ids=lambda h: type(h).__name__)
def test_heads_survive_their_config(head):
    config = json.loads(json.dumps(head.get_config()))
    again = type(head).from_config(config)
    assert again.get_config() == head.get_config()
    registered = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
    assert registered.get_config() == head.get_config()
    for name in ("class_num", "embedding_size", "margin", "scale", "easy_margin", "use_bias"):
        assert getattr(again, name, None) == getattr(head, name, None), name
    one, embedding, label, centres = random_head(head)
    np.testing.assert_array_equal(built(again, centres)(embedding, label), one(embedding, label))


@pytest.mark.parametrize(
    ("head_class", "arguments", "message"),
    [
        (ArcMargin, {}, "class_num: expected a positive number, got None"),
        (Cosine, {}, "class_num: expected a positive number, got None"),
        (Linear, {"class_num": 0}, "class_num: expected a positive number, got 0"),
        (ArcMargin, {"class_num": -1}, "class_num: expected a positive number, got -1"),
        (
            ArcMargin,
            {"class_num": 2, "margin": -0.1},
            "margin: expected radians in [0, pi/2], got -0.1",
        ),
        (
            ArcMargin,
            {"class_num": 2, "margin": 1.6},
            "margin: expected radians in [0, pi/2], got 1.6",
        ),
        (
            ArcMargin,
            {"class_num": 2, "margin": math.nan},
            "margin: expected radians in [0, pi/2], got nan",
        ),
        (ArcMargin, {"class_num": 2, "scale": 0.0}, "scale: expected a positive number, got 0.0"),
        (Cosine, {"class_num": 2, "scale": -30.0}, "scale: expected a positive number, got -30.0"),
    ],
)
def test_impossible_arguments_are_refused(head_class, arguments, message):
    with pytest.raises(ValueError) as error:
        head_class(**arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("head_class", [ArcMargin, Cosine, Linear])
def test_an_embedding_of_another_size_is_refused(head_class):
    head = head_class(class_num=3, embedding_size=16)
    with pytest.raises(ValueError) as error:
        head(np.ones((2, 8), "float32"))
    assert str(error.value) == "embedding_size: expected the neck's 8, got 16"


def test_refusals_name_the_key_of_the_config():
    arch = from_dict(
        {
            "Arch": {
                "image_size": [32, 32],
                "Backbone": {"name": "LCNet", "scale": 0.25, "class_expand": 16},
                "Neck": {"name": "Dense", "embedding_size": 8},
                "Head": {"name": "ArcMargin", "embedding_size": 16, "class_num": 3},
            }
        }
    ).Arch
    extractor = models.build_extractor(arch)
    with pytest.raises(ConfigError) as error:
        models.build_classifier(extractor, models.build_head(arch))
    assert str(error.value) == "Arch.Head.embedding_size: expected the neck's 8, got 16"


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_refused(label):
    """On the CPU; lists are checked before training begins."""
    head = ArcMargin(class_num=3)
    with tf.device("CPU"), pytest.raises(tf.errors.InvalidArgumentError):
        head(np.ones((2, 4), "float32"), np.array([0, label]))
