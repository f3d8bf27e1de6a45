"""Packing: everything of a data set comes back, a stopped pack goes on, others are refused."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, ROOT, tiny_config
from PIL import Image

from keras_featx import cli, evaluation, images, packing
from keras_featx.config import apply_overrides, dump_config, from_dict, to_dict
from keras_featx.data import encoding, files, memory, pack_plan, pack_shards, pipeline, shards
from keras_featx.data.folders import class_folders
from keras_featx.data.labels import class_names
from keras_featx.data.lists import veri_wild_list
from keras_featx.data.pack import pack, pack_dataset
from keras_featx.data.packed import packed
from keras_featx.data.tables import csv_list
from keras_featx.data.tars import tars
from keras_featx.data.tfrecords import tfrecords
from keras_featx.errors import ConfigError, RunError
from keras_featx.models import build_model
from keras_featx.training_data import load_training_data

FORMATS = ("tfrecord", "tar")


def bytes_of(samples):
    if samples.spans is None:
        return [files.read_bytes(path) for path in samples.paths]
    spans = samples.spans.tolist()
    return [files.read_range(p, *span) for p, span in zip(samples.paths, spans, strict=True)]


def content(folder):
    """All files of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refusal(kind, call, *arguments, **keywords):
    with pytest.raises(kind) as error:
        call(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def full(tmp_path):
    """48 pictures with names, ids, cameras, groups and boxes; some have no box."""
    rows = (EMOJI_MINI / "train_list.txt").read_text().splitlines()[:48]
    lines = ["path,label,id,camera,group,box"]
    for i, row in enumerate(rows):
        path = row.split()[0]
        box = f"{i % 7} 3 {40 + i % 5} 50" if i % 3 else ""
        lines.append(f'{path},"{path.split("/")[1]}",n{i},cam{i % 3},run{i % 5},{box}')
    (tmp_path / "full.csv").write_text("\n".join(lines) + "\n")
    return csv_list(image_root=str(EMOJI_MINI), cls_label_path=str(tmp_path / "full.csv"))


def check_same(samples, other):
    assert bytes_of(samples) == bytes_of(other)
    assert samples.names == other.names
    for name in ("labels", "ids", "cameras", "groups", "boxes"):
        mine, theirs = getattr(samples, name), getattr(other, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype


@pytest.mark.parametrize("form", FORMATS)
def test_everything_comes_back(full, tmp_path, form):
    result = pack(full, tmp_path / "out", format=form, shard_mb=0.03)
    assert (result["images"], result["resumed_shards"]) == (48, 0)
    assert result["shards"] > 2
    again = packed(folder=f"{tmp_path}/out", part="train")
    check_same(again, full)
    assert again.rows.tolist() == list(range(1, 49))
    shards = sorted((tmp_path / "out").glob(f"train-*.{form}"))
    assert [s.name for s in shards] == [
        f"train-{k:05d}-of-{len(shards):05d}.{form}" for k in range(result["shards"])
    ]
    assert result["bytes"] == sum(s.stat().st_size for s in shards)
    names = [n for n in content(tmp_path / "out") if not n.endswith(form)]
    assert names == [
        "train.index.npz",
        "train.manifest.json",
        "train_classes.txt",
        "train_list.csv",
    ]


def test_other_programs_read_the_records(full, tmp_path):
    """With TensorFlow's own reader and parser."""
    pack(full, tmp_path, shard_mb=0.05)
    paths = sorted(map(str, tmp_path.glob("*.tfrecord")))
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/format": tf.io.FixedLenFeature([], tf.string),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
        "image/id": tf.io.FixedLenFeature([], tf.string),
        "image/camera": tf.io.FixedLenFeature([], tf.string),
        "image/group": tf.io.FixedLenFeature([], tf.string),
        "image/box": tf.io.FixedLenFeature([4], tf.int64),
    }
    rows = list(
        tf.data.TFRecordDataset(paths).map(lambda r: tf.io.parse_single_example(r, features))
    )
    assert [row["image/encoded"].numpy() for row in rows] == bytes_of(full)
    assert [int(row["image/class/label"]) for row in rows] == full.labels.tolist()
    texts = [row["image/class/text"].numpy().decode() for row in rows]
    assert texts == [full.names[label] for label in full.labels]
    assert [row["image/id"].numpy().decode() for row in rows] == full.ids.tolist()
    assert [row["image/camera"].numpy().decode() for row in rows] == full.cameras.tolist()
    assert [row["image/group"].numpy().decode() for row in rows] == full.groups.tolist()
    assert [row["image/box"].numpy().tolist() for row in rows] == full.boxes.tolist()
    assert {row["image/format"].numpy() for row in rows} == {b"png"}
    root = os.path.commonpath([os.path.dirname(path) for path in full.paths])
    short = [os.path.relpath(path, root) for path in full.paths]
    assert [row["image/filename"].numpy().decode() for row in rows] == short


def test_other_programs_read_the_tars(full, tmp_path):
    pack(full, tmp_path, format="tar", shard_mb=0.05)
    groups = {}
    for path in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                assert (member.mtime, member.mode, member.uname) == (0, 0o644, "")
                key, _, suffix = member.name.partition(".")
                groups.setdefault(key, {})[suffix] = archive.extractfile(member).read()
    assert list(groups) == [f"{i:09d}" for i in range(48)]
    for i, (group, data) in enumerate(zip(groups.values(), bytes_of(full), strict=True)):
        assert list(group) == ["cls", "json", "png"] and group["png"] == data
        assert int(group["cls"]) == full.labels[i]
        facts = json.loads(group["json"])
        assert facts.pop("path") == "/".join(full.paths[i].split("/")[-2:])
        assert facts == {
            "label": full.labels[i], "name": full.names[full.labels[i]], "id": full.ids[i],
            "camera": full.cameras[i], "group": full.groups[i], "box": full.boxes[i].tolist(),
        }  # fmt: skip


def test_without_its_index_a_set_is_read_through(full, tmp_path):
    """Then what is wanted besides images and labels must be named."""
    for form in FORMATS:
        pack(full, tmp_path, form, format=form, shard_mb=0.05)
        (tmp_path / f"{form}.index.npz").unlink()
    check_same(
        tfrecords(
            files=f"{tmp_path}/*.tfrecord", name_key="image/class/text", id_key="image/id",
            camera_key="image/camera", group_key="image/group", box_keys=("image/box",),
        ),
        full,
    )  # fmt: skip
    keys = {f"{name}_key": name for name in ("name", "id", "camera", "group", "box")}
    check_same(tars(files=f"{tmp_path}/*.tar", **keys), full)


@pytest.mark.parametrize(("form", "read"), [("tfrecord", tfrecords), ("tar", tars)])
def test_an_index_beside_the_shards_is_used(full, tmp_path, form, read, caplog):
    pack(full, tmp_path, format=form, shard_mb=0.05)
    pattern = f"{tmp_path}/train-*.{form}"
    check_same(read(files=pattern), full)
    first = f"{tmp_path}/train-00000-*"
    some = read(files=first)
    check_same(some, full.take(np.arange(len(some))))
    assert 0 < len(some) < 48 and "no index" not in caplog.text
    caplog.set_level("INFO")
    assert read(files=pattern, label_offset=0, labels="numbers").ids is None
    assert "has what other keys lead to; the shards are read" in caplog.text
    shard = next(tmp_path.glob(first.split("/")[-1]))
    size = shard.stat().st_size
    with open(shard, "ab") as file:
        file.write(b"x")
    message = (
        f"{shard}: expected {size} bytes, as {tmp_path}/train.index.npz has it, got {size + 1}: "
        "remove the index to have the shards read, or write both anew"
    )
    assert refusal(ConfigError, read, files=pattern) == message
    assert refusal(ConfigError, packed, folder=str(tmp_path)) == message


def test_the_list_and_the_manifest_say_what_is_there(full, tmp_path):
    pack(full, tmp_path, shard_mb=0.05)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "train_list.csv").read_text())))
    assert [row["row"] for row in rows] == [str(i) for i in range(1, 49)]
    assert [row["name"] for row in rows] == [full.names[label] for label in full.labels]
    assert [row["group"] for row in rows] == full.groups.tolist()
    assert [row["box"] for row in rows] == [" ".join(map(str, b)) for b in full.boxes.tolist()]
    data = bytes_of(full)
    for i, row in enumerate(rows):
        raw = (tmp_path / row["shard"]).read_bytes()
        first = int(row["offset"])
        assert raw[first : first + int(row["length"])] == data[i]
    assert class_names(str(tmp_path / "train_classes.txt"), 8) == full.names
    manifest = json.loads((tmp_path / "train.manifest.json").read_text())
    assert (manifest["images"], manifest["classes"], manifest["source"]) == (48, 8, full.source)
    for shard in manifest["shards"]:
        raw = (tmp_path / shard["file"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert sum(shard["images"] for shard in manifest["shards"]) == 48


def test_numbers_stay_numbers(full, tmp_path):
    numbered = dataclasses.replace(
        full, ids=np.arange(48), groups=np.arange(48) // 7, cameras=None, boxes=None, names=None
    )
    for form in FORMATS:
        pack(numbered, tmp_path, form, format=form)
        check_same(packed(folder=str(tmp_path), part=form), numbered)
        (tmp_path / f"{form}.index.npz").unlink()
    check_same(
        tfrecords(files=f"{tmp_path}/*.tfrecord", id_key="image/id", group_key="image/group"),
        numbered,
    )
    check_same(tars(files=f"{tmp_path}/*.tar", id_key="id", group_key="group"), numbered)


@pytest.mark.parametrize(("form", "read"), [("tfrecord", tfrecords), ("tar", tars)])
def test_an_index_from_before_there_were_groups_is_used(full, tmp_path, form, read):
    """It names no key of a group, and has no such column."""
    plain = dataclasses.replace(full, groups=None)
    pack(plain, tmp_path, format=form, shard_mb=0.05)
    path = tmp_path / "train.index.npz"
    index = shards.read_index(str(path))
    assert index.keys.pop("group_key", "none") is None
    path.write_bytes(index.to_bytes())
    with np.load(path) as archive:
        assert "groups" not in archive.files
    pattern = f"{tmp_path}/train-*.{form}"
    check_same(read(files=pattern), plain)  # with ids, which reading the shards would not give
    check_same(read(files=pattern, index=str(path)), plain)
    check_same(packed(folder=str(tmp_path)), plain)
    before = content(tmp_path)
    assert pack(plain, tmp_path, format=form, shard_mb=0.05)["resumed_shards"] > 1
    after = content(tmp_path)
    assert {k: v for k, v in after.items() if k != path.name} == {
        k: v for k, v in before.items() if k != path.name
    }
    found = refusal(ConfigError, read, files=pattern, index=str(path), group_key="group")
    assert found == (
        f"{path}: expected an index made with group_key: 'group', got None: remove it to have the "
        "shards read"
    )


def test_a_packed_set_is_packed_again(full, tmp_path):
    pack(full, tmp_path, "a", shard_mb=0.05)
    pack(packed(folder=str(tmp_path), part="a"), tmp_path, "b", format="tar")
    check_same(packed(folder=str(tmp_path), part="b"), full)


# Training and evaluation.


def with_datasets(config, **datasets):
    """The config with other data sets; transforms and samplers stay."""
    tree = to_dict(config)
    train = tree["DataLoader"]["Train"]["dataset"]
    kept = {k: train[k] for k in ("transform_ops", "turned_identities")}
    tree["DataLoader"]["Train"]["dataset"] = {**datasets["train"], **kept}
    for part in ("Query", "Gallery"):
        if part in datasets:
            tree["DataLoader"]["Eval"][part]["dataset"] = datasets[part]
    return from_dict(tree)


def batches(config, steps=5):
    data = load_training_data(config)
    dataset = pipeline.train_dataset(
        data.samples, data.order, config.Arch, config.DataLoader.Train.dataset.transform_ops,
        seed=config.Global.seed, first_step=1, last_step=1 + steps,
    )  # fmt: skip
    return [(inputs["image"].numpy(), inputs["label"].numpy()) for inputs, _ in dataset]


def test_training_and_evaluation_do_not_see_the_difference(tmp_path, capsys):
    config = tiny_config(tmp_path)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    out = tmp_path / "out"
    arguments = ["pack", "-c", str(tmp_path / "c.yaml"), "--output", str(out), "--shard-mb", "0.05"]
    assert cli.main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["images"], result["resumed_shards"]) == (288, 0)
    assert result["parts"] == ["train", "query", "gallery"]
    evaluated = {
        part: {"name": "Packed", "folder": str(out), "part": part.lower()}
        for part in ("Query", "Gallery")
    }
    sets = [
        {"name": "TFRecord", "files": f"{out}/train-*.tfrecord"},
        {"name": "Packed", "folder": str(out), "part": "train"},
    ]
    expected = batches(config)
    assert len(expected) == 5
    for dataset in sets:
        found = batches(with_datasets(config, train=dataset))
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine[0], theirs[0])
            np.testing.assert_array_equal(mine[1], theirs[1])
    model = build_model(config)
    other = with_datasets(config, train=sets[1], **evaluated)
    assert evaluation.evaluate(other, model) == evaluation.evaluate(config, model)


