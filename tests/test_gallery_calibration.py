"""Thresholds and open-set figures against brute force, scikit-learn, and statistics by hand."""

import csv
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from clustered import SIZE, clustered, cosines, filled, mean_of, unit
from scipy.stats import binom
from sklearn.metrics import roc_auc_score, roc_curve

from keras_featx.errors import ConfigError
from keras_featx.gallery import calibration
from keras_featx.gallery.calibration import allowed, calibrate, smallest
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.decisions import Asked, Rule, decide
from keras_featx.gallery.open_set import evaluate
from keras_featx.gallery.opened import Match

RULES = [
    Rule(),
    Rule(k=500),
    Rule(combine="vote"),
    Rule(combine="mean"),
    Rule(combine="mean", margin=0.05),
    Rule(margin=0.03, k=3),
    Rule(combine="best_of", n=2),
]


def brute_answers(vectors, names, rule, own_identity):
    """Of each item, looked up without itself or without its identity: best identity and score."""
    similar = cosines(vectors, vectors)
    found = []
    for i, name in enumerate(names):
        left = [j for j in range(len(names)) if (names[j] != name if own_identity else j != i)]
        if rule.combine == "mean":
            groups = {one: [j for j in left if names[j] == one] for one in {names[j] for j in left}}
            pairs = [
                (one, cosines(vectors[i : i + 1], [mean_of(vectors[rows])]).item())
                for one, rows in groups.items()
            ]
            pairs = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        else:
            left = sorted(left, key=lambda j: (-similar[i, j], j))
            pairs = [(names[j], similar[i, j].item()) for j in left]
        answer = decide([Match("", name, value, {}) for name, value in pairs], rule)
        found.append((answer.identity, answer.similarity if answer.identity else -math.inf))
    return found


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_calibration_on_the_gallery_itself_equals_brute_force(tmp_path, rule, seed):
    """Two strangers that are nearest to each other have one score: ties are common."""
    vectors, names = clustered(9, 5, seed)
    names[-1] = "alone"
    gallery = filled(tmp_path / "g", vectors, names)
    found = calibrate(gallery, 0.1, rule)
    scores = np.array([score for _, score in brute_answers(vectors, names, rule, True)])
    assert (scores >= found.threshold).sum() <= 4
    lower = float(np.nextafter(np.float32(found.threshold), np.float32(-2)))
    assert (scores >= lower).sum() > 4
    assert found.accepted == (scores >= found.threshold).sum() / 45
    known = brute_answers(vectors, names, rule, False)
    right = [
        best == name and score >= found.threshold
        for (best, score), name in zip(known, names, strict=True)
        if name != "alone"
    ]
    assert found.recognised == pytest.approx(np.mean(right))
    assert (found.unknown, found.known, found.left_out) == ((45, 10), (44, 9), 1)
    assert found.interval[0] <= found.threshold <= found.interval[1]
    assert found.recognised_interval[0] <= found.recognised <= found.recognised_interval[1]
    assert found.rule == Rule(**{**rule.to_dict(), "threshold": found.threshold})
    assert Rule.from_dict(json.loads(json.dumps(found.to_dict()))["rule"]) == found.rule


def test_calibration_on_queries_equals_brute_force(tmp_path):
    vectors, names = clustered(12, 6, 4, spread=1.2)
    inside = [i for i in range(48) if i % 6 < 4]
    friends = [i for i in range(48) if i % 6 >= 4]
    strangers = list(range(48, 72))
    gallery = filled(tmp_path / "g", vectors[inside], [names[i] for i in inside])
    found = calibrate(
        gallery, 0.1,
        unknown=(vectors[strangers], [names[i] for i in strangers]),
        known=(vectors[friends], [names[i] for i in friends]),
    )  # fmt: skip
    scores = cosines(vectors[strangers], vectors[inside]).max(1)
    assert (scores >= found.threshold).sum() == 2 and found.accepted == 2 / 24
    assert np.sort(scores)[-3] == np.nextafter(np.float32(found.threshold), np.float32(-2))
    similar = cosines(vectors[friends], vectors[inside])
    best = [names[inside[j]] for j in similar.argmax(1)]
    right = np.array([names[i] for i in friends]) == best
    assert found.recognised == np.mean(right & (similar.max(1) >= found.threshold))
    assert 0 < found.recognised < right.mean()
    assert (found.unknown, found.known, found.left_out) == ((24, 4), (16, 8), 0)
    assert found.held_out == "queries"


