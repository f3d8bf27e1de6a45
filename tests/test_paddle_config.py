"""Recognition configs of the reference become ours, or are refused with the key and the reason.

The configs here are written after the facts of the reference's: its keys, names and values.
"""

import copy
import json

import pytest
import yaml

from keras_featx import cli, models
from keras_featx.config import from_dict, load_config
from keras_featx.errors import ConfigError
from keras_featx.interop.paddle_config import convert_config

DECODE = {"DecodeImage": {"to_rgb": True, "channel_first": False}}
RESIZE = {"ResizeImage": {"size": 224}}
NORMALIZE = {
    "NormalizeImage": {
        "scale": "1.0/255.0",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "order": "",
    }
}
FLIP = {"RandFlipImage": {"flip_code": 1}}


def loader(name, operations, sampler=None):
    return {
        "dataset": {
            "name": name,
            "image_root": "./dataset/",
            "cls_label_path": "./dataset/list.txt",
            "transform_ops": [DECODE, *operations],
        },
        "sampler": sampler
        or {
            "name": "DistributedBatchSampler",
            "batch_size": 64,
            "drop_last": False,
            "shuffle": True,
        },
        "loader": {"num_workers": 4, "use_shared_memory": True},
    }


def pk(batch_size, images):
    return {"name": "PKSampler", "batch_size": batch_size, "sample_per_id": images}


def theirs(arch=(), losses=(), train=None, optimizer=(), **sections):
    """The reference's general recognition, with other parts."""
    shared = {
        "name": "RecModel",
        "infer_output_key": "features",
        "infer_add_softmax": False,
        "Backbone": {"name": "PPLCNet_x2_5", "pretrained": True, "use_ssld": True},
        "BackboneStopLayer": {"name": "flatten"},
        "Neck": {"name": "FC", "embedding_size": 1280, "class_num": 512},
        "Head": {
            "name": "ArcMargin",
            "embedding_size": 512,
            "class_num": 185341,
            "margin": 0.2,
            "scale": 30,
        },
    }
    evaluated = loader("VeriWild", [RESIZE, NORMALIZE])
    tree = {
        "Global": {
            "checkpoints": None,
            "pretrained_model": None,
            "output_dir": "./output/",
            "device": "gpu",
            "save_interval": 1,
            "eval_during_train": True,
            "eval_interval": 1,
            "epochs": 100,
            "print_batch_step": 10,
            "use_visualdl": False,
            "image_shape": [3, 224, 224],
            "save_inference_dir": "./inference",
            "eval_mode": "retrieval",
        },
        "Arch": shared | dict(arch),
        "Loss": {
            "Train": [{"CELoss": {"weight": 1.0}}, *losses],
            "Eval": [{"CELoss": {"weight": 1.0}}],
        },
        "Optimizer": {
            "name": "Momentum",
            "momentum": 0.9,
            "lr": {"name": "Cosine", "learning_rate": 0.04, "warmup_epoch": 5},
            "regularizer": {"name": "L2", "coeff": 0.00001},
        }
        | dict(optimizer),
        "DataLoader": {
            "Train": train
            or loader("ImageNetDataset", [{"RandCropImage": {"size": 224}}, FLIP, NORMALIZE]),
            "Eval": {"Query": evaluated, "Gallery": evaluated},
        },
        "Metric": {"Eval": [{"Recallk": {"topk": [1, 5]}}, {"mAP": {}}]},
    }
    for name, keys in sections.items():
        tree[name] = tree.get(name, {}) | keys
    return copy.deepcopy(tree)


