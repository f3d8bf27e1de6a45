"""Margin functions against the reference, pytorch-metric-learning and float64 restatements."""

import cmath
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_featx.heads import margins

REFERENCE = {  # name in heads.npz: scale, own logit, other logits
    "arc_m0.2_s30": (30, lambda c, _: margins.arc_margin(c, 0.2), None),
    "arc_default_m0.5_s80": (80, lambda c, _: margins.arc_margin(c, 0.5), None),
    "arc_m0.15_s32": (32, lambda c, _: margins.arc_margin(c, 0.15), None),
    "arc_easy_m0.5_s80": (80, lambda c, _: margins.arc_margin(c, 0.5, easy_margin=True), None),
    "cos_default_m0.35_s64": (64, lambda c, _: margins.cos_margin(c, 0.35), None),
    "circle_m0.35_s64": (
        64,
        lambda c, _: margins.circle_own(c, 0.35),
        lambda c: margins.circle_others(c, 0.35),
    ),
    "circle_m0.25_s256": (
        256,
        lambda c, _: margins.circle_own(c, 0.25),
        lambda c: margins.circle_others(c, 0.25),
    ),
    "ada_m0.4_h0.333_s64_t1": (64, lambda c, norm: ada_own(c, norm), None),
}
PML = {  # name in margin_losses_pml.npz: scale, own logit
    "ArcFaceLoss(margin=28.6,scale=64)": (
        64,
        lambda c: margins.arc_margin(c, math.radians(28.6)),
    ),
    "ArcFaceLoss(margin=28.64789,scale=30)": (30, lambda c: margins.arc_margin(c, 0.5)),
    "ArcFaceLoss(margin=17.188734,scale=10)": (
        10,
        lambda c: margins.combined_margin(c, 1.0, math.radians(17.188734), 0.0),
    ),
    "CosFaceLoss(margin=0.35,scale=64)": (64, lambda c: margins.cos_margin(c, 0.35)),
    "CosFaceLoss(margin=0.2,scale=10)": (
        10,
        lambda c: margins.combined_margin(c, 1.0, 0.0, 0.2),
    ),
    "SubCenterArcFaceLoss(margin=28.6,scale=64,sub_centers=2)": (
        64,
        lambda c: margins.arc_margin(c, math.radians(28.6)),
    ),
}


def ada_own(cosine, norm):
    mean, std = margins.ada_statistics(norm, 20.0, 100.0, 1.0)
    return margins.ada_margin(cosine, margins.ada_norm_score(norm, mean, std, 0.333), 0.4)


# The formulas again, one float64 at a time. Factors without gradient are those at the cosine `at`.


def arc_of(c, at, margin, easy_margin=False):
    shifted = c * math.cos(margin)
    shifted -= math.sqrt(max(1 - c * c + 1e-6, 0)) * math.sin(margin)
    if easy_margin:
        return shifted if c > 0 else c
    return shifted if c > -math.cos(margin) else c - margin * math.sin(margin)


def combined_of(c, at, m1, m2, m3):
    if m1 == 1:
        return arc_of(c, at, m2) - m3
    turned = complex(c, math.sqrt(max(1 - c * c + 1e-6, 0)))
    turned /= abs(turned)
    if m1 * cmath.phase(turned) + m2 < math.pi:
        return (turned**m1).real * math.cos(m2) - (turned**m1).imag * math.sin(m2) - m3
    late = math.pi - (math.pi - m2) / m1
    return turned.real - max(late * math.sin(late), 1 - math.cos(late)) - m3


def circle_own_of(c, at, margin):
    return max(0, 1 + margin - at) * (c - (1 - margin))


def circle_others_of(c, at, margin):
    return max(0, at + margin) * (c - margin)


def ada_of(c, at, score, margin):
    theta = math.acos(min(max(c, -0.999), 0.999)) - score * margin
    return math.cos(min(max(theta, 1e-3), math.pi - 1e-3)) - margin - margin * score