def test_one_image_in_query_and_gallery_is_still_seen(tmp_path):
    config = tiny_config(tmp_path)
    tree = to_dict(config)
    tree["DataLoader"]["Eval"]["Gallery"] = tree["DataLoader"]["Eval"]["Query"]
    message = refusal(ConfigError, packing.pack_config, from_dict(tree), tmp_path / "o", "query")
    assert "each would find itself" in message
    assert not (tmp_path / "o").exists()
    rows = (EMOJI_MINI / "query_list.txt").read_text().splitlines()
    (tmp_path / "q.txt").write_text("".join(f"{row} {i}\n" for i, row in enumerate(rows)))
    both = {
        "name": "VeriWild",
        "image_root": str(EMOJI_MINI),
        "cls_label_path": f"{tmp_path}/q.txt",
    }
    train = {**config.DataLoader.Train.dataset.source.to_dict()}
    config = with_datasets(config, train=train, Query=both, Gallery=both)
    packing.pack_config(config, tmp_path / "o", "query")
    packing.pack_config(config, tmp_path / "o", "gallery", format="tar")
    sets = {
        part: {"name": "Packed", "folder": f"{tmp_path}/o", "part": part.lower()}
        for part in ("Query", "Gallery")
    }
    model = build_model(config)
    found = evaluation.evaluate(with_datasets(config, train=train, **sets), model)
    assert found == evaluation.evaluate(config, model)
    assert found["recall@1"] < 1


