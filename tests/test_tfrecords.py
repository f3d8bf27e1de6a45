"""TFRecord files of other programs: what TensorFlow writes is found to the byte, and refusals."""

import dataclasses
import gzip
import logging
import os
import resource
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI

from keras_featx.data import examples, files, indexing, pipeline, records, shards
from keras_featx.data.samples import load_samples
from keras_featx.data.tfrecords import tfrecords
from keras_featx.errors import ConfigError
from keras_featx.sections import Component, PreprocessSection

IMAGES = [path.read_bytes() for path in sorted(EMOJI_MINI.glob("test/*/*.*"))[:9]]


def example(features):
    """TensorFlow's own message."""
    message = tf.train.Example()
    for name, value in features.items():
        feature = message.features.feature[name]
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str | bytes):
                feature.bytes_list.value.append(item.encode() if isinstance(item, str) else item)
            elif isinstance(item, int):
                feature.int64_list.value.append(item)
            else:
                feature.float_list.value.append(item)
    return message


def write(path, rows, options=None):
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for row in rows:
            data = row if isinstance(row, bytes) else example(row).SerializeToString()
            writer.write(data)
    return str(path)


def row(i, label=0, **more):
    features = {"image/encoded": IMAGES[i], "image/class/label": label, "image/format": "png"}
    return features | {name.replace("__", "/"): value for name, value in more.items()}