def curricular_of(c, at, threshold, t):
    return c * (t + c) if at > threshold else c


def curricular(cosine, threshold, t):
    shape = (cosine.shape[0],)
    return margins.curricular_others(cosine[:, None], tf.fill(shape, threshold), t)[:, 0]


# Name: ours, the restatement, their arguments, the cosines of jumps and bends.
FORMULAS = {
    **{
        f"arc_margin({m}, {easy})": (
            margins.arc_margin,
            arc_of,
            (m, easy),
            [0.0] if easy else [-math.cos(m)],
        )
        for m in (0.0, 0.15, 0.5, 1.0, math.pi / 2)
        for easy in (False, True)
    },
    "cos_margin(0.35)": (margins.cos_margin, lambda c, at, m: c - m, (0.35,), []),
    **{
        f"combined_margin{args}": (
            margins.combined_margin,
            combined_of,
            args,
            [math.cos(min((math.pi - args[1]) / args[0], math.pi))],
        )
        for args in [
            (0.5, 0.0, 0.0),
            (0.9, 0.4, 0.15),
            (1.0, 0.5, 0.0),
            (1.0, 0.3, 0.2),
            (1.0, 0.0, 0.35),
            (1.35, 0.0, 0.0),
            (1.35, 0.5, 0.1),
            (2.0, 0.2, 0.0),
            (4.0, 0.0, 0.0),
            (4.0, math.pi / 2, 0.0),
        ]
    },
    **{f"circle_own({m})": (margins.circle_own, circle_own_of, (m,), []) for m in (0.0, 0.25)},
    **{
        f"circle_others({m})": (margins.circle_others, circle_others_of, (m,), [-m])
        for m in (0.0, 0.35)
    },
    **{
        f"ada_margin({score}, 0.4)": (
            margins.ada_margin,
            ada_of,
            (score, 0.4),
            [0.999, -0.999, math.cos(0.4 + 1e-3), -math.cos(0.4 + 1e-3)],
        )
        for score in (-1.0, -0.3, 0.0, 1.0)
    },
    "curricular_others(0.3, 0.4)": (curricular, curricular_of, (0.3, 0.4), [0.3]),
    "curricular_others(-1.2, 0.0)": (curricular, curricular_of, (-1.2, 0.0), []),
}
RISES = [name for name in FORMULAS if name.startswith(("circle_others", "curricular"))]
FALLING = [name for name in FORMULAS if name not in RISES and "True" not in name]
DTYPES = ["float16", "bfloat16", "float32", "float64"]


def steps_around(value, dtype, *towards):
    """A number of that type, what comes next to it, and a little more."""
    numpy_type = tf.as_dtype(dtype).as_numpy_dtype
    value = numpy_type(value)
    return [value, *(np.nextafter(value, numpy_type(t)) for t in towards)]


def edges(dtype):
    """Cosines at 1, 0 and -1, one step from them on both sides, and as far as rounding goes."""
    beyond = {"float32": [1 + 1e-6, -1 - 1e-6], "float64": [1 + 1e-6, -1 - 1e-6]}.get(dtype, [])
    one, zero = steps_around(1, dtype, 0, 2), steps_around(0, dtype, -1, 1)
    values = [*one, *(-v for v in one), *zero, *beyond]
    return np.array(values, tf.as_dtype(dtype).as_numpy_dtype)


def value_and_slope(function, cosine, *args):
    cosine = tf.constant(cosine)
    with tf.GradientTape() as tape:
        tape.watch(cosine)
        value = function(cosine, *args)
    slope = tape.gradient(value, cosine)
    return value.numpy().astype("float64"), slope.numpy().astype("float64")


def cosines(x, centres):
    """Float64 cosines ``(batch, classes)``."""
    x, centres = x.astype("float64"), centres.astype("float64")
    return (x / np.linalg.norm(x, axis=1)[:, None]) @ (centres / np.linalg.norm(centres, axis=0))


