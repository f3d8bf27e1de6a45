"""PaddleClas' weights in ours: its own outputs come out, and what does not fit is named."""

import json
import os
import pickle
import re

import keras
import numpy as np
import pytest
from conftest import ROOT
from test_lcnet import CASES, images

from keras_featx import cli, models, weights
from keras_featx.config import dump_config, from_dict
from keras_featx.errors import ConfigError
from keras_featx.interop.paddle import import_paddle
from keras_featx.interop.paddle_files import read_pdparams
from keras_featx.interop.paddle_programs import read_program
from keras_featx.interop.paddle_weights import NAMES, PLACES, by_number, find_network

OF_LARGEST = 1e-4  # of the largest value
AS_IT_IS = {"mean": [0, 0, 0], "std": [1, 1, 1]}


def arch_of(size, backbone, neck, head, **preprocess):
    return from_dict(
        {
            "Arch": {
                "image_size": list(size),
                "Preprocess": AS_IT_IS,
                "Backbone": {"name": "LCNet", **backbone},
                "Neck": neck and {"name": "Dense", **neck},
                "Head": {"name": "ArcMargin", **head},
            }
        }
    )


def tiny(backbone=None, neck=(("embedding_size", 12),), head=(), size=(64, 64)):
    """The network of tests/data/paddle_files.npz."""
    backbone = {"scale": 0.05, "class_expand": 40, **(backbone or {})}
    return arch_of(size, backbone, neck and dict(neck), dict(head))


def save(path, arrays, protocol=4):
    """As `paddle.save` of a layer's state."""
    tree = dict(arrays)
    tree["StructuredToParameterName@@"] = {name: f"framework_{i}" for i, name in enumerate(arrays)}
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    return path


def loaded(folder, config, class_num=None):
    """What training starts from: extractor and head with the weights of a folder."""
    extractor = models.build_extractor(config.Arch)
    head = models.build_head(config.Arch, class_num) if class_num else None
    if head is not None:
        models.build_classifier(extractor, head)
    found = weights.load_pretrained(str(folder), extractor, head, config.Arch)
    assert head is None or found.all()
    return extractor, head


def tap(extractor, layer, image):
    return keras.Model(extractor.input, extractor.get_layer(layer).output)(image).numpy()


def agree(ours, theirs):
    assert np.abs(ours - theirs).max() <= OF_LARGEST * np.abs(theirs).max()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def written(request, tmp_path_factory):
    """The files that Paddle wrote, by version; and what its networks gave."""
    archive = np.load(request.config.rootpath / "tests" / "data" / "paddle_files.npz")
    folder = tmp_path_factory.mktemp("paddle")
    for key in archive.files:
        if archive[key].dtype == np.uint8:
            (folder / key).parent.mkdir(exist_ok=True)
            (folder / key).write_bytes(archive[key].tobytes())
    return folder, archive


@pytest.fixture(scope="module")
def arrays(written):
    """Of a whole recognition model: a backbone, a neck, and six class centres of ArcMargin."""
    return read_pdparams(written[0] / "2.6.2" / "protocol2.pdparams")


IMAGE = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype("float32")
IMAGE = IMAGE.transpose(0, 2, 3, 1) * 255  # what becomes the reference's input inside


# Networks