def refusal(*arguments, **keywords):
    with pytest.raises(ConfigError) as error:
        tfrecords(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def images_of(samples):
    return [
        files.read_range(path, *span)
        for path, span in zip(samples.paths, samples.spans.tolist(), strict=True)
    ]


# The framing and the messages, against RFC 3720 and TensorFlow.


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc_of_the_rfc(data, crc):
    assert records.crc32c(data) == crc


def test_crc_of_any_length_is_that_of_bit_by_bit_division():
    data = np.random.default_rng(0).bytes(5000)
    crc, expected = 0xFFFFFFFF, [0]
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        expected.append(crc ^ 0xFFFFFFFF)
    for length in (1, 7, 1023, 1024, 1025, 2047, 2048, 4096, 4999, 5000):
        assert records.crc32c(data[:length]) == expected[length]


def test_records_are_framed_as_tensorflow_does(tmp_path):
    rng = np.random.default_rng(1)
    data = [rng.bytes(n) for n in (0, 1, 3, 1023, 1024, 1025, 70_000)]
    path = write(tmp_path / "a.tfrecord", data)
    raw = (tmp_path / "a.tfrecord").read_bytes()
    assert b"".join(map(records.framed, data)) == raw
    with open(path, "rb") as file:
        found = list(records.walk(file, len(raw)))
    assert [record.data for record in found] == data
    assert [raw[r.offset : r.offset + len(r.data)] for r in found] == data
    assert [record.number for record in found] == [1, 2, 3, 4, 5, 6, 7]


FEATURES = {
    "image": b"\x00\xff" * 200,
    "ids": [3, -5, 2**62, -(2**63), 0],
    "box": [1.5, -2.0, 0.0],
    "ü": ["a", "", "ccc"],
    "name": "cat",
}


def test_messages_are_read_and_written_as_protobuf_does():
    message = example(FEATURES)
    message.features.feature["none"].SetInParent()
    data = message.SerializeToString()
    found = examples.read(data)
    assert found["ids"] == examples.Feature("int64", FEATURES["ids"])
    assert found["box"] == examples.Feature("float", FEATURES["box"])
    assert [data[slice(*span)] for span in found["ü"].values] == [b"a", b"", b"ccc"]
    assert data[slice(*found["image"].values[0])] == FEATURES["image"]
    assert found["none"] == examples.Feature("", [])
    mine = examples.write(FEATURES)
    assert mine == example(FEATURES).SerializeToString(deterministic=True)
    assert tf.train.Example.FromString(mine) == example(FEATURES)


def test_what_protobuf_allows_besides():
    """Unpacked numbers, unknown fields, a name that comes twice, several `features`."""
    field = lambda number, data: bytes([number << 3 | 2, len(data)]) + data  # noqa: E731
    unpacked = b"\x08\x05\x08\x07"
    entry = field(1, b"a") + field(2, field(3, unpacked))
    floats = field(2, field(2, b"\x0d" + struct.pack("<f", 2.5))) + field(1, b"f")
    unknown = b"\x78\x01" + b"\x49" + bytes(8) + b"\x55" + bytes(4)
    late = field(1, b"a") + field(2, field(3, b"\x08\x09") + field(1, field(1, b"x")))
    for data in (
        field(1, field(1, entry) + unknown + field(1, floats)),
        field(1, field(1, entry)) + unknown + field(1, field(1, floats)),
        field(1, field(1, entry) + field(1, late)),
    ):
        message = tf.train.Example.FromString(data)
        found = examples.read(data)
        assert set(found) == set(message.features.feature)
        for name, feature in found.items():
            values = feature.values
            if feature.kind == "bytes":
                values = [data[slice(*span)] for span in values]
            other = message.features.feature[name]
            assert f"{feature.kind}_list" == other.WhichOneof("kind")
            assert values == list(getattr(other, f"{feature.kind}_list").value)


def test_damaged_messages_are_refused_and_nothing_else():
    data = example(FEATURES).SerializeToString()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(3000):
        broken = bytearray(data[: rng.integers(1, len(data))] if trial % 2 else data)
        for place in rng.integers(0, min(len(broken), 150), 3):
            broken[place] = rng.integers(256)
        try:
            found = examples.read(bytes(broken))
        except ValueError:  # UnicodeDecodeError is one
            refused += 1
            continue
        for feature in found.values():
            if feature.kind == "bytes":
                assert all(0 <= a <= b <= len(broken) for a, b in feature.values)
    assert refused > 1000


# Data sets.


def test_images_and_labels_lie_where_tensorflow_wrote_them(tmp_path):
    write(tmp_path / "train-00001-of-00002", [row(i, 7 - i) for i in range(3, 7)])
    write(tmp_path / "train-00000-of-00002", [row(i, 7 - i) for i in range(3)])
    samples = tfrecords(files=f"{tmp_path}/train-*")
    assert images_of(samples) == IMAGES[:7]
    assert samples.labels.tolist() == [7, 6, 5, 4, 3, 2, 1]
    assert samples.rows.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (samples.names, samples.ids, samples.cameras, samples.groups) == (None,) * 4
    assert samples.boxes is None
    assert samples.title(4) == f"{tmp_path}/train-00001-of-00002 (row 5 of {tmp_path}/train-*)"


@pytest.mark.parametrize(
    "address",
    ["", "/*.tfrecord", "/{a,b}.tfrecord", "/[ab].tfrecord", "/?.tfrecord"],
)
def test_files_are_named_by_folder_or_pattern(tmp_path, address):
    write(tmp_path / "b.tfrecord", [row(1, 1)])
    write(tmp_path / "a.tfrecord", [row(0, 0)])
    write(tmp_path / ".hidden.tfrecord", [row(2, 2)])
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "c.tfrecord.d").mkdir()
    samples = tfrecords(files=f"{tmp_path}{address}")
    assert samples.labels.tolist() == [0, 1]


def test_one_file_whose_name_looks_like_a_pattern(tmp_path):
    path = write(tmp_path / "x[1]{a,b}.rec", [row(0, 5)])
    assert tfrecords(files=path).labels.tolist() == [5]


def test_a_folder_holds_one_set(tmp_path):
    for name in ("a-train.tfrecord-00000-of-00002", "a-train.tfrecord-00001-of-00002"):
        write(tmp_path / name, [row(0)])
    assert len(tfrecords(files=str(tmp_path))) == 2
    write(tmp_path / "a-test.tfrecord-00000-of-00001", [row(0)])
    assert refusal(files=str(tmp_path)) == (
        f"{tmp_path}: expected shards of one set, got ['a-test.tfrecord', 'a-train.tfrecord']"
    )


