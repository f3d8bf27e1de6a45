"""CSV with named columns, the further lists of the reference, and labels that are names."""

import csv

import numpy as np
import pytest

from keras_featx.data import lists, tables
from keras_featx.data.labels import read_labels
from keras_featx.data.samples import load_samples
from keras_featx.data.tables import parse_box
from keras_featx.errors import ConfigError
from keras_featx.sections import Component

NAMES = ("a.jpg", "b.jpg", "c d.jpg", 'say "x".jpg', "e,f.jpg", "tab\there.jpg")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        (folder / name).touch()
    return str(folder)


@pytest.fixture
def write(tmp_path):
    def write(content, name="list.csv"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(file)

    return write


def table(root, file, **arguments):
    return tables.csv_list(image_root=root, cls_label_path=file, **arguments)


def refusal(call, *arguments, **keywords):
    with pytest.raises(ConfigError) as error:
        call(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def names_of(samples, root):
    return [path.removeprefix(f"{root}/") for path in samples.paths]


ALL_COLUMNS = """label,weight,path,camera,id,split,group,box
7,0.5,a.jpg,c1,i1,train,g1,
3,0.5,"e,f.jpg",c2,i2,query,g2,"1,2,3,4"
7,0.5,c d.jpg,c1,i3,train,g3,10 20.5 30.2 40
"""


def test_columns_are_found_by_name(root, write):
    samples = table(root, write(ALL_COLUMNS), split="train")
    assert names_of(samples, root) == ["a.jpg", "c d.jpg"]
    assert samples.labels.tolist() == [7, 7] and samples.names is None
    assert samples.rows.tolist() == [2, 4]
    assert samples.ids.tolist() == ["i1", "i3"]
    assert samples.cameras.tolist() == ["c1", "c1"]
    assert samples.groups.tolist() == ["g1", "g3"]
    assert table(root, write(ALL_COLUMNS), split="train", group_column="run").groups is None
    other = table(root, write(ALL_COLUMNS), split="train", group_column="weight")
    assert other.groups.tolist() == ["0.5", "0.5"]
    assert samples.boxes.tolist() == [[0, 0, 0, 0], [10, 20, 31, 40]]


def test_a_split_must_be_chosen(root, write):
    file = write(ALL_COLUMNS)
    known = "expected one of ['query', 'train']"
    assert refusal(table, root, file) == f"{file}: split: {known}, got None"
    assert refusal(table, root, file, split="test") == f"{file}: split: {known}, got 'test'"
    plain = write("path,label\na.jpg,0\n", "plain.csv")
    assert refusal(table, root, plain, split="train") == (
        f"{plain}:1: split: expected a column 'split' to choose from"
    )


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_what_a_csv_writer_writes_is_read(root, write, tmp_path, delimiter, end, mark):
    file = tmp_path / "written.csv"
    with open(file, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, delimiter=delimiter, lineterminator=end)
        writer.writerow(["path", "label"])
        writer.writerows([name, "x y" if i % 2 else "ü"] for i, name in enumerate(NAMES))
    file.write_bytes(mark + file.read_bytes())
    samples = table(root, str(file), delimiter=delimiter)
    assert names_of(samples, root) == list(NAMES)
    assert samples.names == ["x y", "ü"]
    assert samples.labels.tolist() == [1, 0] * 3


def test_columns_of_other_names(root, write):
    file = write("file,class\na.jpg,0\n")
    samples = table(root, file, path_column="file", label_column="class")
    assert names_of(samples, root) == ["a.jpg"]
    assert refusal(table, root, write("file,label\na.jpg,0\n")) == (
        f"{file}:1: path_column: expected a column 'path', got ['file', 'label']"
    )
    assert refusal(table, root, write("path,labels\na.jpg,0\n")) == (
        f"{file}:1: label_column: expected a column 'label', got ['path', 'labels']; "
        "did you mean 'labels'?"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1: path_column: expected a column 'path', got []"),
        ("path,label\n", ": expected rows below the heading, got none"),
        ("path,label,path\na.jpg,0,b.jpg\n", ":1: expected each column once, got 'path' twice"),
        (
            "path,label\na.jpg,0\n\nb.jpg\n",
            ":4: expected 2 columns as in the heading, got 1: ['b.jpg']",
        ),
        ("path,label\n,0\n", ":2: expected a path, got ''"),
        ("path,label\na.jpg,\n", ":2: expected a label (a number from 0, or a name), got ''"),
        ("path,label\nno.jpg,0\n", ":2: missing image '{root}/no.jpg'"),
        ('path,label\n"a.jpg,0\n', ":2: expected CSV: unexpected end of data"),
        (
            "path,label,box\na.jpg,0,1 2 3\n",
            ":2: expected a box 'left top right bottom' with left < right, got '1 2 3'",
        ),
        (
            "path,label,box\na.jpg,0,5 2 5 9\n",
            ":2: expected a box 'left top right bottom' with left < right, got '5 2 5 9'",
        ),
    ],
)
def test_what_is_wrong_is_named(root, write, content, message):
    file = write(content)
    assert refusal(table, root, file) == f"{file}{message.format(root=root)}"


@pytest.mark.parametrize("delimiter", ["", ", "])
def test_the_delimiter_is_one_character(root, write, delimiter):
    file = write("path,label\na.jpg,0\n")
    assert refusal(table, root, file, delimiter=delimiter) == (
        f"{file}: delimiter: expected one character, got {delimiter!r}"
    )


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("", (0, 0, 0, 0)),
        ("  ", (0, 0, 0, 0)),
        ("1 2 3 4", (1, 2, 3, 4)),
        ("[1, 2, 3, 4]", (1, 2, 3, 4)),
        ("0.9 1.1 2.1 3.0", (0, 1, 3, 3)),
        (".5 0 1. 1", (0, 0, 1, 1)),
        ("1 2 3", None),
        ("1 2 3 4 5", None),
        ("3 2 1 4", None),
        ("1 4 3 2", None),
        ("-1 2 3 4", None),
        ("1 2 nan 4", None),
        ("1 2 inf 4", None),
        ("1 2 0x10 4", None),
        ("1 2 3 99999999999", None),
    ],
)
def test_boxes(text, box):
    assert parse_box(text) == box


