"""Re-ranking against the reference's distances, dense loops over sets, and scikit-learn."""

import functools

import numpy as np
import pytest
from sklearn.decomposition import PCA

from keras_featx import reranking
from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled
from keras_featx.matching import find_matches
from keras_featx.metrics import recall_at_k
from keras_featx.results import score
from keras_featx.verification import roc_auc

WHOLE = slice(None)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def points(seed, *counts, size=6):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, size))
    return [unit(centres[rng.integers(0, 4, n)] + 0.7 * rng.normal(size=(n, size))) for n in counts]


def dense(query, gallery, k1, k2, weight):
    """The paper's rule with sets and whole matrices."""
    both = np.concatenate([query, gallery]).astype("float64")
    square = ((both[:, None] - both[None]) ** 2).sum(-1)
    scaled = square / square.max(1, keepdims=True)
    near = np.argsort(square, axis=1, kind="stable")

    def mutual(i, k):
        return {int(j) for j in near[i, : k + 1] if i in near[j, : k + 1]}

    weights = np.zeros_like(square)
    for i in range(len(both)):
        own = mutual(i, k1)
        members = set(own)
        for j in own:
            theirs = mutual(j, round(k1 / 2))
            if len(theirs & own) > 2 / 3 * len(theirs):
                members |= theirs
        members = sorted(members)
        value = np.exp(-scaled[i, members])
        weights[i, members] = value / value.sum()
    weights = np.stack([weights[near[i, :k2]].mean(0) for i in range(len(both))])
    result = np.empty((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            least = np.minimum(weights[i], weights[len(query) + j]).sum()
            result[i, j] = 1 - least / (2 - least)
    return (1 - weight) * result + weight * scaled[: len(query), len(query) :]


@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(20, 6, 0.3), (5, 1, 0.0), (7, 8, 0.5), (1, 2, 1.0), (60, 3, 0.1)]
)
@pytest.mark.parametrize("seed", range(3))
def test_k_reciprocal_is_the_rule_of_the_paper(seed, k1, k2, weight, monkeypatch):
    monkeypatch.setattr(reranking, "_CHUNK", 7)
    monkeypatch.setattr(reranking, "_ROWS", 11)
    query, gallery = points(seed, 13, 37)
    distances = reranking.k_reciprocal(query, gallery, k1=k1, k2=k2, weight=weight)
    ours = np.concatenate([distances(slice(0, 5)), distances(slice(5, 13))])
    expected = dense(query, gallery, k1, k2, weight)
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    assert np.unique(ours).size > 37


@pytest.mark.parametrize(
    ("name", "arguments", "queries", "entries"),
    [
        ("H_rerank_dist_k1_20_k2_6_l0.3", {}, 100, 300),
        ("H_rerank_dist_k2_1", {"k1": 10, "k2": 1}, 20, 60),
    ],
)
def test_k_reciprocal_equals_the_reference(data_dir, name, arguments, queries, entries):
    """Which computes in float16 inside, and takes unit vectors for granted."""
    golden = np.load(data_dir / "metrics.npz")
    query, gallery = unit(golden["A_qf"][:queries]), unit(golden["A_gf"][:entries])
    ours = reranking.k_reciprocal(query, gallery, **arguments)(WHOLE)
    np.testing.assert_allclose(ours, golden[name], atol=5e-3)


def test_copies_of_a_query_have_distances_too():
    """More of them than there are neighbours: an item may not be among its own."""
    query = np.repeat(np.eye(4, dtype="float32")[:1], 30, axis=0)
    gallery = np.eye(4, dtype="float32")
    distances = reranking.k_reciprocal(query, gallery, k1=20, k2=1)(WHOLE)
    assert np.isfinite(distances).all() and (distances.argmin(1) == 0).all()