@pytest.mark.parametrize(
    ("name", "as_the_reference"), [*((name, False) for name in CASES), ("rec_x0_25_small", True)]
)
def test_golden_models_give_the_same(name, as_the_reference, data_dir, tmp_path):
    golden = np.load(data_dir / f"{name}.npz")
    case = "s64/" if name == "rec_x0_25_small" else ""
    backbone, embedding_size, class_num, *_ = CASES[name]
    image = images(golden, case)
    config = arch_of(
        image.shape[1:3],
        {**backbone, "dropout_scales_inference": as_the_reference},
        {"embedding_size": embedding_size},
        {},
    )
    params = {k.removeprefix("param/"): golden[k] for k in golden.files if k.startswith("param/")}
    file = save(tmp_path / "model.pdparams", params)
    result = import_paddle(file, config, tmp_path / "ours")
    last_conv = backbone.get("use_last_conv", True)
    assert result == {
        "output": str(tmp_path / "ours"),
        "prefix": "",
        "arrays": len(params),
        "unused": [],
        "fresh": ["head/margin_factor"],
        "class_centres": class_num,
        "feature_scale": 0.8 if last_conv else 1.0,
        "folded": {"extractor/neck/kernel": 0.8} if last_conv and not as_the_reference else {},
    }
    extractor, head = loaded(tmp_path / "ours", config, class_num)
    features = tap(extractor, "neck", image)
    agree(features, golden[f"{case}eval/features"])
    agree(extractor(image).numpy(), golden[f"{case}eval/features_l2norm"])
    agree(head(features) / head.scale, golden[f"{case}eval/logits_eval_cos"])
    if as_the_reference and last_conv:
        agree(tap(extractor, "dropout_scale", image), golden[f"{case}eval/backbone"])


def test_real_weights_give_the_stored_outputs(data_dir, tmp_path):
    """PP-LCNet x1.0 up to its last stage, which the file leaves out; that one is random here."""
    golden = np.load(data_dir / "pplcnet_x1_0_front.npz")
    params = {k.removeprefix("param/"): golden[k] for k in golden.files if k.startswith("param/")}
    config = arch_of((224, 224), {"scale": 1.0}, None, {})
    rng = np.random.default_rng(1)
    wanted = weights.named_variables(models.build_extractor(config.Arch), "extractor")
    for path, variable in wanted.items():
        ours = path.removeprefix("extractor/")
        name = NAMES["LCNet"][ours].removeprefix("backbone.")
        if name not in params:
            axes = {4: (2, 3, 0, 1) if "_dw_conv" in ours else (3, 2, 0, 1)}
            shape = tuple(variable.shape)
            shape = tuple(shape[axis] for axis in axes.get(len(shape), range(len(shape))))
            params[name] = rng.uniform(0.1, 1, shape).astype("float32")
    result = import_paddle(save(tmp_path / "x.pdparams", params), config, tmp_path / "ours")
    assert result["unused"] == [] and result["arrays"] == 144 and result["prefix"] == ""
    extractor, _ = loaded(tmp_path / "ours", config)
    image = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype("float32")
    maps = tap(extractor, "blocks5_5_pw_bn", image.transpose(0, 2, 3, 1) * 255)
    agree(maps.mean((1, 2)), golden["blocks6_in"])


def test_all_of_the_real_weights_give_the_stored_outputs(tmp_path):
    """The whole network with its classifier as a `Linear` head, where the 6.8 MB file is."""
    folder = os.environ.get("KERAS_FEATX_GOLDEN_WEIGHTS")
    if not folder:
        pytest.skip("KERAS_FEATX_GOLDEN_WEIGHTS: the file of 6.8 MB is not in this repository")
    name = "pplcnet_x1_0_text_image_orientation_4cls.npz"
    golden = np.load(f"{folder}/golden_{name}")
    file = save(tmp_path / "x.pdparams", np.load(f"{folder}/{name}"))
    config = arch_of((224, 224), {"scale": 1.0}, None, {"name": "Linear"})
    import_paddle(file, config, tmp_path / "ours")
    extractor, head = loaded(tmp_path / "ours", config, 4)
    image = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype("float32")
    image = image.transpose(0, 2, 3, 1) * 255
    feature = tap(extractor, "flatten", image)
    agree(feature, golden["last_conv_hswish1280"])
    agree(keras.ops.softmax(head(feature)).numpy(), golden["softmax"])


# Files that Paddle itself wrote