# A pack that was stopped.

KILLED = """
import os, signal, sys
from keras_featx.data import pack_shards
from keras_featx.data.lists import imagenet_list
from keras_featx.data.pack import pack

write = pack_shards.write

def stopping(path, payloads, end):
    def some():
        for i, payload in enumerate(payloads):
            if "-00002-of" in path and i == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield payload
    return write(path, some(), end)

pack_shards.write = stopping
root, output = sys.argv[1:]
samples = imagenet_list(image_root=root, cls_label_path=f"{root}/query_list.txt")
pack(samples, output, format="tar", shard_mb=0.05, short_side=40)
"""


def test_a_killed_pack_goes_on_and_ends_the_same(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(EMOJI_MINI), str(tmp_path / "a")]
    done = subprocess.run(command, env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    check_stopped(tmp_path / "a", "tar", killed=True)
    check_it_goes_on(tmp_path, format="tar", shard_mb=0.05, short_side=40)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_pack_goes_on_and_ends_the_same(tmp_path, monkeypatch, error):
    write = pack_shards.write

    def stopping(path, payloads, end):
        def some():
            for i, payload in enumerate(payloads):
                if "-00002-of" in path and i == 3:
                    raise error
                yield payload

        return write(path, some(), end)

    with monkeypatch.context() as patch:
        patch.setattr(pack_shards, "write", stopping)
        with pytest.raises(error if isinstance(error, type) else type(error)):
            pack(query_samples(), tmp_path / "a", shard_mb=0.05)
    check_stopped(tmp_path / "a", "tfrecord", killed=False)
    check_it_goes_on(tmp_path, shard_mb=0.05)


def check_stopped(folder, form, killed):
    left = content(folder)
    shards = [name for name in left if name.endswith(f".{form}")]
    assert [name[:11] for name in shards] == ["train-00000", "train-00001"]
    assert any(name.endswith(".part") for name in left) == killed
    assert "train.index.npz" not in left and "train.manifest.json" not in left


def check_it_goes_on(tmp_path, **options):
    samples = query_samples()
    result = pack(samples, tmp_path / "a", **options)
    assert result["resumed_shards"] == 2 and result["shards"] > 3
    whole = pack(samples, tmp_path / "b", **options)
    assert whole["resumed_shards"] == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


def query_samples():
    list_file = str(EMOJI_MINI / "query_list.txt")
    return veri_wild_list(image_root=str(EMOJI_MINI), cls_label_path=list_file)


def test_a_complete_pack_is_left_alone_and_mended(tmp_path):
    samples = query_samples()
    first = pack(samples, tmp_path, shard_mb=0.2)
    before = content(tmp_path)
    again = pack(samples, tmp_path, shard_mb=0.2)
    assert again["resumed_shards"] == first["shards"] and again["images_per_second"] == 0
    assert content(tmp_path) == before
    name = "train-00001-of-00002.tfrecord"
    damaged = bytearray(before[name])
    damaged[5000] ^= 1
    (tmp_path / name).write_bytes(damaged)
    assert pack(samples, tmp_path, shard_mb=0.2)["resumed_shards"] == first["shards"] - 1
    assert content(tmp_path) == before
    for lost in (name, "train.index.npz", "train_list.csv"):
        (tmp_path / lost).unlink()
        pack(samples, tmp_path, shard_mb=0.2)
        assert content(tmp_path) == before
    (tmp_path / "train.manifest.json").unlink()  # now nothing tells what the shards are
    assert refusal(ConfigError, pack, samples, tmp_path, shard_mb=0.2) == (
        f"{tmp_path}/train-00000-of-00002.tfrecord: expected no shards of this name, as none were "
        "begun here: pack into another folder, or remove them"
    )


def first(samples, count):
    return samples.take(np.arange(count))


CHANGES = {
    "format": ({"format": "tar"}, "expected format 'tfrecord', as was begun, got 'tar'"),
    "shard_mb": ({"shard_mb": 1}, "expected shard_mb 0.3, as was begun, got 1.0"),
    "short_side": ({"short_side": 40}, "expected short_side None, as was begun, got 40"),
    "quality": ({"quality": 90}, "expected quality 95, as was begun, got 90"),
    "lossless": ({"lossless": True}, "expected lossless False, as was begun, got True"),
}


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("key", CHANGES)
def test_other_options_are_refused(tmp_path, key, begun):
    samples = first(query_samples(), 12)
    pack(samples, tmp_path, shard_mb=0.3)
    file = tmp_path / "train.manifest.json"
    if begun:
        file = file.rename(tmp_path / "train.plan.json")
    change, message = CHANGES[key]
    found = refusal(ConfigError, pack, samples, tmp_path, **{"shard_mb": 0.3, **change})
    assert found == f"{file}: {message}: pack into another folder, or remove what is there"


def test_another_list_is_refused(full, tmp_path):
    out = tmp_path / "out"
    pack(full, out)
    where = f"{out}/train.manifest.json: expected"
    other = "pack into another folder, or remove what is there"
    found = refusal(ConfigError, pack, first(full, 40), out)
    assert found == f"{where} images 48, as was begun, got 40: {other}"
    rolled = {
        "paths": {"paths": [*full.paths[1:], full.paths[0]]},
        "labels": {"labels": np.roll(full.labels, 1)},
        "ids": {"ids": np.roll(full.ids, 1)},
        "cameras": {"cameras": None},
        "groups": {"groups": np.roll(full.groups, 1)},
        "boxes": {"boxes": full.boxes[::-1].copy()},
        "class names": {"names": full.names[::-1]},
    }
    for key, change in rolled.items():
        found = refusal(ConfigError, pack, dataclasses.replace(full, **change), out)
        assert found == f"{where} the {key} of the list as they were begun, got others: {other}"
    assert pack(full, out)["resumed_shards"] == 1


def test_a_changed_file_is_another_list(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).write_bytes((EMOJI_MINI / "test/ant/noto.png").read_bytes())
    samples = class_folders(image_root=f"{tmp_path}/in")
    pack(samples, tmp_path / "out")
    (tmp_path / "in/a/1.png").write_bytes((EMOJI_MINI / "test/ant/twemoji.png").read_bytes())
    assert "expected the sizes of the list" in refusal(ConfigError, pack, samples, tmp_path / "out")


def test_the_same_images_elsewhere_are_the_same_list(tmp_path):
    for root in ("x", "y"):
        for name in ("a", "b"):
            (tmp_path / root / name).mkdir(parents=True)
            data = (EMOJI_MINI / "test/ant/noto.png").read_bytes()
            (tmp_path / root / name / "1.png").write_bytes(data)
    pack(class_folders(image_root=f"{tmp_path}/x"), tmp_path / "out")
    result = pack(class_folders(image_root=f"{tmp_path}/y"), tmp_path / "out")
    assert result["resumed_shards"] == 1


# Images that cannot be packed.


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "the file is empty"),
        (b"GI", "expected JPEG, PNG, GIF, BMP or WebP, got 47 49"),
        (b"<html>no", "expected JPEG, PNG, GIF, BMP or WebP, got 3c 68 74 6d 6c 3e 6e 6f"),
    ],
)  # fmt: skip
def test_a_bad_image_stops_it_with_its_row(tmp_path, data, reason):
    lines = []
    for i in range(30):
        file = tmp_path / f"{i}.png"
        file.write_bytes((EMOJI_MINI / "test/ant/noto.png").read_bytes())
        lines.append(f"{i}.png 0\n" if i else "\n0.png 0\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    samples = veri_wild_list(image_root=str(tmp_path), cls_label_path=f"{tmp_path}/list.txt")
    bad = tmp_path / "25.png"
    bad.unlink()
    if data is not None:
        bad.write_bytes(data)
    out = tmp_path / "out"
    message = refusal(RunError, pack, samples, out, shard_mb=0.03)
    assert message == f"{tmp_path}/list.txt:27: {bad}: {reason}"
    if data is None:
        assert not out.exists()  # noticed before anything was written
        return
    left = content(out)
    assert not any(name.endswith(".part") for name in left)
    assert "train.plan.json" in left and "train.index.npz" not in left
    assert refusal(ConfigError, packed, folder=str(out)) == (
        f"{out}: part: expected one of [], got 'train'"
    )


def test_an_image_that_cannot_be_decoded_stops_shrinking(tmp_path):
    (tmp_path / "a").mkdir()
    whole = (EMOJI_MINI / "test/ant/noto.png").read_bytes()
    (tmp_path / "a/1.png").write_bytes(whole[:300])
    samples = class_folders(image_root=str(tmp_path))
    assert pack(samples, tmp_path / "kept")["images"] == 1  # as it is, to the byte
    message = refusal(RunError, pack, samples, tmp_path / "out", short_side=32)
    assert message.startswith(f"{tmp_path}:1: {tmp_path}/a/1.png: ")


def test_a_box_outside_stops_shrinking(full, tmp_path):
    boxes = full.boxes.copy()
    boxes[5] = [0, 0, 10, 9999]
    wrong = dataclasses.replace(full, boxes=boxes)
    message = refusal(RunError, pack, wrong, tmp_path / "out", short_side=32)
    size = list(images.decode(tf.constant(bytes_of(full)[5])).shape[:2])
    assert message == (
        f"{full.source}:7: {full.paths[5]}: expected a box inside the image, got left, top, right, "
        f"bottom [0, 0, 10, 9999] of an image of height, width {size}"
    )


# Shrinking.


def area_mean(image, size):
    """The mean over the area of each new pixel, in float64."""

    def weights(old, new):
        edges = np.arange(new + 1) * old / new
        place = np.arange(old)
        low, high = edges[:-1, None], edges[1:, None]
        overlap = np.minimum(place + 1, high) - np.maximum(place, low)
        return np.maximum(overlap, 0) * new / old

    down, across = weights(image.shape[0], size[0]), weights(image.shape[1], size[1])
    return np.tensordot(down, np.tensordot(across, image.astype(np.float64), (1, 1)), (1, 1))


def photo(size, kind, **options):
    """A crop of a photograph, encoded."""
    image = Image.open(ROOT / "tests/data/img_photo.png").convert("RGB").resize(size)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(301, 200), (200, 301), (97, 96), (130, 130)])