def logits_and_gradients(x, centres, label, scale, own, others=None, sub_centres=1):
    """Float64 logits; gradients of the mean cross-entropy by embeddings and centres."""
    x, centres = tf.constant(x, tf.float64), tf.constant(centres, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([x, centres])
        cosine = tf.linalg.normalize(x, axis=1)[0] @ tf.linalg.normalize(centres, axis=0)[0]
        cosine = tf.reduce_max(tf.reshape(cosine, (len(label), -1, sub_centres)), axis=2)
        hot = tf.one_hot(label, cosine.shape[1], True, False)
        replaced = own(cosine[hot], tf.norm(x, axis=1))
        rest = others(cosine) if others else cosine
        logits = scale * tf.where(hot, replaced[:, None], rest)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits))
    return np.array(logits), [np.array(g) for g in tape.gradient(loss, [x, centres])]


@pytest.fixture
def golden(data_dir):
    return np.load(data_dir / "heads.npz")


@pytest.mark.parametrize("name", REFERENCE)
def test_logits_and_gradients_equal_the_reference(golden, name):
    label, scale, rows = golden["y"][:, 0], REFERENCE[name][0], np.arange(12)
    logits, gradients = logits_and_gradients(golden["x"], golden["w"], label, *REFERENCE[name])
    allowed = np.full(logits.shape, 1e-6 * scale)
    if name.startswith("arc"):
        # The reference's float32 cosine is off by some 2^-23, so its sine by 2^-23 cosine / sine.
        cosine = cosines(golden["x"], golden["w"])[rows, label]
        allowed[rows, label] += scale * 3 * 2**-23 / np.sqrt(1 - cosine**2 + 1e-6)
    assert (np.abs(logits - golden[f"{name}/logits"]) <= allowed).all()
    # The reference's softmax takes nothing below -64 from the largest logit.
    cut = np.maximum(logits - logits.max(axis=1, keepdims=True), -64)
    cross_entropy = np.log(np.exp(cut).sum(axis=1)) - cut[rows, label]
    assert cross_entropy.mean() == pytest.approx(float(golden[f"{name}/ce"]), rel=1e-5)
    compared = [f"{name}/{what}" for what in ("grad_x", "grad_w") if f"{name}/{what}" in golden]
    assert len(compared) == (1 if name.startswith("ada") else 2)
    for ours, key in zip(gradients, compared, strict=False):
        assert np.abs(ours - golden[key]).max() <= 1e-5 * np.abs(golden[key]).max()


def test_ada_statistics_equal_the_reference(golden):
    norm = np.linalg.norm(golden["x"].astype("float64"), axis=1)
    statistics = margins.ada_statistics(norm, 20.0, 100.0, 1.0)
    for ours, name in zip(statistics, ["batch_mean", "batch_std"], strict=True):
        assert float(ours) == pytest.approx(golden[f"ada_m0.4_h0.333_s64_t1/{name}"][0], rel=1e-6)


@pytest.mark.parametrize("batch", ["a", "b", "raw"])
@pytest.mark.parametrize("name", PML)
def test_losses_and_gradients_equal_pytorch_metric_learning(data_dir, name, batch):
    golden = np.load(data_dir / "margin_losses_pml.npz")
    x, label, key = golden[f"{batch}/emb"], golden[f"{batch}/labels"], f"pml.{name}/{batch}"
    scale, own = PML[name]
    subs = 2 if "sub_centers=2" in name else 1
    logits, gradients = logits_and_gradients(
        x, golden[f"{key}/W"], label, scale, lambda cosine, norm: own(cosine), sub_centres=subs
    )
    logits -= logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(label)), label]
    # Ours has the guard of 1e-6 inside the sine.
    assert loss.mean() == pytest.approx(float(golden[f"{key}/value"]), rel=1e-5)
    for ours, what in zip(gradients, ("grad", "grad_W"), strict=True):
        theirs = golden[f"{key}/{what}"]
        assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("name", FORMULAS)
