"""Backends of a gallery: whatever was changed, they find what a rebuild in NumPy finds."""

import builtins
import importlib.util
import logging

import numpy as np
import pytest

from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery import backends, exact, indexes, milvus_backend
from keras_featx.gallery.backends import check_settings, make_backend
from keras_featx.gallery.collection import Gallery

SIZE = 16
PACKAGES = {
    "faiss-flat": "faiss",
    "faiss-hnsw": "faiss",
    "faiss-ivfpq": "faiss",
    "usearch": "usearch",
    "milvus": "pymilvus",
}
# With these an index of some hundred items misses nothing.
THOROUGH = {
    "exact": {},
    "faiss-flat": {},
    "faiss-hnsw": {"search": 512, "build": 512},
    # A byte a number, and 20 candidates for each neighbour.
    "faiss-ivfpq": {"bytes": SIZE, "lists": 1, "probes": 1},
    "usearch": {"search": 512, "build": 512},
}


def unit(items, seed):
    x = np.random.default_rng(seed).normal(size=(items, SIZE))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")


@pytest.fixture(autouse=True)
def indexes_of_small_segments(monkeypatch):
    monkeypatch.setattr(indexes, "_SMALL_OTHERS", 20)
    # What 256 codes are learnt from.
    monkeypatch.setattr(indexes, "_SMALL", {"faiss-ivfpq": 256})


def settings_of(name, folder):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    if name == "milvus":
        pytest.importorskip("milvus_lite")
        return {"name": name, "uri": str(folder / "m.db"), "collection": "shelf", "index": "FLAT"}
    return {"name": name, **THOROUGH[name]}


def check(gallery, model, settings, seed, k=7):
    """All of the nearest, and nothing else, with the cosines of the stored vectors.

    Returns the share of the nearest that was found, which only usearch may leave below 1: in its
    graph some points cannot be reached, however long it looks.
    """
    query = unit(5, 10_000 + seed)
    found = gallery.search(query, k, settings)
    ids = list(model)
    vectors = np.array([model[one] for one in ids], "float64").reshape(-1, SIZE)
    similar = query.astype("float64") @ vectors.T
    hits = total = 0
    for row, matches in zip(similar, found, strict=True):
        best = sorted(row.tolist(), reverse=True)[:k]
        values = [one.similarity for one in matches]
        assert len(values) == len(best) == len({one.id for one in matches})
        assert values == sorted(values, reverse=True)
        hits += sum(value >= best[-1] - 1e-6 for value in values)
        total += len(best)
        if "usearch" not in str(settings):
            np.testing.assert_allclose(values, best, atol=1e-6)
        for match in matches:
            assert match.similarity == pytest.approx(row[ids.index(match.id)], abs=1e-6)
    return hits / total


def change(gallery, model, rng, step):
    """One random change, of both; returns the gallery."""
    kind = rng.integers(0, 6)
    some = rng.permutation(list(model))[: rng.integers(1, 30)].tolist()
    if kind <= 1 or len(model) < 40:
        ids = [f"{step}_{i}" for i in range(rng.integers(1, 90))]
        vectors = unit(len(ids), step)
        gallery.add(ids, ["x"] * len(ids), vectors)
        model.update(zip(ids, vectors, strict=True))
    elif kind == 2:
        vectors = unit(len(some), step)
        gallery.update(some, ["y"] * len(some), vectors)
        model.update(zip(some, vectors, strict=True))
    elif kind == 3:
        gallery.remove(some)
        for one in some:
            del model[one]
    elif kind == 4:
        gallery.compact()
    else:
        return Gallery(gallery.store.folder)
    return gallery


@pytest.mark.parametrize(
    "name", ["exact", "faiss-flat", "faiss-hnsw", "faiss-ivfpq", "usearch", "milvus"]
)
@pytest.mark.parametrize("seed", range(2))
def test_any_changes_equal_a_rebuild(tmp_path, name, seed):
    settings = settings_of(name, tmp_path)
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE, "float32")
    rng, model = np.random.default_rng(seed), {}
    shares = []
    for step in range(25):
        gallery = change(gallery, model, rng, 100 * seed + step)
        shares.append(check(gallery, model, settings, step))
    assert np.mean(shares) > 0.97
    kept, version = dict(model), gallery.version
    gallery.remove(list(model)[:30])
    gallery.rollback(version)
    check(gallery, kept, settings, 99)
    check(gallery, kept, settings, 98, k=len(kept))
    gallery.prune(1)
    check(Gallery(tmp_path / "g"), kept, settings, 97)
    names = {part.name for part in gallery.manifest.parts}
    left = list((tmp_path / "g" / "indexes").glob("*.index"))
    assert all(path.name.partition("-")[0] in names for path in left)
    assert bool(left) == (name not in ("exact", "milvus"))


