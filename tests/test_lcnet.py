"""LCNet against the numbers of the reference (tests/data/README.md)."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomize

from keras_featx import models
from keras_featx.backbones.lcnet import lcnet
from keras_featx.config import from_dict
from keras_featx.heads import softmax
from keras_featx.interop.paddle_weights import our_path, to_keras

PARAMS_TO_FLATTEN = {
    0.25: 242_936,
    0.35: 365_930,
    0.5: 604_048,
    0.75: 1_084_232,
    1.0: 1_682_464,
    1.5: 3_235_248,
    2.0: 5_262_400,
    2.5: 7_763_920,
}
# file, LCNet arguments, embedding size, classes, margin, scale, input cases
CASES = {
    "rec_x0_25_small": ({"scale": 0.25, "class_expand": 64}, 32, 10, 0.2, 30.0),
    "rec_x0_5": ({"scale": 0.5, "class_expand": 256}, 64, 50, 0.5, 64.0),
    "rec_x0_25_nolastconv": ({"scale": 0.25, "use_last_conv": False}, 16, 5, None, None),
    "rec_x0_25_relu6": (
        {"scale": 0.25, "class_expand": 48, "activation": "relu6"}, 16, 5, None, None,
    ),
    "rec_x0_25_stride": (
        {"scale": 0.25, "class_expand": 48, "stride_list": [2, 1, 2, 2, 1]}, 16, 5, None, None,
    ),
}  # fmt: skip
INPUTS = [("rec_x0_25_small", case) for case in ("s64/", "s224/", "odd/")] + [
    (name, "") for name in CASES if name != "rec_x0_25_small"
]

TRAINED = [("rec_x0_25_small", "s64/"), ("rec_x0_5", "")]  # with a whole step in training mode


def load(model, golden):
    """Every golden parameter into the model; every weight of the model from a parameter."""
    params = {k.removeprefix("param/"): golden[k] for k in golden.files if k.startswith("param/")}
    variables = {v.path: v for v in model.weights if not v.path.endswith("margin_factor")}
    for name, array in params.items():
        variables.pop(our_path(name)).assign(to_keras(name, array))
    assert not variables


def golden_model(golden, name, image, **backbone):
    """Classifier with golden weights, and its extractor, which leaves pixels as they are."""
    arguments, embedding_size, class_num, margin, scale = CASES[name]
    arch = from_dict(
        {
            "Arch": {
                "image_size": [32, 32],
                "Preprocess": {"mean": [0, 0, 0], "std": [1, 1, 1]},
                "Backbone": {
                    "name": "LCNet",
                    "dropout_scales_inference": True,
                    **arguments,
                    **backbone,
                },
                "Neck": {"name": "Dense", "embedding_size": embedding_size},
                "Head": {
                    "name": "ArcMargin",
                    "class_num": class_num,
                    "margin": margin or 0.2,
                    "scale": scale or 30.0,
                },
            }
        }
    ).Arch
    object.__setattr__(arch, "image_size", image.shape[1:3])
    extractor = models.build_extractor(arch)
    classifier = models.build_classifier(extractor, models.build_head(arch))
    load(classifier, golden)
    return classifier, extractor


def images(golden, case):
    """NCHW input of the reference as what `normalise_pixels` maps back to it."""
    return golden[f"{case}x"].transpose(0, 2, 3, 1) * 255.0


def tap(classifier, layer):
    return keras.Model(classifier.inputs, classifier.get_layer(layer).output)


def feature_layer(name):
    return "pool" if name == "rec_x0_25_nolastconv" else "dropout_scale"


def close(ours, golden, of_largest):
    np.testing.assert_allclose(ours, golden, rtol=0, atol=of_largest * np.abs(golden).max())


@pytest.fixture(params=INPUTS, ids=lambda p: f"{p[0]}-{p[1][:-1]}")
def parity(request, data_dir):
    name, case = request.param
    golden = np.load(data_dir / f"{name}.npz")
    return name, case, golden


def test_inference_equals_the_reference(parity):
    name, case, golden = parity
    image = images(golden, case)
    classifier, extractor = golden_model(golden, name, image)
    feed = {"image": image, "label": golden[f"{case}y"][:, 0]}
    feature = tap(classifier, feature_layer(name))(feed, training=False)
    close(feature, golden[f"{case}eval/backbone"], 2e-5)
    close(tap(classifier, "neck")(feed, training=False), golden[f"{case}eval/features"], 2e-5)
    embedding = extractor(image, training=False)
    close(embedding, golden[f"{case}eval/features_l2norm"], 2e-5)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
    head, neck = classifier.get_layer("head"), tap(classifier, "neck")(feed, training=False)
    scores = golden[f"{case}eval/logits_eval_cos"]
    close(head(neck) / head.scale, scores, 2e-5)
    logits = golden[f"{case}headtrain/logits_train"]
    np.testing.assert_allclose(head(neck, feed["label"]), logits, atol=1e-4 * 64 / 30)
    outputs = classifier(feed, training=False)
    loss = golden[f"{case}headtrain/celoss_train"]
    np.testing.assert_allclose(np.mean(outputs["ce_loss"]), loss, rtol=2e-5)
    np.testing.assert_array_equal(outputs["correct"], scores.argmax(axis=1) == feed["label"])


def test_gradients_equal_the_reference(parity):
    """Head in training mode over the network at inference: every parameter's gradient norm."""
    name, case, golden = parity
    image = images(golden, case)
    classifier, _ = golden_model(golden, name, image)
    label = golden[f"{case}y"][:, 0]
    with tf.GradientTape() as tape:
        outputs = classifier({"image": image, "label": label}, training=False)
        loss = tf.reduce_mean(outputs["ce_loss"])
    np.testing.assert_allclose(loss, golden[f"{case}headtrain/celoss_train"], rtol=2e-5)
    gradients = gradients_by_path(tape, loss, classifier)
    check_gradients(golden, f"{case}headtrain", gradients)


