"""Galleries on disk: any changes equal a rebuild; killed at any moment; two writers; damage."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from conftest import ROOT

from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.segments import hashes_of

PRINT = "ab" * 32
SIZE = 16


def unit(items, seed=0, size=SIZE):
    x = np.random.default_rng(seed).normal(size=(items, size))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")


def filled(folder, items=10, precision="float16"):
    gallery = Gallery.create(folder, PRINT, SIZE, precision)
    gallery.add(
        [f"{i}.jpg" for i in range(items)],
        [f"thing {i % 3}" for i in range(items)],
        unit(items),
        [{"place": i} for i in range(items)],
    )
    return gallery


def contents(gallery):
    """All items by id."""
    return {
        one: (identity, vector.tolist(), more)
        for items in gallery.items(batch_size=7)
        for one, identity, vector, more in zip(
            items.ids, items.identities, items.vectors, items.metadata, strict=True
        )
    }


def kept_as(vectors, precision):
    return vectors if precision == "float32" else vectors.astype("float16").astype("float32")


def check_search(gallery, model, precision, seed):
    """Of all that is there, and of nothing else, the nearest ones."""
    query = unit(4, 1000 + seed)
    found = gallery.search(query, 5)
    ids = list(model)
    if not ids:
        assert found == [[]] * 4
        return
    stored = kept_as(np.stack([model[one][1] for one in ids]), precision).astype("float64")
    similar = query.astype("float64") @ stored.T
    for row, matches in zip(similar, found, strict=True):
        assert len(matches) == min(5, len(ids)) == len({match.id for match in matches})
        for match in matches:
            identity, _, more = model[match.id]
            assert (match.identity, match.metadata) == (identity, more)
            assert abs(match.similarity - row[ids.index(match.id)]) < 1e-6
        best = np.sort(row)[::-1][: len(matches)]
        values = [match.similarity for match in matches]
        if precision == "int8":  # four candidates for each: the best is among them
            assert abs(values[0] - best[0]) < 1e-6
        else:
            np.testing.assert_allclose(values, best, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_changes_equals_a_rebuild(tmp_path, precision, seed):
    rng = np.random.default_rng(seed)
    gallery = Gallery.create(tmp_path / "a", PRINT, SIZE, precision)
    model, history = {}, {1: {}}

    def some(most):
        count = min(len(model), int(rng.integers(1, most)))
        return [str(one) for one in rng.choice(list(model), count, replace=False)]

    for step in range(60):
        kind = rng.choice(["add", "put", "update", "remove", "compact", "open", "rollback"])
        new = [f"{step}.{i}" for i in range(int(rng.integers(1, 40)))]
        ids = {"add": new, "put": new[:3] + some(6), "update": some(9), "remove": some(9)}.get(kind)
        if ids:
            given = (
                [f"thing {rng.integers(4)}" for _ in ids],
                unit(len(ids), seed * 1000 + step),
                [{"step": step} for _ in ids],
            )
            if kind == "remove":
                gallery.remove(ids)
                model = {k: v for k, v in model.items() if k not in ids}
            else:
                getattr(gallery, kind)(ids, *given)
                model = {**model, **dict(zip(ids, zip(*given, strict=True), strict=True))}
        elif kind == "compact":
            gallery.compact()
        elif kind == "open":
            gallery = Gallery(tmp_path / "a")
        elif kind == "rollback":
            version = int(rng.choice(list(history)))
            gallery.rollback(version)
            model = dict(history[version])
        history[gallery.version] = dict(model)
        assert len(gallery) == len(model)
        check_search(gallery, model, precision, step)
    rebuilt = Gallery.create(tmp_path / "b", PRINT, SIZE, precision)
    parts = list(zip(*model.values(), strict=True))
    rebuilt.add(list(model), parts[0], np.stack(parts[1]), parts[2])
    assert contents(Gallery(tmp_path / "a")) == contents(rebuilt)
    assert gallery.identities() == rebuilt.identities()
    assert gallery.check() == [] and len(gallery.segments) < 10
    version = int(rng.choice(list(history)))
    assert set(contents(Gallery(tmp_path / "a", version))) == set(history[version])


def test_an_item_is_written_few_times(tmp_path):
    """Adding to a large gallery writes no more than what is added."""
    gallery = Gallery.create(tmp_path / "a", PRINT, SIZE)
    gallery.add([f"{i}" for i in range(1000)], ["x"] * 1000, unit(1000))
    first = gallery.manifest.parts[0]
    for step in range(20):
        gallery.add([f"{step}.{i}" for i in range(20)], ["x"] * 20, unit(20, step))
        assert gallery.manifest.parts[0] == first
    sizes = [part.items for part in gallery.manifest.parts]
    assert sum(sizes) == 1400 and len(sizes) <= 6
    assert all(a >= 2 * b for a, b in zip(sizes, sizes[1:], strict=False))


CHANGES = {
    "add": "gallery.add(['new'], ['n'], vector)",
    "update": "gallery.update(['3.jpg'], ['n'], vector)",
    "remove": "gallery.remove(['3.jpg', '4.jpg'])",
    "compact": "gallery.compact()",
    "rollback": "gallery.rollback(1)",
    "prune": "gallery.prune(1)",
}
KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import numpy as np
from keras_featx.gallery.collection import Gallery
gallery = Gallery({folder!r})
vector = np.eye(16, dtype="float32")[:1]
left = int(sys.argv[1])
def counted(function):
    def call(*args, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return call
for name in ("fsync", "replace", "unlink", "rmdir", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
{change}
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_any_moment_it_is_before_or_after(tmp_path, change):
    """At every call by which a change reaches the disk."""
    saw_before, done = False, False
    for moment in range(60):
        folder = tmp_path / str(moment)
        gallery = filled(folder)
        gallery.set(threshold=0.5)
        before = contents(gallery)
        code = KILLED.format(root=str(ROOT), folder=str(folder), change=CHANGES[change])
        run = subprocess.run([sys.executable, "-c", code, str(moment)], capture_output=True)
        done = run.returncode == 0
        assert done or run.returncode == -signal.SIGKILL, run.stderr.decode()
        after = Gallery(folder)
        assert after.check() == []
        found = contents(after)
        if found == before and change not in ("compact", "prune"):
            saw_before = True
            assert not done
        elif change in ("compact", "prune"):
            saw_before = True
            assert found == before
        elif change == "add":
            assert set(found) == {*before, "new"}
        elif change == "update":
            assert found["3.jpg"][0] == "n" and set(found) == set(before)
        elif change == "remove":
            assert set(found) == set(before) - {"3.jpg", "4.jpg"}
        else:
            assert found == {}
        # And it can be changed again.
        after.add(["more"], ["m"], unit(1, 9))
        assert set(contents(Gallery(folder))) == {*found, "more"}
        after.prune(1)
        assert Gallery(folder).check() == [] and set(contents(Gallery(folder))) == {*found, "more"}
        if done:
            break
    assert done and saw_before and moment > 1


def test_two_writers_are_kept_apart_and_readers_go_on(tmp_path):
    gallery = filled(tmp_path / "a")
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from keras_featx.gallery.versions import Store
        with Store({str(tmp_path / "a")!r}).writing():
            print("locked", flush=True)
            sys.stdin.readline()
    """)
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RunError) as error:
            gallery.remove(["3.jpg"])
        assert str(error.value).startswith(f"{tmp_path / 'a'}: process {other.pid}, since 20")
        assert str(error.value).endswith("Z, is changing it; try again later")
        assert len(gallery.search(unit(1), 3)[0]) == 3 and len(Gallery(tmp_path / "a")) == 10
        other.send_signal(signal.SIGKILL)
        other.wait()
        gallery.remove(["3.jpg"])  # the lock went with its process
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()