def test_how_many_may_be_accepted():
    """In fractions: a share of 0.29 of 100 is 29, though 0.29 * 100 is less in floats."""
    for parts in (10, 100, 1000):
        for far in range(1, parts, 1 if parts < 1000 else 7):
            for count in (1, 7, 10, 99, 100, 101, 1000, 12_345):
                wanted = math.floor(Fraction(far, parts) * count)
                assert allowed(far / parts, count) == wanted


def test_the_smallest_threshold_with_ties():
    rng = np.random.default_rng(0)
    for case in range(500):
        scores = rng.integers(-3, 4, rng.integers(1, 30)) / 8
        if case % 3 == 1:
            scores[rng.random(len(scores)) < 0.2] = -np.inf
        if case % 3 == 2:
            scores = scores + rng.normal(size=len(scores))  # in float64
        far = int(rng.integers(1, 20)) / 20
        most = math.floor(Fraction(round(far * 20), 20) * len(scores))
        threshold = smallest(scores, far)
        assert threshold == np.float32(threshold)
        assert (scores >= threshold).sum() <= most
        if threshold > np.finfo("float32").min:
            lower = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
            assert (scores >= lower).sum() > most


def test_equal_strangers_are_accepted_all_or_none(tmp_path):
    """All items of two orthogonal identities have one score, 0, to the other one."""
    vectors = np.repeat(np.array([[1, 0], [0, 1]], "float32"), 10, axis=0)
    gallery = filled(tmp_path / "g", vectors, ["a"] * 10 + ["b"] * 10)
    found = calibrate(gallery, 0.9)
    assert found.threshold == np.nextafter(np.float32(0), np.float32(1))
    assert (found.accepted, found.recognised) == (0.0, 1.0)


def test_fresh_strangers_by_the_rank_of_the_threshold():
    """Of uniform scores, a share of Beta(6, 45) is above: its mean is 6 / 51."""
    rng = np.random.default_rng(0)
    shares = [1 - smallest(rng.random(50), 0.1) for _ in range(2000)]
    deviation = math.sqrt(6 * 45 / (51**2 * 52))
    assert abs(np.mean(shares) - 6 / 51) < 5 * deviation / math.sqrt(2000)


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


def test_a_threshold_of_the_gallery_itself_holds_for_new_identities(tmp_path):
    """Five standard deviations, as if all items of an identity were one stranger."""
    vectors, names = clustered(300, 3, seed=5, spread=0.9)
    gallery = filled(tmp_path / "g", vectors, names)
    fresh, own = clustered(2000, 1, seed=6, spread=0.9)
    for rule in (Rule(), Rule(margin=0.02), Rule(combine="mean")):
        found = calibrate(gallery, 0.3, rule)
        result = evaluate(gallery, fresh, own, found.rule)
        bound = 5 * math.sqrt(0.3 * 0.7 * (1 / 300 + 1 / 2000))
        assert abs(result.unknown["false_accepts"] - 0.3) < bound


def test_intervals_are_those_of_a_bootstrap(tmp_path):
    """One query an identity: resampled counts are binomial.

    Of 1,000 of them the 25th has a quantile of 0.025, give or take 0.005; five times that.
    """
    vectors, names = clustered(300, 1, seed=7)
    gallery = filled(tmp_path / "g", vectors[:200], names[:200])
    rng = np.random.default_rng(0)
    moved = unit(vectors[:200] + 0.2 * rng.normal(size=(200, SIZE)))
    found = calibrate(
        gallery, 0.2, unknown=(vectors[200:], names[200:]), known=(moved, names[:200])
    )
    assert 0.3 < found.recognised < 0.95 and found.accepted == 0.2
    for share, count, interval in (
        (found.recognised, 200, found.recognised_interval),
        (found.accepted, 100, found.accepted_interval),
    ):
        low, high = (round(end * count) for end in interval)
        assert binom.cdf(low - 1, count, share) < 0.05 and binom.cdf(low, count, share) > 0.005
        assert binom.sf(high, count, share) < 0.05 and binom.sf(high - 1, count, share) > 0.005
    # The threshold of a resample is between the scores whose ranks are.
    scores = np.sort(cosines(vectors[200:], vectors[:200]).max(1))[::-1]
    low, high = found.interval
    assert binom.cdf((scores > low).sum(), 100, 0.2) > 0.95
    assert binom.cdf((scores > high).sum(), 100, 0.2) < 0.05