@pytest.mark.parametrize("block", [4, 16384])  # classes at once: several blocks, or one
@pytest.mark.parametrize("parity", TRAINED, indirect=True)
def test_a_training_step_equals_the_reference(parity, block, monkeypatch):
    """Batch statistics, their running averages, the loss and gradients through them."""
    monkeypatch.setattr(softmax, "BLOCK", block)
    name, case, golden = parity
    image = images(golden, case)
    classifier, _ = golden_model(golden, name, image, dropout=0.0)
    label = golden[f"{case}y"][:, 0]
    feature = classifier.get_layer(feature_layer(name)).output
    both = keras.Model(classifier.inputs, [feature, classifier.output["ce_loss"]])
    with tf.GradientTape() as tape:
        found, losses = both({"image": image, "label": label}, training=True)
        loss = tf.reduce_mean(losses)
    close(found, golden[f"{case}train_nodrop/backbone"], 1e-4)
    np.testing.assert_allclose(loss, golden[f"{case}train_nodrop/celoss"], rtol=1e-4)
    after = [k for k in golden.files if k.startswith(f"{case}train_nodrop/after/")]
    statistics = {v.path: v for v in classifier.weights if "moving_" in v.path}
    for key in after:
        close(statistics.pop(our_path(key.split("/after/")[1])), golden[key], 2e-5)
    assert not statistics
    check_gradients(golden, f"{case}train_nodrop", gradients_by_path(tape, loss, classifier))


def gradients_by_path(tape, loss, classifier):
    variables = classifier.trainable_variables
    gradients = tape.gradient(loss, [v.value for v in variables])
    return {v.path: g.numpy() for v, g in zip(variables, gradients, strict=True)}


def check_gradients(golden, prefix, gradients):
    # At 224 pixels the reference's own float32 sums are off: its norms differ by up to 0.3 % from
    # the same network in float64, ours by 0.002 %.
    relative = 5e-3 if prefix.startswith("s224/") else 1e-3
    norms = [k for k in golden.files if k.startswith(f"{prefix}/gradnorm/")]
    assert len(norms) == len(gradients)
    largest = max(float(golden[k]) for k in norms)
    for key in norms:
        name = key.split("/gradnorm/")[1]
        ours = gradients[our_path(name)]
        norm = np.linalg.norm(ours.astype("float64"))
        # A parameter before a batch norm may have a gradient of pure rounding noise.
        assert norm == pytest.approx(float(golden[key]), rel=relative, abs=1e-6 * largest), name
        full = f"{prefix}/grad/{name}"
        if full in golden.files:
            close(ours, to_keras(name, golden[full]), 1e-3)


@pytest.mark.parametrize("scale", PARAMS_TO_FLATTEN)
def test_parameter_counts_equal_the_reference(scale):
    image = keras.Input((64, 64, 3))
    model = keras.Model(image, lcnet(image, scale=scale))
    # The reference counts running statistics too.
    assert model.count_params() == PARAMS_TO_FLATTEN[scale]


def test_the_recognition_model_has_the_published_size():
    arch = from_dict({}).Arch
    extractor = models.build_extractor(arch)
    assert extractor.count_params() == 8_419_792
    head = models.build_head(arch, 185_341)
    head.build((None, 512))
    assert int(np.prod(head.centres.shape)) == 94_894_592


