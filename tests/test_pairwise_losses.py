"""Pairwise losses against PaddleClas, tensorflow-addons, tensorflow-similarity and loops."""

import re

import keras
import loss_loops as loops
import numpy as np
import pytest
import tensorflow as tf

from keras_featx import losses
from keras_featx.losses import miners, pairs

WITH_REFERENCE = {  # id: function, arguments, loop
    "triplet": (losses.triplet_loss, {}, loops.triplet),
    "triplet soft": (losses.triplet_loss, {"margin": None}, loops.triplet),
    "triplet squared": (
        losses.triplet_loss, {"distance": "squared", "margin": 0.1}, loops.triplet
    ),
    "triplet cosine": (losses.triplet_loss, {"distance": "cosine"}, loops.triplet),
    "triplet semi-hard": (losses.triplet_loss, {"triplets": "semi_hard"}, loops.triplet),
    "triplet all": (losses.triplet_loss, {"triplets": "all"}, loops.triplet),
    "triplet all soft": (losses.triplet_loss, {"triplets": "all", "margin": None}, loops.triplet),
    "angular": (losses.triplet_angular_margin_loss, {}, loops.triplet_angular_margin),
    "angular absolute": (
        losses.triplet_angular_margin_loss,
        {"add_absolute": True, "absolute_loss_weight": 0.3, "ap_value": 0.8, "an_value": 0.1},
        loops.triplet_angular_margin,
    ),
    "contrastive": (losses.contrastive_loss, {"margin": 0.1}, loops.contrastive),
    "contrastive l2": (losses.contrastive_loss, {"distance": "l2"}, loops.contrastive),
    "multi-similarity": (losses.multi_similarity_loss, {"beta": 20.0}, loops.multi_similarity),
    "circle": (losses.circle_loss, {"gamma": 16.0}, loops.circle),
    "pairwise cosface": (losses.pairwise_cosface_loss, {"gamma": 8.0}, loops.pairwise_cosface),
    "supcon": (losses.supcon_loss, {"temperature": 0.2}, loops.supcon),
    "soft nearest": (
        losses.soft_nearest_neighbor_loss, {"temperature": 0.7}, loops.soft_nearest_neighbor
    ),
    "soft nearest l2": (
        losses.soft_nearest_neighbor_loss, {"distance": "l2"}, loops.soft_nearest_neighbor
    ),
    "eml": (losses.eml_loss, {}, loops.eml),
    "eml flat": (losses.eml_loss, {"beta": 2.0}, loops.eml),
    "margin sample mining": (losses.margin_sample_mining_loss, {}, loops.margin_sample_mining),
}  # fmt: skip
ALL = {
    **WITH_REFERENCE,
    "lifted": (losses.lifted_structure_loss, {}, loops.lifted_structure),
    "n-pairs": (losses.n_pairs_loss, {}, loops.n_pairs),
    "smooth ap": (losses.smooth_ap_loss, {"temperature": 0.1}, loops.smooth_ap),
}
BATCHES = {  # labels; those with a positive pair alone, or a negative pair alone, may cost nothing
    "balanced": [3, 1, 2, 1, 3, 2, 2, 1, 3],
    "unbalanced": [1, 1, 2, 1, 3, 4, 1, 2, 5, 2],
    "no positives": [1, 2, 3, 4, 5],
    "no negatives": [1, 1, 1, 1],
    "one row": [1],
}
ONE_SIDED = ["contrastive", "contrastive l2"]  # each kind of pair has a loss of its own