@pytest.mark.parametrize(
    ("name", "features", "prefix", "others", "class_centres"),
    [
        ("2.6.2/protocol2.pdparams", "2.6.2/features", "", 0, 6),
        ("3.2.2/protocol4.pdparams", "3.2.2/features", "", 0, 6),
        ("2.6.2/distilled.pdparams", "2.6.2/Student/features", "Student.", 147, 6),
        ("2.6.2/inference.pdiparams", "2.6.2/features", "base_model.", 0, 0),
        ("3.2.2/inference.pdiparams", "3.2.2/features", "", 0, 0),
    ],
)
def test_files_of_paddle_give_the_same(
    written, tmp_path, name, features, prefix, others, class_centres
):
    folder, archive = written
    result = import_paddle(folder / name, tiny(), tmp_path / "ours")
    assert result["prefix"] == prefix and len(result["unused"]) == others
    assert result["class_centres"] == class_centres
    assert all(name.startswith("Teacher.") for name in result["unused"])
    extractor, head = loaded(tmp_path / "ours", tiny(), class_centres)
    agree(tap(extractor, "neck", IMAGE), archive[features])
    agree(extractor(IMAGE).numpy(), unit(archive[features]))
    if head is not None and not prefix:
        agree(head(archive[features]) / head.scale, archive[name.partition("/")[0] + "/logits"])


def test_the_teacher_comes_by_its_prefix(written, tmp_path):
    folder, archive = written
    file = folder / "2.6.2" / "distilled.pdparams"
    result = import_paddle(file, tiny(), tmp_path / "ours", prefix="Teacher.")
    assert {name.partition(".")[0] for name in result["unused"]} == {"Student"}
    extractor, _ = loaded(tmp_path / "ours", tiny())
    agree(tap(extractor, "neck", IMAGE), archive["2.6.2/Teacher/features"])
    assert np.abs(archive["2.6.2/Teacher/features"] - archive["2.6.2/Student/features"]).max() > 1


def test_numbered_parameters_are_known_by_their_order(written, tmp_path):
    """`.pdmodel` without `.pdiparams.info`, and both elsewhere than expected."""
    folder, archive = written
    file = tmp_path / "moved.pdiparams"
    file.write_bytes((folder / "2.6.2" / "inference.pdiparams").read_bytes())
    model = folder / "2.6.2" / "inference.pdmodel"
    result = import_paddle(file, tiny(), tmp_path / "ours", model=model)
    assert (result["arrays"], result["unused"]) == (146, [])
    extractor, _ = loaded(tmp_path / "ours", tiny())
    agree(tap(extractor, "neck", IMAGE), archive["2.6.2/features"])


def test_numbers_may_begin_anywhere(written):
    """As those of a second network of the same program do; other layers are refused."""
    names = list(read_program(written[0] / "3.2.2" / "inference.json").shapes)
    wanted = by_number(names, "x.pdiparams", with_neck=True)
    assert wanted["conv2d_0.w_0"] == "backbone.conv1.conv.weight"
    assert wanted["conv2d_24.b_0"] == "backbone.blocks6.0.se.conv1.bias"
    assert wanted["batch_norm2d_26.w_1"] == "backbone.blocks6.1.pw_conv.bn._mean"
    assert wanted["conv2d_31.w_0"] == "backbone.last_conv.weight"
    assert wanted["linear_1.w_0"] == "neck.fc.weight"
    pattern = re.compile(r"_(\d+)\.(.*)")  # 0 to 31 becomes 95 to 126, in another order as texts
    moved = [pattern.sub(lambda m: f"_{int(m[1]) + 95}.{m[2]}_deepcopy_3", n) for n in names]
    assert list(by_number(moved, "x", with_neck=True).values()) == list(wanted.values())
    fc = by_number(names, "x", with_neck=False)
    assert fc["linear_1.b_0"] == "backbone.fc.bias"
    without = [n for n in names if not n.startswith(("conv2d_31.", "linear_1."))]
    assert set(by_number(without, "x", with_neck=True)) == set(without)
    fewer = [n for n in names if not n.startswith("batch_norm2d_26.")]
    assert refusal(by_number, fewer, "x.pdiparams", with_neck=True) == (
        "x.pdiparams: expected the 27 batch_norm2d layers of an LCNet, got 26; other networks need "
        "the names in x.pdiparams.info"
    )
    for name in ("batch_norm1d_0.w_0", "conv2d_0.w_7", "conv2d_0"):
        assert refusal(by_number, [*names, name], "x.pdiparams", with_neck=True) == (
            f"x.pdiparams: {name}: expected an array of an LCNet"
        )
    assert refusal(by_number, [*names, "conv2d_0.w_0_deepcopy_1"], "x", with_neck=True) == (
        "x: expected each array of an LCNet once"
    )


