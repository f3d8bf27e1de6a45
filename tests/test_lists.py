"""Lists of images: every format, and every refusal with its message."""

import numpy as np
import pytest

from keras_featx.data import files as file_system
from keras_featx.data import lists
from keras_featx.data import samples as samples_module
from keras_featx.errors import ConfigError
from keras_featx.sections import Component


@pytest.fixture
def root(tmp_path):
    """A folder of image files, which are only looked for, not decoded."""
    for name in ("a.jpg", "b.jpg", "c d.jpg", "sub/e.png", "ü.jpg"):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path / "images"


@pytest.fixture
def write(tmp_path):
    """Write a list; text as UTF-8."""

    def write(content):
        file = tmp_path / "list.txt"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(file)

    return write


def folder(root, files):
    for name in files:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return root


def imagenet(root, file, **arguments):
    return lists.imagenet_list(image_root=str(root), cls_label_path=file, **arguments)


def veri_wild(root, file):
    return lists.veri_wild_list(image_root=str(root), cls_label_path=file)


def refusal(call, *arguments, **keywords):
    with pytest.raises(ConfigError) as error:
        call(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def check(samples, root, names, labels, rows, ids=None):
    assert samples.paths == [str(root / name) for name in names]
    assert samples.labels.dtype == np.int64
    assert samples.labels.tolist() == labels
    assert samples.rows.tolist() == rows
    assert (None if samples.ids is None else samples.ids.tolist()) == ids
    assert len(samples) == len(names)
    assert samples.class_num == max(labels) + 1


@pytest.mark.parametrize("read", [imagenet, veri_wild])
@pytest.mark.parametrize(
    "content",
    [
        "a.jpg 0\nsub/e.png 12\n",
        "a.jpg 0\nsub/e.png 12",  # no last line break
        "a.jpg 0\r\nsub/e.png 12\r\n",
        b"\xef\xbb\xbfa.jpg 0\nsub/e.png 12\n",  # byte order mark
        b"\xef\xbb\xbfa.jpg 0\r\nsub/e.png 12\r\n",
        "a.jpg 00\nsub/e.png 012\n",
    ],
)
def test_two_columns(root, write, read, content):
    file = write(content)
    samples = read(root, file)
    check(samples, root, ["a.jpg", "sub/e.png"], [0, 12], [1, 2])
    assert samples.source == file
    assert samples.names is None


@pytest.mark.parametrize("read", [imagenet, veri_wild])
def test_empty_lines_count_as_rows_but_hold_nothing(root, write, read):
    samples = read(root, write("\na.jpg 0\n\n  \nb.jpg 1\n\n"))
    check(samples, root, ["a.jpg", "b.jpg"], [0, 1], [2, 5])


def test_order_and_repetition_are_kept(root, write):
    samples = imagenet(root, write("b.jpg 1\na.jpg 0\nb.jpg 1\n"))
    check(samples, root, ["b.jpg", "a.jpg", "b.jpg"], [1, 0, 1], [1, 2, 3])


@pytest.mark.parametrize("delimiter", ["\t", ",", "::"])
def test_another_delimiter_leaves_blanks_in_paths(root, write, delimiter):
    file = write(f"c d.jpg{delimiter}3\nü.jpg{delimiter}0\n")
    samples = imagenet(root, file, delimiter=delimiter)
    check(samples, root, ["c d.jpg", "ü.jpg"], [3, 0], [1, 2])


def test_veri_wild_splits_at_any_blanks(root, write):
    samples = veri_wild(root, write("  a.jpg\t0   \nb.jpg  1\n"))
    check(samples, root, ["a.jpg", "b.jpg"], [0, 1], [1, 2])


@pytest.mark.parametrize("ids", [["7", "8"], ["cam_a", "cam_b"]])
def test_a_third_column_is_an_id(root, write, ids):
    samples = veri_wild(root, write(f"a.jpg 0 {ids[0]}\nb.jpg 0 {ids[1]}\r\n"))
    check(samples, root, ["a.jpg", "b.jpg"], [0, 0], [1, 2], ids=ids)


def test_absolute_paths_stand_for_themselves(root, write, tmp_path):
    samples = imagenet(tmp_path / "elsewhere", write(f"{root / 'a.jpg'} 0\n"))
    assert samples.paths == [str(root / "a.jpg")]


@pytest.mark.parametrize(
    ("read", "line", "message"),
    [
        (imagenet, "b.jpg", "expected 2 columns (path label) between ' ', got 1: 'b.jpg'"),
        (imagenet, "b.jpg\t1", "expected 2 columns (path label) between ' ', got 1: 'b.jpg\\t1'"),
        (imagenet, "b.jpg 1 5", "expected 2 columns (path label) between ' ', got 3: 'b.jpg 1 5'"),
        (imagenet, "c d.jpg 1", "expected 2 columns (path label) between ' ', got 3: 'c d.jpg 1'"),
        (
            veri_wild,
            "b.jpg",
            "expected 2 or 3 columns (path label [id]) between blanks, got 1: 'b.jpg'",
        ),
        (
            veri_wild,
            "b.jpg 1 2 3",
            "expected 2 or 3 columns (path label [id]) between blanks, got 4: 'b.jpg 1 2 3'",
        ),
    ],
)
def test_a_wrong_number_of_columns_is_refused(root, write, read, line, message):
    file = write(f"a.jpg 0\n\n{line}\n")
    assert refusal(read, root, file) == f"{file}:3: {message}"


def test_the_delimiter_is_named_as_it_was_given(root, write):
    file = write("a.jpg 0\n")
    assert refusal(imagenet, root, file, delimiter="\t") == (
        f"{file}:1: expected 2 columns (path label) between '\\t', got 1: 'a.jpg 0'"
    )


def test_an_empty_delimiter_is_refused(root, write):
    file = write("a.jpg 0\n")
    message = f"{file}: delimiter: expected a character, got ''"
    assert refusal(imagenet, root, file, delimiter="") == message


@pytest.mark.parametrize("label", ["x", "-1", "+1", "1.0", "1e3", "٣", "²", "2147483648", "9" * 30])
def test_a_label_that_is_no_number_from_0_is_refused(root, write, label):
    file = write(f"a.jpg 0\nb.jpg {label}\n")
    message = f"{file}:2: expected a label (a number from 0), got {label!r}"
    assert refusal(imagenet, root, file) == message
    assert refusal(veri_wild, root, file) == message


def test_the_largest_label(root, write):
    assert imagenet(root, write("a.jpg 2147483647\n")).class_num == 2**31


def test_an_empty_label_is_refused(root, write):
    file = write("a.jpg \n")
    assert refusal(imagenet, root, file) == (
        f"{file}:1: expected a label (a number from 0, or a name), got ''"
    )


def test_missing_images_are_counted(root, write):
    file = write("a.jpg 0\nno.jpg 1\n")
    message = f"{file}:2: missing image {str(root / 'no.jpg')!r}"
    assert refusal(imagenet, root, file) == message
    file = write("a.jpg 0\n\nno.jpg 1\nb.jpg 1\nnot.jpg 1\nsub 1\n")  # a folder is no image
    message = f"{file}:3: missing image {str(root / 'no.jpg')!r} (2 more are missing)"
    assert refusal(veri_wild, root, file) == message


@pytest.mark.parametrize("content", ["", "\n\n", "  \n", b"\xef\xbb\xbf"])
def test_an_empty_list_is_refused(root, write, content):
    file = write(content)
    assert refusal(imagenet, root, file) == f"{file}: expected rows of 'path label', got none"
    assert refusal(veri_wild, root, file) == (
        f"{file}: expected rows of 'path label [id]', got none"
    )


@pytest.mark.parametrize(
    ("content", "row", "columns"),
    [("a.jpg 0\n\nb.jpg 0 7\n", 3, 2), ("a.jpg 0 7\nb.jpg 0 8\nb.jpg 0\n", 3, 3)],
)
def test_rows_with_and_without_ids_are_refused(root, write, content, row, columns):
    file = write(content)
    message = f"{file}:{row}: expected {columns} columns as in the rows before"
    assert refusal(veri_wild, root, file) == message


def test_a_list_that_is_not_utf8_is_refused(root, write):
    file = write("ü.jpg 0\n".encode("latin-1"))
    assert refusal(imagenet, root, file) == f"{file}: expected UTF-8 text: invalid start byte"


@pytest.mark.parametrize("name", ["ImageNetDataset", "VeriWild"])
def test_a_list_that_cannot_be_read_is_named_with_its_key(tmp_path, name):
    for file, reason in (
        (tmp_path / "no.txt", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        dataset = Component(
            name=name, args={"image_root": str(tmp_path), "cls_label_path": str(file)}
        )
        message = refusal(samples_module.load_samples, dataset, "DataLoader.Train.dataset")
        assert message == f"DataLoader.Train.dataset: {file}: {reason}"


def test_lists_are_loaded_by_the_names_of_a_config(root, write):
    file = write("a.jpg 0\nb.jpg 1\n")
    arguments = {"image_root": str(root), "cls_label_path": file}
    for name in ("ImageNetDataset", "VeriWild"):
        samples = samples_module.load_samples(Component(name=name, args=arguments), "x")
        check(samples, root, ["a.jpg", "b.jpg"], [0, 1], [1, 2])


def class_folders(root):
    dataset = Component(name="ClassFolders", args={"image_root": str(root)})
    return samples_module.load_samples(dataset, "DataLoader.Train.dataset")


def test_folders_are_identities(tmp_path):
    root = folder(
        tmp_path,
        ["b/2.png", "b/1.JPG", "a/x.jpeg", "a/deep/y.webp", "c 3/z.gif", "c 3/z.bmp"],
    )
    samples = class_folders(root)
    expected = ["a/deep/y.webp", "a/x.jpeg", "b/1.JPG", "b/2.png", "c 3/z.bmp", "c 3/z.gif"]
    check(samples, root, expected, [0, 0, 1, 1, 2, 2], [1, 2, 3, 4, 5, 6])
    assert samples.names == ["a", "b", "c 3"]
    assert samples.source == str(root)


def test_hidden_entries_are_left_alone(tmp_path):
    root = folder(tmp_path, ["a/x.png", "a/.DS_Store", ".git/config", ".cache/y.png"])
    check(class_folders(root), root, ["a/x.png"], [0], [1])


@pytest.mark.parametrize("hidden", ["a/.thumbnails/x.png", "a/.ipynb_checkpoints/notes.txt"])
def test_what_lies_in_a_hidden_folder_is_left_alone(tmp_path, hidden):
    root = folder(tmp_path, ["a/x.png", hidden])
    check(class_folders(root), root, ["a/x.png"], [0], [1])


def test_a_hidden_folder_above_the_images_does_not_hide_them(tmp_path):
    root = folder(tmp_path / ".data", ["a/x.png"])
    check(class_folders(root), root, ["a/x.png"], [0], [1])
    assert file_system.find_images(root) == [str(root / "a/x.png")]


def test_a_file_that_is_no_image_is_refused(tmp_path):
    root = folder(tmp_path, ["a/x.png", "b/notes.txt", "b/y.png"])
    assert refusal(class_folders, root) == (
        f"{root / 'b/notes.txt'}: expected an image (.jpg .jpeg .png .gif .bmp .webp)"
    )


def test_an_empty_folder_is_refused(tmp_path):
    root = folder(tmp_path, ["a/x.png"])
    (root / "b").mkdir()
    message = f"{root / 'b'}: expected images of this identity, got none"
    assert refusal(class_folders, root) == message


def test_a_folder_without_folders_is_refused(tmp_path):
    root = folder(tmp_path, ["notes.txt"])
    message = f"{root}: expected one folder per identity, got none"
    assert refusal(class_folders, root) == message
    (root / "x.png").touch()
    message = f"{root / 'x.png'}: expected images inside the folder of their identity"
    assert refusal(class_folders, root) == message


@pytest.mark.parametrize("name", ["no", "file.png"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    path = folder(tmp_path, ["file.png"]) / name
    message = f"{path}: expected a folder with one folder per identity"
    assert refusal(class_folders, path) == message


@pytest.fixture
def samples(root, write):
    """Labels 0, 1 and 3 in rows 1, 3 and 4."""
    return imagenet(root, write("a.jpg 0\n\nb.jpg 3\na.jpg 1\n"))


@pytest.mark.parametrize("class_num", [None, 4])
def test_the_list_tells_the_number_of_classes(samples, class_num):
    assert samples_module.check_labels(samples, class_num, "Arch.Head.class_num") == 4


@pytest.mark.parametrize(
    ("class_num", "row", "label", "count"), [(3, 3, 3, 1), (1, 3, 3, 2), (0, 1, 0, 3)]
)
def test_a_label_outside_the_classes_is_refused(samples, class_num, row, label, count):
    message = refusal(samples_module.check_labels, samples, class_num, "Arch.Head.class_num")
    assert message == (
        f"{samples.source}:{row}: label {label} is outside [0, {class_num}), the classes of "
        f"Arch.Head.class_num ({count} such rows)"
    )


def test_more_classes_than_the_list_has_are_refused(samples):
    message = refusal(samples_module.check_labels, samples, 10, "Arch.Head.class_num")
    assert message == (
        f"Arch.Head.class_num: expected 4, as the labels of {samples.source} go from 0 to 3, got 10"
    )


def test_turned_identities_are_four_of_each(samples, root):
    turned = samples_module.turned_identities(samples)
    names = [name for name in ("a.jpg", "b.jpg", "a.jpg") for _ in range(4)]
    labels = [0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7]
    check(turned, root, names, labels, [1] * 4 + [3] * 4 + [4] * 4)
    assert turned.turns.tolist() == [0, 1, 2, 3] * 3
    assert turned.source == samples.source
    assert samples.turns is None


def test_images_are_found_below_a_folder(tmp_path):
    files = ["z.png", "a/B.JPEG", "a/b.webp", "a/c/d.gif", "e.bmp", "f.jpg", ".hidden.png"]
    root = folder(tmp_path, [*files, "notes.txt", "a/list.csv"])
    expected = sorted(str(root / f) for f in files if f != ".hidden.png")
    assert file_system.find_images(root) == expected
    assert file_system.find_images(str(root)) == expected


def test_images_in_hidden_folders_are_not_found(tmp_path):
    root = folder(tmp_path, ["x.png", ".thumbnails/x.png", "a/.cache/y.png"])
    assert file_system.find_images(root) == [str(root / "x.png")]


def test_an_image_is_found_itself(root):
    assert file_system.find_images(root / "a.jpg") == [str(root / "a.jpg")]


def test_no_images_are_refused(tmp_path):
    root = folder(tmp_path, ["notes.txt"])
    assert refusal(file_system.find_images, root) == (
        f"{root}: expected images (.jpg .jpeg .png .gif .bmp .webp), found none"
    )
    assert refusal(file_system.find_images, root / "no") == (
        f"{root / 'no'}: expected an image or a folder of images, found neither"
    )


def test_rows_are_counted_through_a_long_list(root, write):
    """Lists are read some hundred lines at a time; rows, columns and empty lines go on."""
    lines = [f"a.jpg {i % 3}" for i in range(2000)]
    lines[600] = ""
    lines[1023] = "one"
    lines[1024] = "a.jpg one"
    lines[1536] = '"c d.jpg" 2'
    problems = []
    samples = imagenet(root, write("\r\n".join(lines)), problems=problems)
    kept = [i for i in range(2000) if i not in (600, 1023, 1024)]
    assert samples.rows.tolist() == [i + 1 for i in kept]
    assert samples.labels.tolist() == [2 if i == 1536 else i % 3 for i in kept]
    assert samples.paths[kept.index(1536)] == str(root / "c d.jpg")
    assert sorted(p.row for p in problems) == [1024, 1025]


@pytest.mark.parametrize(("first", "row"), [("a.jpg 0 7", "b.jpg 0"), ("a.jpg 0", "b.jpg 0 8")])
def test_columns_stay_as_many_through_a_long_list(root, write, first, row):
    width = len(first.split())
    file = write("\n".join([first] * 700 + [row]))
    assert refusal(veri_wild, root, file) == (
        f"{file}:701: expected {width} columns as in the rows before"
    )


def test_a_byte_that_is_no_utf8_far_down(root, write):
    file = write(b"a.jpg 0\n" * 3000 + b"\xff.jpg 0\n")
    assert refusal(imagenet, root, file) == f"{file}: expected UTF-8 text: invalid start byte"


@pytest.mark.parametrize("others", [0, 500])
def test_missing_files_are_those_the_system_does_not_know(tmp_path, others, monkeypatch):
    """Whether a folder is listed (many wanted), cut short (far more in it) or asked for each."""
    monkeypatch.chdir(tmp_path)
    for below, count in (("many", 20), ("few", 3), (".", 3)):
        (tmp_path / below).mkdir(exist_ok=True)
        for i in range(count):
            (tmp_path / below / f"{i}.jpg").touch()
        for i in range(others):
            (tmp_path / below / f"other_{i}").touch()
    (tmp_path / "many" / "folder.jpg").mkdir()
    (tmp_path / "many" / "link.jpg").symlink_to(tmp_path / "few" / "0.jpg")
    (tmp_path / "many" / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    wanted = [f"{i}.jpg" for i in range(22)]
    wanted += ["folder.jpg", "link.jpg", "broken.jpg", "", ".", ".."]
    folders = ["many/", "many//", "few/", "", "./", "none/", f"{tmp_path}/"]
    paths = [below + name for below in folders for name in wanted]
    paths += ["many/0.jpg", "many/99.jpg", "few/../many/1.jpg", "nul\0/a.jpg", "nul\0.jpg"]
    expected = [i for i, path in enumerate(paths) if not _is_file(path)]
    assert file_system.missing(paths) == expected
    assert 0 < len(expected) < len(paths)


def _is_file(path):
    try:
        with open(path):
            return True
    except (OSError, ValueError):
        return False


@pytest.mark.parametrize("read", [lists.imagenet_list, lists.veri_wild_list])
def test_groups_are_so_many_labels_each(root, write, read, tmp_path):
    """As in Omniglot's runs: label 100 * run + class."""
    arguments = {
        "image_root": str(root),
        "cls_label_path": write("a.jpg 100\nb.jpg 119\nü.jpg 99\n"),
    }
    assert read(**arguments).groups is None
    samples = read(**arguments, labels_per_group=100)
    assert samples.groups.tolist() == [1, 1, 0]
    assert samples.labels.tolist() == [100, 119, 99]
    assert samples.take([2, 0]).groups.tolist() == [0, 1]
    assert read(**arguments, labels_per_group=1).groups.tolist() == [100, 119, 99]
    # Names given to numbers leave them numbers.
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{i} name {i}\n" for i in range(120)))
    named = read(**arguments, labels_per_group=100, class_id_map_file=str(names))
    assert named.names[119] == "name 119" and named.groups.tolist() == [1, 1, 0]


def test_groups_stay_with_their_images_where_rows_are_left_out(root, write):
    file = write("a.jpg x\nno.jpg 3\nb.jpg 7\nü.jpg 2\n")
    dataset = Component(
        name="ImageNetDataset",
        args={"image_root": str(root), "cls_label_path": file, "labels_per_group": 2,
              "labels": "numbers"},
    )  # fmt: skip
    samples = samples_module.load_samples(dataset, "x", problems := [])
    assert (samples.labels.tolist(), samples.groups.tolist()) == ([7, 2], [3, 1])
    assert sorted(problem.row for problem in problems) == [1, 2]


def test_groups_of_names_or_of_no_labels_are_refused(root, write):
    file = write("a.jpg cat\nb.jpg dog\n")
    assert refusal(imagenet, root, file, labels_per_group=2) == (
        f"labels_per_group: expected with labels that are numbers; those of {file} are names"
    )
    assert refusal(imagenet, root, write("a.jpg 1\n"), labels_per_group=0) == (
        f"{file}: labels_per_group: expected at least 1, got 0"
    )
