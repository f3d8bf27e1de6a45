"""Training end to end on a few real pictures: learning, replicas, resumption, failures."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI

import keras_featx
from keras_featx import models, weights
from keras_featx.config import dump_config, load_config
from keras_featx.embedding import embed
from keras_featx.errors import ConfigError, RunError
from keras_featx.training import train


def arrays(folder):
    return weights.read_arrays(Path(folder) / "weights.npz")[0]


def rows(run):
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_learns_and_leaves_the_same_folder_every_time(tiny, tmp_path):
    config = tiny(
        "epochs=24",
        "eval_interval=10",
        "Arch.image_size=[64, 64]",
        "Optimizer={name: Adam, lr: {name: Cosine, learning_rate: 0.003}}",
        "Optimizer.margin_warmup_epoch=[4, 24]",
        "DataLoader.Train.dataset.transform_ops=[RandomFlip]",
    )
    result = train(config)
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir()) == [
        "best_model", "config.yaml", "latest", "metrics.csv", "train.log",
    ]  # fmt: skip
    table = rows(run)
    assert [int(row["epoch"]) for row in table] == list(range(1, 25))
    assert [int(row["step"]) for row in table] == [3 * e for e in range(1, 25)]
    # Chance is 1/8 on the 8 identities.
    assert float(table[-1]["accuracy"]) > 0.4
    assert result["accuracy"] == pytest.approx(float(table[-1]["accuracy"]))
    # Evaluated at epochs 10, 20 and the last; the best of those is kept.
    scores = {int(r["epoch"]): float(r["recall@1"]) for r in table if r["recall@1"]}
    assert list(scores) == [10, 20, 24]
    assert result["best"] == pytest.approx(max(scores.values()))
    assert load_config(run / "config.yaml").Arch.Head.args["class_num"] == 8
    assert "epoch 24" in (run / "train.log").read_text()
    # The kept weights give the score that is said of them.
    best = load_config(run / "config.yaml", [f"Global.pretrained_model={run / 'best_model'}"])
    assert keras_featx.evaluate(best)["recall@1"] == pytest.approx(result["best"])


def test_two_replicas_give_the_losses_of_one_device(tiny, tmp_path):
    losses, moved = {}, {}
    for strategy in ("single", "mirrored"):
        config = tiny(
            f"strategy={strategy}",
            f"output_dir={tmp_path / strategy}",
            "eval_during_train=false",
            # Small steps: a fresh network is chaotic, and at large ones two exact computations
            # part by rounding alone within three steps.
            "Optimizer.lr={name: Constant, learning_rate: 2e-6}",
        )
        train(config)
        losses[strategy] = [float(row["loss"]) for row in rows(tmp_path / strategy)]
        keras.utils.set_random_seed(config.Global.seed)
        fresh = weights.named_variables(models.build_extractor(config.Arch), "extractor")
        after = arrays(tmp_path / strategy / "latest")
        moved[strategy] = {path: after[path] - np.asarray(v) for path, v in fresh.items()}
    assert len(tf.config.list_logical_devices("CPU")) == 2
    assert "on 2 replica(s)" in (tmp_path / "mirrored" / "train.log").read_text()
    np.testing.assert_allclose(losses["mirrored"], losses["single"], rtol=1e-5)
    # What six steps changed, over all weights and over all running statistics.
    for part in ("moving_", ""):
        one, two = (
            np.concatenate(
                [d.ravel() for path, d in moved[s].items() if ("moving_" in path) == bool(part)]
            )
            for s in ("single", "mirrored")
        )
        assert np.linalg.norm(one) > 0
        assert np.linalg.norm(one - two) < 1e-2 * np.linalg.norm(one)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from conftest import tiny_config
from keras_featx import callbacks
from keras_featx.training import train

kill_at = {kill_at}
seen = 0
step = callbacks.Progress.on_train_batch_end
def counted(self, batch, logs=None):
    global seen
    seen += 1
    if seen == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, batch, logs)
callbacks.Progress.on_train_batch_end = counted
train(tiny_config(Path({folder!r}), *{overrides!r}))
"""


