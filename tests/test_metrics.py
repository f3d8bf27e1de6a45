"""Retrieval metrics and search against the reference, scikit-learn and loops over lists."""

import functools
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from keras_featx.errors import ConfigError
from keras_featx.metrics import (
    Labelled,
    mean_average_precision,
    rankings,
    recall_at_k,
    retrieval_metrics,
)
from keras_featx.search import nearest

TOPK = (1, 5, 10)
METRICS = [functools.partial(recall_at_k, topk=TOPK), mean_average_precision]
OUR_NAMES = {"recall1": "recall@1", "recall5": "recall@5", "recall10": "recall@10", "mAP": "map"}


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def golden_case(golden, name):
    """Query and gallery of a case of the reference."""
    queries = {"qf": golden["A_qf"], "ql": golden["A_ql"]}
    galleries = {"gf": golden["A_gf"], "gl": golden["A_gl"]}
    a = (unit(queries["qf"]), queries["ql"]), (unit(galleries["gf"]), galleries["gl"])
    cases = {
        "A": a,
        "A_nonorm": ((queries["qf"], queries["ql"]), (galleries["gf"], galleries["gl"])),
        "B_same_no_uid": (a[1], a[1]),
        "C_same_uid": ((*a[1], golden["C_uid"]),) * 2,
        "D_camera": ((*a[0], golden["D_qc"]), (*a[1], golden["D_gc"])),
        "E_nomatch": ((a[0][0], golden["E_ql"]), a[1]),
        "F_ties": ((golden["F_qf"], golden["F_ql"]), (golden["F_gf"], golden["F_gl"])),
        "G_negative_sims_same_uid": ((unit(golden["G_f"]), golden["G_l"], np.arange(30)),) * 2,
    }
    query, gallery = cases[name]
    return Labelled(*query), Labelled(*gallery)


def brute_force(query, gallery, topk):
    """The definitions, one query and one gallery entry at a time."""
    recalls, precisions, without = {k: [] for k in topk}, [], 0
    for i, label in enumerate(query.labels):
        entries = []
        for j, other in enumerate(gallery.labels):
            excluded = query.ids is not None and query.ids[i] == gallery.ids[j]
            if not (excluded and label == other):
                similarity = sum(
                    float(a) * float(b)
                    for a, b in zip(query.embeddings[i], gallery.embeddings[j], strict=True)
                )
                entries.append((-similarity, j, label == other))
        found = [match for _, _, match in sorted(entries)]
        if not any(found):
            without += 1
            continue
        for k in topk:
            recalls[k].append(1.0 if any(found[:k]) else 0.0)
        hits, at_hits = 0, []
        for rank, match in enumerate(found, start=1):
            if match:
                hits += 1
                at_hits.append(hits / rank)
        precisions.append(sum(at_hits) / hits)
    if not precisions:
        return None
    return {
        **{f"recall@{k}": np.mean(values) for k, values in recalls.items()},
        "map": np.mean(precisions),
        "queries": len(precisions),
        "queries_without_match": without,
        "gallery": len(gallery.labels),
    }


def random_case(seed, with_ids):
    """Small integer embeddings (exact products, many ties), few labels, some of them alone."""
    rng = np.random.default_rng(seed)
    queries, entries = rng.integers(1, 9, size=2)
    labels = int(rng.integers(1, 7))

    def part(size):
        return Labelled(
            rng.integers(-2, 3, (size, 3)).astype("float32"),
            rng.integers(0, labels, size),
            rng.integers(0, 3, size) if with_ids else None,
        )

    return part(queries), part(entries)


@pytest.fixture
def golden(data_dir):
    reference = json.loads((data_dir / "metrics_reference.json").read_text())
    return np.load(data_dir / "metrics.npz"), reference


@pytest.mark.parametrize(
    "name",
    ["A", "A_nonorm", "B_same_no_uid", "C_same_uid", "D_camera", "E_nomatch", "F_ties",
     "G_negative_sims_same_uid"],
)  # fmt: skip
@pytest.mark.parametrize("block_size", [1, 64, 1000])
def test_metrics_equal_the_reference(golden, name, block_size):
    arrays, reference = golden
    query, gallery = golden_case(arrays, name)
    ours = retrieval_metrics(query, gallery, METRICS, block_size)
    proper = reference[name]["proper"]
    for key, our_key in OUR_NAMES.items():
        assert ours[our_key] == pytest.approx(proper[key], abs=1e-5), key
    assert ours["queries_without_match"] == proper["queries_without_match"]
    assert ours["queries"] + ours["queries_without_match"] == len(query.labels)
    assert ours["gallery"] == len(gallery.labels)


