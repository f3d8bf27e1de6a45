"""tensorflow-similarity's losses, memory and samplers in a classifier; its metrics against ours.

What its losses should give was computed with its release on TensorFlow 2.15 (`tests/data`). Without
the extra `[similarity]` only the schema and the message are tested.
"""

import inspect
import random
import re
import subprocess
import sys
import typing
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, tiny_config

from keras_featx import components, distribute, models, weights
from keras_featx.config import dump_config, from_dict, load_config
from keras_featx.errors import ConfigError
from keras_featx.interop import tfsim
from keras_featx.labelled import Labelled
from keras_featx.metrics import mean_average_precision, recall_at_k
from keras_featx.results import score
from keras_featx.training import train

NAMES = ["CircleLoss", "MultiSimilarityLoss", "PNLoss", "SoftNearestNeighborLoss", "TripletLoss"]
WITH_MEMORY = ["CircleLoss", "MultiSimilarityLoss", "TripletLoss"]
OURS = {"weight", "normalize_feature", "memory_size", "warmup_steps"}
DATA = ROOT / "tests" / "data"
GOLDEN = {
    key: array
    for name in ("pairwise_losses_legacy.npz", "tfsim_losses_legacy.npz")
    for key, array in np.load(DATA / name).items()
    if key.startswith(("tfsim.", "input/"))
}
VALUES = [k.removesuffix("/value") for k in GOLDEN if k.endswith("/value")]
MINING = {"pos": "positive_mining_strategy", "neg": "negative_mining_strategy"}
SKIP = "the extra [similarity] is not installed"


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("tensorflow_similarity", reason=SKIP)


def config_of(*losses, **sections):
    return from_dict({"Loss": {"Train": list(losses)}, **sections})


def batch_of(labels, seed=0, size=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(labels), size)).astype("float32"), np.asarray(labels)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def value_and_gradient(layer, rows, label, **call):
    rows = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = tf.reduce_mean(layer(rows, label, **call))
    return float(value), np.array(tf.convert_to_tensor(tape.gradient(value, rows)))


# ---- names and arguments in a config


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_the_signatures_of_the_library(library, name):
    own = inspect.signature(getattr(library.losses, name).__init__).parameters
    theirs = {k: p.default for k, p in own.items() if k not in ("self", "name", "kwargs")}
    schema = components.parameters("loss", f"tfsim.{name}", "")
    assert {k: p.default for k, p in schema.items() if k not in OURS} == theirs
    assert {"weight", "normalize_feature"} <= schema.keys()
    assert ("memory_size" in schema) == (name in WITH_MEMORY)
    for key, parameter in schema.items():
        default = parameter.default
        options = typing.get_args(parameter.annotation)
        assert default in options or type(default) in (parameter.annotation, *options), key


def test_every_loss_on_labels_is_there(library):
    """The rest are the base class, the memory, and losses on two views."""
    metric_loss = library.losses.MetricLoss
    classes = [cls for cls in vars(library.losses).values() if isinstance(cls, type)]
    on_labels = [cls for cls in classes if getattr(cls, "call", None) is metric_loss.call]
    assert sorted(cls.__name__ for cls in on_labels if cls is not metric_loss) == NAMES
    assert {f"tfsim.{name}" for name in NAMES} < set(components.REGISTRIES["loss"])