def run_in_process(folder, kill_at, *overrides):
    folder.mkdir(exist_ok=True)
    code = KILLED.format(
        tests=os.path.dirname(__file__),
        kill_at=kill_at,
        folder=str(folder),
        overrides=["deterministic=true", "epochs=4", "Arch.Backbone.dropout=0.2", *overrides],
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


EVERYTHING = [
    "DataLoader.Train.sampler={name: HardClass, batch_size: 16, sample_per_id: 2}",
    "Loss.Train=[{CELoss: {epsilon: 0.1}}, {TripletLossV2: {weight: 0.5, memory_size: 24}}, "
    "{CenterLoss: {weight: 0.01}}]",
    "Arch.Head={name: ElasticFace, scale: 16.0}",
    "Optimizer={name: AdamW, weight_decay: 0.01, clip_norm: 1.0, "
    "lr: {name: Constant, learning_rate: 1e-3}, "
    "parts: [{match: 'extractor/conv1*', lr_factor: 0.1}]}",
    "EMA={decay: 0.9}",
    "update_freq=2",
    "precision=mixed_bfloat16",
]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], EVERYTHING], ids=["plain", "everything"])
def test_a_killed_and_resumed_run_equals_one_that_was_not_stopped_bit_for_bit(tmp_path, overrides):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run_in_process(whole, 0, *overrides)
    assert done.returncode == 0, done.stderr
    # Step 8 of 12 lies in the middle of the third epoch.
    assert run_in_process(killed, 8, *overrides).returncode == -signal.SIGKILL
    assert [row["epoch"] for row in rows(killed / "run")] == ["1", "2"]
    latest = f"Global.checkpoint={killed / 'run/latest'}"
    done = run_in_process(killed, 0, *overrides, latest)
    assert done.returncode == 0, done.stderr
    one, two = arrays(whole / "run/latest"), arrays(killed / "run/latest")
    assert one.keys() == two.keys()
    assert any("velocity" in path for path in one) and any("generator" in path for path in one)
    for path, array in one.items():
        np.testing.assert_array_equal(array, two[path], err_msg=path)
    timing = ("images_per_second",)
    for a, b in zip(rows(whole / "run"), rows(killed / "run"), strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {
            k: v for k, v in b.items() if k not in timing
        }


def test_resuming_keeps_the_best_metric(tiny, trained, tmp_path):
    latest = trained / "latest"
    state = weights.read_arrays(latest / "weights.npz")
    # A best value that no later epoch reaches must survive, with its weights.
    before = (tmp_path / "run/best_model/weights.npz").read_bytes()
    weights.write_arrays(latest / "weights.npz", state[0], {**state[1], "best": 2.0})
    result = train(tiny("epochs=2", f"checkpoint={latest}"))
    assert result["epoch"] == 2
    assert result["best"] == 2.0
    assert (tmp_path / "run/best_model/weights.npz").read_bytes() == before


def test_resuming_goes_on_with_the_figure_that_chose_the_best_model(tiny, trained):
    latest = trained / "latest"
    arrays_, meta = weights.read_arrays(latest / "weights.npz")
    assert meta["monitor"] == ""  # nothing was evaluated
    weights.write_arrays(latest / "weights.npz", arrays_, {**meta, "monitor": "recall@1"})
    with pytest.raises(ConfigError) as error:
        train(tiny("epochs=2", f"checkpoint={latest}", "Metric.monitor=map"))
    assert str(error.value) == (
        f"Metric.monitor: expected 'recall@1', by which the run of {latest} has chosen its "
        "best_model, got 'map'"
    )
    del meta["monitor"]  # as earlier versions wrote it
    weights.write_arrays(latest / "weights.npz", arrays_, meta)
    assert train(tiny("epochs=2", f"checkpoint={latest}", "Metric.monitor=map"))["epoch"] == 2
    assert weights.read_arrays(latest / "weights.npz")[1]["monitor"] == "map"


def test_resuming_a_finished_run_changes_nothing_but_says_what_differs(tiny, trained, caplog):
    before = arrays(trained / "latest")
    changed = "DataLoader.Train.sampler.batch_size=8"
    overrides = ["epochs=1", "eval_during_train=false", f"checkpoint={trained / 'latest'}"]
    result = train(tiny(changed, *overrides))
    assert (
        "resuming with DataLoader.Train.sampler.batch_size: 8, the checkpoint was made with 16"
        in caplog.text
    )
    assert result["epoch"] == 1 and result["step"] == 3
    for path, array in arrays(trained / "latest").items():
        np.testing.assert_array_equal(array, before[path])


def test_a_loss_that_is_not_finite_stops_with_the_step_and_its_images(tiny, tmp_path):
    config = tiny(
        "Optimizer.lr={name: Constant, learning_rate: 1e30}", "eval_during_train=false", "epochs=3"
    )
    with pytest.raises(RunError, match=r"^the loss is (nan|inf) at step \d+ ") as error:
        train(config)
    step = int(re.search(r"at step (\d+)", str(error.value))[1])
    log = (tmp_path / "run/train.log").read_text()
    listed = log.split(f"images of step {step}:\n")[1].splitlines()[:16]
    assert len(set(listed)) == 16 and all(Path(path).is_file() for path in listed)
    assert str(error.value).endswith(listed[0])


def copy_pictures(folder):
    for row in (EMOJI_MINI / "train_list.txt").read_text().splitlines()[:48]:
        name = row.split()[0]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EMOJI_MINI / name, folder / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"not an image", "Unknown image file format")],
)
def test_an_undecodable_image_is_named(tiny, tmp_path, content, reason):
    copy_pictures(tmp_path)
    config = tiny(f"DataLoader.Train.dataset.image_root={tmp_path}", "eval_during_train=false")
    bad = tmp_path / "train/alien-monster/twemoji.png"
    bad.write_bytes(content)
    with pytest.raises(RunError) as error:
        train(config)
    assert str(error.value).startswith(
        f"{tmp_path / 'train.txt'}: {bad}: expected a decodable image: "
    )
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Arch.Head.class_num=7", "{folder}/train.txt:43: label 7 is outside [0, 7), the classes "
         "of Arch.Head.class_num (6 such rows)"),
        ("Arch.Head.class_num=9", "Arch.Head.class_num: expected 8, as the labels of "
         "{folder}/train.txt go from 0 to 7, got 9"),
        ("Arch.Head.embedding_size=7", "Arch.Head.embedding_size: expected the neck's 16, got 7"),
        ("Arch.Head.margin=4.0", "Arch.Head.margin: expected radians in [0, pi/2], got 4.0"),
        ("Arch.Backbone.scale=-1", "Arch.Backbone.scale: expected a positive number, got -1.0"),
        ("DataLoader.Train.sampler.batch_size=49", "DataLoader.Train.sampler.batch_size: expected "
         "from 1 to 48 (the images of {folder}/train.txt), got 49"),
        ("DataLoader.Train.dataset.transform_ops.0.RandomResizedCrop.scale=[0, 1]",
         "DataLoader.Train.dataset.transform_ops.0.scale: expected 0 < low <= high <= 1, got "
         "[0.0, 1.0]"),
        ("Optimizer.lr={name: Cosine, learning_rate: 0.0}", "Optimizer.lr.learning_rate: expected "
         "a positive learning rate, got 0.0"),
        ("Loss.Train=[{CELoss: {epsilon: 1.0}}]", "Loss.Train.0.epsilon: expected in [0, 1), got "
         "1.0"),
        ("DataLoader.Train=null", "DataLoader.Train: missing; expected a list of images to train "
         "on"),
        ("checkpoint={folder}", "Global.checkpoint: expected a folder with weights.npz (the "
         "`latest` of a run), got '{folder}'"),
        ("pretrained_model=emoji", "Global.pretrained_model: expected one of {shipped} or a folder "
         "with weights.npz, got 'emoji'"),
        ("output_dir={folder}/train.txt", "Global.output_dir: expected a folder that can be "
         "written, got '{folder}/train.txt': File exists"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_written(tiny, tmp_path, override, message):
    fill = {"folder": tmp_path, "shipped": weights.shipped()}
    override = override.replace("{folder}", str(tmp_path))
    with pytest.raises(ConfigError) as error:
        train(tiny(override))
    for key, value in fill.items():
        message = message.replace("{" + key + "}", str(value))
    assert str(error.value) == message
    assert [p.name for p in tmp_path.iterdir()] == ["train.txt"]


def test_a_batch_that_does_not_divide_among_replicas_is_refused(tiny):
    with pytest.raises(ConfigError) as error:
        train(tiny("strategy=mirrored", "DataLoader.Train.sampler.batch_size=15"))
    assert str(error.value) == (
        "DataLoader.Train.sampler.batch_size: expected a multiple of the 2 replicas, got 15"
    )


def test_a_checkpoint_of_another_architecture_is_refused(tiny, trained, tmp_path):
    latest = trained / "latest"
    file = latest / "weights.npz"
    cases = {
        "Arch.Backbone.class_expand=48": f"{file}: Arch.Backbone.class_expand: expected 48 as in "
        "the config, got 32",
        "Optimizer.name=Adam": f"{file}: training/optimizer/0/Adam/iteration",
    }
    for override, message in cases.items():
        with pytest.raises(ConfigError) as error:
            train(tiny(f"checkpoint={latest}", override, f"output_dir={tmp_path / 'other'}"))
        assert str(error.value).startswith(message)
        assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError) as error:
        train(tiny(f"checkpoint={tmp_path / 'run/best_model'}"))
    assert "got weights alone; Global.pretrained_model takes those" in str(error.value)
    with pytest.raises(ConfigError) as error:
        train(tiny(f"pretrained_model={latest}", "Arch.Neck.embedding_size=8"))
    assert str(error.value) == (
        f"{file}: extractor/neck/kernel: expected shape (32, 8), got (32, 16)"
    )


