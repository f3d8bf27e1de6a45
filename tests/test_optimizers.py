"""Update rules against the trajectories of the references, and against the papers in NumPy."""

import json

import keras
import numpy as np
import pytest
from test_lcnet import golden_model, images
from update_rules import RULES as PAPERS
from update_rules import trajectory as on_paper

from keras_featx import components, distribute, models
from keras_featx.config import from_dict, parse_yaml
from keras_featx.errors import ConfigError
from keras_featx.interop.paddle_weights import our_path, to_keras
from keras_featx.optimizers import Momentum, TableSchedule, build_optimizer, classes

RULES = {  # name in optim_lr_act.npz: section of the config
    "momentum0.9": {"name": "Momentum", "momentum": 0.9},
    "momentum0.9_nesterov": {"name": "Momentum", "momentum": 0.9, "nesterov": True},
    "momentum0.9_l2_1e-2": {"name": "Momentum", "momentum": 0.9, "regularizer": 1e-2},
    "sgd_l2_1e-2": {"name": "Momentum", "momentum": 0.0, "regularizer": 1e-2},
    "adam_l2_5e-4": {"name": "Adam", "regularizer": 5e-4},
    "adamw_wd0.05": {"name": "AdamW", "weight_decay": 0.05},
}
# Two float32 implementations, eight steps of a few roundings of weights up to 2.4.
TOLERANCE = 1e-5
DIRECT = {
    "momentum0.9": lambda rate: Momentum(rate, 0.9),
    "momentum0.9_nesterov": lambda rate: Momentum(rate, 0.9, nesterov=True),
    "momentum0.9_l2_1e-2": lambda rate: Momentum(rate, 0.9, l2=1e-2),
    "sgd_l2_1e-2": lambda rate: Momentum(rate, 0.0, l2=1e-2),
    "adam_l2_5e-4": lambda rate: classes.Adam(rate, l2=5e-4, epsilon=1e-8),
    "adamw_wd0.05": lambda rate: classes.AdamW(rate, weight_decay=0.05, epsilon=1e-8),
}


@pytest.fixture
def golden(data_dir):
    return np.load(data_dir / "optim_lr_act.npz")


def section(lr, **keys):
    """An Optimizer section; a number as regularizer is L2's coefficient."""
    if isinstance(keys.get("regularizer"), float):
        keys["regularizer"] = {"name": "L2", "coeff": keys["regularizer"]}
    return from_dict({"Optimizer": {"lr": lr, **keys}}).Optimizer


def trajectory(optimizer, golden, steps):
    """The weights after each step."""
    weight = keras.Variable(golden["opt/w0"], name="kernel")
    after = []
    for gradient in golden["opt/grads"][:steps]:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        after.append(weight.numpy())
    return np.stack(after)


