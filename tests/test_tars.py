"""Tars in WebDataset's layout, made with Python's `tarfile`."""

import io
import json
import logging
import tarfile

import pytest
from conftest import EMOJI_MINI

from keras_featx.data import files
from keras_featx.data.samples import load_samples
from keras_featx.data.tars import tars
from keras_featx.errors import ConfigError
from keras_featx.sections import Component

IMAGES = [path.read_bytes() for path in sorted(EMOJI_MINI.glob("test/*/*.*"))[:6]]


def write(path, members, mode="w", form=tarfile.PAX_FORMAT):
    """A tar of (name, data) or of ready TarInfo."""
    with tarfile.open(path, mode, format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, data = member
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def images_of(samples):
    return [
        files.read_range(path, *span)
        for path, span in zip(samples.paths, samples.spans.tolist(), strict=True)
    ]


def refusal(*arguments, **keywords):
    with pytest.raises(ConfigError) as error:
        tars(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_labels_beside_images(tmp_path, form):
    long = "x" * 150 + "/" + "y" * 90  # longer than a plain header holds
    write(
        tmp_path / "b-1.tar",
        [
            ("0.cls", "3"), ("0.jpg", IMAGES[2]),
            (f"{long}/1.CLS", " 1\n"), (f"{long}/1.JPG", IMAGES[3]),
        ],
        form=form,
    )  # fmt: skip
    write(
        tmp_path / "b-0.tar",
        [("a.png", IMAGES[0]), ("a.cls", "0"), ("b.webp", IMAGES[1]), ("b.cls", "2")],
    )
    for address in (tmp_path, tmp_path / "b-*.tar", tmp_path / "b-{0..1}.tar"):
        samples = tars(files=str(address))
        assert images_of(samples) == IMAGES[:4]
        assert samples.labels.tolist() == [0, 2, 3, 1]
        assert samples.names is None
        assert samples.rows.tolist() == [1, 2, 3, 4]


def test_labels_that_are_names(tmp_path):
    path = write(
        tmp_path / "a.tar",
        [("0.cls", "dog"), ("0.jpg", IMAGES[0]), ("1.cls", "cat"), ("1.jpg", IMAGES[1])],
    )
    samples = tars(files=path)
    assert (samples.labels.tolist(), samples.names) == ([1, 0], ["cat", "dog"])
    path = write(tmp_path / "b.tar", [("0.cls", "007"), ("0.jpg", IMAGES[0])])
    assert tars(files=path, labels="names").names == ["007"]
    assert tars(files=path, label_offset=7).labels.tolist() == [0]


def record(i, **more):
    return json.dumps({"label": i, "name": f"n{i}", "uid": f"u{i}", **more})


def test_labels_and_more_in_json(tmp_path):
    path = write(
        tmp_path / "a.tar",
        [
            ("0.json", record(0, box=[1, 2, 30.5, 40], cam=7, run="a")), ("0.jpg", IMAGES[0]),
            ("1.jpg", IMAGES[1]), ("1.json", record(1, box=[0, 0, 5, 6], cam=8, run="b")),
        ],
    )  # fmt: skip
    keys = {"name_key": "name", "id_key": "uid", "camera_key": "cam", "box_key": "box"}
    samples = tars(files=path, group_key="run", **keys)
    assert images_of(samples) == IMAGES[:2]
    assert samples.labels.tolist() == [0, 1]
    assert samples.names == ["n0", "n1"]
    assert samples.ids.tolist() == ["u0", "u1"]
    assert samples.cameras.tolist() == [7, 8]
    assert samples.groups.tolist() == ["a", "b"]
    assert tars(files=path, label_from="json", group_key="cam").groups.tolist() == [7, 8]
    # The JSON is read for nothing else.
    members = [("0.cls", "3"), ("0.json", record(0, run=5)), ("0.jpg", IMAGES[0])]
    alone = tars(files=write(tmp_path / "b.tar", members), group_key="run")
    assert (alone.labels.tolist(), alone.groups.tolist()) == ([3], [5])
    assert samples.boxes.tolist() == [[1, 2, 31, 40], [0, 0, 5, 6]]
    assert tars(files=path, label_key="name").names == ["n0", "n1"]


def test_labels_by_folder(tmp_path):
    path = write(
        tmp_path / "a.tar",
        [
            special("cats", tarfile.DIRTYPE), ("cats/0.jpg", IMAGES[0]),
            ("./dogs/0.jpg", IMAGES[1]), ("v1.5/train/cats/1.jpg", IMAGES[2]),
        ],
    )  # fmt: skip
    samples = tars(files=path)
    assert (samples.labels.tolist(), samples.names) == ([0, 1, 0], ["cats", "dogs"])
    assert images_of(samples) == IMAGES[:3]
    bad = write(tmp_path / "b.tar", [("cats/0.jpg", IMAGES[0]), ("1.jpg", IMAGES[1])])
    assert refusal(files=bad) == f"{bad}:2: '1': expected a key in a folder, the label, got none"


def test_the_source_of_labels_can_be_named(tmp_path):
    path = write(
        tmp_path / "a.tar",
        [("cats/0.jpg", IMAGES[0]), ("cats/0.cls", "5"), ("cats/0.json", record(2))],
    )
    assert tars(files=path).labels.tolist() == [5]
    assert tars(files=path, label_from="json").labels.tolist() == [2]
    assert tars(files=path, label_from="folder").names == ["cats"]


def test_what_webdataset_leaves_out_is_left_out(tmp_path, caplog):
    path = write(
        tmp_path / "a.tar",
        [
            ("__meta__/info.json", "{}"), ("__keys__", "x"), ("README", "x"), ("._0.jpg", b"x"),
            ("d/.DS_Store", b"x"), ("0.cls", "0"), ("0.txt", "a caption"), ("0.jpg", IMAGES[0]),
            ("0.seg.png", b"a mask"), ("0.jpg.md5", "x"),
        ],
    )  # fmt: skip
    assert images_of(tars(files=path)) == [IMAGES[0]]
    assert (
        f"{path}: ignored 3 members without a name before the first dot, such as README"
        in caplog.text
    )


NO_IMAGE = "expected one image (.jpg .jpeg .png .gif .bmp .webp), got"
PAIR = [("0.cls", "0"), ("0.jpg", IMAGES[0])]


@pytest.mark.parametrize(
    ("members", "number", "message"),
    [
        ([("1.jpg", IMAGES[1])], 2, "'1': expected a member .cls beside ['jpg']"),
        ([("1.cls", "1")], 2, f"'1': {NO_IMAGE} ['cls']"),
        ([("1.cls", "1"), ("1.jpg", b"x"), ("1.png", b"x")], 2,
         f"'1': {NO_IMAGE} ['cls', 'jpg', 'png']"),
        ([("1.cls", "1"), ("1.jpg", b"")], 2, "'1': expected an image in .jpg, got 0 bytes"),
        ([("1.cls", " "), ("1.jpg", b"x")], 2, "'1': expected a label in .cls, got ''"),
        ([("1.cls", b"\xff"), ("1.jpg", b"x")], 2,
         "'1': expected UTF-8 text in .cls, got other bytes"),
        ([("1.cls", "-1"), ("1.jpg", b"x")], 2, "expected a label (a number from 0), got -1"),
        ([("1.cls", "cat"), ("1.jpg", b"x")], 2, "expected a label (a number from 0), got 'cat'"),
        ([("1.cls", "1"), ("1.jpg", b"x"), ("1.JPG", b"x")], 2,
         "'1': expected one member .jpg, got two"),
        ([("1.jpg", b"x"), ("2.cls", "2"), ("1.cls", "1")], 2,
         "'1': expected a member .cls beside ['jpg']"),
        ([special("1.jpg", tarfile.SYMTYPE, "/etc/passwd")], 1,
         "'1.jpg': expected a plain file, got a link"),
        ([special("1.jpg", tarfile.LNKTYPE, "0.jpg")], 1,
         "'1.jpg': expected a plain file, got a link"),
        ([special("1.jpg", tarfile.CHRTYPE)], 1, "'1.jpg': expected a plain file, got a device"),
        ([special("1.jpg", tarfile.FIFOTYPE)], 1, "'1.jpg': expected a plain file, got a device"),
        ([("/1.jpg", b"x")], 1, "'/1.jpg': expected a path inside the tar"),
        ([("a/../../1.jpg", b"x")], 1, "'a/../../1.jpg': expected a path inside the tar"),
    ],
)  # fmt: skip
def test_samples_that_cannot_be_used(tmp_path, members, number, message):
    last = [("9.cls", "1"), ("9.jpg", IMAGES[1])]
    path = write(tmp_path / "a.tar", PAIR + members + last)
    assert refusal(files=path) == f"{path}:{number}: {message}"
    problems = []
    samples = tars(problems, files=path)
    assert images_of(samples) == IMAGES[:2]
    assert (problems[0].source, problems[0].row, problems[0].what) == (path, number, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON in .json: Expecting property name enclosed in double quotes: line 1 "
              "column 2 (char 1)"),
        ("[]", "expected names and values in .json, got list"),
        ("{}", "expected a number or a text 'label' in .json, got None"),
        ('{"label": true}', "expected a number or a text 'label' in .json, got True"),
        ('{"label": 1.5}', "expected a number or a text 'label' in .json, got 1.5"),
        ('{"label": 1}', "expected a box [left, top, right, bottom] 'box' in .json, with left < "
                         "right, got None"),
        ('{"label": 1, "box": [5, 0, 4, 9]}', "expected a box [left, top, right, bottom] 'box' in "
                                              ".json, with left < right, got [5, 0, 4, 9]"),
    ],
)  # fmt: skip
def test_json_that_cannot_be_used(tmp_path, text, message):
    good = [("0.json", record(0, box=[0, 0, 1, 1])), ("0.jpg", IMAGES[0])]
    path = write(tmp_path / "a.tar", [*good, ("1.json", text), ("1.jpg", IMAGES[1])])
    assert refusal(files=path, box_key="box") == f"{path}:2: '1': {message}"