def test_ranks_follow_the_distances():
    query, gallery = points(0, 30, 90)
    labels = np.arange(30) % 5, np.arange(90) % 5
    parts = [Labelled(x, y) for x, y in zip((query, gallery), labels, strict=True)]
    rule = functools.partial(reranking.k_reciprocal, k1=10, k2=3)
    found = find_matches(*parts, distances=rule, block_sizes=(7, 11))
    order = np.argsort(rule(query, gallery)(WHOLE), axis=1, kind="stable")
    for i, label in enumerate(labels[0]):
        ranks = np.flatnonzero(labels[1][order[i]] == label) + 1
        np.testing.assert_array_equal(found.ranks[found.starts[i] : found.starts[i + 1]], ranks)
    assert (found.ranks != find_matches(*parts).ranks).any()
    first = found.ranks[found.starts[:-1]]
    ours = score(*parts, [recall_at_k], distances=rule, pair_functions=[roc_auc])
    np.testing.assert_array_equal(ours.per_query["recall@5"], first <= 5)
    plain = score(*parts, [recall_at_k], pair_functions=[roc_auc])
    assert (plain.per_query["recall@5"] != ours.per_query["recall@5"]).any()
    assert plain["roc_auc"] == ours["roc_auc"]


def test_ties_of_distances_go_to_the_lowest_row():
    gallery = Labelled(np.eye(4), np.array([0, 1, 0, 1]))
    query = Labelled(np.eye(4)[:1], np.array([1]))

    def rule(query, gallery):
        return lambda part: np.zeros((1, 4), "float32")

    assert find_matches(query, gallery, distances=rule).ranks.tolist() == [2, 4]


@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("k", [1, 4, 200])
def test_expansion_and_augmentation_equal_loops(k, alpha):
    query, gallery = (x.astype("float64") for x in points(1, 9, 40))

    def mean(vector, others):
        similar = [(-float((vector * g).sum()), j) for j, g in others]
        near = sorted(similar)[:k]
        total = vector + sum(max(-s, 0) ** alpha * gallery[j] for s, j in near)
        return total / np.sqrt((total * total).sum())

    entries = list(enumerate(gallery))
    expected = [mean(q, entries) for q in query]
    ours = reranking.query_expansion(query, gallery, k=k, alpha=alpha)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    expected = [mean(g, [e for e in entries if e[0] != i]) for i, g in entries]
    ours = reranking.database_augmentation(gallery, k=k, alpha=alpha)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_a_gallery_of_copies_is_augmented_too():
    """An entry is not among its nearest where copies of it stand before it."""
    gallery = np.repeat(np.eye(3, dtype="float32"), 6, axis=0)
    np.testing.assert_allclose(reranking.database_augmentation(gallery, k=2), gallery, atol=1e-7)


def test_whitening_equals_scikit_learn():
    rng = np.random.default_rng(0)
    train, other = (rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12)) + 3 for n in (200, 30))
    theirs = PCA(5, whiten=True, svd_solver="full").fit(train)
    expected = theirs.transform(other)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ours = reranking.whitened(other, *reranking.fit_pca(train, size=5))
    signs = np.sign((ours * expected).sum(0))
    np.testing.assert_allclose(ours * signs, expected, atol=1e-5)
    assert reranking.fit_pca(train)[1].shape == (12, 12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: reranking.query_expansion(a, b, k=0), "k: expected at least 1, got 0"),
        (
            lambda a, b: reranking.database_augmentation(b, alpha=-1.0),
            "alpha: expected at least 0, got -1.0",
        ),
        (
            lambda a, b: reranking.query_expansion(a[:1], -a[:1], k=1),
            "expected vectors that do not cancel, got a zero vector in row 0",
        ),
        (
            lambda a, b: reranking.fit_pca(b[:4], size=5),
            "size: expected 1 to 3, the number of components that vary in 4 embeddings, got 5",
        ),
        (
            lambda a, b: reranking.fit_pca(np.ones((4, 3))),
            "expected embeddings that differ, got 4 equal ones",
        ),
        (lambda a, b: reranking.k_reciprocal(a, b, k1=0, k2=1), "k1: expected at least 1, got 0"),
        (
            lambda a, b: reranking.k_reciprocal(a, b, k1=3, k2=5),
            "k2: expected in 1..4, k1 + 1, got 5",
        ),
        (
            lambda a, b: reranking.k_reciprocal(a, b, weight=1.5),
            "weight: expected in [0, 1], got 1.5",
        ),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ConfigError) as error:
        call(*points(0, 5, 20))
    assert str(error.value) == message
