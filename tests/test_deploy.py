"""The deploy form equals the training form; ONNX has few operators; integers are LiteRT's."""

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from conftest import EMOJI_MINI, randomize, tiny_config

from keras_featx import images, models
from keras_featx.errors import ConfigError
from keras_featx.exporters import litert, onnx_file, quantize
from keras_featx.exporters.deploy import deploy_form, in_float32
from keras_featx.reranking import fit_pca
from keras_featx.runtimes import open_networks
from keras_featx.sections import PreprocessSection
from keras_featx.views import with_views

FILES = sorted((EMOJI_MINI / "test").rglob("*.png"))


def pixels(count, size=32):
    some = [
        images.load(tf.constant(str(p)), (size, size), PreprocessSection()) for p in FILES[:count]
    ]
    return np.stack(some)


def extractor(folder, *overrides, seed=0):
    return randomize(models.build_extractor(tiny_config(folder, *overrides).Arch), seed)


KINDS = {
    "plain": [],
    "neck with batch normalisation": ["Arch.Neck.batch_norm=true", "Arch.Neck.use_bias=false"],
    "three means": ["Arch.Preprocess.mean=[0.5,0.4,0.3]", "Arch.Preprocess.std=[0.2,0.3,0.4]"],
    "no mean": ["Arch.Preprocess.mean=[0,0,0]", "Arch.Preprocess.std=[1,1,1]"],
    "stride 1": ["Arch.Backbone.stride_list=[1,2,2,2,1]"],
    "levels": ["Arch.Backbone.levels=[blocks3,blocks6]"],
    "grid": ["Arch.Backbone.stride_list=[1,2,2,2,2]", "Arch.Backbone.grid=2"],
    "scaled dropout": ["Arch.Backbone.dropout=0.3", "Arch.Backbone.dropout_scales_inference=true"],
    "scaled dropout and levels": [
        "Arch.Backbone.dropout=0.3", "Arch.Backbone.dropout_scales_inference=true",
        "Arch.Backbone.levels=[blocks4]",
    ],
    "no last convolution": ["Arch.Backbone.use_last_conv=false"],
    "no neck": ["Arch.Neck=null"],
}  # fmt: skip


