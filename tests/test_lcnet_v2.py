"""PP-ShiTuV2 against a forward pass in float64 by the reference's names, and its folded form.

The golden network of PaddleClas is 20 MB; it was compared once: 2.4e-6 of the largest value, folded
3.7e-6. Here is a narrow one with weights of its own.
"""

import pickle

import keras
import numpy as np
import pytest

from keras_featx import models, weights
from keras_featx.backbones.lcnet_v2 import lcnet_v2
from keras_featx.config import from_dict, load_config
from keras_featx.errors import ConfigError
from keras_featx.exporters.deploy import deploy_form
from keras_featx.interop.paddle import import_paddle

# Of scale 0.25: channels into each stage; kernel, branches, gate, two pointwise steps, blocks.
STAGES = [
    (16, 3, None, False, False, 2),
    (32, 3, None, False, False, 2),
    (64, 5, (5, 3, 1), True, True, 6),
    (128, 5, (5, 3, 1), False, False, 2),
]
STRIDES = [2, 2, 2, 1]


def blocks():
    """(name, channels in, out, stride, kernel, branches, gated, split, shortcut) of each block."""
    yield "stem.1", 8, 16, 1, 3, None, False, False, False
    for stage, (channels, kernel, branches, gated, split, count) in enumerate(STAGES):
        for i in range(count):
            stride = STRIDES[stage] if i == 0 else 1
            some = branches if stride == 1 or branches is None else branches[:-1]
            before = channels if i == 0 else 2 * channels
            name = f"stages.{stage}.{i}"
            yield name, before, 2 * channels, stride, kernel, some, gated, split, stage == 3 and i