@pytest.mark.parametrize("damage", ["truncated", "text", "pickled"])
def test_a_damaged_checkpoint_is_refused_and_runs_nothing(tiny, trained, damage):
    file = trained / "latest/weights.npz"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage == "text":
        file.write_text("weights")
    else:
        np.savez(file, x=np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError) as error:
        train(tiny(f"checkpoint={file.parent}"))
    assert str(error.value).startswith(f"{file}: expected an intact .npz of plain arrays: ")


def test_an_interrupted_write_leaves_the_former_file_whole(tmp_path, monkeypatch):
    file = tmp_path / "weights.npz"
    weights.write_arrays(file, {"a": np.arange(3)}, {"epoch": 1})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        weights.write_arrays(file, {"a": np.arange(4)}, {"epoch": 2})
    assert weights.read_arrays(file)[1] == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["weights.npz"]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_with_float32_ends(tiny, tmp_path, policy):
    config = tiny(f"precision={policy}", "epochs=6", "eval_during_train=false")
    extractor = models.build_extractor(config.Arch, policy)
    head = models.build_head(config.Arch, 8)
    classifier = models.build_classifier(extractor, head)
    assert extractor.get_layer("blocks5_3_dw_conv").compute_dtype == policy.split("_")[1]
    for layer in ("normalise_pixels", "embedding"):
        assert extractor.get_layer(layer).compute_dtype == "float32"
    assert head.centres.dtype == "float32"
    outputs = classifier({"image": np.zeros((2, 32, 32, 3), "uint8"), "label": np.array([0, 1])})
    assert {o.dtype for o in outputs.values()} == {tf.float32}
    assert keras.config.dtype_policy().name == "float32"
    train(config)
    losses = [float(row["loss"]) for row in rows(tmp_path / "run")]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_fine_tuning_takes_the_extractor_and_says_what_becomes_of_the_head(tiny, trained, caplog):
    config = tiny(f"pretrained_model={trained / 'latest'}")
    model = models.build_model(config)
    saved = arrays(trained / "latest")
    for path, variable in weights.named_variables(model, "extractor").items():
        np.testing.assert_array_equal(variable, saved[path])
    for class_num, told in ((5, "fresh class centres"), (8, "")):
        head = models.build_head(config.Arch, class_num)
        models.build_classifier(model, head)
        caplog.clear()
        with caplog.at_level("INFO"):
            weights.load_pretrained(str(trained / "latest"), model, head)
        assert told in caplog.text
        assert ("(8, 16)" in caplog.text) == (class_num == 5)
    np.testing.assert_array_equal(head.centres, saved["head/centres"])