def test_a_config_needs_no_library_and_imports_no_framework(tmp_path):
    losses = [{"name": f"tfsim.{name}", "weight": 0.5, "distance": "l2"} for name in NAMES]
    losses += [{"name": f"tfsim.{name}", "memory_size": 64} for name in WITH_MEMORY]
    config = config_of(*losses)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config
    code = (
        "import sys\n"
        "from keras_featx.config import load_config\n"
        "assert len(load_config(sys.argv[1]).Loss.Train) == 8\n"
        "assert not {'tensorflow', 'keras', 'tensorflow_similarity'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "config.yaml")]
    subprocess.run(command, cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "loss, message",
    [
        (
            {"name": "tfsim.MultiSimilarity"},
            f"Loss.Train.0.name: expected one of {sorted(components.REGISTRIES['loss'])}, got "
            "'tfsim.MultiSimilarity'; did you mean 'tfsim.MultiSimilarityLoss'?",
        ),
        (
            {"name": "tfsim.MultiSimilarityLoss", "alfa": 2},
            "Loss.Train.0.alfa: unknown argument of tfsim.MultiSimilarityLoss; did you mean "
            "'alpha'?",
        ),
        (
            {"name": "tfsim.CircleLoss", "gamma": "high"},
            "Loss.Train.0.gamma: expected float, got 'high'",
        ),
        (
            {"name": "tfsim.TripletLoss", "negative_mining_strategy": "semi_hard"},
            "Loss.Train.0.negative_mining_strategy: expected one of ['easy', 'hard', 'semi-hard'], "
            "got 'semi_hard'; did you mean 'semi-hard'?",
        ),
        (
            {"name": "tfsim.PNLoss", "memory_size": 64},
            "Loss.Train.0.memory_size: unknown argument of tfsim.PNLoss",
        ),
    ],
)
def test_mistakes_in_a_config_are_answered_without_the_library(loss, message):
    with pytest.raises(ConfigError) as error:
        config_of(loss)
    assert str(error.value) == message


DISTANCES = [
    "inner_product", "ip", "euclidean", "l2", "pythagorean", "squared_euclidean", "sql2",
    "sqeuclidean", "manhattan", "l1", "taxicab", "cosine", "snr", "signal-to-noise-ratio",
]  # fmt: skip


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("CircleLoss", {"distance": "L3"}, f"distance: expected one of {DISTANCES}, got 'L3'"),
        ("CircleLoss", {"gamma": 0.0}, "gamma: expected a number above 0, got 0.0"),
        ("CircleLoss", {"weight": -1.0}, "weight: expected a number of at least 0, got -1.0"),
        ("CircleLoss", {"memory_size": -1}, "memory_size: expected a number of at least 0, got -1"),
        (
            "CircleLoss",
            {"warmup_steps": -1},
            "warmup_steps: expected a number of at least 0, got -1",
        ),
        ("MultiSimilarityLoss", {"alpha": 0.0}, "alpha: expected a number above 0, got 0.0"),
        ("MultiSimilarityLoss", {"beta": -1.0}, "beta: expected a number above 0, got -1.0"),
        (
            "SoftNearestNeighborLoss",
            {"temperature": 0.0},
            "temperature: expected a number above 0, got 0.0",
        ),
    ],
)
def test_impossible_values_are_refused_with_their_key(library, name, arguments, message):
    config = config_of("CELoss", {"name": f"tfsim.{name}", **arguments})
    with pytest.raises(ConfigError) as error:
        models.build_losses(config.Loss)
    assert str(error.value) == f"Loss.Train.1.{message}"


@pytest.mark.parametrize("cls", [tfsim.TripletLoss, tfsim.PNLoss])
def test_unknown_mining_in_python(library, cls):
    message = "positive_mining_strategy: expected one of ['easy', 'hard'], got 'semi-hard'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cls(positive_mining_strategy="semi-hard")
    message = "negative_mining_strategy: expected one of ['easy', 'hard', 'semi-hard'], got 'none'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cls(negative_mining_strategy="none")


@pytest.mark.parametrize("name", NAMES)
def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch, name):
    for module in ("tensorflow_similarity", "tensorflow_similarity.distances"):
        monkeypatch.setitem(sys.modules, module, None)
    section = config_of("CELoss", {"name": f"tfsim.{name}"}).Loss
    message = (
        "Loss.Train.1.name: expected tensorflow-similarity to be installed "
        '(pip install "keras_featx[similarity]"), got '
    )
    with pytest.raises(ConfigError) as error:
        models.build_losses(section)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


# ---- values and gradients


