"""Galleries from images: only what is new or changed is embedded; killed runs; another model."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from conftest import EMOJI_MINI, ROOT
from PIL import Image

import keras_featx
from keras_featx import Gallery, cli
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.extractors import open_extractor
from keras_featx.gallery.filling import fill, reembed
from keras_featx.gallery.sources import digests, read_wanted

WEIGHTS = "emoji-lcnet-x0_5"


@pytest.fixture(scope="module")
def extractor():
    return open_extractor(WEIGHTS)


@pytest.fixture
def shelf(tmp_path):
    """Three things of two pictures each."""
    for name in ("ant", "bus", "eagle"):
        pictures = sorted((EMOJI_MINI / "test" / name).iterdir())[:2]
        (tmp_path / "shelf" / name).mkdir(parents=True)
        for picture in pictures:
            shutil.copy(picture, tmp_path / "shelf" / name)
    return tmp_path / "shelf"


@pytest.fixture
def counted(extractor, monkeypatch):
    """The paths that are embedded."""
    seen = []
    plain = type(extractor).embed

    def embed(self, samples, *more):
        seen.extend(samples.paths)
        return plain(self, samples, *more)

    monkeypatch.setattr(type(extractor), "embed", embed)
    return seen


def make(folder, extractor, precision="float32"):
    return Gallery.create(folder, extractor.fingerprint, extractor.embedding_size, precision)


def by_id(gallery):
    return {
        one: (identity, vector, more)
        for items in gallery.items()
        for one, identity, vector, more in zip(
            items.ids, items.identities, items.vectors, items.metadata, strict=True
        )
    }


def run(*arguments):
    """A command's result."""
    return cli.main(list(map(str, arguments)))


def test_only_what_is_new_or_changed_is_embedded(tmp_path, shelf, extractor, counted):
    gallery = make(tmp_path / "g", extractor)
    assert fill(gallery, read_wanted(shelf), extractor) == {
        "added": 6, "changed": 0, "unchanged": 0, "embedded": 6,
    }  # fmt: skip
    config = keras_featx.weights.pretrained_config(WEIGHTS, [f"Global.pretrained_model={WEIGHTS}"])
    paths, features = keras_featx.predict(config, shelf)
    found = by_id(gallery)
    for path, feature in zip(paths, features, strict=True):
        identity, vector, more = found[os.path.relpath(path, shelf)]
        np.testing.assert_allclose(vector, feature, atol=1e-6)
        assert identity == os.path.basename(os.path.dirname(path))
        digest = hashlib.sha256(open(path, "rb").read()).hexdigest()
        assert more == {"path": path, "sha256": digest}

    counted.clear()
    assert fill(gallery, read_wanted(shelf), extractor)["unchanged"] == 6
    assert (counted, gallery.version) == ([], 2)

    changed, moved = sorted((shelf / "ant").iterdir())
    Image.fromarray(np.full((9, 9, 3), 200, "uint8")).save(changed)
    (shelf / "bee").mkdir()
    new = shelf / "bee" / "a.png"
    shutil.copy(moved, new)
    assert fill(gallery, read_wanted(shelf), extractor) == {
        "added": 1, "changed": 1, "unchanged": 5, "embedded": 2,
    }  # fmt: skip
    assert sorted(counted) == sorted([str(changed), str(new)])
    assert by_id(gallery)["bee/a.png"][0] == "bee"


def test_another_identity_of_the_same_image_costs_no_embedding(tmp_path, shelf, extractor, counted):
    table = tmp_path / "table.csv"
    table.write_text("path,identity,price\nant/a.png,ant,3\n")
    one = sorted((shelf / "ant").iterdir())[0]
    one.rename(shelf / "ant" / "a.png")
    gallery = make(tmp_path / "g", extractor, "float16")
    fill(gallery, read_wanted(table, shelf), extractor)
    before = by_id(gallery)["ant/a.png"]
    counted.clear()
    table.write_text("path,identity,price\nant/a.png,termite,4\n")
    assert fill(gallery, read_wanted(table, shelf), extractor) == {
        "added": 0, "changed": 1, "unchanged": 0, "embedded": 0,
    }  # fmt: skip
    identity, vector, more = by_id(gallery)["ant/a.png"]
    assert (identity, more["price"], counted) == ("termite", "4", [])
    np.testing.assert_array_equal(vector, before[1])