def test_values_at_every_angle(name):
    """In float64, from 0 to pi, and to the last bit on both sides of jumps and bends."""
    ours, restated, args, bends = FORMULAS[name]
    cosine = np.cos(np.linspace(0, math.pi, 1001))
    near = np.array([c for b in bends for c in steps_around(b, "float64", -2, 2)])
    # Eight steps off, no rounding of the threshold blurs the side.
    sides = np.array([b + 8 * s for b in bends for s in (-np.spacing(b), np.spacing(b))])
    for cosines_, exact in ((cosine, True), (sides, True), (near, False)):
        cosines_ = cosines_[np.abs(cosines_) <= 1]
        if exact:
            cosines_ = cosines_[(np.abs(cosines_[:, None] - bends) > 1e-15).all(axis=1)]
        if not cosines_.size:
            continue
        values = np.array(ours(tf.constant(cosines_, tf.float64), *args))
        steps = [0] if exact else [-1e-14, 0, 1e-14]
        expected = [[restated(c + step, c + step, *args) for c in cosines_] for step in steps]
        assert np.abs(values - expected).min(axis=0).max() <= 1e-12


@pytest.mark.parametrize("name", FORMULAS)
def test_slopes_are_finite_differences(name):
    ours, restated, args, bends = FORMULAS[name]
    cosine = np.cos(np.linspace(0, math.pi, 301))
    step = 1e-8
    cosine = cosine[(np.abs(cosine[:, None] - bends) > 2 * step).all(axis=1)]
    _, slope = value_and_slope(ours, cosine, *args)
    difference = [restated(c + step, c, *args) - restated(c - step, c, *args) for c in cosine]
    np.testing.assert_allclose(slope, np.array(difference) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FALLING)
def test_the_own_logit_falls_with_the_angle(name):
    ours, _, args, bends = FORMULAS[name]
    angles = np.concatenate([np.linspace(0, math.pi, 4001), np.arccos(np.clip(bends, -1, 1))])
    cosine = np.cos(np.unique(angles.round(9)))
    values, slope = value_and_slope(ours, cosine, *args)
    if name.startswith("ada"):  # flat where it clips
        assert (np.diff(values) <= 1e-15).all() and (slope >= 0).all()
    else:
        assert (np.diff(values) < 0).all()
        assert (slope[1:] > 0).all() and slope[0] >= 0
    if not name.startswith(("ada", "circle", "combined_margin(0.")):
        assert (values <= cosine + 1e-6).all()


