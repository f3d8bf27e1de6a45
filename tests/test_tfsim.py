"""tensorflow-similarity's losses, memory and samplers in a classifier; its metrics against ours.

What its losses should give was computed with its release on TensorFlow 2.15 (`tests/data`). Without
the extra `[similarity]` only the schema and the message are tested.
"""

import importlib.util
import inspect
import random
import re
import subprocess
import sys
import typing
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_featx import components, distribute, models, weights
from keras_featx.config import dump_config, from_dict, load_config
from keras_featx.errors import ConfigError
from keras_featx.interop import tfsim
from keras_featx.metrics import (
    Labelled,
    mean_average_precision,
    recall_at_k,
    retrieval_metrics,
)
from keras_featx.training import train

NAMES = ["CircleLoss", "MultiSimilarityLoss", "PNLoss", "SoftNearestNeighborLoss", "TripletLoss"]
WITH_MEMORY = ["CircleLoss", "MultiSimilarityLoss", "TripletLoss"]
OURS = {"weight", "normalize_feature", "memory_size", "warmup_steps"}
DATA = Path(__file__).parent / "data"
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
    """The rest of the library's losses take two views, or are the base class and the memory."""
    signatures = {
        name: inspect.signature(cls.call).parameters
        for name, cls in vars(library.losses).items()
        if isinstance(cls, type) and name not in ("MetricLoss", "XBM")
    }
    assert sorted(n for n, taken in signatures.items() if list(taken)[1] == "y_true") == sorted(
        [*NAMES, "Barlow", "SimCLRLoss", "SimSiamLoss", "VicReg"]
        if "y_true" in signatures["SimCLRLoss"]
        else NAMES
    )


def test_a_config_loads_back_equal_without_the_library():
    losses = [
        {"name": f"tfsim.{name}", "weight": 0.5, **({"memory_size": 64} if memory else {})}
        for name in NAMES
        for memory in {False, name in WITH_MEMORY}
    ]
    config = config_of(*losses)
    code = (
        "import sys\n"
        "from keras_featx.config import load_config\n"
        "print(len(load_config(sys.argv[1]).Loss.Train))\n"
        "assert not {'tensorflow', 'keras', 'tensorflow_similarity'} & set(sys.modules)"
    )
    assert len(config.Loss.Train) == 8
    return config, code


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
    for module in [m for m in sys.modules if m.split(".")[0] == "tensorflow_similarity"]:
        monkeypatch.delitem(sys.modules, module)
    find = importlib.util.find_spec

    class Missing:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.split(".")[0] == "tensorflow_similarity":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    assert find is importlib.util.find_spec
    config = config_of({"name": f"tfsim.{name}"})
    with pytest.raises(ConfigError) as error:
        models.build_losses(config.Loss)
    assert str(error.value) == (
        "Loss.Train.0.name: expected tensorflow-similarity to be installed "
        '(pip install "keras_featx[similarity]"), got No module named \'tensorflow_similarity\''
    )