@pytest.mark.parametrize(
    ("mode", "name", "unpack"),
    [("w:gz", "gzip", "gunzip"), ("w:bz2", "bzip2", "bunzip2"), ("w:xz", "xz", "unxz")],
)
def test_compressed_tars_are_refused(tmp_path, mode, name, unpack):
    path = write(tmp_path / "a.tar.x", PAIR, mode)
    message = (
        f"{path}:1: expected a tar that is not compressed, got {name}: unpack it with {unpack} "
        "(images are compressed already)"
    )
    assert refusal(files=path) == message
    assert refusal(files=str(tmp_path)) == message


def test_zstd_is_refused(tmp_path):
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(2000))
    assert "expected a tar that is not compressed, got zstd" in refusal(files=str(tmp_path))


def test_tars_that_are_cut_short(tmp_path):
    path = write(tmp_path / "a.tar", [*PAIR, ("1.cls", "1"), ("1.jpg", IMAGES[1])])
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    whole = (tmp_path / "a.tar").read_bytes()

    def cut(length):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        return refusal(files=path)

    end = last.offset_data + last.size
    assert cut(end - 5) == (
        f"{path}:2: '1.jpg': ends 5 bytes behind the end of the file: it is cut short"
    )
    # Between two members nothing but the missing end tells.
    message = "expected the empty blocks that end a tar, got its end: it is cut short"
    assert cut(last.offset) == f"{path}:2: {message}"
    assert cut(end + (-end % 512)) == f"{path}:2: {message}"
    assert cut(last.offset + 100) == f"{path}:2: {message}"
    problems = []
    assert images_of(tars(problems, files=path)) == [IMAGES[0]]


