"""Embedding files and evaluating lists."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import EMOJI_MINI, randomize

import keras_featx
from keras_featx import dump_config, models, reranking
from keras_featx.data.samples import Samples
from keras_featx.doctor.options import of_config as doctor_lists
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError, RunError
from keras_featx.evaluation import measure
from keras_featx.evaluation_data import as_pair, load_eval_samples
from keras_featx.packing import pack_config
from keras_featx.sections import PreprocessSection
from keras_featx.training_data import load_training_data


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    from conftest import tiny_config

    config = tiny_config(tmp_path_factory.mktemp("e"))
    return randomize(models.build_extractor(config.Arch))


def pictures(count):
    return sorted(str(p) for p in (EMOJI_MINI / "test").rglob("*.png"))[:count]


def test_embeddings_do_not_depend_on_the_batch(extractor):
    whole = embed(extractor, pictures(10), batch_size=10)
    np.testing.assert_allclose(embed(extractor, pictures(10), batch_size=3), whole, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)


def test_embeddings_are_those_of_the_model_on_the_decoded_pixels(extractor):
    """Pixels decoded and resized by another library."""
    import matplotlib.image

    path = pictures(1)[0]
    pixels = np.rint(matplotlib.image.imread(path)[..., :3].astype("float64") * 255)
    # From 64 to 32 pixels every output pixel is the mean of the four it covers.
    small = (pixels[0::2, 0::2] + pixels[1::2, 0::2] + pixels[0::2, 1::2] + pixels[1::2, 1::2]) / 4
    expected = extractor(np.round(small)[None])
    found = embed(extractor, [path], PreprocessSection(interpolation="area"))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_evaluate_equals_brute_force(tiny, extractor):
    config = tiny()
    result = keras_featx.evaluate(config, extractor)
    query, gallery = load_eval_samples(config)
    similarity = embed(extractor, query.paths) @ embed(extractor, gallery.paths).T
    hits = precision = 0.0
    for row, label in zip(similarity, query.labels, strict=True):
        order = np.argsort(-row, kind="stable")
        rank = int(np.flatnonzero(gallery.labels[order] == label)[0]) + 1
        hits += rank == 1
        precision += 1 / rank  # each identity has one gallery picture
    assert result["recall@1"] == pytest.approx(hits / 200)
    assert result["map"] == pytest.approx(precision / 200)


def test_an_image_in_query_and_gallery_is_refused_without_ids(tiny, tmp_path):
    query = EMOJI_MINI / "query_list.txt"
    same = f"DataLoader.Eval.Gallery.dataset.cls_label_path={query}"
    with pytest.raises(ConfigError) as error:
        load_eval_samples(tiny(same))
    assert "is also in the gallery" in str(error.value) and "(200 such images)" in str(error.value)
    # With a number unique to each image, the reference's third column, it is excluded instead.
    rows = query.read_text().splitlines()
    unique = tmp_path / "unique.txt"
    unique.write_text("".join(f"{row} {i}\n" for i, row in enumerate(rows)))
    dataset = f"{{name: VeriWild, image_root: {EMOJI_MINI}, cls_label_path: {unique}}}"
    both = [f"DataLoader.Eval.{part}.dataset={dataset}" for part in ("Query", "Gallery")]
    query_samples, gallery_samples = load_eval_samples(tiny(*both))
    assert query_samples.ids.tolist() == gallery_samples.ids.tolist()
    one_sided = [both[0], f"DataLoader.Eval.Gallery.dataset.cls_label_path={query}"]
    with pytest.raises(ConfigError) as error:
        load_eval_samples(tiny(*one_sided))
    assert str(error.value) == (
        "DataLoader.Eval.Gallery: expected ids (a third column) in both lists"
    )


def test_folders_are_matched_by_name(tiny, tmp_path, extractor):
    """The gallery holds one identity less: labels by position would be off by one."""
    import shutil

    names = sorted(p.name for p in (EMOJI_MINI / "test").iterdir())[:4]
    for name in names:
        (tmp_path / "q" / name).mkdir(parents=True)
        shutil.copy(EMOJI_MINI / "test" / name / "twemoji.png", tmp_path / "q" / name)
        if name != names[0]:
            (tmp_path / "g" / name).mkdir(parents=True)
            shutil.copy(EMOJI_MINI / "test" / name / "twemoji.png", tmp_path / "g" / name)
    config = tiny(
        f"DataLoader.Eval.Query.dataset={{name: ClassFolders, image_root: {tmp_path}/q}}",
        f"DataLoader.Eval.Gallery.dataset={{name: ClassFolders, image_root: {tmp_path}/g}}",
    )
    result = keras_featx.evaluate(config, extractor)
    # Byte-identical pictures: each query finds its own identity if labels are matched by name.
    assert result["recall@1"] == 1
    assert (result["queries"], result["queries_without_match"], result["gallery"]) == (3, 1, 3)


def test_an_undecodable_image_is_never_skipped(tiny, tmp_path, extractor):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes((EMOJI_MINI / "test/ant/noto.png").read_bytes()[:100])
    with pytest.raises(RunError) as error:
        embed(extractor, [*pictures(3), str(bad)])
    assert str(error.value).startswith(f"embedding: {bad}: expected a decodable image: ")


def test_broken_weights_are_named(tiny):
    model = models.build_extractor(tiny().Arch)
    model.get_layer("neck").kernel.assign(np.full((32, 16), np.nan))
    with pytest.raises(RunError, match="an embedding that is not finite"):
        embed(model, pictures(2))


def test_missing_parts_are_named(tiny):
    with pytest.raises(ConfigError) as error:
        keras_featx.evaluate(tiny("DataLoader.Eval=null"))
    assert str(error.value) == "DataLoader.Eval: missing; evaluation needs Query and Gallery"
    with pytest.raises(ConfigError) as error:
        keras_featx.evaluate(tiny())
    assert str(error.value) == (
        "Global.pretrained_model: expected the weights to evaluate, got null"
    )


def two_sets(tiny, *overrides):
    """The pair of the tiny config as `forth`, and with its parts exchanged as `back`."""
    only = yaml.safe_load(dump_config(tiny()))["DataLoader"]["Eval"]
    pairs = {
        "forth": {"Query": only["Query"], "Gallery": only["Gallery"]},
        "back": {"Query": only["Gallery"], "Gallery": only["Query"]},
    }
    return tiny(f"DataLoader.Eval={json.dumps({'Sets': pairs})}", *overrides)


def test_every_named_set_is_measured(tiny, extractor):
    config = two_sets(tiny)
    results = keras_featx.evaluate_sets(config, extractor)
    assert list(results) == ["forth", "back"]
    query, gallery = load_eval_samples(tiny())
    assert results["forth"] == keras_featx.evaluate(tiny(), extractor, query, gallery)
    assert results["back"] == keras_featx.evaluate(tiny(), extractor, gallery, query)
    assert results["forth"]["gallery"] != results["back"]["gallery"]
    chosen = two_sets(tiny, "DataLoader.Eval.use=back")
    assert keras_featx.evaluate(chosen, extractor) == results["back"]
    with pytest.raises(ConfigError) as error:
        keras_featx.evaluate(config, extractor)
    assert str(error.value) == (
        "DataLoader.Eval.Sets: expected one pair here, got ['forth', 'back']; choose one with "
        "DataLoader.Eval.use"
    )


def test_commands_of_one_pair_ask_which(tiny, tmp_path):
    config = two_sets(tiny)
    for command in (doctor_lists, lambda config: pack_config(config, tmp_path / "packed")):
        with pytest.raises(ConfigError, match=r"^DataLoader.Eval.Sets: expected one pair here"):
            command(config)
    one = two_sets(tiny, "DataLoader.Eval.use=back")
    assert doctor_lists(one)["query"].args["cls_label_path"].endswith("gallery_list.txt")


def test_errors_name_the_set(tiny, extractor, tmp_path):
    (tmp_path / "none.txt").write_text("emoji/none.png 0\n")
    key = "DataLoader.Eval.Sets.back.Query.dataset"
    missing = two_sets(tiny, f"{key}.cls_label_path={tmp_path / 'other.txt'}")
    with pytest.raises(ConfigError, match=rf"^{key}: .*other.txt: No such file"):
        keras_featx.evaluate_sets(missing, extractor)
    (tmp_path / "q.txt").write_text(
        (EMOJI_MINI / "query_list.txt").read_text().splitlines()[0].split()[0] + " 999\n"
    )
    alone = two_sets(
        tiny, f"DataLoader.Eval.Sets.forth.Query.dataset.cls_label_path={tmp_path}/q.txt"
    )
    with pytest.raises(ConfigError) as error:
        keras_featx.evaluate_sets(alone, extractor)
    assert str(error.value).startswith(
        "DataLoader.Eval.Sets.forth: none of the 1 queries has an image of its identity"
    )


def test_a_figure_to_monitor_must_be_one_that_is_measured(tiny):
    with pytest.raises(ConfigError) as error:
        keras_featx.train(two_sets(tiny, "Metric.monitor=recall@1"))
    assert str(error.value) == (
        "Metric.monitor: expected one of ['forth/recall@1', 'forth/recall@5', 'forth/map', "
        "'back/recall@1', 'back/recall@5', 'back/map'], got 'recall@1'"
    )
    assert not Path(tiny().Global.output_dir).exists()


def test_the_monitored_figure_chooses_the_best_model(tiny):
    config = two_sets(tiny, "Metric.monitor=back/map", "epochs=3")
    result = keras_featx.train(config)
    run = Path(config.Global.output_dir)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    watched = [float(row["back/map"]) for row in rows]
    assert {"forth/recall@1", "back/recall@5", "forth/queries"} <= set(rows[0])
    assert result["best"] == pytest.approx(max(watched))
    best = tiny(f"Global.pretrained_model={run / 'best_model'}")
    query, gallery = load_eval_samples(tiny())
    again = keras_featx.evaluate(best, models.build_model(best), gallery, query)
    assert again["map"] == pytest.approx(max(watched), abs=1e-6)


def test_rankings_are_improved_in_their_order(tiny, extractor):
    steps = "[{name: Whitening, size: 8}, {name: DatabaseAugmentation, k: 1}, "
    steps += "{name: QueryExpansion, k: 2, alpha: 1.0}, {name: KReciprocal, k1: 5, k2: 2}]"
    config = tiny(f"Metric.Ranking={steps}", "Metric.Eval=[Recallk, MRR]")
    query, gallery = load_eval_samples(config)
    vectors = [embed(extractor, part) for part in (query, gallery)]
    fitted = reranking.fit_pca(vectors[1], size=8)
    vectors = [reranking.whitened(part, *fitted) for part in vectors]
    vectors[1] = reranking.database_augmentation(vectors[1], k=1)
    vectors[0] = reranking.query_expansion(*vectors, k=2, alpha=1.0)
    distance = reranking.k_reciprocal(*vectors, k1=5, k2=2)(slice(None))
    order = np.argsort(distance, axis=1, kind="stable")
    ranks = 1 + (gallery.labels[order] == query.labels[:, None]).argmax(1)  # one image each
    ours = keras_featx.evaluate(config, extractor)
    np.testing.assert_allclose(ours.per_query["mrr"], 1 / ranks)
    assert ours["recall@1"] == pytest.approx((ranks == 1).mean())
    assert (
        ranks != 1 / keras_featx.evaluate(tiny("Metric.Eval=[MRR]"), extractor).per_query["mrr"]
    ).any()


def test_identities_are_called_as_their_folders_are(tiny, extractor, tmp_path):
    """The gallery has one more, so numbers of the two lists differ."""
    for part, names in (("query", ["cat", "dog"]), ("gallery", ["bee", "cat", "dog"])):
        for i, name in enumerate(names):
            (tmp_path / part / name).mkdir(parents=True)
            shutil.copy(pictures(9)[i + 3 * (part == "query")], tmp_path / part / name / "a.png")
    data = [f"{{name: ClassFolders, image_root: {tmp_path / p}}}" for p in ("query", "gallery")]
    config = tiny(
        f"DataLoader.Eval.Query.dataset={data[0]}", f"DataLoader.Eval.Gallery.dataset={data[1]}"
    )
    result = keras_featx.evaluate(config, extractor)
    assert list(result.by_class()) == ["cat", "dog"]
    assert result.labels.tolist() == ["cat", "dog"]


def test_pairs_are_judged_where_the_config_asks_for_it(tiny, extractor):
    ours = keras_featx.evaluate(tiny("Metric.Eval=[ROCAUC, {name: TARFAR, far: [0.1]}]"), extractor)
    assert list(ours) == [
        "roc_auc", "tar@far=0.1", "queries", "queries_without_match", "gallery",
        "threshold@far=0.1",
    ]  # fmt: skip
    assert 0.3 < ours["roc_auc"] < 1 and -1 < ours["threshold@far=0.1"] < 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "Metric.Ranking=[{name: KReciprocal}, {name: Whitening}]",
            "Metric.Ranking.0: expected KReciprocal last, got it at 0 of 2",
        ),
        (
            "Metric.Ranking=[{name: QueryExpansion, neighbours: 3}]",
            "Metric.Ranking.0.neighbours: unknown argument of QueryExpansion",
        ),
        (
            "Metric.Ranking=[{name: QueryExpansion, k: 0}]",
            "Metric.Ranking.0.k: expected at least 1, got 0",
        ),
        (
            "Metric.Ranking=[Whitening, {name: KReciprocal, k1: 2, k2: 9}]",
            "Metric.Ranking.1.k2: expected in 1..3, k1 + 1, got 9",
        ),
    ],
)
def test_impossible_rankings_are_refused(tiny, extractor, override, message):
    with pytest.raises(ConfigError) as error:
        keras_featx.evaluate(tiny(override), extractor)
    assert str(error.value) == message


# Groups

# 40 identities in 6 groups; a query has one right picture among the 7 (or, in the last, 5) of its.
GROUPED = [f"DataLoader.Eval.{part}.dataset.labels_per_group=7" for part in ("Query", "Gallery")]


def test_a_query_is_ranked_and_paired_within_its_group(tiny, extractor):
    """A loop over queries, with groups from the labels themselves."""
    config = tiny(*GROUPED, "Metric.Eval=[Recallk, mAP, ROCAUC]")
    query, gallery = load_eval_samples(config)
    vectors = [embed(extractor, part.paths).astype("float64") for part in (query, gallery)]
    ranks, genuine, impostor = [], [], []
    for vector, label in zip(vectors[0], query.labels.tolist(), strict=True):
        there = [i for i, other in enumerate(gallery.labels) if other // 7 == label // 7]
        similar = (vectors[1][there] @ vector).astype("float32")
        right = gallery.labels[there] == label
        ranks.append(1 + int((similar > similar[right]).sum()))
        genuine += similar[right].tolist()
        impostor += similar[~right].tolist()
    ranks = np.array(ranks)
    genuine, impostor = np.array(genuine), np.array(impostor)
    assert len(impostor) == sum(6 if label < 35 else 4 for label in query.labels)
    higher = (genuine[:, None] > impostor).mean()
    ours = keras_featx.evaluate(config, extractor)
    assert ours["recall@1"] == pytest.approx((ranks == 1).mean())
    assert ours["recall@5"] == pytest.approx((ranks <= 5).mean())
    assert ours["map"] == pytest.approx((1 / ranks).mean())
    assert ours["roc_auc"] == pytest.approx(higher, abs=1e-4)  # steps of 2**-16
    whole = keras_featx.evaluate(tiny("Metric.Eval=[Recallk, mAP, ROCAUC]"), extractor)
    assert whole["recall@1"] < ours["recall@1"] and abs(whole["roc_auc"] - higher) > 1e-3


@pytest.mark.parametrize(
    "steps",
    [
        "[{name: QueryExpansion, k: 2, alpha: 1.0}]",
        "[{name: DatabaseAugmentation, k: 3}]",
        "[{name: DatabaseAugmentation, k: 1}, {name: QueryExpansion, k: 9}, "
        "{name: KReciprocal, k1: 5, k2: 2}]",
    ],
)
def test_improved_rankings_are_those_of_each_group_alone(tiny, extractor, steps):
    """Nothing of another group may change a ranking."""
    config = tiny(*GROUPED, f"Metric.Ranking={steps}", "Metric.Eval=[MRR]")
    query, gallery = load_eval_samples(config)
    ours = keras_featx.evaluate(config, extractor, query, gallery)
    expected = np.full(len(query), np.nan)
    for group in range(6):
        rows = [np.flatnonzero(part.labels // 7 == group) for part in (query, gallery)]
        alone = [
            dataclasses.replace(part.take(own), groups=None)
            for part, own in zip((query, gallery), rows, strict=True)
        ]
        expected[rows[0]] = keras_featx.evaluate(config, extractor, *alone).per_query["mrr"]
    np.testing.assert_allclose(ours.per_query["mrr"], expected)
    # Steps that see the whole gallery, before rankings within groups, would tell another story.
    vectors = [embed(extractor, part) for part in (query, gallery)]
    plain = components_without_groups(config.Metric.Ranking, *vectors)
    leaked = measure(
        dataclasses.replace(config.Metric, Ranking=()), query, gallery, *plain
    ).per_query["mrr"]
    assert (leaked != expected).any()


def components_without_groups(steps, query, gallery):
    for step in steps:
        if step.name == "DatabaseAugmentation":
            gallery = reranking.database_augmentation(gallery, **step.args)
        elif step.name == "QueryExpansion":
            query = reranking.query_expansion(query, gallery, **step.args)
    return query, gallery


def test_a_group_without_a_gallery_or_of_one_image_is_counted(tiny, extractor):
    """Also where queries and gallery learn from their neighbours."""
    query, gallery = load_eval_samples(tiny())
    parts = []
    for part in (query, gallery):
        part = part.take(np.flatnonzero(part.labels < 4))
        names = np.array(["a", "a", "b", "c" if part.source == query.source else "d"])
        parts.append(dataclasses.replace(part, groups=names[part.labels]))
    steps = "[{name: DatabaseAugmentation, k: 2}, {name: QueryExpansion, k: 2}]"
    for ranking in ("[]", steps):
        found = keras_featx.evaluate(tiny(f"Metric.Ranking={ranking}"), extractor, *parts)
        lost = int((parts[0].labels == 3).sum())
        assert found.left_out == {"nothing in the gallery's part of the group": lost}
        assert found["queries"] == len(parts[0]) - lost > 0
    apart = dataclasses.replace(parts[1], groups=np.array(["x"] * 4))
    with pytest.raises(ConfigError) as error:
        keras_featx.evaluate(tiny(), extractor, parts[0], apart)
    assert str(error.value) == (
        f"none of the {len(parts[0])} queries has an image of its identity in the gallery "
        "(4 images): expected query and gallery to share labels within groups"
    )
    numbers = dataclasses.replace(parts[1], groups=np.arange(4))
    for ranking in ("[]", steps):
        with pytest.raises(ConfigError, match="^groups: expected of one kind, got <U1 of the que"):
            keras_featx.evaluate(tiny(f"Metric.Ranking={ranking}"), extractor, parts[0], numbers)


def test_groups_of_one_list_alone_are_refused(tiny):
    with pytest.raises(ConfigError) as error:
        load_eval_samples(tiny(GROUPED[0]))
    assert str(error.value) == "DataLoader.Eval.Gallery: expected groups in both lists"
    with pytest.raises(ConfigError) as error:
        load_eval_samples(tiny(GROUPED[1]))
    assert str(error.value) == "DataLoader.Eval.Query: expected groups in both lists"


def test_an_image_finds_itself_in_its_own_group_only():
    def listed(name, groups):
        labels = np.arange(2)
        return Samples(name, ["a.png", "b.png"], labels, [1, 2], groups=np.array(groups))

    query = listed("query.txt", [0, 1])
    assert as_pair(query, listed("gallery.txt", [1, 0]))[0] is query
    with pytest.raises(ConfigError, match=r"^query.txt: b.png is also in .* \(1 such images\)"):
        as_pair(query, listed("gallery.txt", [1, 1]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "Metric.paddle=true",
            "Metric.paddle: expected false, as the lists have groups and PaddleClas has none, got "
            "true",
        ),
        (
            "Metric.Ranking=[QueryExpansion, {name: Whitening, size: 4}]",
            "Metric.Ranking.1: expected steps that keep to a query's group, as the lists have "
            "groups, got Whitening, which is fitted to the whole gallery",
        ),
    ],
)
def test_what_looks_beyond_groups_is_refused_before_anything_is_embedded(
    tiny, extractor, override, message
):
    config = tiny(*GROUPED, override)
    query, gallery = load_eval_samples(config)  # the lists themselves are good: they may be packed
    vectors = [np.eye(len(part), dtype="float32") for part in (query, gallery)]
    for call in (
        lambda: keras_featx.evaluate(config),  # there is no model either
        lambda: load_training_data(config),
        lambda: measure(config.Metric, query, gallery, *vectors),
        lambda: keras_featx.RetrievalCallback(
            extractor, {"a": (query, gallery)}, metrics=config.Metric
        ),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert str(error.value) == message