def made(key, **options):
    """The layer that a key of the golden file describes."""
    name, text = re.fullmatch(r"tfsim\.(\w+)\((.*)\)/\w+", key).groups()
    pairs = [pair.split("=") for pair in text.split(",")]
    numbers = re.compile(r"[\d.]+")
    arguments = {
        MINING.get(k, k): float(v) if numbers.fullmatch(v) else None if v == "None" else v
        for k, v in pairs
    }
    return getattr(tfsim, name)(**arguments, **options)


@pytest.mark.parametrize("key", VALUES)
def test_values_and_gradients_are_those_on_tensorflow_2_15(library, key):
    case = key.rsplit("/", 1)[1]
    rows, label = GOLDEN[f"input/{case}_emb"], GOLDEN[f"input/{case}_labels"]
    value, gradient = value_and_gradient(made(key, normalize_feature=False), rows, label)
    expected = GOLDEN[f"{key}/grad"]
    if case == "b":  # rows alone in their class: the sign of a rounding error
        gradient, expected = (np.delete(g, [20, 21], axis=0) for g in (gradient, expected))
    assert value == pytest.approx(float(GOLDEN[f"{key}/value"]), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max() + 1e-9)
    if case != "raw":  # of unit length already
        assert float(made(key)(rows, label)[0]) == pytest.approx(value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_value_for_every_row_of_any_length(library, name):
    cls = getattr(tfsim, name)
    rows, label = batch_of([0, 0, 1, 0, 2, 2, 0, 1])
    value = np.array(cls()(rows, label))
    assert value.shape == (8,) and value.dtype == "float32"
    assert (value == value[0]).all() and value[0] > 0
    np.testing.assert_allclose(cls(weight=0.25)(3 * rows, label[:, None]), 0.25 * value, rtol=1e-4)
    low = tf.cast(rows, "float16")
    assert cls()(low, label).dtype == "float32"
    large = cls()(rows, 2**40 + label.astype("int64"))  # float32 cannot tell these apart
    np.testing.assert_array_equal(large, value)


# ---- memory


LABELS = [[0, 0, 1, 2, 1, 2], [1, 0, 2, 0, 2, 1], [2, 2, 1, 0, 0], [1, 0, 2, 1, 2, 2]]


@pytest.mark.parametrize("warmup", [0, 1])
def test_memory_is_that_on_tensorflow_2_15(library, warmup):
    key = f"tfsim.XBM(MultiSimilarityLoss,memory_size=14,warmup_steps={warmup})/b"
    rows, label = GOLDEN["input/b_emb"], GOLDEN["input/b_labels"]
    layer = tfsim.MultiSimilarityLoss(memory_size=14, warmup_steps=warmup, normalize_feature=False)
    for step in range(4):
        now = slice(6 * step, 6 * step + 6)
        value, gradient = value_and_gradient(layer, rows[now], label[now], training=True)
        expected = GOLDEN[f"{key}/grads"][step]
        assert value == pytest.approx(float(GOLDEN[f"{key}/values"][step]), rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max() + 1e-9)


@pytest.mark.parametrize("size, warmup", [(6, 0), (10, 1), (40, 2)])
@pytest.mark.parametrize("name", WITH_MEMORY)
def test_memory_equals_the_xbm_of_the_library(library, name, size, warmup):
    """Of one batch's size, of less than two, and never full; batches of two sizes."""
    theirs = library.losses.XBM(
        getattr(library.losses, name)(reduction=None), size, warmup, reduction=None
    )
    ours = getattr(tfsim, name)(memory_size=size, warmup_steps=warmup)
    for rows, label in (batch_of(each, seed) for seed, each in enumerate(LABELS)):
        expected = tf.reduce_mean(theirs.call(tf.constant(label), tf.constant(unit(rows))))
        found = ours(rows, label, training=True)
        assert float(found[0]) == pytest.approx(float(expected), rel=1e-5)
    count = int(ours.memory_count)
    assert count == min(size, sum(map(len, LABELS[warmup:])))
    np.testing.assert_array_equal(ours.memory_label[:count], theirs._y_true_memory)
    np.testing.assert_allclose(ours.memory[:count], theirs._y_pred_memory, atol=1e-6)


@pytest.mark.parametrize("name", ["PNLoss", "SoftNearestNeighborLoss"])
def test_the_xbm_of_the_library_cannot_take_the_others(library, name):
    loss = getattr(library.losses, name)(reduction=None)
    xbm = library.losses.XBM(loss, 40, reduction=None)
    with pytest.raises(tf.errors.InvalidArgumentError):
        for rows, label in (batch_of(each, seed) for seed, each in enumerate(LABELS)):
            xbm.call(tf.constant(label), tf.constant(unit(rows)))


def test_memory_rests_outside_training(library):
    layer, plain = tfsim.CircleLoss(memory_size=10), tfsim.CircleLoss()
    rows, label = batch_of(LABELS[0])
    layer(rows, label, training=True)
    before = [w.numpy() for w in layer.weights]
    rows, label = batch_of(LABELS[1], 1)
    assert float(layer(rows, label)[0]) == float(plain(rows, label)[0])
    for w, b in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(w, b)


def test_a_memory_smaller_than_a_batch_is_refused(library):
    rows, label = batch_of(LABELS[0])
    layer = tfsim.CircleLoss(memory_size=5)
    with pytest.raises(ValueError, match="memory_size: expected at least the 6 rows of a batch"):
        layer(rows, label, training=True)


# ---- in a classifier

CLASSIFIER = [
    {"name": "CELoss", "weight": 0.5},
    {"name": "tfsim.MultiSimilarityLoss", "weight": 2.0, "memory_size": 13, "warmup_steps": 1},
    {"name": "tfsim.TripletLoss", "distance": "l2", "margin": 0.2},
    {"name": "tfsim.TripletLoss", "positive_mining_strategy": "easy"},
    {"name": "tfsim.PNLoss"},
    {"name": "tfsim.CircleLoss", "weight": 0.1},
    {"name": "tfsim.SoftNearestNeighborLoss", "temperature": 0.5},
]
COLUMNS = [
    "ce_loss",
    "correct",
    "tfsim.circle_loss",
    "tfsim.multi_similarity_loss",
    "tfsim.pn_loss",
    "tfsim.soft_nearest_neighbor_loss",
    "tfsim.triplet_loss",
    "tfsim.triplet_loss_2",
]


def small_classifier(losses=CLASSIFIER, seed=0):
    """A linear extractor of 8 by 8 pixels, its head and losses, compiled."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Dense(5, use_bias=False, name="neck")(x)
    embedding = keras.layers.UnitNormalization(name=models.EMBEDDING)(x)
    extractor = keras.Model(image, embedding)
    config = config_of(*losses, Arch={"Head": {"name": "ArcMargin", "class_num": 4}})
    built = models.build_losses(config.Loss, 4)
    head = models.build_head(config.Arch) if "ce_loss" in built else None
    classifier = models.build_classifier(extractor, head, built)
    models.compile_classifier(classifier, keras.optimizers.SGD(0.05, momentum=0.9))
    return extractor, classifier


def pictures(rows=32, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 255, size=(rows, 8, 8, 3)).astype("float32")
    return images, rng.integers(4, size=rows).astype("int64")


def batches(classifier, size=8):
    images, label = pictures()
    targets = dict.fromkeys(classifier.output, label)
    data = ({"image": images, "label": label}, targets)
    return tf.data.Dataset.from_tensor_slices(data).batch(size, drop_remainder=True)


def test_losses_train_by_name_beside_ours(library):
    extractor, classifier = small_classifier()
    assert sorted(classifier.output) == COLUMNS
    losses = [
        library.losses.TripletLoss(distance="l2", margin=0.2, reduction=None),
        library.losses.TripletLoss(positive_mining_strategy="easy", reduction=None),
    ]
    inputs, targets = next(iter(batches(classifier)))
    rows = extractor(inputs["image"])
    logs = classifier.train_on_batch(inputs, targets, return_dict=True)
    for name, loss in zip(["tfsim.triplet_loss", "tfsim.triplet_loss_2"], losses, strict=True):
        expected = float(tf.reduce_mean(loss.call(inputs["label"], rows)))
        assert float(logs[f"{name}_loss"]) == pytest.approx(expected, rel=1e-4)
    parts = [logs[f"{name}_loss"] for name in COLUMNS if name != "correct"]
    assert float(logs["loss"]) == pytest.approx(float(sum(parts)), rel=1e-5)
    history = classifier.fit(batches(classifier), epochs=8, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    again = classifier.evaluate(batches(classifier), verbose=0, return_dict=True)
    assert np.isfinite(list(again.values())).all()


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_alone_trains(library, name):
    _, classifier = small_classifier([{"name": f"tfsim.{name}", "weight": 3.0}])
    history = classifier.fit(batches(classifier), epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.95 * history[0]


REPLICATED = [
    part for part in CLASSIFIER if part["name"] in ("tfsim.MultiSimilarityLoss", "tfsim.PNLoss")
]


def after_training(strategy, losses):
    with strategy.scope():
        _, classifier = small_classifier(losses)
    history = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: history.append(logs["loss"])
    )
    classifier.fit(batches(classifier), epochs=2, verbose=0, shuffle=False, callbacks=[record])
    return history, [w.numpy() for w in classifier.weights]


def test_two_replicas_equal_one_device(library):
    strategy = distribute.get_strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    history, found = after_training(strategy, REPLICATED)
    expected_history, expected = after_training(tf.distribute.get_strategy(), REPLICATED)
    np.testing.assert_allclose(history, expected_history, rtol=1e-4)
    for two, one in zip(found, expected, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_classifier_loads_with_its_memory(library, tmp_path, name):
    memory = {"memory_size": 12} if name in WITH_MEMORY else {}
    _, classifier = small_classifier([{"name": f"tfsim.{name}", "distance": "l2", **memory}])
    classifier.fit(batches(classifier), verbose=0)
    classifier.save(tmp_path / "classifier.keras")
    again = keras.saving.load_model(tmp_path / "classifier.keras", compile=False)
    (layer,), (loaded,) = models.loss_layers(classifier), models.loss_layers(again)
    assert type(loaded) is getattr(tfsim, name) and loaded.get_config() == layer.get_config()
    assert len(layer.weights) == (4 if memory else 0)
    for a, b in zip(classifier.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    inputs, _ = next(iter(batches(classifier)))
    for training in (False, True):
        a, b = (model(inputs, training=training) for model in (classifier, again))
        np.testing.assert_allclose(*(list(x.values())[0] for x in (a, b)), rtol=1e-6)


def test_a_resumed_run_equals_one_that_was_not_stopped(library, tmp_path):
    loss = "{name: tfsim.MultiSimilarityLoss, memory_size: 40, warmup_steps: 2}"
    common = [
        f"Loss.Train=[{{name: CELoss}}, {loss}]", "eval_during_train=false",
        "Optimizer.lr={name: Constant, learning_rate: 0.01}",
        "DataLoader.Train.sampler={name: PKSampler, batch_size: 16, sample_per_id: 4}",
    ]  # fmt: skip
    found = {}
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        latest = tmp_path / name / "run" / "latest"
        if name == "stopped":
            train(tiny_config(tmp_path / name, *common, "epochs=1"))
            common.append(f"checkpoint={latest}")
        train(tiny_config(tmp_path / name, *common, "epochs=2"))
        found[name] = weights.read_arrays(latest / "weights.npz")[0]
    memory = [k for k in found["whole"] if "tfsim" in k]
    assert len(memory) == 4
    for key, array in found["whole"].items():
        np.testing.assert_array_equal(array, found["stopped"][key], err_msg=key)


# ---- samplers


def test_batches_of_a_sampler_train(library):
    images, label = pictures(40)
    label[:4] = 3  # enough of one
    random.seed(0)
    sampler = library.samplers.MultiShotMemorySampler(
        images, label, classes_per_batch=3, examples_per_class_per_batch=2, steps_per_epoch=5,
        warmup=1,
    )  # fmt: skip
    _, classifier = small_classifier([{"name": "CELoss"}, {"name": "tfsim.MultiSimilarityLoss"}])
    data = tfsim.SamplerBatches(sampler, classifier)
    assert len(data) == 5
    inputs, targets = data[0]
    assert sorted(targets) == sorted(classifier.output)
    assert sorted(Counter(inputs["label"].tolist()).values()) == [2, 2, 2]
    own = {image.tobytes(): each for image, each in zip(images, label, strict=True)}
    assert [own[image.tobytes()] for image in inputs["image"]] == inputs["label"].tolist()
    warm = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: warm.append(sampler.is_warmup)
    )
    history = classifier.fit(data, epochs=3, verbose=0, callbacks=[record]).history["loss"]
    assert len(history) == 3 and np.isfinite(history).all()
    assert sampler.epoch == 3 and warm == [True, False, False]


def test_a_sampler_of_single_examples_and_an_augmenter(library):
    images, _ = pictures(6)

    def twice(x, y, count, is_warmup):
        return tf.concat([x, x[:, :, ::-1]], 0), tf.concat([y, y], 0)

    sampler = library.samplers.SingleShotMemorySampler(images, twice, 4, steps_per_epoch=2)
    _, classifier = small_classifier([{"name": "tfsim.SoftNearestNeighborLoss"}])
    data = tfsim.SamplerBatches(sampler, classifier)
    inputs, _ = data[1]
    np.testing.assert_array_equal(inputs["image"][:4], inputs["image"][4:, :, ::-1])
    np.testing.assert_array_equal(inputs["label"][:4], inputs["label"][4:])
    assert np.isfinite(classifier.fit(data, verbose=0).history["loss"]).all()


def test_views_in_place_of_labels_are_refused():
    images, label = pictures(4)
    image = keras.Input((8, 8, 3))
    classifier = keras.Model(image, {"loss": keras.layers.Flatten()(image)})
    views = tfsim.SamplerBatches([(images, images), (images, label)], classifier)
    np.testing.assert_array_equal(views[1][0]["label"], label)
    with pytest.raises(ValueError, match=r"^labels: expected one for each .* \(4, 8, 8, 3\)$"):
        views[0]


# ---- its metrics as a check of ours


@pytest.mark.parametrize("seed", range(3))
def test_our_metrics_equal_those_of_the_library(library, seed):
    """Its distances, neighbours in their order, and its evaluator; identities of several sizes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(7, 6))
    label = np.concatenate([np.arange(7), rng.integers(7, size=63)])
    rows = unit(centres[label] + 1.5 * rng.normal(size=(70, 6))).astype("float32")
    query, gallery = (Labelled(rows[s], label[s]) for s in (slice(40, None), slice(40)))
    found = score(query, gallery, [recall_at_k, mean_average_precision])

    distance = library.distances.CosineDistance()(query.embeddings, gallery.embeddings).numpy()
    lookups = [
        [
            library.types.Lookup(rank=rank, distance=float(row[i]), label=int(gallery.labels[i]))
            for rank, i in enumerate(np.argsort(row), start=1)
        ]
        for row in distance
    ]
    metrics = library.retrieval_metrics
    sizes = {
        int(k): int(n) for k, n in zip(*np.unique(gallery.labels, return_counts=True), strict=True)
    }
    expected = library.evaluators.MemoryEvaluator().evaluate_retrieval(
        target_labels=query.labels,
        lookups=lookups,
        retrieval_metrics=[
            metrics.RecallAtK(k=1),
            metrics.RecallAtK(k=5),
            metrics.MapAtK(r=sizes, k=len(gallery.labels)),
        ],
    )
    assert found["queries"] == 30 and 0 < found["recall@1"] < 1
    assert [found["recall@1"], found["recall@5"], found["map"]] == pytest.approx(
        [float(v) for v in expected.values()], rel=1e-6
    )


@pytest.mark.slow
def test_the_python_of_its_page_runs(library):
    """Fenced with tildes: the other pages' blocks run without the extra."""
    page = ROOT / "docs" / "tensorflow_similarity.md"
    blocks = re.findall(r"^~~~python\n(.*?)^~~~$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    command = [sys.executable, "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "recall@1" in done.stdout
