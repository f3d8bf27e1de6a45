"""The command line as a new user meets it: results, one-line errors, exit statuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import EMOJI_MINI, ROOT, tiny_config

from keras_featx import cli
from keras_featx.config import dump_config


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_config(tiny_config(tmp_path, "epochs=1", "eval_during_train=false")))
    return file


def run(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, **kwargs
    )


def test_train_resume_eval_export_predict_by_the_tools(config_file, tmp_path):
    """The reference's commands, one after another, on real pictures."""
    out = tmp_path / "run"
    done = run("tools/train.py", "-c", config_file, "--strategy", "mirrored")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["epoch"] == 1 and result["output_dir"] == str(out)

    resumed = run(
        "tools/train.py", "-c", config_file, "-o", f'Global.checkpoint="{out}/latest"',
        "-o", "Global.epochs=2", "-o", "eval_during_train=True",
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["epoch"] == 2

    best = f'Global.pretrained_model="{out}/best_model"'
    evaluated = run("tools/eval.py", "-c", config_file, "-o", best, "--output", tmp_path / "eval")
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout)
    assert {"recall@1", "recall@5", "map", "seconds"} < scores.keys()
    low, high = scores["intervals"]["recall@1"]
    assert low < scores["recall@1"] < high and scores["left_out"] == {}
    assert f"recall@1  {scores['recall@1']:.4f}  {low:.4f} to {high:.4f}" in evaluated.stderr
    written = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert written["metrics"]["recall@1"]["mean"] == scores["recall@1"]
    report = (tmp_path / "eval" / "report.html").read_text()
    assert "run/best_model" in report and f"{100 * scores['recall@1']:.1f} %" in report
    rows = (tmp_path / "eval" / "evaluation_queries.csv").read_text().splitlines()
    assert rows[0] == "query,label,recall@1,recall@5,map" and len(rows) == 201
    found = [float(row.split(",")[2]) for row in rows[1:]]
    assert sum(found) / 200 == pytest.approx(scores["recall@1"])
    assert (scores["queries"], scores["queries_without_match"], scores["gallery"]) == (200, 0, 40)
    assert scores["recall@1"] == pytest.approx(json.loads(resumed.stdout)["recall@1"])

    exported = run("tools/export_model.py", "-c", config_file, "-o", best)
    assert exported.returncode == 0, exported.stderr
    written = json.loads(exported.stdout)
    assert written["largest_difference"] < 1e-4 and written["images"] == 8 + 3
    assert {Path(written[name]).name for name in ("saved_model", "tflite", "onnx")} == {
        "1", "model.tflite", "model.onnx",
    }  # fmt: skip
    assert f"| onnx | 1.0000000 | {100 * scores['recall@1']:.2f} % | 100.0 % |" in exported.stderr
    again = run("tools/export_model.py", "-c", config_file, "-o", best)
    assert again.returncode == 2 and again.stderr.splitlines()[-1] == (
        f"error: {out / 'inference'}: expected no export there, as none is overwritten unless "
        "Export.overwrite is true (--overwrite)"
    )
    verified = run(
        "-m", "keras_featx.cli", "verify", out / "inference", "--weights", out / "best_model"
    )
    assert verified.returncode == 0, verified.stderr
    found = json.loads(verified.stdout)["variants"]["tflite"]
    assert found["recall@1"] == pytest.approx(scores["recall@1"])

    for name in ("features.npz", "features.jsonl"):
        predicted = run(
            "tools/predict.py", "-c", config_file, "-o", best, "--output", tmp_path / name,
            EMOJI_MINI / "test" / "ant",
        )  # fmt: skip
        assert predicted.returncode == 0, predicted.stderr
        assert json.loads(predicted.stdout)["images"] == 6
    arrays = np.load(tmp_path / "features.npz", allow_pickle=False)
    lines = [json.loads(line) for line in (tmp_path / "features.jsonl").open()]
    assert [line["path"] for line in lines] == arrays["paths"].tolist()
    np.testing.assert_array_equal(
        np.array([line["feature"] for line in lines], "float32"), arrays["features"]
    )
    np.testing.assert_allclose(np.linalg.norm(arrays["features"], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-c", "{c}", "-o", "epoch=1"],
         "error: Global.epoch: unknown key; did you mean 'epochs'?"),
        (["train", "-c", "none.yaml"],
         "error: none.yaml: expected a readable YAML file: No such file or directory"),
        (["eval", "-c", "{c}"],
         "error: Global.pretrained_model: expected the weights to evaluate, got null"),
        (["export", "-c", "{c}"],
         "error: Global.pretrained_model: expected the weights to export, got null"),
        (["export", "-c", "{c}", "--format", "onxx"],
         "error: format: expected one of ['saved_model', 'tflite', 'onnx', 'tflite_float16', "
         "'tflite_dynamic', 'tflite_int8'], got 'onxx'"),
        (["predict", "-c", "{c}", "x.png"],
         "error: x.png: expected an image or a folder of images, found neither"),
        (["predict", "x.png"],
         "error: -c FILE.yaml: missing (or -o Global.pretrained_model=NAME)"),
        (["predict", "-c", "{c}", "--output", "a.csv", "x.png"],
         "error: --output: expected a name ending in .npz or .jsonl, got 'a.csv'"),
        (["predict", "-c", "{c}", "--output", "/none/a.npz", "x.png"],
         "error: --output: expected a folder that can be written, got /none"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_status_2(arguments, message, config_file, capsys):
    status = cli.main([a.replace("{c}", str(config_file)) for a in arguments])
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    assert output.err.splitlines()[-1] == message


def test_eval_tells_of_every_named_set(tmp_path):
    lists = {"name": "ImageNetDataset", "image_root": str(EMOJI_MINI)}
    query, gallery = (
        {"dataset": {**lists, "cls_label_path": str(EMOJI_MINI / f"{part}_list.txt")}}
        for part in ("query", "gallery")
    )
    sets = {
        "forth": {"Query": query, "Gallery": gallery},
        "back": {"Query": gallery, "Gallery": query},
    }
    done = run(
        "tools/eval.py", "-c", "keras_featx/assets/quickstart.yaml",
        "-o", f"DataLoader.Eval={json.dumps({'Sets': sets})}", "--output", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(told) == ["forth", "back", "seconds"]
    assert (told["forth"]["gallery"], told["back"]["gallery"]) == (40, 200)
    assert "forth\n" in done.stderr and "back\n" in done.stderr
    for name in sets:
        written = json.loads((tmp_path / f"evaluation_{name}.json").read_text())
        assert written["metrics"]["map"]["mean"] == told[name]["map"]
        rows = (tmp_path / f"evaluation_{name}_queries.csv").read_text().splitlines()
        assert len(rows) == 1 + told[name]["queries"]


def test_a_failure_is_one_line_and_status_1(config_file, tmp_path, capsys, trained):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    weights = f"Global.pretrained_model={trained / 'best_model'}"
    target = tmp_path / "f.npz"
    arguments = ["predict", "-c", str(config_file), "-o", weights, "--output", str(target)]
    assert cli.main([*arguments, str(bad)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    last = output.err.splitlines()[-1]
    assert last.startswith(f"error: embedding: {bad}: expected a decodable image: ")
    assert not target.exists()


def test_predict_takes_its_config_from_beside_the_weights(trained, tmp_path, capsys):
    """Without -c; the value is YAML, as everywhere, so it may be quoted."""
    quoted = f'Global.pretrained_model="{trained / "best_model"}"'
    arguments = ["predict", "-o", quoted, "--output", str(tmp_path / "f.npz")]
    assert cli.main([*arguments, str(EMOJI_MINI / "test/ant")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["images"], result["embedding_size"]) == (6, 16)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train"]])
def test_argparse_refuses_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: keras-featx" in capsys.readouterr().err


def test_help_and_config_errors_do_not_wait_for_tensorflow(config_file):
    """No clock here (benchmarks measure time): what takes the time must not be imported."""
    probe = (
        "import sys\n"
        "from keras_featx import cli\n"
        "try:\n"
        "    status = cli.main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    status = stop.code\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(status)"
    )
    for arguments, status in (
        (["--help"], 0),
        (["train", "--help"], 0),
        (["train", "-c", str(config_file), "-o", "Arch.Backbone.scal=1"], 2),
    ):
        done = run("-c", probe, *arguments, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == status, done.stderr


_WRITES = """
import sys, time
from keras_featx import cli
from keras_featx.data import outputs

def command(options):
    with outputs.replacing(sys.argv[1]) as file:
        file.write(b"half")
        print("writing", flush=True)
        time.sleep(60)

cli._verify = command
sys.exit(cli.main(["verify", "folder"]))
"""


def test_a_terminated_command_leaves_nothing_half_written(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITES, str(tmp_path / "file")], stdout=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert child.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 1
    child.terminate()
    assert child.wait(30) == 128 + 15
    child.stdout.close()
    assert list(tmp_path.iterdir()) == []