@pytest.mark.parametrize("basic", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_folding_changes_nothing(tmp_path, kind, basic):
    model = extractor(tmp_path, *KINDS[kind])
    folded = deploy_form(model, basic=basic)
    batch = pixels(6)
    expected = model(batch).numpy()
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    assert (expected @ expected.T).min() < 1 - 1e-3
    np.testing.assert_allclose(folded(batch), expected, atol=1e-5)
    kinds = {type(layer).__name__ for layer in folded.layers}
    assert not kinds & {"BatchNormActivation", "BatchNormalization", "Dropout", "Rescaling"}
    if basic:
        activations = [
            layer for layer in folded.layers if isinstance(layer, keras.layers.Activation)
        ]
        assert {layer.activation for layer in activations} <= {keras.activations.relu}


def test_relu6_is_folded_too(tmp_path):
    """In float64: between its bounds this network magnifies the rounding of float32."""
    model = extractor(tmp_path, "Arch.Backbone.activation=relu6")
    folded = deploy_form(model)
    for layer in ("conv1_bn", "blocks2_0_pw_bn"):
        ours = keras.Model(folded.input, folded.get_layer(f"{layer}_act").output)
        theirs = keras.Model(model.input, model.get_layer(layer).output)
        batch = pixels(4).astype("float32")
        assert theirs(batch).numpy().max() == 6
        np.testing.assert_allclose(ours(batch), theirs(batch), atol=1e-4)


def test_a_mean_of_several_views_is_folded_within(tmp_path):
    model = with_views(extractor(tmp_path), flip=True, crops=1)
    batch = pixels(4).astype("float32")
    np.testing.assert_allclose(deploy_form(model)(batch), model(batch), atol=1e-5)
    with pytest.raises(ConfigError) as error:
        quantize.integer_form(model, pixels(4))
    assert str(error.value) == "tflite_int8: expected an extractor of one view, got one of several"


def test_what_trained_in_half_precision_is_deployed_in_float32(tmp_path):
    config = tiny_config(tmp_path)
    mixed = randomize(models.build_extractor(config.Arch, "mixed_bfloat16"))
    plain = randomize(models.build_extractor(config.Arch))
    plain.set_weights(mixed.get_weights())
    batch = pixels(4).astype("float32")
    for model in (in_float32(mixed), deploy_form(mixed)):
        assert {layer.compute_dtype for layer in model.layers} == {"float32"}
        np.testing.assert_allclose(model(batch), plain(batch), atol=1e-5)


def test_a_projection_is_that_of_pca(tmp_path):
    model = extractor(tmp_path)
    embeddings = model(pixels(60)).numpy()
    mean, matrix = fit_pca(embeddings, size=5)
    wanted = (embeddings.astype("float64") - mean) @ matrix
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = deploy_form(model, (mean, matrix))(pixels(60))
    assert found.shape == (60, 5)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_onnx_has_one_operator_for_each_activation(tmp_path, layout):
    model = extractor(tmp_path)
    path = tmp_path / "model.onnx"
    onnx_file.save(deploy_form(model), path, layout)
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("HardSwish") == 28 and kinds.count("HardSigmoid") == 2
    assert kinds.count("Conv") == 32 and "Clip" not in kinds and "BatchNormalization" not in kinds
    # The pixels of NHWC are turned once; nothing is turned back.
    assert kinds.count("Transpose") == (layout == "NHWC")
    (entry,), (result,) = graph.input, graph.output
    assert (entry.name, result.name) == ("image", "embedding")
    sides = [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim]
    assert sides == ["batch", 32, 32, 3] if layout == "NHWC" else ["batch", 3, 32, 32]
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    names = {one.name for one in graph.initializer}
    assert names and not names & {one.name for one in graph.input}
    network = open_networks(path, (32, 32), 1).networks[0]
    found = np.stack([network(image) for image in pixels(5)])
    np.testing.assert_allclose(found, model(pixels(5)), atol=1e-5)


def test_onnx_embeds_several_at_once(tmp_path):
    import onnxruntime

    model = extractor(tmp_path)
    onnx_file.save(deploy_form(model), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    np.testing.assert_allclose(
        session.run(None, {"image": pixels(7)})[0], model(pixels(7)), atol=1e-5
    )


def test_a_free_batch_of_tflite_is_resized(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    model = extractor(tmp_path)
    litert.save(deploy_form(model), tmp_path / "free.tflite", batch=None)
    interpreter = Interpreter(str(tmp_path / "free.tflite"))
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, (3, 32, 32, 3))
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, pixels(3))
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, model(pixels(3)), atol=1e-5)


def test_best_bounds_are_those_of_a_search_by_hand():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 20_000), rng.normal(0, 6, 200)])
    counts, edges = np.histogram(values, 2048)
    low, high = quantize._best(edges[0], edges[-1], counts)

    def error(low, high):
        step = (high - low) / 255
        zero = np.round(low / step) * step
        rounded = np.clip(np.round((values - zero) / step), 0, 255) * step + zero
        return np.mean((rounded - values) ** 2)

    grid = [(a, b) for a in np.linspace(-20, -1, 60) for b in np.linspace(1, 20, 60)]
    least = min(error(*both) for both in grid)
    assert error(low, high) < 1.05 * least < 1.05 * error(values.min(), values.max())


@pytest.fixture(scope="module")
def trained():
    return models.build_model("emoji-lcnet-x0_5")


