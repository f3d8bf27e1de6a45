"""Mixup and CutMix against NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import beta, chisquare, ks_2samp, kstest
from test_augment import seeds

from keras_featx.augment import mixing
from keras_featx.errors import ConfigError
from keras_featx.sections import Component

PATH = "DataLoader.Train.batch_transform_ops"
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 9, 13, 3), dtype="uint8")


def many(mix, images, number):
    """Results over many seeds: images, partners and shares, one batch a row."""
    images = tf.constant(images)
    draw = tf.function(
        lambda s: tf.map_fn(
            lambda seed: mix(images, seed), s, fn_output_signature=(tf.uint8, tf.int32, tf.float32)
        )
    )
    return [part.numpy() for part in draw(seeds(number))]


def test_mixup_is_the_weighted_mean():
    mixed, partners, shares = many(mixing.mixup(alpha=1.0), IMAGES, 200)
    assert mixed.dtype == np.uint8 and partners.dtype == np.int32 and shares.dtype == np.float32
    own = shares.astype("float64")[..., None, None, None]
    exact = own * IMAGES + (1 - own) * IMAGES[partners]
    assert np.abs(mixed - exact).max() <= 0.5
    assert len(np.unique(shares)) > 200 and shares.min() < 0.02 and shares.max() > 0.98


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 8.0])
def test_shares_of_mixup_are_beta(alpha):
    flat = np.zeros((50, 1, 1, 3), "uint8")
    _, _, shares = many(mixing.mixup(alpha=alpha), flat, 100)
    # They come in steps of 1/256; a uniform offset makes them continuous again.
    offset = np.random.default_rng(0).uniform(-0.5, 0.5, shares.shape)
    steps = np.arange(257)
    edges = ((steps - 0.5) / 256).clip(0, 1), ((steps + 0.5) / 256).clip(0, 1)
    low, high = (beta.cdf(edge, alpha, alpha) for edge in edges)
    place = np.rint(shares * 256).astype(int)
    np.testing.assert_array_equal(place, shares * 256)
    quantiles = low[place] + (high - low)[place] * (offset + 0.5)
    assert kstest(quantiles.ravel(), "uniform").pvalue > 1e-6


def rectangle(one, own, other):
    """Rows and columns where the image is not its own; it must be all and only other's there."""
    cut = (one != own).all(axis=2)
    rows, columns = np.flatnonzero(cut.any(axis=1)), np.flatnonzero(cut.any(axis=0))
    assert cut.sum() == len(rows) * len(columns)
    np.testing.assert_array_equal(one, np.where(cut[..., None], other, own))
    return rows, columns


