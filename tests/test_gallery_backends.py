"""Backends of a gallery: whatever was changed, they find what a rebuild in NumPy finds."""

import builtins

import numpy as np
import pytest

from keras_featx.errors import ConfigError
from keras_featx.gallery import indexes
from keras_featx.gallery.backends import check_settings, make_backend
from keras_featx.gallery.collection import Gallery

SIZE = 16
PACKAGES = {
    "faiss-flat": "faiss",
    "faiss-hnsw": "faiss",
    "usearch": "usearch",
    "milvus": "pymilvus",
}
# With these an index of some hundred items misses nothing.
THOROUGH = {
    "exact": {},
    "faiss-flat": {},
    "faiss-hnsw": {"search": 512, "build": 512},
    "usearch": {"search": 512, "build": 512},
}


def unit(items, seed):
    x = np.random.default_rng(seed).normal(size=(items, SIZE))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")


@pytest.fixture(autouse=True)
def indexes_of_small_segments(monkeypatch):
    monkeypatch.setattr(indexes, "_SMALL_OTHERS", 20)


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


@pytest.mark.parametrize("name", ["exact", "faiss-flat", "faiss-hnsw", "usearch", "milvus"])
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
        f"collection shelf: expected fields ['serial', 'vector_{'cd' * 8}'], of the gallery's "
        f"model and 16 numbers, got {{'serial': 0, 'vector_{'ab' * 8}': 16}}; name another"
    )


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