def value_and_gradient(function, x):
    x = tf.constant(x, "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return np.array(value), np.array(tf.convert_to_tensor(tape.gradient(value, x)))


def assert_same(ours, reference, rtol_value=1e-5, rtol_gradient=1e-4):
    """Value and gradient, the latter relative to its largest entry."""
    np.testing.assert_allclose(ours[0], np.squeeze(reference[0]), rtol=rtol_value, atol=1e-6)
    largest = np.abs(reference[1]).max()
    np.testing.assert_allclose(ours[1], reference[1], rtol=0, atol=rtol_gradient * largest + 1e-7)


def random_batch(labels, seed=0):
    """Unit rows, float64, and labels that float32 cannot tell apart."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(len(labels), 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, 2**24 + np.asarray(labels, "int64")


def loop_value_and_gradient(loop, rows, label, arguments, reference=None, **lists):
    positive, negative = loops.pair_lists(label, **lists)
    start = rows if reference is None else reference

    def value(e):
        r = e if reference is None else reference
        return loop(e, r, positive, negative, e0=rows, r0=start, **arguments)

    return value(rows), loops.slope(value, rows)


# ---- every loss against a loop


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", ALL)
def test_value_and_gradient_equal_a_loop(name, batch):
    function, arguments, loop = ALL[name]
    rows, label = random_batch(BATCHES[batch])
    ours = value_and_gradient(lambda e: function(e, label, **arguments), rows)
    assert ours[0].shape == () and ours[0].dtype == "float32"
    reference = loop_value_and_gradient(loop, rows, label, arguments)
    assert_same(ours, reference, rtol_gradient=5e-4)
    if batch in ("balanced", "unbalanced"):
        assert ours[0] > 0 and np.abs(ours[1]).max() > 1e-3
    elif name not in ONE_SIDED:
        assert ours[0] == 0 and (ours[1] == 0).all()


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_value_and_gradient_against_reference_rows(name):
    function, arguments, loop = WITH_REFERENCE[name]
    rows, label = random_batch([1, 1, 2, 3, 4, 2])
    reference, reference_label = random_batch([2, 1, 1, 3, 2, 5, 5, 1], seed=1)
    mask = np.random.default_rng(2).random((6, 8)) < 0.8
    for pair_mask in (None, mask):
        ours = value_and_gradient(
            lambda e, pair_mask=pair_mask: function(
                e, label, reference=reference, reference_label=reference_label,
                pair_mask=pair_mask, **arguments,
            ),
            rows,
        )  # fmt: skip
        written_out = loop_value_and_gradient(
            loop, rows, label, arguments, reference=reference,
            reference_label=reference_label, pair_mask=pair_mask,
        )  # fmt: skip
        assert_same(ours, written_out, rtol_gradient=5e-4)
        assert ours[0] > 0


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_nothing_to_compare_with_costs_nothing(name):
    function, arguments, _ = WITH_REFERENCE[name]
    rows, label = random_batch(BATCHES["balanced"])
    value, gradient = value_and_gradient(
        lambda e: function(
            e, label, reference=rows, reference_label=label, pair_mask=np.zeros((1, 1), bool),
            **arguments,
        ),
        rows,
    )  # fmt: skip
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("name", ALL)
def test_rows_that_coincide(name):
    """Copies among positives, among negatives, and a batch of one and the same row."""
    function, arguments, loop = ALL[name]
    rows, label = random_batch([1, 1, 1, 2, 2, 3])
    rows[1] = rows[0]
    rows[3] = rows[0]
    for batch in (rows, np.repeat(rows[:1], 6, axis=0)):
        value, gradient = value_and_gradient(lambda e: function(e, label, **arguments), batch)
        reference = loop_value_and_gradient(loop, batch, label, arguments)[0]
        # float32 rows of one length differ by 1e-7 in a product, which a sharp loss multiplies.
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-5)
        assert np.isfinite(gradient).all() and np.abs(gradient).max() < 1e2


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_the_batch_has_no_say(name):
    function, arguments, _ = ALL[name]
    rows, label = random_batch(BATCHES["unbalanced"])
    order = np.array([4, 0, 7, 2, 9, 1, 8, 3, 5, 6])
    if name == "n-pairs":  # pairs the rows of a label in their order
        order = np.array([2, 0, 4, 1, 5, 3, 7, 8, 6, 9])
    value, gradient = value_and_gradient(lambda e: function(e, label, **arguments), rows)
    shuffled = value_and_gradient(lambda e: function(e, label[order], **arguments), rows[order])
    np.testing.assert_allclose(shuffled[0], value, rtol=1e-5)
    np.testing.assert_allclose(shuffled[1], gradient[order], atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize("name", ALL)
def test_large_embeddings_stay_finite(name):
    function, arguments, _ = ALL[name]
    rows, label = random_batch(BATCHES["unbalanced"])
    for scale in (0.0, 1e-3, 30.0):
        value, gradient = value_and_gradient(
            lambda e: function(e, label, **arguments), scale * rows
        )
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_labels_of_any_integer_type_and_shape(dtype, shape):
    rows, _ = random_batch(BATCHES["unbalanced"])
    label = np.array(BATCHES["unbalanced"])
    expected = loop_value_and_gradient(loops.triplet, rows, label, {})[0]
    value = losses.triplet_loss(rows, label.astype(dtype).reshape(shape))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_near_rows_keep_their_distance():
    """Rows 1e-5 apart: products formed in float32 would round the distance away."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1, 512))
    step = rng.normal(size=(1, 512))
    near = np.float32(np.concatenate([rows, rows + 1e-5 * step]))
    exact = np.linalg.norm(near[0].astype("float64") - near[1])
    np.testing.assert_allclose(pairs.distances(near, near)[0, 1], exact, rtol=1e-5)
    np.testing.assert_allclose(pairs.squared_distances(near, near)[0, 1], exact**2, rtol=1e-5)


def test_reductions_of_nothing():
    values = tf.constant([[3.0, -2.0, 5.0], [-1.0, -4.0, 2.0], [7.0, 8.0, 9.0]])
    mask = np.array([[True, True, False], [True, True, False], [False] * 3])
    for reduction, expected in (
        (pairs.masked_max, [3, -1, 0]),
        (pairs.masked_min, [-2, -4, 0]),
        (pairs.masked_logsumexp, [np.logaddexp(3, -2), np.logaddexp(-1, -4), pairs.LOWEST]),
    ):
        value, gradient = value_and_gradient(lambda x, f=reduction: f(x, mask, axis=1), values)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient.sum(axis=1), [1, 1, 0], atol=1e-6)
        assert not gradient[:, 2].any()
    for axis, expected in ((None, -1), (1, [0.5, -2.5, 0])):
        np.testing.assert_allclose(pairs.masked_mean(values, mask, axis=axis), expected)


