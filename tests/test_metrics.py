"""Retrieval metrics against the reference, other libraries, scikit-learn and loops over lists."""

import functools
import json
import math
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from keras_featx import metrics
from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled
from keras_featx.matching import find_matches
from keras_featx.results import score

TOPK = (1, 5, 10)
METRICS = [
    functools.partial(metrics.recall_at_k, topk=TOPK),
    functools.partial(metrics.precision_at_k, topk=(1, 5)),
    metrics.mean_average_precision,
    metrics.mean_inverse_negative_penalty,
]
# Names of the reference's figures, and ours. Its Precisionk counts queries without a match.
OUR_NAMES = {
    "recall1": "recall@1",
    "recall5": "recall@5",
    "recall10": "recall@10",
    "mAP": "map",
    "mINP": "minp",
}
BLOCKS = [(7, 41), (64, 64), (1000, 8192)]
SMALL_BLOCKS = [(1, 7), (3, 2), (1000, 8192)]


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


def definitions(relevant, topk):
    """All metrics of one ranking, a list of bool, by their definitions."""
    found, hits, precisions = {}, 0, []
    total = sum(relevant)
    for rank, right in enumerate(relevant, start=1):
        hits += right
        precisions.append(hits / rank)
    at = [p for p, right in zip(precisions, relevant, strict=True) if right]
    for k in topk:
        first = relevant[:k]
        found[f"recall@{k}"] = 1.0 if any(first) else 0.0
        found[f"precision@{k}"] = sum(first) / k
        found[f"map@{k}"] = sum(at[: sum(first)]) / min(total, k)
        gain = sum(1 / math.log2(rank + 1) for rank, r in enumerate(first, start=1) if r)
        best = sum(1 / math.log2(rank + 1) for rank in range(1, min(total, k) + 1))
        found[f"ndcg@{k}"] = gain / best
    found["map"] = sum(at) / total
    found["map@r"] = sum(at[: sum(relevant[:total])]) / total
    found["r_precision"] = sum(relevant[:total]) / total
    found["mrr"] = 1 / (relevant.index(True) + 1)
    found["minp"] = total / (len(relevant) - relevant[::-1].index(True))
    return found


def brute_force(query, gallery, topk, leave_one_out=False):
    """One query and one gallery entry at a time: values of each scored query, and who is left."""
    values, scored = {}, []
    for i, label in enumerate(query.labels):
        entries = []
        for j, other in enumerate(gallery.labels):
            if query.groups is not None and query.groups[i] != gallery.groups[j]:
                continue
            excluded = leave_one_out and i == j
            for name in ("ids", "cameras"):
                own, others = getattr(query, name), getattr(gallery, name)
                excluded |= own is not None and others is not None and own[i] == others[j]
            if not (excluded and label == other):
                similarity = sum(
                    float(a) * float(b)
                    for a, b in zip(query.embeddings[i], gallery.embeddings[j], strict=True)
                )
                entries.append((-similarity, j, bool(label == other and label >= 0)))
        relevant = [match for _, _, match in sorted(entries)]
        if any(relevant):
            scored.append(i)
            for name, value in definitions(relevant, topk).items():
                values.setdefault(name, []).append(value)
    return values, scored


def all_metrics(topk):
    with_topk = (
        metrics.recall_at_k, metrics.precision_at_k, metrics.map_at_k, metrics.ndcg_at_k,
    )  # fmt: skip
    return [functools.partial(metric, topk=topk) for metric in with_topk] + [
        metrics.mean_average_precision,
        metrics.map_at_r,
        metrics.r_precision,
        metrics.mean_reciprocal_rank,
        metrics.mean_inverse_negative_penalty,
    ]


def random_case(seed, protocol):
    """Small integer embeddings (exact products, many ties), few labels, some of them alone."""
    rng = np.random.default_rng(seed)
    queries, entries = rng.integers(1, 9), rng.integers(1, 40)
    labels = int(rng.integers(1, 7))

    def part(size):
        return Labelled(
            rng.integers(-2, 3, (size, 3)).astype("float32"),
            rng.integers(-1, labels, size),
            rng.integers(0, 3, size) if "ids" in protocol else None,
            rng.integers(0, 3, size) if "cameras" in protocol else None,
            rng.integers(0, 3, size) if "groups" in protocol else None,
        )

    if "one set" in protocol:
        both = part(entries)
        return both, both
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
@pytest.mark.parametrize("block_sizes", BLOCKS)
def test_metrics_equal_the_reference(golden, name, block_sizes):
    arrays, reference = golden
    query, gallery = golden_case(arrays, name)
    ours = score(query, gallery, METRICS, block_sizes=block_sizes)
    proper = reference[name]["proper"]
    for key, our_key in OUR_NAMES.items():
        assert ours[our_key] == pytest.approx(proper[key], abs=1e-5), key
    assert ours["queries_without_match"] == proper["queries_without_match"]
    assert ours["queries"] + ours["queries_without_match"] == len(query.labels)
    assert ours["gallery"] == len(gallery.labels)