@pytest.mark.parametrize("name", RULES)
def test_rules_of_a_config_equal_the_reference(golden, name):
    """Seven of the eight steps: a config can state no rate of 0, the eighth step's."""
    lr = {"name": "Piecewise", "decay_epochs": [2, 4, 6], "values": [0.1, 0.05, 0.02, 0.01]}
    np.testing.assert_allclose(golden["opt/lrs"][:7], [0.1, 0.1, 0.05, 0.05, 0.02, 0.02, 0.01])
    optimizer = build_optimizer(section(lr, **RULES[name]), epochs=7, steps_per_epoch=1)
    np.testing.assert_allclose(
        trajectory(optimizer, golden, 7), golden[f"opt/{name}"][:7], rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("name", DIRECT)
def test_rules_equal_the_reference(golden, name):
    optimizer = DIRECT[name](TableSchedule(golden["opt/lrs"]))
    np.testing.assert_allclose(
        trajectory(optimizer, golden, 8), golden[f"opt/{name}"], rtol=0, atol=TOLERANCE
    )


KEYS = [  # every key of every rule away from its default
    {"name": "Momentum", "momentum": 0.7, "nesterov": True},
    {"name": "SGD", "momentum": 0.7, "nesterov": True},
    {"name": "SGD", "momentum": 0.7, "regularizer": 0.1},
    {"name": "Adam", "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "regularizer": 0.1},
    {"name": "AdamW", "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1},
    {"name": "AdamW", "beta_1": 0.8, "beta_2": 0.5, "amsgrad": True},
    {"name": "Lamb", "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.3},
    {"name": "Lion", "beta_1": 0.8, "beta_2": 0.95, "weight_decay": 0.3},
    {"name": "RMSprop", "rho": 0.8, "momentum": 0.5, "epsilon": 1e-3, "centered": True},
    {"name": "Nadam", "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3},
    {"name": "Adamax", "beta_1": 0.8, "beta_2": 0.5, "epsilon": 1e-2},
    {"name": "Adagrad", "initial_accumulator_value": 0.5, "epsilon": 1e-1},
    {"name": "Adadelta", "rho": 0.5, "epsilon": 1e-3},
    {"name": "Adafactor", "clip_threshold": 0.5, "beta_2_decay": -0.5},
    {"name": "Ftrl", "initial_accumulator_value": 0.5, "l1_strength": 0.2, "l2_strength": 0.1},
    {"name": "Muon", "momentum": 0.7, "nesterov": False, "ns_steps": 3, "weight_decay": 0.3},
]


@pytest.mark.parametrize("keys", [{"name": n} for n in PAPERS] + KEYS, ids=lambda k: str(k)[1:-1])
def test_rules_are_those_of_their_papers_at_each_weight_s_rate(golden, keys):
    """All rules, all keys, changing rates, and of two weights the second at a quarter."""
    keys, rates = dict(keys), [0.1, 0.1, 0.05, 0.05, 0.02, 0.02, 0.01]
    lr = {"name": "Piecewise", "decay_epochs": [2, 4, 6], "values": [0.1, 0.05, 0.02, 0.01]}
    rule = section(lr, **keys, parts=[{"match": "slow/*", "lr_factor": 0.25}])
    weights = {name: keras.Variable(golden["opt/w0"], name="w") for name in ("fast/w", "slow/w")}
    optimizer = build_optimizer(rule, epochs=7, steps_per_epoch=1, named=weights)
    after = {name: [] for name in weights}
    for gradient in golden["opt/grads"][:7]:
        gradient = keras.ops.convert_to_tensor(gradient)
        optimizer.apply([gradient, gradient], list(weights.values()))
        for name, weight in weights.items():
            after[name].append(weight.numpy())
    name, l2 = keys.pop("name"), keys.pop("regularizer", 0.0)
    for part, factor in (("fast/w", 1.0), ("slow/w", 0.25)):
        expected = on_paper(
            name,
            golden["opt/w0"],
            golden["opt/grads"][:7],
            np.multiply(rates, factor),
            l2=l2,
            **keys,
        )
        np.testing.assert_allclose(after[part], expected, rtol=0, atol=2e-5, err_msg=part)


def test_every_rule_of_the_registry_is_tested():
    assert set(components.REGISTRIES["optimizer"]) == set(PAPERS)
    for name in PAPERS:
        taken = set(components.parameters("optimizer", name, ""))
        tried = set().union(*(k for k in KEYS if k["name"] == name)) - {"name", "regularizer"}
        # Of these no paper has a value; Muon's go to the weights that are not matrices.
        untried = {"Adafactor": {"epsilon_1", "epsilon_2"}, "Adam": {"amsgrad"}}
        untried |= {"Ftrl": {"beta", "learning_rate_power"}}
        muon = {"beta_1", "beta_2", "epsilon", "adam_lr_ratio", "exclude"}
        assert taken - tried == untried.get(name, muon if name == "Muon" else set()), name


def test_muon_leaves_what_is_no_matrix_and_the_class_centres_to_adamw():
    rng = np.random.default_rng(0)
    shapes = {"fc/kernel": (3, 4), "conv/kernel": (2, 2, 3, 4), "fc/bias": (4,), "head/w": (3, 4)}
    keys = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}
    lr = {"name": "Constant", "learning_rate": 0.1}
    optimizer = build_optimizer(
        section(lr, name="Muon", adam_lr_ratio=0.5, **keys), epochs=3, steps_per_epoch=1
    )
    variables, gradients = [], []
    for path, shape in shapes.items():
        layer, leaf = path.split("/")
        with keras.name_scope(layer):
            start = rng.normal(size=shape).astype("float32")
            variables.append(keras.Variable(start, name=leaf))
        gradients.append(rng.normal(size=(3, *shape)))
    before = [v.numpy() for v in variables]
    for t in range(3):
        optimizer.apply([keras.ops.cast(g[t], "float32") for g in gradients], variables)
    for path, variable, start, gradient in zip(shapes, variables, before, gradients, strict=True):
        assert variable.path == path
        if path == "fc/kernel":
            expected = on_paper("Muon", start, gradient, [0.1] * 3, weight_decay=0.1)
        else:  # the decay is at the whole rate
            keys["weight_decay"] = 0.2
            expected = on_paper("AdamW", start, gradient, [0.05] * 3, **keys)
        np.testing.assert_allclose(variable, expected[-1], rtol=0, atol=1e-5, err_msg=path)


LEGACY = {  # key in optimizers_legacy.npz: section of the config
    "tfa.LAMB(lr=0.05)": {"name": "Lamb"},
    "tfa.LAMB(lr=0.05,weight_decay_rate=0.01,exclude_from_weight_decay=[bias])": {
        "name": "Lamb",
        "weight_decay": 0.01,
        "parts": [{"match": "*bias", "weight_decay": False}],
    },
    # There the decay is not multiplied by the learning rate.
    "tfa.AdamW(lr=0.05,weight_decay=0.001)": {
        "name": "AdamW",
        "weight_decay": 0.02,
        "epsilon": 1e-7,
    },
    "tfa.AdamW(lr=0.05,weight_decay=0.001,amsgrad)": {
        "name": "AdamW",
        "weight_decay": 0.02,
        "epsilon": 1e-7,
        "amsgrad": True,
    },
}


@pytest.mark.parametrize("name", LEGACY)
def test_rules_equal_those_of_tensorflow_addons(data_dir, name):
    golden = np.load(data_dir / "optimizers_legacy.npz")
    kernel = keras.Variable(golden["W0"], name="kernel")
    bias = keras.Variable(golden["B0"], name="bias")
    rule = section({"name": "Constant", "learning_rate": 0.05}, **LEGACY[name])
    optimizer = build_optimizer(rule, epochs=1, steps_per_epoch=1)
    for expected in zip(golden[f"{name}/W"], golden[f"{name}/B"], strict=True):
        for variable, value in zip((kernel, bias), expected, strict=True):
            np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6)
        slope = (golden["A"] @ kernel.numpy().ravel() - golden["b"]).reshape(3, 2)
        gradients = [slope, np.array([1.0, 3.0]) * (bias.numpy() - 1)]
        optimizer.apply([keras.ops.cast(g, "float32") for g in gradients], [kernel, bias])


REFUSED = {
    "{momentum: 1.0}": "Optimizer.momentum: expected in [0, 1), got 1.0",
    "{name: Lion, beta_1: 0.0}": "Optimizer.beta_1: expected in (0, 1), got 0.0",
    "{name: Lamb, weight_decay: -1}": "Optimizer.weight_decay: expected at least 0, got -1.0",
    "{name: Adam, epsilon: 0}": "Optimizer.epsilon: expected above 0, got 0.0",
    "{name: Ftrl, learning_rate_power: 1}": "Optimizer.learning_rate_power: expected at most 0, "
    "got 1.0",
    "{regularizer: {name: L1, coeff: -1}}": "Optimizer.regularizer.coeff: expected at least 0, got "
    "-1.0",
}


@pytest.mark.parametrize("text", REFUSED)
def test_impossible_rules_are_refused_with_their_key(text):
    with pytest.raises(ConfigError) as error:
        build_optimizer(from_dict({"Optimizer": parse_yaml(text, "")}).Optimizer, 1, 1)
    assert str(error.value) == REFUSED[text]


def test_the_rate_is_outside_the_velocity(golden):
    """Where the rate changes, Keras' SGD goes another way."""
    rate = TableSchedule(golden["opt/lrs"])
    keras_way = trajectory(keras.optimizers.SGD(rate, momentum=0.9), golden, 8)
    assert np.abs(keras_way - golden["opt/momentum0.9"]).max() > 1e-2


DECAYS = [  # rule and what it leaves of a decayed weight of 1 at a rate of 0.5
    ({"name": "Momentum", "regularizer": 0.1}, 0.95),  # 1 - rate * coeff
    ({"name": "AdamW", "weight_decay": 0.1}, 0.95),
    ({"name": "Adam", "regularizer": 0.1}, 0.5),  # Adam's first step is a whole rate
    ({"name": "Momentum", "regularizer": {"name": "L1", "coeff": 0.1}}, 0.95),
    ({"name": "Lion", "weight_decay": 0.1}, 0.95),
    # LAMB's step is as long as the weight. It makes a decayed weight's whole step of the decay.
    ({"name": "Lamb", "weight_decay": 0.1}, 0.5),
]


def normalised_layers():
    """A dense and a normalised layer with weights of 1 everywhere."""
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, name="fc"), keras.layers.BatchNormalization()]
    )
    for weight in model.trainable_weights:
        weight.assign(np.ones(weight.shape))
    return model


