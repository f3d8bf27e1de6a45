"""PP-ShiTuV2 against PaddleClas, and against a forward pass in float64; its folded form.

The golden network of PaddleClas at full width is 20 MB; it was compared once: 4e-6 of the largest
value. Here is a narrow one of PaddleClas (tests/data/README.md), and one with weights of its own.
"""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomize
from test_lcnet import close

from keras_featx import models, weights
from keras_featx.backbones import blocks as layers
from keras_featx.backbones.lcnet_v2 import lcnet_v2
from keras_featx.config import from_dict, load_config
from keras_featx.errors import ConfigError
from keras_featx.exporters.deploy import deploy_form
from keras_featx.interop.paddle import import_paddle
from keras_featx.interop.paddle_weights import our_path, to_keras
from keras_featx.necks import bn_neck

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


@pytest.fixture(scope="module")
def golden(request):
    return np.load(request.config.rootpath / "tests" / "data" / "recv2_x0_2.npz")


def golden_network(golden, dropout=0.2, policy="float64"):
    """Backbone and neck of the golden network, every weight from a parameter."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        image = keras.Input((64, 64, 3), dtype=policy)
        feature = lcnet_v2(
            image, scale=0.2, class_expand=24, dropout=dropout, dropout_scales_inference=True
        )
        model = keras.Model(image, [feature, bn_neck(feature)])
    finally:
        keras.config.set_dtype_policy(before)
    variables = {v.path: v for v in model.weights}
    for key in golden.files:
        name = key.removeprefix("param/")
        unused = name.endswith(("dw_conv.weight", "dw_conv.bias", "head.fc.weight"))
        if key.startswith("param/") and not unused:
            variables.pop(our_path(name)).assign(to_keras(name, golden[key]))
    assert not variables
    return model


@pytest.fixture(scope="module")
def golden_images(golden):
    return golden["x"].transpose(0, 2, 3, 1)


def test_inference_equals_paddleclas(golden, golden_images):
    feature, embedding = golden_network(golden)(golden_images)
    close(feature, golden["eval/backbone"], 1e-6)
    close(embedding, golden["eval/features"], 1e-6)


def test_a_training_pass_equals_paddleclas(golden, golden_images):
    """Batch statistics, their running averages, and gradients from that of the embedding on.

    In float64: in float32 some gradients in front of batch statistics are rounding alone.
    """
    model = golden_network(golden, dropout=0.0)
    with tf.GradientTape() as tape:
        feature, embedding = model(golden_images.astype("float64"), training=True)
    close(feature, golden["train_nodrop/backbone"], 1e-6)
    close(embedding, golden["train_nodrop/features"], 1e-6)
    variables = model.trainable_variables
    gradients = tape.gradient(
        embedding, [v.value for v in variables], tf.constant(golden["train_nodrop/grad/features"])
    )
    norms = {v.path: np.linalg.norm(g) for v, g in zip(variables, gradients, strict=True)}
    expected = {
        our_path(key.split("/gradnorm/")[1]): float(golden[key])
        for key in golden.files
        if "/gradnorm/" in key and "head." not in key
    }
    assert norms == pytest.approx(expected, rel=1e-5)
    averages = {v.path: v for v in model.weights if "moving_" in v.path}
    for key in golden.files:
        if "/after/" in key:
            close(averages.pop(our_path(key.split("/after/")[1])), golden[key], 1e-6)
    assert not averages


def test_the_losses_of_the_recipe_equal_paddle(golden):
    """Smoothed cross-entropy and the bounded angular triplets, with the gradients of their sum."""
    recipe = load_config("configs/general_recognition_v2_lcnet_v2.yaml", ["Arch.Head.class_num=5"])
    losses = models.build_losses(recipe.Loss)
    head = models.build_head(recipe.Arch)
    embedding = tf.constant(golden["train_nodrop/features"], "float32")
    label = golden["y"][:, 0]
    head.build(embedding.shape)
    head.centres.assign(golden["param/head.fc.weight"].T)
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        entropy, _ = head(embedding, label, with_loss=True, epsilon=losses["ce_loss"].epsilon)
        unit = tf.math.l2_normalize(embedding, axis=1)
        values = [
            tf.reduce_mean(entropy),
            tf.reduce_mean(losses["triplet_angular_margin_loss"](unit, label)),
        ]
        total = sum(values)
    expected = [float(golden[f"train_nodrop/{k}"]) for k in ("celoss", "triplet")]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    d_embedding, d_centres = tape.gradient(total, [embedding, head.centres.value])
    close(d_embedding, golden["train_nodrop/grad/features"], 1e-5)
    close(tf.convert_to_tensor(d_centres), golden["train_nodrop/grad/head"].T, 1e-5)


def test_branches_fold_into_the_convolutions_of_paddleclas(golden, golden_images):
    """Kernels, biases and embeddings of its own re-parameterised network."""
    network = golden_network(golden, policy="float32")
    embedding = keras.layers.UnitNormalization(name=models.EMBEDDING)(network.output[1])
    folded = deploy_form(keras.Model(network.input, embedding))
    names = [key for key in golden.files if key.startswith("repped/backbone")]
    assert len(names) == 2 * 8
    for key in names:
        name, leaf = key.removeprefix("repped/backbone.").rsplit(".", 1)
        ours = folded.get_layer(f"{name.removesuffix('.dw_conv').replace('.', '_')}_dw_0_conv")
        array = ours.bias if leaf == "bias" else np.transpose(ours.kernel, (2, 3, 0, 1))
        close(array, golden[key], 1e-6)
    rows = golden["repped/features"]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(folded(golden_images), rows, atol=2e-5)


def test_what_stands_before_branches_is_folded_too():
    """A shift that a padded convolution cannot take in, beside a 1x1 that could."""
    image = keras.Input((12, 12, 3))
    x = layers.norm_act(layers.conv(image, 6, 3, name="conv"), None, name="first")
    x = keras.layers.Rescaling(2.0, offset=1.5)(x)
    branches = [
        layers.norm_act(layers.depthwise_conv(x, size, name=f"dw_{size}"), None, name=f"bn_{size}")
        for size in (5, 3, 1)
    ]
    x = keras.layers.Activation("relu")(keras.layers.Add()(branches))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = randomize(keras.Model(image, keras.layers.UnitNormalization()(x)))
    pixels = np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype("float32")
    folded = deploy_form(model)
    assert sum(isinstance(one, keras.layers.DepthwiseConv2D) for one in folded.layers) == 1
    np.testing.assert_allclose(folded(pixels), model(pixels), atol=1e-5)


def test_parameters_are_those_of_the_reference():
    extractor = models.build_extractor(
        from_dict({"Arch": {"Backbone": {"name": "LCNetV2"}, "Neck": {"name": "BNNeck"}}}).Arch
    )
    # PaddleClas counts running statistics too, 2,048 numbers of the neck, and in training what it
    # keeps for its folded form: a 5x5 kernel and a bias for each channel of a block with branches.
    unused = (25 + 1) * (256 + 5 * 512 + 512 + 1024)
    assert extractor.count_params() == 4_776_832 - unused + 2_048
    # It leaves the batch normalisation behind other convolutions: four numbers a channel, of which
    # we keep a bias. Ours of the neck goes into the last convolution.
    others = 32 + (32 + 64) + (64 + 3 * 128) + (128 + 3 * 256) + 6 * (256 + 512) + 2 * 1024
    assert deploy_form(extractor).count_params() <= 4_575_616 - 3 * others - 2_048
    folded = deploy_form(randomize(extractor))  # fresh ones have no shift to keep as a bias
    assert folded.count_params() == 4_575_616 - 3 * others - 2_048
    # Of the last stage the map is as large as of the one before.
    assert extractor.get_layer("pool").input.shape == (None, 14, 14, 1024)


@pytest.mark.parametrize(
    ("scale", "widths"),
    [
        (0.2, [8, 16, 24, 48, 104, 208]),
        (0.3, [16, 24, 40, 80, 152, 304]),
        (0.6, [24, 40, 80, 152, 304, 616]),
        (0.75, [24, 48, 96, 192, 384, 768]),
        (1.25, [40, 80, 160, 320, 640, 1280]),
        (1.7, [56, 112, 216, 432, 872, 1744]),
    ],
)
def test_widths_are_rounded_as_in_the_reference(scale, widths):
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, lcnet_v2(image, scale=scale))
    last = ["stem_0", "stem_1_pw", "stages_0_1_pw", "stages_1_1_pw", "stages_2_5_pw_2"]
    names = [f"{name}_conv" for name in [*last, "stages_3_1_pw"]]
    assert [model.get_layer(name).filters for name in names] == widths


def without_neck(arrays):
    return {k.removeprefix("backbone."): v for k, v in arrays.items() if k.startswith("backbone.")}


def test_a_fresh_neck_is_as_it_was_drawn(arrays, tmp_path):
    path = tmp_path / "backbone.pdparams"
    path.write_bytes(pickle.dumps(without_neck(arrays), protocol=4))
    told = import_paddle(path, config(), tmp_path / "out", fresh_neck=True)
    leaves = ("beta", "gamma", "moving_mean", "moving_variance")
    assert told["fresh"] == [f"extractor/neck_bn/{leaf}" for leaf in leaves]
    assert told["folded"] == {} and told["class_centres"] == 0


def test_a_bias_of_the_neck_is_not_lost(arrays, tmp_path):
    bare = config()
    bare.Arch.Neck.args["train_bias"] = False
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps(arrays, protocol=4))
    largest = np.abs(arrays["neck.feat_bn.bias"]).max()
    with pytest.raises(ConfigError) as error:
        import_paddle(path, bare, tmp_path / "out")
    assert str(error.value) == (
        f"Arch.Neck.train_bias: expected true for {path}, whose neck.feat_bn.bias is not zero but "
        f"up to {largest:.3g}, got false"
    )
    # What the reference's learning rate of 1e-20 leaves of it may go.
    small = np.full(24, 1e-18, "float32")
    path.write_bytes(pickle.dumps({**arrays, "neck.feat_bn.bias": small}, protocol=4))
    assert "neck.feat_bn.bias" in import_paddle(path, bare, tmp_path / "out")["unused"]


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