def test_a_plain_classifier_head_comes_with_its_bias(written, tmp_path):
    folder, archive = written
    file, config = folder / "2.6.2" / "fc.pdparams", tiny(head={"name": "Linear"})
    assert import_paddle(file, config, tmp_path / "ours")["unused"] == []
    extractor, head = loaded(tmp_path / "ours", config, 6)
    agree(head(tap(extractor, "neck", IMAGE)), archive["2.6.2/fc/logits"])
    result = import_paddle(file, tiny(), tmp_path / "arc")  # no head of ArcMargin in it
    assert result["unused"] == ["head.fc.weight", "head.fc.bias"]
    assert result["class_centres"] == 0


def test_bfloat16_comes_as_the_numbers_it_stands_for(written):
    folder, archive = written
    found = read_pdparams(folder / "2.6.2" / "bfloat16.pdparams")
    assert set(found) == {"neck.fc.weight", "neck.fc.bias", "head.weight"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, archive[f"2.6.2/bfloat16/{name}"])
    full = read_pdparams(folder / "2.6.2" / "tensors.pdparams")
    np.testing.assert_allclose(full["head.weight"], found["head.weight"], rtol=2**-7)  # cut off


# Names, shapes, heads


def renamed(arrays, prefix="", bare=False):
    return {
        prefix + (name.removeprefix("backbone.") if bare else name): array
        for name, array in arrays.items()
    }


def refusal(function, *arguments, **keywords):
    with pytest.raises(ConfigError) as error:
        function(*arguments, **keywords)
    return str(error.value)


def changed(arrays, name, array):
    return {**arrays, name: array}


