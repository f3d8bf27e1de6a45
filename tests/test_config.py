"""Configs: every mistake with its exact message, overrides, round trips, the shipped files."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from keras_featx import components
from keras_featx.config import dump_config, from_dict, load_config, parse_yaml, to_dict
from keras_featx.errors import ConfigError

ROOT = Path(__file__).parent.parent
TRAIN = {"dataset": {"name": "ImageNetDataset", "image_root": "a", "cls_label_path": "b"}}

FOLDERS = "{dataset: {name: ClassFolders, image_root: q}}"
PAIR = f"{{Query: {FOLDERS}, Gallery: {FOLDERS}}}"
MISTAKES = {
    "Globl: {epochs: 1}": "Globl: unknown key; did you mean 'Global'?",
    "Global: {epoch: 1}": "Global.epoch: unknown key; did you mean 'epochs'?",
    "Global: {epochs: '64'}": "Global.epochs: expected int, got '64'",
    "Global: {epochs: 1.5}": "Global.epochs: expected int, got 1.5",
    "Global: {epochs: yes}": "Global.epochs: expected int, got True",
    "Global: {epochs: 0}": "Global.epochs: expected at least 1, got 0",
    "Global: {seed: -1}": "Global.seed: expected in [0, 2^31), got -1",
    "Global: {output_dir: ''}": "Global.output_dir: expected a folder, got ''",
    "Global: 3": "Global: expected a section, got 3",
    "Global: {deterministic: 1}": "Global.deterministic: expected bool, got 1",
    "Global: {precision: fp16}": "Global.precision: expected one of ['float32', 'mixed_float16', "
    "'mixed_bfloat16'], got 'fp16'",
    "Global: {strategy: miror}": "Global.strategy: expected one of ['auto', 'single', 'mirrored'], "
    "got 'miror'; did you mean 'mirrored'?",
    "Arch: {image_size: [224]}": "Arch.image_size: expected 2 values, got [224]",
    "Arch: {image_size: 224}": "Arch.image_size: expected a list, got 224",
    "Arch: {image_size: [16, 224]}": "Arch.image_size: expected at least 32 pixels a side (the "
    "network halves its input up to five times), got [16, 224]",
    "Arch: {Backbone: {name: LcNet}}": "Arch.Backbone.name: expected one of ['LCNet', 'LCNetV2'], "
    "got 'LcNet'; did you mean 'LCNet'?",
    "Arch: {Backbone: {scale: 1}}": "Arch.Backbone.name: missing",
    "Arch: {Backbone: 3}": "Arch.Backbone: expected {name: ..., ...}, got 3",
    "Arch: {Backbone: {name: LCNet, scal: 1}}": "Arch.Backbone.scal: unknown argument of LCNet; "
    "did you mean 'scale'?",
    "Arch: {Backbone: {name: LCNet, scale: big}}": "Arch.Backbone.scale: expected float, got 'big'",
    "Arch: {Backbone: {name: LCNet, scale: .nan}}": "Arch.Backbone.scale: expected a finite "
    "number, got nan",
    "Arch: {Backbone: {name: LCNet, stride_list: [2, 2]}}": "Arch.Backbone.stride_list: expected 5 "
    "values, got [2, 2]",
    "Arch: {Head: {name: ArcMargin, m: 0.2}}": "Arch.Head.m: unknown argument of ArcMargin",
    "Arch: {Head: {name: ArcMargin, class_num: 3.0}}": "Arch.Head.class_num: expected int, got 3.0",
    "Arch: {Preprocess: {std: [1, 0, 1]}}": "Arch.Preprocess.std: expected positive numbers, got "
    "[1.0, 0.0, 1.0]",
    "Arch: {Preprocess: {resize: fit}}": "Arch.Preprocess.resize: expected one of ['squash', "
    "'crop', 'pad'], got 'fit'",
    "Arch: {Preprocess: {resize_short: 256}}": "Arch.Preprocess.resize_short: expected with "
    "resize: crop only, got 'squash'",
    "Arch: {Preprocess: {resize: crop, resize_short: 0}}": "Arch.Preprocess.resize_short: expected "
    "at least 1, got 0",
    "Arch: {image_size: [64, 256], Preprocess: {resize: crop, resize_short: 255}}": "Arch."
    "Preprocess.resize_short: expected at least the larger side of image_size [64, 256], got 255",
    "Arch: {Preprocess: {resize: pad, pad_value: 256}}": "Arch.Preprocess.pad_value: expected in "
    "[0, 255], got 256.0",
    "Arch: {Preprocess: {resize: pad, pad_value: -1}}": "Arch.Preprocess.pad_value: expected in "
    "[0, 255], got -1.0",
    "Arch: {Preprocess: {pad_value: 1}}": "Arch.Preprocess.pad_value: expected with resize: pad "
    "only, got 'squash'",
    "Arch: {Preprocess: {background: [0, 0, 256]}}": "Arch.Preprocess.background: expected numbers "
    "in [0, 255], got [0.0, 0.0, 256.0]",
    "Arch: {Preprocess: {background: [-1, 0, 0]}}": "Arch.Preprocess.background: expected numbers "
    "in [0, 255], got [-1.0, 0.0, 0.0]",
    "Arch: {Preprocess: {background: 255}}": "Arch.Preprocess.background: expected a list, got 255",
    "Arch: {Preprocess: {interpolation: lanczos}}": "Arch.Preprocess.interpolation: expected one "
    "of ['bilinear', 'nearest', 'area', 'bicubic', 'lanczos3'], got 'lanczos'; did you mean "
    "'lanczos3'?",
    "Arch: {Preprocess: {interpolation: area, antialias: true}}": "Arch.Preprocess.antialias: "
    "expected with bilinear, bicubic or lanczos3 only, got 'area'",
    "Arch: {Preprocess: {interpolation: nearest, antialias: true}}": "Arch.Preprocess.antialias: "
    "expected with bilinear, bicubic or lanczos3 only, got 'nearest'",
    "Arch: {Preprocess: {antialias: true, backend: opencv}}": "Arch.Preprocess.backend: expected "
    "tensorflow with antialias, got 'opencv'",
    "Arch: {Preprocess: {interpolation: lanczos3, backend: opencv}}": "Arch.Preprocess.backend: "
    "expected tensorflow with lanczos3, got 'opencv'",
    "Arch: {Preprocess: {reduced_decoding: 2}}": "Arch.Preprocess.reduced_decoding: expected bool, "
    "got 2",
    "Loss: {Train: []}": "Loss.Train: expected at least one loss, got []",
    "Loss: {Train: [{CELos: {}}]}": "Loss.Train.0.name: expected one of "
    f"{sorted(components.REGISTRIES['loss'])}, got 'CELos'; did you mean 'CELoss'?",
    "Loss: {Train: {name: CELoss}}": "Loss.Train: expected a list, got {'name': 'CELoss'}",
    "Optimizer: {name: Adem}": "Optimizer.name: expected one of ['Adadelta', 'Adafactor', "
    "'Adagrad', 'Adam', 'AdamW', 'Adamax', 'Ftrl', 'Lamb', 'Lion', 'Momentum', 'Muon', 'Nadam', "
    "'RMSprop', 'SGD'], got 'Adem'; did you mean 'Adam'?",
    "Optimizer: {momentun: 0.9}": "Optimizer.momentun: unknown argument of Momentum; did you mean "
    "'momentum'?",
    "Optimizer: {name: Lion, momentum: 0.9}": "Optimizer.momentum: unknown argument of Lion",
    "Optimizer: {name: Lion, clip_nrom: 1}": "Optimizer.clip_nrom: unknown argument of Lion; did "
    "you mean 'clip_norm'?",
    "Optimizer: {weight_decay: 0.1}": "Optimizer.weight_decay: unknown argument of Momentum",
    "Optimizer: {name: AdamW, regularizer: {name: L2, coeff: 1}}": "Optimizer.regularizer: "
    "expected with a rule without weight_decay, got it with AdamW",
    "Optimizer: {clip_norm: 1, clip_value: 1}": "Optimizer.clip_value: expected one way to clip, "
    "got ['clip_norm', 'clip_value']",
    "Optimizer: {clip_norm_each: 0}": "Optimizer.clip_norm_each: expected a positive number, got "
    "0.0",
    "Optimizer: {parts: {match: a}}": "Optimizer.parts: expected a list, got {'match': 'a'}",
    "Optimizer: {parts: [{lr_factor: 0.1}]}": "Optimizer.parts.0.match: missing",
    "Optimizer: {parts: [{match: a}, {match: b, lr_facto: 2}]}": "Optimizer.parts.1.lr_facto: "
    "unknown key; did you mean 'lr_factor'?",
    "Optimizer: {parts: [{match: a, lr_factor: 0}]}": "Optimizer.parts.0.lr_factor: expected a "
    "positive number (or frozen: true), got 0.0",
    "EMA: {decay: 1.0}": "EMA.decay: expected in [0, 1), got 1.0",
    "EMA: 0.999": "EMA: expected a section, got 0.999",
    "Global: {update_freq: 0}": "Global.update_freq: expected at least 1, got 0",
    "Optimizer: {regularizer: {name: L2}}": "Optimizer.regularizer.coeff: missing",
    "Optimizer: {margin_warmup_epoch: [3, 1]}": "Optimizer.margin_warmup_epoch: expected 0 <= "
    "start <= end, got [3.0, 1.0]",
    "DataLoader: {Train: {}}": "DataLoader.Train.dataset: missing",
    "DataLoader: {Train: {dataset: {name: ImageNetDataset, image_root: a}}}": "DataLoader.Train."
    "dataset.cls_label_path: missing",
    "DataLoader: {Train: {dataset: {name: VeriWild, image_root: a, cls_label_path: b, "
    "transform_op: []}}}": "DataLoader.Train.dataset.transform_op: unknown argument of VeriWild; "
    "did you mean 'transform_ops'?",
    "DataLoader: {Eval: {Query: {}}}": "DataLoader.Eval.Query.dataset: missing",
    "DataLoader: {Eval: {Query: {dataset: {name: ClassFolders, image_root: q}}}}": "DataLoader."
    "Eval.Gallery: missing",
    "DataLoader: {Eval: {Sets: {}}}": "DataLoader.Eval.Sets: expected at least one pair, got {}",
    "DataLoader: {Eval: {Sets: [1]}}": "DataLoader.Eval.Sets: expected {name: ..., ...}, got [1]",
    "DataLoader: {Eval: {Sets: {a: {Query: {}}}}}": "DataLoader.Eval.Sets.a.Query.dataset: missing",
    f"DataLoader: {{Eval: {{Sets: {{a/b: {PAIR}}}}}}}": "DataLoader.Eval.Sets: expected names of "
    "letters, digits, _ . and -, got 'a/b'",
    f"DataLoader: {{Eval: {{Sets: {{a: {PAIR}}}, use: b}}}}": "DataLoader.Eval.use: expected one "
    "of ['a'], got 'b'",
    f"DataLoader: {{Eval: {{Sets: {{a: {PAIR}}}, {PAIR[1:-1]}}}}}": "DataLoader.Eval.Query: "
    "expected without Sets, or in one of them",
    f"DataLoader: {{Eval: {{{PAIR[1:-1]}, use: a}}}}": "DataLoader.Eval.use: expected with Sets "
    "only, got 'a'",
    "Metric: {Eval: []}": "Metric.Eval: expected at least one metric, got []",
    "[1, 2]": "FILE: expected sections such as Global and Arch, got [1, 2]",
    "Global: {epochs: 1, epochs: 2}": "FILE:1: the key 'epochs' stands twice",
    "Global: {epochs: 1": "FILE:1: expected ',' or '}', but got '<stream end>'",
    "a: !!python/object/apply:os.getcwd []": "FILE:1: could not determine a constructor for the "
    "tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    "1: 2": "FILE:1: expected a name as key, got 1",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_refused_with_its_key(text, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert str(error.value) == MISTAKES[text].replace("FILE", str(file))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Global.epochs", "-o Global.epochs: expected KEY=VALUE, such as Global.epochs=1"),
        ("epoch=1", "Global.epoch: unknown key; did you mean 'epochs'?"),
        ("Loss.Train.3.weight=2", "-o Loss.Train.3.weight=2: Loss.Train is a list: expected an "
         "index from 0 to 0, got '3'"),
        ("Global.epochs.x=2", "-o Global.epochs.x=2: Global.epochs is 7, not a section"),
        ("Global.epochs={", "-o Global.epochs={:1: did not find expected node content"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_refused(override, message, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("Global: {epochs: 7}\nLoss: {Train: [{CELoss: {weight: 1.0}}]}")
    with pytest.raises(ConfigError) as error:
        load_config(file, [override])
    # PyYAML words its own errors differently with and without libyaml.
    if override.endswith("{"):
        assert str(error.value).startswith("-o Global.epochs={")
    else:
        assert str(error.value) == message


def test_overrides_reach_sections_lists_and_bare_global_keys(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("Loss: {Train: [{CELoss: {weight: 1.0}}]}")
    config = load_config(
        file,
        [
            "eval_during_train=False",
            "Global.epochs=3",
            "Loss.Train.0.CELoss.weight=2",
            "Optimizer.lr.learning_rate=1e-3",
            "Optimizer.lr.name=Cosine",
            "Global.checkpoint=a=b",
        ],
    )
    assert config.Global.eval_during_train is False
    assert config.Global.epochs == 3
    assert config.Loss.Train[0].args == {"weight": 2.0}
    assert config.Optimizer.lr.args == {"learning_rate": 0.001}
    assert config.Global.checkpoint == "a=b"


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a readable YAML file: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected a readable YAML file: not UTF-8 text"):
        load_config(tmp_path / "b.yaml")


def test_yaml_numbers_are_what_people_mean():
    assert parse_yaml("[1e-3, 1E5, -2.5e+3, .5e1, 1e, e3, 1_000]", "") == [
        0.001, 100000.0, -2500.0, 5.0, "1e", "e3", 1000,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"DataLoader": {"Train": TRAIN}},
        {"Optimizer": {"regularizer": {"L2": {"coeff": 1e-5}}}},
        {
            "Optimizer": {
                "name": "Muon",
                "exclude": ["a"],
                "parts": [{"match": "*", "frozen": True}],
            }
        },
        {"EMA": {}, "Optimizer": {"momentum": 0.8}, "Global": {"update_freq": 4}},
        {
            "Arch": {
                "Preprocess": {"resize": "crop", "resize_short": 256, "background": [255, 255, 0]}
            }
        },
        {"Arch": {"Preprocess": {"resize": "pad", "pad_value": 128, "reduced_decoding": True}}},
    ],
)
def test_a_dumped_config_loads_back_equal(tree, tmp_path):
    config = from_dict(tree)
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    assert from_dict(to_dict(config)) == config


def test_the_keys_of_a_rule_stand_beside_those_of_its_section():
    section = from_dict({"Optimizer": {"momentum": 0.8, "clip_norm": 1}}).Optimizer
    assert (section.rule.name, section.rule.args) == ("Momentum", {"momentum": 0.8})
    assert section.clip_norm == 1.0
    section = from_dict({"Optimizer": {"name": "Lion", "beta_1": 0.8}}).Optimizer
    assert (section.rule.name, section.rule.args) == ("Lion", {"beta_1": 0.8})
    assert from_dict({}).EMA is from_dict({"EMA": None}).EMA is None
    assert from_dict({"EMA": {}}).EMA.decay == 0.9999


def test_a_config_written_by_the_first_version_still_loads():
    """It held every key of four rules."""
    former = {"momentum": 0.9, "nesterov": False, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-8}
    tree = {"name": "AdamW", **former, "weight_decay": 0.05, "clip_norm": 5.0, "regularizer": None}
    rule = from_dict({"Optimizer": tree}).Optimizer.rule
    assert rule.args == {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-8, "weight_decay": 0.05}
    with pytest.raises(ConfigError, match=r"Optimizer\.momentum: unknown argument of AdamW"):
        from_dict({"Optimizer": {**tree, "momentum": 0.8}})


def test_the_reference_snippet_is_valid(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        """
Arch:
  Head: {name: ArcMargin, embedding_size: 512, class_num: 185341, margin: 0.2, scale: 30}
