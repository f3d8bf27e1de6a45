"""Workers that embed shares of a list give what one network gives of all of it."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import EMOJI_MINI, ROOT

from keras_featx import cli, embed
from keras_featx.bulk import EmbedBatch, embed_shards, merge_shards
from keras_featx.errors import ConfigError, RunError
from keras_featx.extractors import open_extractor
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.sources import read_wanted
from keras_featx.models import build_model

NAME = "emoji-lcnet-x0_5"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A list of 25 images, in no order."""
    files = sorted((EMOJI_MINI / "test").rglob("*.png"))[:25]
    order = np.random.default_rng(0).permutation(len(files))
    path = tmp_path_factory.mktemp("list") / "images.csv"
    rows = [f"{files[i]},{files[i].parent.name}" for i in order]
    path.write_text("path,identity\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def expected(table):
    """By another way: Keras, all images at once."""
    wanted = read_wanted(table)
    return wanted, embed(build_model(NAME), wanted.samples)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_workers_together_embed_each_image_once_in_order(kind, workers, table, expected, tmp_path):
    wanted, vectors = expected
    shards = 0
    for i in reversed(range(workers)):
        told = embed_shards(NAME, table, tmp_path, worker=(i, workers), shard_size=4, format=kind)
        shards += told["written"]
        assert told["shards"] == told["written"] == len(range(i, 7, workers))
    assert shards == 7
    assert merge_shards(tmp_path) == {
        "output": str(tmp_path / f"embeddings.{kind}"),
        "images": 25,
        "shards": 7,
    }
    if kind == "npy":
        found = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
        items = json.loads((tmp_path / "embeddings.json").read_text())
        assert items == {"ids": wanted.ids, "identities": wanted.identities}
    else:
        pytest.importorskip("pyarrow")
        again = read_wanted(tmp_path / "embeddings.parquet")
        assert (again.ids, again.identities) == (wanted.ids, wanted.identities)
        found = again.vectors
    np.testing.assert_allclose(found, vectors, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_killed_worker_goes_on_and_others_may_take_over(table, expected, tmp_path):
    code = f"""
import os
from keras_featx import bulk

write = bulk._write

def killed(folder, k, *rest):
    write(folder, k, *rest)
    if k == 2:
        (folder / "shard-00004.npy").write_bytes(b"half")  # of a shard that nobody vouches for
        os.kill(os.getpid(), 9)

bulk._write = killed
bulk.embed_shards({NAME!r}, {str(table)!r}, {str(tmp_path)!r}, worker=(0, 2), shard_size=4,
                  format="npy")
"""
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert child.returncode == -9
    with pytest.raises(RunError) as error:
        merge_shards(tmp_path)
    assert str(error.value) == (f"{tmp_path}: expected 7 shards, 5 are missing, the first is 1")
    told = embed_shards(NAME, table, tmp_path, shard_size=4, format="npy")
    assert (told["written"], told["there"]) == (5, 2)
    merge_shards(tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected[1], atol=1e-6)


def test_half_precision_and_a_damaged_shard(table, expected, tmp_path):
    embed_shards(NAME, table, tmp_path, shard_size=20, format="npy", dtype="float16")
    path = tmp_path / "shard-00001.npy"
    assert np.load(path).dtype == np.float16
    np.testing.assert_allclose(np.load(path), expected[1][20:], atol=1e-3)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError) as error:
        merge_shards(tmp_path)
    assert str(error.value) == (
        f"{path}: damaged: its checksum is another; remove it and embed again"
    )
    assert not list(tmp_path.glob("embeddings*")) and not list(tmp_path.glob(".*"))
    path.unlink()
    assert embed_shards(
        NAME, table, tmp_path, shard_size=20, format="npy", dtype="float16"
    )["written"] == 1  # fmt: skip
    assert merge_shards(tmp_path)["images"] == 25


def test_the_number_of_workers_changes_no_byte(table, tmp_path):
    for kind in ("npy", "parquet"):
        whole = set()
        for workers in (1, 2, 3):
            folder = tmp_path / f"{kind}{workers}"
            for i in range(workers):
                embed_shards(NAME, table, folder, worker=(i, workers), shard_size=4, format=kind)
            merge_shards(folder)
            whole.add((folder / f"embeddings.{kind}").read_bytes())
        assert len(whole) == 1, kind


def test_a_shard_cut_short_is_embedded_again(table, expected, tmp_path):
    embed_shards(NAME, table, tmp_path, shard_size=20, format="npy")
    path, note = tmp_path / "shard-00001.npy", tmp_path / "shard-00000.json"
    path.write_bytes(path.read_bytes()[:-1])
    note.write_text("[]")
    with pytest.raises(RunError) as error:
        merge_shards(tmp_path)
    assert str(error.value) == f"{tmp_path}: expected 2 shards, 2 are missing, the first is 0"
    assert embed_shards(NAME, table, tmp_path, shard_size=20, format="npy")["written"] == 2
    merge_shards(tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected[1], atol=1e-6)


def other_extractor():
    """One whose embeddings point the other way."""
    real = open_extractor(NAME)
    return dataclasses.replace(
        real,
        fingerprint="0" * 64,
        embeddings=lambda batches: (-x for x in real.embeddings(batches)),
    )


def test_two_extractors_that_begin_at_the_same_moment_are_not_mixed(table, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("keras_featx.bulk._read_manifest", lambda folder: None)  # both find none
        for i, extractor in enumerate((NAME, other_extractor())):
            embed_shards(extractor, table, tmp_path, worker=(i, 2), shard_size=20, format="npy")
    with pytest.raises(RunError) as error:
        merge_shards(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'shard-00000.json'}: expected a shard of the run of manifest.json, got one "
        "of another; remove it and embed again"
    )


def test_another_extractor_is_refused(table, tmp_path):
    embed_shards(NAME, table, tmp_path, worker=(6, 7), shard_size=4, format="npy")
    with pytest.raises(ConfigError) as error:
        embed_shards(other_extractor(), table, tmp_path, shard_size=4, format="npy")
    assert str(error.value) == (
        f"{tmp_path / 'manifest.json'}: fingerprint: expected '{'0' * 64}' as of this run, got "
        f"'{open_extractor(NAME).fingerprint}'; give another folder"
    )


@pytest.mark.parametrize("change", ["box", "path", "nothing"])
def test_the_same_ids_of_other_pictures_are_another_list(change, tmp_path):
    files = [path.name for path in sorted((EMOJI_MINI / "test" / "ant").glob("*.png"))[:2]]
    root = tmp_path / "moved"  # machines may see the images by different names
    root.symlink_to(EMOJI_MINI / "test" / "ant")
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    text = "path,identity,id,box\n{},x,0,0 0 30 30\n{},x,1,{}\n"
    first.write_text(text.format(*files, "0 0 30 30"))
    box = "5 5 20 20" if change == "box" else "0 0 30 30"
    second.write_text(text.format(*(files[::-1] if change == "path" else files), box))
    run = {"format": "npy", "shard_size": 1}
    embed_shards(NAME, first, tmp_path / "shards", image_root=root.resolve(), **run)
    again = {"image_root": root, **run}
    if change == "nothing":
        assert embed_shards(NAME, second, tmp_path / "shards", **again)["there"] == 2
        return
    with pytest.raises(ConfigError, match="manifest.json: list: expected '[0-9a-f]{64}' as of"):
        embed_shards(NAME, second, tmp_path / "shards", **again)


def test_a_manifest_of_something_else(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(RunError) as error:
        merge_shards(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'manifest.json'}: expected a manifest of keras-featx embed"
    )


def test_an_image_that_cannot_be_decoded_ends_the_worker(tmp_path):
    image, path = tmp_path / "bad.png", tmp_path / "list.csv"
    image.write_bytes(b"no image")
    path.write_text(f"path,identity\n{image},x\n")
    with pytest.raises(RunError, match=f"{image}: expected a decodable image: "):
        embed_shards(NAME, path, tmp_path / "shards", format="npy")
    assert [one.name for one in (tmp_path / "shards").iterdir()] == ["manifest.json"]


def test_a_gallery_knows_whose_embeddings_were_merged(table, tmp_path):
    pytest.importorskip("pyarrow")
    embed_shards(NAME, table, tmp_path, dtype="float16")
    merge_shards(tmp_path)
    wanted = read_wanted(tmp_path / "embeddings.parquet")
    assert wanted.fingerprint == open_extractor(NAME).fingerprint
    folder = tmp_path / "gallery"
    build = ["gallery", "build", str(folder), str(tmp_path / "embeddings.parquet")]
    assert cli.main(build) == 0
    with pytest.raises(ConfigError) as error:
        Gallery(folder).check_fingerprint("0" * 64)
    assert str(error.value) == (
        f"{folder}: expected embeddings of the model {wanted.fingerprint}, got those of {'0' * 64}"
    )


def test_another_run_in_the_same_folder_is_refused(table, tmp_path):
    embed_shards(NAME, table, tmp_path, worker=(6, 7), shard_size=4, format="npy")
    shorter = tmp_path / "shorter.csv"
    shorter.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    for changed, message in (
        ({"shard_size": 5}, "shard_size: expected 5 as of this run, got 4"),
        ({"dtype": "float16"}, "dtype: expected 'float16' as of this run, got 'float32'"),
        ({"source": shorter}, "images: expected 24 as of this run, got 25"),
    ):
        given = {"source": table, "shard_size": 4, "format": "npy", **changed}
        with pytest.raises(ConfigError) as error:
            embed_shards(NAME, given.pop("source"), tmp_path, **given)
        assert str(error.value) == f"{tmp_path / 'manifest.json'}: {message}; give another folder"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"worker": (2, 2)}, "worker: expected an index below the count, got [2, 2]"),
        ({"shard_size": 0}, "shard_size: expected at least 1, got 0"),
        ({"format": "csv"}, "format: expected one of parquet, npy, got 'csv'"),
        ({"dtype": "int8"}, "dtype: expected 'float32' or 'float16', got 'int8'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message, table, tmp_path):
    with pytest.raises(ConfigError) as error:
        embed_shards(NAME, table, tmp_path / "new", **arguments)
    assert str(error.value) == message
    assert not (tmp_path / "new").exists()


def test_the_commands(table, tmp_path, capsys):
    folder = str(tmp_path / "shards")
    run = ["embed", NAME, str(table), "--output", folder, "--format", "npy", "--shard-size", "15"]
    for i in range(2):
        assert cli.main([*run, "--worker", str(i), "--workers", "2"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (told["written"], told["images"]) == (1, (15, 10)[i])
    assert cli.main(["merge-shards", folder]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 25
    assert cli.main(["merge-shards", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {tmp_path}: expected a folder of keras-featx embed, with manifest.json"
    )
    assert cli.main([*run, "--batch-size", "0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: --batch-size: expected at least 1, got 0"
    )


def test_the_step_of_other_engines_is_the_same(table, expected):
    wanted, vectors = expected
    found = EmbedBatch(NAME)({"path": np.array(wanted.samples.paths[:5]), "row": np.arange(5)})
    np.testing.assert_allclose(found["embedding"], vectors[:5], atol=1e-6)
    assert found["row"].tolist() == list(range(5))
    assert EmbedBatch(NAME)({"path": np.array([], str)})["embedding"].shape == (0, 256)


def test_ray_runs_the_step(table, expected):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    wanted, vectors = expected
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        data = ray.data.from_items([{"path": path} for path in wanted.samples.paths])
        done = data.map_batches(
            EmbedBatch, fn_constructor_args=(NAME,), concurrency=1, batch_size=8
        ).take_all()
    finally:
        ray.shutdown()
    found = {row["path"]: row["embedding"] for row in done}
    ours = np.stack([found[path] for path in wanted.samples.paths])
    np.testing.assert_allclose(ours, vectors, atol=1e-6)
