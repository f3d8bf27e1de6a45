"""Outliers, near-duplicates and merges against brute force in float64."""

import json
import logging
import math

import numpy as np
import pytest
from clustered import SIZE, clustered, cosines, filled, mean_of, unit, whole_numbers

from keras_featx.errors import ConfigError
from keras_featx.gallery import neighbourhoods
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.identities import merges, near_duplicates, outliers
from keras_featx.gallery.neighbourhoods import pairs_across


def mixed(seed):
    """Identities of 1 to 7 items, some of them under a wrong name."""
    rng = np.random.default_rng(seed)
    vectors, names = clustered(10, 7, seed, spread=rng.uniform(0.3, 1.5))
    kept = rng.permutation(70)[:45]
    names = [names[i] for i in kept]
    for i, j in rng.integers(0, 45, (4, 2)).tolist():
        names[i] = names[j]
    for i in rng.integers(0, 45, 3).tolist():
        names[i] = f"alone{i}"
    return vectors[kept], names


def brute_outliers(vectors, names):
    rows = []
    own = {}
    for i, name in enumerate(names):
        rest = [j for j, one in enumerate(names) if one == name and j != i]
        if rest:
            own[i] = cosines(vectors[i : i + 1], [mean_of(vectors[rest])]).item()
    for i, name in enumerate(names):
        if names.count(name) < 3:
            continue
        group = [own[j] for j, one in enumerate(names) if one == name]
        middle = float(np.median(group))
        spread = max(1.4826 * float(np.median([abs(x - middle) for x in group])), 0.01)
        spreads = (middle - own[i]) / spread
        near = max(
            (
                cosines(vectors[i : i + 1], [mean_of(vectors[[x == other for x in names]])]).item(),
                other,
            )
            for other in set(names) - {name}
        )
        if near[0] > own[i]:
            rows.append((0, own[i] - near[0], i, near, own[i], spreads))
        elif spreads > 3:
            rows.append((1, -spreads, i, (None, None), own[i], spreads))
    return sorted(rows, key=lambda row: row[:3])


def test_outliers_equal_brute_force(tmp_path):
    nearer = farther = 0
    for seed in range(12):
        vectors, names = mixed(seed)
        found = outliers(filled(tmp_path / f"g{seed}", vectors, names), most=100)
        wanted = brute_outliers(vectors, names)
        assert [one["id"] for one in found] == [f"{row[2]}.jpg" for row in wanted]
        for one, (_, _, i, (near, other), own, spreads) in zip(found, wanted, strict=True):
            assert (one["identity"], one["nearer"]) == (names[i], other)
            assert one["similarity"] == pytest.approx(own, abs=1e-7)
            assert one["nearer_similarity"] == (near and pytest.approx(near, abs=1e-7))
            assert one["spreads"] == pytest.approx(spreads, abs=1e-4)
            nearer, farther = nearer + (other is not None), farther + (other is None)
        json.dumps(found)
    assert nearer > 20 and farther > 3  # both kinds were met


def test_outliers_by_hand(tmp_path, caplog):
    """Degrees in a plane: of a, the item at 90 is nearer to b; c has too few items to tell."""
    turns = {"a": (0, 2, 4, 90), "b": (80, 82, 84), "c": (200, 85)}
    names = [name for name, own in turns.items() for _ in own]
    angles = np.radians([turn for own in turns.values() for turn in own])
    gallery = filled(tmp_path / "g", np.stack([np.cos(angles), np.sin(angles)], 1), names)
    with caplog.at_level(logging.INFO):
        (one,) = outliers(gallery)
    assert "outliers: 2 items of small identities were left alone" in caplog.text
    assert (one["id"], one["identity"], one["nearer"]) == ("3.jpg", "a", "b")
    assert one["similarity"] == pytest.approx(math.cos(math.radians(88)), abs=1e-6)
    assert one["nearer_similarity"] == pytest.approx(math.cos(math.radians(8)), abs=1e-6)


@pytest.mark.parametrize("blocks", [(512, 8192), (5, 7), (1, 1)])
def test_pairs_equal_loops_in_float64(monkeypatch, blocks):
    monkeypatch.setattr(neighbourhoods, "_PAIRS", blocks)
    rng = np.random.default_rng(2)
    for _ in range(40):
        known = whole_numbers(rng, int(rng.integers(1, 40)), int(rng.integers(1, 6)))
        similar = known.vectors.astype("float64") @ known.vectors.T.astype("float64")
        least, most = float(rng.integers(-8, 9)), int(rng.integers(1, 60))
        wanted = sorted(
            (-similar[i, j], i, j)
            for i in range(len(known)) for j in range(i + 1, len(known))
            if known.labels[i] != known.labels[j] and similar[i, j] >= least
        )  # fmt: skip
        one, two, values, count = pairs_across(known, least, most)
        found = list(zip((-values).tolist(), one.tolist(), two.tolist(), strict=True))
        assert found == wanted[:most]
        assert count == len(wanted)


