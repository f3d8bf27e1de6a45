"""Workers that embed shares of a list give what one network gives of all of it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import EMOJI_MINI, ROOT

from keras_featx import cli, embed
from keras_featx.bulk import EmbedBatch, embed_shards, merge_shards
from keras_featx.errors import ConfigError, RunError
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
