"""Shorter and coarser embeddings against float64 NumPy, scikit-learn and FAISS."""

import json

import numpy as np
import pytest
from conftest import randomize, tiny_config
from sklearn.decomposition import PCA

from keras_featx import cli, compact, evaluation, models
from keras_featx.data.samples import load_samples
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError
from keras_featx.evaluation_vectors import vectors_of
from keras_featx.labelled import Labelled
from keras_featx.matching import find_matches
from keras_featx.search import nearest


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def sets(size=24, queries=90, entries=200, classes=12, seed=0):
    """Query and gallery of noisy classes, and other points to fit to, float64 unit vectors."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(3, 0.3, size)
    centres = rng.normal(size=(classes, size)) * spread

    def some(count):
        labels = rng.integers(0, classes, count)
        noise = 1.2 * rng.normal(size=(count, size)) * spread
        return unit(centres[labels] + noise + 0.3), labels

    return some(queries), some(entries), some(300)[0]


def recall_and_map(values, query, gallery):
    """From similarities (queries, entries), ties by row; every query has a match here."""
    order = np.argsort(-values, axis=1, kind="stable")
    right = gallery[order] == query[:, None]
    precision = np.cumsum(right, 1) / np.arange(1, right.shape[1] + 1)
    average = (precision * right).sum(1) / right.sum(1)
    return right[:, 0].mean(), average.mean()


def labelled(*parts):
    return [Labelled(v.astype("float32"), labels) for v, labels in parts]


def test_signs_and_rounded_numbers_are_those_of_the_reference():
    values = np.random.default_rng(0).uniform(0, 1, (50, 24))
    values[0, :3] = 0.5, 0, 1
    expected = np.round(values) * 2 - 1
    np.testing.assert_array_equal(compact.binarized(values, "round"), expected)
    values -= 0.5
    np.testing.assert_array_equal(compact.binarized(values, "sign"), np.sign(values))
    assert compact.binarized(values, "sign")[0, 0] == 0


@pytest.mark.parametrize("size", [8, 21])
@pytest.mark.parametrize("length", [np.int8(1), np.float32(0.3)])
def test_ranks_of_signs_are_those_of_hamming_distances(size, length):
    query, gallery, _ = sets(size)
    parts = labelled(query, gallery)
    signs = [compact.binarized(p.embeddings, "sign") * length for p in parts]
    found = find_matches(*(Labelled(s, p.labels) for s, p in zip(signs, parts, strict=True)))
    apart = (signs[0][:, None] != signs[1]).sum(-1)
    order = np.argsort(apart, axis=1, kind="stable")  # many are at one distance: by row
    for i in range(len(apart)):
        ranks = 1 + np.flatnonzero(gallery[1][order[i]] == query[1][i])
        part = slice(found.starts[i], found.starts[i + 1])
        np.testing.assert_array_equal(found.ranks[part], ranks)
        values = (size - 2 * apart[i][found.rows[part]]) * float(length) ** 2
        np.testing.assert_allclose(found.similarities[part], values, rtol=1e-6)


def test_packed_bits_are_those_that_faiss_searches():
    faiss = pytest.importorskip("faiss")
    (query, _), (gallery, _), _ = sets(24)
    bits = [compact.packed(vectors) for vectors in (query, gallery)]
    assert bits[0].shape == (90, 3)
    index = faiss.IndexBinaryFlat(24)
    index.add(bits[1])
    expected, _ = index.search(bits[0], 5)
    found, _ = nearest(*bits, 5, "hamming")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        expected[:, 0], (np.sign(query)[:, None] != np.sign(gallery)).sum(-1).min(1)
    )


@pytest.mark.parametrize("rerank", [False, True])
def test_the_table_has_the_figures_of_numpy_and_scikit_learn(rerank):
    (query, own), (gallery, theirs), other = sets()
    table = compact.compact_table(
        *labelled((query, own), (gallery, theirs)), [24, 10], fitted_to=other, rerank=rerank
    )
    assert len(table) == 12 * (1 + rerank)
    pca = PCA(10).fit(other)
    shortened = {
        (24, None): (query, gallery),
        (10, "prefix"): (unit(query[:, :10]), unit(gallery[:, :10])),
        (10, "pca"): tuple(unit(pca.transform(x)) for x in (query, gallery)),
    }
    stored = {
        "float32": lambda a, b: a @ b.T,
        "float16": lambda a, b: a @ unit(b.astype("float16").astype("float64")).T,
        "int8": lambda a, b: a @ unit(np.rint(b / np.abs(b).max(1)[:, None] * 127)).T,
        "sign": lambda a, b: -(np.sign(a)[:, None] != np.sign(b)).sum(-1),
    }
    sizes = {"float32": 4, "float16": 2, "int8": 1, "sign": 1 / 8}
    seen = set()
    for row in table:
        key, name = (row["size"], row["shortened"]), row["precision"]
        assert row["bytes"] == np.ceil(row["size"] * sizes[name])
        if row["ranking"] != "plain":
            continue
        recall, average = recall_and_map(stored[name](*shortened[key]), own, theirs)
        assert row["recall@1"] == pytest.approx(recall, abs=1e-9), (key, name)
        assert row["map"] == pytest.approx(average, abs=1e-6), (key, name)
        assert row["low"] <= row["recall@1"] <= row["high"] and row["queries"] == 90
        seen.add((key, name, round(average, 4)))
    assert len(seen) == 12 and len({average for *_, average in seen}) > 6
    if rerank:
        again = {row["ranking"]: row["map"] for row in table[:2]}
        assert again["k-reciprocal"] > again["plain"]


def test_queries_are_not_what_pca_is_fitted_to():
    (query, own), (gallery, theirs), other = sets()
    turned = query[::-1].copy()

    def means(values):
        parts = labelled((values, own), (gallery, theirs))
        vectors = compact.compact_table(*parts, [10], precisions=["float32"], fitted_to=other)
        return vectors[1]["map"]

    pca = PCA(10).fit(other)
    similar = unit(pca.transform(turned)) @ unit(pca.transform(gallery)).T
    assert means(turned) == pytest.approx(recall_and_map(similar, own, theirs)[1], abs=1e-6)


def write(path, vectors, labels, **more):
    np.savez(path, features=vectors.astype("float32"), identities=labels.astype(str), **more)
    return str(path)


def test_the_command_answers_of_files(tmp_path, capsys):
    query, gallery, other = sets()
    files = [
        "--query", write(tmp_path / "q.npz", *query),
        "--gallery", write(tmp_path / "g.npz", *gallery),
        "--train", write(tmp_path / "t.npz", other, np.zeros(300)),
    ]  # fmt: skip
    assert cli.main(["compress", *files, "--sizes", "24,10", "--precisions", "float32,sign"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    table = compact.compact_table(
        *labelled(query, gallery), [24, 10], precisions=["float32", "sign"], fitted_to=other
    )
    wanted = [{k: v for k, v in row.items() if k != "queries"} for row in table]
    assert [row["recall@1"] for row in result["rows"]] == [row["recall@1"] for row in wanted]
    assert [row["bytes"] for row in result["rows"]] == [96, 3, 40, 2, 40, 2]
    about = {key: result[key] for key in ("embedding_size", "queries", "gallery", "fitted_to")}
    assert about == {"embedding_size": 24, "queries": 90, "gallery": 200, "fitted_to": "train"}
    assert "90 queries, 200 gallery images; PCA of 300 images (train)" in err
    # Of `predict`: the folder of each path.
    paths = np.array([f"images/{label}/{i}.png" for i, label in enumerate(query[1])])
    np.savez(tmp_path / "p.npz", features=query[0].astype("float32"), paths=paths)
    files[1] = str(tmp_path / "p.npz")
    assert cli.main(["compress", *files, "--sizes", "24", "--precisions", "float32"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["rows"] == result["rows"][:1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "compress: expected -c FILE.yaml, or --query and --gallery"),
        (["--query", "q.npz", "--gallery", "no.npz"], "no.npz: expected a readable .npz file: "),
        (
            ["--query", "q.npz", "--gallery", "long.npz"],
            "long.npz: expected unit vectors, got a norm of 2 in row 1 (1 such rows)",
        ),
        (
            ["--query", "q.npz", "--gallery", "nameless.npz"],
            "nameless.npz: expected identities or paths, got ['features']",
        ),
        (
            ["--query", "q.npz", "--gallery", "few.npz"],
            "few.npz: expected 200 identities, one for each of features, got 7",
        ),
        (
            ["--query", "q.npz", "--gallery", "short.npz"],
            "compress: expected embeddings of one size, got {'query': 24, 'gallery': 8}",
        ),
        (["--query", "q.npz", "--gallery", "q.npz", "--fit", "train"], "--fit train: expected "),
        (["--query", "q.npz", "--gallery", "q.npz", "--sizes", "a"], "--sizes: expected whole "),
        (
            ["--query", "q.npz", "--gallery", "q.npz", "--sizes", "25"],
            "sizes: expected 1 to 24, the embeddings' size, got 25",
        ),
        (
            ["--query", "q.npz", "--gallery", "q.npz", "--precisions", "int4"],
            "precisions: expected some of ['float32', 'float16', 'int8', 'sign', 'round'], got "
            "'int4'",
        ),
    ],
)
def test_bad_input_of_the_command_is_named(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    query, gallery, _ = sets()
    write(tmp_path / "q.npz", *query)
    long = gallery[0].copy()
    long[1] *= 2
    write(tmp_path / "long.npz", long, gallery[1])
    np.savez(tmp_path / "nameless.npz", features=gallery[0])
    np.savez(tmp_path / "few.npz", features=gallery[0], identities=gallery[1][:7])
    write(tmp_path / "short.npz", unit(gallery[0][:, :8]), gallery[1])
    assert cli.main(["compress", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")


def test_numbers_that_are_no_bits_are_refused():
    values = np.full((3, 4), 0.5)
    values[1, 2] = -0.1
    with pytest.raises(ConfigError) as raised:
        compact.binarized(values, "round")
    assert str(raised.value) == (
        "feature_binarize: expected numbers from 0 to 1 with round, got -0.1 at 2 of row 1 "
        "(1 such rows)"
    )
    values[1, 2] = np.nan
    with pytest.raises(ConfigError, match="^feature_binarize: expected numbers that are finite"):
        compact.binarized(values, "sign")
    values[1, 2] = 0
    with pytest.raises(ConfigError) as raised:
        compact.packed(values)
    assert str(raised.value) == (
        "feature_binarize: expected numbers other than 0 to make bits of, got 0 at 2 of row 1 "
        "(1 such rows)"
    )


def test_a_network_is_evaluated_by_its_signs(tmp_path):
    plain = tiny_config(tmp_path)
    model = randomize(models.build_extractor(plain.Arch))
    (found,) = evaluation.measure_sets(plain, model, evaluation.load_eval_sets(plain)).values()
    vectors = [np.sign(v) for v in (found.query_embeddings, found.gallery_embeddings)]
    labels = found.query.labels, found.gallery.labels
    config = tiny_config(tmp_path, "Global.feature_binarize=sign")
    result = evaluation.evaluate(config, model)
    recall, average = recall_and_map(vectors[0].astype(int) @ vectors[1].astype(int).T, *labels)
    assert result["recall@1"] == pytest.approx(recall) and result["map"] == pytest.approx(average)
    assert result["map"] != evaluation.evaluate(plain, model)["map"]
    config = tiny_config(tmp_path, "Global.feature_binarize=round")
    with pytest.raises(ConfigError, match="^Global.feature_binarize: expected numbers from 0 to 1"):
        evaluation.evaluate(config, model)


def test_a_network_is_evaluated_by_its_rounded_numbers(tmp_path):
    import keras

    config = tiny_config(tmp_path, "Global.feature_binarize=round")
    plain = randomize(models.build_extractor(config.Arch))
    inner = keras.Model(plain.input, keras.layers.Activation("sigmoid")(50 * plain.output))
    # The unit vectors of the same numbers have none above 0.5.
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, keras.layers.UnitNormalization(name="embedding")(inner(image)))
    sets_ = evaluation.load_eval_sets(config)
    (found,) = evaluation.measure_sets(config, model, sets_).values()
    plain_config = tiny_config(tmp_path)
    (raw,) = evaluation.measure_sets(plain_config, plain, sets_).values()
    expected = np.where(raw.query_embeddings > 0, 1, -1)
    assert (np.sign(found.query_embeddings) == expected).mean() > 0.999
    np.testing.assert_allclose(np.abs(found.query_embeddings), 0.25)
    assert (expected > 0).any() and (expected < 0).any()


def test_a_config_gives_what_is_evaluated_and_what_pca_is_fitted_to(tiny, trained):
    weights = f"pretrained_model={trained / 'latest'}"
    config = tiny(weights)
    query, gallery, fitted_to, fit = vectors_of(config)
    model = models.build_model(config)
    train = load_samples(config.DataLoader.Train.dataset.source, "train")
    np.testing.assert_allclose(fitted_to, embed(model, train), atol=1e-6)
    assert fit == "train" and len(query.labels) == 200 and len(gallery.labels) == 40
    (row,) = compact.compact_table(query, gallery, [16], precisions=["float32"])
    result = evaluation.evaluate(config, model)
    assert (row["recall@1"], row["map"]) == (result["recall@1"], result["map"])
    assert (row["low"], row["high"]) == result.intervals["recall@1"]
    assert vectors_of(config, "gallery")[2] is not None and vectors_of(config, "none")[2] is None
    for override, message in {
        "Metric.Ranking=[{name: KReciprocal}]": "Metric.Ranking: expected [], as `compress` ranks "
        "in its own ways",
        "Global.feature_binarize=sign": "Global.feature_binarize: expected null, as bits are one "
        "of the precisions, got sign",
    }.items():
        with pytest.raises(ConfigError) as raised:
            vectors_of(tiny(weights, override))
        assert str(raised.value) == message
    with pytest.raises(ConfigError) as raised:
        evaluation.evaluate(
            tiny("Global.feature_binarize=round", "Metric.Views={flip: true}"), model
        )
    assert str(raised.value) == ("Metric.Views: expected null with Global.feature_binarize round")