def test_shards_that_are_missing_by_their_names_are_noted(tmp_path, caplog):
    for k in (0, 1, 3):
        write(tmp_path / f"t-0000{k}-of-00004", [row(k)])
    assert len(tfrecords(files=f"{tmp_path}/t-*")) == 3
    assert f"{tmp_path}/t-*: has 3 of the 4 shards of {tmp_path}/t" in caplog.text
    caplog.clear()
    write(tmp_path / "t-00002-of-00004", [row(2)])
    assert len(tfrecords(files=f"{tmp_path}/t-*")) == 4
    assert "shards of" not in "".join(r.message for r in caplog.records if r.levelname == "WARNING")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x", ["x"]),
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{0..10}", [str(i) for i in range(11)]),
        ("{09..11}", ["09", "10", "11"]),
        ("{a,b,}/{1..2}", ["a/1", "a/2", "b/1", "b/2", "/1", "/2"]),
    ],
)
def test_braces(pattern, names):
    assert shards.expand(pattern) == names


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("{d}/no.tfrecord", "{d}/no.tfrecord: expected shards, found none"),
        ("{d}/no-*", "{d}/no-*: expected shards, found none"),
        ("{d}/a-{{0..1}}", "{d}/a-0: expected shards, found none"),
        ("{d}/e", "{d}/e: expected files with '.tfrec' in their name, found none"),
        ("{d}/{{2..1}}", "{d}/{{2..1}}: expected a range that rises, got {{2..1}}"),
        ("{d}/{{x}}", "{d}/{{x}}: expected {{0000..0009}} or {{a,b}}, got {{x}}"),
        ("{d}/{{f,?}}", "{d}/{{f,?}}: expected each shard once, got {d}/f twice"),
    ],
)
def test_addresses_without_files_are_refused(tmp_path, address, message):
    (tmp_path / "e").mkdir()
    write(tmp_path / "f", [row(0)])
    assert refusal(files=address.format(d=tmp_path)) == message.format(d=tmp_path)


def test_labels_that_count_from_1(tmp_path):
    path = write(tmp_path / "a", [row(0, 1), row(1, 3)])
    assert tfrecords(files=path, label_offset=1).labels.tolist() == [0, 2]
    path = write(tmp_path / "b", [row(0, 1), row(1, 0)])
    message = f"{path}:2: expected a label (a number from 1), got 0"
    assert refusal(files=path, label_offset=1) == message
    path = write(tmp_path / "c", [row(0, -(2**63)), row(1, 2**63 - 1)])
    assert refusal(files=path) == (
        f"{path}:1: expected a label (a number from 0), got -9223372036854775808"
    )


def test_labels_that_are_texts(tmp_path):
    path = write(tmp_path / "a", [row(0, t=["dog"]), row(1, t="cat"), row(2, t="dog")])
    samples = tfrecords(files=path, label_key="t")
    assert (samples.labels.tolist(), samples.names) == ([1, 0, 1], ["cat", "dog"])
    path = write(tmp_path / "b", [row(0, t="0"), row(1, t="12")])
    assert tfrecords(files=path, label_key="t").labels.tolist() == [0, 12]
    samples = tfrecords(files=path, label_key="t", labels="names")
    assert (samples.labels.tolist(), samples.names) == ([0, 1], ["0", "12"])
    path = write(tmp_path / "c", [row(0, t="0"), row(1, t="cat")])
    message = f"{path}:2: expected a label (a number from 0), got 'cat'"
    assert refusal(files=path, label_key="t") == message
    assert refusal(files=path, label_key="t", labels="names", label_offset=1) == (
        f"label_offset: expected 0, as the labels of {path} are names, got 1"
    )


def test_class_names_ids_cameras_and_groups(tmp_path):
    rows = [
        row(0, 1, image__class__text="dog", id="x7", cam=3, run="a"),
        row(1, 0, image__class__text="cat", id="x8", cam=4, run="b"),
        row(2, 1, image__class__text="dog", id="x9", cam=3, run="b"),
    ]
    path = write(tmp_path / "a", rows)
    more = {"id_key": "id", "camera_key": "cam", "group_key": "run"}
    samples = tfrecords(files=path, name_key="image/class/text", **more)
    assert samples.names == ["cat", "dog"]
    assert samples.ids.tolist() == ["x7", "x8", "x9"]
    assert samples.cameras.tolist() == [3, 4, 3]
    assert samples.groups.tolist() == ["a", "b", "b"]
    (tmp_path / "names.txt").write_text("1 wolf\n0 lynx\n")
    named = tfrecords(files=path, class_id_map_file=str(tmp_path / "names.txt"))
    assert named.names == ["lynx", "wolf"]
    assert refusal(files=path, name_key="id", class_id_map_file="x") == (
        f"{path}:3: expected the name 'x7' of label 1, as before, got 'x9'"
    )
    both = {"name_key": "image/class/text", "class_id_map_file": "x"}
    assert refusal(files=path, **both) == (
        f"class_id_map_file: expected with labels that are numbers; those of {path} have names "
        "already"
    )


