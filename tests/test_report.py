"""The report of a run: what it says, of whom, and that names are never more than text."""

import logging
import re
import shutil

import numpy as np
import pytest
from conftest import EMOJI_MINI
from pages import Page, charts

from keras_featx.config import from_dict
from keras_featx.data.folders import class_folders
from keras_featx.data.memory import from_arrays
from keras_featx.data.samples import turned_identities
from keras_featx.evaluation import Evaluation, measure
from keras_featx.report import run_page
from keras_featx.report.run_facts import seen_in_training
from keras_featx.report.run_page import write_report
from keras_featx.report.views import make_view
from keras_featx.training import train

EVIL = "<script>alert('1')<script>"
QUOTES = "\"><img src=x onerror=alert(1)> it's & <b>"
NAMES = [EVIL, QUOTES, "cat", "dog", "hen", "owl"]
EVERYTHING = {"Metric": {"Eval": ["Recallk", "mAP", "MRR", "ROCAUC", "TARFAR"]}}


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def evaluation(config, query, gallery, seed=0, noise=1.0):
    """Embeddings that know the identity, and noise."""
    rng = np.random.default_rng(seed)
    middle = {name: row for name, row in zip(NAMES, unit(rng.normal(size=(6, 16))), strict=True)}
    vectors = [
        unit(
            np.stack([middle[samples.names[label]] for label in samples.labels])
            + noise * unit(rng.normal(size=(len(samples), 16)))
        )
        for samples in (query, gallery)
    ]
    return Evaluation(measure(config.Metric, query, gallery, *vectors), query, gallery, *vectors)


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Six identities, of 2 to 7 queries, two of a dangerous name; files are called with quotes."""
    root = tmp_path_factory.mktemp("report")
    files = sorted((EMOJI_MINI / "test").rglob("*.png"))
    for i, name in enumerate(NAMES):
        for part, count in (("query", 2 + i), ("gallery", 3)):
            (root / part / name).mkdir(parents=True)
            for j in range(count):
                to = root / part / name / f'it\'s "{j}" <u>&amp;.png'
                shutil.copy(files[6 * i + j], to)
    return [class_folders(image_root=str(root / part)) for part in ("query", "gallery")]


def written(folder, **arguments):
    path = folder / "report.html"
    write_report(path, **arguments)
    return path.read_text()


@pytest.fixture(scope="module")
def page(lists, tmp_path_factory):
    config = from_dict(EVERYTHING | {"Global": {"output_dir": f"output/{EVIL}"}})
    found = evaluation(config, *lists, noise=1.5)
    text = written(tmp_path_factory.mktemp("page"), config=config, sets={"": found})
    return text, found, config


def test_the_page_is_whole_and_needs_nothing(page):
    Page(page[0]).check()
    assert "default-src 'none'" in page[0]


def test_names_are_text_and_stand_there(page):
    text = page[0]
    assert "<script" not in text and "<img src=x" not in text and "<u>" not in text
    read = Page(text)
    assert EVIL in read.said and QUOTES in read.said
    assert f'{EVIL}/it\'s "0" <u>&amp;.png' in read.said


def test_figures_are_those_of_the_result(page):
    text, found, _ = page
    said = Page(text).said
    result = found.result
    assert 0 < result["recall@1"] < 1
    averaged = result.class_averaged()
    for name in ("recall@1", "recall@5", "map", "mrr", "roc_auc", "tar@far=0.01"):
        low, high = result.intervals[name]
        values = [result[name], averaged[name]]
        mean, of_identities = ["100 %" if v == 1 else f"{100 * v:.1f} %" for v in values]
        low, high = ["100" if v == 1 else f"{100 * v:.1f}" for v in (low, high)]
        assert f"{mean} {low} to {high} % {of_identities}" in said, name
    assert "27 queries of 6 identities, 18 gallery images" in said
    assert f"threshold@far=0.01 {result['threshold@far=0.01']:.4f}" in said


def test_pictures_and_counts_of_panels_are_those_of_the_rankings(page):
    text, found, config = page
    similar = found.query_embeddings @ found.gallery_embeddings.T
    names = [np.array(s.names)[s.labels] for s in (found.query, found.gallery)]
    first = similar.argmax(1)
    right = names[1][first] == names[0]
    said = Page(text).said
    assert f"Of {right.sum()} queries whose nearest image is of their identity" in said
    assert f"Of {(~right).sum()} queries whose nearest image is of another identity" in said
    # The surest of all stands first, with the similarities of its five nearest.
    for wanted, section in ((right, "right-and-sure"), (~right, "wrong-and-sure")):
        row = np.where(wanted, similar.max(1), -9).argmax()
        (block,) = re.findall(rf'<section id="{section}">.*?</section>', text, re.DOTALL)
        marks = re.findall(r'aria-label="(\w+)">.</i> (-?[\d.]+)', block)[:5]
        order = np.argsort(-similar[row])[:5]
        assert [float(value) for _, value in marks] == pytest.approx(similar[row][order], abs=6e-4)
        own = names[0][row]
        assert [m for m, _ in marks] == [
            "right" if name == own else "wrong" for name in names[1][order]
        ]


def test_excluded_images_are_in_no_panel():
    """Query and gallery are one set: each image would find itself, were its id not known."""
    images = np.stack([np.full((40, 40, 3), 20 * i, np.uint8) for i in range(12)])
    names = np.repeat(NAMES[2:], 3)
    samples = from_arrays(images, names, ids=list(range(12)))
    config = from_dict({})
    view = make_view(config.Metric, evaluation(config, samples, samples))
    assert (view.rows != np.arange(12)[:, None]).all() and view.similarities.max() < 0.999
    assert view.found.result["recall@1"] == pytest.approx(view.right.mean())


def test_the_first_right_image_is_shown_where_none_of_the_five_is(tmp_path):
    """A query of the identity that comes seventh."""
    images = np.zeros((8, 40, 40, 3), np.uint8)
    query = from_arrays(images[:1], ["cat"])
    gallery = from_arrays(images[1:], ["dog"] * 3 + ["owl"] * 3 + ["cat"])
    angles = np.arange(8) / 8
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype("float32")
    config = from_dict({})
    parts = query, gallery, vectors[:1], vectors[1:]
    found = Evaluation(measure(config.Metric, *parts), *parts)
    said = Page(written(tmp_path, config=config, sets={"": found})).said
    assert f"{np.cos(7 / 8):.3f} rank 7" in said
    assert "cat taken for dog 1 of 1 query, 100 %" in said
    assert "no interval: one identity" in said


def test_a_picture_that_cannot_be_read_is_said_to_be(lists, tmp_path):
    root = shutil.copytree(lists[0].source, tmp_path / "query", dirs_exist_ok=True)
    query = class_folders(image_root=str(root))
    config = from_dict({})
    found = evaluation(config, query, lists[1])
    for path in query.paths:
        with open(path, "wb"):
            pass
    text = written(tmp_path, config=config, sets={"": found})
    assert "cannot be read: the file is empty" in text
    Page(text).check()


HISTORY = [
    {"epoch": e, "step": 3 * e, "lr": 0.1 / e, "loss": 4 - e / 2, "CELoss": 3.0,
     "CenterLoss": 1 / e, "accuracy": e / 10, "images_per_second": 90.0 + e}
    for e in range(1, 6)
]  # fmt: skip


def test_learning_curves_are_those_of_the_history(lists, tmp_path):
    config = from_dict({"DataLoader": {"Train": {"dataset": {"name": "Given"}}}})
    found = evaluation(config, *lists)
    history = [dict(row) for row in HISTORY]
    for epoch in (2, 5):
        history[epoch - 1] |= {key: epoch / 8 for key in found.result.per_query}
    text = written(tmp_path, config=config, sets={"": found}, history=history, train=lists[0])
    drawn = charts(text)
    epochs = np.arange(1, 6)
    for title, style, expected in (
        ("training loss", 0, 4 - epochs / 2),
        ("training loss", 1, np.full(5, 3.0)),
        ("training loss", 2, 1 / epochs),
        ("training accuracy without margin, %", 0, 10 * epochs),
        ("learning rate", 0, 0.1 / epochs),
        ("training images a second", 0, 90.0 + epochs),
    ):
        x, y = drawn[title].line(style)
        np.testing.assert_allclose(x, epochs, atol=0.02)
        np.testing.assert_allclose(y, expected, rtol=0.01)
    x, y = drawn["evaluation, %"].line(0)
    np.testing.assert_allclose(x, [2, 5], atol=0.02)
    np.testing.assert_allclose(y, [25, 62.5], atol=0.2)
    said = Page(text).said
    assert "Shown is epoch 5, the last." in said and "93 images a second" in said


def test_an_earlier_epoch_that_was_better_is_named(lists, tmp_path):
    config = from_dict({"DataLoader": {"Train": {"dataset": {"name": "Given"}}}})
    found = evaluation(config, *lists, noise=2.0)
    history = [dict(row) for row in HISTORY]
    history[1]["recall@1"] = 0.987
    history[4]["recall@1"] = found.result["recall@1"]
    said = Page(written(tmp_path, config=config, sets={"": found}, history=history)).said
    assert (
        "Shown is epoch 5, the last. Epoch 2 had Recall@1 98.7 % and is kept in best_model; as "
        "these queries chose it, that figure flatters."
    ) in said


def test_the_epoch_that_is_kept_is_that_of_the_monitored_figure(lists, tmp_path):
    tree = {
        "DataLoader": {"Train": {"dataset": {"name": "Given"}}},
        "Metric": {"monitor": "second/map"},
    }
    config = from_dict(tree)
    sets = {name: evaluation(config, *lists, noise=2.0) for name in ("first", "second")}
    history = [dict(row) for row in HISTORY]
    history[1] |= {"first/recall@1": 0.99, "second/map": 0.01}
    history[2] |= {"first/recall@1": 0.01, "second/map": 0.987}
    said = Page(written(tmp_path, config=config, sets=sets, history=history)).said
    assert "Epoch 3 had mAP of second 98.7 % and is kept in best_model" in said


def test_several_sets_have_a_part_each(lists, tmp_path):
    config = from_dict({"DataLoader": {"Train": {"dataset": {"name": "Given"}}}})
    easy, hard = (evaluation(config, *lists, noise=noise) for noise in (0.1, 3.0))
    history = [{**HISTORY[0], f"{EVIL}/recall@1": 0.5, "hard/recall@1": 0.25}]
    text = written(tmp_path, config=config, sets={EVIL: easy, "hard": hard}, history=history)
    page = Page(text)
    page.check()
    assert text.count('class="big"') == 2 and "100 %" in page.said
    assert f"{100 * hard.result['recall@1']:.1f} %" in page.said
    assert len(re.findall(r'<h2 class="set"', text)) == 2
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'href="#([^"]*)"', text)
    assert set(targets) <= set(ids) and "hard" in targets
    drawn = charts(text)
    assert drawn["evaluation, hard, %"].line(0)[1] == pytest.approx([25], abs=0.3)


def named(names):
    images = np.zeros((len(names), 40, 40, 3), np.uint8)
    return from_arrays(images, names)


@pytest.mark.parametrize(
    ("trained", "unseen", "expected"),
    [
        (None, False, "Which identities the network was trained on is not known here."),
        (["cow", "pig"], True, "None of the identities is in the training list."),
        (["cow", "cat"], False, "1 of the 2 identities is in the training list, too."),
        (["dog", "cat"], False, "2 of the 2 identities are in the training list, too."),
        ([0, 1], False,
         "Whether the network was trained on these identities cannot be seen from the lists: "
         "labels are numbers, which each list may count anew. No query image is in the training "
         "list."),
    ],
)  # fmt: skip
def test_what_is_known_of_identities_in_training(trained, unseen, expected):
    query = named(["cat", "dog"])
    found = Evaluation(None, query, query, None, None)
    samples = None if trained is None else named(trained)
    assert seen_in_training(samples, found) == (unseen, expected)


def test_turned_identities_are_known_by_their_names():
    query = named(["cat", "dog"])
    found = Evaluation(None, query, query, None, None)
    turned = turned_identities(named(["cat", "cow"]))
    assert seen_in_training(turned, found)[1].startswith("1 of the 2 identities is")


def test_the_headline_claims_unseen_identities_only_where_they_are(lists, tmp_path):
    config = from_dict({"DataLoader": {"Train": {"dataset": {"name": "Given"}}}})
    tuned = from_dict(
        {
            "DataLoader": {"Train": {"dataset": {"name": "Given"}}},
            "Global": {"pretrained_model": "w"},
        }
    )
    found = evaluation(config, *lists)
    claim = "6 identities never seen in training"
    for settings, names, claimed in (
        (config, ["cow"], True), (config, ["cow", "cat"], False), (tuned, ["cow"], False),
    ):  # fmt: skip
        arguments = {"config": settings, "history": HISTORY, "train": named(names)}
        said = Page(written(tmp_path, sets={"": found}, **arguments)).said
        assert (claim in said) == claimed
        assert ("What w, with which training began, had seen is not known here." in said) == (
            settings is tuned
        )


def test_training_leaves_a_report(tiny, tmp_path):
    train(tiny("epochs=2", "eval_interval=2", "report=true"))
    text = (tmp_path / "run" / "report.html").read_text()
    page = Page(text)
    page.check()
    assert "Shown is epoch 2, the last." in page.said
    assert "200 queries of 40 identities" in page.said and "48 images of 8 identities" in page.said
    assert "weights of the extractor" in page.said and "The whole config" in page.said
    x, y = charts(text)["training loss"].line(0)
    np.testing.assert_allclose(x, [1, 2], atol=0.02)


def test_a_report_that_fails_is_logged_and_loses_nothing(tiny, tmp_path, monkeypatch, caplog):
    def fails(*_, **__):
        raise OSError("no room")

    monkeypatch.setattr(run_page, "write_report", fails)
    with caplog.at_level(logging.ERROR, "keras_featx"):
        row = train(tiny("epochs=1", "report=true"))
    run = tmp_path / "run"
    assert row["epoch"] == 1 and (run / "latest").is_dir() and (run / "metrics.csv").is_file()
    expected = f"{run / 'report.html'} could not be written; all else of the run is: no room"
    assert expected in caplog.text and expected in (run / "train.log").read_text()


def test_without_evaluation_or_wish_there_is_no_report(tiny, tmp_path, trained):
    assert not (trained / "report.html").exists()
    train(tiny("epochs=1", "report=false"))
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("ranking", ["QueryExpansion", "KReciprocal"])
def test_improved_rankings_are_those_shown(lists, ranking, tmp_path):
    steps = {"QueryExpansion": {"k": 2}, "KReciprocal": {"k1": 4, "k2": 2}}
    step = {"name": ranking, **steps[ranking]}
    config = from_dict({"Metric": {"Ranking": [step]}})
    found = evaluation(config, *lists, noise=1.5)
    view = make_view(config.Metric, found)
    assert view.right.mean() == pytest.approx(found.result["recall@1"])
    np.testing.assert_array_equal(view.right, view.taken_for == view.ranked.query.labels)
    said = Page(written(tmp_path, config=config, sets={"": found})).said
    by_distance = "They are ranked by the distances of Metric.Ranking; the numbers are cosines."
    assert (by_distance in said) == (ranking == "KReciprocal")
