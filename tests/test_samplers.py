"""Which sample comes when, and the training pipeline that follows it."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI

from keras_featx import components
from keras_featx.config import from_dict
from keras_featx.data import pipeline
from keras_featx.data.samplers import (
    category_aware,
    hard_class,
    identity_balanced,
    neighbour_table,
    pk_sampler,
    shuffle,
)
from keras_featx.data.samplers.order import hashed, permuted
from keras_featx.data.samples import Samples, turned_identities
from keras_featx.errors import ConfigError


def samples(size, source="list.txt"):
    return Samples(source, [f"{i}.png" for i in range(size)], np.zeros(size, int), [])


def dataset(order, first, last):
    return tf.data.Dataset.range(first, last).map(order.batch, num_parallel_calls=2)


def steps(order, first, last):
    """Rows and numbers of steps ``first`` to ``last``, each ``(steps, batch)``."""
    rows, numbers = next(iter(dataset(order, first, last).batch(last - first)))
    return rows.numpy(), numbers.numpy()


def passes(size, batch_size, seed, number):
    """The rows of the first passes, ``(number, rows)``."""
    order = shuffle(samples(size), seed, batch_size=batch_size)
    length = order.steps_per_pass * batch_size
    rows, numbers = steps(order, 0, number * order.steps_per_pass)
    np.testing.assert_array_equal(numbers.ravel(), np.arange(number).repeat(length))
    return rows.reshape(number, length)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 48, 255, 256, 257, 1000])
def test_a_pass_is_a_permutation(size):
    for rows in passes(size, 1, seed=3, number=4):
        np.testing.assert_array_equal(np.sort(rows), np.arange(size))


def test_a_pass_over_a_long_list_is_a_permutation():
    """More than 2^16 rows: index_shuffle's blocks grow."""
    order = shuffle(samples(70_001), 3, batch_size=10_000)
    rows, _ = steps(order, 0, 7)
    assert len(set(rows.ravel())) == 70_000 and 0 <= rows.min() <= rows.max() <= 70_000