def test_a_whole_block_without_a_match_is_left_out(golden):
    """The reference gives NaN here."""
    arrays, _ = golden
    (query, gallery) = golden_case(arrays, "A")
    query = Labelled(query.embeddings, arrays["E2_ql"])
    ours = retrieval_metrics(query, gallery, METRICS, block_size=64)
    expected = brute_force(query, gallery, TOPK)
    assert expected["queries_without_match"] >= 64
    assert ours == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("with_ids", [False, True])
def test_metrics_equal_loops_on_random_cases(with_ids):
    topk = (1, 2, 3, 20)  # 20 is more than any of these galleries holds
    metrics = [functools.partial(recall_at_k, topk=topk), mean_average_precision]
    seen = {"scored": 0, "left out": 0, "without any": 0}
    for seed in range(300):
        query, gallery = random_case(seed, with_ids)
        expected = brute_force(query, gallery, topk)
        if expected is None:
            seen["without any"] += 1
            with pytest.raises(ConfigError):
                retrieval_metrics(query, gallery, metrics)
            continue
        seen["scored"] += 1
        seen["left out"] += expected["queries_without_match"] > 0
        for block_size in (1, 3, 256):
            ours = retrieval_metrics(query, gallery, metrics, block_size)
            assert ours == pytest.approx(expected, abs=1e-12), seed
    assert min(seen.values()) > 10, seen


def test_average_precision_equals_scikit_learn():
    rng = np.random.default_rng(0)
    query = Labelled(unit(rng.normal(size=(40, 8))), rng.integers(0, 6, 40))
    gallery = Labelled(unit(rng.normal(size=(90, 8))), rng.integers(0, 6, 90))
    similarity = query.embeddings @ gallery.embeddings.T
    assert all(len(set(row)) == 90 for row in similarity)  # no ties
    expected = np.mean(
        [
            average_precision_score(gallery.labels == label, row)
            for label, row in zip(query.labels, similarity, strict=True)
        ]
    )
    assert retrieval_metrics(query, gallery, METRICS)["map"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("relevant", "precision"),
    [
        ([1], 1), ([0, 1], 1 / 2), ([0, 0, 0, 1], 1 / 4), ([1, 0, 1], (1 + 2 / 3) / 2),
        ([1, 1, 0, 0], 1), ([0, 1, 1], (1 / 2 + 2 / 3) / 2),
    ],
)  # fmt: skip
def test_average_precision_by_hand(relevant, precision):
    ours = mean_average_precision(np.array(relevant, bool))
    assert ours == {"map": pytest.approx(precision, abs=1e-12)}


def test_recall_by_hand():
    relevant = np.array([False, False, True, False, True])
    assert recall_at_k(relevant, topk=(1, 2, 3, 99)) == {
        "recall@1": 0.0, "recall@2": 0.0, "recall@3": 1.0, "recall@99": 1.0,
    }  # fmt: skip
    assert list(recall_at_k(relevant)) == ["recall@1", "recall@5"]


def test_excluded_entries_are_removed_not_moved():
    """A query that finds itself, an entry of its camera, then one of another camera."""
    embeddings = np.array([[3.0], [2.0], [1.0], [-5.0]])
    query = Labelled(np.array([[1.0]]), np.array([7]), np.array(["left"]))
    gallery = Labelled(
        embeddings, np.array([7, 7, 7, 8]), np.array(["left", "left", "right", "left"])
    )
    ((relevant, order),) = rankings(query, gallery)
    assert relevant.tolist() == [True, False]
    assert order.tolist() == [2, 3]  # the camera's image of another identity stays


def test_ties_go_to_the_lowest_row():
    gallery = Labelled(np.ones((5, 2)), np.array([0, 1, 0, 1, 1]))
    ((relevant, order),) = rankings(Labelled(np.ones((1, 2)), np.array([1])), gallery)
    assert order.tolist() == [0, 1, 2, 3, 4]
    assert relevant.tolist() == [False, True, False, True, True]


def test_no_query_with_a_match_is_an_error():
    query = Labelled(np.eye(3), np.array([0, 1, 2]))
    gallery = Labelled(np.eye(3)[:2], np.array([3, 4]))
    with pytest.raises(ConfigError) as error:
        retrieval_metrics(query, gallery, METRICS)
    assert str(error.value) == (
        "none of the 3 queries has an image of its identity in the gallery (2 images): "
        "expected query and gallery to share labels"
    )


