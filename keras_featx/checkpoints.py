"""Exact save and resume of a training run.

``latest/checkpoint.npz`` holds every variable of the classifier (with the states of its random
generators) and of the optimizer, and as JSON what Python knew: epoch, best metric, history. The
position in the data is not saved: it follows from the epoch.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_featx import weights
from keras_featx.errors import ConfigError

FILE = "checkpoint.npz"


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
    folder: str | os.PathLike, classifier: keras.Model, state: State, arch: dict[str, Any]
) -> None:
    """Write a checkpoint; an interrupted write leaves the former one whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {path: np.asarray(v) for path, v in _variables(classifier).items()}
    meta = {"format": 1, "arch": arch, **dataclasses.asdict(state)}
    weights.write_arrays(folder / FILE, arrays, meta)


def restore(folder: str | os.PathLike, classifier: keras.Model, arch: dict[str, Any]) -> State:
    """Load a checkpoint into a compiled classifier.

    Raises:
        ConfigError: If there is none, it is damaged, or it is of another architecture.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise ConfigError(
            f"Global.checkpoint: expected a folder with {FILE} (the `latest` of a run), "
            f"got {str(folder)!r}"
        )
    arrays, meta = weights.read_arrays(path)
    if meta.get("format") != 1:
        raise ConfigError(f"{path}: expected a checkpoint of format 1, got {meta.get('format')!r}")
    differing = _first_difference(arch, meta["arch"], "Arch")
    if differing:
        key, ours, theirs = differing
        raise ConfigError(f"{path}: {key}: expected {ours!r} as in the config, got {theirs!r}")
    variables = _variables(classifier)
    weights.assign(variables, arrays, str(path))
    unused = [k for k in arrays if k not in variables]
    if unused:
        raise ConfigError(f"{path}: {unused[0]} has no place here ({len(unused)} such arrays)")
    return State(epoch=meta["epoch"], best=meta["best"], history=meta["history"])


def _variables(classifier: keras.Model) -> dict[str, keras.Variable]:
    optimizer = classifier.optimizer
    optimizer.build(classifier.trainable_variables)
    metrics = {id(v) for v in classifier.metrics_variables}
    model = [v for v in classifier.variables if id(v) not in metrics]
    named = {f"model/{v.path}": v for v in model}
    named |= {f"optimizer/{i}/{v.path}": v for i, v in enumerate(optimizer.variables)}
    if len(named) != len(model) + len(optimizer.variables):
        raise ValueError("two variables of the classifier share a path")
    return named


def _first_difference(ours: Any, theirs: Any, path: str) -> tuple[str, Any, Any] | None:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            found = _first_difference(ours.get(key), theirs.get(key), f"{path}.{key}")
            if found:
                return found
        return None
    return None if ours == theirs else (path, ours, theirs)
