"""The doctor on everything that holds images: tables, folders, shards, arrays, lists with ids."""

import csv
import json
import os

import numpy as np
import planted
import pytest
import tensorflow as tf
from PIL import Image

from keras_featx import cli
from keras_featx.data.lists import imagenet_list
from keras_featx.data.memory import from_arrays
from keras_featx.data.tables import csv_list
from keras_featx.doctor.checkup import examine
from keras_featx.doctor.options import Cleaning, Options, of_paths
from keras_featx.errors import ConfigError, RunError
from keras_featx.sections import Component


def findings(folder):
    return json.loads((folder / "doctor.json").read_text())["findings"]


def rows(folder):
    return {k: [f["image"]["row"] for f in told] for k, told in findings(folder).items()}


@pytest.fixture
def pictures(tmp_path):
    """Files 0.png to 7.png in ``images``, drawings of different things."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(8):
        planted.picture(planted.IDENTITIES[i]).save(folder / f"{i}.png")
    return folder


def test_shards(tmp_path):
    """An image is a part of a file: two rows of one shard are the same only by their bytes."""
    data = [planted.encoded(planted.picture(planted.IDENTITIES[i])) for i in range(6)]
    data += [data[0], data[1][:900], b"", b"no image"]
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for i, image in enumerate(data):
            feature = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i % 2])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    shards = Component(name="TFRecord", args={"files": str(tmp_path / "a.tfrecord")})
    examine({"train": shards}, tmp_path / "out")
    told = findings(tmp_path / "out")
    places = {k: [f["image"]["row"] for f in v] for k, v in told.items()}
    assert told["duplicates"][0]["what"] == "the same bytes as row 1"
    assert places == {
        "duplicates": [7], "truncated": [8], "unreadable_rows": [9], "undecodable": [10]
    }  # fmt: skip
    with pytest.raises(ConfigError) as error:
        examine({"train": shards}, tmp_path / "out", Options(cleaning=Cleaning()))
    assert str(error.value) == (
        "--write-clean: expected lists or folders on disk, got TFRecord as train"
    )


def test_arrays(tmp_path):
    images = [np.asarray(planted.picture(planted.IDENTITIES[i])) for i in range(4)]
    samples = from_arrays([*images, images[2], images[3][:20, :20]], list("aabbcc"), source="mine")
    result = examine({"train": samples}, tmp_path / "out")
    assert result["counts"] == {"conflicting_duplicates": 2, "very_small": 1}
    told = findings(tmp_path / "out")["conflicting_duplicates"]
    assert [f["image"]["path"] for f in told] == ["mine[2]", "mine[4]"]
    assert "data:image/jpeg" in (tmp_path / "out" / "doctor.html").read_text()


def test_query_and_gallery_in_one_list_with_ids(tmp_path, pictures):
    """With ids no query finds itself; a copy under another id would be found."""
    lines = [f"images/{i}.png {i // 2} {i}" for i in range(8)]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    (pictures / "copy.png").write_bytes((pictures / "6.png").read_bytes())
    both = {part: str(tmp_path / "list.txt") for part in ("query", "gallery")}
    assert examine(of_paths(both, name="VeriWild"), tmp_path / "out")["counts"] == {}
    (tmp_path / "list.txt").write_text("\n".join([*lines, "images/copy.png 3 8"]) + "\n")
    examine(of_paths(both, name="VeriWild"), tmp_path / "out")
    assert rows(tmp_path / "out")["queries_in_gallery"] == [7, 9]
    # Without ids each query finds itself.
    (tmp_path / "list.txt").write_text("\n".join(x[:-2] for x in lines) + "\n")
    examine(of_paths(both, name="VeriWild"), tmp_path / "out")
    assert rows(tmp_path / "out") == {"queries_in_gallery": list(range(1, 9))}
    with pytest.raises(RunError) as error:
        examine(of_paths(both), tmp_path / "out", Options(cleaning=Cleaning()))
    assert str(error.value) == (
        f"--write-clean: nothing would be left of query ({tmp_path / 'list.txt'}); the first "
        "reason: the same image as row 1 of gallery"
    )
    assert not (tmp_path / "list.clean.txt").exists()


def test_a_query_taken_by_the_camera_of_its_copy_is_not_searched_there(tmp_path, pictures):
    lines = ["path,label,camera"] + [f"images/{i}.png,{i // 2},{i // 4}" for i in range(8)]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    both = {part: str(tmp_path / "list.csv") for part in ("query", "gallery")}
    assert examine(of_paths(both), tmp_path / "out")["counts"] == {}


def grouped(folder, name, rows):
    """A list of (picture, label, group)."""
    lines = ["path,label,group", *(f"images/{i}.png,{label},{run}" for i, label, run in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def test_images_of_two_groups_do_not_meet(tmp_path, pictures):
    """Neither as query and entry, nor as entries under two labels; in one group they do."""
    pixels = np.asarray(planted.picture(planted.IDENTITIES[4])).copy()
    pixels[:2, :2] ^= 1  # almost the same
    Image.fromarray(pixels).save(pictures / "4n.png")
    query = [(0, 0, "a"), (1, 1, "a"), (2, 2, "b"), (3, 3, "b")]
    gallery = [(4, 0, "a"), (5, 1, "a"), (6, 2, "b"), (7, 3, "b")]
    lists = {
        "query": grouped(tmp_path, "query.csv", [*query, (1, 3, "b")]),
        # A query of the other group, and entries of the other group: once more, and of two labels.
        "gallery": grouped(
            tmp_path,
            "gallery.csv",
            [*gallery, (2, 0, "a"), (4, 0, "b"), (5, 2, "b"), ("4n", 3, "c")],
        ),
    }
    assert examine(of_paths(lists), tmp_path / "out")["counts"] == {}
    more = [(4, 1, "a"), (6, 2, "b"), (2, 2, "b"), ("4n", 0, "a")]
    lists["gallery"] = grouped(tmp_path, "gallery.csv", [*gallery, *more])
    examine(of_paths(lists), tmp_path / "out")
    assert rows(tmp_path / "out") == {
        "queries_in_gallery": [4], "conflicting_duplicates": [2, 6], "duplicates": [7],
        "near_conflicts": [6, 9], "near_duplicates": [9],
    }  # fmt: skip


def test_copies_of_two_groups_spoil_a_training_list(tmp_path, pictures):
    """Training takes no notice of groups."""
    train = grouped(tmp_path, "train.csv", [(0, 0, "a"), (0, 0, "b"), (1, 1, "a"), (1, 2, "b")])
    examine(of_paths({"train": train}), tmp_path / "out")
    told = rows(tmp_path / "out")
    assert (told["duplicates"], told["conflicting_duplicates"]) == ([3], [4, 5])


def test_a_query_needs_its_identity_in_its_group(tmp_path, pictures):
    query = [(0, 0, "a"), (1, 1, "a"), (2, 0, "b"), (3, 9, "b")]
    lists = {
        "query": grouped(tmp_path, "query.csv", query),
        "gallery": grouped(tmp_path, "gallery.csv", [(4, 0, "a"), (5, 1, "b"), (6, 0, "b")]),
    }
    examine(of_paths(lists), tmp_path / "out")
    told = findings(tmp_path / "out")["queries_without_match"]
    assert [(f["image"]["row"], f["what"]) for f in told] == [
        (3, "the gallery has no '1' in group 'a'"), (5, "the gallery has no '9' in group 'b'")
    ]  # fmt: skip
    (tmp_path / "gallery.csv").write_text("path,label\nimages/4.png,0\nimages/5.png,1\n")
    examine(of_paths(lists), tmp_path / "out")
    told = findings(tmp_path / "out")
    assert [f["what"] for f in told["queries_without_match"]] == ["the gallery has no '9'"]
    assert [f["what"] for f in told["unlike_lists"]] == ["query has groups, gallery has none"]


def test_a_cleaned_list_keeps_its_groups(tmp_path, pictures):
    (tmp_path / "query.txt").write_text("images/0.png 0\nimages/no.png 3\nimages/1.png 2\n")
    (tmp_path / "gallery.txt").write_text("images/4.png 0\nimages/5.png 2\n")
    sources = {
        part: Component(
            name="ImageNetDataset",
            args={"image_root": str(tmp_path), "cls_label_path": str(tmp_path / f"{part}.txt"),
                  "labels_per_group": 2},
        )
        for part in ("query", "gallery")
    }  # fmt: skip
    found = examine(sources, tmp_path / "out", Options(cleaning=Cleaning()))["clean"]
    dataset = dict(found[str(tmp_path / "query.txt")]["datasets"]["query"])
    assert dataset["labels_per_group"] == 2
    again = imagenet_list(**{k: v for k, v in dataset.items() if k != "name"})
    assert again.groups.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("class_num", "found"),
    [(None, []), (4, []), (3, [7, 8]), (6, [0])],
)
def test_labels_are_compared_with_the_classes_stated(tmp_path, pictures, class_num, found):
    lines = [f"images/{i}.png {i // 2}" for i in range(8)]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    lists = of_paths({"train": str(tmp_path / "list.txt")})
    examine(lists, tmp_path / "out", Options(class_num=class_num))
    assert rows(tmp_path / "out").get("labels_outside", []) == found


@pytest.mark.parametrize(
    ("turned", "class_num", "count"), [("false", 4, 0), ("true", 16, 0), ("true", 8, 4)]
)
def test_the_classes_of_a_config(tmp_path, pictures, capsys, turned, class_num, count):
    lines = [f"images/{i}.png {i // 2}" for i in range(8)]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "c.yaml").write_text(
        f"Arch: {{image_size: [64, 64], Head: {{name: ArcMargin, class_num: {class_num}}}}}\n"
        "DataLoader: {Train: {dataset: {name: ImageNetDataset, image_root: "
        f"{tmp_path}, cls_label_path: {tmp_path / 'list.txt'}, turned_identities: {turned}}}}}}}\n"
    )
    arguments = ["doctor", "-c", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["counts"].get("labels_outside", 0) == count


def test_a_small_image_is_one_below_a_quarter_of_the_networks(tmp_path, pictures, capsys):
    (tmp_path / "list.txt").write_text("images/0.png 0\nimages/1.png 0\n")
    (tmp_path / "c.yaml").write_text(
        "Arch: {image_size: [288, 260]}\nDataLoader: {Train: {dataset: {name: ImageNetDataset, "
        f"image_root: {tmp_path}, cls_label_path: {tmp_path / 'list.txt'}}}}}}}\n"
    )
    common = ["doctor", "-c", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "out")]
    assert cli.main(common) == 0
    told = findings(tmp_path / "out")["very_small"][0]["what"]
    assert told == "image of 64 x 64 pixels: a side below 65, a quarter of Arch.image_size"
    assert cli.main([*common, "--small", "64"]) == 0
    assert findings(tmp_path / "out") == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path, pictures):
    (pictures / "3.png").chmod(0)
    _list_of(tmp_path, 8)
    examine(of_paths({"train": str(tmp_path / "list.txt")}), tmp_path / "out")
    assert rows(tmp_path / "out")["unreadable_files"] == [4]


def test_files_that_vanish_while_they_are_read(tmp_path, pictures):
    samples = imagenet_list(
        image_root=str(tmp_path), cls_label_path=_list_of(tmp_path, 8, per_label=2)
    )
    (pictures / "3.png").unlink()
    result = examine({"train": samples}, tmp_path / "out")
    assert result["counts"] == {"unreadable_files": 1}
    told = findings(tmp_path / "out")["unreadable_files"][0]
    assert (told["image"]["row"], told["what"]) == (4, "No such file or directory")


def _list_of(folder, count, per_label=2):
    path = folder / "list.txt"
    path.write_text("".join(f"images/{i}.png {i // per_label}\n" for i in range(count)))
    return str(path)


def left_out(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [(line["row"], line["kind"]) for line in csv.DictReader(file)]


def test_a_cleaned_csv_keeps_every_byte_of_the_other_rows(tmp_path, pictures):
    """With a byte-order mark, Windows line ends, quotes, and a line break inside a value."""
    (pictures / "6.png").write_bytes(b"")
    text = (
        '\ufeffpath;label;note\r\n"images/0.png";cat;"two\r\nlines"\r\n\r\n'
        "images/none.png;cat;missing\r\nimages/1.png;cat;\r\n"
        'images/2.png;"dog";"gone, with its\r\nsecond line"\r\nimages/3.png;dog;"a ""word"""\r\n'
        "images/4.png;dog\r\nimages/6.png;dog;empty\r\nimages/5.png;dog;no line end"
    )
    (pictures / "2.png").write_bytes(b"x")
    (tmp_path / "list.csv").write_bytes(text.encode())
    lists = of_paths({"train": str(tmp_path / "list.csv")}, arguments=["delimiter=;"])
    result = examine(lists, tmp_path / "out", Options(cleaning=Cleaning()))
    expected = (
        '\ufeffpath;label;note\r\n"images/0.png";cat;"two\r\nlines"\r\n\r\n'
        'images/1.png;cat;\r\nimages/3.png;dog;"a ""word"""\r\n'
        "images/5.png;dog;no line end"
    )
    assert (tmp_path / "list.clean.csv").read_bytes() == expected.encode()
    told = left_out(tmp_path / "list.left_out.csv")
    kinds = ["missing_files", "undecodable", "unreadable_rows", "empty_files"]
    assert [kind for _, kind in told] == kinds
    cleaned = result["clean"][str(tmp_path / "list.csv")]
    assert cleaned["images"] == {"train": 4} and cleaned["rows_left_out"] == 4
    dataset = cleaned["datasets"]["train"]
    assert dataset.pop("name") == "CSV"
    assert len(csv_list(**dataset)) == 4


