"""Shared fixtures. Two logical CPU devices stand for two accelerators in every test."""

import logging
import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_featx.config import apply_overrides, from_dict

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
logging.getLogger("keras_featx").setLevel(logging.INFO)


def pytest_runtest_setup(item):
    """Fresh weights are the same in every run, whatever tests ran before; fixtures come after."""
    keras.utils.set_random_seed(0)


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Weights and batch statistics under which activations live (a fresh LCNet's die)."""
    rng = np.random.default_rng(seed)
    draws = {
        "gamma": lambda shape: rng.uniform(1.0, 2.0, shape),
        "beta": lambda shape: rng.normal(0.0, 0.5, shape),
        "moving_mean": lambda shape: rng.normal(0.0, 0.1, shape),
        "moving_variance": lambda shape: rng.uniform(0.05, 0.3, shape),
        "bias": lambda shape: rng.normal(0.0, 0.3, shape),
    }
    for variable in model.weights:
        name = variable.path.rsplit("/", 1)[-1]
        if name in draws:
            variable.assign(draws[name](variable.shape))
    return model


@pytest.fixture
def data_dir(request):
    return request.config.rootpath / "tests" / "data"


ROOT = Path(__file__).parent.parent
EMOJI_MINI = ROOT / "keras_featx" / "assets" / "emoji_mini"


def tiny_config(folder, *overrides):
    """A config that trains in seconds: 48 real pictures of 8 identities, 32 pixels."""
    rows = (EMOJI_MINI / "train_list.txt").read_text().splitlines()[:48]
    (folder / "train.txt").write_text("\n".join(rows) + "\n")
    dataset = {"name": "ImageNetDataset", "image_root": str(EMOJI_MINI)}
    evaluated = {
        part: {
            "dataset": {**dataset, "cls_label_path": str(EMOJI_MINI / f"{part.lower()}_list.txt")}
        }
        for part in ("Query", "Gallery")
    }
    tree = {
        "Global": {"output_dir": str(folder / "run"), "epochs": 2, "seed": 1, "report": False},
        "Arch": {
            "image_size": [32, 32],
            "Backbone": {"name": "LCNet", "scale": 0.25, "class_expand": 32, "dropout": 0.0},
            "Neck": {"name": "Dense", "embedding_size": 16},
            "Head": {"name": "ArcMargin", "margin": 0.2, "scale": 16.0},
        },
        "Optimizer": {"lr": {"name": "Cosine", "learning_rate": 0.02, "warmup_epoch": 1}},
        "DataLoader": {
            "Train": {
                "dataset": {
                    **dataset,
                    "cls_label_path": str(folder / "train.txt"),
                    "transform_ops": [
                        {"RandomResizedCrop": {"scale": [0.5, 1.0]}},
                        {"RandomFlip": None},
                    ],
                },
                "sampler": {"name": "Shuffle", "batch_size": 16},
            },
            "Eval": evaluated,
        },
    }
    return from_dict(apply_overrides(tree, overrides))


@pytest.fixture
def tiny(tmp_path):
    return lambda *overrides: tiny_config(tmp_path, *overrides)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A run folder after one epoch without evaluation; copy it before changing anything."""
    from keras_featx.training import train

    folder = tmp_path_factory.mktemp("trained")
    train(tiny_config(folder, "epochs=1", "eval_during_train=false"))
    return folder / "run"


@pytest.fixture
def trained(trained_once, tmp_path):
    return Path(shutil.copytree(trained_once, tmp_path / "run"))
