"""Pairs judged by similarity, against scikit-learn and counting of every pair."""

import functools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled
from keras_featx.metrics import recall_at_k
from keras_featx.results import score
from keras_featx.verification import PAIR_METRICS, Pairs, roc_auc, steps_of, tar_at_far

FAR = (0.2, 0.03, 1e-4)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def random_case(seed, protocol):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, 5))

    def part(size):
        labels = rng.integers(-1, 6, size)
        return Labelled(
            unit(centres[labels] + rng.normal(size=(size, 5))),
            labels,
            rng.integers(0, 4, size) if "ids" in protocol else None,
            groups=rng.integers(0, 2, size) if "groups" in protocol else None,
        )

    both = part(60)
    return (both, both) if "one set" in protocol else (part(40), part(70))


def loops(query, gallery, one_set):
    """Steps of genuine and impostor pairs, one pair at a time."""
    genuine, impostor = [], []
    for i, label in enumerate(query.labels):
        for j, other in enumerate(gallery.labels):
            if query.groups is not None and query.groups[i] != gallery.groups[j]:
                continue
            products = query.embeddings[i].astype("float64") * gallery.embeddings[j]
            step = int((float(np.float32(products.sum())) + 1) * 2**16)
            if label != other:
                impostor.append(step)
            elif label >= 0 and not (
                (one_set and i == j) or (query.ids is not None and query.ids[i] == gallery.ids[j])
            ):
                genuine.append(step)
    return np.array(genuine), np.array(impostor)


@pytest.mark.parametrize("protocol", ["plain", "ids", "groups", "one set", "one set ids"])
def test_pair_metrics_equal_loops_and_scikit_learn(protocol):
    one_set = "one set" in protocol
    for seed in range(8):
        query, gallery = random_case(seed, protocol)
        genuine, impostor = loops(query, gallery, one_set)
        ours = score(
            query, gallery, [recall_at_k], leave_one_out=one_set, block_sizes=(16, 7 + seed),
            pair_functions=[roc_auc, functools.partial(tar_at_far, far=FAR)],
        )  # fmt: skip
        right = np.repeat([1, 0], [len(genuine), len(impostor)])
        expected = roc_auc_score(right, np.concatenate([genuine, impostor]))
        assert ours["roc_auc"] == pytest.approx(expected, abs=1e-12)
        assert 0.6 < expected < 1
        for rate in FAR:
            # The lowest threshold that few enough impostors reach.
            steps = np.unique(np.concatenate([genuine, impostor, impostor + 1]))
            step = next(s for s in steps if (impostor >= s).mean() <= rate)
            assert ours[f"tar@far={rate:g}"] == pytest.approx((genuine >= step).mean(), abs=1e-12)
            threshold = ours[f"threshold@far={rate:g}"]
            assert (impostor >= (threshold + 1) * 2**16).mean() <= rate
            assert (impostor >= (threshold + 1) * 2**16 - 1).mean() > rate


def test_figures_of_pairs_weigh_queries_by_their_pairs():
    """One query of one pair that is accepted, one of three that are not."""
    angles = np.radians([0, 5, 90, 150, 152, 154, 40])
    points = np.stack([np.cos(angles), np.sin(angles)], 1)
    query = Labelled(points[[0, 2]], np.array([1, 2]))
    gallery = Labelled(points[[1, 3, 4, 5, 6]], np.array([1, 2, 2, 2, 9]))
    ours = score(
        query, gallery, [recall_at_k], pair_functions=[functools.partial(tar_at_far, far=(0.1,))]
    )
    assert ours["tar@far=0.1"] == pytest.approx(1 / 4)
    assert ours.class_averaged()["tar@far=0.1"] == pytest.approx(1 / 2)
    assert ours.intervals["tar@far=0.1"] == (0.0, 1.0)
    # The impostor nearest to a query is at 40 degrees.
    assert np.cos(np.radians(40)) < ours["threshold@far=0.1"] < np.cos(np.radians(39.9))


def test_steps_are_the_same_width_from_minus_one_to_one():
    assert steps_of([-1.0, -1 + 2**-16, 0.0, 1.0, 1.0000001]).tolist() == [
        0, 1, 2**16, 2**17 - 1, 2**17 - 1,
    ]  # fmt: skip


def test_where_impostors_fill_the_highest_step_nothing_is_accepted():
    pairs = Pairs(steps_of([1.0, 0.5]), np.bincount(steps_of([1.0, 1.0, 0.0]), minlength=2**17))
    found = tar_at_far(pairs, far=(0.5,))
    assert found["tar@far=0.5"].tolist() == [0, 0]
    assert found["threshold@far=0.5"] == 1.0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            Labelled(2 * np.eye(3), np.arange(3)),
            "query: expected unit vectors to judge pairs, got a norm of 2 in row 0",
        ),
        (
            Labelled(np.eye(3), np.zeros(3, int)),
            "expected pairs of two identities to judge pairs, got one identity",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(query, message):
    gallery = Labelled(np.eye(3), np.zeros(3, int) if "one identity" in message else np.arange(3))
    with pytest.raises(ConfigError) as error:
        score(query, gallery, [recall_at_k], pair_functions=PAIR_METRICS)
    assert str(error.value) == message


@pytest.mark.parametrize("rate", [0, 1, -0.1])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ConfigError) as error:
        tar_at_far(Pairs(np.zeros(1, int), np.ones(2**17, int)), far=(rate,))
    assert str(error.value) == f"far: expected rates in (0, 1), got {rate}"
