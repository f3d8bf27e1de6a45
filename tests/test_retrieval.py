"""The function for people with arrays."""

import numpy as np
import pytest

from keras_featx import retrieval_metrics
from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled
from keras_featx.metrics import mean_average_precision
from keras_featx.results import score


def points(count=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6)), rng.integers(0, 5, count)


def test_figures_are_those_of_unit_vectors_and_labels_keep_their_names():
    (query, ours), (gallery, theirs) = points(), points(50, 1)
    names = np.array(["ant", "bee", "cow", "dog", "eel"])
    found = retrieval_metrics(query, names[ours], gallery, names[theirs], ks=[1, 3])
    unit = [
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32") for x in (query, gallery)
    ]
    plain = score(Labelled(unit[0], ours), Labelled(unit[1], theirs), [mean_average_precision])
    assert found["map"] == plain["map"]
    assert set(found.by_class()) == set(names[np.unique(ours)])
    np.testing.assert_array_equal(found.labels, names[ours[found.scored]])
    assert {"recall@1", "precision@3", "ndcg@3", "map@r", "r_precision", "mrr", "minp"} < set(found)
    numbers = retrieval_metrics(query, ours - 7, gallery, theirs - 7)  # no distractors here
    assert numbers["map"] == plain["map"] and set(numbers.by_class()) == set(ours - 7)


def test_one_set_is_looked_up_without_itself():
    vectors, labels = points()
    found = retrieval_metrics(vectors, labels)
    again = retrieval_metrics(
        vectors, labels, vectors, labels, query_ids=np.arange(30), gallery_ids=np.arange(30)
    )
    assert dict(found) == dict(again) and found["recall@1"] < 1


def test_groups_and_metrics_are_passed_on():
    vectors, labels = points()
    groups = np.arange(30) % 2
    found = retrieval_metrics(vectors, labels, query_groups=groups, metric="inner_product")
    part = Labelled(vectors, labels, groups=groups)
    assert found["map"] == score(part, part, [mean_average_precision], leave_one_out=True)["map"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "l2"}, "metric: expected 'cosine' or 'inner_product', got 'l2'"),
        ({"gallery_labels": [1]}, "gallery_labels: expected with a gallery, got none"),
        ({"gallery_ids": [1]}, "gallery_ids: expected with a gallery, got none"),
        ({"ks": 5}, "ks: expected a list of numbers, got 5"),
        ({"ks": (0,)}, "topk: expected numbers of at least 1, got [0]"),
        (
            {"query_labels": [0.5] * 30},
            "query_labels: expected whole numbers or names, one for each embedding, got float64 of "
            "shape (30,)",
        ),
        (
            {"query_labels": [1, 2]},
            "query: expected 30 labels, one for each embedding, got 2",
        ),
        (
            {"gallery": np.ones((2, 6)), "gallery_labels": ["a", "b"]},
            "labels: expected of one kind, got int64 of the query and <U1 of the gallery",
        ),
        (
            {"gallery": np.ones((2, 6)), "gallery_labels": [0, 1], "query_ids": np.arange(30)},
            "ids: expected of both query and gallery, or of neither",
        ),
        (
            {"query": np.zeros((30, 6))},
            "query: expected no zero vector, got a norm of 0 in row 0 (30 such rows)",
        ),
        (
            {"query": np.full((30, 6), np.nan)},
            "query: expected finite values, got a norm of nan in row 0 (30 such rows)",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message):
    vectors, labels = points()
    with pytest.raises(ConfigError) as error:
        retrieval_metrics(**{"query": vectors, "query_labels": labels, **arguments})
    assert str(error.value) == message