@pytest.fixture(scope="module")
def arrays():
    """As a file of PaddleClas has them, with statistics that keep the signal alive."""
    rng = np.random.default_rng(5)
    found = {}

    def conv(name, out, into, size, bias=False):
        scale = np.sqrt(2 / (into * size * size))
        found[f"{name}.weight"] = rng.normal(0, scale, (out, into, size, size)).astype("float32")
        if bias:
            found[f"{name}.bias"] = rng.normal(0, 0.2, out).astype("float32")

    def norm(name, channels):
        found[f"{name}.weight"] = rng.uniform(0.6, 1.5, channels).astype("float32")
        found[f"{name}.bias"] = rng.normal(0, 0.3, channels).astype("float32")
        found[f"{name}._mean"] = rng.normal(0, 0.3, channels).astype("float32")
        found[f"{name}._variance"] = rng.uniform(0.5, 2, channels).astype("float32")

    def conv_norm(name, out, into, size):
        conv(f"{name}.conv", out, into, size)
        norm(f"{name}.bn", out)

    conv_norm("backbone.stem.0", 8, 3, 3)
    for name, before, after, _, kernel, branches, gated, split, _ in blocks():
        for i, size in enumerate(branches or ()):
            conv_norm(f"backbone.{name}.dw_conv_list.{i}", before, 1, size)
        if branches is None:
            conv_norm(f"backbone.{name}.dw_conv", before, 1, kernel)
        else:  # which the reference keeps for its own folded form
            conv(f"backbone.{name}.dw_conv", before, 1, kernel, bias=True)
        if gated:
            conv(f"backbone.{name}.se.conv1", before // 4, before, 1, bias=True)
            conv(f"backbone.{name}.se.conv2", before, before // 4, 1, bias=True)
        if split:
            conv_norm(f"backbone.{name}.pw_conv_1", after // 2, before, 1)
            conv_norm(f"backbone.{name}.pw_conv_2", after, after // 2, 1)
        else:
            conv_norm(f"backbone.{name}.pw_conv", after, before, 1)
    conv("backbone.last_conv", 24, 256, 1, bias=True)
    norm("neck.feat_bn", 24)
    found["head.fc.weight"] = rng.normal(0, 0.1, (24, 5)).astype("float32")
    return found


def reference(arrays, x):
    """Embeddings of unit norm in float64, of images ``(batch, 3, height, width)``."""
    arrays = {name: array.astype("float64") for name, array in arrays.items()}

    def conv(x, name, stride=1, groups=1):
        kernel = arrays[f"{name}.weight"]
        size, pad = kernel.shape[-1], (kernel.shape[-1] - 1) // 2
        x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
        windows = windows[:, :, ::stride, ::stride]
        if groups == 1:
            y = np.einsum("bchwij,ocij->bohw", windows, kernel, optimize=True)
        else:
            y = np.einsum("bchwij,cij->bchw", windows, kernel[:, 0])
        return y + arrays.get(f"{name}.bias", np.zeros(1))[:, None, None]

    def norm(x, name):
        scale = arrays[f"{name}.weight"] / np.sqrt(arrays[f"{name}._variance"] + 1e-5)
        shift = arrays[f"{name}.bias"] - arrays[f"{name}._mean"] * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def conv_norm(x, name, stride=1, groups=1):
        return norm(conv(x, f"{name}.conv", stride, groups), f"{name}.bn")

    def relu(x):
        return np.maximum(x, 0)

    x = relu(conv_norm(x, "backbone.stem.0", 2))
    for name, _, _, stride, _, branches, gated, split, shortcut in blocks():
        before, name = x, f"backbone.{name}"
        if branches:
            names = [f"{name}.dw_conv_list.{i}" for i in range(len(branches))]
            x = sum(conv_norm(x, one, stride, groups=0) for one in names)
        else:
            x = conv_norm(x, f"{name}.dw_conv", stride, groups=0)
        x = relu(x)
        if gated:
            gate = relu(conv(x.mean((2, 3), keepdims=True), f"{name}.se.conv1"))
            x = x / (1 + np.exp(-conv(gate, f"{name}.se.conv2")))
        for suffix in ("_1", "_2") if split else ("",):
            x = relu(conv_norm(x, f"{name}.pw_conv{suffix}"))
        x = x + before if shortcut else x
    x = 0.8 * conv(x.mean((2, 3), keepdims=True), "backbone.last_conv")
    x = norm(x, "neck.feat_bn")[:, :, 0, 0]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def config(**backbone):
    return from_dict(
        {
            "Arch": {
                "image_size": [72, 64],
                "Backbone": {"name": "LCNetV2", "scale": 0.25, "class_expand": 24, **backbone},
                "Neck": {"name": "BNNeck"},
                "Head": {"name": "Linear", "use_bias": False},
            }
        }
    )


@pytest.fixture(scope="module")
def paddle_file(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("v2") / "model.pdparams"
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).integers(0, 256, (3, 72, 64, 3)).astype("uint8")


@pytest.fixture(scope="module")
def expected(arrays, images):
    scaled = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return reference(arrays, scaled.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("scales", [True, False], ids=["scaling dropout", "folded dropout"])
def test_a_network_of_the_reference_and_its_folded_form(
    scales, paddle_file, arrays, images, expected, tmp_path
):
    own = config(dropout_scales_inference=scales)
    told = import_paddle(paddle_file, own, tmp_path / "out")
    unused = {name for name in arrays if ".dw_conv." in name and ".dw_conv.conv" not in name}
    assert set(told["unused"]) == {name for name in unused if ".dw_conv.bn" not in name}
    assert told["class_centres"] == 5 and told["fresh"] == []
    extractor = models.build_extractor(own.Arch)
    weights.load_pretrained(str(tmp_path / "out"), extractor, arch=own.Arch)
    found = extractor.predict(images, verbose=0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert abs(found[0] - found[1]).max() > 1e-2  # of a network that is alive
    np.testing.assert_allclose(found, expected, atol=2e-5)

    folded = deploy_form(extractor)
    np.testing.assert_allclose(folded.predict(images, verbose=0), expected, atol=2e-5)
    kinds = [type(layer) for layer in folded.layers]
    assert kinds.count(keras.layers.DepthwiseConv2D) == 13  # one a block
    assert kinds.count(keras.layers.Add) == 1  # the shortcut
    assert not any(isinstance(one, keras.layers.BatchNormalization) for one in folded.layers)


def test_parameters_are_those_of_the_reference():
    image = keras.Input((64, 64, 3))
    model = keras.Model(image, lcnet_v2(image))
    # 4,736,000 of the reference with its neck of 1,024, without 113,152 of its unused convolutions.
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == 4_736_000 - 1_024 - 113_152
    # Of the last stage the map is as large as of the one before.
    assert model.get_layer("pool").input.shape == (None, 4, 4, 1024)


def test_the_recipe_of_the_reference_is_a_config():
    found = load_config("configs/general_recognition_v2_lcnet_v2.yaml", ["Arch.Head.class_num=9"])
    extractor = models.build_extractor(found.Arch)
    head = models.build_head(found.Arch)
    losses = models.build_losses(found.Loss)
    classifier = models.build_classifier(extractor, head, losses)
    assert set(classifier.output) == {"ce_loss", "triplet_angular_margin_loss", "correct"}
    assert losses["ce_loss"].epsilon == 0.1
    assert not any("bias" in weight.path for weight in head.weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0}, "Arch.Backbone.scale: expected a positive number, got 0.0"),
        ({"class_expand": 0}, "Arch.Backbone.class_expand: expected a positive number, got 0"),
        ({"dropout": 1}, "Arch.Backbone.dropout: expected in [0, 1), got 1.0"),
        (
            {"stride_list": [2, 2, 2, 2, 3]},
            "Arch.Backbone.stride_list: expected strides of 1 or 2, got [2, 2, 2, 2, 3]",
        ),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError) as error:
        models.build_extractor(config(**arguments).Arch)
    assert str(error.value) == message


def test_a_file_of_the_other_lcnet_is_refused(paddle_file, tmp_path):
    other = from_dict({"Arch": {"Backbone": {"name": "LCNet"}}})
    with pytest.raises(ConfigError) as error:
        import_paddle(paddle_file, other, tmp_path / "out")
    assert str(error.value) == (
        f"{paddle_file}: expected the arrays of an LCNet, such as conv1.conv.weight, got "
        "['backbone.stem.0.conv.weight', 'backbone.stem.0.bn.weight', 'backbone.stem.0.bn.bias']"
    )