def test_update_refuses_what_is_not_there(tmp_path, shelf, extractor):
    gallery = make(tmp_path / "g", extractor)
    with pytest.raises(ConfigError) as caught:
        fill(gallery, read_wanted(shelf), extractor, "update")
    first = sorted(path.relative_to(shelf).as_posix() for path in shelf.rglob("*.png"))
    assert str(caught.value) == (
        f"{tmp_path / 'g'}: {first[0]!r}, {first[1]!r}, {first[2]!r} and 3 more are not there"
    )
    assert len(gallery) == 0


def test_boxes_are_items_of_their_own(tmp_path, shelf, extractor):
    picture = np.zeros((64, 128, 3), "uint8")
    picture[:, :64] = (250, 20, 20)
    picture[:, 64:, 2] = np.arange(64) * 4
    Image.fromarray(picture).save(tmp_path / "two.png")
    table = tmp_path / "boxes.csv"
    table.write_text('path,label,box\ntwo.png,red,"0 0 64 64"\ntwo.png,blue,"64,0,128,64"\n')
    gallery = make(tmp_path / "g", extractor)
    fill(gallery, read_wanted(table, tmp_path), extractor)
    found = by_id(gallery)
    assert sorted(found) == ["two.png#0,0,64,64", "two.png#64,0,128,64"]
    whole = Samples("parts", ["a", "b"], np.zeros(2, int), [1, 2],
                    pixels=[picture[:, :64], picture[:, 64:]])  # fmt: skip
    (want,) = extractor.embed(whole)
    for one, vector in zip(sorted(found), want, strict=True):
        np.testing.assert_allclose(found[one][1], vector, atol=1e-6)
    assert reembed(gallery, extractor) == {"items": 2, "embedded": 2}
    again = by_id(gallery)
    assert all(np.array_equal(again[one][1], found[one][1]) for one in found)


def test_a_run_that_was_killed_is_gone_on_with(tmp_path, extractor):
    """At any moment: what is noted is not embedded again, and the gallery is as it was."""
    code = textwrap.dedent(
        f"""
        from keras_featx import Gallery
        from keras_featx.extractors import open_extractor
        from keras_featx.gallery import filling
        from keras_featx.gallery.sources import read_wanted

        filling._NOTED = 64
        extractor = open_extractor({WEIGHTS!r})
        gallery = Gallery({str(tmp_path / "g")!r})
        print("begun", flush=True)
        filling.fill(gallery, read_wanted({str(EMOJI_MINI / "test")!r}), extractor)
        """
    )
    make(tmp_path / "g", extractor)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    process.stdout.readline()
    pending = tmp_path / "g" / "pending"
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(pending.rglob("[!.]*.npz")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    noted = sum(len(np.load(path)["digests"]) for path in pending.rglob("[!.]*.npz"))
    gallery = Gallery(tmp_path / "g")
    assert noted >= 64 and len(gallery) in (0, 240)
    done = fill(gallery, read_wanted(EMOJI_MINI / "test"), extractor)
    assert (len(gallery), gallery.check()) == (240, [])
    if done["added"]:  # killed before the change
        assert done["embedded"] == 240 - noted
        assert not list(pending.rglob("[!.]*"))
    whole = make(tmp_path / "whole", extractor)
    fill(whole, read_wanted(EMOJI_MINI / "test"), extractor)
    one, other = by_id(gallery), by_id(whole)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name][1], other[name][1], atol=1e-6)


def test_damaged_notes_are_embedded_again(tmp_path, shelf, extractor, caplog):
    gallery = make(tmp_path / "g", extractor)
    notes = tmp_path / "g" / "pending" / extractor.fingerprint[:16]
    notes.mkdir(parents=True)
    (notes / "a.npz").write_bytes(b"PK\x03\x04 cut")
    assert fill(gallery, read_wanted(shelf), extractor)["embedded"] == 6
    assert "a.npz is damaged: what it held is embedded again" in caplog.text
    assert not (tmp_path / "g" / "pending").exists()


def test_an_image_that_cannot_be_decoded_changes_nothing(tmp_path, shelf, extractor):
    gallery = make(tmp_path / "g", extractor)
    (shelf / "ant" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(RunError, match=r"ant/bad\.png"):
        fill(gallery, read_wanted(shelf), extractor)
    assert (len(gallery), gallery.version) == (0, 1)


def test_another_model_is_refused(tmp_path, shelf, extractor):
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, 256)
    with pytest.raises(ConfigError) as caught:
        fill(gallery, read_wanted(shelf), extractor)
    assert str(caught.value) == (
        f"{tmp_path / 'g'}: expected embeddings of the model {'ab' * 32}, got those of "
        f"{extractor.fingerprint}"
    )
    with pytest.raises(ConfigError, match="expected a model to embed images with, got none"):
        fill(gallery, read_wanted(shelf))