def test_a_reader_keeps_its_version_until_it_asks(tmp_path):
    writer = filled(tmp_path / "a")
    reader = Gallery(tmp_path / "a")
    before = contents(reader)
    writer.remove(["3.jpg"])
    writer.compact()
    writer.prune(1)
    assert contents(reader) == before  # its files are gone by name only
    assert reader.search(unit(10)[3:4], 1)[0][0].id == "3.jpg"
    assert set(contents(reader.refresh())) == set(before) - {"3.jpg"}


def test_a_writer_sees_what_another_wrote(tmp_path):
    one = filled(tmp_path / "a")
    other = Gallery(tmp_path / "a")
    one.add(["x"], ["x"], unit(1, 5))
    with pytest.raises(ConfigError, match="'x' is already there"):
        other.add(["x"], ["x"], unit(1, 5))
    other.remove(["x"])
    assert "x" not in contents(one.refresh())


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "LOCK")


FILES = ["codes", "ends", "hashes", "labels", "order", "removed", "scales", "serials", "vectors"]
FILES += ["texts", "identities", "0000"]


@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_and_named(tmp_path, name):
    folder = tmp_path / "a"
    filled(folder, precision="int8").remove(["3.jpg"])
    path = [path for path in files_of(folder) if path.name.startswith(name)][-1]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        wrong = Gallery(folder).check()
    except RunError as error:
        wrong = [str(error)]
    assert len(wrong) == 1 and wrong[0].startswith(f"{path}: ")
    path.write_bytes(data[:-1])
    with pytest.raises(RunError, match=f"^{path}: (expected|damaged)"):
        Gallery(folder)
    path.unlink()
    if name != "0000":  # without its last version the one before is the newest
        with pytest.raises(RunError, match=f"^{path}: expected"):
            Gallery(folder)