def test_codes_are_checked_by_exact_cosines(tmp_path):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, SIZE))
    vectors = centres[rng.integers(0, 300, 12_000)] + 0.3 * rng.normal(size=(12_000, SIZE))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE, "float32")
    gallery.add(range(12_000), ["x"] * 12_000, vectors)
    gallery.remove([str(i) for i in range(1000)])
    query = vectors[:50].astype("float32")
    found = gallery.search(query, 10, {"name": "faiss-ivfpq", "bytes": 8})
    similar = query.astype("float64") @ vectors.astype("float32").T.astype("float64")
    similar[:, :1000] = -1
    wanted = np.argsort(-similar, axis=1)[:, :10]
    hits = 0
    for row, matches, best in zip(similar, found, wanted, strict=True):
        ids = [int(one.id) for one in matches]
        assert min(ids) >= 1000 and len(set(ids)) == 10
        np.testing.assert_allclose([one.similarity for one in matches], row[ids], atol=1e-6)
        hits += len(set(ids) & set(best.tolist()))
    assert hits / 500 > 0.9


@pytest.mark.parametrize("name", ["faiss-hnsw", "usearch"])
def test_a_damaged_index_is_made_again(tmp_path, name, caplog):
    settings = settings_of(name, tmp_path)
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE, "float32")
    vectors = unit(100, 0)
    gallery.add(range(100), ["x"] * 100, vectors)
    model = {str(i): vector for i, vector in enumerate(vectors)}
    check(gallery, model, settings, 0)
    (path,) = (tmp_path / "g" / "indexes").iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:60], b"", whole[:90] + b"\xff" + whole[91:], b"KFX"):
        path.write_bytes(damaged)
        caplog.clear()
        check(Gallery(tmp_path / "g"), model, settings, 1)
        assert f"{path} is damaged: its checksum is another; it is made again" in caplog.text
        assert path.read_bytes()[:8] == whole[:8] and len(path.read_bytes()) > 100