def far_apart(batch, height, width):
    """Images none of whose values another has."""
    values = np.random.default_rng(0).integers(0, 256 // batch, (batch, height, width, 3))
    return (values * batch + np.arange(batch)[:, None, None, None]).astype("uint8")


def test_cut_mix_pastes_a_rectangle_and_counts_what_is_left():
    images = far_apart(5, 40, 60)
    mixed, partners, shares = many(mixing.cut_mix(), images, 120)
    partial = 0
    for batch, partner, share in zip(mixed, partners, shares, strict=True):
        for i in range(5):
            if partner[i] == i:
                np.testing.assert_array_equal(batch[i], images[i])
                continue
            rows, columns = rectangle(batch[i], images[i], images[partner[i]])
            left = 1 - len(rows) * len(columns) / 2400
            assert share[i] == pytest.approx(left, abs=1e-6)
            partial += 0 < left < 1
    assert partial > 300


def simulated_shares(rng, number, alpha, height, width):
    """The paper's rule: a box around a centre anywhere, cut at the edge."""
    side = np.sqrt(1 - rng.beta(alpha, alpha, number))
    area = 1
    for length in (height, width):
        size = (length * side).astype(int)
        first = rng.integers(0, length, number) - size // 2
        area = area * (np.minimum(first + size, length) - np.maximum(first, 0))
    return 1 - area / (height * width)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_shares_of_cut_mix_are_those_of_the_paper(alpha):
    flat = np.zeros((50, 40, 60, 3), "uint8")
    _, _, shares = many(mixing.cut_mix(alpha=alpha), flat, 100)
    reference = simulated_shares(np.random.default_rng(0), 20_000, alpha, 40, 60)
    assert ks_2samp(shares.ravel(), reference).pvalue > 1e-6


@pytest.mark.parametrize("build", [mixing.mixup, mixing.cut_mix])
def test_partners_are_a_random_permutation(build):
    _, partners, shares = many(build(), IMAGES[:3], 3000)
    assert (np.sort(partners, axis=1) == np.arange(3)).all()
    _, counts = np.unique(partners, axis=0, return_counts=True)
    assert len(counts) == 6 and chisquare(counts).pvalue > 1e-6
    # Rows draw shares of their own.
    assert np.abs(np.corrcoef(shares.T) - np.eye(3)).max() < 0.1


@pytest.mark.parametrize("build", [mixing.mixup, mixing.cut_mix])
@pytest.mark.parametrize("alpha", [1e-4, 1e4])
def test_extreme_shapes_of_the_distribution_stay_finite(build, alpha):
    _, _, shares = many(build(alpha=alpha), IMAGES, 100)
    assert np.isfinite(shares).all() and (shares >= 0).all() and (shares <= 1).all()
    if alpha < 1:
        assert np.isin(shares, (0, 1)).mean() > (0.9 if build is mixing.mixup else 0.4)


@pytest.mark.parametrize("build", [mixing.mixup, mixing.cut_mix])
def test_a_batch_is_mixed_with_its_probability(build):
    mixed, partners, shares = many(build(probability=0.3, alpha=1.0), IMAGES, 2000)
    alone = (shares == 1).all(axis=1)
    assert (~alone).mean() == pytest.approx(0.3, abs=5 * (0.21 / 2000) ** 0.5)
    np.testing.assert_array_equal(partners[alone], np.tile(np.arange(6), (alone.sum(), 1)))
    np.testing.assert_array_equal(mixed[alone], np.broadcast_to(IMAGES, mixed[alone].shape))


@pytest.mark.parametrize("build", [mixing.mixup, mixing.cut_mix])
@pytest.mark.parametrize("shape", [(1, 5, 5, 3), (7, 1, 1, 3), (3, 33, 1, 3)])
def test_batches_of_any_size_in_a_dataset(build, shape):
    """The same seed gives the same batch, in a graph of unknown sizes and alone."""
    images = np.random.default_rng(1).integers(0, 256, shape, dtype="uint8")
    mix = build(alpha=1.0)
    data = tf.data.Dataset.from_generator(
        lambda: [(images, seed) for seed in seeds(4)],
        output_signature=(
            tf.TensorSpec([None, None, None, 3], tf.uint8),
            tf.TensorSpec([2], tf.int64),
        ),
    ).map(mix)
    found = list(data.as_numpy_iterator())
    for seed, result in zip(seeds(4), found, strict=True):
        for part, alone in zip(result, mix(tf.constant(images), seed), strict=True):
            np.testing.assert_array_equal(part, alone)
        assert result[0].shape == shape and result[0].dtype == np.uint8
    if shape[0] > 1 and build is mixing.mixup:  # of one pixel nothing can be cut
        assert len({shares.tobytes() for _, _, shares in found}) == 4


def components(*pairs):
    return [Component(name=name, args=arguments) for name, arguments in pairs]


def test_one_of_several_ways_is_taken_with_its_probability():
    mix = mixing.build_mixing(
        components(("Mixup", {"probability": 0.2, "alpha": 5.0}), ("CutMix", {"probability": 0.5})),
        PATH,
    )
    images = far_apart(2, 30, 30)
    mixed, partners, shares = many(mix, images, 3000)
    swapped = partners[:, 0] == 1  # else nobody is mixed with another
    kinds = {"alone": 0, "CutMix": 0, "Mixup": 0}
    for batch, partner, share in zip(
        mixed[swapped], partners[swapped], shares[swapped], strict=True
    ):
        from_two = np.isin(batch, images.reshape(2, -1)).all() and all(
            ((batch[i] == images[i]) | (batch[i] == images[partner[i]])).all() for i in range(2)
        )
        kinds["CutMix" if from_two else "Mixup"] += 1
        assert (share < 1).any() or from_two
    kinds["alone"] = (shares == 1).all(axis=1).sum()
    number = kinds["CutMix"] + kinds["Mixup"]
    # A permutation of two swaps them half the time.
    assert number / 3000 == pytest.approx(0.35, abs=5 * (0.25 / 3000) ** 0.5)
    assert kinds["Mixup"] / number == pytest.approx(2 / 7, abs=5 * (0.21 / number) ** 0.5)
    assert kinds["alone"] / 3000 == pytest.approx(0.3, abs=0.05)


def test_one_way_from_a_config_is_that_way():
    op = components(("CutMix", {"alpha": 0.7, "probability": 0.6}))
    ours = many(mixing.build_mixing(op, PATH), IMAGES, 50)
    for part, alone in zip(
        ours, many(mixing.cut_mix(alpha=0.7, probability=0.6), IMAGES, 50), strict=True
    ):
        np.testing.assert_array_equal(part, alone)


def test_no_way_is_none():
    assert mixing.build_mixing([], PATH) is None


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ([("Mixup", {"alpha": 0.0})], ".0.alpha: expected above 0, got 0.0"),
        (
            [("Mixup", {"probability": 0.1}), ("CutMix", {"alpha": -1.0})],
            ".1.alpha: expected above 0, got -1.0",
        ),
        ([("CutMix", {"probability": 1.1})], ".0.probability: expected in [0, 1], got 1.1"),
        ([("Mixup", {"probability": -0.1})], ".0.probability: expected in [0, 1], got -0.1"),
        ([("Mixup", {}), ("CutMix", {})], ": expected probabilities that sum to at most 1, got 2"),
        (
            [("Cutmix", {})],
            ".0.name: expected one of ['CutMix', 'Mixup'], got 'Cutmix'; did you mean 'CutMix'?",
        ),
    ],
)
def test_impossible_ways_are_refused(ops, message):
    with pytest.raises(ConfigError) as error:
        mixing.build_mixing(components(*ops), PATH)
    assert str(error.value) == f"{PATH}{message}"


def test_probabilities_that_make_one_are_taken():
    """In floating point, ten tenths are a little less, three of 1/3 maybe more."""
    ops = [("Mixup", {"probability": 0.1})] * 7 + [("CutMix", {"probability": 0.3})]
    _, partners, shares = many(mixing.build_mixing(components(*ops), PATH), IMAGES, 200)
    assert not ((shares == 1).all(axis=1) & (partners == np.arange(6)).all(axis=1)).any()
