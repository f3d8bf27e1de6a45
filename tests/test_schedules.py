"""Learning-rate tables against the sequences of the reference."""

import json

import numpy as np
import pytest

from keras_featx import components
from keras_featx.config import from_dict
from keras_featx.errors import ConfigError
from keras_featx.optimizers import build_optimizer
from keras_featx.schedules import constant, cosine, piecewise

BY_STEP = ["cosine_w2", "cosine_w5_etamin", "const_w1", "warmup_ge_epochs"]
OUR_NAMES = {"ConstLR": "Constant"}


def reference(data_dir, name):
    """The sequence, our table function's name, the run's length and the schedule's arguments."""
    case = json.loads((data_dir / "lr_configs.json").read_text())[name]
    arguments = dict(case["config"])
    schedule = arguments.pop("name")
    rates = np.load(data_dir / "optim_lr_act.npz")[f"lr/{name}"]
    return rates, OUR_NAMES.get(schedule, schedule), case, arguments


def table(name, epochs, steps_per_epoch, **arguments):
    return components.builder("schedule", name)(epochs, steps_per_epoch, **arguments)


@pytest.mark.parametrize("name", BY_STEP)
def test_tables_equal_the_reference(data_dir, name):
    rates, schedule, case, arguments = reference(data_dir, name)
    ours = table(schedule, case["epochs"], case["steps_per_epoch"], **arguments)
    assert len(rates) == case["epochs"] * case["steps_per_epoch"]
    np.testing.assert_allclose(ours, rates, rtol=1e-6, atol=1e-12)


def test_a_cosine_without_warm_up_equals_the_reference(data_dir):
    """The sequence was read through `get_lr`, where Paddle applies its recursion once more."""
    rates, schedule, case, arguments = reference(data_dir, "cosine_nowarm")
    ours = table(schedule, case["epochs"], case["steps_per_epoch"], **arguments)
    assert ours[0] == rates[0]
    np.testing.assert_allclose(ours[1:] * ours[1:] / ours[:-1], rates[1:], rtol=1e-6)


def test_a_cosine_by_epoch_is_one_with_a_step_an_epoch(data_dir):
    rates, schedule, case, arguments = reference(data_dir, "cosine_byepoch")
    assert arguments.pop("by_epoch")
    np.testing.assert_allclose(
        table(schedule, case["epochs"], 1, **arguments), rates, rtol=1e-6, atol=1e-12
    )


def test_a_piecewise_by_epoch_is_one_with_a_step_an_epoch(data_dir):
    rates, schedule, case, arguments = reference(data_dir, "piecewise_byepoch")
    # With last_epoch 0 the reference begins with the second epoch.
    assert (arguments.pop("by_epoch"), arguments.pop("last_epoch")) == (True, 0)
    ours = table(schedule, case["epochs"] + 1, 1, **arguments)
    assert ours[0] == arguments["warmup_start_lr"]
    np.testing.assert_allclose(ours[1:], rates, rtol=1e-6, atol=1e-12)


def test_a_piecewise_schedule_by_hand():
    """The reference ignores decay_epochs and values beside a learning_rate; ours has none."""
    ours = piecewise(
        6, 5, decay_epochs=(2, 4), values=(0.1, 0.01, 0.001), warmup_epoch=1, warmup_start_lr=0.02
    )
    warm_up = [0.02, 0.036, 0.052, 0.068, 0.084]
    np.testing.assert_allclose(ours, warm_up + [0.1] * 10 + [0.01] * 10 + [0.001] * 5, rtol=1e-12)


def test_values_hold_from_their_step_on():
    ours = piecewise(3, 4, decay_epochs=(0.5, 1.5), values=(3.0, 2.0, 1.0))
    np.testing.assert_array_equal(ours, [3] * 2 + [2] * 4 + [1] * 6)
    np.testing.assert_array_equal(
        piecewise(2, 2, decay_epochs=(0, 1), values=(3.0, 2.0, 1.0)), [2, 2, 1, 1]
    )
    np.testing.assert_array_equal(piecewise(2, 2, decay_epochs=(), values=(3.0,)), [3] * 4)


@pytest.mark.parametrize("schedule", [constant, cosine])
@pytest.mark.parametrize("warmup_epoch", [3, 3.5, 100])
def test_a_warm_up_longer_than_the_run_is_cut_to_it(schedule, warmup_epoch):
    ours = schedule(3, 4, learning_rate=0.13, warmup_epoch=warmup_epoch, warmup_start_lr=0.01)
    np.testing.assert_allclose(ours, 0.01 + 0.12 * np.arange(12) / 12, rtol=1e-12)


def test_a_warm_up_of_part_of_an_epoch_is_rounded_to_steps():
    ours = constant(2, 10, learning_rate=1.0, warmup_epoch=0.26)
    np.testing.assert_allclose(ours, [0, 1 / 3, 2 / 3] + [1] * 17, rtol=1e-12)


@pytest.mark.parametrize("schedule", [constant, cosine])
def test_a_run_of_one_step(schedule):
    np.testing.assert_array_equal(schedule(1, 1, learning_rate=0.5), [0.5])
    np.testing.assert_array_equal(schedule(1, 1, learning_rate=0.5, warmup_epoch=1), [0])


def test_a_cosine_falls_to_eta_min_but_never_reaches_it():
    ours = cosine(1, 1000, learning_rate=1.0, eta_min=0.25)
    assert (np.diff(ours) < 0).all()
    assert ours[0] == 1
    assert ours[500] == pytest.approx(0.625)
    assert 0.25 < ours[-1] < 0.25001


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            {"name": "Cosine", "learning_rate": 0.0},
            "learning_rate: expected a positive learning rate, got 0.0",
        ),
        (
            {"name": "Constant", "learning_rate": -0.1},
            "learning_rate: expected a positive learning rate, got -0.1",
        ),
        (
            {"name": "Constant", "learning_rate": 0.1, "warmup_epoch": -1},
            "warmup_epoch: expected at least 0, got -1.0",
        ),
        (
            {"name": "Piecewise", "decay_epochs": [1, 2], "values": [0.1, 0.2]},
            "values: expected 3 (one more than decay_epochs), got 2",
        ),
        (
            {"name": "Piecewise", "decay_epochs": [2, 1], "values": [0.1, 0.2, 0.3]},
            "decay_epochs: expected rising numbers, got [2.0, 1.0]",
        ),
        (
            {"name": "Piecewise", "decay_epochs": [1], "values": [0.1, 0.0]},
            "values: expected a positive learning rate, got 0.0",
        ),
    ],
)
def test_impossible_schedules_are_refused_with_their_key(schedule, message):
    config = from_dict({"Optimizer": {"lr": schedule}})
    with pytest.raises(ConfigError) as error:
        build_optimizer(config.Optimizer, epochs=3, steps_per_epoch=4)
    assert str(error.value) == f"Optimizer.lr.{message}"
    arguments = dict(config.Optimizer.lr.args)
    with pytest.raises(ValueError) as plain:
        table(schedule["name"], 3, 4, **arguments)
    assert str(plain.value) == message
