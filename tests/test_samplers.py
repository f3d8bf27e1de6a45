"""Which sample comes when, and the training pipeline that follows it."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI

from keras_featx.config import from_dict
from keras_featx.data import pipeline
from keras_featx.data.lists import Samples, turned_identities
from keras_featx.data.samplers import shuffle
from keras_featx.errors import ConfigError


def samples(size, source="list.txt"):
    return Samples(source, [f"{i}.png" for i in range(size)], np.zeros(size, int), [])


def drawn(order, first, last):
    """Rows and pass numbers of positions ``first`` to ``last``, as a pipeline draws them."""
    positions = tf.data.Dataset.range(first, last).map(order.at).batch(last - first)
    rows, numbers = next(iter(positions))
    return rows.numpy(), numbers.numpy()


def passes(size, batch_size, seed, number):
    """The rows of the first passes, ``(number, rows)``."""
    order = shuffle(samples(size), seed, batch_size=batch_size)
    length = order.steps_per_pass * batch_size
    rows, numbers = drawn(order, 0, number * length)
    np.testing.assert_array_equal(numbers, np.arange(number).repeat(length))
    return rows.reshape(number, length)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 48, 255, 256, 257, 1000])
def test_a_pass_is_a_permutation(size):
    for rows in passes(size, 1, seed=3, number=4):
        np.testing.assert_array_equal(np.sort(rows), np.arange(size))


def test_a_pass_over_a_long_list_is_a_permutation():
    """More than 2^16 rows: index_shuffle's blocks grow."""
    order = shuffle(samples(70_001), 3, batch_size=1)
    positions = tf.range(70_001, dtype=tf.int64)
    rows = tf.function(lambda p: tf.vectorized_map(lambda one: order.at(one)[0], p))(positions)
    np.testing.assert_array_equal(np.sort(rows), np.arange(70_001))


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


def test_the_order_is_a_function_of_the_position():
    order = shuffle(samples(23), 5, batch_size=4)
    rows, numbers = drawn(order, 0, 100)
    for first in (1, 19, 20, 57):
        later_rows, later_numbers = drawn(order, first, 100)
        np.testing.assert_array_equal(later_rows, rows[first:])
        np.testing.assert_array_equal(later_numbers, numbers[first:])
    again = shuffle(samples(23), 5, batch_size=4)
    for position in (77, 3, 99, 0):  # in any order, one by one
        row, number = again.at(tf.constant(position, tf.int64))
        assert (int(row), int(number)) == (rows[position], numbers[position])


def test_positions_far_into_a_run():
    order = shuffle(samples(1000), 5, batch_size=10)
    first = 2**40 // 1000 * 1000
    rows, numbers = drawn(order, first, first + 1000)
    np.testing.assert_array_equal(np.sort(rows), np.arange(1000))
    assert set(numbers) == {first // 1000}


def test_the_rows_of_a_step_are_those_of_its_batch():
    order = shuffle(samples(23), 5, batch_size=4)
    rows, _ = drawn(order, 0, 40)
    for step in (0, 4, 5, 9):
        assert pipeline.batch_rows(order, step) == rows[step * 4 : step * 4 + 4].tolist()


@pytest.mark.parametrize("batch_size", [0, -1, 6, 256])
def test_an_impossible_batch_size_is_refused(batch_size):
    with pytest.raises(ConfigError) as error:
        shuffle(samples(5, "train.txt"), 0, batch_size=batch_size)
    assert str(error.value) == (
        "DataLoader.Train.sampler.batch_size: expected from 1 to 5 (the images of train.txt), "
        f"got {batch_size}"
    )


@pytest.fixture(scope="module")
def emoji():
    rows = (EMOJI_MINI / "train_list.txt").read_text().splitlines()[:10]
    paths, labels = zip(*(row.split() for row in rows), strict=True)
    # A label of its own for each image, to tell them apart.
    return Samples("train", [str(EMOJI_MINI / p) for p in paths], np.arange(len(labels)), [])


def batches(
    emoji, first_step, last_step, seed=1, ops=("RandomResizedCrop", "RandomFlip"), size=(32, 40)
):
    section = from_dict({"Arch": {"image_size": size}}).Arch
    dataset = {"name": "ClassFolders", "image_root": "x", "transform_ops": list(ops)}
    train = from_dict({"DataLoader": {"Train": {"dataset": dataset}}}).DataLoader.Train
    order = shuffle(emoji, seed, batch_size=3)
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
        assert sorted(targets) == ["logits", "scores"]
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