V2 = theirs(
    arch={
        "Backbone": {"name": "PPLCNetV2_base_ShiTu", "pretrained": True, "class_expand": 512},
        "Neck": {
            "name": "BNNeck",
            "num_features": 512,
            "weight_attr": {"initializer": {"name": "Constant", "value": 1.0}},
            "bias_attr": {
                "initializer": {"name": "Constant", "value": 0.0},
                "learning_rate": 1e-20,
            },
        },
        "Head": {
            "name": "FC",
            "embedding_size": 512,
            "class_num": 192612,
            "weight_attr": {"initializer": {"name": "Normal", "std": 0.001}},
            "bias_attr": False,
        },
    },
    losses=[
        {
            "TripletAngularMarginLoss": {
                "weight": 1.0,
                "feature_from": "features",
                "margin": 0.5,
                "reduction": "mean",
                "add_absolute": True,
                "absolute_loss_weight": 0.1,
                "normalize_feature": True,
                "ap_value": 0.8,
                "an_value": 0.4,
            }
        }
    ],
    train=loader(
        "ImageNetDataset",
        [
            {"ResizeImage": {"size": [224, 224], "interpolation": "bilinear", "backend": "cv2"}},
            FLIP,
            {"Pad": {"padding": 10, "backend": "cv2"}},
            {"RandCropImageV2": {"size": [224, 224]}},
            {"RandomRotation": {"prob": 0.5, "degrees": 90, "interpolation": "bilinear"}},
            NORMALIZE,
        ],
        pk(256, 4) | {"sample_method": "id_avg_prob", "id_list": [50030, 80700], "ratio": [4, 4]},
    ),
)
VEHICLE = theirs(
    arch={
        "BackboneStopLayer": {"name": "flatten_0"},
        "Head": {
            "name": "ArcMargin",
            "embedding_size": 512,
            "class_num": 30671,
            "margin": 0.15,
            "scale": 32,
        },
    },
    losses=[{"SupConLoss": {"weight": 1.0, "views": 2}}],
    train=loader(
        "VeriWild",
        [
            RESIZE,
            FLIP,
            {"AugMix": {"prob": 0.5}},
            NORMALIZE,
            {
                "RandomErasing": {
                    "EPSILON": 0.5,
                    "sl": 0.02,
                    "sh": 0.4,
                    "r1": 0.3,
                    "mean": [0.0] * 3,
                }
            },
        ],
        pk(128, 2),
    ),
)


def test_general_recognition_is_the_shipped_config_but_for_what_is_told():
    ours, notes = convert_config(theirs(), "x.yaml")
    found = from_dict(ours)
    shipped = load_config("configs/general_recognition_lcnet_x2_5.yaml")
    assert found.Arch.Neck.args["embedding_size"] == 512
    assert found.Arch.Head == shipped.Arch.Head
    assert found.Optimizer == shipped.Optimizer and found.Loss == shipped.Loss
    assert found.Metric == shipped.Metric
    assert found.Arch.Backbone.args["scale"] == 2.5
    # As PaddleClas resizes, and as its dropout acts.
    assert found.Arch.Preprocess.backend == "opencv"
    assert found.Arch.Backbone.args["dropout_scales_inference"] is True
    train = found.DataLoader.Train
    assert [op.name for op in train.dataset.transform_ops] == ["RandomResizedCrop", "RandomFlip"]
    assert (train.sampler.name, train.sampler.args["batch_size"]) == ("Shuffle", 64)
    told = "\n".join(notes)
    for key in (
        "Global.device: has no meaning here",
        "Arch.Backbone.pretrained: left out",
        "Arch.Neck.class_num: is embedding_size",
        "Loss.Eval: has no meaning here",
        "DataLoader.Train.sampler.batch_size: is that of one GPU there",
        "DataLoader.Train.dataset.transform_ops.1.RandCropImage: is RandomResizedCrop",
    ):
        assert key in told


def test_the_second_version_is_the_shipped_recipe():
    found = from_dict(convert_config(V2, "x.yaml")[0])
    shipped = load_config("configs/general_recognition_v2_lcnet_v2.yaml")
    assert found.Arch.Neck == shipped.Arch.Neck
    loss = dict(found.Loss.Train[1].args)
    assert loss.pop("normalize_feature") is True and loss == shipped.Loss.Train[1].args
    names = [op.name for op in found.DataLoader.Train.dataset.transform_ops]
    assert names == ["RandomFlip", "PadAndCrop", "RandomRotation"]
    assert found.DataLoader.Train.sampler.args == {
        "batch_size": 256,
        "sample_per_id": 4,
        "sample_method": "id_avg_prob",
    }
    head = found.Arch.Head.args
    assert (head["use_bias"], head["stddev"], head["class_num"]) == (False, 0.001, 192612)


def test_vehicles_and_a_network_that_is_built():
    tree = copy.deepcopy(VEHICLE)
    tree["Arch"]["Head"]["class_num"] = 7
    tree["Arch"]["Backbone"]["name"] = "PPLCNet_x0_25"
    tree["Global"]["image_shape"] = [3, 64, 32]
    for part in (tree["DataLoader"]["Train"], *tree["DataLoader"]["Eval"].values()):
        for op in part["dataset"]["transform_ops"]:
            if "ResizeImage" in op:
                op["ResizeImage"]["size"] = [32, 64]  # width first, there
    found = from_dict(convert_config(tree, "x.yaml")[0])
    assert found.Arch.image_size == (64, 32)
    extractor = models.build_extractor(found.Arch)
    head = models.build_head(found.Arch)
    classifier = models.build_classifier(extractor, head, models.build_losses(found.Loss))
    assert {"ce_loss", "sup_con_loss", "correct"} == set(classifier.output)
    erasing = found.DataLoader.Train.dataset.transform_ops[-1]
    assert (erasing.name, erasing.args["mode"], erasing.args["ratio"]) == (
        "RandomErasing",
        "constant",
        0.3,
    )


