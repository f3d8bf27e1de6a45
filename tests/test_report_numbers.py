"""Numbers of a report: charts read by their ticks, choices and counts by brute force."""

import numpy as np
import pytest
from pages import Chart, read
from sklearn.decomposition import PCA

from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled
from keras_featx.matching import find_matches
from keras_featx.report import charts
from keras_featx.report.charts import Axis, Series, axis_of
from keras_featx.report.panels import confusions, surest
from keras_featx.report.spread import pair_curves, plane
from keras_featx.report.wording import figure, interval, metric_words, number


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.74, 1, [-0.5, 0, 0.5, 1]),
        (1, 39, [10, 20, 30]),
        (0, 4.1, [0, 1, 2, 3, 4]),
        (0.0009, 0.0011, [0.0009, 0.00095, 0.001, 0.00105, 0.0011]),
    ],
)
def test_ticks_are_round(low, high, expected):
    np.testing.assert_allclose(Axis(low, high).ticks(), expected)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 100, [0.01, 0.1, 1, 10, 100]), (1e-9, 1, [1e-8, 1e-6, 1e-4, 1e-2, 1])],
)
def test_ticks_of_logarithmic_axes_are_powers_of_ten(low, high, expected):
    np.testing.assert_allclose(Axis(low, high, log=True).ticks(), expected)


@pytest.mark.parametrize("log", [False, True])
def test_a_chart_shows_its_values(log):
    rng = np.random.default_rng(0)
    x_values, y_values = np.sort(rng.uniform(3, 90, 30)), rng.uniform(0.02, 70, 30)
    y = Axis(0.01, 100, "y", log) if log else axis_of(y_values, "y", zero=True)
    series = [Series("one", x_values, y_values), Series("two", x_values, y_values / 2, 1)]
    chart = Chart(charts.lines(series, axis_of(x_values, "x"), y, "label"))
    for style, expected in ((0, y_values), (1, y_values / 2)):
        x_read, y_read = chart.line(style, log)
        # 0.01 of about 300 units, and of ticks one tenth.
        np.testing.assert_allclose(x_read, x_values, atol=0.1)
        np.testing.assert_allclose(y_read, expected, **({"rtol": 0.01} if log else {"atol": 0.1}))
    names = {t.text for t in chart.svg.iter("text") if (t.get("class") or "").startswith("name")}
    assert names == {"x", "y"} and chart.svg.get("aria-label") == "label"


def test_marks_stand_at_their_values():
    svg = charts.lines(
        [Series("", [0, 1], [0, 1])], Axis(0, 1), Axis(0, 1), "", marks=[(0.25, "a"), (0.95, "<b>")]
    )
    chart = Chart(svg)
    levels = [p for p in chart.svg.iter("path") if p.get("class") == "level"]
    at = [float(p.get("d")[1:].split()[0]) for p in levels]
    np.testing.assert_allclose(read(np.array(at), chart.across), [0.25, 0.95], atol=0.001)
    assert [t.text for t in chart.svg.iter("text")][-2:] == ["a", "<b>"]


def test_points_stand_at_their_values_and_tell_who_they_are():
    x, y = Axis(-1, 1), Axis(0, 4)
    inside = charts.dots([-0.5, 0.25], [1, 3], x, y, ["m0", "m1 square"], ["<i>", "b"], 300)
    chart = Chart(charts.chart(x, y, "", inside, 300))
    (circle,), (square,) = chart.svg.iter("circle"), chart.svg.iter("rect")
    assert circle.find("title").text == "<i>" and square.find("title").text == "b"
    found_x = [float(circle.get("cx")), float(square.get("x")) + 2.2]
    found_y = [float(circle.get("cy")), float(square.get("y")) + 2.2]
    np.testing.assert_allclose(read(np.array(found_x), chart.across), [-0.5, 0.25], atol=0.01)
    np.testing.assert_allclose(read(np.array(found_y), chart.up), [1, 3], atol=0.01)


def test_the_bar_of_an_interval():
    bar = charts.range_bar(0.5, 0.25, 0.75)
    assert 'x="50.0" y="3" width="100.0"' in bar and 'cx="100.0"' in bar
    assert "rect" not in charts.range_bar(0.5, None, None)


