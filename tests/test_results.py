"""What a result tells: intervals against scipy's bootstrap, averages, reasons, files."""

import csv
import json

import numpy as np
import pytest
import scipy.stats

from keras_featx import results
from keras_featx.labelled import Labelled
from keras_featx.metrics import mean_average_precision, recall_at_k
from keras_featx.results import RetrievalResult, score


def result_of(values, labels, **more):
    values = {"recall@1": np.asarray(values, "float64")}
    labels = np.asarray(labels)
    return RetrievalResult(values, labels, np.arange(len(labels)), {}, 10, 0, more)


def test_with_one_query_an_identity_intervals_are_the_percentile_bootstrap():
    rng = np.random.default_rng(0)
    values = rng.beta(2, 1, 200)
    low, high = result_of(values, np.arange(200)).intervals["recall@1"]
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # A percentile of 1,000 resamples is known to about a tenth of their spread.
    slack = 0.3 * values.std() / 200**0.5
    assert [low, high] == pytest.approx([theirs.low, theirs.high], abs=slack)


def test_queries_of_one_identity_do_not_make_an_interval_narrower():
    """Each query 20 times is no more knowledge; more identities are."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, 50)
    once = result_of(values, np.arange(50)).intervals["recall@1"]
    copied = result_of(np.repeat(values, 20), np.repeat(np.arange(50), 20)).intervals["recall@1"]
    assert copied == pytest.approx(once, abs=1e-12)
    apart = result_of(np.repeat(values, 20), np.arange(1000)).intervals["recall@1"]
    assert apart[1] - apart[0] < 0.4 * (once[1] - once[0])


def test_identities_of_many_queries_weigh_more():
    """The mean of a resample is over its queries, so it stays between the identities' means."""
    ours = result_of([0.0] * 90 + [1.0] * 10, [0] * 90 + [1] * 10)
    assert ours["recall@1"] == pytest.approx(0.1)
    assert ours.class_averaged() == {"recall@1": 0.5}
    assert ours.intervals["recall@1"] == (0.0, 1.0)
    assert ours.by_class() == {
        0: {"recall@1": 0.0, "queries": 90},
        1: {"recall@1": 1.0, "queries": 10},
    }


def test_one_identity_has_no_interval():
    ours = result_of([0.0, 1.0], [3, 3])
    assert ours.intervals == {}
    assert ours.to_dict()["metrics"]["recall@1"]["interval"] is None
    assert "0.5000  no interval" in str(ours)


def case():
    """Seven queries: four scored, and three that are left out for three reasons."""
    gallery = Labelled(
        np.eye(4, dtype="float32")[[0, 1, 2, 3, 0]],
        np.array([0, 1, 2, 3, -1]),
        np.array([10, 11, 12, 13, 14]),
        groups=np.array([0, 0, 0, 0, 0]),
    )
    query = Labelled(
        np.eye(4, dtype="float32")[[0, 1, 2, 0, 3, 0, 0]],
        np.array([0, 1, 2, 1, 3, 5, 0]),
        np.array([1, 2, 3, 4, 13, 6, 7]),
        groups=np.array([0, 0, 0, 0, 0, 0, 9]),
    )
    return query, gallery


def test_what_is_left_out_comes_with_its_reason():
    ours = score(*case(), [recall_at_k, mean_average_precision], more={"query_skipped": 2})
    assert dict(ours) == {
        "recall@1": 0.75, "recall@5": 1.0, "map": pytest.approx((1 + 1 + 1 + 1 / 3) / 4),
        "queries": 4, "queries_without_match": 3, "gallery": 5, "query_skipped": 2,
    }  # fmt: skip
    assert ours.left_out == {
        results.NO_GROUP: 1, results.ALL_EXCLUDED: 1, results.NO_ENTRY: 1,
    }  # fmt: skip
    assert ours.scored.tolist() == [0, 1, 2, 3] and ours.excluded == 1
    text = str(ours)
    assert "4 queries of 3 identities, 5 gallery images" in text
    for reason in ours.left_out:
        assert f"left out: 1 queries, {reason}" in text
    assert "query_skipped: 2" in text


def test_files_hold_what_the_result_holds(tmp_path):
    ours = score(*case(), [recall_at_k, mean_average_precision])
    ours.write_json(tmp_path / "result.json")
    ours.write_csv(tmp_path / "queries.csv")
    tree = json.loads((tmp_path / "result.json").read_text())
    assert tree == ours.to_dict()
    assert tree["metrics"]["recall@1"]["mean"] == 0.75
    assert tree["identities"] == 3 and tree["excluded_entries"] == 1
    with open(tmp_path / "queries.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["query"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["label"] for row in rows] == ["0", "1", "2", "1"]
    for name, values in ours.per_query.items():
        assert [float(row[name]) for row in rows] == values.tolist()
