"""Neighbours of rankings against loops that know the rules: exclusions, groups, ties, distances."""

import numpy as np
import pytest

from keras_featx.labelled import Labelled
from keras_featx.matching import find_matches
from keras_featx.neighbours import ranked_neighbours
from keras_featx.reranking import k_reciprocal


def random_case(rng, **known):
    """Few values, so that many are equal; and few labels, ids, cameras and groups."""
    sides = []
    for count in rng.integers(1, 40, 2):
        vectors = rng.integers(-1, 2, (count, 3)) + 0.5
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        more = {name: rng.integers(0, most, count) for name, most in known.items()}
        sides.append(Labelled(vectors.astype("float32"), rng.integers(-1, 4, count), **more))
    return sides


def loops(query, gallery, k, distance=None):
    """One pair at a time."""
    rows = np.full((len(query.labels), k), -1)
    for i, vector in enumerate(query.embeddings.astype("float64")):
        found = []
        for j, other in enumerate(gallery.embeddings.astype("float64")):
            same = query.labels[i] == gallery.labels[j] and query.labels[i] >= 0
            out = query.groups is not None and query.groups[i] != gallery.groups[j]
            for name in ("ids", "cameras"):
                own, others = getattr(query, name), getattr(gallery, name)
                out |= own is not None and same and own[i] == others[j]
            if not out:
                near = -np.float32(vector @ other) if distance is None else distance[i, j]
                found.append((near, j))
        first = [j for _, j in sorted(found)[:k]]
        rows[i, : len(first)] = first
    return rows


@pytest.mark.parametrize(
    "known", [{}, {"ids": 3}, {"ids": 3, "cameras": 2}, {"groups": 3}, {"ids": 2, "groups": 2}]
)
def test_neighbours_equal_loops(known):
    rng = np.random.default_rng(0)
    for _ in range(40):
        query, gallery = random_case(rng, **known)
        k = int(rng.integers(1, 8))
        values, rows = ranked_neighbours(query, gallery, k)
        np.testing.assert_array_equal(rows, loops(query, gallery, k))
        assert (np.isnan(values) == (rows < 0)).all()
        cosines = (query.embeddings @ gallery.embeddings.T)[np.arange(len(rows))[:, None], rows]
        np.testing.assert_allclose(values[rows >= 0], cosines[rows >= 0], atol=1e-6)


def test_the_first_neighbour_is_right_where_the_metrics_say_so():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(40):
        query, gallery = random_case(rng, ids=3, cameras=3)
        rows = ranked_neighbours(query, gallery, 1)[1][:, 0]
        found = find_matches(query, gallery)
        with_match = np.flatnonzero(found.counts)
        first = found.ranks[found.starts[with_match]] == 1
        right = gallery.labels[rows[with_match]] == query.labels[with_match]
        np.testing.assert_array_equal(right, first)
        seen |= set(first.tolist())
    assert seen == {True, False}


def test_distances_rank_in_place_of_cosines():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(70, 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")
    labels, ids = rng.integers(0, 5, 70), rng.integers(0, 9, 70)
    query, gallery = (Labelled(vectors[s], labels[s], ids[s]) for s in (np.s_[:25], np.s_[25:]))

    def distances(ours, theirs):
        return k_reciprocal(ours, theirs, k1=6, k2=2)

    values, rows = ranked_neighbours(query, gallery, 4, distances)
    expected = distances(query.embeddings, gallery.embeddings)(slice(None))
    np.testing.assert_array_equal(rows, loops(query, gallery, 4, expected))
    assert (rows != ranked_neighbours(query, gallery, 4)[1]).any()
    # What stands beside them are cosines all the same.
    np.testing.assert_allclose(
        values, (query.embeddings @ gallery.embeddings.T)[np.arange(25)[:, None], rows], atol=1e-6
    )