def test_reembedding_keeps_all_but_the_vectors(tmp_path, shelf, extractor):
    wanted = read_wanted(shelf)
    gallery = Gallery.create(tmp_path / "g", "ab" * 32, 4, settings={"threshold": 0.5, "shop": 7})
    more = [
        {**own, "sha256": one}
        for own, one in zip(wanted.metadata, digests(wanted.samples), strict=True)
    ]
    gallery.add(wanted.ids, wanted.identities, np.tile(np.eye(4)[0], (6, 1)), more)
    gallery.remove([wanted.ids[0]])
    assert reembed(gallery, extractor) == {"items": 5, "embedded": 5}
    assert (gallery.fingerprint, gallery.manifest.size) == (extractor.fingerprint, 256)
    assert "threshold" not in gallery.settings and gallery.settings["shop"] == 7
    fresh = make(tmp_path / "fresh", extractor, "float16")
    fill(fresh, wanted, extractor)
    one, other = by_id(gallery), by_id(fresh)
    assert list(one) == wanted.ids[1:]
    for name in one:
        assert one[name][0] == other[name][0] and one[name][2] == other[name][2]
        np.testing.assert_array_equal(one[name][1], other[name][1])
    assert fill(gallery, read_wanted(shelf), extractor)["embedded"] == 1
    old = Gallery(tmp_path / "g", version=2)
    assert (old.fingerprint, old.manifest.size, len(old)) == ("ab" * 32, 4, 6)


def test_reembedding_refuses_what_it_cannot_do(tmp_path, shelf, extractor):
    gallery = make(tmp_path / "g", extractor)
    fill(gallery, read_wanted(shelf), extractor)
    changed = sorted((shelf / "bus").iterdir())[0]
    Image.fromarray(np.zeros((8, 8, 3), "uint8")).save(changed)
    with pytest.raises(RunError) as caught:
        reembed(gallery, extractor)
    assert str(caught.value) == (
        f"{changed}: expected the image that was added as 'bus/{changed.name}', got another; "
        "update it first"
    )
    fill(gallery, read_wanted(shelf), extractor)
    elsewhere = tmp_path / "elsewhere"
    shelf.rename(elsewhere)
    with pytest.raises(RunError, match="No such file or directory"):
        reembed(gallery, extractor)
    assert reembed(gallery, extractor, (str(shelf), str(elsewhere)))["items"] == 6
    gallery.add(["x"], ["x"], np.eye(256)[:1])
    with pytest.raises(ConfigError) as caught:
        reembed(gallery, extractor)
    assert str(caught.value) == (
        f"{tmp_path / 'g'}: 'x' was added without an image of its own; it cannot be embedded again"
    )


def test_embeddings_from_files(tmp_path, extractor):
    pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    vectors = np.eye(256, dtype="float32")[:3]
    np.savez(
        tmp_path / "a.npz", ids=["a", "b", "c"], identities=["x", "x", "y"], features=vectors,
        fingerprint=extractor.fingerprint,
    )  # fmt: skip
    gallery = make(tmp_path / "g", extractor)
    assert fill(gallery, read_wanted(tmp_path / "a.npz"))["added"] == 3
    assert fill(gallery, read_wanted(tmp_path / "a.npz"))["unchanged"] == 3
    columns = {
        "id": ["c", "d"], "identity": ["y", "z"], "embedding": vectors[[1, 2]].tolist(),
        "price": [1.5, None],
    }  # fmt: skip
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    counts = fill(gallery, read_wanted(tmp_path / "a.parquet"))
    assert counts == {"added": 1, "changed": 1, "unchanged": 0, "embedded": 0}
    found = by_id(gallery)
    assert found["d"][::2] == ("z", {"price": None}) and found["c"][2] == {"price": 1.5}
    np.testing.assert_array_equal(found["c"][1], vectors[1])