@pytest.mark.parametrize("name", RISES)
def test_other_logits_pull_no_cosine_up(name):
    ours, _, args, _ = FORMULAS[name]
    _, slope = value_and_slope(ours, np.cos(np.linspace(0, math.pi, 1001)), *args)
    if name.startswith("circle"):
        assert (slope >= 0).all()
    else:
        assert (slope[np.cos(np.linspace(0, math.pi, 1001)) > 0] > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_slopes_are_finite_at_the_edges(name, dtype):
    ours, restated, args, bends = FORMULAS[name]
    cosine = edges(dtype)
    values, slope = value_and_slope(ours, cosine, *args)
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() < 5e3  # the sine's guard is 1e-3, and rounding may make it smaller
    if name not in RISES:
        assert (slope > -1e-7).all()  # the cosine of float32's pi/2 is -4e-8
    exact = cosine.astype("float64")
    expected = np.array([[restated(c + s, c + s, *args) for c in exact] for s in (-1e-9, 0, 1e-9)])
    # With 1 - cosine^2 around 0 in float32, the sine is only known to some 1e-4.
    factor = 4 if args[0] == 4.0 else 1
    assert np.abs(values - expected).min(axis=0).max() < 1e-3 * factor


@pytest.mark.parametrize("args", [a for _, r, a, _ in FORMULAS.values() if r is combined_of])
def test_combined_margin_is_its_formula_up_to_pi(args):
    m1, m2, m3 = args
    angles = np.linspace(0, math.pi, 2001)
    ours = np.array(margins.combined_margin(np.cos(angles), m1, m2, m3))
    before = m1 * angles + m2 < math.pi - 1e-6
    expected = np.cos(m1 * angles + m2) - m3
    # The guarded sine turns the first and last degrees by up to 1e-3.
    turned = np.abs(np.arctan2(np.sqrt(np.sin(angles) ** 2 + 1e-6), np.cos(angles)) - angles)
    assert turned[100:-100].max() < 4e-6
    assert (np.abs(ours - expected) <= m1 * turned + 1e-6)[before].all()
    assert before.any()


def test_an_easy_margin_starts_above_a_right_angle():
    tiny = np.finfo("float32").tiny
    ours = margins.arc_margin(np.array([-tiny, 0, tiny], "float32"), 0.5, easy_margin=True)
    np.testing.assert_allclose(ours, [0, 0, -math.sin(0.5)], rtol=0, atol=1e-6)


def test_combined_margin_contains_the_others_exactly():
    cosine = np.cos(np.linspace(0, math.pi, 501)).astype("float32")
    one, zero = tf.ones(501), tf.zeros(501)
    for m1, none in ((1, 0), (1.0, 0.0), (one, zero)):
        arc = margins.combined_margin(cosine, m1, 0.5, none)
        np.testing.assert_array_equal(arc, margins.arc_margin(cosine, 0.5))
        cos = margins.combined_margin(cosine, m1, none, 0.35)
        np.testing.assert_array_equal(cos, margins.cos_margin(cosine, 0.35))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "function",
    [
        lambda c: margins.arc_margin(c, 0.0),
        lambda c: margins.arc_margin(c, 0.0, easy_margin=True),
        lambda c: margins.cos_margin(c, 0.0),
        lambda c: margins.combined_margin(c, 1.0, 0.0, 0.0),
        lambda c: curricular(c, 1.1, 0.5),
    ],
)
def test_no_margin_is_the_cosine_to_the_bit(function, dtype):
    cosine = np.append(np.cos(np.linspace(0, math.pi, 501)).astype(dtype), edges(dtype))
    values, slope = value_and_slope(function, cosine)
    # TensorFlow may take numbers below the smallest normal one for zero.
    np.testing.assert_allclose(values, cosine, rtol=0, atol=np.finfo(dtype).tiny)
    np.testing.assert_array_equal(slope, np.ones(len(cosine)))


@pytest.mark.parametrize("score", [-1.0, 0.0, 1.0])
def test_no_ada_margin_is_the_clipped_cosine_to_rounding(score):
    cosine = np.cos(np.linspace(0, math.pi, 501))
    ours = margins.ada_margin(cosine, score, 0.0)
    np.testing.assert_allclose(ours, np.clip(cosine, -0.999, 0.999), rtol=0, atol=1e-14)


ROWWISE = [
    (margins.arc_margin, [(0.1,), (0.5,), (1.2,)]),
    (margins.cos_margin, [(0.1,), (0.35,), (0.0,)]),
    (margins.combined_margin, [(1.0, 0.5, 0.0), (1.35, 0.1, 0.2), (0.9, 0.4, 0.15)]),
    (margins.circle_own, [(0.1,), (0.35,), (0.0,)]),
    (margins.ada_margin, [(-1.0, 0.4), (0.2, 0.4), (1.0, 0.1)]),
]


