"""Answers, thresholds and open-set figures against brute force in float64."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from keras_featx.errors import ConfigError
from keras_featx.gallery.calibration import calibrate, smallest
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.decisions import Rule, decide
from keras_featx.gallery.identities import merges, near_duplicates, outliers
from keras_featx.gallery.means import identity_means
from keras_featx.gallery.open_set import evaluate
from keras_featx.gallery.opened import Match

SIZE = 12


def unit(x):
    x = np.asarray(x, "float64")
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def clustered(identities, each, seed, spread=0.6):
    """Unit vectors around centres, and the name of each."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(identities, SIZE)))
    vectors = unit(
        np.repeat(centres, each, 0) + spread / 3 * rng.normal(size=(identities * each, SIZE))
    )
    return vectors.astype("float32"), [f"i{seed}_{i // each}" for i in range(identities * each)]


def filled(folder, vectors, names):
    gallery = Gallery.create(folder, "ab" * 32, SIZE, "float32")
    gallery.add([f"{i}.jpg" for i in range(len(names))], names, vectors)
    return gallery


def near(*pairs):
    return [Match(f"{i}", name, value, {}) for i, (name, value) in enumerate(pairs)]


MATCHES = near(("a", 0.9), ("b", 0.8), ("b", 0.7), ("b", 0.6), ("a", 0.1))


@pytest.mark.parametrize(
    ("rule", "best", "score", "second"),
    [
        (Rule(), "a", 0.9, "b"),
        (Rule(k=1), "a", 0.9, None),
        (Rule(combine="vote"), "b", 0.8, "a"),
        (Rule(combine="vote", k=2), "a", 0.9, "b"),
        (Rule(combine="best_of", n=2), "b", 0.75, "a"),  # a: (0.9 + 0.1) / 2
        (Rule(combine="best_of", n=3, k=4), "a", 0.7, "b"),  # 0.7 each: (0.9 + 2 x 0.6) / 3
        (Rule(combine="best_of", n=1), "a", 0.9, "b"),
    ],
)
def test_scores_of_identities(rule, best, score, second):
    found = decide(MATCHES, rule)
    assert (found.identity, found.second) == (best, second)
    assert found.similarity == pytest.approx(score)


def test_why_nobody_is_known():
    assert decide([], Rule()).why == "nothing is known"
    assert decide(MATCHES, Rule(threshold=0.95)).why == "below the threshold 0.95: 0.9"
    assert decide(MATCHES, Rule(threshold=0.9)).identity == "a"
    assert decide(MATCHES, Rule(margin=0.2)).why == "within 0.2 of b: 0.1"
    assert decide(MATCHES, Rule(threshold=0.95, thresholds={"a": 0.85})).identity == "a"
    assert decide(MATCHES, Rule(threshold=0.1, thresholds={"a": 0.91})).identity is None
    assert decide(near(("a", 0.9), ("a", 0.89)), Rule(margin=0.5)).identity == "a"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k: expected a whole number of at least 1, got 0"),
        ({"margin": -1}, "margin: expected at least 0, got -1"),
        ({"threshold": math.nan}, "threshold: expected a finite number, got nan"),
        ({"thresholds": {"ant": "x"}}, "ant: expected a finite number, got 'x'"),
        ({"combine": "sum"}, "combine: expected one of max, mean, best_of, vote, got 'sum'"),
        ({"combine": "best_of", "n": 9}, "n: expected at most k (5), got 9"),
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


def test_a_rule_survives_json():
    rule = Rule(0.5, 0.1, 7, "best_of", 2, {"ant": 0.6})
    assert Rule.from_dict(rule.to_dict()) == rule


def brute_scores(vectors, names, rule, own_identity):
    """Of each item, looked up without itself or without its identity: best identity and score."""
    similar = vectors.astype("float64") @ vectors.T.astype("float64")
    found = []
    for i, name in enumerate(names):
        left = [j for j in range(len(names)) if (names[j] != name if own_identity else j != i)]
        if rule.combine == "mean":
            means = {
                one: unit(vectors[[j for j in left if names[j] == one]].astype("float64").sum(0))
                for one in {names[j] for j in left}
            }
            pairs = sorted(((one, float(m @ vectors[i])) for one, m in means.items()),
                           key=lambda pair: -pair[1])[: rule.k]  # fmt: skip
            matches = near(*pairs)
        else:
            order = sorted(left, key=lambda j: (-similar[i, j], j))[: rule.k]
            matches = near(*((names[j], similar[i, j]) for j in order))
        answer = decide(matches, rule)
        found.append((answer.identity, answer.similarity if answer.identity else -math.inf))
    return found