def test_splits_of_one_table_are_cleaned_together(tmp_path, pictures):
    lines = ["path,label,split"]
    lines += [f"images/{i}.png,{i % 2},{'train' if i < 4 else 'query'}" for i in range(6)]
    lines += ["images/7.png,0,unused", "images/0.png,0,query"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    path = {"image_root": str(tmp_path), "cls_label_path": str(tmp_path / "list.csv")}
    parts = {
        part: Component(name="CSV", args={**path, "split": part}) for part in ("train", "query")
    }
    result = examine(parts, tmp_path / "out", Options(cleaning=Cleaning()))
    # The training image that is also a query goes; the query stays.
    assert left_out(tmp_path / "list.left_out.csv") == [("2", "leaks")]
    assert (tmp_path / "list.clean.csv").read_text().splitlines() == [lines[0], *lines[2:]]
    assert list(result["clean"].values())[0]["images"] == {"train": 3, "query": 3}


def test_a_folder_gets_a_list(tmp_path):
    """Folders may be named by numbers: these are names, and stay so."""
    for k, name in enumerate(("001", "7", "a b,c")):
        folder = tmp_path / "things" / name
        folder.mkdir(parents=True)
        for i in range(2):
            planted.picture(planted.IDENTITIES[2 * k + i]).save(folder / f"{i} x.png")
    (tmp_path / "things" / "7" / "copy.png").write_bytes(
        (tmp_path / "things" / "7" / "0 x.png").read_bytes()
    )
    (tmp_path / "things" / "7" / "notes.txt").write_text("no image")
    (tmp_path / "things" / "empty").mkdir()
    lists = of_paths({"train": str(tmp_path / "things")})
    result = examine(lists, tmp_path / "out", Options(cleaning=Cleaning()))
    assert result["counts"] == {"unreadable_rows": 2, "duplicates": 1}
    told = {f["image"]["path"] for f in findings(tmp_path / "out")["unreadable_rows"]}
    assert told == {str(tmp_path / "things" / x) for x in ("7/notes.txt", "empty")}
    dataset = result["clean"][str(tmp_path / "things")]["datasets"]["train"]
    assert dataset.pop("name") == "CSV"
    samples = csv_list(**dataset)
    assert samples.names == ["001", "7", "a b,c"]
    assert samples.labels.tolist() == [0, 0, 1, 1, 2, 2]
    again = examine({"train": samples}, tmp_path / "again")
    assert again["counts"] == {}


def test_more_or_less_is_left_out_on_request(tmp_path, pictures):
    picture = planted.picture(planted.IDENTITIES[0])
    (pictures / "near.jpg").write_bytes(planted.encoded(picture, "JPEG", quality=50))
    (pictures / "copy.png").write_bytes((pictures / "1.png").read_bytes())
    path = _list_of(tmp_path, 8)
    with open(path, "a") as file:
        file.write("images/near.jpg 0\nimages/copy.png 0\n")
    lists, out = of_paths({"train": path}), tmp_path / "out"
    for also, keep, rows_out in (
        ((), (), ["10"]),
        (("near_duplicates",), (), ["9", "10"]),
        (("near_duplicates",), ("duplicates",), ["9"]),
    ):
        examine(lists, out, Options(cleaning=Cleaning(also, keep, force=True)))
        assert [row for row, _ in left_out(tmp_path / "list.left_out.csv")] == rows_out


def test_a_name_that_is_no_utf8(tmp_path):
    """TensorFlow cannot open it; everything written stays readable."""
    folder = tmp_path / "things" / "ant"
    folder.mkdir(parents=True)
    for i in range(2):
        planted.picture(planted.IDENTITIES[i]).save(folder / f"{i}.png")
    os.rename(folder / "1.png", os.fsencode(folder) + b"/caf\xe9.png")
    planted.picture(planted.IDENTITIES[2]).save(folder / "2.png")
    lists = of_paths({"train": str(tmp_path / "things")})
    result = examine(lists, tmp_path / "out", Options(cleaning=Cleaning()))
    assert result["counts"] == {"unreadable_files": 1}
    told = findings(tmp_path / "out")["unreadable_files"][0]
    assert told["what"] == "expected a name in UTF-8"
    assert "caf\N{REPLACEMENT CHARACTER}.png" in (tmp_path / "out" / "doctor.html").read_text()
    assert "caf\\udce9.png" in (tmp_path / "things.left_out.csv").read_text()
    clean = (tmp_path / "things.clean.csv").read_text().splitlines()
    assert clean == ["path,label", "ant/0.png,ant", "ant/2.png,ant"]