@pytest.mark.parametrize(("function", "per_row"), ROWWISE)
def test_margins_may_differ_by_row_and_come_as_tensors(function, per_row):
    columns = [tf.constant(column) for column in zip(*per_row, strict=True)]
    traced = tf.function(function, reduce_retracing=True)
    for angle in (0.3, 1.5, 2.9):
        cosine = tf.fill((3,), math.cos(angle))
        expected = [float(function(cosine[:1], *args)[0]) for args in per_row]
        np.testing.assert_allclose(traced(cosine, *columns), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "function",
    [
        lambda c: margins.arc_margin(c, 0.5),
        lambda c: margins.cos_margin(c, 0.5),
        lambda c: margins.combined_margin(c, 1.35, 0.2, 0.1),
        lambda c: margins.circle_own(c, 0.25),
        lambda c: margins.circle_others(c, 0.25),
        lambda c: margins.ada_margin(c, 0.5, 0.4),
        lambda c: margins.mag_margin(c),
        lambda c: margins.mag_regulariser(c),
        lambda c: margins.curricular_others(c[:, None], c, 0.5),
        lambda c: margins.curricular_statistic(c, 0.5),
        lambda c: margins.ada_norm_score(c, 1.0, 1.0),
        lambda c: margins.ada_statistics(c, 1.0, 1.0)[1],
    ],
)
def test_results_are_float32_or_float64(function, dtype):
    result = function(tf.constant([0.5, 0.25], dtype))
    assert result.dtype == ("float64" if dtype == "float64" else "float32")


def test_ada_scores_and_statistics_over_steps():
    rng = np.random.default_rng(0)
    mean, std, expected = 20.0, 100.0, [20.0, 100.0]
    for _ in range(3):
        norm = rng.uniform(0, 130, 7)
        mean, std = margins.ada_statistics(norm, mean, std, t_alpha=0.3)
        clipped = [min(max(n, 1e-3), 100) for n in norm]
        centre = sum(clipped) / 7
        spread = math.sqrt(sum((n - centre) ** 2 for n in clipped) / 6)
        expected = [0.3 * centre + 0.7 * expected[0], 0.3 * spread + 0.7 * expected[1]]
        np.testing.assert_allclose([mean, std], expected, rtol=1e-12)
        scores = [(n - expected[0]) / (expected[1] + 1e-3) * 2.5 for n in clipped]
        expected_scores = [min(max(z, -1), 1) for z in scores]
        ours = margins.ada_norm_score(norm, mean, std, h=2.5)
        np.testing.assert_allclose(ours, expected_scores, rtol=1e-12)
    assert {-1, 1} <= set(np.round(np.array(ours), 12))


def test_one_row_has_no_spread_and_an_average_score():
    mean, std = margins.ada_statistics([7.0], 20.0, 100.0)
    assert (float(mean), float(std)) == (7, 0)
    assert float(margins.ada_norm_score([7.0], mean, std)[0]) == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: margins.ada_norm_score(x, 1.0, 1.0),
        lambda x: margins.ada_statistics(x, 1.0, 1.0)[0],
        lambda x: margins.ada_statistics(x, 1.0, 1.0)[1],
        lambda x: margins.ada_margin([0.5, 0.6, 0.7], x, 0.4),
        lambda x: margins.curricular_statistic(x, 0.5),
        lambda x: margins.curricular_others([[0.9], [0.1], [0.8]], x, 0.5),
        lambda x: margins.curricular_others([[0.9], [0.1], [0.8]], [0.1, 0.2, 0.3], x[0]),
    ],
)
def test_no_gradient_passes_to_what_is_detached(function):
    x = tf.constant([0.2, 0.5, 0.9])
    with tf.GradientTape() as tape:
        tape.watch(x)
        result = function(x)
    assert tape.gradient(result, x) is None


MAG = {"lower_norm": 5.0, "upper_norm": 25.0, "lower_margin": 0.2, "upper_margin": 0.6}


def test_mag_margin_is_linear_between_its_bounds():
    norm = np.array([0.0, 4.999, 5.0, 10.0, 15.0, 24.0, 25.0, 25.001, 1e6])
    expected = [0.2, 0.2, 0.2, 0.3, 0.4, 0.58, 0.6, 0.6, 0.6]
    margin, slope = value_and_slope(lambda n: margins.mag_margin(n, **MAG), norm)
    np.testing.assert_allclose(margin, expected, rtol=0, atol=1e-12)
    inside = (norm > 5) & (norm < 25)
    np.testing.assert_allclose(slope[inside], 0.4 / 20, rtol=1e-12)
    np.testing.assert_array_equal(slope[(norm < 5) | (norm > 25)], 0)