def check_decay(model, kept):
    """On every replica."""
    weights = {w.name: w.value for w in model.trainable_weights}
    assert sorted(weights) == ["beta", "bias", "gamma", "kernel"]
    for name, value in (("kernel", kept), ("bias", kept), ("gamma", 1.0), ("beta", 1.0)):
        for replica in getattr(weights[name], "values", [weights[name]]):
            expected = np.full(replica.shape, value)
            np.testing.assert_allclose(replica.numpy(), expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("rule", "kept"), DECAYS)
def test_scales_and_offsets_of_normalisation_are_not_decayed(rule, kept):
    lr = {"name": "Constant", "learning_rate": 0.5}
    model = normalised_layers()
    variables = model.trainable_weights
    optimizer = build_optimizer(section(lr, **rule), epochs=1, steps_per_epoch=1)
    optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    check_decay(model, kept)


@pytest.mark.parametrize(("rule", "kept"), DECAYS)
def test_nor_are_their_mirrors_on_several_devices(rule, kept):
    """Where each replica's variable has another name."""
    lr = {"name": "Constant", "learning_rate": 0.5}
    with distribute.get_strategy("mirrored").scope():
        model = normalised_layers()
        optimizer = build_optimizer(section(lr, **rule), epochs=1, steps_per_epoch=1)
        model.compile(optimizer, loss=lambda _, output: 0 * output, jit_compile=False)
    model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=4, verbose=0)
    assert all(len(w.value.values) == 2 for w in model.trainable_weights)
    check_decay(model, kept)