# Labels


def labels_of(texts, **arguments):
    numbers, names = read_labels(texts, np.arange(1, len(texts) + 1), "list", **arguments)
    return numbers.tolist(), names


def test_labels_are_numbers_or_names():
    assert labels_of(["3", "007", "0"]) == ([3, 7, 0], None)
    assert labels_of(["dog", "cat", "dog", "1st place"]) == (
        [2, 1, 2, 0],
        ["1st place", "cat", "dog"],
    )
    assert labels_of(["10", "9"], how="names") == ([0, 1], ["10", "9"])


@pytest.mark.parametrize("slip", ["O1", "cat", "1.5", "-1"])
def test_one_slip_does_not_turn_numbers_into_names(slip):
    assert refusal(labels_of, ["0", "1", slip]) == (
        f"list:3: expected a label (a number from 0), got {slip!r}"
    )


def test_numbers_can_be_asked_for():
    assert refusal(labels_of, ["cat"], how="numbers") == (
        "list:1: expected a label (a number from 0), got 'cat'"
    )


def test_a_name_may_hold_no_zero_byte():
    assert refusal(labels_of, ["a", "b\0c"]).startswith("list:2: expected a label")


def test_names_of_a_list_and_of_a_file_are_one_too_many(root, write):
    names = write("0 cat\n", "names.txt")
    file = write("a.jpg cat\n", "list.txt")
    assert refusal(
        lists.imagenet_list, image_root=root, cls_label_path=file, class_id_map_file=names
    ) == (
        "class_id_map_file: expected with labels that are numbers; those of "
        f"{file} are names already"
    )


# Quotes, and the reference's other lists


def test_a_quoted_path_may_hold_the_delimiter(root, write):
    file = write('a.jpg 0\n"c d.jpg" 1\n"say ""x"".jpg" 1\n', "list.txt")
    for read in (lists.imagenet_list, lists.veri_wild_list):
        samples = read(image_root=root, cls_label_path=file)
        assert names_of(samples, root) == ["a.jpg", "c d.jpg", 'say "x".jpg']
        assert samples.labels.tolist() == [0, 1, 1]
    file = write('"e,f.jpg",0\nb.jpg,1\n', "list.txt")
    samples = lists.imagenet_list(image_root=root, cls_label_path=file, delimiter=",")
    assert names_of(samples, root) == ["e,f.jpg", "b.jpg"]