def test_class_names_are_one_for_each_label(tmp_path):
    path = write(tmp_path / "a", [row(0, 0, n="cat"), row(1, 2, n="dog")])
    assert refusal(files=path, name_key="n") == f"{path}: expected a name for label 1, got none"
    path = write(tmp_path / "b", [row(0, 0, n="cat"), row(1, 1, n="cat")])
    assert refusal(files=path, name_key="n") == (
        f"{path}: expected a name of its own for label 1, got 'cat', which is label 0's"
    )


def test_boxes_in_pixels_and_fractions(tmp_path):
    size = {"image__height": 100, "image__width": 200}
    four = {"l": 0.1, "t": 0.25, "r": 0.7, "b": 1.0}
    rows = [row(0, box=[3, 4, 50, 60], **size, **four), row(1, box=[0, 0, 0, 0], **size, **four)]
    path = write(tmp_path / "a", rows)
    samples = tfrecords(files=path, box_keys=("box",))
    assert samples.boxes.tolist() == [[3, 4, 50, 60], [0, 0, 0, 0]]
    samples = tfrecords(files=path, box_keys=("l", "t", "r", "b"), box_unit="fractions")
    assert samples.boxes.tolist() == [[20, 25, 140, 100]] * 2  # 0.7 is 0.69999999 in float32
    path = write(tmp_path / "b", [row(0, box=[2.25, 4.0, 5.5, 6.0])])
    assert tfrecords(files=path, box_keys=("box",)).boxes.tolist() == [[2, 4, 6, 6]]


BOX = "expected a box left, top, right, bottom with left < right"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 4, 5, 60], f"{BOX}, got [5, 4, 5, 60]"),
        ([-1, 4, 5, 60], f"{BOX}, got [-1, 4, 5, 60]"),
        ([1, 2, 3], "expected four numbers in 'box', got 3 of int64"),
        ("1 2 3 4", "expected four numbers in 'box', got 1 of bytes"),
    ],
)  # fmt: skip
def test_bad_boxes_are_refused(tmp_path, box, message):
    path = write(tmp_path / "a", [row(0, box=box)])
    assert refusal(files=path, box_keys=("box",)) == f"{path}:1: {message}"
    assert refusal(files=path, box_keys=("a", "b")) == (
        f"{path}: box_keys: expected 1 or 4 features, got ['a', 'b']"
    )


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image/encodet": b"x", "image/class/label": 0},
         "expected a feature 'image/encoded', got ['image/class/label', 'image/encodet']; did you "
         "mean 'image/encodet'?"),
        ({"image/encoded": b"x"},
         "expected a feature 'image/class/label', got ['image/encoded']"),
        ({"image/encoded": b"x", "image/class/label": [1, 2]},
         "expected one value (int64 or bytes) in 'image/class/label', got 2 of int64"),
        ({"image/encoded": b"x", "image/class/label": 1.5},
         "expected one value (int64 or bytes) in 'image/class/label', got 1 of float"),
        ({"image/encoded": 3, "image/class/label": 1},
         "expected one value (bytes) in 'image/encoded', got 1 of int64"),
        ({"image/encoded": b"", "image/class/label": 1},
         "expected an encoded image in 'image/encoded', got 0 bytes"),
        ({"image/encoded": b"x", "image/class/label": b"\xff"},
         "expected UTF-8 text in 'image/class/label', got other bytes"),
        (b"no message", "expected a tf.train.Example, got an unknown wire type, 6"),
        (b"", "expected a feature 'image/encoded', got []"),
    ],
)  # fmt: skip
def test_records_without_what_is_asked_for(tmp_path, features, message):
    path = write(tmp_path / "a", [row(0), features, row(1)])
    assert refusal(files=path) == f"{path}:2: {message}"
    problems = []
    samples = tfrecords(problems, files=path)
    assert images_of(samples) == IMAGES[:2]
    assert samples.rows.tolist() == [1, 3]
    assert [(p.source, p.row, p.what, p.kind) for p in problems] == [(path, 2, message, "row")]


