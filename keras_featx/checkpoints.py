"""Exact save and resume of a training run.

``latest/weights.npz`` holds what any weights folder does (:mod:`keras_featx.weights`), and
besides the states of random generators, every variable of the optimizer, and as JSON what Python
knew: epoch, best metric, history. The position in the data is not saved: it follows from the
epoch.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from keras_featx import weights
from keras_featx.config import dump_config, load_config, to_dict
from keras_featx.errors import ConfigError
from keras_featx.sections import Config

log = logging.getLogger(__name__)


@dataclasses.dataclass
class State:
    """What a run knows besides its variables.

    Attributes:
        epoch: Epochs done.
        best: Best value so far of the metric that chooses ``best_model``.
        history: One dict per epoch done, the rows of ``metrics.csv``.
    """

    epoch: int = 0
    best: float | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def save(
    folder: str | os.PathLike,
    config: Config,
    classifier: keras.Model,
    extractor: keras.Model,
    head: keras.Layer,
    state: State,
) -> None:
    """Write a checkpoint; an interrupted write leaves the former one whole."""
    meta = {"format": 1, "arch": to_dict(config)["Arch"], **dataclasses.asdict(state)}
    variables = _variables(classifier, extractor, head)
    weights.save_variables(folder, dump_config(config), variables, meta)


def restore(
    folder: str | os.PathLike,
    config: Config,
    classifier: keras.Model,
    extractor: keras.Model,
    head: keras.Layer,
) -> State:
    """Load a checkpoint into a compiled classifier.

    Raises:
        ConfigError: If there is none, it is damaged, or it is of another architecture.
    """
    path = Path(folder) / weights.WEIGHTS
    if not path.is_file():
        raise ConfigError(
            f"Global.checkpoint: expected a folder with {path.name} (the `latest` of a run), "
            f"got {str(folder)!r}"
        )
    arrays, meta = weights.read_arrays(path)
    if meta.get("format") != 1:
        raise ConfigError(
            f"{path}: expected a checkpoint to resume from (the `latest` of a run), got weights "
            "alone; Global.pretrained_model takes those"
        )
    for key, ours, theirs in _differences(to_dict(config)["Arch"], meta["arch"], "Arch"):
        raise ConfigError(f"{path}: {key}: expected {ours!r} as in the config, got {theirs!r}")
    variables = _variables(classifier, extractor, head)
    weights.assign(variables, arrays, str(path))
    unused = [k for k in arrays if k not in variables]
    if unused:
        raise ConfigError(
            f"{path}: {unused[0]} has no place here ({len(unused)} such arrays): expected a "
            "checkpoint made with the same Optimizer"
        )
    _warn_of_changes(config, load_config(path.with_name(weights.CONFIG)))
    return State(epoch=meta["epoch"], best=meta["best"], history=meta["history"])


def _warn_of_changes(config: Config, before: Config) -> None:
    """A resumed run equals an uninterrupted one only under the same config; say what differs."""
    ours, theirs = to_dict(config), to_dict(before)
    sections = [("Loss", "Loss"), ("Optimizer", "Optimizer"), ("DataLoader.Train", "Train")]
    for tree in (ours, theirs):
        tree["Train"] = tree["DataLoader"]["Train"]
    for path, key in sections:
        for differing in _differences(ours[key], theirs[key], path):
            log.warning("resuming with %s: %r, the checkpoint was made with %r", *differing)


def _variables(classifier, extractor, head) -> dict[str, keras.Variable]:
    """Everything a step reads or writes."""
    optimizer = classifier.optimizer
    optimizer.build(classifier.trainable_variables)
    named = weights.named_variables(extractor, "extractor")
    named |= weights.named_variables(head, "head")
    known = {id(v) for v in named.values()} | {id(v) for v in classifier.metrics_variables}
    generators = [v for v in classifier.variables if id(v) not in known]
    named |= {f"{weights.TRAINING}generator/{i}": v for i, v in enumerate(generators)}
    for i, variable in enumerate(optimizer.variables):
        named[f"{weights.TRAINING}optimizer/{i}/{variable.path}"] = variable
    return named


def _differences(ours: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two nested dicts differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            yield from _differences(ours.get(key), theirs.get(key), f"{path}.{key}")
    elif ours != theirs:
        yield path, ours, theirs