def bad_sources(folder):
    (folder / "a.csv").write_text("path,identity\n")
    (folder / "b.csv").write_text("path,thing\na.png,x\n")
    (folder / "c.csv").write_text('path,identity,box\na.png,x,"5 5 2 2"\n')
    (folder / "d.csv").write_text("path,identity,sha256\na.png,x,7\n")
    (folder / "e.csv").write_text("path,identity\nnone.png,x\n")
    (folder / "f.parquet").write_bytes(b"PAR1")
    np.savez(folder / "g.npz", ids=["a"])
    (folder / "h.npz").write_bytes(b"nothing")
    Image.fromarray(np.zeros((9, 9, 3), "uint8")).save(folder / "a.png")
    return {
        "none": "none: expected a folder with one folder per identity, .csv, .parquet, .npz, or "
        "{name: ..., ...}",
        "a.csv": "a.csv: expected rows below the heading, got none",
        "b.csv": "b.csv:1: expected a column 'identity' or 'label', got ['path', 'thing']",
        "c.csv": "c.csv:2: expected a box 'left top right bottom' with left < right, got '5 5 2 2'",
        "d.csv": "d.csv: expected no column 'sha256': the gallery has one of its own",
        "e.csv": "e.csv:2: missing image './none.png'",
        "g.npz": "g.npz: expected arrays ids, identities, features and fingerprint, got ['ids']",
        "h.npz": "h.npz: expected a readable .npz file: ",
    }


def test_sources_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, message in bad_sources(tmp_path).items():
        with pytest.raises(ConfigError) as caught:
            read_wanted(name, ".")
        assert str(caught.value).startswith(message), name
    pytest.importorskip("pyarrow")
    with pytest.raises(ConfigError, match=r"^f\.parquet: expected a Parquet file: "):
        read_wanted("f.parquet")


def test_the_commands(tmp_path, shelf, capsys):
    folder = tmp_path / "g"

    def result(*arguments):
        assert run("gallery", *arguments) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    built = result("build", folder, shelf, "--model", WEIGHTS)
    assert built == {
        "added": 6, "changed": 0, "unchanged": 0, "embedded": 6, "gallery": str(folder),
        "version": 2, "items": 6, "identities": 3,
    }  # fmt: skip
    assert Gallery(folder).settings["model"] == WEIGHTS
    assert result("add", folder, shelf)["unchanged"] == 6
    assert result("remove", folder, "--identity", "ant")["items"] == 4
    one = sorted((shelf / "bus").iterdir())[0]
    assert result("remove", folder, f"bus/{one.name}")["removed"] == 1
    assert result("rollback", folder, 2)["items"] == 6
    assert result("update", folder, shelf)["unchanged"] == 6
    assert result("compact", folder)["version"] == 6
    assert result("prune", folder, "--keep", 1)["forgotten"] == [1, 2, 3, 4, 5]
    assert result("check", folder)["damaged"] == 0
    assert result("reembed", folder, "--model", WEIGHTS)["embedded"] == 6


def test_what_the_commands_refuse(tmp_path, shelf, capsys):
    folder = tmp_path / "g"

    def refused(status, *arguments):
        assert run("gallery", *arguments) == status
        return capsys.readouterr().err.splitlines()[-1]

    assert refused(2, "add", folder, shelf) == f"error: {folder}: expected a gallery"
    assert refused(2, "build", folder, shelf) == (
        f"error: --model: expected the model to embed {shelf} with"
    )
    assert refused(2, "build", folder, shelf, "--model", "none") == (
        "error: none: expected an export, a folder of weights, or one of ['emoji-lcnet-x0_5']"
    )
    assert run("gallery", "build", folder, shelf, "--model", WEIGHTS) == 0
    assert refused(2, "build", folder, shelf, "--model", WEIGHTS) == (
        f"error: {folder}: expected nothing, got a gallery (--overwrite replaces it, `add` adds to "
        "it)"
    )
    assert refused(2, "remove", folder) == "error: ID: expected ids, or --identity NAME"
    assert refused(2, "remove", folder, "--identity", "cow") == (
        f"error: --identity: expected an identity of {folder}, got 'cow'"
    )
    assert refused(2, "remove", folder, "cow") == f"error: {folder}: 'cow' is not there"
    assert refused(2, "rollback", folder, 7) == (
        f"error: {folder}: expected one of the versions 1 to 2, got 7"
    )
    assert refused(2, "reembed", folder, "--model", WEIGHTS, "--moved", "x") == (
        "error: --moved: expected OLD=NEW, got 'x'"
    )
    vectors = next((folder / "segments").rglob("vectors.npy"))
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    assert refused(1, "check", folder) == f"error: {vectors}: damaged: its checksum is another"