def test_a_single_identity_has_no_interval(tmp_path):
    vectors, names = clustered(4, 5, 0)
    gallery = filled(tmp_path / "g", vectors[:15], names[:15])
    found = calibrate(gallery, 0.2, unknown=(vectors[15:], names[15:]))
    assert found.interval is found.accepted_interval is None
    assert found.recognised_interval is not None
    result = evaluate(gallery, vectors, names, found.rule)
    assert result.more["auroc_interval"] is None


def test_items_without_company_are_not_asked_as_known_ones(tmp_path):
    vectors, names = clustered(30, 1, 0)
    found = calibrate(filled(tmp_path / "g", vectors, names), 0.1)
    assert (found.recognised, found.recognised_interval) == (None, None)
    assert (found.known, found.left_out, found.unknown) == ((0, 0), 30, (30, 30))


def test_a_margin_that_refuses_all_needs_no_threshold(tmp_path):
    vectors, names = clustered(10, 3, 0)
    gallery = filled(tmp_path / "g", vectors, names)
    found = calibrate(gallery, 0.1, Rule(margin=1.9, k=30))
    assert found.threshold == np.finfo("float32").min
    assert (found.accepted, found.recognised) == (0.0, 0.0)
    again = Rule.from_dict(json.loads(json.dumps(found.rule.to_dict())))
    assert evaluate(gallery, vectors, names, again).known["rejected"] == 1.0


def test_thresholds_of_identities_accept_the_same_share(tmp_path):
    rng = np.random.default_rng(0)
    tight, loose = clustered(10, 8, 0, spread=0.3), clustered(10, 8, 1, spread=1.5)
    gallery = filled(tmp_path / "g", np.concatenate([tight[0], loose[0]]), tight[1] + loose[1])
    strangers, labels = unit(rng.normal(size=(2000, SIZE))), [str(i) for i in range(2000)]
    found = calibrate(gallery, 0.05, unknown=(strangers, labels), per_identity=True)
    assert 0.049 <= found.accepted <= 0.05
    assert len(set(found.rule.thresholds.values())) > 10
    # The formula: the threshold of an identity's own strangers, drawn to that of all.
    similar = cosines(strangers, np.concatenate([tight[0], loose[0]]))
    best = np.array(tight[1] + loose[1])[similar.argmax(1)]
    moved = []
    for name in sorted(set(best.tolist())):
        own = np.sort(similar.max(1)[best == name])[::-1]
        wanted = len(own) * own[math.floor(len(own) / 20)] + 50 * found.threshold
        moved.append(found.rule.thresholds[name] - wanted / (len(own) + 50))
    assert len(moved) == len(found.rule.thresholds)
    assert np.ptp(moved) < 1e-6
    result = evaluate(gallery, strangers, labels, found.rule)
    assert result.unknown["false_accepts"] == found.accepted


