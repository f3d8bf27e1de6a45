"""Pages and pictures of galleries: figures are those of NumPy, names are never more than text."""

import base64
import io
import re

import matplotlib.image
import numpy as np
import pytest
from conftest import EMOJI_MINI
from pages import Page, charts
from PIL import Image
from test_report_browser import WIDTHS, browser, look, missing  # noqa: F401

from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.opened import Match
from keras_featx.gallery.scenes import Found, Nearest, by_threshold
from keras_featx.report import gallery_view
from keras_featx.report.gallery_charts import size_edges
from keras_featx.report.gallery_page import write_info
from keras_featx.report.gallery_panels import write_panel, write_scene
from keras_featx.report.gallery_pictures import small
from keras_featx.report.gallery_plots import short
from keras_featx.report.gallery_view import spread_of, view_of

TEST = EMOJI_MINI / "test"
EVIL = "<script>alert('1')</script>"
QUOTES = "\"><img src=x onerror=alert(1)> it's & <b>"
PRINT = "ab" * 32


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def picture(name, drawing="noto"):
    return str(TEST / name / f"{drawing}.png")


# Sizes of identities: 1 to 8, of evil names the first two.
NAMES = [EVIL, QUOTES, "ant", "bus", "dagger", "melon", "oden", "pen"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """36 items of 8 identities, in segments with removed items; some with pictures."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), np.arange(1, 9))
    vectors = unit(rng.normal(size=(8, 16))[labels] + 1.3 * rng.normal(size=(36, 16)))
    ids = [f"{NAMES[label]}/{i}" for i, label in enumerate(labels)]
    more = [{"path": picture(NAMES[i])} if i > 1 else {"path": f"{EVIL}.png"} for i in labels]
    gallery = Gallery.create(
        tmp_path_factory.mktemp("page") / f"it's {QUOTES.replace('/', '')}", PRINT, 16, "float32",
        settings={"threshold": 0.6, "rule": {EVIL: QUOTES}},
    )  # fmt: skip
    extra = unit(rng.normal(size=(40, 16)))
    order = rng.permutation(36).tolist()
    for some in (order[:30], order[30:]):
        names = [NAMES[labels[i]] for i in some]
        gallery.add([ids[i] for i in some], names, vectors[some], [more[i] for i in some])
    gallery.add([f"gone {i}" for i in range(40)], ["gone"] * 40, extra)
    gallery.remove([f"gone {i}" for i in range(40)])
    return gallery


def contents(gallery):
    """Vectors in float64 and labels by sorted names, as the public way of reading gives them."""
    parts = list(gallery.items())
    identities = [name for part in parts for name in part.identities]
    names = sorted(set(identities))
    vectors = np.concatenate([part.vectors for part in parts]).astype("float64")
    return vectors, np.array([names.index(name) for name in identities]), names


def info(gallery, folder, **more):
    write_info(gallery, folder / "info.html", **more)
    return (folder / "info.html").read_text()


def brute(vectors, labels):
    """Of each item: cosines with its own, the highest of these, the highest of another identity."""
    within, own, other = [], [], []
    for i, label in enumerate(labels):
        similar = vectors @ vectors[i]
        mates = [similar[j] for j in range(len(labels)) if labels[j] == label and j != i]
        strangers = [similar[j] for j in range(len(labels)) if labels[j] != label]
        within += mates
        own.append(max(mates, default=-np.inf))
        other.append(max(strangers, default=-np.inf))
    return np.array(within), np.array(own), np.array(other)


@pytest.mark.parametrize("blocks", [(256, 8192), (5, 7)])
def test_cosines_are_those_of_all_pairs(shelf, monkeypatch, blocks):
    monkeypatch.setattr(gallery_view, "_ROWS", blocks[0])
    monkeypatch.setattr(gallery_view, "_COLUMNS", blocks[1])
    vectors, labels, names = contents(shelf)
    view = view_of(shelf)
    assert view.names == names and view.labels.tolist() == labels.tolist()
    within, own, other = brute(vectors, labels)
    found = spread_of(view)
    edges = np.arange(-200, 201) / 200
    assert found.within.tolist() == np.histogram(within, edges)[0].tolist()
    assert found.within.sum() == sum(n * (n - 1) for n in range(1, 9))
    np.testing.assert_allclose(found.own, own, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.other, other, rtol=0, atol=1e-12)
    assert np.isneginf(found.own).sum() == 1


def test_a_sample_of_the_items_is_compared_with_all(shelf):
    vectors, labels, _ = contents(shelf)
    found = spread_of(view_of(shelf), most_pairs=36 * 12)
    assert len(found.rows) == 12 == len(set(found.rows.tolist()))
    _, own, other = brute(vectors, labels)
    np.testing.assert_allclose(found.own, own[found.rows], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.other, other[found.rows], rtol=0, atol=1e-12)
    counts = np.bincount(labels)
    assert found.within.sum() == (counts[labels[found.rows]] - 1).sum()


@pytest.fixture(scope="module")
def page(shelf, tmp_path_factory):
    tables = {
        f"Outliers {EVIL}": [
            {"id": "ant/3", "identity": QUOTES, EVIL: 0.123456, "nearest_id": f"{EVIL}/0"},
            {"id": "not there", "identity": None, EVIL: 1.0, "nearest_id": QUOTES},
        ],
        "Merges": [],
        "Copies": [{"id": f"pen/{i}", "count": i} for i in range(60)],
    }
    return info(shelf, tmp_path_factory.mktemp("info"), tables=tables)


def test_the_page_is_whole_and_needs_nothing(page):
    Page(page).check()
    assert "default-src 'none'" in page
    ids, targets = re.findall(r' id="([^"]*)"', page), re.findall(r'href="#([^"]*)"', page)
    assert len(ids) == len(set(ids)) == 8 and sorted(ids) == sorted(targets)


def test_names_are_text_and_stand_there(page):
    assert "<script" not in page and "<img src=x" not in page
    said = Page(page).said
    for name in (EVIL, QUOTES, f"Outliers {EVIL}", f"it's {QUOTES.replace('/', '')}"):
        assert name in said
    assert "{\"<script>alert('1')</script>\": " in said  # the rule


def test_the_facts_are_those_of_the_gallery(page, shelf):
    said = Page(page).said
    files = [p for p in shelf.store.folder.rglob("*") if p.is_file()]
    kept = [p for p in files if p.suffix == ".npy" or p.name in ("texts.bin", "identities.json")]
    named = {name for part in shelf.manifest.parts for name in part.files}
    now = [p for p in kept if p.name in named and p.parent.name in
           {part.name for part in shelf.manifest.parts}]  # fmt: skip
    for expected in (
        "items 36 identities 8", f"fingerprint of the model {PRINT}",
        "numbers of an embedding 16, float32",
        f"size of this version {sum(p.stat().st_size for p in now) / 1000:.3g} kB",
        f"size on disk, all versions {sum(p.stat().st_size for p in files) / 1000:.3g} kB",
        "threshold 0.6", "36 items of 8 identities, version 5.",
        "items of an identity 1 to 8 median, mean 4.5, 4.5 identities with one item 1",
    ):  # fmt: skip
        assert expected in said, expected


def test_charts_are_those_of_numpy(page, shelf):
    vectors, labels, _ = contents(shelf)
    drawn = charts(page)
    x, y = drawn["items of identities"].line(0)
    np.testing.assert_allclose(x, np.repeat(np.arange(9) + 0.5, 2), atol=0.02)
    counts = np.histogram(np.bincount(labels), np.arange(9) + 0.5)[0]
    assert counts.tolist() == [1] * 8
    np.testing.assert_allclose(y, [0, *np.repeat(counts, 2), 0], atol=0.01)

    within, own, other = brute(vectors, labels)
    own, other = own[np.isfinite(own)], other[np.isfinite(other)]
    low = np.floor(50 * min(within.min(), other.min())) / 50
    high = np.ceil(50 * max(within.max(), other.max())) / 50
    assert high - low > 0.5  # far apart: bars of 0.02
    edges = np.round(np.linspace(low, high, round(50 * (high - low)) + 1), 2)
    for style, values in enumerate((within, other, own)):
        x, y = drawn["cosines of items"].line(style)
        np.testing.assert_allclose(x, np.repeat(edges, 2), atol=2e-4)
        shares = 100 * np.histogram(values, edges)[0] / len(values)
        np.testing.assert_allclose(y, [0, *np.repeat(shares, 2), 0], atol=0.01)
        # So near that counts are certain.
        assert 100 / len(values) > 0.02


def test_figures_are_those_of_numpy(page, shelf):
    _, own, other = brute(*contents(shelf)[:2])
    mates = np.isfinite(own)
    nearer, near = (mates & (other > own)).sum(), (other >= 0.6).sum()
    below = (own[mates] < 0.6).sum()
    assert 0 < nearer and 0 < near and 0 < below
    said = Page(page).said
    for expected in (
        "items with another of their identity 35",
        f"of these, nearer to another identity {nearer} ({100 * nearer / 35:.1f} %)",
        f"at or above the threshold to another identity {near} ({100 * near / 36:.1f} %)",
        f"below the threshold to their own {below} ({100 * below / 35:.1f} %)",
        "All items are compared with all others.",
    ):
        assert expected in said, expected


def test_the_largest_and_the_smallest_identities(page):
    (part,) = re.findall(r'<section id="part-1">.*?</section>', page, re.DOTALL)
    said = Page(part).said
    assert "pen 8 oden 7 melon 6 dagger 5 bus 4 ant 3" in said
    assert said.count("identities items") == 1  # all eight are among the largest


def test_ends_do_not_meet(tmp_path):
    """Of 20 identities the largest and the smallest 8; of equal ones the first by name."""
    counts = [1] * 10 + [2] * 6 + [5, 4, 9, 3]
    names = [f"n{i:02}" for i in range(20)]
    owners = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    gallery = Gallery.create(tmp_path / "g", PRINT, 8)
    gallery.add([f"{i}" for i in range(len(owners))], owners,
                unit(np.random.default_rng(0).normal(size=(len(owners), 8))))  # fmt: skip
    text = info(gallery, tmp_path)
    rows = re.findall(r"<span>(n\d\d)</span></div></th><td class=\"n\">(\d)</td>", text)
    assert rows[:8] == [("n18", "9"), ("n16", "5"), ("n17", "4"), ("n19", "3"), ("n10", "2"),
                        ("n11", "2"), ("n12", "2"), ("n13", "2")]  # fmt: skip
    assert rows[8:] == [(f"n0{i}", "1") for i in range(8)]


def test_tables_show_what_they_are_given(page):
    said = Page(page).said
    assert "id identity" in said and "0.1235" in said
    assert "Merges None." in said
    assert "The first 50 of 60." in said
    (part,) = re.findall(r'<section id="part-4">.*?</section>', page, re.DOTALL)
    assert part.count("<img") == 1  # of the one item that is there and has a picture
    assert '<span class="picture" title="not there">not there</span>' in part


def test_the_map_shows_every_item(page, shelf):
    assert 'aria-label="map of embeddings"' in page
    (svg,) = re.findall(r'<svg class="chart"[^>]*aria-label="map of embeddings".*?</svg>', page)
    assert svg.count("<circle") == 36
    vectors, labels, names = contents(shelf)
    centred = vectors - vectors.mean(0)
    variance = np.linalg.svd(centred, compute_uv=False) ** 2
    share = 100 * variance[:2].sum() / variance.sum()
    said = Page(page).said
    assert f"{share:.0f} % of their variance" in said
    assert "36 items of 36. Coloured, with a number where their middle is: the 8 identities" in said


def test_versions_say_what_was_done(page):
    (part,) = re.findall(r'<section id="part-7">.*?</section>', page, re.DOTALL)
    said = Page(part).said
    rows = re.findall(r"(\d) \d{4}-\d\d-\d\dT[\d:]+Z (\w+(?: \d+)?) (\d+)", said)
    assert rows == [("5", "remove 40", "36"), ("4", "add 40", "76"), ("3", "add 6", "36"),
                    ("2", "add 30", "30"), ("1", "create", "0")]  # fmt: skip


def test_an_older_version_that_is_damaged_is_said_to_be(tmp_path):
    gallery = Gallery.create(tmp_path / "g", PRINT, 4)
    for i in range(14):
        gallery.add([f"{i}"], ["ant"], np.eye(4)[:1])
    (tmp_path / "g" / "versions" / "00000005.json").write_text("{}")
    said = Page(info(gallery, tmp_path)).said
    assert "00000005.json: damaged: its checksum is another" in said
    assert "The newest 12 of 15." in said and "add 1 14" in said
    old = Gallery(tmp_path / "g", version=3)
    assert "2 items of 1 identity, version 3." in Page(info(old, tmp_path)).said


@pytest.mark.parametrize(
    ("identities", "expected"),
    [
        ([], "0 items of 0 identities, version 1."),
        ([], "Versions None."),  # a table of that title, beside the section
        (["ant"], "Not drawn: there is one item."),
        (["ant", "ant"], "items with another of their identity 2"),
        (["ant", "bee"], "items with another of their identity 0"),
    ],
)
def test_galleries_of_few_items(tmp_path, identities, expected):
    gallery = Gallery.create(tmp_path / "g", PRINT, 4, settings={"threshold": -0.5})
    ids = [f"{i}" for i in range(len(identities))]
    gallery.add(ids, identities, np.eye(4)[: len(ids)])
    text = info(gallery, tmp_path, tables={"Versions": []})
    Page(text).check()
    assert Page(text).said.count("Versions") == 4
    assert expected in Page(text).said and "nan" not in Page(text).said


def test_half_precision_has_no_cosine_above_one(tmp_path):
    """Twice the same vector, whose norm is more than 1 as it is kept."""
    vector = unit(np.random.default_rng(3).normal(size=(200, 16)))
    norms = np.linalg.norm(vector.astype("float16").astype("float64"), axis=1)
    gallery = Gallery.create(tmp_path / "g", PRINT, 16)
    gallery.add(["a", "b"], ["ant", "ant"], np.repeat(vector[[norms.argmax()]], 2, 0))
    found = spread_of(view_of(gallery))
    assert found.own.max() > 1 and found.within[-1] == 2
    assert charts(info(gallery, tmp_path))["cosines of items"].across[-1][1] == 1


def test_bars_of_sizes_by_hand():
    edges = size_edges(41)
    assert edges.tolist() == [0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5]
    assert np.histogram([1, 2, 3, 4, 5, 41], edges)[0].tolist() == [1, 1, 2, 1, 0, 0, 1]
    assert size_edges(64)[-1] == 64.5 and size_edges(65)[-1] == 128.5
    assert size_edges(1).tolist() == [0.5, 1.5] and len(size_edges(40)) == 41


ANSWERS = [Nearest("ant", 0.91234), Nearest(None, 0.4), Nearest(EVIL, 0.7), Nearest(None, None)]
MATCHES = [
    [Match("a", "ant", 0.91234, {"path": picture("ant")}), Match("b", QUOTES, -0.25, {})],
    [Match("c" * 300, "bus", 0.4, {"path": "not/\0there.png"})],
    [Match(QUOTES, EVIL, 0.7, {"path": [1]}), Match("d", "$x^2", 0.1, {"path": str(EMOJI_MINI)})],
    [],
]


def queries():
    return [picture("ant", "twemoji"), "gone.png", np.zeros((30, 50, 3), np.uint8), picture("bus")]


def test_a_panel_is_whole_and_says_what_was_found(tmp_path):
    write_panel(
        tmp_path / "panel.html", queries(), ANSWERS, MATCHES, threshold=0.61234, title=QUOTES
    )
    text = (tmp_path / "panel.html").read_text()
    page = Page(text)
    page.check()
    assert "<script" not in text and "<img src=x" not in text
    said = page.said
    assert "4 queries, 2 known, 2 unknown; known from a similarity (cosine) of 0.6123 on." in said
    assert (
        f"ant similarity 0.912 ant/twemoji.png \N{CHECK MARK} 0.912 ant b -0.250 {QUOTES}" in said
    )
    assert f"gone.png unknown similarity 0.400 gone.png {'c' * 300} 0.400 bus" in said
    assert f"{EVIL} similarity 0.700 image 3 {QUOTES} \N{CHECK MARK} 0.700 {EVIL}" in said
    assert text.count("<img") == 4  # three queries and one neighbour
    assert text.count('<span class="picture"') == 5
    assert text.count('<li class="same">') == 2 and text.count('<li class="another">') == 3


def test_a_picture_is_its_box(tmp_path):
    """An item that is a part of a picture; others whose boxes are not inside it, or none."""
    Image.fromarray(np.full((40, 60, 3), 255, np.uint8)).save(tmp_path / "white.png")
    half = np.zeros((40, 60, 3), np.uint8)
    half[:, 30:] = [250, 10, 20]
    Image.fromarray(half).save(tmp_path / "half.png")
    path = str(tmp_path / "half.png")
    boxes = [[30, 0, 60, 40], [30, 0, 61, 40], ["x", 0, 1, 2], {"a": 1}]
    found = [Match(f"{i}", "red", 0.5, {"path": path, "box": box}) for i, box in enumerate(boxes)]
    write_panel(tmp_path / "p.html", [tmp_path / "white.png"], [Nearest("red", 0.5)], [found])
    text = (tmp_path / "p.html").read_text()
    (_, shown) = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', text)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown))))
    assert pixels.shape == (160, 120, 3)
    assert np.abs(pixels.astype(int) - [250, 10, 20]).max() < 12  # all of it, but for JPEG
    assert text.count('<span class="picture"') == 3


def read_png(path):
    return (matplotlib.image.imread(path)[..., :3] * 255).round().astype(int)


def test_a_panel_as_png(tmp_path):
    write_panel(tmp_path / "panel.png", queries(), ANSWERS, MATCHES)
    pixels = read_png(tmp_path / "panel.png")
    assert pixels.shape == (4 * (190 + 40), 3 * (190 + 8) + 8, 3)
    # The frame of a known query is ink, of an unknown one red, of its identity's neighbours green.
    for colour in ((0x24, 0x29, 0x2F), (0xCF, 0x22, 0x2E), (0x1A, 0x7F, 0x37)):
        assert (np.abs(pixels - colour).max(-1) < 3).sum() > 300


def test_large_pictures_are_shrunk_by_their_mean():
    pixels = np.random.default_rng(0).integers(0, 256, (960, 640, 3), np.uint8)
    square = pixels[:, :480].reshape(320, 3, 160, 3, 3).mean((1, 3))
    np.testing.assert_allclose(small(pixels[:, :480]), square, atol=0.5 + 1e-3)
    assert small(pixels[:320, :100]).shape == (320, 100, 3)


def test_a_png_of_a_panel_has_an_end(tmp_path):
    for count in (0, 201):
        with pytest.raises(ConfigError) as error:
            write_panel(tmp_path / "p.png", ["x"] * count, ANSWERS[:1] * count, [[]] * count)
        assert str(error.value) == (
            f"queries: expected 1 to 200 for a PNG, got {count}; a page (.html) shows any number"
        )
    write_panel(tmp_path / "p.html", [], [], [])
    assert "0 queries, 0 known, 0 unknown." in Page((tmp_path / "p.html").read_text()).said


def test_letters_that_a_font_lacks_are_no_trouble(tmp_path, recwarn):
    name = "\N{CJK UNIFIED IDEOGRAPH-4E2D}\n$\\frac{1}{"
    found = [Match("a", name, 0.5, {})]
    write_panel(tmp_path / "p.png", ["x"], [by_threshold(0)(found)], [found])
    write_panel(tmp_path / "p.html", ["x"], [by_threshold(0)(found)], [found])
    assert not recwarn.list
    assert name.replace("\n", "\N{REPLACEMENT CHARACTER}") in (tmp_path / "p.html").read_text()
    assert short(name) == name.replace("\n", "\N{REPLACEMENT CHARACTER}")
    assert short("x" * 18) == "x" * 18 and short("x" * 19) == f"{'x' * 17}\N{HORIZONTAL ELLIPSIS}"


def test_what_cannot_be_written_is_said(tmp_path, shelf):
    scene = np.zeros((9, 9, 3), np.uint8)
    one = ([scene], [Nearest(None, 0.1)], [[]])
    for write in (
        lambda path: write_panel(path, *one), lambda path: write_scene(path, scene, []),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="x.jpg: expected a name that ends in .html or .png$"):
            write("x.jpg")
        with pytest.raises(
            RunError, match="no/x.html: cannot be written: No such file or directory$"
        ):
            write(tmp_path / "no" / "x.html")
    with pytest.raises(ConfigError, match="x.png: expected a name that ends in .html$"):
        write_info(shelf, "x.png")
    with pytest.raises(RunError, match="no/x.html: cannot be written: No such file or directory$"):
        write_info(shelf, tmp_path / "no" / "x.html")
    with pytest.raises(ConfigError, match="^answers: expected 1, one a query, got 0$"):
        write_panel(tmp_path / "x.html", [scene], [], [[]])
    with pytest.raises(ConfigError, match="^matches: expected 1, one a query, got 2$"):
        write_panel(tmp_path / "x.html", [scene], one[1], [[], []])
    with pytest.raises(
        RunError, match="^gone.png: expected a picture, got nothing that can be sho"
    ):
        write_scene(tmp_path / "x.html", "gone.png", [])
    assert list(tmp_path.iterdir()) == []


FOUND = [
    Found((100, 20, 200, 60), "ant", 0.9, MATCHES[0]),
    Found((0, 0, 50, 80), EVIL, 0.8, MATCHES[2]),
    Found((10, 50, 30, 60), "ant", 0.7, []),
    Found((150, 50, 200, 80), None, 0.2, MATCHES[1]),
]


def test_a_scene_shows_boxes_where_they_are(tmp_path):
    canvas = np.full((80, 200, 3), 200, np.uint8)
    write_scene(tmp_path / "s.html", canvas, FOUND, threshold=0.5, title=QUOTES)
    text = (tmp_path / "s.html").read_text()
    page = Page(text)
    page.check()
    assert "<script" not in text and "<img src=x" not in text
    said = page.said
    assert (
        "3 known, 1 unknown in 200 x 80 pixels; known from a similarity (cosine) of 0.5 on." in said
    )
    spots = re.findall(
        r'<div class="spot (\w+)" style="([^"]*)" title="([^"]*)"><b>(.*?)</b>', text
    )
    # The first on top, which is the last on the page; ant is the most frequent.
    places = {
        "1 ant": ("m0", "left: 50.000%; top: 25.000%; width: 50.000%; height: 50.000%"),
        "2 &lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;":
            ("m1", "left: 0.000%; top: 0.000%; width: 25.000%; height: 100.000%"),
        "3 ant": ("m0", "left: 5.000%; top: 62.500%; width: 10.000%; height: 12.500%"),
        "4": ("other", "left: 75.000%; top: 62.500%; width: 25.000%; height: 37.500%"),
    }  # fmt: skip
    assert [(name, (kind, place)) for kind, place, _, name in reversed(spots)] == list(
        places.items()
    )
    assert "1 ant similarity 0.900 100 20 200 60 \N{CHECK MARK} 0.912 ant" in said
    assert "4 unknown similarity 0.200 150 50 200 80" in said


def test_a_scene_as_png(tmp_path):
    canvas = np.full((160, 400, 3), 200, np.uint8)
    boxes = [(40, 20, 200, 120), (240, 40, 380, 140)]
    found = [Found(boxes[0], "ant", 0.9, []), Found(boxes[1], None, 0.2, [])]
    Image.fromarray(canvas).save(tmp_path / "scene.png")
    write_scene(tmp_path / "s.png", tmp_path / "scene.png", found)
    pixels = read_png(tmp_path / "s.png")
    scale = 900 / 400
    assert pixels.shape == (360, 900, 3)
    blue, grey = (0x33, 0x22, 0x88), (0x56, 0x61, 0x6D)
    for (left, top, right, bottom), colour in zip(boxes, (blue, grey), strict=True):
        drawn = np.abs(pixels - colour).max(-1) < 40
        y, x = np.nonzero(drawn)
        inside = np.array([left, top, right, bottom]) * scale
        np.testing.assert_allclose([x.min(), y.min(), x.max(), y.max()], inside, atol=3)
        # Frames, not filled: nothing in the lower half of the box.
        middle = drawn[int((top + bottom) / 2 * scale) : int((bottom - 3) * scale),
                       int((left + 3) * scale) : int((right - 3) * scale)]  # fmt: skip
        assert not middle.any()


def test_a_scene_without_anything(tmp_path):
    for name in ("s.html", "s.png"):
        write_scene(tmp_path / name, picture("ant"), [])
    assert (
        "ant/noto.png 0 known, 0 unknown in 64 x 64 pixels."
        in Page((tmp_path / "s.html").read_text()).said
    )
    assert read_png(tmp_path / "s.png").shape == (900, 900, 3)


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_pages_fit_and_are_quiet(browser, shelf, page, tmp_path, width):  # noqa: F811
    (tmp_path / "info.html").write_text(page)
    long = [Match("i" * 300, "n" * 200, 0.5, {"path": picture("bus")})] * 7
    write_panel(
        tmp_path / "panel.html", queries(), [*ANSWERS[:3], Nearest("n" * 200, 0.5)],
        [*MATCHES[:3], long],
    )  # fmt: skip
    canvas = np.full((80, 200, 3), 200, np.uint8)
    write_scene(tmp_path / "scene.html", canvas, [*FOUND, Found((0, 0, 2, 2), "n" * 200, 1, long)])
    for name in ("info", "panel", "scene"):
        for scheme in ("light", "dark"):
            assert look(browser, tmp_path / f"{name}.html", width, scheme) == (0, [], [], []), name