@pytest.mark.parametrize(("amp", "precision"), [(True, "mixed_float16"), (False, "float32")])
def test_mixed_precision_is_what_it_says(amp, precision):
    ours, _ = convert_config(theirs(AMP={"use_amp": amp, "level": "O1"}), "x.yaml")
    assert from_dict(ours).Global.precision == precision


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("EMA", 0.9, "EMA: expected keys and values, got 0.9"),
        ("AMP", "O1", "AMP: expected keys and values, got 'O1'"),
        ("Loss", {"Train": {}}, "Loss.Train: expected a list, got {}"),
        ("DataLoader", {"Train": []}, "DataLoader.Train: expected keys and values, got []"),
    ],
)
def test_what_is_no_section_is_one_line(key, value, message):
    with pytest.raises(ConfigError) as error:
        convert_config(theirs() | {key: value}, "x.yaml")
    assert str(error.value) == f"x.yaml: {message}"


def test_defaults_of_a_head_are_those_of_the_reference():
    ours, notes = convert_config(theirs({"Head": {"name": "ArcMargin"}}), "x.yaml")
    assert (ours["Arch"]["Head"]["margin"], ours["Arch"]["Head"]["scale"]) == (0.5, 80)
    assert "Arch.Head.scale: is 80 there where it is not stated" in notes


def test_steps_of_the_rate_are_spelled_out():
    rates = {"name": "MultiStepDecay", "learning_rate": 0.04, "milestones": [30, 60], "gamma": 0.5}
    found = from_dict(convert_config(theirs(optimizer={"lr": rates}), "x.yaml")[0])
    args = found.Optimizer.lr.args
    assert (tuple(args["decay_epochs"]), tuple(args["values"])) == ((30, 60), (0.04, 0.02, 0.01))