def test_no_match_left_after_exclusion_is_an_error():
    points = Labelled(np.eye(3), np.arange(3), np.arange(3))
    with pytest.raises(ConfigError, match="^none of the 3 queries has an image of its identity"):
        retrieval_metrics(points, points, METRICS)


def test_embeddings_of_two_sizes_are_an_error():
    query = Labelled(np.ones((1, 4)), np.zeros(1, int))
    gallery = Labelled(np.ones((1, 8)), np.zeros(1, int))
    with pytest.raises(ConfigError) as error:
        retrieval_metrics(query, gallery, METRICS)
    assert str(error.value) == "query and gallery embeddings: expected one size, got 4 and 8"


@pytest.mark.parametrize("k", [1, 3, 7, 50])
@pytest.mark.parametrize("block_size", [1, 4, 256])
def test_neighbours_equal_loops(k, block_size):
    """Integers, so that ties are exact: 7 values for 40 entries."""
    rng = np.random.default_rng(0)
    query = rng.integers(-1, 2, (9, 3)).astype("float32")
    gallery = rng.integers(-1, 2, (40, 3)).astype("float32")
    similarities, rows = nearest(query, gallery, k, block_size)
    assert similarities.shape == rows.shape == (9, min(k, 40))
    for i, q in enumerate(query):
        ranked = sorted(
            (-sum(float(a) * float(b) for a, b in zip(q, g, strict=True)), j)
            for j, g in enumerate(gallery)
        )[:k]
        assert rows[i].tolist() == [j for _, j in ranked]
        assert similarities[i].tolist() == [-negative for negative, _ in ranked]


def test_neighbours_of_real_vectors_are_those_of_float64():
    rng = np.random.default_rng(0)
    query, gallery = (unit(rng.normal(size=(n, 64))).astype("float32") for n in (50, 400))
    similarities, rows = nearest(query, gallery, 10)
    exact = query.astype("float64") @ gallery.astype("float64").T
    np.testing.assert_array_equal(rows, np.argsort(-exact, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(similarities, np.take_along_axis(exact, rows, axis=1), atol=1e-6)


@pytest.mark.parametrize("entries", [5, 17, 1003])
@pytest.mark.parametrize("block_size", [1, 2, 7, 256])
def test_equal_float32_entries_tie(entries, block_size):
    """The same image twice in the gallery: the lower row first, whatever the block."""
    rng = np.random.default_rng(0)
    query = unit(rng.normal(size=(100, 64))).astype("float32")
    image = unit(rng.normal(size=(1, 64))).astype("float32")
    gallery = np.repeat(image, entries, axis=0)
    _, rows = nearest(query, gallery, entries, block_size)
    broken = (rows != np.arange(entries)).any(axis=1).sum()
    assert broken == 0, f"{broken} of 100 queries do not see the entries as equal"
    parts = Labelled(query, np.zeros(100, int)), Labelled(gallery, np.zeros(entries, int))
    for _, order in rankings(*parts, block_size):
        np.testing.assert_array_equal(order, np.arange(entries))


def test_no_queries_have_no_neighbours():
    similarities, rows = nearest(np.empty((0, 4)), np.ones((3, 4)), k=2)
    assert similarities.shape == rows.shape == (0, 2)
    assert np.issubdtype(rows.dtype, np.integer)


@pytest.mark.parametrize(
    ("query", "gallery", "k", "message"),
    [
        (
            (2, 3), (2, 4), 1,
            "query and gallery: expected (rows, size) arrays of one size, got (2, 3) and (2, 4)",
        ),
        (
            (3,), (2, 3), 1,
            "query and gallery: expected (rows, size) arrays of one size, got (3,) and (2, 3)",
        ),
        (
            (2, 3), (2, 3, 1), 1,
            "query and gallery: expected (rows, size) arrays of one size, got (2, 3) and (2, 3, 1)",
        ),
        ((2, 3), (2, 3), 0, "k: expected at least 1, got 0"),
        ((2, 3), (2, 3), -2, "k: expected at least 1, got -2"),
    ],
)  # fmt: skip
def test_impossible_searches_are_refused(query, gallery, k, message):
    with pytest.raises(ValueError) as error:
        nearest(np.ones(query), np.ones(gallery), k)
    assert str(error.value) == message