def test_shrunk_pixels_are_means_of_areas(size):
    data = photo(size, "PNG")
    found, box = encoding.smaller(data, None, 64, 95, lossless=True)
    assert box is None and encoding.kind_of(found) == "png"
    pixels = np.asarray(Image.open(io.BytesIO(found)))
    width, height = size
    short = min(size)
    wanted = (round(height * 64 / short), round(width * 64 / short))
    assert pixels.shape == (*wanted, 3)
    expected = area_mean(np.asarray(Image.open(io.BytesIO(data))), wanted)
    assert np.abs(pixels - expected).max() < 0.501


def test_shrunk_jpegs_stay_close_and_quality_counts():
    data = photo((400, 300), "JPEG", quality=95)
    expected = area_mean(np.asarray(Image.open(io.BytesIO(data))), (150, 200))
    sizes = []
    for quality in (95, 50):
        found, _ = encoding.smaller(data, None, 150, quality, lossless=False)
        other = io.BytesIO()
        Image.fromarray(np.rint(expected).astype(np.uint8)).save(other, "JPEG", quality=quality)
        errors = []
        for encoded in (io.BytesIO(found), other):
            with Image.open(encoded) as image:
                assert (image.format, image.size) == ("JPEG", (200, 150))
                errors.append(np.abs(np.asarray(image) - expected).mean())
        assert errors[0] < 1.1 * errors[1]
        sizes.append(len(found))
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
def test_kinds_after_shrinking(kind):
    data = photo((120, 90), kind)
    assert encoding.kind_of(data) == {"JPEG": "jpg"}.get(kind, kind.lower())
    for lossless in (False, True):
        found, _ = encoding.smaller(data, None, 45, 95, lossless)
        png = lossless and kind in ("PNG", "BMP", "GIF")
        assert encoding.kind_of(found) == ("png" if png else "jpg")
        assert images.decode(tf.constant(found)).shape == (45, 60, 3)


