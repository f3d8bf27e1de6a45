"""Rules and answers against brute force; neighbours and means against loops in float64."""

import json
import math

import numpy as np
import pytest
from clustered import clustered, cosines, filled, mean_of, whole_numbers

from keras_featx.errors import ConfigError
from keras_featx.gallery import means as means_module
from keras_featx.gallery import neighbourhoods
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.decisions import Rule, ask, decide, look_up
from keras_featx.gallery.means import identity_means, mean_neighbours
from keras_featx.gallery.neighbourhoods import contents, neighbours
from keras_featx.gallery.opened import Match


def near(*pairs):
    return [Match(f"{i}", name, value, {}) for i, (name, value) in enumerate(pairs)]


MATCHES = near(("a", 0.9), ("b", 0.8), ("b", 0.7), ("b", 0.6), ("a", 0.1))


@pytest.mark.parametrize(
    ("rule", "best", "score", "second", "below"),
    [
        (Rule(), "a", 0.9, "b", 0.8),
        (Rule(k=1), "a", 0.9, None, None),
        (Rule(k=99), "a", 0.9, "b", 0.8),
        (Rule(combine="vote"), "b", 0.8, "a", 0.9),
        (Rule(combine="vote", k=2), "a", 0.9, "b", 0.8),
        (Rule(combine="best_of", n=2), "b", 0.75, "a", 0.5),  # a: (0.9 + 0.1) / 2
        # (0.9 + 2 x 0.6) / 3 and (0.8 + 0.7 + 0.6) / 3: a tie
        (Rule(combine="best_of", n=3, k=4), "a", 0.7, "b", 0.7),
        (Rule(combine="best_of", n=1), "a", 0.9, "b", 0.8),
    ],
)
def test_scores_of_identities(rule, best, score, second, below):
    found = decide(MATCHES, rule)
    assert (found.identity, found.best, found.second, found.why) == (best, best, second, "")
    assert found.similarity == pytest.approx(score)
    assert found.second_similarity == (None if below is None else pytest.approx(below))


def test_why_nobody_is_known():
    assert decide([], Rule()).why == "nothing is known"
    assert decide(MATCHES, Rule(threshold=0.95)).why == "below the threshold 0.95: 0.9"
    assert decide(MATCHES, Rule(threshold=0.9)).identity == "a"
    assert decide(MATCHES, Rule(margin=0.2)).why == "within 0.2 of b: 0.1"
    assert decide(MATCHES, Rule(threshold=0.95, thresholds={"a": 0.85})).identity == "a"
    assert decide(MATCHES, Rule(threshold=0.1, thresholds={"a": 0.91})).identity is None
    assert decide(near(("a", 0.9), ("a", 0.89)), Rule(margin=0.5)).identity == "a"
    # By votes b wins, but a is more similar.
    assert decide(MATCHES, Rule(combine="vote", margin=0.05)).why == "within 0.05 of a: -0.1"
    refused = decide(MATCHES, Rule(threshold=0.95))
    assert (refused.identity, refused.best, refused.similarity) == (None, "a", 0.9)


def test_a_refused_score_reads_as_less():
    found = decide(near(("a", 0.61999999)), Rule(threshold=0.62))
    assert found.why == "below the threshold 0.62: 0.61999999"
    found = decide(near(("a", 0.75), ("b", 0.500001)), Rule(margin=0.25))
    assert found.why == "within 0.25 of b: 0.249999"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k: expected a whole number of at least 1, got 0"),
        ({"k": True}, "k: expected a whole number of at least 1, got True"),
        ({"n": 1.5}, "n: expected a whole number of at least 1, got 1.5"),
        ({"margin": -1}, "margin: expected at least 0, got -1"),
        ({"margin": None}, "margin: expected at least 0, got None"),
        (
            {"margin": 0.1, "k": 1},
            "margin: expected a k of at least 2, to see a second identity, got 1",
        ),
        ({"threshold": math.nan}, "threshold: expected a finite number, got nan"),
        (
            {"threshold": "x", "thresholds": {"threshold": 0.5}},
            "threshold: expected a finite number, got 'x'",
        ),
        (
            {"thresholds": {"ant": "x"}},
            "thresholds: expected a finite number for 'ant', got 'x'",
        ),
        (
            {"thresholds": {"ant": None}},
            "thresholds: expected a finite number for 'ant', got None",
        ),
        ({"thresholds": None}, "thresholds: expected numbers by identity, got None"),
        ({"thresholds": ["a"]}, "thresholds: expected numbers by identity, got ['a']"),
        ({"combine": "sum"}, "combine: expected one of max, mean, best_of, vote, got 'sum'"),
        ({"combine": "best_of", "n": 9}, "n: expected at most k (5), got 9"),
        (["k"], "rule: expected an object, got ['k']"),
        (
            {"treshold": 1},
            "rule: expected threshold, margin, k, combine, n, thresholds, got 'treshold'; did you "
            "mean 'threshold'?",
        ),
    ],
)
def test_rules_that_are_none(given, message):
    with pytest.raises(ConfigError) as caught:
        Rule.from_dict(given)
    assert str(caught.value) == message