def test_a_file_that_is_no_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(IMAGES[0])
    message = refusal(files=str(tmp_path))
    assert message.startswith(f"{tmp_path}/a.tar:1: expected a tar: ")
    (tmp_path / "a.tar").write_bytes(b"")
    assert refusal(files=str(tmp_path)).startswith(f"{tmp_path}/a.tar:1: expected a tar: ")
    (tmp_path / "a.tar").unlink()
    write(tmp_path / "a.tar", [])
    assert refusal(files=str(tmp_path)) == f"{tmp_path}: expected images, got none"


def test_a_header_that_is_damaged(tmp_path):
    path = write(tmp_path / "a.tar", [*PAIR, ("1.cls", "1"), ("1.jpg", IMAGES[1])])
    with tarfile.open(path) as archive:
        place = archive.getmembers()[2].offset
    with open(path, "rb+") as file:
        file.seek(place)
        file.write(b"\xff\xff")
    assert refusal(files=path) == (f"{path}:1: expected a header at byte {place}, got other bytes")


def test_sparse_members_are_refused(tmp_path):
    sparse = special("1.jpg", tarfile.GNUTYPE_SPARSE)
    path = write(tmp_path / "a.tar", [*PAIR, sparse], form=tarfile.GNU_FORMAT)
    assert refusal(files=path) == f"{path}:1: '1.jpg': expected a plain file, got a sparse file"


def test_nothing_is_unpacked(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", PAIR)
    for name in ("extract", "extractall", "extractfile"):
        monkeypatch.setattr(tarfile.TarFile, name, None)
    assert len(tars(files=path)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]


def test_an_index_is_written_once_and_then_used(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = write(tmp_path / "a.tar", PAIR)
    arguments = {"files": path, "index": str(tmp_path / "i.npz")}
    first, again = tars(**arguments), tars(**arguments)
    assert sum("as there is no index" in r.getMessage() for r in caplog.records) == 1
    assert images_of(first) == images_of(again) == [IMAGES[0]]
    write(tmp_path / "a.tar", [*PAIR, ("1.cls", "1"), ("1.jpg", IMAGES[1] * 9)])
    assert "remove the index" in refusal(**arguments)


def test_the_config_names_it(tmp_path):
    path = write(tmp_path / "a.tar", PAIR)
    samples = load_samples(Component(name="WebDataset", args={"files": path}), "x")
    assert images_of(samples) == [IMAGES[0]]
