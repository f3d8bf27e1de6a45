"""Exact save and resume of a training run.

``latest/weights.npz`` holds what any weights folder does (:mod:`keras_featx.weights`), and
besides the states of random generators, every variable of the optimizer, and as JSON what Python
knew: epoch, best metric, history. The position in the data is not saved: it follows from the
epoch.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from keras_featx import distribute, models, weights
from keras_featx.config import dump_config, load_config, to_dict
from keras_featx.errors import ConfigError
from keras_featx.optimizers import named_weights
from keras_featx.sections import Config

log = logging.getLogger(__name__)


class Net(NamedTuple):
    """A classifier that trains, and its parts; ``head`` is ``None`` without cross-entropy."""

    classifier: keras.Model
    extractor: keras.Model
    head: keras.Layer | None


@dataclasses.dataclass
class State:
    """What a run knows besides its variables.

    Attributes:
        epoch: Epochs done.
        best: Best value so far of the figure that chooses ``best_model``.
        monitor: The name of that figure; empty where nothing was evaluated.
        teacher: Fingerprint of the teacher; empty where there is none.
        history: One dict per epoch done, the rows of ``metrics.csv``.
    """

    epoch: int = 0
    best: float | None = None
    monitor: str = ""
    teacher: str = ""
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def save(
    folder: str | os.PathLike,
    config: Config,
    net: Net,
    state: State,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write a checkpoint; an interrupted write leaves the former one whole.

    Class centres that are split over replicas are written whole, so another number of replicas can
    go on with them.
    """
    meta = {"format": 1, "arch": to_dict(config)["Arch"], **dataclasses.asdict(state)}
    variables = _variables(net)
    weights.save_variables(folder, dump_config(config), variables, meta, class_names)


def restore(
    folder: str | os.PathLike,
    config: Config,
    net: Net,
    class_names: Sequence[str] | None = None,
) -> State:
    """Load a checkpoint into a compiled classifier.

    Raises:
        ConfigError: If there is none, it is damaged, it is of another architecture, or its classes
            have other names.
    """
    path = Path(folder) / weights.WEIGHTS
    if not path.is_file():
        raise ConfigError(
            f"Global.checkpoint: expected a folder with {path.name} (the `latest` of a run), "
            f"got {str(folder)!r}"
        )
    arrays, meta = weights.read_arrays(path)
    names = weights.decode_names(arrays.pop(weights.CLASS_NAMES, None))
    if meta.get("format") != 1:
        raise ConfigError(
            f"{path}: expected a checkpoint to resume from (the `latest` of a run), got weights "
            "alone; Global.pretrained_model takes those"
        )
    for key, ours, theirs in _differences(to_dict(config)["Arch"], meta["arch"], "Arch"):
        raise ConfigError(f"{path}: {key}: expected {ours!r} as in the config, got {theirs!r}")
    if None not in (names, class_names) and names != list(class_names):
        label, (ours, theirs) = next(
            (i, pair)
            for i, pair in enumerate(zip(class_names, names, strict=True))
            if len({*pair}) > 1
        )
        raise ConfigError(
            f"{path}: label {label}: expected the name {ours!r} as in the training list, got "
            f"{theirs!r}; Global.pretrained_model finds class centres by name"
        )
    variables = _variables(net)
    weights.assign(variables, arrays, str(path))
    unused = [k for k in arrays if k not in variables]
    if unused:
        raise ConfigError(
            f"{path}: {unused[0]} has no place here ({len(unused)} such arrays): expected a "
            "checkpoint made with the same Optimizer"
        )
    _warn_of_changes(config, load_config(path.with_name(weights.CONFIG)))
    # Checkpoints of earlier versions do not name the figure, nor a teacher.
    monitor, teacher = meta.get("monitor", ""), meta.get("teacher", "")
    return State(meta["epoch"], meta["best"], monitor, teacher, meta["history"])


def _warn_of_changes(config: Config, before: Config) -> None:
    """A resumed run equals an uninterrupted one only under the same config; say what differs."""
    ours, theirs = to_dict(config), to_dict(before)
    sections = [(key, key) for key in ("Loss", "Distillation", "Optimizer")]
    sections.append(("DataLoader.Train", "Train"))
    for tree in (ours, theirs):
        tree["Train"] = tree["DataLoader"]["Train"]
    for path, key in sections:
        for differing in _differences(ours[key], theirs[key], path):
            log.warning("resuming with %s: %r, the checkpoint was made with %r", *differing)


def _variables(net: Net) -> dict[str, keras.Variable]:
    """Everything a step reads or writes, and the next one depends on."""
    classifier = net.classifier
    optimizer = classifier.optimizer
    optimizer.build(classifier.trainable_variables)
    named = named_weights(net.extractor, net.head, models.loss_layers(classifier))
    known = {id(v) for v in named.values()} | {id(v) for v in classifier.metrics_variables}
    others = [v for v in classifier.variables if id(v) not in known]
    generators = [v for v in others if not distribute.is_transient(v)]
    named |= {f"{weights.TRAINING}generator/{i}": v for i, v in enumerate(generators)}
    for i, variable in enumerate(optimizer.variables):
        if not distribute.is_transient(variable):
            named[f"{weights.TRAINING}optimizer/{i}/{variable.path}"] = variable
    return named


def _differences(ours: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two nested dicts differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            yield from _differences(ours.get(key), theirs.get(key), f"{path}.{key}")
    elif ours != theirs:
        yield path, ours, theirs