def test_the_integer_network_is_what_litert_computes(trained, tmp_path):
    """Keras with rounding beside LiteRT's integer kernels, and both near the float network."""
    from ai_edge_litert.interpreter import Interpreter

    rounded = quantize.integer_form(trained, pixels(64, 64))
    path = tmp_path / "int8.tflite"
    litert.save(rounded, path, "int8")
    network = open_networks(path, (64, 64), 1).networks[0]
    batch = pixels(60, 64)
    found = np.stack([network(image) for image in batch])
    values = [quantize._rounded_kernel(v) for v in rounded.trainable_variables]
    simulated, _ = rounded.stateless_call(values, [], batch.astype("float32"))
    assert (found * np.array(simulated)).sum(1).mean() > 0.99
    assert (found * trained(batch).numpy()).sum(1).mean() > 0.95
    interpreter = Interpreter(str(path))
    dtypes = results_of(interpreter)
    # Blocks of two convolutions: one and a half, two and six between the first stage and the last.
    convolutions = [*dtypes["CONV_2D"], *dtypes["DEPTHWISE_CONV_2D"]]
    assert convolutions.count({"int8"}) == 2 * (1 + 2 + 6) + 1
    assert convolutions.count({"float32"}) == len(convolutions) - 19 >= 4 + 2 * (2 + 2)
    interpreter.allocate_tensors()
    kinds = [op["op_name"] for op in interpreter._get_ops_details()]
    assert "HARD_SWISH" not in kinds  # its integer kernel is a slow one
    assert kinds.count("DELEGATE") == 1


def results_of(interpreter):
    """The types of what each operation reads first and gives, by its kind."""
    kinds = {t["index"]: np.dtype(t["dtype"]).name for t in interpreter.get_tensor_details()}
    found = {}
    for op in interpreter._get_ops_details():
        some = {kinds[i] for i in (op["inputs"][0], *op["outputs"])}
        found.setdefault(op["op_name"], []).append(some)
    return found


def test_the_feature_is_put_together_in_float(tmp_path):
    """Left to itself the converter averages and joins in integers, of one scale for all."""
    from ai_edge_litert.interpreter import Interpreter

    model = extractor(tmp_path, "Arch.image_size=[64,64]", "Arch.Backbone.levels=[blocks3,blocks5]")
    for _ in range(40):  # batch statistics of pictures keep activations within bounds
        model(pixels(60, 64).astype("float32"), training=True)
    path = tmp_path / "int8.tflite"
    litert.save(quantize.integer_form(model, pixels(40, 64)), path, "int8")
    dtypes = results_of(Interpreter(str(path)))
    # The last map, two levels, and squeeze-and-excitation of the two blocks of the last stage.
    assert dtypes["MEAN"] == [{"float32"}] * 5
    assert dtypes["CONCATENATION"] == dtypes["FULLY_CONNECTED"] == [{"float32"}]


def test_fine_tuning_brings_the_integer_network_nearer(trained):
    rounded = quantize.integer_form(trained, pixels(16, 64))
    batch, float_network = pixels(60, 64), deploy_form(trained)
    twenties = (batch[i % 3 * 20 :][:20] for i in range(100))

    def loss():
        values = [quantize._rounded_kernel(v) for v in rounded.trainable_variables]
        found, _ = rounded.stateless_call(values, [], batch.astype("float32"))
        return 1 - float(np.mean(np.sum(found * float_network(batch), axis=1)))

    before = loss()
    quantize.finetune(rounded, float_network, twenties, 100)
    assert loss() < 0.9 * before


def test_rounded_kernels_are_those_of_int8():
    rng = np.random.default_rng(0)
    value = rng.normal(size=(3, 3, 4, 6)).astype("float32") * np.arange(1, 7, dtype="float32")
    layer = keras.layers.Conv2D(6, 3, name="c")
    layer.build((None, 8, 8, 4))
    layer.kernel.assign(value)
    scale = np.abs(value).max((0, 1, 2)) / 127
    np.testing.assert_allclose(
        quantize._rounded_kernel(layer.kernel), np.round(value / scale) * scale, atol=1e-5
    )
    assert quantize._rounded_kernel(layer.bias).numpy().tolist() == layer.bias.numpy().tolist()
