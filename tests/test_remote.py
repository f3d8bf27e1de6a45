"""Addresses: everything works on TensorFlow's `ram://` file system as it does on disk."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, tiny_config

from keras_featx.config import from_dict, to_dict
from keras_featx.data import files, outputs, pipeline
from keras_featx.data.folders import class_folders
from keras_featx.data.lists import imagenet_list
from keras_featx.data.pack import pack, pack_dataset
from keras_featx.data.packed import packed
from keras_featx.data.tables import csv_list
from keras_featx.data.tars import tars
from keras_featx.data.tfrecords import tfrecords
from keras_featx.errors import ConfigError, RunError
from keras_featx.evaluation import evaluate
from keras_featx.models import build_model
from keras_featx.sections import PreprocessSection
from keras_featx.training_data import load_training_data

_numbers = itertools.count()


@pytest.fixture
def ram():
    """An address that no other test uses."""
    return f"ram://remote{next(_numbers)}"


def put(address, data):
    tf.io.gfile.makedirs(address.rpartition("/")[0])
    if tf.io.gfile.exists(address):
        tf.io.gfile.remove(address)  # this file system would append
    with tf.io.gfile.GFile(address, "wb") as file:
        file.write(data)


@pytest.fixture
def set_of_images(ram):
    """20 pictures of 4 identities in folders, with a list in two formats."""
    rows = (EMOJI_MINI / "query_list.txt").read_text().splitlines()[:20]
    names = [row.split() for row in rows]
    for path, _ in names:
        put(f"{ram}/in/{path.removeprefix('test/')}", (EMOJI_MINI / path).read_bytes())
    names = [(path.removeprefix("test/"), label) for path, label in names]
    put(f"{ram}/list.txt", "".join(f"{path} {label}\n" for path, label in names).encode())
    lines = ["path,label"] + [f"{path},{label}" for path, label in names]
    put(f"{ram}/list.csv", "\n".join(lines).encode())
    local = [str(EMOJI_MINI / row.split()[0]) for row in rows]
    return ram, local, [int(label) for _, label in names]


def pixels(samples):
    return np.concatenate(list(pipeline.image_dataset(samples, (32, 32), PreprocessSection(), 8)))


def refusal(kind, call, *arguments, **keywords):
    with pytest.raises(kind) as error:
        call(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_lists(set_of_images):
    ram, local, labels = set_of_images
    for read, name in ((imagenet_list, "list.txt"), (csv_list, "list.csv")):
        samples = read(image_root=f"{ram}/in", cls_label_path=f"{ram}/{name}")
        assert samples.labels.tolist() == labels
        assert all(path.startswith(f"{ram}/in/") for path in samples.paths)
        np.testing.assert_array_equal(pixels(samples), pixels(local))


def test_a_missing_image_of_a_list(ram):
    put(f"{ram}/list.txt", b"a.png 0\n")
    found = refusal(
        ConfigError, imagenet_list, image_root=f"{ram}/in", cls_label_path=f"{ram}/list.txt"
    )
    assert found == f"{ram}/list.txt:1: missing image '{ram}/in/a.png'"


def test_folders(set_of_images):
    ram, local, _ = set_of_images
    samples = class_folders(image_root=f"{ram}/in")
    names = [path.split("/")[-2] for path in local]
    assert samples.names == sorted(set(names))
    assert samples.paths == sorted(f"{ram}/in/{'/'.join(p.split('/')[-2:])}" for p in local)
    np.testing.assert_array_equal(pixels(samples), pixels(sorted(local)))
    assert files.find_images(f"{ram}/in") == samples.paths


@pytest.mark.parametrize(("form", "read"), [("tfrecord", tfrecords), ("tar", tars)])
def test_packing_from_and_to_an_address(set_of_images, tmp_path, form, read):
    ram, local, labels = set_of_images
    samples = imagenet_list(image_root=f"{ram}/in", cls_label_path=f"{ram}/list.txt")
    result = pack(samples, f"{ram}/out", format=form, shard_mb=0.01)
    assert result["shards"] > 2 and result["resumed_shards"] == 0
    names = files.names_in(f"{ram}/out")
    assert not [name for name in names if name.startswith(".")]
    pack(samples, tmp_path, format=form, shard_mb=0.01)
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert files.read_bytes(f"{ram}/out/{name}") == (tmp_path / name).read_bytes(), name
    expected = pixels(local)
    for found in (
        packed(folder=f"{ram}/out"),
        read(files=f"{ram}/out/train-*.{form}"),
        read(files=f"{ram}/out"),
    ):
        assert found.labels.tolist() == labels
        np.testing.assert_array_equal(pixels(found), expected)
    again = pack(samples, f"{ram}/out", format=form, shard_mb=0.01)
    assert again["resumed_shards"] == result["shards"]
    tf.io.gfile.remove(f"{ram}/out/train.index.npz")
    found = read(files=f"{ram}/out/train-*", index=f"{ram}/kept.npz")
    np.testing.assert_array_equal(pixels(found), expected)
    assert files.is_file(f"{ram}/kept.npz")
    assert read(files=f"{ram}/out/train-*", index=f"{ram}/kept.npz").labels.tolist() == labels


def test_a_stopped_pack_goes_on(set_of_images):
    ram, _, _ = set_of_images
    samples = imagenet_list(image_root=f"{ram}/in", cls_label_path=f"{ram}/list.txt")
    data = files.read_bytes(samples.paths[17])
    put(samples.paths[17], b"x" * len(data))
    message = refusal(RunError, pack, samples, f"{ram}/out", shard_mb=0.01)
    assert message.startswith(f"{ram}/list.txt:18: {samples.paths[17]}: expected JPEG, PNG, GIF, ")
    names = files.names_in(f"{ram}/out")
    assert "train.plan.json" in names and not [n for n in names if n.endswith(".part")]
    done = len([n for n in names if n.endswith(".tfrecord")])
    assert done > 0
    put(samples.paths[17], data)
    assert pack(samples, f"{ram}/out", shard_mb=0.01)["resumed_shards"] == done


def test_training_and_evaluation_from_an_address(ram, tmp_path):
    config = tiny_config(tmp_path)
    local = load_training_data(config)
    pair = local.sets[""]
    parts = {"train": local.samples, "query": pair.query, "gallery": pair.gallery}
    for name, samples in parts.items():
        pack(samples, f"{ram}/out", name)
    tree = to_dict(config)
    loader = tree["DataLoader"]
    transforms = loader["Train"]["dataset"]["transform_ops"]
    loader["Train"]["dataset"] = {
        "name": "TFRecord", "files": f"{ram}/out/train-*", "transform_ops": transforms,
    }  # fmt: skip
    for part in ("Query", "Gallery"):
        loader["Eval"][part]["dataset"] = {
            "name": "Packed", "folder": f"{ram}/out", "part": part.lower(),
        }  # fmt: skip
    other = from_dict(tree)
    remote = load_training_data(other)

    def batch(data):
        ops = config.DataLoader.Train.dataset.transform_ops
        dataset = pipeline.train_dataset(
            data.samples, data.order, config.Arch, ops, seed=1, first_step=2, last_step=3
        )
        return next(iter(dataset))[0]

    for key, value in batch(local).items():
        np.testing.assert_array_equal(batch(remote)[key], value)
    model = build_model(config)
    assert evaluate(other, model) == evaluate(config, model)


def test_a_dataset_to_an_address(ram):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    dataset = tf.data.Dataset.from_tensor_slices((pictures, [0, 1, 0, 1, 2]))
    pack_dataset(dataset, f"{ram}/out")
    assert packed(folder=f"{ram}/out").labels.tolist() == [0, 1, 0, 1, 2]
    assert not [name for name in files.names_in(f"{ram}/out") if name.startswith(".")]


def test_refusals_name_the_address(ram):
    assert refusal(ConfigError, tfrecords, files=f"{ram}/no-*") == (
        f"{ram}/no-*: expected shards, found none"
    )
    assert refusal(ConfigError, packed, folder=f"{ram}/no") == (
        f"{ram}/no: expected a folder of packed sets, found none"
    )
    put(f"{ram}/a.tfrecord", b"none at all")
    assert refusal(ConfigError, tfrecords, files=f"{ram}/a.tfrecord") == (
        f"{ram}/a.tfrecord:1: expected 12 bytes of a length, got 11"
    )
    with pytest.raises(OSError, match="no file system for nix://"):
        tfrecords(files="nix://a/b")


def test_an_error_leaves_the_old_file(ram):
    path = f"{ram}/d/a.txt"
    put(path, b"old")
    with pytest.raises(RuntimeError, match="stop"), outputs.replacing(path) as file:
        file.write(b"new")
        raise RuntimeError("stop")
    assert files.read_bytes(path) == b"old"
    outputs.write_bytes(path, b"new")
    assert files.read_bytes(path) == b"new"
    assert files.names_in(f"{ram}/d") == ["a.txt"]