def test_initial_weights_are_distributed_as_in_the_reference(data_dir):
    stats = json.loads((data_dir / "init_stats_x2_5.json").read_text())
    keras.utils.set_random_seed(0)
    arch = from_dict({}).Arch
    classifier = models.build_classifier(
        models.build_extractor(arch), models.build_head(arch, 1000)
    )
    ours = {v.path: np.asarray(v) for v in classifier.trainable_variables}
    checked = 0
    for name, (_, _, std, _, _) in stats.items():
        array = ours.get(our_path(name))
        if array is None or array.size < 500 or name == "head.weight":
            continue
        assert array.std() == pytest.approx(std, rel=0.15, abs=1e-8), name
        checked += 1
    assert checked > 40


@pytest.mark.parametrize("size", [(32, 32), (97, 113), (224, 160)])
def test_every_weight_gets_a_gradient(size):
    image = keras.Input((*size, 3))
    model = randomize(keras.Model(image, lcnet(image, scale=0.25, class_expand=32)))
    x = np.random.default_rng(0).normal(size=(4, *size, 3)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(x, training=True)))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


@pytest.mark.parametrize("last_conv", [True, False])
@pytest.mark.parametrize(("grid", "size"), [(1, (64, 96)), (2, (64, 96)), (3, (96, 48))])
def test_cells_of_the_grid_stand_one_behind_the_other(grid, size, last_conv):
    image = keras.Input((*size, 3))
    strides = (1, 2, 2, 2, 2)
    feature = lcnet(
        image, scale=0.25, class_expand=20, stride_list=strides, grid=grid, use_last_conv=last_conv
    )
    model = randomize(keras.Model(image, feature))
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    found = model(x).numpy()
    before = keras.Model(image, model.get_layer("pool").input)(x).numpy().astype("float64")
    height, width = (side // 16 // grid for side in size)
    cells = [
        before[:, i * height : (i + 1) * height, j * width : (j + 1) * width].mean((1, 2))
        for i in range(grid)
        for j in range(grid)
    ]
    if last_conv:
        kernel = model.get_layer("last_conv").kernel.numpy().astype("float64")
        cells = [cell @ kernel[0, 0] for cell in cells]
        cells = [y * np.clip(y + 3, 0, 6) / 6 for y in cells]
    expected = np.concatenate(cells, axis=1)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_levels_stand_behind_the_feature():
    image = keras.Input((64, 64, 3))
    levels = ("blocks2", "blocks5")
    model = keras.Model(image, lcnet(image, scale=0.25, class_expand=20, levels=levels))
    randomize(model)
    x = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype("float32")
    expected = [keras.Model(image, model.get_layer("dropout").output)(x).numpy()]
    for last, name in (("blocks2_0_pw_bn", "blocks2"), ("blocks5_5_pw_bn", "blocks5")):
        maps = keras.Model(image, model.get_layer(last).output)(x).numpy().astype("float64")
        gamma, beta, mean, variance = (
            w.numpy().astype("float64") for w in model.get_layer(f"{name}_pool_bn").weights
        )
        average = maps.mean((1, 2))
        expected.append((average - mean) / np.sqrt(variance + 1e-5) * gamma + beta)
    assert model.output_shape == (None, 20 + 8 + 64)
    found = np.split(model(x).numpy(), [20, 28], axis=1)
    for part, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, wanted, atol=1e-5 * np.abs(wanted).max())
        assert np.abs(wanted).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.0}, "scale: expected a positive number, got 0.0"),
        ({"dropout": 1.0}, "dropout: expected in [0, 1), got 1.0"),
        ({"stride_list": [2, 2, 2, 2, 3]}, "stride_list: expected strides of 1 or 2, got "
         "[2, 2, 2, 2, 3]"),
        ({"activation": "gelu"}, "activation: expected one of ['hardswish', 'relu', 'relu6'], got "
         "'gelu'"),
        ({"levels": ["blocks1"]}, "levels: expected some of ['blocks2', 'blocks3', 'blocks4', "
         "'blocks5', 'blocks6'], got ['blocks1']"),
        ({"levels": ["blocks3", "blocks3"]}, "levels: expected some of ['blocks2', 'blocks3', "
         "'blocks4', 'blocks5', 'blocks6'], got ['blocks3', 'blocks3']"),
        ({"grid": 0}, "grid: expected a positive number, got 0"),
        ({"grid": 3}, "grid: expected a number that divides the sides of the last feature map, 2 "
         "and 2, got 3"),
    ],
)  # fmt: skip
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:
        lcnet(keras.Input((64, 64, 3)), **arguments)
    assert str(error.value) == message