def test_thresholds_of_identities_never_accept_too_many():
    """Scores of few values, so that many are just at a threshold."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = int(rng.integers(20, 80))
        best = [f"i{i}" for i in rng.integers(0, 4, count)]
        scores = np.round(rng.normal(size=count), 1) / 4
        scores = scores.astype("float32").astype("float64")
        scores[rng.random(count) < 0.2] = -np.inf
        asked = Asked(best, scores, scores, ["x"] * count)
        for tenths in (1, 2, 5, 9):
            most = count * tenths // 10
            threshold = smallest(scores, tenths / 10)
            own = calibration._own_thresholds(asked, tenths / 10, threshold)
            assert asked.believed(Rule(threshold=threshold, thresholds=own)).sum() <= most


def test_large_galleries_are_sampled_by_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "_MOST", 40)
    vectors, names = clustered(20, 5, 3)
    gallery = filled(tmp_path / "g", vectors, names)
    found = calibrate(gallery, 0.05)
    assert found.unknown[0] == found.known[0] == 40
    assert calibrate(gallery, 0.05) == found
    assert calibrate(gallery, 0.05, seed=1).threshold != found.threshold


def test_what_cannot_be_calibrated(tmp_path):
    vectors, names = clustered(3, 4, 0)
    gallery = filled(tmp_path / "g", vectors, names)
    cases = {
        "far: expected at least 100 strangers to tell a share of 0.01, got 12": {},
        "far: expected at least 5 strangers to tell a share of 0.2, got 0": {
            "far": 0.2, "unknown": (np.zeros((0, SIZE)), []),
        },
        "far: expected a share between 0 and 1, got 1": {"far": 1},
        "far: expected a share between 0 and 1, got nan": {"far": math.nan},
        f"unknown: expected identities that are not in {tmp_path / 'g'}, got {names[0]!r}": {
            "unknown": (vectors, names)
        },
        f"known: expected identities of {tmp_path / 'g'}, got 'cow'": {
            "far": 0.2, "known": (vectors[:1], ["cow"]),
        },
        "known: expected queries, got none": {"far": 0.2, "known": (np.zeros((0, SIZE)), [])},
        "identities: expected 12, one a query, got 1": {"unknown": (vectors, ["x"])},
        "query: expected (queries, 12), got (1, 3)": {"unknown": (np.ones((1, 3)), ["x"])},
    }  # fmt: skip
    for message, given in cases.items():
        with pytest.raises(ConfigError) as caught:
            calibrate(gallery, **given)
        assert str(caught.value) == message
    single = filled(tmp_path / "s", vectors[:2], ["a", "a"])
    with pytest.raises(
        ConfigError, match="expected at least 2 identities to calibrate with, got 1"
    ):
        calibrate(single, 0.5)


def test_an_empty_gallery(tmp_path):
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE)
    for given, message in (
        ({}, "expected at least 2 identities to calibrate with, got 0"),
        ({"unknown": (np.eye(SIZE), ["x"] * SIZE)}, "expected items, got none"),
    ):
        with pytest.raises(ConfigError) as caught:
            calibrate(gallery, 0.5, **given)
        assert str(caught.value) == f"{tmp_path / 'g'}: {message}"
    with pytest.raises(ConfigError, match="expected items, got none"):
        evaluate(gallery, np.eye(SIZE), [""] * SIZE, Rule())


def open_set(folder, spread=0.6):
    """A gallery of 8 identities; 16 queries of these and 24 of 4 others."""
    vectors, names = clustered(12, 6, 3, spread)
    shelf = [i for i in range(72) if i % 6 < 4 and i < 48]
    asked = [i for i in range(72) if i not in shelf]
    gallery = filled(folder, vectors[shelf], [names[i] for i in shelf])
    similar = cosines(vectors[asked], vectors[shelf])
    own = np.array(names)[asked]
    there = np.isin(own, np.array(names)[shelf])
    best = np.array(names)[shelf][similar.argmax(1)]
    return gallery, vectors[asked], own, there, best, similar.max(1)


@pytest.mark.parametrize(("spread", "threshold"), [(0.6, 0.85), (1.5, 0.7)])
def test_open_set_figures_equal_brute_force(tmp_path, spread, threshold):
    gallery, query, own, there, best, score = open_set(tmp_path / "g", spread)
    found = evaluate(gallery, query, own.tolist(), Rule(threshold=threshold))
    right, believed = best == own, score >= threshold
    assert (there.sum(), (~there).sum()) == (16, 24)
    for name, wanted in {
        "recall@1": right[there], "recognised": (right & believed)[there],
        "rejected": ~believed[there], "mistaken": (believed & ~right)[there],
    }.items():  # fmt: skip
        assert found.known[name] == pytest.approx(wanted.mean()), name
        assert found.known.intervals[name][0] <= wanted.mean() <= found.known.intervals[name][1]
    assert found.unknown["false_accepts"] == pytest.approx(believed[~there].mean())
    assert found.more["auroc"] == pytest.approx(roc_auc_score(there, score))
    assert found.more["threshold"] == threshold
    refused = np.sort(score[~there])[-3]  # of 24 strangers, 2 are accepted
    wanted = (right & (score > refused))[there].mean()
    assert found.known["tar@far=0.1"] == pytest.approx(wanted)
    assert (spread > 1) == (wanted < (score > refused)[there].mean())  # some are mistaken
    assert found.more["threshold@far=0.01"] is None and "tar@far=0.01" not in found.known
    assert "threshold@far=0.01: None" in str(found)
    assert "16 queries of 8 identities" in str(found) and "24 queries of 4 ident" in str(found)


def test_rates_at_false_accepts_equal_scikit_learn(tmp_path):
    """All answers of known queries are right, so that recognising is accepting."""
    gallery, query, own, there, best, score = open_set(tmp_path / "g")
    assert (best == own)[there].all()
    false, true, _ = roc_curve(there, score, drop_intermediate=False)
    fars = (0.05, 0.1, 0.125, 0.25, 0.5)
    found = evaluate(gallery, query, own.tolist(), Rule(), fars)
    for far in fars:
        assert found.known[f"tar@far={far:g}"] == pytest.approx(true[false <= far].max())
        threshold = found.more[f"threshold@far={far:g}"]
        assert (score[~there] >= threshold).sum() == math.floor(Fraction(str(far)) * 24)
    with pytest.raises(ConfigError, match="^fars: expected shares between 0 and 1, got 1$"):
        evaluate(gallery, query, own.tolist(), Rule(), (0.1, 1))


def test_auroc_with_ties_and_whatever_the_margin(tmp_path):
    gallery = filled(tmp_path / "g", np.eye(2), ["a", "b"])
    turns = np.radians([0, 10, 40, 10, 40, 80, 45])
    query = np.stack([np.cos(turns), np.sin(turns)], 1)
    own = ["a", "a", "a", "x", "y", "z", "w"]
    score = cosines(query, np.eye(2)).max(1)
    wanted = roc_auc_score([1, 1, 1, 0, 0, 0, 0], score)
    # At 0 degrees all 4 are below; at 10 the ties are x and z, 10 degrees from b; at 40 it is y.
    assert wanted == pytest.approx((4 + (2 + 2 / 2) + (1 + 1 / 2)) / 12)
    for rule in (Rule(), Rule(margin=0.2)):
        found = evaluate(gallery, query, own, rule)
        assert found.more["auroc"] == pytest.approx(wanted)
    assert found.unknown["false_accepts"] == 0.5  # 40 and 45 degrees are within the margin
    assert found.known["recall@1"] == 1 and found.known["recognised"] == pytest.approx(2 / 3)


def test_the_interval_of_auroc_is_that_of_a_bootstrap(tmp_path):
    """Of two bootstraps of 1,000, quantiles of 0.025 differ by 0.007 or so; five times that."""
    gallery, query, own, there, _, score = open_set(tmp_path / "g", 1.2)
    low, high = evaluate(gallery, query, own.tolist(), Rule()).more["auroc_interval"]
    rng = np.random.default_rng(5)
    values = []
    for _ in range(1000):
        rows = []
        for part in (there, ~there):
            names = np.unique(own[part])
            drawn = rng.choice(names, len(names))
            rows += [np.flatnonzero(own == name) for name in drawn]
        rows = np.concatenate(rows)
        values.append(roc_auc_score(there[rows], score[rows]))
    values = np.array(values)
    assert (values < low).mean() < 0.06 and (values <= low).mean() > 0
    assert (values > high).mean() < 0.06 and (values >= high).mean() > 0


def test_what_is_written_of_an_open_set(tmp_path):
    gallery, query, own, there, best, score = open_set(tmp_path / "g", 1.2)
    found = evaluate(gallery, query, own.tolist(), Rule(threshold=0.7))
    found.write(tmp_path / "out")
    tree = json.loads((tmp_path / "out" / "open_set.json").read_text())
    assert tree == json.loads(json.dumps(found.to_dict()))
    assert tree["known"]["queries"] == 16 and tree["unknown"]["queries"] == 24
    rows = {}
    for name in ("known", "unknown", "answers"):
        with (tmp_path / "out" / f"{name}.csv").open() as file:
            rows[name] = list(csv.DictReader(file))
    assert [one["label"] for one in rows["known"]] == own[there].tolist()
    assert [int(one["query"]) for one in rows["unknown"]] == np.flatnonzero(~there).tolist()
    assert [one["identity"] for one in rows["answers"]] == own.tolist()
    assert [one["best"] for one in rows["answers"]] == best.tolist()
    assert [float(one["similarity"]) for one in rows["answers"]] == score.tolist()
    assert [one["believed"] for one in rows["answers"]] == [str(one) for one in score >= 0.7]


def test_queries_that_are_all_known_or_all_not(tmp_path):
    vectors, names = clustered(4, 4, 0)
    gallery = filled(tmp_path / "g", vectors[:12], names[:12])
    known = evaluate(gallery, vectors[:12], names[:12], Rule())
    assert known.unknown is None and known.more == {"threshold": None}
    assert known.known["recognised"] == 1.0 and "strangers" not in str(known)
    others = evaluate(gallery, vectors[12:], names[12:], Rule(), (0.25,))
    assert others.known is None and others.unknown["false_accepts"] == 1.0
    assert set(others.more) == {"threshold", "threshold@far=0.25"}
    with pytest.raises(ConfigError, match="^query: expected at least one, got none$"):
        evaluate(gallery, np.zeros((0, SIZE)), [], Rule())
    with pytest.raises(ConfigError, match="^identities: expected 12, one a query, got 1$"):
        evaluate(gallery, vectors[:12], ["a"], Rule())