def test_weights_that_saw_other_pixels_are_warned_of(tiny, trained, caplog):
    """Keys that a config of old lacks have their defaults."""
    folder, warning = str(trained / "latest"), "were trained with PreprocessSection"
    for overrides, warned in (((), False), (("Arch.Preprocess.background=[255,255,255]",), True)):
        arch = tiny(*overrides).Arch
        caplog.clear()
        weights.load_pretrained(folder, models.build_extractor(arch), arch=arch)
        assert (warning in caplog.text) == warned
    assert "background=(255.0, 255.0, 255.0)" in caplog.text
    config = trained / "latest" / "config.yaml"
    lines = config.read_text().splitlines()
    new = ("resize_short:", "pad_value:", "antialias:", "backend:", "background:", "reduced_")
    kept = [line for line in lines if not line.strip().startswith(new)]
    assert len(lines) - len(kept) == len(new)
    config.write_text("\n".join(kept))
    caplog.clear()
    arch = tiny().Arch
    weights.load_pretrained(folder, models.build_extractor(arch), arch=arch)
    assert warning not in caplog.text


def test_imprinted_centres_are_mean_embeddings(tiny, trained, tmp_path):
    latest = f"pretrained_model={trained / 'latest'}"
    still = "Optimizer.lr={name: Constant, learning_rate: 1e-30}"
    frozen = ["imprint_head=true", "epochs=1", "eval_during_train=false", still]
    train(tiny(latest, *frozen, f"output_dir={tmp_path / 'imprinted'}"))
    found = arrays(tmp_path / "imprinted/latest")["head/centres"]
    model = models.build_model(tiny(latest))
    rows_of_list = [r.split() for r in (tmp_path / "train.txt").read_text().splitlines()]
    vectors = embed(model, [str(EMOJI_MINI / path) for path, _ in rows_of_list]).astype("float64")
    labels = np.array([int(label) for _, label in rows_of_list])
    for label in range(8):
        mean = vectors[labels == label].mean(axis=0)
        np.testing.assert_allclose(found[label], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "Global.imprint_head: expected with pretrained_model only"),
        (("pretrained_model={latest}", "Arch.Head={name: Linear}"), "Global.imprint_head: expected "
         "with a head of cosines to one centre a class, and without turned_identities"),
    ],
)  # fmt: skip
def test_imprinting_where_it_means_nothing_is_refused(tiny, trained, overrides, message):
    filled = [o.replace("{latest}", str(trained / "latest")) for o in overrides]
    with pytest.raises(ConfigError) as error:
        train(tiny("imprint_head=true", *filled))
    assert str(error.value) == message