def test_an_interrupted_sync_is_mended(tmp_path, monkeypatch):
    settings = settings_of("milvus", tmp_path)
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE, "float32")
    vectors = unit(120, 0)
    gallery.add(range(120), ["x"] * 120, vectors)
    backend = make_backend(gallery, settings)
    plain, calls = backend.client.upsert, []

    def stopped(*arguments):
        calls.append(arguments)
        plain(arguments[0], arguments[1][:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(backend.client, "upsert", stopped)
    with pytest.raises(KeyboardInterrupt):
        backend.sync()
    monkeypatch.setattr(backend.client, "upsert", plain)
    assert backend.sync() == {"added": 70, "deleted": 0}
    gallery.remove(["3", "4"])
    assert backend.sync() == {"added": 0, "deleted": 2}
    model = {str(i): vector for i, vector in enumerate(vectors) if i not in (3, 4)}
    check(gallery, model, backend, 5)
    other = Gallery.create(tmp_path / "other", "cd" * 32, SIZE)
    other.add(["a"], ["x"], vectors[:1])
    backend.client.close()
    with pytest.raises(ConfigError) as caught:
        other.search(vectors[:1], 1, settings)
    assert str(caught.value) == (
        f"collection shelf: expected fields ['serial', 'mark', 'vector_{'cd' * 8}'], of the "
        f"gallery's model and 16 numbers, got {{'serial': 0, 'mark': 0, 'vector_{'ab' * 8}': 16}}; "
        "name another"
    )


def of_numbers(folder, vectors, **options):
    """A gallery whose ids are rows."""
    gallery = Gallery.create(folder, "ab" * 32, SIZE, "float32", **options)
    gallery.add(range(len(vectors)), ["x"] * len(vectors), vectors)
    return gallery


def test_versions_that_share_a_collection_do_not_mix(tmp_path):
    settings, vectors = settings_of("milvus", tmp_path), unit(120, 0)
    writer = of_numbers(tmp_path / "g", vectors)
    older = Gallery(tmp_path / "g")
    model = {str(i): vector for i, vector in enumerate(vectors)}
    before = make_backend(older, settings)
    check(older, model, before, 0)
    writer.remove(["5", "6"])
    writer.add(["new"], ["n"], unit(1, 7))
    writer.compact()
    newer = {one: vector for one, vector in model.items() if one not in ("5", "6")}
    newer["new"] = unit(1, 7)[0]
    after = make_backend(writer, settings)
    check(writer, newer, after, 1)
    check(older, model, before, 2)
    check(older, model, make_backend(older, settings), 3)
    assert [one.id for one in older.search(vectors[5:6], 1, before)[0]] == ["5"]
    check(writer, newer, after, 4)
    assert after.sync() == {"added": 0, "deleted": 0}  # the older one changed nothing
    with pytest.raises(RunError) as caught:
        before.sync()
    assert str(caught.value) == (
        f"{tmp_path / 'g'}: version 2 is not the newest, which collection shelf follows"
    )


def test_a_version_made_during_a_sync_keeps_its_items(tmp_path, monkeypatch):
    settings, vectors = settings_of("milvus", tmp_path), unit(60, 0)
    writer = of_numbers(tmp_path / "g", vectors)
    older = make_backend(Gallery(tmp_path / "g"), settings)
    model, plain = {str(i): vector for i, vector in enumerate(vectors)}, older._contents

    def overtaken():
        monkeypatch.setattr(older, "_contents", plain)
        writer.add(["new"], ["n"], unit(1, 7))
        writer.search(vectors[:1], 1, settings)
        return plain()

    monkeypatch.setattr(older, "_contents", overtaken)
    check(older.gallery, model, older, 0)
    assert make_backend(writer, settings).sync() == {"added": 0, "deleted": 0}


def test_items_of_candidates_that_are_removed_are_not_found(tmp_path):
    settings, vectors = settings_of("milvus", tmp_path), unit(60, 0)
    gallery = of_numbers(tmp_path / "g", vectors)
    gallery.remove(["5"])
    backend = make_backend(gallery, settings)
    backend.sync()
    field = f"vector_{'ab' * 8}"
    for serial, row in ((6, 5), (99, 5)):  # as another process may put them in
        one = {"serial": serial, "mark": 0, field: vectors[row].tolist()}
        backend.client.upsert("shelf", [one])
    model = {str(i): vector for i, vector in enumerate(vectors) if i != 5}
    check(gallery, model, backend, 0)
    assert "5" not in [one.id for one in gallery.search(vectors[5:6], 59, backend)[0]]
    assert backend.sync() == {"added": 0, "deleted": 2}


def test_a_gallery_made_anew_has_its_own_vectors_in_milvus(tmp_path):
    settings = settings_of("milvus", tmp_path)
    of_numbers(tmp_path / "g", unit(60, 0)).search(unit(1, 0), 1, settings)
    vectors = np.concatenate([unit(60, 0)[:20], unit(50, 1)])
    gallery = of_numbers(tmp_path / "g", vectors, overwrite=True)
    backend = make_backend(gallery, settings)
    assert backend.sync() == {"added": 50, "deleted": 0}
    check(gallery, {str(i): vector for i, vector in enumerate(vectors)}, backend, 0)
    found = backend.client.search("shelf", vectors.tolist(), limit=1, output_fields=["serial"])
    assert [one[0]["serial"] for one in found] == list(range(1, 71))


def test_more_than_milvus_finds_is_searched_exactly(tmp_path, monkeypatch):
    settings, vectors = settings_of("milvus", tmp_path), unit(60, 0)
    monkeypatch.setattr(milvus_backend, "_MOST", 10)
    gallery = of_numbers(tmp_path / "g", vectors)
    backend = make_backend(gallery, settings)
    plain, limits = backend.client.search, []

    def limited(*arguments, limit, **more):
        limits.append(limit)
        return plain(*arguments, limit=limit, **more)

    monkeypatch.setattr(backend.client, "search", limited)
    model = {str(i): vector for i, vector in enumerate(vectors)}
    for k in (3, 8, 11, 60):
        check(gallery, model, backend, 0, k)
    assert limits == [6, 10]


def test_what_milvus_says_is_told_in_a_line(tmp_path, monkeypatch):
    settings = settings_of("milvus", tmp_path)
    pymilvus = pytest.importorskip("pymilvus")
    gallery = of_numbers(tmp_path / "g", unit(60, 0))
    backend = make_backend(gallery, settings)

    def fails(*arguments, **more):
        raise pymilvus.MilvusException(1, "no room\nand more")

    monkeypatch.setattr(backend.client, "upsert", fails)
    with pytest.raises(RunError) as caught:
        gallery.search(unit(1, 0), 1, backend)
    assert str(caught.value) == (
        f"{settings['uri']}: collection shelf: <MilvusException: (code=1, message=no room"
    )


def test_a_token_in_a_gallery_is_refused(tmp_path):
    secret = {"name": "milvus", "uri": "a.db", "collection": "b", "token": "user:secret"}
    gallery = of_numbers(tmp_path / "g", unit(3, 0))
    gallery.set(backend=secret)
    with pytest.raises(ConfigError) as caught:
        gallery.search(unit(1, 0), 1)
    assert str(caught.value) == (
        f"{tmp_path / 'g'}: backend: token: expected in the environment, MILVUS_TOKEN, not in a "
        "gallery"
    )


@pytest.mark.parametrize("kind", ["random", "copies", "close", "axes"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_exact_search_finds_what_float64_finds(tmp_path, monkeypatch, precision, kind):
    """Codes, blocks and threads change nothing, wherever they cut."""
    for name, value in (("_QUERIES", 4), ("_BLOCK", 90), ("_TOGETHER", 3), ("_SHARE", 100)):
        monkeypatch.setattr(exact, name, value)
    monkeypatch.setattr(exact, "cores", lambda: 3)
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(700, SIZE))
    if kind == "copies":
        vectors = vectors[rng.integers(0, 100, 700)]
    elif kind == "close":  # codes cannot tell them apart
        vectors = vectors[:1] + 0.01 * vectors
        monkeypatch.setattr(exact, "_MANY", 20)
    elif kind == "axes":  # of the largest steps a code has
        vectors = np.eye(SIZE)[rng.integers(0, SIZE, 700)] + 0.003 * vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE, precision)
    gallery.add(range(700), ["x"] * 700, vectors.astype("float32"))
    stored = vectors.astype("float32")
    stored = stored if precision == "float32" else stored.astype("float16")
    for removed in ([], list(range(50, 200)), [699]):
        if removed:
            gallery.remove([str(one) for one in removed])
            stored[removed] = np.nan
        alive = np.flatnonzero(np.isfinite(stored[:, 0]))
        for count, k in ((1, 5), (9, 5), (2, len(alive)), (0, 5)):
            query = rng.normal(size=(count, SIZE)).astype("float32")
            pairs = query[:, None].astype("float64") * stored[alive].astype("float64")
            similar = pairs.sum(axis=2).astype("float32")
            best = np.argsort(-similar, axis=1, kind="stable")[:, :k]
            values, serials = exact.Exact(gallery).search(query, k)
            np.testing.assert_array_equal(serials, alive[best] + 1)
            np.testing.assert_allclose(values, np.take_along_axis(similar, best, 1), rtol=2e-7)


def test_what_an_index_lacks_is_searched_exactly(tmp_path, monkeypatch):
    settings, vectors = settings_of("usearch", tmp_path), unit(100, 0)
    gallery = of_numbers(tmp_path / "g", vectors)
    backend = make_backend(gallery, settings)

    def few(index, how, query, count, alive):
        found = np.full((len(query), count), -1)
        found[::2, :7] = np.arange(7)
        return found

    monkeypatch.setattr(backend, "_kind", indexes.Kind(lambda *_: 1, lambda _: b"", bytes, few))
    found = gallery.search(unit(4, 1), 7, backend)
    assert all({one.id for one in some} == set("0123456") for some in found[::2])
    wanted = gallery.search(unit(4, 1), 7, "exact")
    assert found[1::2] == wanted[1::2] and found[0] != wanted[0]


def test_an_index_that_cannot_be_written_stays_in_memory(tmp_path, monkeypatch, caplog):
    settings, vectors = settings_of("usearch", tmp_path), unit(100, 0)
    gallery = of_numbers(tmp_path / "g", vectors)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(indexes.outputs, "write_bytes", full)
    check(gallery, {str(i): vector for i, vector in enumerate(vectors)}, settings, 0)
    check(gallery, {str(i): vector for i, vector in enumerate(vectors)}, settings, 1)
    assert not list((tmp_path / "g" / "indexes").iterdir())
    said = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert len(said) == 1 and said[0].endswith(
        "cannot be written ([Errno 28] No space left on device): the index stays in memory"
    )


def test_auto_takes_an_index_for_many_items(tmp_path, monkeypatch, caplog):
    pytest.importorskip("faiss")
    caplog.set_level(logging.INFO)
    gallery = of_numbers(tmp_path / "g", unit(100, 0))
    assert isinstance(make_backend(gallery, "auto"), exact.Exact)
    monkeypatch.setattr(backends, "LARGE", 100)
    backend = make_backend(gallery, "auto")
    assert (backend.name, backend.settings) == ("faiss-hnsw", backends.SETTINGS["faiss-hnsw"])
    assert not caplog.records
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert isinstance(make_backend(gallery, "auto"), exact.Exact)
    assert caplog.messages == [
        "100 items are searched exactly: pip install 'keras_featx[faiss]' is faster"
    ]


def test_a_backend_is_made_once(tmp_path, monkeypatch):
    gallery = of_numbers(tmp_path / "g", unit(100, 0))
    made = gallery._backend({"name": "usearch", "links": 8})
    assert gallery._backend({"links": 8, "name": "usearch"}) is made
    gallery.remove(["1"])
    assert gallery._backend({"links": 8, "name": "usearch"}) is not made


def test_prune_frees_what_was_left_half_written(tmp_path):
    settings = settings_of("usearch", tmp_path)
    gallery = of_numbers(tmp_path / "g", unit(100, 0))
    gallery.search(unit(1, 0), 1, settings)
    (index,) = (tmp_path / "g" / "indexes").iterdir()
    (index.parent / f".{index.name}.1a2b3c4d.part").write_bytes(b"half")
    gallery.prune(1)
    assert len(list(index.parent.iterdir())) == 2  # it may be one that is being written
    gallery.compact()
    gallery.prune(1)
    assert not list(index.parent.iterdir())


def test_the_settings_of_a_gallery_are_used(tmp_path):
    pytest.importorskip("usearch")
    gallery = Gallery.create(
        tmp_path / "g", "ab" * 32, SIZE, "float32", settings={"backend": "usearch"}
    )
    vectors = unit(60, 0)
    gallery.add(range(60), ["x"] * 60, vectors)
    assert [m.id for m in gallery.search(vectors[7:8], 1)[0]] == ["7"]
    (path,) = (tmp_path / "g" / "indexes").iterdir()
    assert "usearch" in path.name


def test_a_newer_version_takes_over_indexes_in_memory(tmp_path):
    pytest.importorskip("usearch")
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE, "float32")
    gallery.add(range(300), ["x"] * 300, unit(300, 0))
    gallery.search(unit(1, 1), 3, "usearch")
    writer = Gallery(tmp_path / "g")
    writer.add(range(300, 350), ["x"] * 50, unit(50, 1))
    newer = Gallery(tmp_path / "g")
    newer.adopt(gallery)
    (path,) = (tmp_path / "g" / "indexes").iterdir()
    path.write_bytes(b"")  # it is not read again
    newer.search(unit(1, 1), 3, "usearch")
    assert path.read_bytes() == b""
    shared = {k: v for k, v in newer.index_cache.items() if v is gallery.index_cache.get(k)}
    assert [key[0] for key in shared] == [gallery.manifest.parts[0].name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "faiss-hsnw",
            "backend: expected one of exact, auto, faiss-flat, faiss-hnsw, faiss-ivfpq, usearch, "
            "milvus, got 'faiss-hsnw'; did you mean 'faiss-hnsw'?",
        ),
        (
            {"name": "usearch", "link": 3},
            "backend usearch: expected links, build, search, got 'link'; did you mean 'links'?",
        ),
        (
            {"name": "faiss-hnsw", "links": 0},
            "backend faiss-hnsw: links: expected a whole number of at least 1, got 0",
        ),
        (None, "backend: expected a name or settings, got None"),
        (["exact"], "backend: expected a name or settings, got ['exact']"),
        (
            {"name": "milvus", "uri": 5, "collection": "b"},
            "backend milvus: uri: expected a text, got 5",
        ),
        ({"name": "exact", "k": 1}, "backend exact: expected no settings, got 'k'"),
        ({"name": "milvus", "uri": "a.db"}, "backend milvus: collection: expected one, got None"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(ConfigError) as caught:
        check_settings(settings)
    assert str(caught.value) == message


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, SIZE)
    gallery.add(["a"], ["x"], unit(1, 0))
    plain = builtins.__import__

    def without(name, *more):
        if name.partition(".")[0] in ("faiss", "usearch", "pymilvus"):
            raise ImportError(name)
        return plain(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    for name, package in (("faiss-flat", "faiss"), ("usearch", "usearch")):
        with pytest.raises(ConfigError) as caught:
            gallery.search(unit(1, 0), 1, name)
        assert str(caught.value) == (
            f"backend {name}: {package} is not installed: pip install 'keras_featx[{package}]'"
        )
    with pytest.raises(ConfigError, match=r"pip install 'keras_featx\[milvus\]'"):
        gallery.search(unit(1, 0), 1, {"name": "milvus", "uri": "a.db", "collection": "b"})