@pytest.mark.parametrize(
    "rule", [Rule(), Rule(combine="vote"), Rule(combine="mean"), Rule(margin=0.03, k=3),
             Rule(combine="best_of", n=2)],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_calibration_on_the_gallery_itself_equals_brute_force(tmp_path, rule, seed):
    vectors, names = clustered(9, 5, seed)
    names[-1] = "alone"
    gallery = filled(tmp_path / "g", vectors, names)
    found = calibrate(gallery, 0.1, rule)
    scores = np.array([score for _, score in brute_scores(vectors, names, rule, True)])
    allowed = math.floor(0.1 * len(names))
    # Two strangers that are nearest to each other have one score, but for rounding.
    assert (scores >= found.threshold + 1e-6).sum() <= allowed
    assert (scores >= found.threshold - 2e-6).sum() > allowed
    assert (scores >= found.threshold + 1e-6).mean() <= found.accepted <= 0.1
    known = brute_scores(vectors, names, rule, False)
    right = [
        best == name and score >= found.threshold - 1e-7
        for (best, score), name in zip(known, names, strict=True)
        if name != "alone"
    ]
    assert found.recognised == pytest.approx(np.mean(right))
    assert (found.unknown, found.known, found.left_out) == ((45, 10), (44, 9), 1)
    assert found.interval[0] <= found.threshold <= found.interval[1] + 1e-6
    assert found.rule == Rule(**{**rule.to_dict(), "threshold": found.threshold})


def test_the_smallest_threshold_with_ties():
    scores = np.array([0.5, 0.5, 0.5, 0.2, 0.1] * 2, "float32")
    for far in (0.05, 0.1, 0.3, 0.59, 0.6, 0.75, 0.99):
        threshold = smallest(scores, far)
        assert (scores >= threshold).sum() <= math.floor(far * 10)
        lower = np.float32(np.nextafter(np.float32(threshold), np.float32(-1)))
        assert (scores >= lower).sum() > math.floor(far * 10)


def test_a_threshold_holds_for_other_strangers(tmp_path):
    """Of 4,000 fresh ones; five standard deviations of both draws."""
    vectors, names = clustered(20, 4, seed=1)
    gallery = filled(tmp_path / "g", vectors, names)
    rng = np.random.default_rng(2)
    strangers = unit(rng.normal(size=(8000, SIZE)))
    labels = [f"s{i}" for i in range(8000)]
    found = calibrate(gallery, 0.05, unknown=(strangers[:4000], labels[:4000]))
    result = evaluate(gallery, strangers[4000:], labels[4000:], found.rule)
    assert abs(result.unknown["false_accepts"] - 0.05) < 5 * math.sqrt(2 * 0.05 * 0.95 / 4000)
    assert found.held_out == "queries" and result.known is None


def test_thresholds_of_identities_accept_the_same_share(tmp_path):
    rng = np.random.default_rng(0)
    tight, loose = clustered(10, 8, 0, spread=0.3), clustered(10, 8, 1, spread=1.5)
    gallery = filled(tmp_path / "g", np.concatenate([tight[0], loose[0]]), tight[1] + loose[1])
    strangers = unit(rng.normal(size=(2000, SIZE)))
    found = calibrate(
        gallery, 0.05, unknown=(strangers, [str(i) for i in range(2000)]), per_identity=True
    )
    assert 0.049 <= found.accepted <= 0.05
    assert len(set(found.rule.thresholds.values())) > 10
    assert set(found.rule.thresholds) <= set(gallery.identities())


def test_what_cannot_be_calibrated(tmp_path):
    vectors, names = clustered(3, 4, 0)
    gallery = filled(tmp_path / "g", vectors, names)
    cases = {
        "far: expected at least 100 strangers to tell a share of 0.01, got 12": {},
        "far: expected a share between 0 and 1, got 1": {"far": 1},
        f"unknown: expected identities that are not in {tmp_path / 'g'}, got {names[0]!r}": {
            "unknown": (vectors, names)
        },
        f"known: expected identities of {tmp_path / 'g'}, got 'cow'": {
            "far": 0.2, "known": (vectors[:1], ["cow"]),
        },
        "identities: expected 12, one a query, got 1": {"unknown": (vectors, ["x"])},
        "query: expected (queries, 12), got (1, 3)": {"unknown": (np.ones((1, 3)), ["x"])},
    }  # fmt: skip
    for message, given in cases.items():
        with pytest.raises(ConfigError) as caught:
            calibrate(gallery, **given)
        assert str(caught.value) == message
    single = filled(tmp_path / "s", vectors[:2], ["a", "a"])
    with pytest.raises(ConfigError, match="expected at least 2 identities to calibrate with, got"):
        calibrate(single, 0.5)


def test_open_set_figures_equal_brute_force(tmp_path):
    vectors, names = clustered(12, 6, 3)
    shelf = [i for i in range(72) if i % 6 < 4 and i < 48]
    asked = [i for i in range(72) if i not in shelf]
    gallery = filled(tmp_path / "g", vectors[shelf], [names[i] for i in shelf])
    rule = Rule(threshold=0.85)
    found = evaluate(gallery, vectors[asked], [names[i] for i in asked], rule)
    similar = vectors[asked].astype("float64") @ vectors[shelf].T.astype("float64")
    best = np.array(names)[shelf][similar.argmax(1)]
    score, own = similar.max(1), np.array(names)[asked]
    there = np.isin(own, np.array(names)[shelf])
    right, believed = best == own, score >= 0.85
    assert (there.sum(), (~there).sum()) == (16, 24)
    for name, wanted in {
        "recall@1": right[there], "recognised": (right & believed)[there],
        "rejected": ~believed[there], "mistaken": (believed & ~right)[there],
    }.items():  # fmt: skip
        assert found.known[name] == pytest.approx(wanted.mean()), name
    assert found.unknown["false_accepts"] == pytest.approx(believed[~there].mean())
    assert found.more["auroc"] == pytest.approx(roc_auc_score(there, score))
    threshold = found.more["threshold@far=0.1"]
    assert (score[~there] >= threshold).sum() == 2
    assert found.known["tar@far=0.1"] == pytest.approx((right & (score >= threshold))[there].mean())
    assert found.more["threshold@far=0.01"] is None
    found.write(tmp_path / "out")
    assert (tmp_path / "out" / "known.csv").read_text().count("\n") == 17
    with pytest.raises(ConfigError, match="query: expected at least one, got none"):
        evaluate(gallery, np.zeros((0, SIZE)), [], rule)


def test_means_equal_those_in_float64(tmp_path):
    vectors, names = clustered(7, 5, 5)
    names[3] = "alone"
    means = identity_means(filled(tmp_path / "g", vectors, names))
    for name, count, mean in zip(means.names, means.counts, means.vectors, strict=True):
        own = [i for i, one in enumerate(names) if one == name]
        assert count == len(own)
        np.testing.assert_allclose(mean, unit(vectors[own].astype("float64").sum(0)), atol=1e-6)
    (found,) = means.search(vectors[:1], 3)
    assert [one.similarity for one in found] == sorted(one.similarity for one in found)[::-1]
    assert found[0].identity == names[0] and found[0].metadata == {"items": 4}


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
    others = [i for i, one in enumerate(apart) if one == apart[5] and i != 5]
    own = vectors[5].astype("float64") @ unit(vectors[others].astype("float64").sum(0))
    (wrong,) = [one for one in found if one["id"] == "5.jpg"]
    assert wrong["similarity"] == pytest.approx(own, abs=1e-6)

    pairs = near_duplicates(gallery, 0.9999)
    assert [(one["id"], one["other_id"]) for one in pairs] == [("20.jpg", "80.jpg")]
    with pytest.raises(ConfigError, match="similarity: expected a cosine, got 2"):
        near_duplicates(gallery, 2)

    (one,) = merges(gallery)
    assert {one["identity"], one["other_identity"]} == {names[40], f"{names[40]}b"}
    both = one["identity"], one["other_identity"]
    rows = [[i for i, name in enumerate(apart) if name == key] for key in both]
    similar = vectors.astype("float64") @ vectors.T.astype("float64")
    assert one["between"] == pytest.approx(similar[np.ix_(*rows)].mean(), abs=1e-6)
    inside = similar[np.ix_(rows[0], rows[0])]
    count = len(rows[0])
    want = (inside.sum() - np.trace(inside)) / (count * (count - 1))
    assert one["within"] == pytest.approx(want, abs=1e-6)


def test_an_empty_gallery(tmp_path):
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE)
    assert outliers(gallery) == near_duplicates(gallery) == merges(gallery) == []
    with pytest.raises(
        ConfigError, match="expected at least 2 identities to calibrate with, got 0"
    ):
        calibrate(gallery)
    with pytest.raises(ConfigError, match="expected items, got none"):
        evaluate(gallery, np.eye(SIZE), [""] * SIZE, Rule())
