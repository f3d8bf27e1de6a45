"""What all update rules share: accumulation, clipping, parts, averages, loss scale, resuming."""

import contextlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from update_rules import RULES as PAPERS
from update_rules import trajectory as on_paper

from keras_featx import checkpoints, components, distribute, models, weights
from keras_featx.averaging import Averages, averaged
from keras_featx.backbones.normalization import BatchNormActivation
from keras_featx.config import from_dict
from keras_featx.errors import ConfigError
from keras_featx.heads import ArcMargin
from keras_featx.optimizer_section import EMASection, PartSection
from keras_featx.optimizers import LossScale, build_optimizer, freeze, named_weights
from keras_featx.training import train

STRATEGIES = ["single", "mirrored"]


def scope(strategy):
    """``mirrored``: the two logical devices of conftest."""
    if strategy == "single":
        return contextlib.nullcontext()
    return distribute.get_strategy("mirrored").scope()


def section(rate=0.1, **keys):
    lr = rate if isinstance(rate, dict) else {"name": "Constant", "learning_rate": rate}
    return from_dict({"Optimizer": {"lr": lr, **keys}}).Optimizer


class After(keras.callbacks.Callback):
    """Calls a function after every batch."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_train_batch_end(self, batch, logs=None):
        self.function()


# --- gradients: the mean of several batches, clipped ---

ROWS, BATCH, EPOCHS = 28, 4, 2  # seven batches an epoch: windows of three cross its end


def regression_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 3))
    x[1::4] *= 5  # the halves that two replicas get differ much
    return x.astype("float32"), rng.normal(size=(ROWS, 2)).astype("float32")


def clip(gradients, kind, limit):
    if kind == "clip_value":
        return [np.clip(g, -limit, limit) for g in gradients]
    norms = [np.sqrt((g**2).sum()) for g in gradients]
    if kind == "clip_norm":
        norms = [np.sqrt(np.sum(np.square(norms)))] * len(norms)
    return [g * min(1, limit / n) for g, n in zip(gradients, norms, strict=True)]


def regression_on_paper(kernel, bias, rates, freq, kind=None, limit=None):
    """Least squares by Momentum in float64: after all updates, and how many there were."""
    x, y = (np.tile(a, (EPOCHS, 1)).astype("float64") for a in regression_data())
    weights, velocity, window, updates = [kernel, bias], [0, 0], [], 0
    for start in range(0, len(x), BATCH):
        rows = x[start : start + BATCH]
        slope = 2 * (rows @ weights[0] + weights[1] - y[start : start + BATCH]) / (2 * BATCH)
        window.append([rows.T @ slope, slope.sum(axis=0)])
        if len(window) == freq:
            gradients = [np.mean(g, axis=0) for g in zip(*window, strict=True)]
            gradients = clip(gradients, kind, limit) if kind else gradients
            velocity = [0.9 * v + g for v, g in zip(velocity, gradients, strict=True)]
            rate = rates[start // BATCH - freq + 1]  # of the window's first batch
            weights = [w - rate * v for w, v in zip(weights, velocity, strict=True)]
            window, updates = [], updates + 1
    return weights, updates


LR = {"name": "Cosine", "learning_rate": 0.05, "warmup_epoch": 0.5, "warmup_start_lr": 0.01}


CLIPS = [(None, None), ("clip_norm", 1.0), ("clip_norm_each", 0.5), ("clip_value", 0.2)]


@pytest.mark.parametrize(
    ("strategy", "freq", "kind", "limit"),
    [(strategy, 3, *clips) for strategy in STRATEGIES for clips in CLIPS]
    + [("single", 1, None, None), ("mirrored", 1, "clip_norm", 1.0)],
)
def test_gradients_are_averaged_over_batches_and_then_clipped(strategy, freq, kind, limit):
    keys = {kind: limit} if kind else {}
    with scope(strategy):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        before = [w.astype("float64") for w in model.get_weights()]
        optimizer = build_optimizer(section(LR, **keys), EPOCHS, ROWS // BATCH, update_freq=freq)
        model.compile(optimizer, "mse", jit_compile=False)
    model.fit(*regression_data(), batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    arguments = {k: v for k, v in LR.items() if k != "name"}
    rates = components.builder("schedule", "Cosine")(EPOCHS, ROWS // BATCH, **arguments)
    expected, updates = regression_on_paper(*before, rates, freq, kind, limit)
    assert int(np.asarray(optimizer.iterations)) == updates == 14 // freq
    for got, want in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    assert float(optimizer.learning_rate) == pytest.approx(rates[min(updates * freq, 13)])


@pytest.mark.parametrize(
    "lr",
    [
        {"name": "Cosine", "learning_rate": 0.1, "warmup_epoch": 2},
        {"name": "Piecewise", "decay_epochs": [1, 2], "values": [0.3, 0.2, 0.1]},
        {"name": "Constant", "learning_rate": 0.1, "warmup_epoch": 1, "warmup_start_lr": 0.01},
    ],
    ids=lambda lr: lr["name"],
)
def test_the_schedule_is_that_of_the_larger_batch(lr):
    small = build_optimizer(section(lr), epochs=4, steps_per_epoch=12, update_freq=3)
    large = components.builder("schedule", lr.pop("name"))(4, 4, **lr)
    for update, rate in enumerate(large):
        assert float(small._learning_rate(update)) == pytest.approx(rate), update


@pytest.mark.parametrize("name", PAPERS)
def test_every_rule_on_two_replicas_is_that_of_one(name):
    """Each replica has a part of the gradient, of each of two batches to an update."""
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(3, 3, 4))
    strategy = distribute.get_strategy("mirrored")
    with strategy.scope():
        weight = keras.Variable(start.astype("float32"), name="w")
        optimizer = build_optimizer(section(name=name), 1, 6, update_freq=2)
        optimizer.build([weight])

    @tf.function
    def step(gradient):
        strategy.run(lambda g: optimizer.apply([g], [weight]), args=(gradient,))

    for gradient in gradients.astype("float32"):
        for share in (0.25, 1.75):
            parts = [share * part * gradient for part in (0.3, 0.7)]
            values = iter([tf.constant(part) for part in parts])
            step(strategy.experimental_distribute_values_from_function(lambda _, v=values: next(v)))
    expected = on_paper(name, start, gradients, [0.1] * 3)[-1]
    assert len(weight.value.values) == 2
    for copy in weight.value.values:
        np.testing.assert_allclose(copy.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_lamb_adapts_a_weight_in_parts_by_its_whole_norm():
    """Three rows on two replicas; the fourth is to spare."""
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 4)).astype("float32")
    gradients[:, 3] = 0
    strategy = distribute.get_strategy("mirrored")
    with strategy.scope():
        weight = distribute.local_variable(
            lambda shape, dtype: tf.ones(shape, dtype), (2, 4), name="w", trainable=True, rows=3
        )
        distribute.write(weight, start.astype("float32"))
        optimizer = build_optimizer(section(name="Lamb", weight_decay=0.1), 1, 3)
        optimizer.build([weight])

    @tf.function
    def step(gradient):
        strategy.run(lambda g: optimizer.apply([g], [weight]), args=(gradient,))

    for gradient in gradients:
        values = iter([tf.constant(gradient[:2]), tf.constant(gradient[2:])])
        step(strategy.experimental_distribute_values_from_function(lambda _, v=values: next(v)))
    expected = on_paper("Lamb", start, gradients[:, :3], [0.1] * 3, weight_decay=0.1)[-1]
    np.testing.assert_allclose(distribute.read(weight), expected, rtol=1e-4, atol=1e-5)


def test_adafactor_is_refused_for_a_weight_in_parts():
    with scope("mirrored"):
        weight = distribute.local_variable(
            lambda shape, dtype: tf.ones(shape, dtype), (2, 4), name="w", trainable=True, rows=3
        )
    with pytest.raises(ConfigError) as error:
        build_optimizer(section(name="Adafactor"), 1, 1, named={"head/centres": weight})
    assert str(error.value) == (
        "Optimizer.name: expected a rule that looks at each number by itself, for a head with "
        "split or sample_rate, got 'Adafactor'"
    )


# --- parts ---


def small_extractor(dtype="float32"):
    """Two convolutions with batch norm, a neck."""
    image = keras.Input((8, 8, 3), name="image")
    x = image
    for name in ("a", "b"):
        x = keras.layers.Conv2D(4, 3, use_bias=False, name=f"{name}_conv", dtype=dtype)(x)
        x = BatchNormActivation("relu", name=f"{name}_bn", dtype=dtype)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
    x = keras.layers.Dense(6, name="neck", dtype=dtype)(x)
    x = keras.layers.UnitNormalization(dtype="float32", name="embedding")(x)
    return keras.Model(image, x, name="extractor")


def built(layer, shape):
    layer.build(shape)
    return layer


def parts(*trees):
    return from_dict({"Optimizer": {"parts": list(trees)}}).Optimizer.parts


def some_images(count=8):
    rng = np.random.default_rng(2)
    return rng.normal(size=(count, 8, 8, 3)).astype("float32"), np.arange(count) % 5


def values(variables):
    return {name: np.asarray(v).copy() for name, v in variables.items()}


def classifier_of(extractor, optimizer, head):
    classifier = models.build_classifier(extractor, head)
    models.compile_classifier(classifier, optimizer)
    return classifier


def data(images, labels, outputs, batch_size=4):
    targets = {name: np.zeros(len(images), "float32") for name in outputs}
    pairs = ({"image": images, "label": labels}, targets)
    return tf.data.Dataset.from_tensor_slices(pairs).batch(batch_size, drop_remainder=True)


FROZEN = [  # parts, and which of the extractor's and head's weights they hold
    ([{"match": "extractor/a_*", "frozen": True}], lambda name: name.startswith("extractor/a_")),
    (
        [{"match": "extractor/*", "frozen": True}, {"match": "extractor/neck/*"}],
        lambda name: name.startswith("extractor/") and "neck" not in name,
    ),
    ([{"match": "head/*", "frozen": True}], lambda name: name.startswith("head/")),
    # A layer that is not frozen as a whole goes on with its batch statistics.
    ([{"match": "*_bn/gamma", "frozen": True}], lambda name: name.endswith("gamma")),
]


@pytest.mark.parametrize(("trees", "held"), FROZEN, ids=[str(trees)[:40] for trees, _ in FROZEN])
def test_frozen_weights_and_statistics_stay_bit_for_bit(trees, held):
    chosen = parts(*trees)
    extractor, head = small_extractor(), ArcMargin(class_num=5, name="head")
    images, labels = some_images()
    rule = section(0.5, parts=trees, regularizer={"name": "L2", "coeff": 0.1})
    built(head, (None, 6))
    freeze(chosen, extractor, head)
    named = named_weights(extractor, head)
    ema = EMASection(decay=0.5)
    optimizer = build_optimizer(rule, 1, 2, named=named, ema=ema)
    classifier = classifier_of(extractor, optimizer, head)
    before = values(named)
    classifier.fit(data(images, labels, classifier.output), verbose=0, shuffle=False)
    fixed = {"head/margin_factor"}
    for name, variable in named.items():
        same = np.array_equal(np.asarray(variable), before[name])
        assert same == (held(name) or name in fixed), name
    with averaged(optimizer):
        for name in filter(held, named):
            np.testing.assert_array_equal(np.asarray(named[name]), before[name], err_msg=name)


def test_a_frozen_batch_normalisation_uses_its_running_statistics():
    extractor = small_extractor()
    images, _ = some_images()
    extractor.get_layer("a_bn").moving_mean.assign([0.5, -0.5, 1.0, 0.0])
    through = keras.Model(extractor.input, extractor.get_layer("a_bn").output)
    assert np.abs(through(images, training=True) - through(images, training=False)).max() > 0.1
    freeze(parts({"match": "extractor/a_bn/*", "frozen": True}), extractor, None)
    assert not extractor.get_layer("a_bn").trainable and extractor.get_layer("b_bn").trainable
    np.testing.assert_array_equal(through(images, training=True), through(images, training=False))


def test_loss_weights_are_parts_too():
    loss = keras.layers.Dense(2, name="proxy_anchor")
    built(loss, (None, 6))
    named = named_weights(small_extractor(), None, [loss])
    assert named["loss/proxy_anchor/kernel"] is loss.kernel
    freeze(parts({"match": "loss/*/kernel", "frozen": True}), small_extractor(), None, [loss])
    assert loss.trainable_weights == [loss.bias]


@pytest.mark.parametrize(
    ("trees", "message"),
    [
        (
            [{"match": "extractor/*"}, {"match": "extractor/c_conv"}],
            "Optimizer.parts.1.match: expected a pattern of trained weights, got "
            "'extractor/c_conv', which matches none; the closest are ['extractor/b_conv/kernel', "
            "'extractor/a_conv/kernel', 'extractor/b_bn/beta']",
        ),
        (
            [{"match": "*moving_mean", "frozen": True}],
            "Optimizer.parts.0.match: expected a pattern of trained weights, got '*moving_mean', "
            "which matches none; the closest are ['extractor/neck/bias', 'extractor/b_bn/beta', "
            "'extractor/a_bn/beta']",
        ),
        (
            [{"match": "*", "frozen": True}],
            "Optimizer.parts: expected a weight left to train, got all frozen",
        ),
    ],
)
def test_patterns_that_match_nothing_or_too_much_are_refused(trees, message):
    with pytest.raises(ConfigError) as error:
        freeze(parts(*trees), small_extractor(), None)
    assert str(error.value) == message


def test_the_last_part_that_matches_chooses_rate_and_decay():
    names = ["extractor/conv1/kernel", "extractor/neck/kernel", "extractor/neck/bias", "head/w"]
    variables = {name: keras.Variable([1.0], name="w") for name in names}
    rule = section(
        0.5,
        name="AdamW",
        weight_decay=0.1,
        parts=[
            {"match": "extractor/*", "lr_factor": 0.5},
            {"match": "*/neck/*", "lr_factor": 0.2, "weight_decay": False},
            {"match": "*/bias", "lr_factor": 0.4},
        ],
    )
    optimizer = build_optimizer(rule, 1, 1, named=variables)
    optimizer.apply([keras.ops.zeros(1)] * 4, list(variables.values()))
    kept = [float(v[0]) for v in variables.values()]
    # 1 - rate * lr_factor * weight_decay
    np.testing.assert_allclose(kept, [0.975, 1.0, 0.98, 0.95], rtol=1e-6)


# --- moving averages ---


@pytest.mark.parametrize(
    ("key", "warmup"), [("average_decay=0.9)", False), ("average_decay=0.9,dynamic_decay)", True)]
)
def test_averages_equal_those_of_tensorflow_addons(data_dir, key, warmup):
    golden = np.load(data_dir / "optimizers_legacy.npz")
    path = golden[f"tfa.MovingAverage(SGD(0.1),{key}/W"]
    weight = keras.Variable(golden["W0"], name="kernel")
    rule = section(1.0, name="SGD", momentum=0.0)
    ema = EMASection(decay=0.9, warmup=warmup)
    optimizer = build_optimizer(rule, 1, 1, ema=ema, named={"extractor/kernel": weight})
    for before, after, average in zip(
        path, path[1:], golden[f"tfa.MovingAverage(SGD(0.1),{key}/W_average_slot"], strict=False
    ):
        optimizer.apply([keras.ops.convert_to_tensor(before - after)], [weight])
        np.testing.assert_allclose(weight, after, atol=1e-6)
        np.testing.assert_allclose(optimizer.averages.variables[0], average, atol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("freq", "decay", "warmup"), [(1, 0.5, True), (3, 0.5, False)])
def test_averages_are_of_all_weights_after_every_update(strategy, freq, decay, warmup):
    images, labels = some_images(20)
    with scope(strategy):
        keras.utils.set_random_seed(0)
        extractor, head = small_extractor(), ArcMargin(class_num=5, name="head")
        built(head, (None, 6))
        named = named_weights(extractor, head)
        ema = EMASection(decay=decay, warmup=warmup)
        optimizer = build_optimizer(section(), 2, 5, update_freq=freq, ema=ema, named=named)
        classifier = classifier_of(extractor, optimizer, head)
    names = [name for name in named if name.startswith("extractor/")]
    average = {name: named[name].numpy().astype("float64") for name in names}
    done = []

    def take_in():
        updates = int(np.asarray(optimizer.iterations))
        if updates > len(done):
            keep = min(decay, (1 + len(done)) / (10 + len(done))) if warmup else decay
            for name in names:
                average[name] = keep * average[name] + (1 - keep) * named[name].numpy()
            done.append(updates)

    dataset = data(images, labels, classifier.output)
    classifier.fit(dataset, epochs=2, verbose=0, shuffle=False, callbacks=[After(take_in)])
    assert len(done) == 10 // freq
    raw = values(named)
    with averaged(optimizer):
        for name in names:
            got = np.asarray(named[name])
            np.testing.assert_allclose(got, average[name], rtol=1e-4, atol=1e-6, err_msg=name)
            assert not np.array_equal(got, raw[name]), name
        np.testing.assert_array_equal(named["head/centres"], raw["head/centres"])
    for name, variable in named.items():
        np.testing.assert_array_equal(np.asarray(variable), raw[name], err_msg=name)


def test_weights_come_back_after_an_error_and_without_averages_nothing_happens():
    weight = keras.Variable([1.0 / 3])
    optimizer = build_optimizer(
        section(), 1, 1, ema=EMASection(), named={"extractor/w": weight}, precision="mixed_float16"
    )
    with averaged(optimizer):  # not a step yet
        np.testing.assert_array_equal(weight, np.float32([1 / 3]))
    optimizer.apply([keras.ops.ones(1)], [weight])
    before = weight.numpy()
    with pytest.raises(KeyboardInterrupt), averaged(optimizer):
        assert not np.array_equal(weight, before)
        raise KeyboardInterrupt
    np.testing.assert_array_equal(weight, before)
    with averaged(build_optimizer(section(), 1, 1)), averaged(keras.optimizers.SGD()):
        np.testing.assert_array_equal(weight, before)


def test_the_usual_decay_is_not_rounded():
    """1 - 0.9999 in float32 is 1.7e-4 too large."""
    weight = keras.Variable([0.0])
    optimizer = build_optimizer(section(1.0, momentum=0.0), 1, 1)
    optimizer.averages = Averages([weight], decay=0.9999, warmup=False)
    optimizer.apply([keras.ops.ones(1)], [weight])
    np.testing.assert_allclose(optimizer.averages.variables[0], [-1e-4], rtol=1e-6)


# --- mixed precision ---


def test_a_step_that_is_not_finite_on_one_replica_is_left_out_on_all():
    strategy = distribute.get_strategy("mirrored")
    with strategy.scope():
        weight = keras.Variable([1.0])
        ema = EMASection(decay=0.5)
        optimizer = build_optimizer(
            section(0.5, momentum=0.0),
            1,
            8,
            update_freq=2,
            ema=ema,
            precision="mixed_float16",
            named={"extractor/w": weight},
        )
        optimizer.build([weight])
    assert type(optimizer) is LossScale

    @tf.function
    def step(gradient):
        strategy.run(lambda g: optimizer.apply([g], [weight]), args=(gradient,))

    def state():
        scale = float(np.asarray(optimizer.dynamic_scale))
        return float(weight[0]), scale, int(np.asarray(optimizer.iterations))

    def feed(first, second):
        scale = np.asarray(optimizer.dynamic_scale)
        scaled = iter([tf.constant([g * scale]) for g in (first, second)])
        step(strategy.experimental_distribute_values_from_function(lambda _: next(scaled)))
        return state()

    assert feed(0.25, 0.75) == (1.0, 2.0**15, 0)
    assert feed(0.25, np.inf) == (1.0, 2.0**14, 0)  # not one of the two batches
    assert feed(np.nan, 0.25) == (1.0, 2.0**13, 0)
    assert feed(0.5, 0.5) == (0.5, 2.0**13, 1)  # 1 - 0.5 * the mean of two sums of 1
    average = optimizer.inner_optimizer.averages.variables[0]
    assert float(average[0]) == pytest.approx(0.55)  # the warm-up's 9/10 of the way
    optimizer.build([weight])  # as every checkpoint does
    assert state() == (0.5, 2.0**13, 1)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_learns_what_float32_does(precision):
    """Head, loss and weights are float32; the loss scale leaves no trace in the weights."""
    images, labels = some_images(20)
    moved = {}
    for policy in ("float32", precision):
        keras.utils.set_random_seed(0)
        extractor, head = small_extractor(policy), ArcMargin(class_num=5, name="head")
        built(head, (None, 6))
        named = named_weights(extractor, head)
        rule = section(1e-3, clip_norm=1.0)
        optimizer = build_optimizer(rule, 1, 5, update_freq=2, precision=policy, named=named)
        assert isinstance(optimizer, LossScale) == (policy == "mixed_float16")
        optimizer.initial_scale = 2.0**8  # so that no step is left out
        classifier = classifier_of(extractor, optimizer, head)
        before = values(named)
        classifier.fit(data(images, labels, classifier.output), epochs=2, verbose=0, shuffle=False)
        assert {v.dtype for v in named.values()} == {"float32"}
        assert int(np.asarray(classifier.optimizer.iterations)) == 5
        assert float(np.asarray(classifier.optimizer.learning_rate)) == pytest.approx(1e-3)
        moved[policy] = np.concatenate(
            [(np.asarray(v) - before[n]).ravel() for n, v in named.items() if "moving" not in n]
        )
    error = np.linalg.norm(moved[precision] - moved["float32"])
    assert 0 < error < 0.1 * np.linalg.norm(moved["float32"])


# --- resuming ---

RESUMED = {
    "accumulation, averages": (
        {"name": "Momentum", "clip_norm": 1.0},
        {"update_freq": 2, "ema": EMASection(decay=0.9)},
    ),
    "loss scale": ({"name": "Lamb", "weight_decay": 0.1}, {"precision": "mixed_float16"}),
    "all of it": (
        {"name": "Adam", "parts": [{"match": "extractor/a_*", "lr_factor": 0.1}]},
        {"update_freq": 3, "ema": EMASection(decay=0.9), "precision": "mixed_float16"},
    ),
    "a rule with a product of its own": ({"name": "Nadam"}, {}),
    "a rule without full moments": ({"name": "Adafactor"}, {"update_freq": 2}),
}


@pytest.mark.parametrize(
    ("strategy", "case"),
    [("single", case) for case in RESUMED] + [("mirrored", "all of it")],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(strategy, case, tmp_path):
    """Five batches, in the middle of a window, then five more."""
    rule, keys = RESUMED[case]
    config = from_dict({"Optimizer": rule})
    images, labels = some_images(20)

    def start(seed):
        with scope(strategy):
            keras.utils.set_random_seed(seed)
            extractor = small_extractor(keys.get("precision", "float32"))
            head = ArcMargin(class_num=5, name="head")
            built(head, (None, 6))
            named = named_weights(extractor, head)
            optimizer = build_optimizer(section(LR, **rule), 2, 5, named=named, **keys)
            if isinstance(optimizer, LossScale):
                optimizer.initial_scale = 2.0**10  # so that it is not too large,
                optimizer.dynamic_growth_steps = 3  # and grows
            return checkpoints.Net(classifier_of(extractor, optimizer, head), extractor, head)

    def run(net, epochs=1):
        dataset = data(images, labels, net.classifier.output)
        net.classifier.fit(dataset, epochs=epochs, verbose=0, shuffle=False)

    def everything(net):
        path = tmp_path / "end"
        checkpoints.save(path, config, net, checkpoints.State())
        return weights.read_arrays(path / weights.WEIGHTS)[0]

    whole = start(0)
    run(whole, epochs=2)
    expected = everything(whole)
    assert int(np.asarray(whole.classifier.optimizer.iterations)) >= 2
    first, second = start(0), start(1)
    run(first)
    checkpoints.save(tmp_path / "latest", config, first, checkpoints.State(epoch=1))
    with scope(strategy):
        checkpoints.restore(tmp_path / "latest", config, second)
    run(second)
    got = everything(second)
    assert got.keys() == expected.keys()
    kinds = [("_sum", "update_freq"), ("_average", "ema"), ("dynamic_scale", "precision")]
    for kind, key in kinds:
        assert any(name.endswith(kind) for name in got) == (key in keys), kind
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    if "precision" in keys:
        scales = [v for name, v in expected.items() if name.endswith("dynamic_scale")]
        assert scales[0] > 2.0**10


def test_training_keeps_the_averages_as_best_model_and_both_in_latest(tiny):
    config = tiny(
        "epochs=1",
        "eval_during_train=false",
        "update_freq=2",
        "precision=mixed_bfloat16",  # no loss scale to leave a step out
        "EMA={decay: 0.5}",
        "Optimizer.clip_norm=1.0",
        "Optimizer.parts=[{match: extractor/conv1_*, frozen: true}]",
        "Optimizer.lr={name: Constant, learning_rate: 0.1}",
    )
    train(config)
    run = Path(config.Global.output_dir)
    best, _ = weights.read_arrays(run / "best_model" / weights.WEIGHTS)
    latest, _ = weights.read_arrays(run / "latest" / weights.WEIGHTS)
    assert [v for k, v in latest.items() if k.endswith("Momentum/iteration")] == [1]
    assert [v for k, v in latest.items() if k.endswith("/batches")] == [1]  # of three batches
    averages = {k.rpartition("/")[2]: v for k, v in latest.items() if k.endswith("_average")}
    extractor = [k for k in best if k.startswith("extractor/")]
    assert len(averages) == len(extractor) > 50
    for name in extractor:
        path = name.removeprefix("extractor/").replace("/", "_")
        np.testing.assert_array_equal(best[name], averages[f"{path}_average"], err_msg=name)
        frozen = name.startswith("extractor/conv1_")
        assert np.array_equal(best[name], latest[name]) == frozen, name
    np.testing.assert_array_equal(best["head/centres"], latest["head/centres"])


def test_a_part_is_written_as_in_the_config():
    assert parts({"match": "head/*", "lr_factor": 10}) == (
        PartSection(match="head/*", lr_factor=10.0),
    )
    optimizer = build_optimizer(section(name="Lion"), 1, 1, update_freq=4)
    registered = keras.saving.serialize_keras_object(LossScale(optimizer))
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(registered)))
    assert type(again) is LossScale and again.inner_optimizer.update_freq == 4
