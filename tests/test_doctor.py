"""Every kind of fault, planted and found again; nothing found where there is nothing."""

import csv
import json
import shutil

import numpy as np
import planted
import pytest
from conftest import EMOJI_MINI
from pages import Page
from PIL import Image

from keras_featx import cli
from keras_featx.data.lists import imagenet_list
from keras_featx.doctor.checkup import examine
from keras_featx.doctor.findings import KINDS
from keras_featx.doctor.options import Cleaning, Limits, Options, of_paths
from keras_featx.errors import ConfigError
from keras_featx.weights import pretrained_config

# A megapixel limit that makes a picture of 900 x 700 very large.
LIMITS = Limits(small=32, large=0.5)


def found_by_kind(folder):
    tree = json.loads((folder / "doctor.json").read_text())
    return {
        kind: {(f["image"]["part"], f["image"]["row"]) for f in findings}
        for kind, findings in tree["findings"].items()
    }


def test_clean_lists_have_nothing(tmp_path):
    lists = planted.clean(tmp_path).write()
    result = examine(of_paths(lists), tmp_path / "out")
    assert result["findings"] == 0 and result["counts"] == {}
    assert result["images"] == 54


def alike(*paths):
    """Correlation of two pictures' grey levels."""
    grey = [np.asarray(Image.open(p).convert("L").resize((16, 16)), float).ravel() for p in paths]
    return np.corrcoef(*grey)[0, 1]


def test_drawings_of_different_things_are_no_copies(tmp_path):
    """720 drawings of 120 things on white. Two styles drew a few things alike, and only these are
    found: their pixels go together as those of other pairs do not.
    """
    lists = {p: str(EMOJI_MINI / f"{p}_list.txt") for p in ("train", "query", "gallery")}
    result = examine(of_paths(lists), tmp_path / "out")
    assert result["images"] == 720
    assert result["counts"] == {"duplicates": 1, "near_duplicates": 5}
    tree = json.loads((tmp_path / "out" / "doctor.json").read_text())["findings"]
    for finding in tree["duplicates"] + tree["near_duplicates"]:
        first, second = finding["image"], finding["others"][0]
        assert first["label"] == second["label"]
        assert alike(first["path"], second["path"]) > 0.8
    rng = np.random.default_rng(0)
    others = rng.choice(sorted((EMOJI_MINI / "test").rglob("*.png")), (200, 2))
    assert np.mean([alike(a, b) > 0.8 for a, b in others if a.parent != b.parent]) < 0.02


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    root = tmp_path_factory.mktemp("faulty")
    made = planted.faulty(root)
    lists = made.write()
    result = examine(of_paths(lists), root / "out", Options(LIMITS, cleaning=Cleaning()))
    return root, made, lists, result


def test_every_planted_fault_is_found_and_nothing_else(faulty):
    root, made, _, result = faulty
    assert found_by_kind(root / "out") == made.expected
    unplanted = {"unreadable_files", "boxes_outside", "labels_outside", "wrong_labels"}
    assert set(KINDS) - set(made.expected) == unplanted | {"shared_identities", "unlike_lists"}
    assert result["stop_or_spoil"] == sum(
        len(rows) for kind, rows in made.expected.items() if KINDS[kind].weight != "note"
    )


def test_cleaned_lists_hold_the_other_rows_as_they_were(faulty):
    root, made, lists, _ = faulty
    for part, path in lists.items():
        left_out = {
            row
            for kind, rows in made.expected.items()
            for p, row in rows
            if p == part and KINDS[kind].left_out
        }
        expected = [
            text for row, text in enumerate(made.rows[part], start=1) if row not in left_out
        ]
        assert (root / f"{part}.clean.txt").read_text().splitlines() == expected
        with open(root / f"{part}.left_out.csv", newline="") as file:
            told = list(csv.DictReader(file))
        assert {int(line["row"]) for line in told} == left_out
        assert all(line["reason"] and line["kind"] in KINDS for line in told)
        assert open(path).read().splitlines() == made.rows[part]  # the old one is as it was