BACKBONES = "PPLCNet_x0_25 to PPLCNet_x2_5, PPLCNetV2_base_ShiTu"
REFUSED = [
    (
        theirs({"name": "DistillationModel"}),
        "Arch.name: expected RecModel, got 'DistillationModel'",
    ),
    *[
        (
            theirs({"Backbone": {"name": name}}),
            f"Arch.Backbone.name: expected {BACKBONES}, got {name!r}",
        )
        for name in (
            "PPLCNet_x2_5_Tanh",
            "PPLCNet_x3_7",
            "ResNet50",
            "ResNet50_vd",
            "ResNet50_last_stage_stride1",
            "MobileNetV3_large_x1_0",
            "CLIP_vit_base_patch16_224",
            "AdaFace_IR_18",
        )
    ],
    (
        theirs({"BackboneStopLayer": None}),
        "Arch.BackboneStopLayer.name: expected one of flatten, flatten_0, avg_pool: without, the "
        "feature is that of a classifier, got None",
    ),
    (
        theirs({"Neck": {"name": "VehicleNeck", "in_channels": 2048, "out_channels": 512}}),
        "Arch.Neck.name: expected FC or BNNeck, got 'VehicleNeck'",
    ),
    (
        theirs({"Head": {"name": "ArcMargin", "margn": 0.2}}),
        "Arch.Head.margn: no counterpart here, got 0.2",
    ),
    (
        theirs(losses=[{"DSHSDLoss": {"alpha": 0.05}}]),
        "Loss.Train.1.DSHSDLoss: expected a loss that is here (docs/losses.md)",
    ),
    (
        theirs(losses=[{"TripletLossV2": {"feature_from": "backbone"}}]),
        "Loss.Train.1.TripletLossV2.feature_from: expected features, got 'backbone'",
    ),
    (
        theirs(Global={"eval_mode": "adaface"}),
        "Global.eval_mode: expected retrieval, got 'adaface'",
    ),
    (theirs(Global={"train_mode": "metabin"}), "Global.train_mode: expected none, got 'metabin'"),
    (
        theirs(Global={"checkpoints": "output/latest"}),
        "Global.checkpoints: expected null: import its weights with `import-paddle`",
    ),
    (theirs(Global={"epoch": 3}), "Global.epoch: no counterpart here, got 3"),
    (
        theirs(train=loader("ImageNetDataset", [{"GridMask": {"d1": 96}}])),
        "DataLoader.Train.dataset.transform_ops.1: expected a transform of the recognition "
        "configs, got 'GridMask'",
    ),
    (
        theirs(train=loader("ImageNetDataset", [{"RandCropImage": {"size": 128}}])),
        "DataLoader.Train.dataset.transform_ops.1.RandCropImage.size: expected Arch.image_size "
        "[224, 224], got 128",
    ),
    (
        theirs(train=loader("ImageNetDataset", [{"RandCropImageV2": {"size": 224}}])),
        "DataLoader.Train.dataset.transform_ops.1: expected Pad and RandCropImageV2 one behind the "
        "other, got 'RandCropImageV2'",
    ),
    (
        theirs(train=loader("ImageNetDataset", [{"RandCropImage": {}}])),
        "DataLoader.Train.dataset.transform_ops.1.RandCropImage.size: missing",
    ),
    (
        theirs(train=loader("ImageNetDataset", [], {"name": "BatchSampler", "shuffle": False})),
        "DataLoader.Train.sampler.shuffle: expected true in training, got False",
    ),
    (
        theirs(train=loader("ImageNetDataset", [], {"name": "PKSampler", "batch_size": 8})),
        "DataLoader.Train.sampler.sample_per_id: missing",
    ),
    (
        theirs(optimizer={"lr": {"name": "Cosine", "learning_rate": 0.1, "by_epoch": True}}),
        "Optimizer.lr.by_epoch: expected false, as rates change at every step here, got True",
    ),
    (
        theirs(optimizer={"lr": {"name": "MultiStepDecay", "learning_rate": 0.1}}),
        "Optimizer.lr.milestones: missing",
    ),
    (
        theirs(Global={"image_shape": [1, 224, 224]}),
        "Global.image_shape: expected [3, height, width], got [1, 224, 224]",
    ),
    (
        theirs({"Neck": {"name": "FC", "class_num": 8, "weight_attr": {"learning_rate": 0}}}),
        "Arch.Neck.weight_attr: expected an initializer alone, got {'learning_rate': 0}",
    ),
    (
        theirs({"Neck": {"name": "FC", "class_num": 8, "bias_attr": "no"}}),
        "Arch.Neck.bias_attr: expected true or false, got 'no'",
    ),
    (theirs({"Neck": "FC"}), "Arch.Neck: expected keys and values, got 'FC'"),
    (
        theirs(train=loader("Market1501", [RESIZE])),
        "DataLoader.Train.dataset.name: expected one of ImageNetDataset, ClsDataset, "
        "ShiTuRecDataset, VeriWild, LogoDataset, ICartoonDataset, got 'Market1501'",
    ),
    (
        theirs(Slim={"quant": {"name": "pact"}}),
        "Slim: no counterpart here, got {'quant': {'name': 'pact'}}",
    ),
    (
        theirs(Metric={"Eval": [{"TprAtFpr": {}}]}),
        "Metric.Eval.0.TprAtFpr: expected a metric that is here (docs/evaluation.md)",
    ),
]


@pytest.mark.parametrize(("tree", "message"), REFUSED, ids=[m[:60] for _, m in REFUSED])
def test_what_has_no_counterpart_is_refused_with_its_key(tree, message):
    with pytest.raises(ConfigError) as error:
        convert_config(tree, "theirs.yaml")
    assert str(error.value) == f"theirs.yaml: {message}"


def test_the_command_writes_a_config_that_loads(tmp_path, capsys):
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump(V2))
    assert cli.main(["import-paddle", str(file), "--output", str(tmp_path / "ours.yaml")]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "Global.image_shape: is Arch.image_size, [224, 224]" in told["notes"]
    loaded = load_config(tmp_path / "ours.yaml")
    assert loaded == from_dict(convert_config(V2, "x")[0])

    file.write_text(yaml.safe_dump(theirs(Global={"epoch": 3})))
    assert cli.main(["import-paddle", str(file), "--output", str(tmp_path / "other.yaml")]) == 2
    assert not (tmp_path / "other.yaml").exists()
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {file}: Global.epoch: no counterpart here, got 3"
    )
    assert cli.main(["import-paddle", "x.pdparams", "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: -c FILE.yaml: missing; it describes the network of the weights"
    )