def test_the_margin_of_magface_reaches_the_norm():
    norm = np.array([3.0, 7.0, 12.0, 22.0])

    def own(n):
        return margins.arc_margin(tf.constant([0.9, 0.1, -0.4, 0.6], tf.float64), n)

    _, slope = value_and_slope(lambda n: own(margins.mag_margin(n, **MAG)), norm)
    for row, (n, c) in enumerate(zip(norm, [0.9, 0.1, -0.4, 0.6], strict=True)):
        margin = [0.2 + 0.4 * (min(max(v, 5), 25) - 5) / 20 for v in (n - 1e-6, n + 1e-6)]
        difference = (arc_of(c, c, margin[1]) - arc_of(c, c, margin[0])) / 2e-6
        assert slope[row] == pytest.approx(difference, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("upper", "lower"), [(110.0, 10.0), (25.0, 5.0)])
def test_mag_regulariser_draws_norms_up_to_the_upper_norm(upper, lower):
    norm = np.linspace(0, 2 * upper, 10_001)
    value, slope = value_and_slope(margins.mag_regulariser, norm, upper, lower)
    inside = norm >= lower
    expected = [n / upper**2 + 1 / n for n in norm[inside]]
    np.testing.assert_allclose(value[inside], expected, rtol=1e-12)
    # Below, a straight line that meets it.
    at_lower = lower / upper**2 + 1 / lower
    tangent = at_lower + (norm - lower) * (1 / upper**2 - 1 / lower**2)
    np.testing.assert_allclose(value[~inside], tangent[~inside], rtol=1e-12)
    assert (slope[norm < upper - 1e-9] < 0).all() and (slope[norm > upper + 1e-9] > 0).all()
    numeric = np.diff(value) / np.diff(norm)
    middle = (slope[1:] + slope[:-1]) / 2
    np.testing.assert_allclose(numeric, middle, rtol=0, atol=np.abs(slope).max() * 1e-3)


def test_mag_defaults_are_the_papers():
    np.testing.assert_allclose(margins.mag_margin([1.0, 10, 110, 200]), [0.45, 0.45, 0.8, 0.8])
    assert float(margins.mag_regulariser([20.0])[0]) == pytest.approx(20 / 110**2 + 1 / 20)


@pytest.mark.parametrize(("margin", "std"), [(0.5, 0.05), (0.35, 0.0125)])
def test_elastic_margins_are_normal(margin, std):
    drawn = np.array(margins.elastic_margin(margin, std, 3, (100_000,)), "float64")
    assert drawn.mean() == pytest.approx(margin, abs=5 * std / math.sqrt(1e5))
    assert drawn.std() == pytest.approx(std, rel=5 / math.sqrt(2e5))
    within = np.mean(np.abs(drawn - margin) < std)
    assert within == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.01)
    np.testing.assert_array_equal(margins.elastic_margin(0.5, 0.0, 3, (4,)), np.full(4, 0.5, "f4"))


def test_elastic_margins_stay_where_margins_are_defined():
    for mean in (0.0, 1.5):
        drawn = np.array(margins.elastic_margin(mean, 1.0, 3, (1000,)))
        assert drawn.min() == 0 and drawn.max() == pytest.approx(math.pi / 2, abs=1e-6)


def test_elastic_margins_are_a_function_of_the_seed():
    def draw(seed):
        return tuple(np.array(margins.elastic_margin(0.5, 0.05, seed, (8,))))

    assert draw(5) == draw((5, 0)) == draw(np.int64(5)) == draw(tf.constant([5, 0], tf.int64))
    generator = keras.random.SeedGenerator(5)
    assert [draw(generator), draw(generator)] == [draw((5, 0)), draw((5, 1))]
    assert len({draw((5, step)) for step in range(10)} | {draw(s) for s in range(10)}) == 19