def test_precision_equals_the_reference_where_nothing_is_left_out(golden):
    """Its Precisionk divides by all queries, and keeps excluded entries in the ranking."""
    arrays, reference = golden
    for name in ("A", "A_nonorm", "B_same_no_uid"):
        ours = score(*golden_case(arrays, name), METRICS)
        for k in (1, 5):
            expected = reference[name]["compat_block64"][f"precision@{k}"]
            assert ours[f"precision@{k}"] == pytest.approx(expected, abs=1e-9)


def test_a_whole_block_without_a_match_is_left_out(golden):
    """The reference gives NaN here."""
    arrays, _ = golden
    (query, gallery) = golden_case(arrays, "A")
    query = Labelled(query.embeddings, arrays["E2_ql"])
    ours = score(query, gallery, all_metrics(TOPK), block_sizes=(64, 64))
    expected, scored = brute_force(query, gallery, TOPK)
    assert len(query.labels) - len(scored) >= 64
    for name, values in expected.items():
        np.testing.assert_allclose(ours.per_query[name], values, atol=1e-12)


@pytest.mark.parametrize(
    "protocol",
    ["plain", "ids", "cameras", "ids cameras", "groups", "groups ids", "one set",
     "one set groups cameras"],
)  # fmt: skip
def test_metrics_equal_loops_on_random_cases(protocol):
    topk = (1, 2, 3, 50)  # 50 is more than any of these galleries holds
    seen = {"scored": 0, "left out": 0, "without any": 0}
    one_set = "one set" in protocol
    for seed in range(250):
        query, gallery = random_case(seed, protocol)
        expected, scored = brute_force(query, gallery, topk, one_set)
        blocks = SMALL_BLOCKS[seed % 3]
        if not scored:
            seen["without any"] += 1
            with pytest.raises(ConfigError):
                score(query, gallery, all_metrics(topk), leave_one_out=one_set)
            continue
        seen["scored"] += 1
        seen["left out"] += len(scored) < len(query.labels)
        ours = score(query, gallery, all_metrics(topk), leave_one_out=one_set, block_sizes=blocks)
        np.testing.assert_array_equal(ours.scored, scored)
        assert set(ours.per_query) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(ours.per_query[name], values, atol=1e-12, err_msg=str(seed))
            assert ours[name] == pytest.approx(np.mean(values), abs=1e-12)
        assert sum(ours.left_out.values()) == len(query.labels) - len(scored)
    assert min(seen["scored"], seen["left out"]) > 10, seen