def test_questions_on_the_command_line(tmp_path, shelf, capsys):
    folder, panel = tmp_path / "g", tmp_path / "panel.html"

    def result(*arguments):
        assert run("gallery", *arguments) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    result("build", folder, shelf, "--model", WEIGHTS, "--backend", "exact")
    stranger = EMOJI_MINI / "test" / "basketball"
    for name in ("basketball", "dagger"):
        shutil.copytree(stranger.parent / name, tmp_path / "strangers" / name)
    calibrated = result("calibrate", folder, "--far", "0.3", "--unknown", tmp_path / "strangers")
    assert (calibrated["unknown"], calibrated["known"]) == ([12, 2], [6, 3])
    kept = Gallery(folder).settings
    assert kept["rule"]["threshold"] == kept["threshold"] == calibrated["threshold"]
    assert kept["calibration"]["far"] == 0.3 and kept["backend"] == "exact"

    found = result("search", folder, shelf / "ant", stranger, "-k", 2, "--output", panel)
    ours = [one for one in found["results"] if "ant" in one["image"]]
    assert len(ours) == 2 and all(one["identity"] == "ant" for one in ours)
    assert all(one["similarity"] > 0.9999 and len(one["neighbours"]) == 2 for one in ours)
    assert "basketball" in panel.read_text() and panel.read_text().startswith("<!DOCTYPE html>")
    lines = tmp_path / "a.jsonl"
    result("search", folder, shelf / "bus", "--output", lines, "--threshold", 1.5)
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["identity"] for row in rows] == [None, None]
    assert rows[0]["why"] == f"below the threshold 1.5: {rows[0]['similarity']:.4g}"

    measured = result("evaluate", folder, stranger.parent, "--output", tmp_path / "out")
    assert measured["known"]["queries"] == 18 and measured["unknown"]["queries"] == 222
    assert json.loads((tmp_path / "out" / "open_set.json").read_text()) == measured
    info = result("info", folder, "--examine", "--output", tmp_path / "info.html")
    assert info["items_of_an_identity"] == [2, 2] and info["outliers"] == []
    assert info["embedding_size"] == 256 and (tmp_path / "info.html").stat().st_size > 10_000

    picture = next((shelf / "eagle").iterdir())
    with Image.open(picture) as image:
        width, height = image.size
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"path,left,top,right,bottom\n{picture},0,0,{width},{height}\n")
    scene = result("search", folder, picture, "--boxes", boxes, "--output", tmp_path / "s.png")
    (part,) = scene["results"][0]["found"]
    assert (part["box"], part["identity"]) == ([0, 0, width, height], "eagle")


def test_questions_that_are_refused(tmp_path, shelf, capsys):
    folder = tmp_path / "g"
    assert run("gallery", "build", folder, shelf, "--model", WEIGHTS) == 0
    picture = next((shelf / "eagle").iterdir())

    def refused(*arguments):
        assert run("gallery", *arguments) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert refused("search", folder, picture, "--output", "a.txt") == (
        "error: --output: expected a name ending in .jsonl, .html, .png, got 'a.txt'"
    )
    assert refused("search", folder, picture, "-k", 0) == "error: -k: expected at least 1, got 0"
    assert refused("search", folder, picture, "--windows") == (
        f"error: {folder}: parts of images need a threshold: calibrate, or --threshold"
    )
    assert refused("search", folder, tmp_path / "none") == (
        f"error: {tmp_path / 'none'}: expected an image or a folder of images, found neither"
    )
    assert refused("search", folder, picture, "--backend", "{name: milvus, token: a}") == (
        "error: backend milvus: uri: expected one, got None"
    )
    assert (
        refused(
            "search",
            folder,
            picture,
            "--backend",
            "{name: milvus, uri: a, collection: b, token: c}",
        )
        == "error: --backend: token: expected in the environment, MILVUS_TOKEN"
    )
    assert refused("calibrate", folder) == (
        "error: far: expected at least 100 strangers to tell a share of 0.01, got 6"
    )
    shutil.rmtree(folder)
    export = tmp_path / "export"
    shutil.copytree(keras_featx.weights.SHIPPED / WEIGHTS, export)
    assert run("gallery", "build", folder, shelf, "--model", export) == 0
    shutil.rmtree(export)
    assert refused("search", folder, picture) == (
        f"error: {folder}: the model that built it is not there; name it by --model: {export}: "
        "expected an export, a folder of weights, or one of ['emoji-lcnet-x0_5']"
    )