DEPTHWISE = "backbone.blocks2.0.dw_conv.conv.weight"
WRONG = {
    "missing": (
        lambda a: {k: v for k, v in a.items() if k != "backbone.blocks6.1.se.conv2.bias"}, {},
        "backbone.blocks6.1.se.conv2.bias: missing; expected shape (24,)",
    ),
    "convolution": (
        lambda a: changed(a, "backbone.last_conv.weight", np.zeros((24, 40, 1, 1), "f4")), {},
        "backbone.last_conv.weight: expected shape (40, 24, 1, 1), got (24, 40, 1, 1)",
    ),
    "depthwise": (
        lambda a: changed(a, DEPTHWISE, np.zeros((1, 8, 3, 3), "f4")), {},
        f"{DEPTHWISE}: expected shape (8, 1, 3, 3), got (1, 8, 3, 3)",
    ),
    "dense": (
        lambda a: changed(a, "neck.fc.weight", np.zeros((12, 40), "f4")), {},
        "neck.fc.weight: expected shape (40, 12), got (12, 40)",
    ),
    "another neck": (
        dict, {"neck": {"embedding_size": 16}},
        "neck.fc.weight: expected shape (40, 16), got (40, 12)",
    ),
    "another width": (
        dict, {"backbone": {"scale": 0.25}},
        "backbone.blocks3.0.pw_conv.conv.weight: expected shape (16, 8, 1, 1), got (8, 8, 1, 1)",
    ),
    "classes": (
        dict, {"head": {"class_num": 7}},
        "head.weight: expected shape (12, 7), got (12, 6)",
    ),
    "sub-centres": (
        dict, {"head": {"name": "SubCenterArcFace"}},
        "head.weight: expected shape (12, 18), got (12, 6)",
    ),
    "whole numbers": (
        lambda a: changed(a, "neck.fc.bias", np.zeros(12, "i4")), {},
        "neck.fc.bias: expected real numbers, got int32",
    ),
    "not a number": (
        lambda a: changed(a, "neck.fc.bias", np.full(12, np.nan, "f4")), {},
        "neck.fc.bias: expected finite numbers, got infinite or undefined ones",
    ),
    "no neck": (
        lambda a: {k: v for k, v in a.items() if not k.startswith("neck.")}, {},
        "neck.fc.weight: missing; expected shape (40, 12)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(arrays, tmp_path, case):
    change, config, message = WRONG[case]
    file = save(tmp_path / "x.pdparams", change(arrays))
    assert refusal(import_paddle, file, tiny(**config), tmp_path / "ours") == f"{file}: {message}"
    assert not (tmp_path / "ours").exists()


def test_what_the_reference_has_not_is_refused(arrays, tmp_path):
    file = save(tmp_path / "x.pdparams", arrays)
    config = tiny(neck={"embedding_size": 12, "batch_norm": True})
    assert refusal(import_paddle, file, config, tmp_path / "ours") == (
        "Arch.Neck.batch_norm: expected none, as PaddleClas has nothing like neck_bn/gamma"
    )
    config = tiny(backbone={"levels": ["blocks3"]})
    assert refusal(import_paddle, file, config, tmp_path / "ours") == (
        "Arch.Backbone.levels: expected none, as PaddleClas has nothing like blocks3_pool_bn/gamma"
    )


def test_what_is_not_used_is_listed(arrays, tmp_path):
    more = {"backbone.fc.weight": np.ones((40, 9)), "loss.0.centers": np.ones((6, 12))}
    file = save(tmp_path / "x.pdparams", {**arrays, **more})
    result = import_paddle(file, tiny(), tmp_path / "ours")
    assert (result["arrays"], result["unused"]) == (147, list(more))
    config = tiny(neck={"embedding_size": 12, "use_bias": False})
    assert import_paddle(file, config, tmp_path / "a")["unused"] == ["neck.fc.bias", *more]


def test_every_array_has_one_place():
    assert len(set(PLACES.values())) == len(PLACES) == 146


def test_prefixes_are_found(arrays):
    def found(*networks, prefix=None):
        everything = {k: v for network in networks for k, v in network.items()}
        network = find_network(everything, "x.pdparams", prefix)
        np.testing.assert_array_equal(
            network.arrays["backbone.conv1.conv.weight"], arrays["backbone.conv1.conv.weight"]
        )
        return network.prefix

    student, teacher = renamed(arrays, "Student."), renamed(arrays, "Teacher.")
    second = renamed(arrays, "Student2.")
    backbone = renamed({k: v for k, v in arrays.items() if k.startswith("backbone.")}, bare=True)
    assert found(arrays) == found(backbone) == ""
    assert found(student) == found(teacher, student) == found(student, arrays) == "Student."
    assert found(teacher) == "Teacher."
    assert found(teacher, student, prefix="Teacher.") == "Teacher."
    assert found(teacher, arrays, prefix="") == ""
    assert found(renamed(backbone, "Student.model."), teacher) == "Student.model."
    assert refusal(found, teacher, student, second) == (
        "x.pdparams: holds several networks: expected --prefix of "
        "['Student.', 'Student2.', 'Teacher.']"
    )
    assert refusal(found, student, prefix="Student") == (
        "--prefix: expected one of ['Student.'] for x.pdparams, got 'Student'"
    )
    assert refusal(found, {"stem.conv.weight": 0, "fc.weight": 0}) == (
        "x.pdparams: expected the arrays of an LCNet, such as conv1.conv.weight, got "
        "['stem.conv.weight', 'fc.weight']"
    )


def test_missing_arrays_are_spelled_as_in_the_file(arrays):
    bare = {k: v for k, v in arrays.items() if k.startswith("backbone.conv1")}
    network = find_network(renamed(bare, "Student.", bare=True), "x.pdparams")
    assert refusal(network.take, "backbone.last_conv.weight", (1, 1, 24, 40)) == (
        "x.pdparams: Student.last_conv.weight: missing; expected shape (40, 24, 1, 1)"
    )


def test_a_backbone_alone_begins_a_recognition_model(arrays, tmp_path):
    """As after training on ImageNet: the neck is fresh, the same for the same seed."""
    only = {k: v for k, v in arrays.items() if k.startswith("backbone.")}
    classifier = {"fc.weight": np.ones((40, 9), "f4"), "fc.bias": np.ones(9, "f4")}
    file = save(tmp_path / "x.pdparams", {**renamed(only, bare=True), **classifier})
    assert refusal(import_paddle, file, tiny(), tmp_path / "ours") == (
        f"{file}: neck.fc.weight: missing; expected shape (40, 12)"
    )
    for name in ("first", "second"):
        result = import_paddle(file, tiny(), tmp_path / name, fresh_neck=True)
    assert result["fresh"] == ["extractor/neck/bias", "extractor/neck/kernel"]
    assert (result["unused"], result["folded"]) == (["fc.weight", "fc.bias"], {})
    first, second = (loaded(tmp_path / name, tiny())[0](IMAGE) for name in ("first", "second"))
    np.testing.assert_array_equal(first, second)


def test_the_classifier_of_a_backbone_is_a_linear_head(arrays, tmp_path):
    """Its logits on the scaled feature, in NumPy; the head here sees it unscaled."""
    rng = np.random.default_rng(3)
    only = {k: v for k, v in arrays.items() if k.startswith("backbone.")}
    matrix, bias = rng.normal(size=(40, 9)).astype("f4"), rng.normal(size=9).astype("f4")
    named = {**renamed(only, bare=True), "fc.weight": matrix, "fc.bias": bias}
    config = tiny(neck=None, head={"name": "Linear"})
    result = import_paddle(save(tmp_path / "x.pdparams", named), config, tmp_path / "ours")
    assert (result["unused"], result["folded"]) == ([], {"head/centres": 0.8})
    extractor, head = loaded(tmp_path / "ours", config, 9)
    feature = tap(extractor, "flatten", IMAGE)
    agree(head(feature).numpy(), 0.8 * feature.astype("float64") @ matrix + bias)


@pytest.mark.parametrize("shape", [(1,), ()])  # before and after a step of training there
def test_adaptive_margin_comes_with_its_statistics(arrays, tmp_path, shape):
    rest = {k: v for k, v in arrays.items() if k != "head.weight"}
    ada = {
        "head.kernel": arrays["head.weight"],
        "head.t": np.zeros(1, "f4"),
        "head.batch_mean": np.full(shape, 7, "f4"),
        "head.batch_std": np.full(shape, 3, "f4"),
    }
    config = tiny(head={"name": "AdaMargin"})
    file = save(tmp_path / "x.pdparams", {**rest, **ada})
    assert import_paddle(file, config, tmp_path / "ours")["unused"] == ["head.t"]
    _, head = loaded(tmp_path / "ours", config, 6)
    assert (float(head.norm_mean.value), float(head.norm_std.value)) == (7, 3)
    np.testing.assert_array_equal(head.centres, arrays["head.weight"].T)
    # Without a neck the feature itself is the embedding, and longer than there.
    without = {k: v for k, v in rest.items() if not k.startswith("neck.")}
    ada["head.kernel"] = np.ones((40, 6), "f4")
    file = save(tmp_path / "y.pdparams", {**without, **ada})
    config = tiny(neck=None, head={"name": "AdaMargin"})
    result = import_paddle(file, config, tmp_path / "without")
    assert result["folded"] == {"head/norm_mean": 1.25, "head/norm_std": 1.25}
    _, head = loaded(tmp_path / "without", config, 6)
    assert (float(head.norm_mean.value), float(head.norm_std.value)) == (8.75, 3.75)


@pytest.mark.parametrize(
    "head",
    [
        *({"name": name} for name in ("CosMargin", "CircleMargin", "Cosine", "CurricularFace")),
        {"name": "ArcMargin", "sample_rate": 0.5},
    ],
    ids=lambda head: head["name"],
)
def test_class_centres_are_those_of_any_head_on_cosines(arrays, tmp_path, head):
    file, config = save(tmp_path / "x.pdparams", arrays), tiny(head=head)
    assert import_paddle(file, config, tmp_path / "ours")["class_centres"] == 6
    found, _ = weights.read_arrays(tmp_path / "ours" / weights.WEIGHTS)
    np.testing.assert_array_equal(found["head/centres"], arrays["head.weight"].T)
    assert loaded(tmp_path / "ours", config, 6)


@pytest.mark.parametrize(
    ("ours", "theirs", "factor"),
    [
        ({}, None, 0.8),
        ({"dropout": 0.5}, None, 0.8),  # ours is for training on
        ({}, 0.5, 0.5),
        ({}, 0.0, 1.0),
        ({"dropout": 0.2, "dropout_scales_inference": True}, None, 1.0),
        ({"dropout": 0.5, "dropout_scales_inference": True}, None, 1.6),
        ({"dropout": 0.5, "dropout_scales_inference": True}, 0.5, 1.0),
    ],
)
def test_the_feature_s_scale_goes_into_the_neck(arrays, tmp_path, ours, theirs, factor):
    file = save(tmp_path / "x.pdparams", arrays)
    config = tiny(backbone=ours)
    result = import_paddle(file, config, tmp_path / "ours", dropout=theirs)
    assert result["folded"] == ({} if factor == 1 else {"extractor/neck/kernel": factor})
    found, _ = weights.read_arrays(tmp_path / "ours" / weights.WEIGHTS)
    np.testing.assert_array_equal(
        found["extractor/neck/kernel"], arrays["neck.fc.weight"] * np.float32(factor)
    )
    np.testing.assert_array_equal(found["extractor/neck/bias"], arrays["neck.fc.bias"])


def test_impossible_options_are_refused(written, arrays, tmp_path):
    file = save(tmp_path / "x.pdparams", arrays)
    export = written[0] / "2.6.2" / "inference.pdiparams"
    assert refusal(import_paddle, file, tiny(), tmp_path / "ours", dropout=1.0) == (
        "--dropout: expected in [0, 1), got 1.0"
    )
    assert refusal(import_paddle, export, tiny(), tmp_path / "ours", dropout=0.2) == (
        "--dropout: expected without .pdiparams, which says it, got 0.2"
    )
    assert refusal(import_paddle, file, tiny(), tmp_path / "ours", model="m.json") == (
        f"--model: expected with .pdiparams only, got it with {file}"
    )
    assert refusal(import_paddle, file, tiny(neck=None), tmp_path / "ours", fresh_neck=True) == (
        "--fresh-neck: expected with Arch.Neck only"
    )


# The command line


def test_the_command_makes_weights_that_predict(written, tmp_path, capsys):
    folder, _ = written
    config = tmp_path / "ours.yaml"
    config.write_text(dump_config(tiny()))
    file = str(folder / "2.6.2" / "distilled.pdparams")
    command = ["import-paddle", file, "--config", str(config)]
    assert cli.main([*command, "--output", str(tmp_path / "ours"), "--prefix", "Student."]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["arrays"], len(result["unused"]), result["class_centres"]) == (147, 147, 6)
    picture = ROOT / "tests" / "data" / "img_photo.png"
    features = tmp_path / "features.npz"
    predict = ["predict", "-o", f"pretrained_model={tmp_path / 'ours'}", str(picture)]
    assert cli.main([*predict, "--output", str(features)]) == 0
    embedding = np.load(features)["features"]
    assert embedding.shape == (1, 12) and np.linalg.norm(embedding) == pytest.approx(1)
    assert cli.main([*command, "--output", str(tmp_path / "x"), "--prefix", "Teaher."]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: --prefix: expected one of ['Student.', 'Teacher.'] for {file}, got 'Teaher.'"
    )


def test_another_backbone_is_refused(arrays, tmp_path, monkeypatch):
    config = tiny()
    object.__setattr__(config.Arch.Backbone, "name", "Another")
    file = save(tmp_path / "x.pdparams", arrays)
    assert refusal(import_paddle, file, config, tmp_path / "ours") == (
        "Arch.Backbone.name: expected LCNet or LCNetV2, got 'Another'"
    )