def unit(rng, count, size=8):
    vectors = rng.normal(size=(count, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def a_set(rng, queries=60, entries=90, **known):
    """Half noise, half identity."""
    middle = unit(rng, 6)
    sides = []
    for count in (queries, entries):
        labels = rng.integers(0, 6, count)
        vectors = middle[labels] + unit(rng, count)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        more = {name: rng.integers(0, most, count) for name, most in known.items()}
        sides.append(Labelled(vectors.astype("float32"), labels, **more))
    return sides


@pytest.mark.parametrize("known", [{}, {"ids": 3}, {"ids": 3, "groups": 2}])
def test_counts_of_pairs_and_rates_equal_brute_force(known):
    query, gallery = a_set(np.random.default_rng(0), **known)
    found = pair_curves(query, gallery, find_matches(query, gallery))
    similar = (query.embeddings.astype("float64") @ gallery.embeddings.T.astype("float64")).astype(
        "float32"
    )
    same = query.labels[:, None] == gallery.labels
    inside = np.ones_like(same)
    if "ids" in known:
        inside &= ~(same & (query.ids[:, None] == gallery.ids))
    if "groups" in known:
        inside &= query.groups[:, None] == gallery.groups
    genuine, impostor = similar[same & inside], similar[~same & inside]
    for values, counts, rate in (
        (genuine, found.genuine, found.true_rate),
        (impostor, found.impostor, found.false_rate),
    ):
        np.testing.assert_array_equal(np.histogram(values, found.edges)[0], counts)
        assert counts.sum() == len(values)
        expected = [(values >= threshold).mean() for threshold in found.thresholds]
        np.testing.assert_allclose(rate, expected)
    assert len(found.genuine) <= 64 and found.queries == 60
    for rate, (threshold, accepted) in found.points.items():
        assert (impostor >= threshold).mean() <= rate
        assert (impostor >= threshold - 2**-16).mean() > rate  # a step lower is too low
        assert accepted == pytest.approx((genuine >= threshold).mean())


def test_of_many_pairs_those_of_a_sample_of_queries_are_counted():
    query, gallery = a_set(np.random.default_rng(1))
    matches = find_matches(query, gallery)
    whole, part = (pair_curves(query, gallery, matches, most) for most in (2**27, 90 * 20 + 5))
    assert part.queries == 20
    assert part.genuine.sum() == whole.genuine.sum()  # these are few: all of them
    of_query = (query.labels[:, None] != gallery.labels).sum(1)
    assert of_query.min() * 20 <= part.impostor.sum() <= of_query.max() * 20
    assert part.impostor.sum() < whole.impostor.sum() / 2


def test_one_identity_has_no_impostors():
    one = Labelled(unit(np.random.default_rng(0), 4), np.zeros(4, int))
    with pytest.raises(ConfigError, match="expected pairs of two identities"):
        pair_curves(one, one, find_matches(one, one))


def test_the_plane_is_that_of_principal_components():
    query, gallery = a_set(np.random.default_rng(2))
    found = plane(query, gallery)
    everything = np.concatenate([query.embeddings, gallery.embeddings]).astype("float64")
    reference = PCA(2).fit(everything)
    assert found.share == pytest.approx(reference.explained_variance_ratio_.sum())
    expected = reference.transform(everything)[found.rows]
    for ours, theirs in zip((found.x, found.y), expected.T, strict=True):
        sign = np.sign((ours * theirs).sum())
        np.testing.assert_allclose(ours, sign * theirs, atol=1e-6)
    assert sorted(found.rows) == list(range(150))


def test_few_points_are_drawn_of_many_half_of_them_of_frequent_identities():
    rng = np.random.default_rng(3)
    labels = np.concatenate([np.repeat(np.arange(12), np.arange(100, 112)), np.full(5000, -1)])
    query = Labelled(unit(rng, len(labels)), labels)
    gallery = query.take(np.arange(500))
    found = plane(query, gallery, points=400)
    both = np.concatenate([labels, labels[:500]])[found.rows]
    names, counts = np.unique(np.concatenate([labels, labels[:500]]), return_counts=True)
    frequent = sorted(zip(-counts, names, strict=True))
    assert found.coloured.tolist() == [name for _, name in frequent if name >= 0][:10]
    assert len(found.rows) == len(set(found.rows)) == 400
    assert np.isin(both, found.coloured).sum() == 200
    np.testing.assert_array_equal(found.rows, plane(query, gallery, points=400).rows)


def test_vectors_of_one_number_have_a_plane():
    line = Labelled(np.array([[1.0], [-1.0], [1.0]], "float32"), np.arange(3))
    found = plane(line, line)
    assert found.share == pytest.approx(1) and not found.y.any()


def test_the_surest_queries_equal_brute_force():
    rng = np.random.default_rng(4)
    for _ in range(30):
        count = int(rng.integers(1, 30))
        wanted, labels = rng.random(count) < 0.6, rng.integers(0, 6, count)
        similar = rng.integers(0, 5, count) / 4  # many are equal
        expected, seen = [], set()
        for row in sorted(range(count), key=lambda row: (-similar[row], row)):  # noqa: B023
            if wanted[row] and labels[row] not in seen:
                seen.add(labels[row])
                expected.append(row)
        assert surest(wanted, similar, labels, 4).tolist() == expected[:4]


def test_confusions_by_hand():
    labels = np.array([1, 1, 1, 1, 2, 2, 3, 3, 4, 5])
    taken = np.array([2, 2, 1, 3, 1, 2, 1, -5, 9, 2])
    similar = np.array([0.5, 0.9, 1, 0.1, 0.3, 1, 0.2, 0.8, 1, 0.4])
    scored = labels != 4  # that one could not have been right
    assert [tuple(one) for one in confusions(labels, taken, similar, scored)] == [
        (1, 2, 2, 4, 1),  # twice, the more similar one is shown
        (5, 2, 1, 1, 9),  # once, of one
        (2, 1, 1, 2, 4),  # once, of two
        (3, -1, 1, 2, 7),
        (3, 1, 1, 2, 6),
        (1, 3, 1, 4, 3),  # once, of four
    ]
    assert confusions(labels, labels, similar, scored) == []


def test_words():
    assert metric_words("recall@10") == (
        "Recall@10", "queries with an image of their identity among the first 10",
    )  # fmt: skip
    assert metric_words("map@5")[0] == "mAP@5" and metric_words("map")[0] == "mAP"
    assert metric_words("tar@far=0.001")[0] == "TAR at FAR 0.1 %"
    assert metric_words("their_own") == ("their_own", "")
    assert (figure(0), figure(0.9996), figure(-0.5)) == ("0.0 %", "100.0 %", "-0.5")
    assert interval(0.995, 1) == "99.5 to 100 %" and interval(-0.1, 2) == "-0.1 to 2"
    assert (number(0, "query", "queries"), number(1, "query", "queries"), number(12_345)) == (
        "0 queries", "1 query", "12,345",
    )  # fmt: skip