def test_cleaned_lists_load_and_pass(faulty, tmp_path):
    root, _, lists, _ = faulty
    cleaned = {part: str(root / f"{part}.clean.txt") for part in lists}
    samples = imagenet_list(image_root=str(root), cls_label_path=cleaned["train"])
    assert len(samples) > 36
    result = examine(of_paths(cleaned), tmp_path / "out", Options(LIMITS))
    left_out = {kind for kind, about in KINDS.items() if about.left_out}
    assert not left_out & set(result["counts"])


def test_cleaned_lists_are_not_overwritten_unasked(faulty, tmp_path):
    root, _, lists, _ = faulty
    with pytest.raises(ConfigError) as error:
        examine(of_paths(lists), tmp_path / "out", Options(LIMITS, cleaning=Cleaning()))
    assert str(root / "train.clean.txt") in str(error.value) and "--force" in str(error.value)
    examine(of_paths(lists), tmp_path / "out", Options(LIMITS, cleaning=Cleaning(force=True)))


def test_the_page_is_whole_and_loads_nothing(faulty):
    text = (faulty[0] / "out" / "doctor.html").read_text()
    Page(text).check()
    for kind in faulty[1].expected:
        assert KINDS[kind].title in text
    assert text.count("data:image/") > 20


def test_names_of_files_are_text_in_the_page(tmp_path):
    lists = planted.clean(tmp_path)
    evil = "<script>alert(1)<img src=x>&amp;.png"
    shutil.copy(tmp_path / lists.rows["train"][0].split()[0], tmp_path / "copy.png")
    lists.line("train", f'"{evil}" 0'.replace("img src", "imgsrc"))
    result = examine(of_paths(lists.write()), tmp_path / "out")
    assert result["counts"] == {"missing_files": 1}
    text = (tmp_path / "out" / "doctor.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;imgsrc=x&gt;&amp;amp;" in text
    assert Page(text).open == []


def test_boxes_and_tables(tmp_path):
    rows = ["path,label,box", "a.png,cat,", "b.png,cat,0 0 64 65", "c.png,dog,3 3 60 60"]
    rows += ["d.png,dog,5 5 2 9"]
    for i, name in enumerate("abcd"):
        planted.picture(planted.IDENTITIES[i]).save(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    result = examine(of_paths({"train": str(tmp_path / "t.csv")}), tmp_path / "out")
    found = found_by_kind(tmp_path / "out")
    assert found["boxes_outside"] == {("train", 3)}
    assert found["unreadable_rows"] == {("train", 5)}
    assert result["counts"]["single_images"] == 1


def test_identities_of_train_and_evaluation_are_compared_by_name(tmp_path):
    for part, names in (("train", "ab"), ("query", "bc"), ("gallery", "bc")):
        for k, name in enumerate(names):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            place = 2 * {"train": 0, "query": 2, "gallery": 4}[part] + 2 * k
            for i in range(2):
                planted.picture(planted.IDENTITIES[place + i]).save(folder / f"{i}.png")
    parts = {part: str(tmp_path / part) for part in ("train", "query", "gallery")}
    result = examine(of_paths(parts), tmp_path / "out")
    assert result["counts"] == {"shared_identities": 2}  # of query, and of gallery


@pytest.mark.slow
def test_flipped_labels_are_found_with_the_shipped_weights(tmp_path):
    """80 identities of six drawings, one label in twenty drawn anew."""
    rows = [x.split() for x in (EMOJI_MINI / "train_list.txt").read_text().splitlines()]
    rng = np.random.default_rng(0)
    flipped = set(rng.choice(len(rows), 24, replace=False).tolist())
    for row in flipped:
        rows[row][1] = str((int(rows[row][1]) + rng.integers(1, 80)) % 80)
    (tmp_path / "train.txt").write_text("".join(f"{p} {label}\n" for p, label in rows))
    name = "emoji-lcnet-x0_5"
    model = pretrained_config(name, [f"Global.pretrained_model={name}"])
    lists = of_paths({"train": str(tmp_path / "train.txt")}, str(EMOJI_MINI))
    examine(lists, tmp_path / "out", Options(model=model))
    found = {row - 1 for _, row in found_by_kind(tmp_path / "out")["wrong_labels"]}
    assert len(found & flipped) >= 0.9 * len(flipped)
    assert len(found & flipped) >= 0.5 * len(found)
    tree = json.loads((tmp_path / "out" / "doctor.json").read_text())
    true = [x.split()[1] for x in (EMOJI_MINI / "train_list.txt").read_text().splitlines()]
    told = {f["image"]["row"] - 1: f["suggestion"] for f in tree["findings"]["wrong_labels"]}
    right = sum(told[row] == true[row] for row in found & flipped)
    assert right >= 0.9 * len(found & flipped)


def test_names_and_numbers_do_not_fit_together(tmp_path):
    """As evaluation would say; see test_evaluation."""
    for i, name in enumerate("abcd"):
        planted.picture(planted.IDENTITIES[i]).save(tmp_path / f"{name}.png")
    (tmp_path / "query.txt").write_text("a.png 0\nb.png 1\n")
    (tmp_path / "gallery.txt").write_text("c.png cat\nd.png dog\n")
    lists = {part: str(tmp_path / f"{part}.txt") for part in ("query", "gallery")}
    result = examine(of_paths(lists), tmp_path / "out")
    assert result["counts"]["unlike_lists"] == 1 and result["stop_or_spoil"] == 1


def run(arguments, capsys):
    status = cli.main(["doctor", *map(str, arguments)])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_the_command(tmp_path, capsys):
    lists = planted.clean(tmp_path)
    (tmp_path / "empty.png").touch()
    lists.line("train", "empty.png 0")
    paths = lists.write()
    common = ["--train", paths["train"], "--output", tmp_path / "out"]
    status, out, _ = run(common, capsys)
    assert status == 0
    assert json.loads(out.splitlines()[-1])["counts"] == {"empty_files": 1}
    status, out, err = run([*common, "--strict"], capsys)
    assert status == 1 and json.loads(out.splitlines()[-1])["stop_or_spoil"] == 1
    assert "error: --strict: 1 findings would stop or spoil training or evaluation" in err
    status, _, _ = run([*common, "--write-clean", "--strict"], capsys)
    assert "empty.png" not in (tmp_path / "train.clean.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-c FILE.yaml: missing (or --train, --query or --gallery)"),
        (["--train", "no.txt"], "train: no.txt: No such file or directory"),
        (["--train", "x", "--force"], "--also, --keep, --force: expected with --write-clean only"),
        (["--train", "x", "--small", "0"], "--small: expected a positive number, got 0"),
        (["-o", "epochs=1", "--train", "x"], "-o epochs=1: expected with -c FILE.yaml only"),
        (
            ["--train", "x", "--model", "nothing"],
            "--model: expected one of ['emoji-lcnet-x0_5'] or a folder with weights.npz, "
            "got 'nothing'",
        ),
        (["--train", "x", "--set", "delimiter"], "--set delimiter: expected KEY=VALUE, such as"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(arguments, message, capsys):
    status, _, err = run(arguments, capsys)
    assert status == 2
    assert f"error: {message}" in err


def test_unknown_kinds_are_refused(capsys):
    status, _, err = run(["--train", "x", "--write-clean", "--also", "near_dups"], capsys)
    assert status == 2 and "--also: expected some of [" in err and "got 'near_dups'" in err


def test_a_picture_is_near_its_copies_only():
    """The copies that are planted differ by few grey levels from the picture; others by many."""
    image = planted.picture(planted.IDENTITIES[3])
    other = planted.picture(planted.IDENTITIES[4])
    small = [
        np.asarray(x.resize((16, 16), Image.Resampling.BOX), float)
        for x in (image, other, *(_opened(data) for _, data in planted.near_copies(image)))
    ]
    differences = [np.abs(small[0] - x).mean() for x in small[1:]]
    assert differences[0] > 3 * max(differences[1:])


def _opened(data):
    import io

    return Image.open(io.BytesIO(data)).convert("RGB")