@pytest.mark.parametrize("many", [5, 60])
def test_ranks_of_real_vectors_are_those_of_float64(many):
    """With few and many relevant entries; near doubles, nearer than a float32 product tells."""
    rng = np.random.default_rng(0)
    gallery = unit(rng.normal(size=(2000, 64))).astype("float32")
    gallery[1::5] = np.nextafter(gallery[::5], np.float32(2))
    query = unit(rng.normal(size=(80, 64))).astype("float32")
    labels = rng.integers(0, 2000 // many, 2000)
    parts = Labelled(query, rng.integers(0, 2000 // many, 80)), Labelled(gallery, labels)
    answers = [find_matches(*parts, block_sizes=blocks) for blocks in BLOCKS]
    for other in answers[1:]:
        for name, values in vars(other).items():
            np.testing.assert_array_equal(values, getattr(answers[0], name), err_msg=name)
    exact = (query.astype("float64") @ gallery.astype("float64").T).astype("float32")
    order = np.argsort(-exact, axis=1, kind="stable")
    for i, label in enumerate(parts[0].labels):
        ranks = np.flatnonzero(labels[order[i]] == label) + 1
        found = slice(*answers[0].starts[i : i + 2])
        np.testing.assert_array_equal(answers[0].ranks[found], ranks)
        np.testing.assert_array_equal(answers[0].rows[found], order[i][ranks - 1])
        np.testing.assert_array_equal(answers[0].similarities[found], exact[i][order[i][ranks - 1]])


def test_many_near_copies_take_no_more_memory_than_a_block():
    """Scores that float32 cannot tell apart: every pair is decided exactly."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(1, 24))
    gallery = unit(centre + 1e-5 * rng.normal(size=(3000, 24))).astype("float32")
    query = unit(centre + 1e-5 * rng.normal(size=(40, 24))).astype("float32")
    parts = Labelled(query, np.arange(40) % 2), Labelled(gallery, np.arange(3000) % 40)
    tracemalloc.start()
    found = find_matches(*parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # each pair with all that is in doubt would be 70 MB and more
    exact = np.einsum("id,jd->ij", query.astype("float64"), gallery).astype("float32")
    order = np.argsort(-exact, axis=1, kind="stable")
    expected = [
        np.flatnonzero(parts[1].labels[row] == label) + 1
        for row, label in zip(order, parts[0].labels, strict=True)
    ]
    np.testing.assert_array_equal(found.ranks, np.concatenate(expected))


@pytest.mark.parametrize("scale", [1e-19, 1e-21])
def test_ranks_of_tiny_vectors_are_exact(scale):
    rng = np.random.default_rng(0)
    query, gallery = (
        (rng.normal(size=(n, 32)) * scale).astype("float32") for n in (20, 600)
    )  # fmt: skip
    parts = Labelled(query, np.arange(20)), Labelled(gallery, np.arange(600) % 20)
    exact = np.einsum("id,jd->ij", query.astype("float64"), gallery).astype("float32")
    order = np.argsort(-exact, axis=1, kind="stable")
    expected = [np.flatnonzero(parts[1].labels[row] == i) + 1 for i, row in enumerate(order)]
    for blocks in BLOCKS:
        found = find_matches(*parts, block_sizes=blocks)
        np.testing.assert_array_equal(found.ranks, np.concatenate(expected))


def test_precision_and_gain_equal_scikit_learn():
    rng = np.random.default_rng(0)
    query = Labelled(unit(rng.normal(size=(40, 8))), rng.integers(0, 6, 40))
    gallery = Labelled(unit(rng.normal(size=(90, 8))), rng.integers(0, 6, 90))
    similarity = query.embeddings @ gallery.embeddings.T
    assert all(len(set(row)) == 90 for row in similarity)  # no ties
    relevant = gallery.labels == query.labels[:, None]
    ours = score(query, gallery, all_metrics((7,)))
    precision = [average_precision_score(r, s) for r, s in zip(relevant, similarity, strict=True)]
    np.testing.assert_allclose(ours.per_query["map"], precision, atol=1e-12)
    gain = [ndcg_score([r], [s], k=7) for r, s in zip(relevant, similarity, strict=True)]
    np.testing.assert_allclose(ours.per_query["ndcg@7"], gain, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5, 10])
def test_metrics_equal_tensorflow_similarity(data_dir, k):
    """Its MapAtK divides by R also where k is smaller; its macro average is that of identities."""
    golden = np.load(data_dir / "retrieval_tfsim.npz")
    query, gallery = (
        Labelled(golden[f"q_vs_g/{part}"], golden[f"q_vs_g/{part}_labels"])
        for part in ("query", "gallery")
    )
    ours = score(query, gallery, all_metrics((k,)))
    assert ours["queries"] == 12
    averaged = ours.class_averaged()
    for theirs, name in (("RecallAtK", "recall"), ("PrecisionAtK", "precision")):
        for average, values in (("micro", ours), ("macro", averaged)):
            expected = golden[f"q_vs_g/{theirs}(k={k},average={average},thr=inf)"]
            assert values[f"{name}@{k}"] == pytest.approx(float(expected), abs=1e-6)
    relevant = np.bincount(gallery.labels)[query.labels]
    expected = golden[f"q_vs_g/MapAtK(k={k},clip_at_r=False)"]
    over_r = ours.per_query[f"map@{k}"] * np.minimum(relevant, k) / relevant
    assert over_r.mean() == pytest.approx(float(expected), abs=1e-6)
    if k >= relevant.max():
        for theirs, name in (
            ("MapAtK(k={},clip_at_r=True)", "map@r"),
            ("PrecisionAtK(k={},r=class_counts,clip_at_r=True)", "r_precision"),
        ):
            expected = golden[f"q_vs_g/{theirs.format(k)}"]
            assert ours[name] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("relevant", "precision"),
    [
        ([1], 1), ([0, 1], 1 / 2), ([0, 0, 0, 1], 1 / 4), ([1, 0, 1], (1 + 2 / 3) / 2),
        ([1, 1, 0, 0], 1), ([0, 1, 1], (1 / 2 + 2 / 3) / 2),
    ],
)  # fmt: skip
def test_average_precision_by_hand(relevant, precision):
    ours = metrics.mean_average_precision(metrics.from_relevant([relevant]))
    assert ours == {"map": pytest.approx(precision, abs=1e-12)}


def test_recall_by_hand():
    relevant = metrics.from_relevant([[False, False, True, False, True]])
    assert metrics.recall_at_k(relevant, topk=(1, 2, 3, 99)) == {
        "recall@1": 0.0, "recall@2": 0.0, "recall@3": 1.0, "recall@99": 1.0,
    }  # fmt: skip
    assert list(metrics.recall_at_k(relevant)) == ["recall@1", "recall@5"]


def test_excluded_entries_are_removed_not_moved():
    """A query that finds itself, an entry of its camera, then one of another camera."""
    embeddings = np.array([[3.0], [2.0], [1.0], [-5.0]])
    query = Labelled(np.array([[1.0]]), np.array([7]), np.array(["left"]))
    gallery = Labelled(
        embeddings, np.array([7, 7, 7, 8]), np.array(["left", "left", "right", "left"])
    )
    found = find_matches(query, gallery)
    assert (found.ranks.tolist(), found.rows.tolist()) == ([1], [2])
    # The camera's image of another identity stays.
    assert (found.entries.tolist(), found.excluded.tolist()) == ([2], [2])


def test_ties_go_to_the_lowest_row():
    gallery = Labelled(np.ones((5, 2)), np.array([0, 1, 0, 1, 1]))
    found = find_matches(Labelled(np.ones((1, 2)), np.array([1])), gallery)
    assert (found.ranks.tolist(), found.rows.tolist()) == ([2, 4, 5], [1, 3, 4])


def test_no_query_with_a_match_is_an_error():
    query = Labelled(np.eye(3), np.array([0, 1, 2]))
    gallery = Labelled(np.eye(3)[:2], np.array([3, 4]))
    with pytest.raises(ConfigError) as error:
        score(query, gallery, METRICS)
    assert str(error.value) == (
        "none of the 3 queries has an image of its identity in the gallery (2 images): "
        "expected query and gallery to share labels"
    )


def test_no_match_left_after_exclusion_is_an_error():
    points = Labelled(np.eye(3), np.arange(3), np.arange(3))
    with pytest.raises(ConfigError, match="^none of the 3 queries has an image of its identity"):
        score(points, points, METRICS)


POINTS = Labelled(np.eye(4, 8), np.zeros(4, int))


@pytest.mark.parametrize(
    ("query", "gallery", "arguments", "message"),
    [
        (
            Labelled(np.ones((1, 4)), np.zeros(1, int)), POINTS, {},
            "query and gallery: expected (rows, size) arrays of one size, got (1, 4) and (4, 8)",
        ),
        (
            Labelled(np.eye(4, 8), np.zeros(3, int)), POINTS, {},
            "query: expected 4 labels, one for each embedding, got 3",
        ),
        (
            POINTS, Labelled(np.eye(4, 8), np.zeros(4, int), np.zeros((4, 1))), {},
            "gallery: expected 4 ids, one for each embedding, got 4 x 1",
        ),
        (
            POINTS, Labelled(np.eye(4, 8), np.zeros(4, int), groups=np.zeros(4)), {},
            "groups: expected of both query and gallery, or of neither",
        ),
        (
            Labelled(np.eye(4, 8), np.zeros(4, int), np.arange(4)), POINTS, {},
            "ids: expected of both query and gallery, or of neither",
        ),
        (
            Labelled(np.eye(4, 8), np.zeros(4, int), np.arange(4)),
            Labelled(np.eye(4, 8), np.zeros(4, int), np.array(["0", "1", "2", "3"])), {},
            "ids: expected of one kind, got int64 of the query and <U1 of the gallery",
        ),
        (
            Labelled(np.eye(4, 8), np.array(list("abcd"))),
            Labelled(np.eye(4, 8), np.array(list("abcd"))), {},
            "labels: expected whole numbers, got <U1",
        ),
        (
            Labelled(np.zeros((0, 8)), np.zeros(0, int)), POINTS, {},
            "query: expected at least one row, got none",
        ),
        (
            POINTS, Labelled(np.zeros((0, 8)), np.zeros(0, int)), {},
            "gallery: expected at least one row, got none",
        ),
        (
            POINTS, Labelled(np.eye(5, 8), np.zeros(5, int)), {"leave_one_out": True},
            "leave_one_out: expected one set as query and gallery, got 4 and 5 items",
        ),
        (
            Labelled(np.full((4, 8), np.nan), np.zeros(4, int)), POINTS, {},
            "query: expected finite values, got a norm of nan in row 0 (4 such rows)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(query, gallery, arguments, message):
    with pytest.raises(ConfigError) as error:
        score(query, gallery, METRICS, **arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("topk", [(), (0,), (5, -1)])
def test_impossible_k_are_refused(topk):
    relevant = metrics.from_relevant([[True]])
    for metric in all_metrics(topk)[:4]:
        with pytest.raises(ConfigError) as error:
            metric(relevant)
        assert str(error.value) == f"topk: expected numbers of at least 1, got {list(topk)}"