def damage(path, place, data=None, cut=None):
    with open(path, "rb+") as file:
        if data is not None:
            file.seek(place, 2 if place < 0 else 0)
            file.write(data)
        if cut is not None:
            file.truncate(cut)


@pytest.fixture
def five(tmp_path):
    """Five records in one file, with the place of each and the end."""
    rows = [row(i, i) for i in range(5)]
    sizes = [len(example(r).SerializeToString()) + 16 for r in rows]
    return write(tmp_path / "five.tfrecord", rows), np.cumsum([0, *sizes]).tolist()


def test_damaged_data_are_one_record(five):
    path, places = five
    damage(path, places[2] - 100, b"\0\1\2\3")
    size = places[2] - places[1] - 16
    message = f"expected {size} bytes with their CRC, got others"
    assert refusal(files=path) == f"{path}:2: {message}"
    problems = []
    samples = tfrecords(problems, files=path)
    assert images_of(samples) == [IMAGES[i] for i in (0, 2, 3, 4)]
    assert samples.rows.tolist() == [1, 3, 4, 5]
    assert [(p.row, p.what) for p in problems] == [(2, message)]


def test_behind_a_damaged_length_nothing_is_found(five):
    path, places = five
    damage(path, places[2] + 1, b"\x77")
    message = "expected a length with its CRC, got other bytes"
    assert refusal(files=path) == f"{path}:3: {message}"
    problems = []
    assert images_of(tfrecords(problems, files=path)) == IMAGES[:2]
    assert [(p.row, p.what) for p in problems] == [(3, message)]


def test_a_file_that_is_cut_short(five):
    path, places = five
    damage(path, 0, cut=places[5] - 7)
    wanted = places[5] - places[4] - 12
    message = f"expected {wanted} bytes, got {wanted - 7}: the file is cut short"
    assert refusal(files=path) == f"{path}:5: {message}"
    problems = []
    assert images_of(tfrecords(problems, files=path)) == IMAGES[:4]
    damage(path, 0, cut=places[3] + 5)
    assert refusal(files=path) == f"{path}:4: expected 12 bytes of a length, got 5"


def test_a_huge_length_does_not_take_memory(tmp_path):
    length = struct.pack("<Q", 2**60)
    (tmp_path / "a").write_bytes(length + records.masked_crc(length) + b"x" * 50)
    assert refusal(files=f"{tmp_path}/a") == (
        f"{tmp_path}/a:1: expected {2**60 + 4} bytes, got 50: the file is cut short"
    )


def test_files_without_images(tmp_path, caplog):
    write(tmp_path / "a.tfrecord", [])
    assert refusal(files=str(tmp_path)) == f"{tmp_path}: expected images, got none"
    write(tmp_path / "b.tfrecord", [row(0)])
    assert len(tfrecords(files=str(tmp_path))) == 1
    assert f"{tmp_path}/a.tfrecord: has no images" in caplog.text
    bad = write(tmp_path / "c", [b"x"])
    message = f"{bad}: expected images, got none; {bad}:1: expected a tf.train.Example, got "
    assert refusal([], files=bad).startswith(message)


def test_compressed_files_are_refused_with_what_helps(tmp_path):
    write(tmp_path / "x", [row(0)])
    data = (tmp_path / "x").read_bytes()
    for kind, words in (("GZIP", "gunzip -c FILE > OTHER"), ("ZLIB", "compression_type='ZLIB'")):
        path = write(tmp_path / kind, [row(0)], tf.io.TFRecordOptions(compression_type=kind))
        message = refusal(files=path)
        start = f"{path}:1: expected a TFRecord file that is not compressed, got {kind}: "
        assert message.startswith(start) and words in message
        unpack = gzip.decompress if kind == "GZIP" else zlib.decompress
        assert unpack((tmp_path / kind).read_bytes()) == data  # so the advice helps


def test_a_file_that_is_no_tfrecord(tmp_path):
    (tmp_path / "a").write_bytes(IMAGES[0])
    assert refusal(files=f"{tmp_path}/a") == (
        f"{tmp_path}/a:1: expected a length with its CRC, got other bytes"
    )


# The index that is kept.


@pytest.fixture
def kept(tmp_path):
    for k in range(3):
        write(
            tmp_path / f"s-{k}.tfrecord", [row(i, i, id=f"n{i}") for i in range(3 * k, 3 * k + 3)]
        )
    return tmp_path, {
        "files": f"{tmp_path}/s-*.tfrecord", "index": f"{tmp_path}/kept.npz", "id_key": "id",
    }  # fmt: skip