@pytest.mark.parametrize(("size", "batch_size"), [(10, 3), (10, 4), (10, 10), (17, 16), (100, 33)])
def test_what_does_not_fill_a_batch_waits(size, batch_size):
    order = shuffle(samples(size), 0, batch_size=batch_size)
    assert (order.batch_size, order.steps_per_pass) == (batch_size, size // batch_size)
    rows = passes(size, batch_size, seed=0, number=40)
    assert rows.shape == (40, size // batch_size * batch_size)
    for one in rows:
        assert len(set(one)) == len(one)
    assert set(rows.ravel()) == set(range(size))  # nothing waits for ever


def test_each_pass_has_an_order_of_its_own():
    rows = passes(50, 10, seed=0, number=600)
    assert len(np.unique(rows, axis=0)) == 600


def test_each_seed_has_an_order_of_its_own():
    orders = {
        tuple(passes(50, 10, seed, number=1)[0])
        for seed in (0, 1, 2, 255, 256, 257, 512, 2**16, 2**31, 2**31 + 256)
    }
    assert len(orders) == 10


def test_the_passes_of_one_seed_are_not_those_of_the_next():
    one, other = (passes(50, 10, seed, number=20) for seed in (7, 8))
    assert len(np.unique(np.concatenate([one, other]), axis=0)) == 40


def test_every_row_is_as_likely_everywhere():
    """Counts of each row at each place over 250 passes, by chi-squared; and of neighbours."""
    size, number = 40, 250
    rows = passes(size, 1, seed=1, number=number)
    at_place, after = np.zeros((size, size)), np.zeros((size, size))
    np.add.at(at_place, (np.arange(size)[None], rows), 1)
    np.add.at(after, (rows[:, :-1], rows[:, 1:]), 1)
    pairs = after[~np.eye(size, dtype=bool)]
    for counts, expected, freedom in (
        (at_place.ravel(), number / size, (size - 1) ** 2),
        (pairs, number / size, size * (size - 1)),
    ):
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert abs(statistic - freedom) < 6 * (2 * freedom) ** 0.5


def test_steps_far_into_a_run():
    order = shuffle(samples(1000), 5, batch_size=10)
    first = 2**40 // 100 * 100
    rows, numbers = steps(order, first, first + 100)
    np.testing.assert_array_equal(np.sort(rows.ravel()), np.arange(1000))
    assert set(numbers.ravel()) == {first // 100}


@pytest.mark.parametrize("sampler", [shuffle, identity_balanced])
@pytest.mark.parametrize("batch_size", [0, -1, 6, 256])
def test_an_impossible_batch_size_is_refused(sampler, batch_size):
    with pytest.raises(ConfigError) as error:
        sampler(samples(5, "train.txt"), 0, batch_size=batch_size)
    assert str(error.value) == (
        "DataLoader.Train.sampler.batch_size: expected from 1 to 5 (the images of train.txt), "
        f"got {batch_size}"
    )


@pytest.fixture(scope="module")
def emoji():
    rows = (EMOJI_MINI / "train_list.txt").read_text().splitlines()[:10]
    paths, labels = zip(*(row.split() for row in rows), strict=True)
    # A label of its own for each image, to tell them apart.
    rows = np.arange(1, len(labels) + 1)
    return Samples("train", [str(EMOJI_MINI / p) for p in paths], np.arange(len(labels)), rows)


def train_section(dataset=None, **more):
    dataset = {"name": "ClassFolders", "image_root": "x", **(dataset or {})}
    return from_dict({"DataLoader": {"Train": {"dataset": dataset, **more}}}).DataLoader.Train


def batches(
    emoji,
    first_step,
    last_step,
    seed=1,
    ops=("RandomResizedCrop", "RandomFlip"),
    size=(32, 40),
    order=None,
):
    section = from_dict({"Arch": {"image_size": size}}).Arch
    train = train_section(dataset={"transform_ops": list(ops)})
    order = order or shuffle(emoji, seed, batch_size=3)
    made = pipeline.train_dataset(
        emoji,
        order,
        section,
        train.dataset.transform_ops,
        seed=seed,
        first_step=first_step,
        last_step=last_step,
    )
    return order, list(made.as_numpy_iterator())


def same(one, other):
    return all(
        (a["image"] == b["image"]).all() and (a["label"] == b["label"]).all()
        for (a, _), (b, _) in zip(one, other, strict=True)
    )


def test_batches_are_what_a_classifier_takes(emoji):
    order, made = batches(emoji, 0, 7)  # two passes of three steps and one more
    assert len(made) == 7
    for step, (features, targets) in enumerate(made):
        assert features["image"].shape == (3, 32, 40, 3)
        assert features["image"].dtype == np.uint8
        assert features["label"].dtype == np.int32
        assert features["label"].tolist() == pipeline.batch_rows(order, step)
        assert sorted(targets) == ["ce_loss", "correct"]
        for target in targets.values():
            np.testing.assert_array_equal(target, features["label"])


@pytest.mark.parametrize("step", [1, 3, 5])
def test_starting_at_a_step_gives_the_batches_an_earlier_start_reaches(emoji, step):
    _, whole = batches(emoji, 0, 7)
    _, resumed = batches(emoji, step, 7)
    assert len(resumed) == 7 - step
    assert same(resumed, whole[step:])


def test_an_image_is_augmented_anew_in_each_pass(emoji):
    _, made = batches(emoji, 0, 12)
    seen = {}
    for features, _ in made:
        for image, label in zip(features["image"], features["label"], strict=True):
            seen.setdefault(int(label), []).append(image.tobytes())
    assert len(seen) == 10
    for images in seen.values():
        assert len(set(images)) == len(images)


def test_another_seed_gives_another_run(emoji):
    assert not same(batches(emoji, 0, 3, seed=1)[1], batches(emoji, 0, 3, seed=2)[1])
    assert same(batches(emoji, 0, 3, seed=1)[1], batches(emoji, 0, 3, seed=1)[1])


def test_without_augmentation_images_are_those_of_evaluation(emoji):
    order, made = batches(emoji, 0, 3, ops=())
    preprocess = from_dict({}).Arch.Preprocess
    plain = pipeline.image_dataset(emoji.paths, (32, 40), preprocess, batch_size=10)
    (plain,) = plain.as_numpy_iterator()
    for step, (features, _) in enumerate(made):
        np.testing.assert_array_equal(features["image"], plain[pipeline.batch_rows(order, step)])


def test_turned_identities_are_turned(emoji):
    """By quarter turns counted against the clock, after everything else."""
    turned = turned_identities(emoji)
    order, made = batches(turned, 0, 13, ops=(), size=(32, 32))
    preprocess = from_dict({}).Arch.Preprocess
    (plain,) = pipeline.image_dataset(emoji.paths, (32, 32), preprocess, 10).as_numpy_iterator()
    seen = set()
    for features, _ in made:
        for image, label in zip(features["image"], features["label"], strict=True):
            source, turn = divmod(int(label), 4)
            np.testing.assert_array_equal(image, np.rot90(plain[source], turn))
            seen.add(turn)
    assert seen == {0, 1, 2, 3}


# The randomness under the samplers of identities.


def test_hashed_is_splitmix64():
    """First outputs of the published generator for two seeds, without their lowest bit."""
    published = {0: 0xE220A8397B1DCDAF, 1234567: 6457827717110365317}
    for seed, word in published.items():
        assert int(hashed(seed)) == word >> 1


def test_hashed_tells_its_parts_apart():
    numbers = tf.range(300, dtype=tf.int64)
    grid = hashed(5, numbers[:, None], numbers).numpy()
    assert len(np.unique(grid)) == 300 * 300
    counts = np.bincount(grid.ravel() % 7)
    assert ((counts - 90_000 / 7) ** 2 / (90_000 / 7)).sum() < 30  # 6 degrees of freedom


def test_permuted_is_a_permutation_of_any_size():
    sizes = [*range(1, 40), 64, 65, 1000, 70_001]
    for key in (0, 1, 2**62):  # all sizes in one call
        found = permuted(
            tf.concat([tf.range(size, dtype=tf.int64) for size in sizes], 0),
            tf.repeat(tf.constant(sizes, tf.int64), sizes),
            tf.constant(key, tf.int64),
        )
        for size, one in zip(sizes, np.split(found, np.cumsum(sizes)[:-1]), strict=True):
            np.testing.assert_array_equal(np.sort(one), np.arange(size))


def test_permuted_takes_a_size_and_a_key_for_each_place():
    keys = hashed(3, tf.range(50, dtype=tf.int64))
    sizes = tf.range(1, 51, dtype=tf.int64)
    found = permuted(sizes // 2, sizes, keys)
    for i in (0, 1, 30, 49):
        assert int(found[i]) == int(permuted(sizes[i : i + 1] // 2, sizes[i], keys[i])[0])


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_permutation_is_as_likely(size):
    number = 200 * math.factorial(size)
    places = tf.tile(tf.range(size, dtype=tf.int64), [number])
    keys = tf.repeat(hashed(1, tf.range(number, dtype=tf.int64)), size)
    found = permuted(places, tf.constant(size, tf.int64), keys).numpy().reshape(number, size)
    counts = Counter(map(tuple, found))
    assert_probable(counts, dict.fromkeys(itertools.permutations(range(size)), 1.0))


def assert_probable(counts, weights):
    """By chi-squared: the counts of outcomes against their probabilities up to a factor.

    The bound is passed by chance less than four times in a million, whatever the outcomes.
    """
    assert set(counts) <= {outcome for outcome, weight in weights.items() if weight > 0}
    total, draws = float(sum(weights.values())), sum(counts.values())
    expected = {o: float(w) / total * draws for o, w in weights.items() if w > 0}
    assert min(expected.values()) > 5, "too few draws for the test to mean anything"
    statistic = sum((counts.get(o, 0) - e) ** 2 / e for o, e in expected.items())
    freedom = len(expected) - 1
    assert statistic < freedom + 6 * (2 * freedom) ** 0.5 + 12


# Batches of P identities with K images.

SOURCES = {
    "PKSampler": pk_sampler,
    "HardClass": hard_class,
    "CategoryAware": category_aware,
}


def listing(counts, seed=0, labels=None):
    """A list with so many images of each label, in random order."""
    labels = range(len(counts)) if labels is None else labels
    of_row = np.repeat(np.array([*labels]), counts)
    np.random.default_rng(seed).shuffle(of_row)
    size = len(of_row)
    return Samples("train.txt", [f"{i}.png" for i in range(size)], of_row, [*range(1, size + 1)])


def categories_file(folder, of_label):
    file = folder / "categories.txt"
    file.write_text("".join(f"{label} {name}\n" for label, name in enumerate(of_label)))
    return str(file)


def identities_of(listed, rows, k):
    """The identity of each group of ``k``, ``(steps, P)``; each group is one identity's."""
    labels = listed.labels[rows].reshape(len(rows), -1, k)
    assert (labels == labels[:, :, :1]).all()
    return labels[:, :, 0]


COUNTS = [1, 2, 3, 4, 5, 6, 7, 8, 30, 4, 4, 4]


SHAPES = [
    (1, 4, "id"),
    (2, 3, "sample"),
    (5, 4, "id"),
    (5, 2, "sample"),
    (12, 1, "id"),
    (12, 5, "sample"),
]


@pytest.mark.parametrize(
    ("kind", "p", "k", "by"),
    [
        (kind, *shape)
        for kind in ("pk", "hard", "category")
        for shape in SHAPES
        if kind != "hard" or shape[0] > 1
    ],
)
def test_a_batch_is_p_identities_with_k_images(kind, by, p, k, tmp_path):
    listed = listing(COUNTS)
    arguments = {"batch_size": p * k, "sample_per_id": k, "sample_method": f"{by}_avg_prob"}
    if kind == "pk":
        order = pk_sampler(listed, 3, **arguments)
    elif kind == "category":
        file = categories_file(tmp_path, "aaaaabbbbccd")
        order = category_aware(listed, 3, category_path=file, **arguments)
    else:
        order = hard_class(listed, 3, **arguments)
        order.refresh(np.random.default_rng(0).normal(size=(12, 3)))
    assert order.batch_size == p * k
    assert order.steps_per_pass == max(1, len(listed) // (p * k))
    rows, numbers = steps(order, 0, 60)
    assert rows.dtype == numbers.dtype == np.int64 and rows.shape == (60, p * k)
    for identities, batch in zip(identities_of(listed, rows, k), rows, strict=True):
        assert len(set(identities)) == p
        for identity, group in zip(identities, batch.reshape(p, k), strict=True):
            times, count = Counter(group.tolist()).values(), COUNTS[identity]
            if count >= k:
                assert set(times) == {1}
            else:  # each as often as any other, or once more
                assert len(times) == count and max(times) - min(times) <= 1
    pairs = set(zip(rows.ravel().tolist(), numbers.ravel().tolist(), strict=True))
    assert len(pairs) == rows.size and 0 <= numbers.min() <= numbers.max() < 60 * k


def successive(weights, p, chosen=()):
    """Each outcome of drawing on to ``p`` without replacement, with its probability."""
    if len(chosen) == p:
        return {tuple(chosen): Fraction(1)}
    found = Counter()
    left = [i for i in range(len(weights)) if i not in chosen]
    total = sum(weights[i] for i in left)
    for i in left:
        for outcome, probability in successive(weights, p, (*chosen, i)).items():
            found[outcome] += Fraction(weights[i], total) * probability
    return found


def marked(counts, p, k):
    """The probability of each sequence of identities, from the docstring of ``pk_sampler``.

    Every start of the marks and every order of P of them, one by one.
    """
    row = [i for i, count in enumerate(counts) for _ in range(count)]
    found = Counter()
    for start in range(len(row)):
        marks = [row[(start + j * k) % len(row)] for j in range(len(row) // k)]
        for taken in itertools.permutations(marks, p):
            found[tuple(dict.fromkeys(taken))] += 1
    total = sum(found.values())
    outcomes = Counter()
    for begun, times in found.items():
        for outcome, probability in successive(counts, p, begun).items():
            outcomes[outcome] += Fraction(times, total) * probability
    return outcomes


def sequences(order, listed, k, chosen_steps):
    """How often each sequence of identities makes up a batch."""
    picked = tf.data.Dataset.from_tensor_slices(np.array(chosen_steps, np.int64))
    rows = np.stack([*picked.map(lambda s: order.batch(s)[0], 2).as_numpy_iterator()])
    return Counter(map(tuple, identities_of(listed, rows, k).tolist()))


@pytest.mark.parametrize(
    ("counts", "p", "k", "number"),
    [([1, 5, 3, 2], 2, 2, 900), ([3, 4, 3], 2, 1, 400), ([2, 6, 2, 1], 3, 2, 1200)],
)
def test_sample_avg_prob_has_the_probabilities_it_states(counts, p, k, number):
    listed = listing(counts)
    exact = marked(counts, p, k)
    windows = sum(counts) // k // p
    order = pk_sampler(listed, 1, batch_size=p * k, sample_per_id=k)
    for window in {0, windows - 1}:  # one step of a pass: passes are independent
        counted = sequences(order, listed, k, range(window, number * windows, windows))
        assert_probable(counted, exact)


def test_the_comparison_would_see_other_probabilities():
    draws = np.random.default_rng(0).choice(4, 1000, p=[0.5, 0.2, 0.2, 0.1])
    counted = Counter(draws.tolist())
    assert_probable(counted, {0: 5, 1: 2, 2: 2, 3: 1})
    for weights in ({0: 1, 1: 1, 2: 1, 3: 1}, {0: 5, 1: 2, 2: 2, 3: 2}, {0: 5, 1: 2, 2: 3, 3: 0}):
        with pytest.raises(AssertionError):
            assert_probable(counted, weights)


def test_the_first_identity_has_exactly_the_share_of_its_images():
    counts = [40, 25, 13, 10, 7, 3, 1, 1]
    order = pk_sampler(listing(counts), 2, batch_size=12, sample_per_id=3)
    counted = sequences(order, listing(counts), 3, range(1500))
    firsts = Counter()
    for sequence, times in counted.items():
        firsts[sequence[0]] += times
    assert_probable(firsts, dict(enumerate(counts)))


@pytest.mark.parametrize("counts", [[100, 400, 300, 200], [1000, 4, 3, 2, 1]])
def test_sample_avg_prob_draws_as_the_reference_where_images_are_many(counts):
    """Weighted draws one by one without replacement, as ``np.random.choice`` makes them.

    In the second list repetitions use up the spare draws at nearly every step.
    """
    listed, p = listing(counts), 3
    order = pk_sampler(listed, 4, batch_size=p, sample_per_id=1)
    far = order.steps_per_pass + 1  # hardly two of these are in one pass
    counted = sequences(order, listed, 1, range(0, 2000 * far, far))
    exact = successive(counts, p)
    common = {o: w for o, w in exact.items() if w * 2000 > 10}
    rare = sum(w for o, w in exact.items() if o not in common)
    counted = Counter({o: n for o, n in counted.items() if o in common}) + Counter(
        {"rare": sum(n for o, n in counted.items() if o not in common)}
    )
    if rare * 2000 < 10:
        counted.pop("rare", None)
        rare = 0
    assert_probable(counted, {**common, "rare": rare})


@pytest.mark.parametrize(("identities", "p"), [(5, 2), (6, 3), (4, 4)])
def test_id_avg_prob_makes_identities_equally_likely(identities, p):
    listed = listing([1, 2, 3, 40, 5, 6][:identities])
    order = pk_sampler(listed, 5, batch_size=2 * p, sample_per_id=2, sample_method="id_avg_prob")
    windows = identities // p
    for window in {0, windows - 1}:
        chosen = range(window, 800 * windows, windows)
        counted = sequences(order, listed, 2, chosen)
        assert_probable(counted, successive([1] * identities, p))


def test_id_avg_prob_shows_every_identity_once_a_lap():
    listed = listing([3, 9, 1, 4, 2, 6, 5, 5])
    order = pk_sampler(listed, 0, batch_size=6, sample_per_id=2, sample_method="id_avg_prob")
    rows, _ = steps(order, 0, 100)  # laps of two batches; two identities wait
    for lap in identities_of(listed, rows, 2).reshape(50, 6):
        assert len(set(lap)) == 6


@pytest.mark.parametrize(("count", "k"), [(6, 2), (9, 3), (4, 4), (5, 1)])
def test_an_identity_shows_all_its_images_before_one_comes_again(count, k):
    listed = listing([count, 7, 3, 30])
    order = pk_sampler(listed, 0, batch_size=2 * k, sample_per_id=k, sample_method="id_avg_prob")
    rows, _ = steps(order, 0, 2 * 180)  # two batches show all four identities
    shown = rows[listed.labels[rows] == 0].reshape(-1, count)
    assert len(shown) == 180 * k // count
    assert all(len(set(lap)) == count for lap in shown)
    assert len({tuple(lap) for lap in shown}) > min(len(shown), math.factorial(count)) // 2


def test_a_lap_fills_its_last_group_with_images_of_the_first():
    listed = listing([5, 2])
    order = pk_sampler(listed, 0, batch_size=4, sample_per_id=2, sample_method="id_avg_prob")
    rows, _ = steps(order, 0, 3 * 150)
    laps = rows[listed.labels[rows] == 0].reshape(150, 6)
    counted = Counter()
    for lap in laps:
        assert len(set(lap[:5])) == 5 and lap[5] in lap[:2]
        counted[int(lap[5])] += 1
    assert_probable(counted, dict.fromkeys(np.flatnonzero(listed.labels == 0).tolist(), 1))


@pytest.mark.parametrize(("counts", "k"), [([4, 6, 2, 8, 30], 2), ([9, 3, 3, 12], 3)])
@pytest.mark.parametrize("kind", ["pk", "category"])
def test_sample_avg_prob_shows_every_image_once_a_pass(kind, counts, k, tmp_path):
    """With one identity a batch none repeats, and K divides the images of each."""
    listed = listing(counts)
    if kind == "pk":
        order = pk_sampler(listed, 8, batch_size=k, sample_per_id=k)
    else:
        file = categories_file(tmp_path, "abbab"[: len(counts)])
        order = category_aware(listed, 8, batch_size=k, sample_per_id=k, category_path=file)
    passed = steps(order, 0, 30 * order.steps_per_pass)[0].reshape(30, len(listed))
    np.testing.assert_array_equal(np.sort(passed, axis=1), np.tile(np.arange(len(listed)), (30, 1)))
    assert len({tuple(rows) for rows in passed}) == 30


def test_an_identity_is_marked_once_for_k_of_its_images():
    counts, k = [1, 2, 3, 5, 7, 11, 22], 4
    listed = listing(counts)
    order = pk_sampler(listed, 8, batch_size=k, sample_per_id=k)
    rows, _ = steps(order, 0, 200 * order.steps_per_pass)
    identities = identities_of(listed, rows, k).reshape(200, order.steps_per_pass)
    times = np.stack([(identities == i).sum(axis=1) for i in range(len(counts))])
    # The marks leave one wider gap, of up to 2 K - 1 images.
    for count, found in zip(counts, times, strict=True):
        assert set(found) <= set(range(max(0, count // k - 1), -(-count // k) + 1))
    share = np.array(counts) / len(listed) * order.steps_per_pass
    np.testing.assert_allclose(times.mean(axis=1), share, atol=5 * 0.5 / 200**0.5)


def test_all_images_of_an_identity_are_as_likely():
    listed = listing([7, 40, 3, 5])
    for method in ("sample_avg_prob", "id_avg_prob"):
        order = pk_sampler(listed, 0, batch_size=9, sample_per_id=3, sample_method=method)
        rows, _ = steps(order, 0, 800)
        for identity in range(4):
            counted = Counter(rows[listed.labels[rows] == identity].tolist())
            own = np.flatnonzero(listed.labels == identity).tolist()
            assert_probable(counted, dict.fromkeys(own, 1))


def test_labels_may_have_gaps():
    listed = listing([4, 4, 4], labels=[2, 7, 1000])
    order = pk_sampler(listed, 0, batch_size=6, sample_per_id=2)
    assert set(listed.labels[steps(order, 0, 30)[0]].ravel()) == {2, 7, 1000}


def test_turned_identities_are_identities_of_their_own(tmp_path):
    turned = turned_identities(listing([3, 2, 2, 1]))
    file = categories_file(tmp_path, "abba")
    for order in (
        pk_sampler(turned, 0, batch_size=8, sample_per_id=2),
        hard_class(turned, 0, batch_size=8, sample_per_id=2),
        category_aware(turned, 0, batch_size=8, sample_per_id=2, category_path=file),
    ):
        rows, _ = steps(order, 0, 120)
        identities = identities_of(turned, rows, 2)
        assert set(identities.ravel()) == set(range(16))
        assert all(len(set(batch)) == 4 for batch in identities)
    sources = identities // 4  # the last order's: labels of the file are those before turning
    assert all(set(batch) <= {0, 3} or set(batch) <= {1, 2} for batch in sources.tolist())


# Every image by identity.


def test_identity_balanced_shows_every_identity_once_a_lap():
    counts = [1, 2, 3, 10, 4]
    listed = listing(counts)
    order = identity_balanced(listed, 0, batch_size=7)  # a batch runs over the end of a lap
    assert (order.batch_size, order.steps_per_pass) == (7, 20 // 7)
    rows, numbers = steps(order, 0, 600)
    laps = listed.labels[rows.ravel()].reshape(-1, 5)
    np.testing.assert_array_equal(np.sort(laps, axis=1), np.tile(np.arange(5), (840, 1)))
    assert_probable(
        Counter(map(tuple, laps.tolist())), dict.fromkeys(itertools.permutations(range(5)), 1)
    )
    for identity, count in enumerate(counts):
        shown = rows[listed.labels[rows] == identity][: 840 // count * count].reshape(-1, count)
        own = np.flatnonzero(listed.labels == identity)
        np.testing.assert_array_equal(np.sort(shown, axis=1), np.tile(own, (len(shown), 1)))
        if count in (2, 3):
            assert_probable(
                Counter(map(tuple, shown.tolist())),
                dict.fromkeys(itertools.permutations(own.tolist()), 1),
            )
    pairs = set(zip(rows.ravel().tolist(), numbers.ravel().tolist(), strict=True))
    assert len(pairs) == rows.size


# A function of seed and step alone.


def make_order(kind, listed, seed, folder):
    kind, *rest = kind.split(", ")
    if kind in ("shuffle", "balanced"):
        return {"shuffle": shuffle, "balanced": identity_balanced}[kind](listed, seed, batch_size=6)
    arguments = {"batch_size": 6, "sample_per_id": 2}
    if "by identity" in rest:
        arguments["sample_method"] = "id_avg_prob"
    if kind == "pk":
        return pk_sampler(listed, seed, **arguments)
    if kind == "category":
        file = categories_file(folder, ["ab"[label % 2] for label in range(listed.class_num)])
        return category_aware(listed, seed, category_path=file, **arguments)
    order = hard_class(listed, seed, **arguments)
    order.refresh(np.random.default_rng(1).normal(size=(listed.class_num, 4)))
    return order


KINDS = [
    "shuffle",
    "balanced",
    "pk",
    "pk, by identity",
    "hard",
    "hard, by identity",
    "category",
    "category, by identity",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_function_of_seed_and_step(kind, tmp_path):
    listed = listing([2, 9, 4, 4, 3, 6, 20])
    whole = steps(make_order(kind, listed, 5, tmp_path), 0, 60)
    assert len(np.unique(whole[0], axis=0)) > 55
    again = make_order(kind, listed, 5, tmp_path)
    for one, other in zip(steps(again, 23, 60), whole, strict=True):
        np.testing.assert_array_equal(one, other[23:])
    for step in (37, 3):  # in any order, one by one, without a dataset
        for one, other in zip(again.batch(tf.constant(step, tf.int64)), whole, strict=True):
            np.testing.assert_array_equal(one, other[step])
    assert pipeline.batch_rows(again, 37) == whole[0][37].tolist()
    for seed in (4, 2**31 - 1):
        other = make_order(kind, listed, seed, tmp_path)
        assert all(pipeline.batch_rows(other, step) != whole[0][step].tolist() for step in (0, 9))


@pytest.fixture(scope="module")
def emoji_identities():
    """Real pictures: 3, 2, 2, 3 of four identities."""
    rows = (EMOJI_MINI / "train_list.txt").read_text().splitlines()[:10]
    paths = [str(EMOJI_MINI / row.split()[0]) for row in rows]
    return Samples("train", paths, np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3]), [*range(1, 11)])


@pytest.mark.parametrize("kind", ["balanced", "pk", "hard", "category"])
def test_a_resumed_run_gets_the_same_pixels(kind, emoji_identities, tmp_path):
    order = make_order(kind, emoji_identities, 1, tmp_path)
    _, whole = batches(emoji_identities, 0, 6, order=order)
    order = make_order(kind, emoji_identities, 1, tmp_path)
    _, resumed = batches(emoji_identities, 4, 6, order=order)
    assert same(resumed, whole[4:])
    for step, (features, _) in enumerate(whole):
        rows = pipeline.batch_rows(order, step)
        np.testing.assert_array_equal(features["label"], emoji_identities.labels[rows])


def test_an_image_that_repeats_in_a_batch_is_augmented_anew(emoji_identities):
    order = pk_sampler(emoji_identities, 1, batch_size=12, sample_per_id=6)
    _, made = batches(emoji_identities, 0, 12, order=order)
    images = [image.tobytes() for features, _ in made for image in features["image"]]
    assert len(set(images)) == len(images) == 144


# Neighbours.


def brute_force(centres, of, among):
    """The classes of ``among`` by the cosine of their centres with that of ``of``."""

    def cosine(i, j):
        one, other = centres[i], centres[j]
        dot = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
        return dot / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))

    return sorted((i for i in among if i != of), key=lambda i: -cosine(of, i))


@pytest.mark.parametrize("method", ["sample_avg_prob", "id_avg_prob"])
def test_hard_class_batches_are_neighbours(method):
    counts = [3, 4, 5, 4, 9, 2, 4, 0, 4, 1]  # a class without images has a centre all the same
    listed = listing(counts)
    centres = np.random.default_rng(3).normal(size=(10, 4)) * np.arange(1, 11)[:, None]
    arguments = {"batch_size": 8, "sample_per_id": 2, "sample_method": method}
    order, plain = hard_class(listed, 6, **arguments), pk_sampler(listed, 6, **arguments)
    order.refresh(centres)
    found = identities_of(listed, steps(order, 0, 100)[0], 2)
    first = identities_of(listed, steps(plain, 0, 100)[0], 2)[:, 0]
    np.testing.assert_array_equal(found[:, 0], first)
    present = [i for i, count in enumerate(counts) if count]
    for batch in found:
        assert batch[1:].tolist() == brute_force(centres, batch[0], present)[:3]


def test_hard_class_leaves_small_identities_out():
    listed = listing([1, 4, 4, 1, 4])
    order = hard_class(listed, 0, batch_size=4, sample_per_id=2, drop_small=True)
    order.refresh(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0.2]]))
    found = identities_of(listed, steps(order, 0, 60)[0], 2)
    assert set(map(tuple, found.tolist())) == {(1, 2), (2, 4), (4, 2)}


def test_without_centres_hard_class_is_pk():
    listed = listing([3, 4, 5, 4, 9])
    arguments = {"batch_size": 6, "sample_per_id": 2}
    hard, plain = hard_class(listed, 6, **arguments), pk_sampler(listed, 6, **arguments)
    for step in range(12):
        assert pipeline.batch_rows(hard, step) == pipeline.batch_rows(plain, step)


def test_refreshing_changes_the_datasets_built_later():
    listed = listing([4] * 12)
    order = hard_class(listed, 0, batch_size=8, sample_per_id=2)
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 12, 3))
    order.refresh(one)
    expected = steps(order, 0, 20)[0]
    running = iter(dataset(order, 0, 20))
    begun = [next(running)[0].numpy() for _ in range(5)]
    order.refresh(other)
    rest = [rows.numpy() for rows, _ in running]
    np.testing.assert_array_equal(begun + rest, expected)
    changed = steps(order, 5, 20)[0]
    assert (changed != expected[5:]).any(axis=1).mean() > 0.8
    order.refresh(one)
    np.testing.assert_array_equal(steps(order, 5, 20)[0], expected[5:])


def test_hard_class_shows_random_images_of_the_neighbours():
    listed = listing([6] * 4)
    order = hard_class(listed, 0, batch_size=4, sample_per_id=2)
    order.refresh(np.eye(4) + 0.01 * np.arange(16).reshape(4, 4))
    rows = steps(order, 0, 1500)[0]
    for identity in range(4):
        second = rows[:, 2:][listed.labels[rows[:, 2]] == identity]
        if len(second):
            own = np.flatnonzero(listed.labels == identity).tolist()
            assert_probable(Counter(second.ravel().tolist()), dict.fromkeys(own, 1))
            pairs = Counter(tuple(sorted(pair)) for pair in second.tolist())
            assert_probable(pairs, dict.fromkeys(itertools.combinations(sorted(own), 2), 1))


def test_the_neighbour_table_is_that_of_brute_force():
    centres = np.random.default_rng(0).normal(size=(300, 5)).astype("float32") * 7
    table = neighbour_table(centres, 4)
    assert table.dtype == np.int32 and table.shape == (300, 4)
    for i in range(0, 300, 29):
        assert table[i].tolist() == brute_force(centres, i, range(300))[:4]


def test_equal_centres_are_each_others_neighbours():
    """A class is never its own, not even where others are as near."""
    centres = np.array([[0, 1], [2, 0], [1, 0], [3, 0], [1, 0], [0, 0]])
    assert neighbour_table(centres, 1).tolist() == [[1], [2], [1], [1], [1], [0]]
    everything = neighbour_table(centres, 99)
    assert everything.shape == (6, 5)
    for i, row in enumerate(everything):
        assert sorted([i, *row]) == list(range(6))


def test_centres_that_do_not_fit_are_refused():
    order = hard_class(listing([2, 2, 2]), 0, batch_size=4, sample_per_id=2)
    for shape in ((2, 8), (3,)):
        with pytest.raises(ValueError) as error:
            order.refresh(np.ones(shape))
        assert str(error.value) == (
            f"centres: expected (classes, embedding_size) with at least 3 classes, got {shape}"
        )
    with pytest.raises(ValueError) as error:
        order.refresh(np.array([[1.0], [np.nan], [2.0]]))
    assert str(error.value) == "centres: expected finite numbers"


def test_only_hard_class_wants_centres(tmp_path):
    listed = listing([4] * 6)
    for kind in KINDS:
        order = make_order(kind, listed, 0, tmp_path)
        assert callable(order.refresh) if kind.startswith("hard") else order.refresh is None


# Categories.


@pytest.mark.parametrize("method", ["sample_avg_prob", "id_avg_prob"])
def test_a_batch_is_of_one_category(method, tmp_path):
    counts = [4, 6, 8, 10, 2, 4, 6, 8, 3, 9]
    category = "abababbaab"
    listed = listing(counts)
    images = {c: sum(n for n, of in zip(counts, category, strict=True) if of == c) for c in "ab"}
    order = category_aware(
        listed,
        2,
        batch_size=6,
        sample_per_id=2,
        sample_method=method,
        category_path=categories_file(tmp_path, category),
    )
    assert order.steps_per_pass == 60 // 6
    found = identities_of(listed, steps(order, 0, 1500)[0], 2)
    drawn = [{category[i] for i in batch} for batch in found]
    assert all(len(names) == 1 for names in drawn)
    drawn = np.array([names.pop() for names in drawn]).reshape(150, 10)
    for name in "ab":  # of each pass the share of its images, rounded
        share = images[name] / 6
        times = (drawn == name).sum(axis=1)
        assert set(times) == {math.floor(share), math.ceil(share)}
        assert abs(times.mean() - share) < 0.2
    for place in (0, 9):
        assert_probable(Counter(drawn[:, place].tolist()), images)
    for name in "ab":
        own = [i for i, of in enumerate(category) if of == name]
        mine = found[drawn.ravel() == name]
        weights = [counts[i] if method == "sample_avg_prob" else 1 for i in own]
        counted = Counter(mine[:, 0].tolist())
        assert_probable(counted, dict(zip(own, weights, strict=True)))


def test_a_small_category_is_filled_up_from_the_others(tmp_path, caplog):
    counts = [6, 6, 10, 20, 30]
    listed = listing(counts)
    file = categories_file(tmp_path, ["pair", "pair", "rest", "rest", "rest"])
    order = category_aware(listed, 0, batch_size=6, sample_per_id=2, category_path=file)
    (record,) = caplog.records
    assert record.getMessage() == (
        "1 of 2 categories have fewer than 3 identities; others fill up their batches"
    )
    found = identities_of(listed, steps(order, 0, 2000)[0], 2)
    small = [batch for batch in found.tolist() if set(batch[:2]) == {0, 1}]
    assert abs(len(small) / 2000 - 12 / 72) < 0.01
    # By weighted draws: not bound to the category, so with the shares of the rest.
    assert_probable(Counter(batch[2] for batch in small), {2: 10, 3: 20, 4: 30})
    others = [batch for batch in found.tolist() if set(batch[:2]) != {0, 1}]
    assert all(set(batch) == {2, 3, 4} for batch in others)


def test_categories_without_kept_identities_are_gone(tmp_path, caplog):
    listed = listing([1, 4, 4, 4])
    file = categories_file(tmp_path, ["gone", "here", "here", "here"])
    order = category_aware(
        listed, 0, batch_size=4, sample_per_id=2, category_path=file, drop_small=True
    )
    assert [r.getMessage() for r in caplog.records] == [
        "1 identities have fewer than 2 images; they are left out"
    ]
    assert 0 not in listed.labels[steps(order, 0, 100)[0]]


def test_names_of_categories_may_hold_blanks(tmp_path):
    file = tmp_path / "categories.txt"
    file.write_bytes("\ufeff0\t süße Früchte\r\n\r\n2  süße Früchte \r\n1 süße\r\n".encode())
    listed = listing([2, 4, 2])
    order = category_aware(listed, 0, batch_size=2, sample_per_id=1, category_path=str(file))
    found = identities_of(listed, steps(order, 0, 99)[0], 1)
    assert (0, 2) in {tuple(sorted(batch)) for batch in found.tolist()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 a\n1 a\n2 b\n1 b\n", "{file}:4: label 1 stands twice, first in row 2"),
        ("0 a\n9 a\n", "{file}:2: label 9 has no image in train.txt"),
        ("0 a\n3 a\n", "{file}:2: label 3 has no image in train.txt"),
        ("0 a\n1\n", "{file}:2: expected 'label category name', got '1'"),
        ("a 0\n", "{file}:1: expected 'label category name', got 'a 0'"),
        ("0 a\n-1 a\n", "{file}:2: expected 'label category name', got '-1 a'"),
        (
            "1 a\n\n4 b\n",
            "train.txt:{row}: label {label} has no category in {file} (2 such)",
        ),
        ("", "train.txt:1: label {first} has no category in {file} (4 such)"),
        (None, "DataLoader.Train.sampler.category_path: {file}: No such file or directory"),
        (b"0 \xff\n", "{file}: expected UTF-8 text: invalid start byte"),
    ],
)
def test_a_file_of_categories_that_does_not_fit_is_refused(text, message, tmp_path):
    listed = listing([2, 2, 2, 2], labels=[0, 1, 2, 4])
    file = tmp_path / "categories.txt"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    i = next(i for i, label in enumerate(listed.labels) if label in (0, 2))
    message = message.format(file=file, row=i + 1, label=listed.labels[i], first=listed.labels[0])
    with pytest.raises(ConfigError) as error:
        category_aware(listed, 0, batch_size=2, sample_per_id=1, category_path=str(file))
    assert str(error.value) == message


# Arguments.


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"batch_size": 30, "sample_per_id": 4},
            "batch_size: expected a multiple of sample_per_id 4, got 30",
        ),
        (
            {"batch_size": 0, "sample_per_id": 4},
            "batch_size: expected a multiple of sample_per_id 4, got 0",
        ),
        (
            {"batch_size": 4, "sample_per_id": 0},
            "sample_per_id: expected at least 1, got 0",
        ),
        (
            {"batch_size": 24, "sample_per_id": 4},
            "batch_size: expected at most 20, sample_per_id 4 for each of the 5 identities of "
            "train.txt, got 24",
        ),
        (
            {"batch_size": 16, "sample_per_id": 4, "drop_small": True},
            "batch_size: expected at most 12, sample_per_id 4 for each of the 3 identities with "
            "at least 4 images of train.txt, got 16",
        ),
        (
            {"batch_size": 99, "sample_per_id": 99, "drop_small": True},
            "batch_size: expected at most 0, sample_per_id 99 for each of the 0 identities with "
            "at least 99 images of train.txt, got 99",
        ),
        (
            {"batch_size": 8, "sample_method": "id_avg"},
            "sample_method: expected one of ['sample_avg_prob', 'id_avg_prob'], got 'id_avg'",
        ),
    ],
)
def test_impossible_batches_are_refused(name, arguments, message, tmp_path):
    arguments = dict(arguments)
    if name == "CategoryAware":
        arguments["category_path"] = categories_file(tmp_path, "aabbb")
    with pytest.raises(ConfigError) as error:
        SOURCES[name](listing([3, 4, 1, 5, 6]), 0, **arguments)
    assert str(error.value) == f"DataLoader.Train.sampler.{message}"


def test_hard_class_needs_two_identities():
    with pytest.raises(ConfigError) as error:
        hard_class(listing([3, 4]), 0, batch_size=4, sample_per_id=4)
    assert str(error.value) == (
        "DataLoader.Train.sampler.batch_size: expected at least 8, sample_per_id 4 for each of "
        "two identities, got 4"
    )


@pytest.mark.parametrize("name", SOURCES)
def test_small_identities_are_counted_once_at_the_start(name, caplog, tmp_path):
    arguments = {"batch_size": 8, "sample_per_id": 4}
    if name == "CategoryAware":
        arguments["category_path"] = categories_file(tmp_path, "aaaaa")
    listed = listing([3, 4, 1, 5, 6])
    order = SOURCES[name](listed, 0, **arguments)
    pipeline.batch_rows(order, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "2 identities have fewer than 4 images; their images repeat within a batch"
    ]
    caplog.clear()
    order = SOURCES[name](listed, 0, drop_small=True, **arguments)
    assert set(listed.labels[steps(order, 0, 60)[0]].ravel()) == {1, 3, 4}
    assert order.steps_per_pass == 15 // 8
    assert [record.getMessage() for record in caplog.records] == [
        "2 identities have fewer than 4 images; they are left out"
    ]
    caplog.clear()
    SOURCES[name](listing([4, 4, 4, 4, 4]), 0, **arguments)
    assert not caplog.records


@pytest.mark.parametrize("name", ["Shuffle", "IdentityBalanced", *SOURCES])
def test_a_config_names_it(name, tmp_path):
    arguments = {"name": name, "batch_size": 4}
    if name in SOURCES:
        arguments |= {"sample_per_id": 2, "sample_method": "id_avg_prob", "drop_small": True}
    if name == "CategoryAware":
        arguments["category_path"] = categories_file(tmp_path, "aab")
    section = train_section(sampler=arguments).sampler
    order = components.builder("sampler", section.name)(listing([2, 3, 4]), 0, **section.args)
    assert order.batch_size == 4
    with pytest.raises(ConfigError, match=r"^DataLoader.Train.sampler.shuffle: unknown argument"):
        train_section(sampler={**arguments, "shuffle": True})