def test_a_quote_that_does_not_close_is_no_quote(root, write):
    file = write('"a.jpg 0\n', "list.txt")
    message = refusal(lists.imagenet_list, image_root=root, cls_label_path=file)
    assert message == f"{file}:1: missing image '{root}/\"a.jpg'"


def test_logo_lists_count_from_one(root, write):
    heading = "image_id\tlabel\tsuper\tpath\n"
    file = write(heading + "7\t1\t5\ta.jpg\n8\t12\t5\tc d.jpg\textra\n", "logo.txt")
    samples = lists.logo_list(image_root=root, cls_label_path=file)
    assert names_of(samples, root) == ["a.jpg", "c d.jpg"]
    assert samples.labels.tolist() == [0, 11]
    assert samples.rows.tolist() == [2, 3]


@pytest.mark.parametrize("label", ["0", "-1", "x", ""])
def test_a_logo_label_of_zero_is_refused(root, write, label):
    file = write(f"7\t{label}\t5\ta.jpg\n", "logo.txt")
    assert refusal(lists.logo_list, image_root=root, cls_label_path=file) == (
        f"{file}:1: expected a label (a number from 1), got {label!r}"
    )


def test_a_logo_row_that_is_too_short_is_refused(root, write):
    file = write("7\t1\ta.jpg\n", "logo.txt")
    assert refusal(lists.logo_list, image_root=root, cls_label_path=file) == (
        f"{file}:1: expected 2 columns (path in the 4th and label in the 2nd of at least 4) "
        "between '\\t', got 0: '7\\t1\\ta.jpg'"
    )


def test_cartoon_lists_stand_between_tabs(root, write):
    file = write("a.jpg\t4\nc d.jpg\t0\n", "cartoon.txt")
    samples = lists.icartoon_list(image_root=root, cls_label_path=file)
    assert names_of(samples, root) == ["a.jpg", "c d.jpg"]
    assert samples.labels.tolist() == [4, 0]


# Collected problems


def test_problems_are_collected_and_their_rows_left_out(root, write):
    file = write("a.jpg 0\nb.jpg\nno.jpg 1\nb.jpg x\nb.jpg 2\n", "list.txt")
    problems = []
    dataset = Component(name="ImageNetDataset", args={"image_root": root, "cls_label_path": file})
    samples = load_samples(dataset, "x", problems)
    assert names_of(samples, root) == ["a.jpg", "b.jpg"]
    assert samples.labels.tolist() == [0, 2] and samples.rows.tolist() == [1, 5]
    assert sorted((p.row, p.kind, p.source) for p in problems) == [
        (2, "row", file),
        (3, "missing", file),
        (4, "row", file),
    ]


def test_problems_of_a_table_are_collected(root, write):
    file = write(
        "path,label,box,camera,group\na.jpg,0,,1,a\n,0,,1,b\nb.jpg,0,1 1,1,c\nb.jpg,x,,1,d\n"
        "b.jpg,1,1 1 2 2,7,e\n"
    )
    problems = []
    arguments = {"image_root": root, "cls_label_path": file}
    samples = load_samples(Component(name="CSV", args=arguments), "x", problems)
    assert samples.rows.tolist() == [2, 6] and samples.cameras.tolist() == ["1", "7"]
    assert samples.groups.tolist() == ["a", "e"]
    assert samples.boxes.tolist() == [[0, 0, 0, 0], [1, 1, 2, 2]]
    assert sorted(p.row for p in problems) == [3, 4, 5]


def test_a_list_without_any_usable_row_is_refused(root, write):
    file = write("no.jpg 0\n", "list.txt")
    dataset = Component(name="ImageNetDataset", args={"image_root": root, "cls_label_path": file})
    assert refusal(load_samples, dataset, "x", []) == (
        f"{file}: expected rows that can be used, got none; missing image '{root}/no.jpg'"
    )