def walks(caplog):
    return sum("as there is no index" in r.getMessage() for r in caplog.records)


def test_an_index_is_written_once_and_then_used(kept, caplog):
    folder, arguments = kept
    caplog.set_level(logging.INFO)
    first = tfrecords(**arguments)
    assert walks(caplog) == 1
    again = tfrecords(**arguments)
    assert walks(caplog) == 1
    assert again.paths == first.paths and images_of(again) == IMAGES
    for name in ("labels", "rows", "ids", "spans"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    some = tfrecords(**(arguments | {"files": f"{folder}/s-{{0,2}}.tfrecord"}))
    assert images_of(some) == IMAGES[:3] + IMAGES[6:]
    assert some.rows.tolist() == [1, 2, 3, 7, 8, 9]


def test_an_index_moves_with_its_shards(kept):
    folder, arguments = kept
    tfrecords(**arguments)
    moved = folder / "moved"
    moved.mkdir()
    for path in list(folder.glob("*.*")):
        path.rename(moved / path.name)
    arguments = {k: v.replace(str(folder), str(moved)) for k, v in arguments.items()}
    assert images_of(tfrecords(**arguments)) == IMAGES


def test_a_stale_or_foreign_index_is_refused(kept):
    folder, arguments = kept
    tfrecords(**arguments)
    index = folder / "kept.npz"
    again = "remove the index to have the shards read, or write both anew"
    write(folder / "s-3.tfrecord", [row(0, id="x")])
    assert refusal(**arguments) == (
        f"{folder}/s-3.tfrecord: expected a shard that {index} knows: {again}"
    )
    (folder / "s-3.tfrecord").unlink()
    size = (folder / "s-1.tfrecord").stat().st_size
    with open(folder / "s-1.tfrecord", "ab") as file:
        file.write(b"more")
    assert refusal(**arguments) == (
        f"{folder}/s-1.tfrecord: expected {size} bytes, as {index} has it, got {size + 4}: {again}"
    )
    (folder / "s-1.tfrecord").unlink()
    assert refusal(**arguments) == (
        f"{folder}/s-1.tfrecord: expected this shard, which {index} has, found none"
    )


def test_an_index_made_with_other_keys_is_refused(kept):
    folder, arguments = kept
    tfrecords(**arguments)
    index = shards.read_index(f"{folder}/kept.npz")
    newer = dataclasses.replace(index, keys={**index.keys, "depth_key": "d"})
    (folder / "newer.npz").write_bytes(newer.to_bytes())
    assert refusal(**(arguments | {"index": f"{folder}/newer.npz"})) == (
        f"{folder}/newer.npz: expected an index made with depth_key: None, got 'd': remove it to "
        "have the shards read"
    )
    assert refusal(**(arguments | {"id_key": None})) == (
        f"{folder}/kept.npz: expected an index made with id_key: None, got 'id': remove it to have "
        "the shards read"
    )


@pytest.mark.parametrize("content", [b"", b"PK\3\4 none", b"{}", "cut", "object", "outside"])
def test_what_is_no_index_is_refused(kept, content):
    folder, arguments = kept
    tfrecords(**arguments)
    index = folder / "kept.npz"
    if content == "cut":
        content = index.read_bytes()[:-300]
    if isinstance(content, bytes):
        index.write_bytes(content)
    else:
        with np.load(index) as archive:
            arrays = dict(archive)
        if content == "object":
            arrays["ids"] = np.array([{}] * 9, object)
        else:
            arrays["spans"][4] += 10**6
        np.savez(index, **arrays)
    assert refusal(**arguments).startswith(f"{index}: expected an index of shards: ")


def test_an_index_of_another_version_is_refused(kept):
    folder, arguments = kept
    tfrecords(**arguments)
    index = folder / "kept.npz"
    with np.load(index) as archive:
        arrays = dict(archive)
    arrays["header"] = np.array(str(arrays["header"]).replace('"version": 1', '"version": 2'))
    np.savez(index, **arrays)
    assert refusal(**arguments) == (
        f"{index}: expected an index of version 1, got 2: pack again, or remove the index to have "
        "the shards read"
    )


def test_no_index_is_written_of_a_set_with_problems(kept):
    folder, arguments = kept
    write(folder / "s-1.tfrecord", [row(3, 3, id="a"), b"x"])
    problems = []
    assert len(tfrecords(problems, **arguments)) == 7
    assert len(problems) == 1 and not (folder / "kept.npz").exists()


def test_a_set_replaced_by_another_is_read_anew(tmp_path):
    path = write(tmp_path / "a", [row(0)])
    assert images_of(tfrecords(files=path)) == [IMAGES[0]]
    write(tmp_path / "b", [row(1)])
    (tmp_path / "b").rename(path)
    assert images_of(tfrecords(files=path)) == [IMAGES[1]]


# Through the config and the pipeline.


def test_the_config_names_it_and_errors_name_the_key(tmp_path):
    path = write(tmp_path / "a", [row(0, 4)])
    component = Component(name="TFRecord", args={"files": path})
    assert load_samples(component, "DataLoader.Train.dataset").labels.tolist() == [4]
    missing = Component(name="TFRecord", args={"files": path, "class_id_map_file": "none.txt"})
    with pytest.raises(ConfigError, match="^DataLoader.Train.dataset: none.txt: No such file"):
        load_samples(missing, "DataLoader.Train.dataset")


def test_images_of_records_are_those_of_files(tmp_path):
    """More files than stay open, in any order."""
    paths = sorted(map(str, EMOJI_MINI.glob("test/*/*.*")))[:40]
    for i, path in enumerate(paths):
        data = files.read_bytes(path)
        write(tmp_path / f"{i:02d}.tfrecord", [{"image/encoded": data, "image/class/label": 0}])
    samples = tfrecords(files=str(tmp_path))
    order = np.random.default_rng(0).permutation(40)
    arguments = ((32, 32), PreprocessSection(), 16)
    before, files.MOST_OPEN = files.MOST_OPEN, 4
    try:
        found = list(pipeline.image_dataset(samples.take(order), *arguments))
    finally:
        files.MOST_OPEN = before
    expected = list(pipeline.image_dataset([paths[i] for i in order], *arguments))
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))


