"""What a run was: its learning curves, its data, its network, and what it ran on."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_featx._version import __version__
from keras_featx.components import Component
from keras_featx.config import to_dict
from keras_featx.data.samples import Samples
from keras_featx.evaluation import Evaluation
from keras_featx.report.charts import Axis, Series, axis_of, legend, lines
from keras_featx.report.page import facts
from keras_featx.report.wording import metric_words, number
from keras_featx.sections import Config

# Columns of the history that are no losses.
_NO_LOSSES = ("epoch", "step", "skipped", "lr", "accuracy", "images_per_second")


def learning_curves(history: Sequence[Mapping[str, Any]], sets: Mapping[str, Evaluation]) -> str:
    """Charts of the rows of ``metrics.csv``: losses, accuracy, the figures, rate and speed."""
    epochs = [row["epoch"] for row in history]
    x = Axis(min(*epochs, 1), max(*epochs, 2), "epoch", show="{:g}".format)
    keys = dict.fromkeys(key for row in history for key in row)
    # Losses come before the speed, the figures of evaluation after it.
    before = itertools.takewhile(lambda key: key != "images_per_second", keys)
    losses = [key for key in before if key not in _NO_LOSSES]
    charts = [_curves(history, {key: key for key in losses}, x, "training loss")]
    for name, found in sets.items():
        prefix, of_set = (f"{name}/", f", {name}") if name else ("", "")
        known = {f"{prefix}{key}": metric_words(key)[0] for key in found.result.per_query}
        fractions = {
            key: title
            for key, title in known.items()
            if all(0 <= value <= 1 for _, value in _values(history, key))
        }
        charts.append(_curves(history, fractions, x, f"evaluation{of_set}, %", 100))
        others = {key: title for key, title in known.items() if key not in fractions}
        charts.append(_curves(history, others, x, f"evaluation{of_set}"))
    charts += [
        _curves(history, {"accuracy": ""}, x, "training accuracy without margin, %", 100),
        _curves(history, {"lr": ""}, x, "learning rate"),
        _curves(history, {"images_per_second": ""}, x, "training images a second"),
    ]
    return f'<div class="charts">{"".join(charts)}</div>'


def _curves(history, names: Mapping[str, str], x: Axis, title: str, scale: float = 1) -> str:
    """A chart of some columns, of the epochs that have them; nothing where none has."""
    series = []
    for i, (key, name) in enumerate(names.items()):
        points = _values(history, key)
        if points:
            epochs, values = zip(*points, strict=True)
            few = len(points) <= 40
            series.append(Series(name, epochs, [scale * v for v in values], i % 5, dots=few))
    if not series:
        return ""
    everything = np.concatenate([one.y for one in series])
    y = Axis(0, 100, title) if scale == 100 else axis_of(everything, title, zero=True)
    return f"<div>{lines(series, x, y, title)}{legend(series) if len(names) > 1 else ''}</div>"


def _values(history, key: str) -> list[tuple[int, float]]:
    return [
        (row["epoch"], float(row[key]))
        for row in history
        if isinstance(row.get(key), int | float) and np.isfinite(row[key])
    ]


def seen_in_training(train: Samples | None, found: Evaluation) -> tuple[bool, str]:
    """Whether none of the queries' identities is known to be trained on, and what is known."""
    if train is None:
        return False, "Which identities the network was trained on is not known here."
    query = found.query
    if train.names is None or query.names is None:
        both = 0
        if train.pixels is None and query.pixels is None:
            both = len(set(query.images()).intersection(train.images()))
        return False, (
            "Whether the network was trained on these identities cannot be seen from the lists: "
            "labels are numbers, which each list may count anew. "
            f"{number(both, 'query image') if both else 'No query image'} "
            f"{'are' if both > 1 else 'is'} in the training list."
        )
    own = {query.names[label] for label in np.unique(query.labels).tolist()}
    both = own & _trained_names(train)
    if both:
        return False, (
            f"{len(both)} of the {number(len(own), 'identity', 'identities')} "
            f"{'is' if len(both) == 1 else 'are'} in the training list, too."
        )
    return True, "None of the identities is in the training list."


def _trained_names(train: Samples) -> set[str]:
    names = {train.names[label] for label in np.unique(train.labels).tolist()}
    # Turned by 0 degrees an identity is itself.
    return names if train.turns is None else {name.removesuffix(" turned 0") for name in names}


def data_facts(train: Samples | None, found: Evaluation) -> str:
    """The lists."""
    rows = []
    if train is not None:
        turned = "" if train.turns is None else ", each turned four times"
        rows.append(("training list", f"{train.source}: {_size(train)}{turned}"))
    for name in ("query", "gallery"):
        samples = getattr(found, name)
        rows.append((f"{name} list", f"{samples.source}: {_size(samples)}"))
    if found.seconds:
        images = len(found.query) + len(found.gallery)
        speed = f"{found.seconds:.1f} s, {images / found.seconds:.0f} images a second"
        rows.append(("reading and embedding", speed))
    return facts(rows)


def _size(samples: Samples) -> str:
    identities = number(len(np.unique(samples.labels)), "identity", "identities")
    return f"{number(len(samples), 'image')} of {identities}"


def run_facts(config: Config, history: Sequence[Mapping[str, Any]], weights: int | None) -> str:
    """Network, training and software."""
    arch, optimizer = config.Arch, config.Optimizer
    rows = [
        ("backbone", _part(arch.Backbone)),
        ("neck", "none" if arch.Neck is None else _part(arch.Neck)),
        ("weights of the extractor", "not counted" if weights is None else number(weights)),
        ("image size, height x width", " x ".join(map(str, arch.image_size))),
        ("preprocessing", _preprocessing(config)),
        ("precision", config.Global.precision),
    ]
    if history:
        settings = config.Global
        with_head = any(loss.name == "CELoss" for loss in config.Loss.Train)
        rows += [
            ("head", _part(arch.Head) if with_head else "none"),
            ("losses", "; ".join(map(_part, config.Loss.Train))),
            ("optimizer", f"{_part(optimizer.rule)}; {_part(optimizer.lr)}"),
            ("epochs", number(settings.epochs)),
            ("sampler", _part(config.DataLoader.Train.sampler)),
            ("seed", settings.seed),
            ("began with", settings.pretrained_model or settings.checkpoint or "random weights"),
        ]
    speeds = [row["images_per_second"] for row in history if row.get("images_per_second")]
    if speeds:
        rows.append(("training speed, median", f"{np.median(speeds):.0f} images a second"))
    rows += [
        ("keras_featx", __version__),
        ("keras, tensorflow, numpy", f"{keras.__version__}, {tf.__version__}, {np.__version__}"),
    ]
    return facts(rows)


def _preprocessing(config: Config) -> str:
    """What is done to images, without what is not."""
    steps = to_dict(config)["Arch"]["Preprocess"].items()
    return _arguments({key: value for key, value in steps if value})


def _part(part: Component) -> str:
    arguments = _arguments(part.args)
    return f"{part.name} ({arguments})" if arguments else part.name


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items() if v is not None)


def network(config: Config, size: int) -> str:
    """The network in a line."""
    arch = config.Arch
    sides = " x ".join(map(str, arch.image_size))
    return f"{_part(arch.Backbone)}, {sides} pixels, {size} numbers an image"