def test_a_weights_folder_carries_its_config(trained):
    for name in ("latest", "best_model"):
        file = trained / name / "config.yaml"
        assert dump_config(load_config(file)) == file.read_text()


def test_several_losses_are_summed_and_told_apart(tiny, tmp_path):
    losses = (
        "Loss.Train=[{CELoss: {weight: 2.0}}, {TripletLossV2: {}}, {TripletLossV2: {weight: 3}}]"
    )
    sampler = "DataLoader.Train.sampler={name: PKSampler, batch_size: 16, sample_per_id: 4}"
    train(tiny(losses, sampler, "eval_during_train=false"))
    for row in rows(tmp_path / "run"):
        ce, one, two = (float(row[k]) for k in ("ce_loss", "triplet_loss_v2", "triplet_loss_v2_2"))
        assert float(row["loss"]) == pytest.approx(ce + one + two, rel=1e-5)
        assert two == pytest.approx(3 * one, rel=1e-5)


def test_training_without_cross_entropy_needs_no_head(tiny, tmp_path, caplog):
    sampler = "DataLoader.Train.sampler={name: PKSampler, batch_size: 16, sample_per_id: 4}"
    with caplog.at_level("INFO"):
        result = train(tiny("Loss.Train=[{MultiSimilarityLoss: {}}]", sampler))
    assert "training without a head" in caplog.text
    assert "accuracy" not in result and result["recall@1"] > 0
    assert not [k for k in arrays(tmp_path / "run/best_model") if k.startswith("head/")]


def test_averages_are_what_is_evaluated_and_kept(tiny, tmp_path):
    result = train(tiny("EMA={decay: 0.5, warmup: false}", "eval_interval=2"))
    best, latest = arrays(tmp_path / "run/best_model"), arrays(tmp_path / "run/latest")
    path = "extractor/neck/kernel"
    average = next(v for k, v in latest.items() if "neck_kernel_average" in k)
    np.testing.assert_array_equal(best[path], average)
    assert np.abs(best[path] - latest[path]).max() > 0
    again = load_config(
        tmp_path / "run/config.yaml", [f"Global.pretrained_model={tmp_path / 'run/best_model'}"]
    )
    assert keras_featx.evaluate(again)["recall@1"] == pytest.approx(result["best"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["Loss.Train=[{TripletLossV2: {}}]", "DataLoader.Train.sampler.name=HardClass"],
         "DataLoader.Train.sampler: expected with a head of one centre a class, whose centres "
         "tell which classes are close, got HardClass"),
        (["Loss.Train=[{CELoss: {}}, {TripletLossV2: {margin: -1}}]"],
         "Loss.Train.1.margin: expected a number of at least 0, got -1.0"),
        (["Arch.Head={name: Cosine}", "Optimizer.margin_warmup_epoch=[0, 1]"],
         "Optimizer.margin_warmup_epoch: expected with a head whose margin can grow, got it with "
         "Cosine"),
        (["Arch.Head.embedding_size=32"],
         "Arch.Head.embedding_size: expected the neck's 16, got 32"),
        (["Optimizer.parts=[{match: 'extractor/nothing*'}]"], "Optimizer.parts.0.match"),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together_are_refused(tiny, tmp_path, overrides, message):
    with pytest.raises(ConfigError) as error:
        train(tiny(*overrides))
    assert str(error.value).startswith(message)
    assert not (tmp_path / "run").exists()