def test_a_table_holds_its_last_rate():
    schedule = TableSchedule([0.5, 0.25, 0.125])
    assert [float(schedule(step)) for step in range(5)] == [0.5, 0.25, 0.125, 0.125, 0.125]
    again = TableSchedule.from_config(json.loads(json.dumps(schedule.get_config())))
    assert [float(again(step)) for step in range(4)] == [0.5, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(
    "optimizer",
    [
        Momentum(TableSchedule([0.5, 0.25]), 0.8, nesterov=True, l2=1e-3, global_clipnorm=2.0),
        classes.Adam(TableSchedule([0.5, 0.25]), l2=1e-3, beta_1=0.8),
        classes.Lamb(TableSchedule([0.5, 0.25]), weight_decay=0.1, update_freq=2, clipnorm=1.0),
    ],
    ids=["Momentum", "Adam", "Lamb"],
)
def test_rules_survive_their_config(optimizer, golden):
    registered = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(registered)))
    assert type(again) is type(optimizer)
    names = ("momentum", "nesterov", "l2", "beta_1", "global_clipnorm", "clipnorm", "update_freq")
    for name in names:
        assert getattr(again, name, None) == getattr(optimizer, name, None), name
    np.testing.assert_array_equal(trajectory(again, golden, 3), trajectory(optimizer, golden, 3))


def test_six_steps_of_training_equal_the_reference(data_dir):
    """Model, head, loss, schedule, Momentum and L2 together, through `compile` and `fit`'s step."""
    golden = np.load(data_dir / "rec_x0_25_small.npz")
    config = from_dict(
        {
            "Global": {"epochs": 3},
            "Optimizer": {
                "name": "Momentum",
                "momentum": 0.9,
                "lr": {"name": "Cosine", "learning_rate": 0.04, "warmup_epoch": 1},
                "regularizer": {"name": "L2", "coeff": 0.001},
            },
        }
    )
    image, label = images(golden, "s64/"), golden["s64/y"][:, 0]
    classifier, _ = golden_model(golden, "rec_x0_25_small", image, dropout=0.0)
    models.compile_classifier(classifier, build_optimizer(config.Optimizer, 3, steps_per_epoch=2))
    targets = dict.fromkeys(classifier.output, np.zeros(len(label)))
    losses, rates = [], []
    for step in range(6):
        rates.append(float(classifier.optimizer.learning_rate))
        rolled = np.roll(image, step, axis=1)  # the reference's axis 2, as its channels come first
        classifier.reset_metrics()
        logs = classifier.train_on_batch(
            {"image": rolled, "label": label}, targets, return_dict=True
        )
        losses.append(logs["loss"])
    np.testing.assert_allclose(rates, golden["s64/sgd6/lrs"], rtol=1e-6)
    # The run is chaotic: one rounding error in the first weights (6e-8) moves the third loss by
    # 2e-4, the fourth by 5e-3, the last by 0.14, and half of the arrays by 7 % of their way. A
    # momentum of 0.8, Nesterov's or Keras' rule, a rate of 0.039 move these by 4e-2 or more in
    # the fourth loss, and half of the arrays by 40 % of their way or more.
    for step, tolerance in enumerate([2e-5, 2e-5, 1e-3, 2e-2]):
        assert losses[step] == pytest.approx(golden["s64/sgd6/losses"][step], rel=tolerance), step
    ours = {v.path: v.numpy() for v in classifier.weights if "margin_factor" not in v.path}
    prefix = "s64/sgd6/param_after/"
    errors = []
    for key in (k for k in golden.files if k.startswith(prefix)):
        name = key.removeprefix(prefix)
        before, after = (to_keras(name, golden[k]) for k in (f"param/{name}", key))
        error = np.linalg.norm(ours.pop(our_path(name)) - after)
        errors.append(error / np.linalg.norm(after - before))
    assert not ours
    assert np.median(errors) < 0.2
    assert max(errors) < 1  # each array ends nearer to the reference than it began