def test_nothing_in_it_is_unpickled(tmp_path):
    gallery = filled(tmp_path / "a")
    path = gallery.segments[0].folder / "labels.npy"
    bad = np.array([os.getpid], object)
    with path.open("wb") as file:
        np.save(file, bad, allow_pickle=True)
    with pytest.raises(RunError, match=r"labels\.npy: expected"):
        Gallery(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ["a"]}, "identities: expected 1, one of each id, got 2"),
        ({"ids": ["a", "a"]}, "ids: expected each once, got 'a' twice"),
        ({"ids": ["a", ""]}, "ids: expected a text for each item, got an empty one"),
        ({"ids": ["a", "3.jpg"]}, "{folder}: '3.jpg' is already there"),
        ({"vectors": np.eye(2)}, "vectors: expected (items, 16), got (2, 2)"),
        ({"vectors": unit(3)}, "vectors: expected 2, one of each id, got 3"),
        ({"vectors": unit(2) * 3}, "vectors: expected norm 1, got 3 for 'a'"),
        ({"vectors": unit(2) * np.nan}, "vectors: expected norm 1, got nan for 'a'"),
        ({"metadata": [{}, [1]]}, "metadata: expected a JSON object for 'b', got [1]"),
        (
            {"metadata": [{}, {"x": float("nan")}]},
            "metadata: expected a JSON object for 'b', got {",
        ),
    ],
)
def test_what_cannot_be_added(tmp_path, change, message):
    gallery = filled(tmp_path / "a")
    before = files_of(tmp_path / "a")
    given = {"ids": ["a", "b"], "identities": ["x", "y"], "vectors": unit(2), "metadata": None}
    with pytest.raises(ConfigError) as error:
        gallery.add(**{**given, **change})
    assert str(error.value).startswith(message.replace("{folder}", str(tmp_path / "a")))
    assert files_of(tmp_path / "a") == before and gallery.version == 2


def test_what_else_is_refused(tmp_path):
    folder = tmp_path / "a"
    with pytest.raises(ConfigError, match=f"^{folder}: expected a gallery$"):
        Gallery(folder)
    gallery = filled(folder)
    with pytest.raises(ConfigError, match=f"^{folder}: expected nothing, got a gallery$"):
        Gallery.create(folder, PRINT, SIZE)
    with pytest.raises(ConfigError, match=r"expected one of the versions 1 to 2, got 7$"):
        Gallery(folder, version=7)
    for call, message in [
        (lambda: gallery.remove(["x", "y"]), "'x', 'y' are not there"),
        (lambda: gallery.remove(list("abcde")), "'a', 'b', 'c' and 2 more are not there"),
        (lambda: gallery.update(["x"], ["x"], unit(1)), "'x' is not there"),
        (lambda: gallery.get(["x"]), "'x' is not there"),
        (lambda: gallery.search(np.eye(3)), r"query: expected \(queries, 16\), got \(3, 3\)"),
        (lambda: gallery.search(unit(1) * np.nan), "query: expected finite numbers"),
        (lambda: gallery.search(unit(1), 0), "k: expected at least 1, got 0"),
        (lambda: gallery.prune(0), "keep: expected at least 1, got 0"),
        (
            lambda: gallery.check_fingerprint("cd" * 32),
            f"expected embeddings of the model {PRINT}, got those of {'cd' * 32}",
        ),
        (
            lambda: Gallery.create(tmp_path / "b", PRINT, SIZE, "int4"),
            "precision: expected one of float32, float16, int8, got 'int4'",
        ),
    ]:
        with pytest.raises(ConfigError, match=message):
            call()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="expected a gallery or nothing, got a folder of files"):
        Gallery.create(tmp_path / "photos", PRINT, SIZE)


def test_a_version_of_another_format_is_refused(tmp_path):
    import hashlib

    gallery = filled(tmp_path / "a")
    path = tmp_path / "a" / "versions" / "00000002.json"
    tree = json.loads(path.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[0])
    for change, message in [
        ({"format": 2}, "expected a gallery of format 1; it is of a newer one"),
        ({"parts": [{**tree["parts"][0], "name": "../x"}]}, "expected names of files"),
    ]:
        body = json.dumps({**tree, **change}).encode()
        path.write_bytes(body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n")
        with pytest.raises(RunError, match=message):
            Gallery(tmp_path / "a")
    assert len(gallery) == 10


def test_ids_with_one_hash_are_told_apart(tmp_path, monkeypatch):
    from keras_featx.gallery import segments

    monkeypatch.setattr(segments, "hashes_of", lambda ids: hashes_of(ids) % np.uint64(2))
    gallery = filled(tmp_path / "a", 30)
    found = gallery.get([f"{i}.jpg" for i in (29, 0, 7)])
    assert found.ids == ["29.jpg", "0.jpg", "7.jpg"]
    assert [more["place"] for more in found.metadata] == [29, 0, 7]
    gallery.remove(["7.jpg"])
    assert gallery.places(["7.jpg", "8.jpg"])[0] is None


def test_settings_go_with_the_version(tmp_path):
    gallery = filled(tmp_path / "a")
    gallery.set(threshold=0.5)
    gallery.set(threshold=None, note="x")
    assert Gallery(tmp_path / "a").settings == {"next_serial": 11, "note": "x"}
    assert Gallery(tmp_path / "a", 3).settings == {"next_serial": 11, "threshold": 0.5}