def resident():
    """Memory of this process, MiB."""
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reading_does_not_keep_what_was_read(tmp_path):
    """TensorFlow keeps a string for ever that a function returns outside a list."""
    large = IMAGES[0] + bytes(2**20)
    path = write(tmp_path / "a", [{"image/encoded": large, "image/class/label": 0}])
    samples = tfrecords(files=path)
    read = tf.function(pipeline._reader(samples))
    row = tf.constant(0, tf.int64)
    for _ in range(10):
        assert len(read(row).numpy()) == len(large)
    before = resident()
    for _ in range(200):
        read(row)
    assert resident() - before < 50  # 200 if all were kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_threads_share_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_OPEN", 3)
    paths = []
    for i in range(12):
        paths.append(str(tmp_path / f"{i}"))
        (tmp_path / f"{i}").write_bytes(bytes([i]) * 1000 + bytes(range(100)))

    def read(k):
        i, offset = k % 12, 990 + k % 7
        return (
            files.read_range(paths[i], offset, 50)
            == ((bytes([i]) * 1000 + bytes(range(100)))[offset : offset + 50])
        )

    with ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).integers(0, 10**6, 3000).tolist()
        assert all(pool.map(read, order))
    ours = [p for p in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(p)]
    assert len(ours) == 3
    files.forget(paths)
    ours = [p for p in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(p)]
    assert ours == []


def test_a_range_that_is_not_there_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read_range(f"{tmp_path}/a", 1, 3) == b"234"
    with pytest.raises(OSError, match="ends 2 bytes before the image does"):
        files.read_range(f"{tmp_path}/a", 3, 4)
    with pytest.raises(FileNotFoundError):
        files.read_range(f"{tmp_path}/b", 0, 1)


def test_keys_are_those_of_the_signature():
    keys = indexing.keys_of("TFRecord", {"files": "x", "label_offset": 1, "problems": None})
    assert keys == {
        "image_key": "image/encoded", "label_key": "image/class/label", "labels": "auto",
        "label_offset": 1, "name_key": None, "id_key": None, "camera_key": None,
        "group_key": None, "box_keys": None, "box_unit": "pixels",
    }  # fmt: skip