def test_near_duplicates_equal_brute_force(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(neighbourhoods, "_PAIRS", (8, 16))
    vectors, names = mixed(3)
    vectors = np.concatenate([vectors, vectors[:6], vectors[:2]])  # some of them three times
    names += [f"copy{i}" for i in range(8)]
    gallery = filled(tmp_path / "g", vectors, names)
    similar = cosines(vectors, vectors)
    pairs = sorted(
        (-similar[i, j].item(), i, j)
        for i in range(53) for j in range(i + 1, 53) if names[i] != names[j]
    )  # fmt: skip
    for least in (0.95, 0.5, -pairs[20][0], float(np.nextafter(-pairs[20][0], 2))):
        wanted = [pair for pair in pairs if -pair[0] >= least]
        found = near_duplicates(gallery, least, most=len(wanted))
        assert [
            (-one["similarity"], int(one["id"][:-4]), int(one["other_id"][:-4])) for one in found
        ] == wanted
        assert all(names[int(one["id"][:-4])] == one["identity"] for one in found)
        assert all(names[int(one["other_id"][:-4])] == one["other_identity"] for one in found)
    assert not caplog.records
    with caplog.at_level(logging.INFO):
        assert near_duplicates(gallery, 0.5, most=3) == near_duplicates(gallery, 0.5)[:3]
    count = sum(-pair[0] >= 0.5 for pair in pairs)
    assert f"near-duplicates: {count}, of which the first 3 are given" in caplog.text


def brute_merges(vectors, names, threshold):
    known = sorted(set(names))
    rows = {name: [i for i, one in enumerate(names) if one == name] for name in known}
    similar = vectors.astype("float64") @ vectors.T.astype("float64")
    between = {
        (a, b): float(similar[np.ix_(rows[a], rows[b])].mean())
        for a in known for b in known if a != b
    }  # fmt: skip
    within = {}
    for name in known:
        own = [float(similar[i, j]) for i in rows[name] for j in rows[name] if i != j]
        within[name] = sum(own) / len(own) if own else None
    middle = float(np.median([x for x in within.values() if x is not None] or [np.nan]))
    nearest = {
        a: max((b for b in known if b != a), key=lambda b, a=a: between[a, b]) for a in known
    }
    found = []
    for a in known:
        b = nearest[a]
        if a < b and nearest[b] == a:
            level = min([x for x in (within[a], within[b]) if x is not None] or [middle])
            over = between[a, b] - (level if threshold is None else threshold)
            if over >= 0:
                found.append((-over, a, b, between[a, b], within[a], within[b]))
    return sorted(found)


@pytest.mark.parametrize("threshold", [None, 0.5, 0.7])
def test_merges_equal_brute_force(tmp_path, threshold):
    alone = several = 0
    for seed in range(12):
        vectors, names = mixed(seed)
        apart = [f"{name}b" if i % 3 == 0 else name for i, name in enumerate(names)]
        found = merges(filled(tmp_path / f"g{seed}", vectors, apart), threshold, most=100)
        wanted = brute_merges(vectors, apart, threshold)
        assert [(one["identity"], one["other_identity"]) for one in found] == [
            (row[1], row[2]) for row in wanted
        ]
        for one, (_, a, b, between, within, other) in zip(found, wanted, strict=True):
            assert one["between"] == pytest.approx(between, abs=1e-6)
            assert one["within"] == (within and pytest.approx(within, abs=1e-6))
            assert one["other_within"] == (other and pytest.approx(other, abs=1e-6))
            assert (one["items"], one["other_items"]) == (apart.count(a), apart.count(b))
            alone, several = alone + (None in (within, other)), several + 1
        json.dumps(found)
    assert several > alone > 2


def test_merges_of_single_items(tmp_path):
    """Without two items of any identity, only a threshold can tell."""
    turns = np.radians([0, 10, 120])
    gallery = filled(tmp_path / "g", np.stack([np.cos(turns), np.sin(turns)], 1), ["a", "b", "c"])
    assert merges(gallery) == []
    (one,) = merges(gallery, 0.98)
    assert (one["identity"], one["other_identity"], one["within"]) == ("a", "b", None)
    assert one["between"] == pytest.approx(math.cos(math.radians(10)), abs=1e-6)
    assert merges(gallery, 0.99) == []


def test_what_looks_wrong_is_found(tmp_path):
    vectors, names = clustered(8, 10, 9, spread=0.3)
    names[5] = names[15]  # one of the first is filed under the second
    twice = vectors[20:21]
    vectors = np.concatenate([vectors, twice])
    names.append(names[30])  # and an image under two names
    apart = [f"{name}b" if name == names[40] and i % 2 else name for i, name in enumerate(names)]
    gallery = filled(tmp_path / "g", vectors, apart)
    found = outliers(gallery)
    assert {one["id"] for one in found[:2]} == {"5.jpg", "80.jpg"}
    assert {one["nearer"] for one in found[:2]} == {apart[0], apart[20]}
    pairs = near_duplicates(gallery, 0.9999)
    assert [(one["id"], one["other_id"]) for one in pairs] == [("20.jpg", "80.jpg")]
    (one,) = merges(gallery)
    assert {one["identity"], one["other_identity"]} == {names[40], f"{names[40]}b"}


def test_galleries_with_little_in_them(tmp_path):
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE)
    for count in range(3):
        assert outliers(gallery) == near_duplicates(gallery, -1) == merges(gallery, -1) == []
        gallery.add([str(count)], ["a"], unit(np.eye(SIZE)[:1]))
    gallery.add(["b"], ["b"], np.eye(SIZE)[1:2])
    assert [one["similarity"] for one in near_duplicates(gallery, -1)] == [0.0] * 3
    assert [one["items"] for one in merges(gallery, -1)] == [3]


def test_numbers_that_are_none(tmp_path):
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE)
    for given in (2, math.nan):
        with pytest.raises(ConfigError) as caught:
            near_duplicates(gallery, given)
        assert str(caught.value) == f"similarity: expected a cosine, got {given}"
    for function in (outliers, near_duplicates, merges):
        with pytest.raises(
            ConfigError, match="^most: expected a whole number of at least 1, got 0$"
        ):
            function(gallery, most=0)
