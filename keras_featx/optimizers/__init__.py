"""Update rules, how their gradients are prepared, and where each part of a network stands."""

import contextlib
from collections.abc import Iterator, Mapping

import keras
import numpy as np
from keras import ops

from keras_featx import components, distribute
from keras_featx.averaging import Averages
from keras_featx.errors import ConfigError
from keras_featx.optimizer_section import EMASection, OptimizerSection
from keras_featx.optimizers.classes import Lamb, Momentum
from keras_featx.optimizers.parts import freeze, named_weights
from keras_featx.optimizers.updates import LossScale

__all__ = [
    "Lamb",
    "LossScale",
    "Momentum",
    "TableSchedule",
    "build_optimizer",
    "freeze",
    "named_weights",
]


def build_optimizer(
    section: OptimizerSection,
    epochs: int,
    steps_per_epoch: int,
    *,
    update_freq: int = 1,
    precision: str = "float32",
    ema: EMASection | None = None,
    named: Mapping[str, keras.Variable] | None = None,
) -> keras.optimizers.Optimizer:
    """The optimizer of a config, with its schedule for a run of the given length.

    Args:
        section: ``Optimizer`` of a config.
        epochs: Epochs of the run.
        steps_per_epoch: Batches an epoch.
        update_freq: Batches an update; the schedule is read at the first batch of each.
        precision: ``mixed_float16`` adds a dynamic loss scale.
        ema: ``EMA`` of a config.
        named: The weights by name (:func:`named_weights`), which ``section.parts`` and ``ema``
            need. The extractor's are averaged.

    Example:
        >>> from keras_featx.optimizers import build_optimizer
        >>> from keras_featx.sections import OptimizerSection
        >>> build_optimizer(OptimizerSection(), epochs=20, steps_per_epoch=100).momentum
        0.9
    """
    with _named("Optimizer.lr"):
        schedule = components.builder("schedule", section.lr.name)
        table = schedule(epochs, steps_per_epoch, **section.lr.args)
    common = {
        "global_clipnorm": section.clip_norm,
        "clipnorm": section.clip_norm_each,
        "clipvalue": section.clip_value,
        "update_freq": update_freq,
        "name": section.rule.name,  # part of the names in a checkpoint; Keras would count on
    }
    if section.regularizer:
        regularizer = components.builder("regularizer", section.regularizer.name)
        with _named("Optimizer.regularizer"):
            common |= regularizer(**section.regularizer.args)
    with _named("Optimizer"):
        rule = components.builder("optimizer", section.rule.name)
        optimizer = rule(TableSchedule(table[::update_freq]), **section.rule.args, **common)
    if section.rule.name == "Adafactor" and any(map(distribute.is_local, (named or {}).values())):
        raise ConfigError(
            "Optimizer.name: expected a rule that looks at each number by itself, for a head with "
            "split or sample_rate, got 'Adafactor'"
        )
    optimizer.set_parts(section.parts, named)
    if ema:
        averaged = [v for name, v in named.items() if name.startswith("extractor/")]
        optimizer.averages = Averages(averaged, ema.decay, ema.warmup)
    return LossScale(optimizer, name="LossScale") if precision == "mixed_float16" else optimizer


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Give a builder's refusal the config key of the part."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{path}.{error}") from None


@keras.saving.register_keras_serializable("keras_featx")
class TableSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate looked up by update; after the last entry, the last entry."""

    def __init__(self, table):
        self.table = np.asarray(table, "float32")

    def __call__(self, step):
        step = ops.minimum(ops.cast(step, "int32"), len(self.table) - 1)
        return ops.take(ops.convert_to_tensor(self.table), step)

    def get_config(self):
        return {"table": self.table.tolist()}