# ---- PaddleClas

PADDLE = {  # name in the file: layer, labels
    "TripletLossV2_m0.5": (losses.TripletLossV2(), "pk8x2"),
    "TripletLossV2_m0.5_pk4x4": (losses.TripletLossV2(), "pk4x4"),
    "TripletLossV2_m0.3_nonorm": (
        losses.TripletLossV2(margin=0.3, normalize_feature=False), "pk8x2"
    ),
    "TripletLoss_m1": (losses.TripletLoss(), "pk8x2"),
    "TripletAngularMarginLoss_m0.5": (losses.TripletAngularMarginLoss(), "pk8x2"),
    "PairwiseCosface_m0.35_g64": (losses.PairwiseCosface(), "pk8x2"),
    "unbalanced/PairwiseCosface": (losses.PairwiseCosface(), "unbalanced"),
    "SupConLoss_v2": (losses.SupConLoss(), "pk8x2"),
    "SupConLoss_v4": (losses.SupConLoss(), "pk4x4"),
    "TriHardLoss": (losses.TriHardLoss(), "pk8x2"),
    "EmlLoss": (losses.EmlLoss(), "pk8x2"),
    "NpairsLoss": (losses.NpairsLoss(), "pk8x2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def paddle(request):
    return np.load(request.config.rootpath / "tests/data/pairwise_losses_paddle.npz")


def layer_value_and_gradient(layer, rows, label):
    return value_and_gradient(lambda e: tf.reduce_mean(layer(e, label)), rows)


@pytest.mark.parametrize("name", PADDLE)
def test_layers_equal_paddleclas(paddle, name):
    layer, labels = PADDLE[name]
    ours = layer_value_and_gradient(layer, paddle["x"], paddle[f"label_{labels}"])
    assert_same(ours, (paddle[f"{name}/loss"], paddle[f"{name}/grad"]), rtol_value=2e-5)


def test_angular_margin_without_the_constant_of_paddleclas(paddle):
    """There, a satisfied bound of a negative counts 1 instead of 0; gradients agree."""
    layer = losses.TripletAngularMarginLoss(
        add_absolute=True, absolute_loss_weight=0.1, ap_value=0.8, an_value=0.4
    )
    ours = layer_value_and_gradient(layer, paddle["x"], paddle["label_pk8x2"])
    name = "TripletAngularMarginLoss_shitu2"
    rows, label = paddle["x"].astype("float64"), paddle["label_pk8x2"]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    satisfied = [
        max(rows[i] @ rows[j] for j in range(16) if label[j] != label[i]) <= 0.4 for i in range(16)
    ]
    assert 0 < np.mean(satisfied) < 1
    value = paddle[f"{name}/loss"] - 0.1 * np.mean(satisfied)
    assert value == pytest.approx(0.95675, abs=1e-5)
    assert_same(ours, (value, paddle[f"{name}/grad"]), rtol_value=2e-5)


def unit(rows):
    rows = rows.astype("float64")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_margin_sample_mining_and_the_gradient_of_paddleclas(paddle):
    """Its maximum gives the gradient to both orders of the one pair, so twice."""
    ours = layer_value_and_gradient(losses.MSMLoss(), paddle["x"], paddle["label_pk8x2"])
    assert_same(ours, (paddle["MSMLoss/loss"], paddle["MSMLoss/grad"] / 2), rtol_value=2e-5)


@pytest.mark.parametrize("labels", ["pk8x2", "unbalanced"])
def test_contrastive_without_the_broadcast_of_paddleclas(paddle, labels):
    """It compares a column of labels, so each selected row of the batch selects all columns."""
    label = paddle[f"label_{labels}"][:, 0]
    rows = unit(paddle["x"])
    cosine = rows @ rows.T
    theirs = 0.0
    for i in range(16):
        same = (label == label[i]).sum()
        theirs += same * sum(1 - s for s in cosine[i] if s < 1 - 1e-5)
        theirs += (16 - same) * sum(s for s in cosine[i] if s > 0.5)
    name = {"pk8x2": "ContrastiveLoss_m0.5", "unbalanced": "unbalanced/ContrastiveLoss"}[labels]
    assert paddle[f"{name}/loss"] == pytest.approx(theirs / 16, rel=1e-5)
    ours = losses.ContrastiveLoss()(paddle["x"], label)[0]
    expected = loops.contrastive(rows, rows, *loops.pair_lists(label))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_supcon_of_long_vectors_without_the_underflow_of_paddleclas(paddle):
    """It subtracts the row's product with itself, here far the largest: all others underflow."""
    label = paddle["label_pk8x2"][:, 0]
    rows = paddle["x"].astype("float64")
    logits = rows @ rows.T / 0.07
    floor = np.log(15) - 88.7228  # fifteen times the smallest value of its exponential
    theirs = [
        logits[i, i] + floor - logits[i, [j for j in range(16) if label[j] == label[i] and j != i]]
        for i in range(16)
    ]
    name = "SupConLoss_v2_nonorm_t0.07"
    assert paddle[f"{name}/loss"] == pytest.approx(np.mean(theirs), rel=1e-5)
    ours = losses.SupConLoss(normalize_feature=False)(paddle["x"], label)[0]
    exact = [
        np.logaddexp.reduce(np.delete(logits[i], i)) + theirs_i - logits[i, i] - floor
        for i, theirs_i in enumerate(theirs)
    ]
    np.testing.assert_allclose(ours, np.mean(exact), rtol=1e-5)


@pytest.mark.parametrize(
    "layer, loop, arguments",
    [
        (losses.TripletLoss(), loops.triplet, {"margin": 1.0}),
        (losses.TripletLossV2(), loops.triplet, {}),
        (losses.SupConLoss(), loops.supcon, {}),
        (losses.TripletAngularMarginLoss(), loops.triplet_angular_margin, {}),
    ],
)
def test_unbalanced_batches_where_paddleclas_fails(paddle, layer, loop, arguments):
    """It raises an error; only TripletLoss gives a value, with singletons for triplets."""
    label = paddle["label_unbalanced"][:, 0]
    rows = unit(paddle["x"]) if layer.normalize_feature else paddle["x"].astype("float64")
    value = float(layer(paddle["x"], label)[0])
    positive, negative = loops.pair_lists(label)
    assert value == pytest.approx(loop(rows, rows, positive, negative, **arguments), rel=1e-5)
    if isinstance(layer, losses.TripletLoss):
        positive = [[*ps, i] for i, ps in enumerate(positive)]  # itself among them
        theirs = loop(rows, rows, positive, negative, **arguments)
        assert paddle["unbalanced/TripletLoss/loss"] == pytest.approx(theirs, rel=1e-5)
        assert theirs < value


# ---- tensorflow-addons and tensorflow-similarity


@pytest.fixture(scope="module")
def legacy(request):
    return np.load(request.config.rootpath / "tests/data/pairwise_losses_legacy.npz")


def golden(legacy, name, case):
    return legacy[f"{name}/{case}/value"], legacy[f"{name}/{case}/grad"]


def batch_of(legacy, case):
    return legacy[f"input/{case}_emb"], legacy[f"input/{case}_labels"]


TFA_DISTANCE = {"L2": "l2", "squared-L2": "squared", "angular": "cosine"}


@pytest.mark.parametrize("case", ["a", "b", "c", "raw"])
@pytest.mark.parametrize("margin", [0.3, 1.0])
@pytest.mark.parametrize("metric", TFA_DISTANCE)
def test_semi_hard_triplets_equal_tensorflow_addons(legacy, metric, margin, case):
    rows, label = batch_of(legacy, case)
    ours = value_and_gradient(
        lambda e: losses.triplet_loss(
            e, label, margin=margin, distance=TFA_DISTANCE[metric], triplets="semi_hard"
        ),
        rows,
    )
    name = f"tfa.TripletSemiHardLoss(margin={margin},distance_metric={metric})"
    assert_same(ours, golden(legacy, name, case))


@pytest.mark.parametrize("case", ["a", "c", "raw"])
@pytest.mark.parametrize("margin, soft", [(0.3, False), (1.0, False), (1.0, True)])
@pytest.mark.parametrize("metric", TFA_DISTANCE)
def test_hard_triplets_equal_tensorflow_addons(legacy, metric, margin, soft, case):
    rows, label = batch_of(legacy, case)
    distance = TFA_DISTANCE[metric]
    ours = value_and_gradient(
        lambda e: losses.triplet_loss(e, label, margin=None if soft else margin, distance=distance),
        rows,
    )
    name = f"tfa.TripletHardLoss(margin={margin},soft={soft},distance_metric={metric})"
    assert_same(ours, golden(legacy, name, case))


@pytest.mark.parametrize("metric", TFA_DISTANCE)
def test_hard_triplets_leave_out_singletons(legacy, metric):
    """tensorflow-addons takes a singleton for its own positive, at distance 0, and averages it."""
    rows, label = batch_of(legacy, "b")
    distance = loops.DISTANCE[TFA_DISTANCE[metric]]
    rows64 = rows.astype("float64")
    alone = [i for i in range(24) if (label == label[i]).sum() == 1]
    assert len(alone) == 2
    theirs = sum(
        max(1.0 - min(distance(rows64[i], rows64[j]) for j in range(24) if j != i), 0)
        for i in alone
    )
    name = f"tfa.TripletHardLoss(margin=1.0,soft=False,distance_metric={metric})"
    value = losses.triplet_loss(rows, label, margin=1.0, distance=TFA_DISTANCE[metric])
    np.testing.assert_allclose(value, (24 * legacy[f"{name}/b/value"] - theirs) / 22, rtol=2e-5)


@pytest.mark.parametrize("case", ["a", "b", "c", "raw"])
@pytest.mark.parametrize("margin", [0.3, 1.0])
def test_lifted_structure_equals_tensorflow_addons(legacy, margin, case):
    rows, label = batch_of(legacy, case)
    ours = value_and_gradient(lambda e: losses.lifted_structure_loss(e, label, margin=margin), rows)
    assert_same(ours, golden(legacy, f"tfa.LiftedStructLoss(margin={margin})", case))


@pytest.mark.parametrize("case", ["a", "b", "c", "raw"])
@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_contrastive_pairs_equal_tensorflow_addons(legacy, margin, case):
    rows, _ = batch_of(legacy, case)
    name = f"tfa.ContrastiveLoss(margin={margin})"
    y = legacy[f"{name}/{case}/y"]
    label = np.arange(len(rows)) // 2 * 2
    label[1::2] += y == 0
    pair_mask = np.zeros((len(rows), len(rows)), bool)
    pair_mask[np.arange(0, len(rows), 2), np.arange(1, len(rows), 2)] = True
    ours = value_and_gradient(
        lambda e: losses.contrastive_loss(
            e, label, distance="l2", margin=margin, pair_mask=pair_mask
        ),
        rows,
    )
    assert_same(ours, golden(legacy, name, case))


@pytest.mark.parametrize("case", ["a", "raw"])
@pytest.mark.parametrize("name", ["tfa.NpairsLoss", "tfa.NpairsLoss_dup"])
def test_n_pairs_equals_tensorflow_addons(legacy, name, case):
    rows, _ = batch_of(legacy, case)
    anchor, partner, label = (
        legacy[f"{name}/{case}/{k}"] for k in ("anchor_idx", "positive_idx", "labels")
    )
    alternating = np.stack([anchor, partner], axis=1).reshape(-1)
    ours = value_and_gradient(
        lambda e: losses.n_pairs_loss(
            tf.gather(e, alternating), np.repeat(label, 2), reg_lambda=0.0
        ),
        rows,
    )
    assert_same(ours, golden(legacy, name, case))


def per_example(legacy, name, case, label):
    """tensorflow-similarity's losses of the anchors that have a positive."""
    kept = [(label == each).sum() > 1 for each in label]
    return np.squeeze(legacy[f"{name}/{case}/per_example"])[kept]


TFSIM_TRIPLETS = [  # its cosine does not normalise: left out for raw rows
    (distance, miner, margin, case)
    for distance in ("cosine", "euclidean", "squared_euclidean")
    for miner in ("none", "semi_hard")
    for margin in (0.2, None)
    for case in ("a", "b", "c", "raw")
    if (distance, case) != ("cosine", "raw")
    and (distance == "cosine" or miner == "semi_hard" or margin is not None)
]


@pytest.mark.parametrize("distance, miner, margin, case", TFSIM_TRIPLETS)
def test_hardest_positives_equal_tensorflow_similarity(legacy, distance, miner, margin, case):
    negatives = {"none": "hard", "semi_hard": "semi-hard"}[miner]
    name = f"tfsim.TripletLoss(distance={distance},pos=hard,neg={negatives},margin={margin})"
    rows, label = batch_of(legacy, case)
    ours = {"cosine": "cosine", "euclidean": "l2", "squared_euclidean": "squared"}[distance]
    value, gradient = value_and_gradient(
        lambda e: losses.triplet_loss(e, label, margin=margin, distance=ours, miner=miner), rows
    )
    expected = per_example(legacy, name, case, label)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
    if case != "b" and distance != "cosine":  # its cosine's gradient keeps the radial part
        assert_same((value, gradient), golden(legacy, name, case))


MULTI_SIMILARITY = [(2.0, 40.0, 0.1, 0.5), (2.0, 50.0, 0.1, 1.0), (2.0, 10.0, 1.0, 0.5)]


@pytest.mark.parametrize("case", ["a", "b", "c"])
@pytest.mark.parametrize("alpha, beta, epsilon, lmda", MULTI_SIMILARITY)
def test_multi_similarity_equals_tensorflow_similarity(legacy, alpha, beta, epsilon, lmda, case):
    rows, label = batch_of(legacy, case)
    ours = value_and_gradient(
        lambda e: losses.multi_similarity_loss(
            e, label, alpha=alpha, beta=beta, epsilon=epsilon, base=lmda
        ),
        rows,
    )
    name = (
        f"tfsim.MultiSimilarityLoss(alpha={alpha},beta={beta},epsilon={epsilon},"
        f"lmda={lmda},center=1.0)"
    )
    assert_same(ours, golden(legacy, name, case))


TFSIM_SOFT_NEAREST = [
    (distance, temperature, case)
    for distance in ("cosine", "squared_euclidean")
    for temperature in (0.1, 1.0, 5.0)
    for case in ("a", "b", "c", "raw")
    if (distance, case) != ("cosine", "raw")
    and (temperature, case) != (0.1, "raw")  # their 1e-9 is larger than some ratios
]


@pytest.mark.parametrize("distance, temperature, case", TFSIM_SOFT_NEAREST)
def test_soft_nearest_neighbor_equals_tensorflow_similarity(legacy, distance, temperature, case):
    rows, label = batch_of(legacy, case)
    name = f"tfsim.SoftNearestNeighborLoss(distance={distance},temperature={temperature})"
    ours = {"cosine": "cosine", "squared_euclidean": "squared"}[distance]
    value, gradient = value_and_gradient(
        lambda e: losses.soft_nearest_neighbor_loss(
            e, label, temperature=temperature, distance=ours
        ),
        rows,
    )
    theirs = per_example(legacy, name, case, label)
    ratio = np.exp(-theirs.astype("float64")) - 1e-9  # without what they add to it
    np.testing.assert_allclose(value, -np.log(ratio).mean(), rtol=1e-5)
    if case != "b" and distance != "cosine" and ratio.min() > 1e-4:
        assert_same((value, gradient), golden(legacy, name, case))


@pytest.mark.parametrize("warmup", [0, 1])
def test_reference_rows_equal_tensorflow_similarity_cross_batch_memory(legacy, warmup):
    """Value and gradient; there the batch's own part of the memory gets a gradient."""
    name = f"tfsim.XBM(MultiSimilarityLoss,memory_size=14,warmup_steps={warmup})"
    rows, label = batch_of(legacy, "b")
    for step in range(warmup, 4):
        now = slice(6 * step, 6 * step + 6)
        batches = [np.arange(6 * k, 6 * k + 6) for k in range(step - 1, warmup - 1, -1)]
        before = np.concatenate([np.zeros(0, int), *batches])[:8]  # newest batch first
        own = np.concatenate([~np.eye(6, dtype=bool), np.ones((6, len(before)), bool)], axis=1)

        def loss(e, now=now, before=before, own=own):
            return losses.multi_similarity_loss(
                e, label[now],
                reference=tf.concat([e, rows[before]], axis=0),
                reference_label=np.concatenate([label[now], label[before]]),
                pair_mask=own, beta=40.0,
            )  # fmt: skip

        ours = value_and_gradient(loss, rows[now])
        assert_same(ours, (legacy[f"{name}/b/values"][step], legacy[f"{name}/b/grads"][step]))


def test_circle_equals_keras_where_no_anchor_is_left_out():
    """Keras' per-anchor values; its mean leaves out the anchors with loss 0."""
    rows, label = random_batch(BATCHES["unbalanced"])
    rows = rows.astype("float32")
    each = keras.losses.Circle(gamma=8.0, margin=0.3, reduction="none")(
        np.array(BATCHES["unbalanced"]), rows
    )
    each = np.array(each)
    assert (each == 0).sum() == 3  # the singletons
    value = losses.circle_loss(rows, label, gamma=8.0, margin=0.3)
    np.testing.assert_allclose(value, each.mean(), rtol=1e-5)


# ---- miners


def random_masks(seed=0):
    rng = np.random.default_rng(seed)
    distance = rng.uniform(0, 2, (40, 12))
    kind = rng.integers(3, size=(40, 12))  # positive, negative, neither
    kind[:3] = [[0] * 12, [1] * 12, [2] * 12]
    return distance, kind == 0, kind == 1


def mined(miner, *arguments, **options):
    return [np.array(mask) for mask in miner(*arguments, **options)]


def test_hard_miner():
    distance, positive, negative = random_masks()
    kept = mined(miners.hard, distance, positive, negative)
    for i in range(40):
        ps, ns = np.flatnonzero(positive[i]), np.flatnonzero(negative[i])
        assert list(np.flatnonzero(kept[0][i])) == sorted(ps, key=lambda j: -distance[i, j])[:1]
        assert list(np.flatnonzero(kept[1][i])) == sorted(ns, key=lambda j: distance[i, j])[:1]


def test_semi_hard_miner():
    distance, positive, negative = random_masks()
    kept = mined(miners.semi_hard, distance, positive, negative)
    assert (kept[0] == positive).all()
    fallbacks = 0
    for i in range(40):
        ps, ns = np.flatnonzero(positive[i]), np.flatnonzero(negative[i])
        beyond = [j for j in ns if distance[i, j] > max(distance[i, ps], default=0)]
        best = sorted(beyond or ns[::-1], key=lambda j: distance[i, j] * (1 if beyond else -1))[:1]
        fallbacks += bool(len(ns) and not beyond)
        assert list(np.flatnonzero(kept[1][i])) == best
    assert fallbacks


def test_multi_similarity_miner():
    distance, positive, negative = random_masks()
    kept = mined(miners.multi_similarity, distance, positive, negative, epsilon=0.2)
    for i in range(40):
        ps, ns = np.flatnonzero(positive[i]), np.flatnonzero(negative[i])
        both = len(ps) and len(ns)
        keep_p = [j for j in ps if both and distance[i, j] + 0.2 > distance[i, ns].min()]
        keep_n = [j for j in ns if both and distance[i, j] - 0.2 < distance[i, ps].max()]
        assert list(np.flatnonzero(kept[0][i])) == keep_p
        assert list(np.flatnonzero(kept[1][i])) == keep_n


def test_distance_weighted_miner_draws_one_over_the_density():
    distances = np.array([0.2, 0.5, 0.8, 1.1, 1.3, 1.39, 1.5, 0.9])
    negative = np.tile([True] * 7 + [False], (20000, 1))
    dimension, seed = 8, (3, 5)
    tiled = np.tile(distances, (20000, 1))
    positive, drawn = mined(
        miners.distance_weighted, tiled, ~negative, negative, dimension=dimension, seed=seed
    )
    assert (positive == ~negative).all() and (drawn.sum(axis=1) == 1).all()
    weight = np.array(
        [
            max(d, 0.5) ** (2 - dimension) * (1 - max(d, 0.5) ** 2 / 4) ** ((3 - dimension) / 2)
            for d in distances[:6]
        ]
    )
    expected = 20000 * weight / weight.sum()
    counts = drawn.sum(axis=0)
    assert counts[6] == counts[7] == 0  # too far; not a negative
    chi_squared = ((counts[:6] - expected) ** 2 / expected).sum()
    assert chi_squared < 20.5  # 5 degrees of freedom: p = 0.001
    again = mined(
        miners.distance_weighted, tiled, ~negative, negative, dimension=dimension, seed=seed
    )
    other = mined(
        miners.distance_weighted, tiled, ~negative, negative, dimension=dimension, seed=(3, 6)
    )
    assert (again[1] == drawn).all() and (other[1] != drawn).any()


def test_distance_weighted_miner_of_far_negatives_and_of_none():
    distance = np.full((2000, 4), 1.7)
    negative = np.tile([True, True, True, False], (2000, 1))
    negative[0] = False
    drawn = mined(
        miners.distance_weighted, distance, ~negative, negative, dimension=512, seed=(0, 0)
    )[1]
    assert not drawn[0].any()
    assert (np.abs(drawn.sum(axis=0)[:3] - 2000 / 3) < 90).all()  # evenly: four sigma


@pytest.mark.parametrize("miner", miners.MINERS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", ["triplet", "contrastive", "multi-similarity", "circle"])
def test_miners_narrow_what_a_loss_sees(name, batch, miner):
    """The loop sees only the pairs the miner left; all stays finite where it left none."""
    function, arguments, loop = ALL[name]
    rows, label = random_batch(BATCHES[batch])
    value, gradient = value_and_gradient(
        lambda e: function(e, label, miner=miner, seed=(1, 2), **arguments), rows
    )
    everything = pairs.make_pairs(rows, label)
    matrix = np.array([[loops.cosine_distance(x, y) for y in rows] for x in rows])
    kept = miners.mine(miner, matrix, everything, seed=(1, 2))
    positive = [list(np.flatnonzero(row)) for row in np.array(kept.positive)]
    negative = [list(np.flatnonzero(row)) for row in np.array(kept.negative)]
    if name == "multi-similarity":
        if miner not in ("multi_similarity",):
            loop = multi_similarity_of_all
    expected = loop(rows, rows, positive, negative, e0=rows, r0=rows, **arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all()


def multi_similarity_of_all(e, r, positive, negative, beta, **_):
    """The loss without the miner of its own that the loop holds."""
    total = 0.0
    for i in range(len(e)):
        total += np.log1p(sum(np.exp(-2 * (e[i] @ r[p] - 0.5)) for p in positive[i])) / 2
        total += np.log1p(sum(np.exp(beta * (e[i] @ r[n] - 0.5)) for n in negative[i])) / beta
    return total / len(e)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda e, y: losses.triplet_loss(e, y, miner="soft"),
            "miner: expected one of ['none', 'hard', 'semi_hard', 'multi_similarity', "
            "'distance_weighted'], got 'soft'",
        ),
        (
            lambda e, y: losses.triplet_loss(e, y, triplets="easy"),
            "triplets: expected one of ['hard', 'semi_hard', 'all'], got 'easy'",
        ),
        (
            lambda e, y: losses.triplet_loss(e, y, distance="L2"),
            "distance: expected one of ['l2', 'squared', 'cosine'], got 'L2'",
        ),
        (
            lambda e, y: losses.soft_nearest_neighbor_loss(e, y, distance="L2"),
            "distance: expected one of ['l2', 'squared', 'cosine'], got 'L2'",
        ),
        (
            lambda e, y: losses.contrastive_loss(e, y, distance="squared"),
            "distance: expected one of ['cosine', 'l2'], got 'squared'",
        ),
        (
            lambda e, y: losses.supcon_loss(e, y, reference=e),
            "reference: expected together with reference_label",
        ),
    ],
)
def test_functions_refuse_bad_arguments(call, message):
    rows, label = random_batch([1, 1, 2])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(rows, label)