def test_a_rule_survives_json(tmp_path):
    rule = Rule(0.5, 0.1, 7, "best_of", 2, {"ant": 0.6})
    assert Rule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    Gallery.create(tmp_path / "g", "ab" * 32, 4).set(rule=rule.to_dict())
    assert Rule.from_dict(Gallery(tmp_path / "g").settings["rule"]) == rule


def table(matches, rule):
    """Each identity with its score and its place, best first, by the words of the rule."""
    some = matches[: rule.k]
    rows = []
    for name in {one.identity for one in some}:
        own = [one.similarity for one in some if one.identity == name]
        place = min(i for i, one in enumerate(some) if one.identity == name)
        if rule.combine == "best_of":
            missing = rule.n - len(own[: rule.n])
            score = (math.fsum(own[: rule.n]) + missing * some[-1].similarity) / rule.n
            rows.append((-score, place, name, score))
        elif rule.combine == "vote":
            rows.append((-len(own), place, name, max(own)))
        else:
            rows.append((-max(own), place, name, max(own)))
    return [(name, score) for *_, name, score in sorted(rows)]


@pytest.mark.parametrize("combine", ["max", "best_of", "vote"])
def test_decisions_equal_brute_force(combine):
    """Eighths, so that scores tie and sums are exact."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        values = np.sort(rng.integers(0, 9, rng.integers(1, 12)) / 8)[::-1].tolist()
        matches = near(*((f"i{rng.integers(0, 4)}", value) for value in values))
        rule = Rule(
            threshold=float(rng.integers(0, 9)) / 8, margin=float(rng.integers(0, 3)) / 8,
            k=int(rng.integers(2, 14)), combine=combine, n=2,
            thresholds={"i2": float(rng.integers(0, 9)) / 8},
        )  # fmt: skip
        (best, score), *others = table(matches, rule)
        second, below = others[0] if others else (None, None)
        wanted = rule.thresholds["i2"] if best == "i2" else rule.threshold
        close = second is not None and rule.margin > 0 and score - below < rule.margin
        answer = decide(matches, rule)
        assert answer.identity == (best if score >= wanted and not close else None)
        assert (answer.best, answer.similarity) == (best, score)
        assert (answer.second, answer.second_similarity) == (second, below)
        reason = "below" if score < wanted else "within" if close else ""
        assert answer.why.partition(" ")[0] == reason
        seen.add(reason)
    assert seen == {"", "below", "within"}


@pytest.mark.parametrize("sample", [4096, 8])
def test_neighbours_equal_loops_in_float64(monkeypatch, sample):
    monkeypatch.setattr(neighbourhoods, "_SAMPLE", sample)
    monkeypatch.setattr(neighbourhoods, "_BLOCK", 7)
    rng = np.random.default_rng(1)
    for _ in range(60):
        known = whole_numbers(rng, int(rng.integers(1, 40)), int(rng.integers(1, 6)))
        items, k = len(known), int(rng.integers(1, 50))
        similar = known.vectors.astype("float64") @ known.vectors.T.astype("float64")
        rows = rng.permutation(items)[: rng.integers(1, items + 1)]
        for others in (True, False):
            found = list(neighbours(known, rows, k, others))
            assert [row for some, *_ in found for row in some.tolist()] == rows.tolist()
            values = np.concatenate([one[1] for one in found])
            places = np.concatenate([one[2] for one in found])
            width = min(k, max(items - 1, 1))
            assert values.shape == places.shape == (len(rows), width)
            for row, own, where in zip(rows.tolist(), values, places, strict=True):
                left = [
                    j for j in range(items)
                    if (known.labels[j] != known.labels[row] if others else j != row)
                ]  # fmt: skip
                left = sorted(left, key=lambda j, row=row: (-similar[row, j], j))[:width]
                assert where[: len(left)].tolist() == left
                assert own[: len(left)].tolist() == similar[row, left].tolist()
                assert (own[len(left) :] == -np.inf).all()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_neighbours_have_the_similarities_of_a_search(tmp_path, precision):
    """To the last digit, so that a threshold means the same for both."""
    vectors, names = clustered(30, 7, 4)
    gallery = filled(tmp_path / "g", vectors, names, precision)
    known = contents(gallery)
    found = gallery.search(known.vectors, 30, "exact")
    for some, values, places in neighbours(known, np.arange(len(known)), 5, others=True):
        for row, own, where in zip(some.tolist(), values.tolist(), places.tolist(), strict=True):
            wanted = [one for one in found[row] if one.identity != names[row]][:5]
            assert own == [one.similarity for one in wanted]
            assert [known.ids[place] for place in where] == [one.id for one in wanted]


def test_means_equal_those_in_float64(tmp_path):
    vectors, names = clustered(7, 5, 5)
    names[3] = "alone"
    means = identity_means(filled(tmp_path / "g", vectors, names))
    for name, count, mean in zip(means.names, means.counts, means.vectors, strict=True):
        own = [i for i, one in enumerate(names) if one == name]
        assert count == len(own)
        np.testing.assert_allclose(mean, mean_of(vectors[own]), atol=1e-7)
    (found,) = means.search(vectors[:1], 3)
    assert [one.similarity for one in found] == sorted(one.similarity for one in found)[::-1]
    assert found[0].identity == names[0] and found[0].metadata == {"items": 4}
    assert len(means.search(vectors[:1], 99)[0]) == 8


@pytest.mark.parametrize("others", [True, False])
def test_mean_neighbours_equal_loops(tmp_path, monkeypatch, others):
    monkeypatch.setattr(means_module, "_ROWS", 16)
    vectors, names = clustered(9, 4, 6)
    names[0], names[5] = "alone", names[20]
    known = contents(filled(tmp_path / "g", vectors, names))
    rows = np.random.default_rng(0).permutation(36)
    for k in (1, 3, 50):
        blocks = mean_neighbours(known, rows, k, others)
        some, values, labels = (np.concatenate(column) for column in zip(*blocks, strict=True))
        assert some.tolist() == rows.tolist()
        for row, own, where in zip(some.tolist(), values.tolist(), labels.tolist(), strict=True):
            wanted = {}
            for name in known.names:
                kept = [i for i, one in enumerate(names) if one == name and i != row]
                if kept and not (others and name == names[row]):
                    wanted[name] = cosines(vectors[row : row + 1], [mean_of(vectors[kept])]).item()
            best = sorted(wanted.items(), key=lambda pair: -pair[1])[:k]
            assert [known.names[label] for label in where[: len(best)]] == [n for n, _ in best]
            np.testing.assert_allclose(own[: len(best)], [v for _, v in best], atol=1e-7)
            assert all(value == -math.inf for value in own[len(best) :])
            assert len(own) == min(k, len(known.names))


def test_a_mean_looks_at_all_items_of_an_identity(tmp_path):
    """The nearest item is of a; the mean of all items of b is nearer than that of a."""
    vectors = np.array([[1, 0], [-0.6, 0.8], [0.8, 0.6], [0.8, -0.6]], "float32")
    gallery = filled(tmp_path / "g", vectors, ["a", "a", "b", "b"])
    query = np.array([[1.0, 0.0]])
    for combine, best, score in (("max", "a", 1.0), ("mean", "b", 1.0)):
        rule = Rule(combine=combine)
        answer = decide(look_up(gallery, query, rule)[0], rule)
        assert answer.identity == best
        assert answer.similarity == pytest.approx(score, abs=1e-6)
    second = decide(look_up(gallery, query, Rule(combine="mean"))[0], Rule(combine="mean"))
    assert second.second_similarity == pytest.approx(0.4 / math.sqrt(0.8), abs=1e-6)


def test_what_is_asked_of_an_empty_gallery(tmp_path):
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, 3)
    for rule in (Rule(), Rule(combine="mean")):
        asked = ask(gallery, np.eye(3), ["a", "b", "c"], rule)
        assert asked.best == [None] * 3 and (asked.score == -np.inf).all()
        assert not asked.believed(rule).any() and not asked.right().any()
    with pytest.raises(ConfigError, match=r"^query: expected \(queries, 3\), got \(1, 2\)$"):
        look_up(gallery, np.ones((1, 2)), Rule(combine="mean"))
    with pytest.raises(ConfigError, match="^query: expected finite numbers$"):
        look_up(gallery, np.full((1, 3), np.nan), Rule(combine="mean"))