def test_elastic_margins_take_a_shape_and_a_seed_known_only_later():
    @tf.function
    def draw(cosine, seed):
        return margins.elastic_margin(0.5, 0.05, seed, tf.shape(cosine))

    drawn = draw(tf.zeros(6), tf.constant([1, 2]))
    np.testing.assert_array_equal(drawn, margins.elastic_margin(0.5, 0.05, (1, 2), (6,)))


def test_elastic_plus_gives_the_hardest_row_the_largest_margin():
    rng = np.random.default_rng(0)
    cosine, drawn = rng.permutation(np.linspace(-1, 1, 9)), rng.normal(0.5, 0.05, 9)
    expected, left = np.zeros(9), sorted(drawn)
    for row in sorted(range(9), key=lambda r: cosine[r]):
        expected[row] = left.pop()
    np.testing.assert_array_equal(margins.elastic_plus(drawn, cosine), expected)


def test_curricular_re_weights_what_is_above_its_rows_threshold():
    cosine = np.array([[0.5, -0.4, 0.2], [0.5, 0.1, -0.9]])
    for t in (0.0, 0.3):
        ours = margins.curricular_others(cosine, np.array([0.3, -0.5]), t)
        expected = [
            [0.5 * (t + 0.5), -0.4, 0.2],
            [0.5 * (t + 0.5), 0.1 * (t + 0.1), -0.9],
        ]
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    # As hard as the own class is not harder.
    assert float(margins.curricular_others([[0.5]], [0.5], 0.9)[0, 0]) == 0.5


def test_curricular_statistic_is_a_moving_average():
    t = 0.0
    for step in range(1, 4):
        t = margins.curricular_statistic(np.array([0.2, 0.6]), t, momentum=0.9)
        assert float(t) == pytest.approx(0.4 * (1 - 0.9**step), rel=1e-12)
    assert float(margins.curricular_statistic([1.0], 0.0)) == pytest.approx(0.01)


@pytest.mark.parametrize("power", [-0.25, -1.0])
def test_class_margins_fall_with_frequency(power):
    counts = [0, 1, 2, 1, 50, 1000, 7]
    part = [max(n, 1) ** power for n in counts]
    expected = [0.1 + 0.3 * (p - 1000**power) / (1 - 1000**power) for p in part]
    ours = margins.class_margins(counts, 0.1, 0.4, power)
    assert isinstance(ours, np.ndarray)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert (ours[[0, 1, 3]] == ours.max()).all() and ours[5] == ours.min()
    assert ours.max() == pytest.approx(0.4) and ours.min() == pytest.approx(0.1)


@pytest.mark.parametrize("counts", [[3], [8, 8, 8], [0, 1, 1]])
def test_equally_frequent_classes_get_the_largest_margin(counts):
    np.testing.assert_array_equal(margins.class_margins(counts, 0.1, 0.4), [0.4] * len(counts))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([],), "counts: expected one number of at least 0 per class, got []"),
        (([3, -1],), "counts: expected one number of at least 0 per class, got [ 3. -1.]"),
        (([np.nan],), "counts: expected one number of at least 0 per class, got [nan]"),
        (([[3.0]],), "counts: expected one number of at least 0 per class, got [[3.]]"),
        (([1, 2], 0.6, 0.5), "smallest: expected in [0, largest = 0.5], got 0.6"),
        (([1, 2], -0.1, 0.5), "smallest: expected in [0, largest = 0.5], got -0.1"),
        (([1, 2], 0.1, 0.5, 0.25), "power: expected a negative number, got 0.25"),
    ],
)
def test_impossible_class_margins_are_refused(args, message):
    with pytest.raises(ValueError) as error:
        margins.class_margins(*args)
    assert str(error.value) == message