DataLoader:
  Train:
    dataset:
      name: ImageNetDataset
      image_root: ./dataset/
      cls_label_path: ./dataset/train_reg_all_data.txt
  Eval:
    Query:
      dataset: {name: VeriWild, image_root: ./d/, cls_label_path: ./d/val_list.txt}
    Gallery:
      dataset: {name: VeriWild, image_root: ./d/, cls_label_path: ./d/val_list.txt}
"""
    )
    config = load_config(file)
    assert config.Arch.Head.args["class_num"] == 185341
    assert config.DataLoader.Eval.Gallery.dataset.name == "VeriWild"


CONFIGS = [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "keras_featx/assets/quickstart.yaml"]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_every_shipped_config_loads_and_builds(file):
    from keras_featx import models
    from keras_featx.augment import build_augmentations
    from keras_featx.optimizers import build_optimizer

    config = load_config(file)
    extractor = models.build_extractor(config.Arch)
    backbone = config.Arch.Backbone.args.get("class_expand")  # which a BNNeck leaves as it is
    size = config.Arch.Neck.args.get("embedding_size", backbone)
    assert extractor.output_shape == (None, size)
    models.build_classifier(
        extractor,
        models.build_head(config.Arch, None if "class_num" in config.Arch.Head.args else 10),
    )
    build_augmentations(config.DataLoader.Train.dataset.transform_ops, "")
    build_optimizer(config.Optimizer, config.Global.epochs, 10)


def test_configs_are_read_without_a_framework():
    code = (
        "import sys, keras_featx, keras_featx.cli\n"
        "keras_featx.load_config('configs/general_recognition_lcnet_x2_5.yaml')\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_sections_of_another_config_may_stand_in_one():
    preprocess = from_dict({"Arch": {"Preprocess": {"resize": "pad"}}}).Arch.Preprocess
    assert from_dict({"Arch": {"Preprocess": preprocess}}).Arch.Preprocess is preprocess
    wrong = dataclasses.replace(preprocess, pad_value=300.0)
    with pytest.raises(ConfigError, match=r"^Arch.Preprocess.pad_value: expected in \[0, 255\]"):
        from_dict({"Arch": {"Preprocess": wrong}})