@pytest.mark.parametrize("side", [90, 91, 500])
def test_images_are_never_enlarged_nor_touched(side):
    for kind in ("PNG", "JPEG"):
        data = photo((120, 90), kind)
        assert encoding.smaller(data, (1, 2, 30, 40), side, 50, False) == (data, (1, 2, 30, 40))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 0)),
        ((0, 0, 301, 200), (0, 0, 96, 64)),
        ((10, 20, 110, 120), (3, 6, 36, 39)),  # 3.19 6.4 35.08 38.4
        ((7, 7, 8, 8), (2, 2, 3, 3)),
    ],
)
def test_boxes_shrink_with_the_image(box, expected):
    data = photo((301, 200), "PNG")
    assert encoding.smaller(data, box, 64, 95, True)[1] == expected


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_orientation_counts_once(orientation):
    """Shrunk pixels are those of the decoded image; what is left to turn them is gone."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = photo((300, 200), "JPEG", quality=95, exif=exif)
    decoded = images.decode(tf.constant(data)).numpy()
    found, _ = encoding.smaller(data, None, 100, 95, False)
    with Image.open(io.BytesIO(found)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        height, width = decoded.shape[:2]
        wanted = (round(height * 100 / 200), round(width * 100 / 200))
        assert np.abs(np.asarray(image) - area_mean(decoded, wanted)).mean() < 4


def test_a_shrunk_set_keeps_the_rest(full, tmp_path):
    result = pack(full, tmp_path, short_side=32, lossless=True, shard_mb=0.03)
    again = packed(folder=str(tmp_path))
    assert result["shards"] > 1
    for name in ("labels", "ids", "cameras", "groups"):
        np.testing.assert_array_equal(getattr(again, name), getattr(full, name))
    for i, (before, after) in enumerate(zip(bytes_of(full), bytes_of(again), strict=True)):
        old, new = (images.decode(tf.constant(data)).shape for data in (before, after))
        assert min(new[:2]) == min(32, *old[:2])
        scale = np.array([new[1] / old[1], new[0] / old[0]] * 2)
        assert np.abs(again.boxes[i] - full.boxes[i] * scale).max() < 1
    # The index and the records agree on the new boxes.
    (tmp_path / "train.index.npz").unlink()
    read = tfrecords(files=f"{tmp_path}/*.tfrecord", box_keys=("image/box",))
    np.testing.assert_array_equal(read.boxes, again.boxes)


def test_the_size_of_shards_counts_what_is_written(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in/a").mkdir(parents=True)
    for i in range(24):
        picture = Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8))
        picture.save(tmp_path / f"in/a/{i:02d}.png")
    samples = class_folders(image_root=f"{tmp_path}/in")
    # 24 x 120 kB; shrunk to 50 x 50 as PNG 24 x 7.5 kB = 0.17 MiB.
    result = pack(samples, tmp_path / "out", short_side=50, lossless=True, shard_mb=0.06)
    assert result["shards"] == 3
    sizes = [s.stat().st_size for s in (tmp_path / "out").glob("*.tfrecord")]
    assert max(sizes) < 1.2 * min(sizes)


@pytest.mark.parametrize(
    ("sizes", "shard", "bounds"),
    [
        ([10] * 6, 20, [0, 2, 4, 6]),
        ([10] * 6, 1000, [0, 6]),
        ([10] * 3, 1, [0, 1, 2, 3]),
        ([100, 1, 1, 1], 30, [0, 1, 4]),
        ([1, 1, 1, 100], 30, [0, 3, 4]),
        ([5, 1, 5, 1, 5, 1], 9, [0, 3, 6]),
        ([7], 1, [0, 1]),
    ],
)
def test_shards_are_about_equal_and_never_empty(sizes, shard, bounds):
    assert pack_plan._bounds(np.array(sizes), shard) == bounds


# Images in memory.


def test_arrays_become_png(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(7)]
    samples = memory.from_arrays(pictures, list("abcabca"))
    pack(samples, tmp_path)
    again = packed(folder=str(tmp_path))
    assert again.names == ["a", "b", "c"] and again.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    for data, picture in zip(bytes_of(again), pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)
    changed = [p.copy() for p in pictures]
    changed[3][2, 2, 0] ^= 1
    other = memory.from_arrays(changed, list("abcabca"))
    assert "expected the pixels of the list" in refusal(ConfigError, pack, other, tmp_path)


def test_a_dataset_that_is_too_large_for_memory(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (10, 24, 24, 3), dtype=np.uint8)
    names = list("cababcabca")
    dataset = tf.data.Dataset.from_tensor_slices((pictures, names)).batch(4)
    result = pack_dataset(dataset, tmp_path, "d", shard_mb=0.005)
    assert result["images"] == 10 and result["shards"] > 1
    again = packed(folder=str(tmp_path), part="d")
    expected = memory.from_dataset(dataset)
    assert again.names == expected.names
    np.testing.assert_array_equal(again.labels, expected.labels)
    for data, picture in zip(bytes_of(again), pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    rows = list(csv.DictReader(open(tmp_path / "d_list.csv")))
    assert rows[3]["path"] == "dataset[3]"


def test_encoded_images_of_a_dataset_stay_as_they_are(full, tmp_path):
    data = bytes_of(full)
    dataset = tf.data.Dataset.from_tensor_slices((data, full.labels))
    pack_dataset(dataset, tmp_path, format="tar")
    again = packed(folder=str(tmp_path))
    assert bytes_of(again) == data
    np.testing.assert_array_equal(again.labels, full.labels)


def test_bad_datasets_are_refused_and_leave_nothing(tmp_path):
    one = tf.data.Dataset.from_tensors((np.zeros((8, 8, 3), np.uint8), 0))
    cases = {
        "dataset: expected a dataset that ends, got one that repeats for ever": one.repeat(),
        "dataset: expected images, got an empty dataset": one.take(0),
        "dataset[0]: expected an image (height, width, 3), got shape (8, 8, 2)": one.map(
            lambda image, label: (image[..., :2], label)
        ),
    }
    for message, dataset in cases.items():
        assert refusal(ConfigError, pack_dataset, dataset, tmp_path) == message
    assert list(tmp_path.iterdir()) == []


# Wrong use.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "zip"}, "format: expected one of ['tfrecord', 'tar'], got 'zip'"),
        ({"shard_mb": 0}, "shard_mb: expected more than 0, got 0.0"),
        ({"short_side": 0}, "short_side: expected at least 1, got 0"),
        ({"quality": 101}, "quality: expected in 1..100, got 101"),
        ({"name": "a/b"}, "name: expected letters, digits, '-', '_', '.', got 'a/b'"),
    ],
)
def test_impossible_options(full, tmp_path, options, message):
    assert refusal(ConfigError, pack, full, tmp_path / "out", **options) == message
    assert not (tmp_path / "out").exists()


def test_sets_that_are_not_packed_as_they_are(full, tmp_path):
    turned = dataclasses.replace(full, turns=np.zeros(48, np.int64))
    assert refusal(ConfigError, pack, turned, tmp_path) == (
        f"{full.source}: expected images as they are, got turned identities"
    )
    broken = dataclasses.replace(full, names=["two\nlines", *full.names[1:]])
    assert refusal(ConfigError, pack, broken, tmp_path) == (
        f"{full.source}: expected class names of one line, got 'two\\nlines'"
    )


def test_parts_that_are_not_there(full, tmp_path):
    pack(full, tmp_path / "out", "val")
    assert refusal(ConfigError, packed, folder=f"{tmp_path}/out") == (
        f"{tmp_path}/out: part: expected one of ['val'], got 'train'"
    )
    assert refusal(ConfigError, packed, folder=f"{tmp_path}/no") == (
        f"{tmp_path}/no: expected a folder of packed sets, found none"
    )
    shard = tmp_path / "out/val-00000-of-00001.tfrecord"
    shard.unlink()
    assert refusal(ConfigError, packed, folder=f"{tmp_path}/out", part="val") == (
        f"{shard}: expected this shard, which {tmp_path}/out/val.index.npz has, found none"
    )


# The command line.


def test_the_command_packs_what_is_named(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    root = EMOJI_MINI / "test"
    arguments = ["pack", "--dataset", f"{{name: ClassFolders, image_root: {root}}}"]
    arguments += ["--output", str(tmp_path), "--part", "gallery", "--format", "tar"]
    assert cli.main([*arguments, "--short-side", "40"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result.keys() == {
        "images", "shards", "bytes", "seconds", "images_per_second", "resumed_shards", "parts",
    }  # fmt: skip
    assert result["images"] == 240 and result["parts"] == ["gallery"]
    assert f"dataset: {{name: Packed, folder: {tmp_path}, part: gallery}}" in caplog.text
    samples = packed(folder=str(tmp_path), part="gallery")
    assert samples.names == sorted(p.name for p in root.iterdir())


def test_the_lines_for_the_config_are_yaml(tmp_path):
    line = packing.lines(tmp_path, "query")
    tree = apply_overrides({}, [f"DataLoader.Train.dataset={line}"])
    source = from_dict(tree).DataLoader.Train.dataset.source
    assert (source.name, source.args) == ("Packed", {"folder": str(tmp_path), "part": "query"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pack: expected -c FILE.yaml or --dataset, one of them"),
        (["-c", "{c}", "--dataset", "x"], "pack: expected -c FILE.yaml or --dataset, one of them"),
        (["--dataset", "{{name: ClassFolder, image_root: x}}"],
         "DataLoader.Train.dataset.name: expected one of "),
        (["--dataset", "{{name: ClassFolders, image_root: none}}"],
         "none: expected a folder with one folder per identity"),
        (["-c", "{c}", "-o", "DataLoader.Eval=null", "--part", "query"],
         "DataLoader.Eval.Query.dataset: missing; there is nothing to pack"),
        (["-c", "{c}", "-o", "DataLoader=null"], "DataLoader: expected a section, got None"),
        (["-c", "{c}", "-o", "DataLoader={{}}"], "DataLoader: missing; there is nothing to pack"),
        (["-c", "{c}", "--quality", "0"], "quality: expected in 1..100, got 0"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(tmp_path, capsys, arguments, message):
    config = tmp_path / "c.yaml"
    config.write_text(dump_config(tiny_config(tmp_path)))
    arguments = [argument.format(c=config) for argument in arguments]
    assert cli.main(["pack", *arguments, "--output", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].startswith(f"error: {message}")
