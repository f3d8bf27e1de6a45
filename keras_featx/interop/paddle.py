"""From PaddleClas' weight files to a weights folder of ours."""

import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_featx import components, distribute, models
from keras_featx import weights as folders
from keras_featx.config import dump_config, load_config
from keras_featx.errors import ConfigError
from keras_featx.interop.paddle_files import read_pdiparams, read_pdparams
from keras_featx.interop.paddle_weights import (
    CENTRES,
    FIRST,
    NAMES,
    Network,
    by_number,
    find_network,
)
from keras_featx.sections import ArchSection, Config

# The reference's own default; its weight files do not say what it was.
DROPOUT = 0.2
_NECK, _CENTRES = "extractor/neck/kernel", "head/centres"
_MEAN, _VARIANCE = "extractor/neck_bn/moving_mean", "extractor/neck_bn/moving_variance"
_EPSILON = np.float32(1e-5)
# What a learning rate of 1e-20 makes of zero is far below this; an embedding's numbers are about 1.
_SHIFT, NO_SHIFT = "neck.feat_bn.bias", 1e-6
# AdaMargin's statistics of the lengths of embeddings.
_NORMS = {"head/norm_mean": "head.batch_mean", "head/norm_std": "head.batch_std"}

log = logging.getLogger(__name__)


def import_paddle(
    weights: str | os.PathLike,
    config: Config | str | os.PathLike,
    output: str | os.PathLike,
    *,
    prefix: str | None = None,
    model: str | os.PathLike | None = None,
    dropout: float | None = None,
    fresh_neck: bool = False,
) -> dict[str, Any]:
    """Make a weights folder of a file that PaddleClas wrote. Paddle is not needed.

    The dropout of the reference multiplies features by ``1 - dropout`` at inference. Unless
    ``Arch.Backbone.dropout_scales_inference`` of the config has the same done, the factor goes into
    what takes the feature: the kernel of the neck, or the centres of a ``Linear`` head.

    Args:
        weights: ``.pdparams`` as training writes it, or ``.pdiparams`` of an export, beside its
            ``.pdmodel`` or ``.json``.
        config: Ours, or its YAML file; its ``Arch`` must be that of the network. Without
            ``Head.class_num`` the classes are those of the file.
        output: The folder, for ``Global.pretrained_model``; weights that are there are replaced.
        prefix: What the names of the network begin with, such as ``Student.``. Without, it is the
            only network of the file, or the only student.
        model: The ``.pdmodel`` or ``.json`` of a ``.pdiparams``, where it lies elsewhere.
        dropout: ``dropout_prob`` of the reference's backbone, in [0, 1); 0.2 where not given. An
            export says it itself.
        fresh_neck: Keep the neck's initial weights, drawn by ``Global.seed``, and take no class
            centres: for a backbone that was trained as a classifier.

    Returns:
        ``output``; ``prefix``; ``arrays``, how many were used; ``unused``, the names of the others;
        ``fresh``, our weights that keep their initial values; ``class_centres``, how many classes
        got theirs, 0 where the file has none for this head; ``feature_scale``, what the reference
        multiplies features with; ``folded``, the factors that went into weights of ours.

    Raises:
        ConfigError: If an array is missing or has another shape than in the config's network, or
            the file holds anything but arrays.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    arch, source = config.Arch, os.fspath(weights)
    if arch.Backbone.name not in FIRST:
        known = " or ".join(FIRST)
        raise ConfigError(f"Arch.Backbone.name: expected {known}, got {arch.Backbone.name!r}")
    if fresh_neck and arch.Neck is None:
        raise ConfigError("--fresh-neck: expected with Arch.Neck only")
    arrays, scale = _read(source, model, dropout, arch)
    network = find_network(arrays, source, prefix, arch.Backbone.name)

    keras.utils.set_random_seed(config.Global.seed)
    extractor = models.build_extractor(arch, config.Global.precision)
    variables = folders.named_variables(extractor, "extractor")
    names = _extractor_names(variables, arch, fresh_neck)
    if not fresh_neck:
        _check_no_bias_is_lost(network, arch, names.values())
    head_names = {} if fresh_neck else _head_names(network, arch)
    head = _build_head(network, arch, extractor, head_names) if head_names else None
    if head is not None:
        own = folders.named_variables(head, "head")
        variables |= own
        names |= {path: name for path, name in head_names.items() if path in own}
    values = {p: network.take(name, distribute.shape(variables[p])) for p, name in names.items()}
    folded = _fold(values, arch, scale)
    folders.assign({path: variables[path] for path in values}, values, source)
    folders.save_weights(output, dump_config(config), extractor, head)

    used = {network.name_in_file(name) for name in names.values()}
    unused = [name for name in arrays if name not in used]
    log.info("%s: %d arrays used, %d not", source, len(used), len(unused))
    return {
        "output": os.fspath(output),
        "prefix": network.prefix,
        "arrays": len(used),
        "unused": unused,
        "fresh": sorted(set(variables) - set(names)),
        "class_centres": 0 if head is None else head.class_num,
        "feature_scale": scale,
        "folded": folded,
    }


def _read(
    source: str, model: str | os.PathLike | None, dropout: float | None, arch: ArchSection
) -> tuple[Mapping[str, np.ndarray], float]:
    """Arrays of a file, and what its network multiplies features with at inference."""
    if not source.endswith(".pdiparams"):
        if model is not None:
            raise ConfigError(f"--model: expected with .pdiparams only, got it with {source}")
        if dropout is not None and not 0 <= dropout < 1:
            raise ConfigError(f"--dropout: expected in [0, 1), got {dropout}")
        scale = 1 - (DROPOUT if dropout is None else dropout)
        return read_pdparams(source), scale if _argument(arch, "use_last_conv") else 1.0
    if dropout is not None:
        raise ConfigError(f"--dropout: expected without .pdiparams, which says it, got {dropout}")
    exported = read_pdiparams(source, model)
    arrays = exported.arrays
    if exported.numbered:
        named = by_number(arrays, source, with_neck=arch.Neck is not None)
        arrays = {named[name]: array for name, array in arrays.items()}
    return arrays, exported.program.feature_scale


def _argument(arch: ArchSection, name: str) -> Any:
    """An argument of the backbone, or its default; true where it has none of that name."""
    known = components.parameters("backbone", arch.Backbone.name, "Arch.Backbone")
    default = known[name].default if name in known else True
    return arch.Backbone.args.get(name, default)


def _extractor_names(
    variables: Mapping[str, Any], arch: ArchSection, fresh_neck: bool
) -> dict[str, str]:
    """The reference's names of all weights of an extractor that are to be taken."""
    names = {}
    known = {k: v for k, v in NAMES[arch.Backbone.name].items() if not v.startswith("neck.")}
    if arch.Neck is not None:
        necks = NAMES["LCNet" if arch.Neck.name == "Dense" else "LCNetV2"]
        known = known | {ours: name for ours, name in necks.items() if name.startswith("neck.")}
    for path in variables:
        ours = path.removeprefix("extractor/")
        if fresh_neck and ours.startswith("neck"):
            continue
        if ours not in known:
            key = "Arch.Neck.batch_norm" if ours.startswith("neck") else "Arch.Backbone.levels"
            raise ConfigError(f"{key}: expected none, as PaddleClas has nothing like {ours}")
        names[path] = known[ours]
    return names


def _check_no_bias_is_lost(network: Network, arch: ArchSection, taken: Iterable[str]) -> None:
    """A neck without shift is for files whose shift has stayed at zero, up to rounding."""
    if arch.Neck is None or arch.Neck.name != "BNNeck" or _SHIFT in taken:
        return
    largest = float(np.abs(network.arrays.get(_SHIFT, np.zeros(1))).max())
    if not largest <= NO_SHIFT:
        raise ConfigError(
            f"Arch.Neck.train_bias: expected true for {network.source}, whose "
            f"{network.name_in_file(_SHIFT)} is not zero but up to {largest:.3g}, got false"
        )


def _head_names(network: Network, arch: ArchSection) -> dict[str, str]:
    """The reference's names of what a head takes; none where the file has no such head."""
    if arch.Head.name == "Linear":
        layers = ["head.fc"] if arch.Neck else ["head.fc", "backbone.fc"]
        found = [layer for layer in layers if f"{layer}.weight" in network.arrays]
        return {_CENTRES: f"{found[0]}.weight", "head/bias": f"{found[0]}.bias"} if found else {}
    found = [name for name in CENTRES if name in network.arrays]
    if not found:
        return {}
    return {_CENTRES: found[0]} | {p: n for p, n in _NORMS.items() if n in network.arrays}


def _build_head(
    network: Network, arch: ArchSection, extractor: keras.Model, names: Mapping[str, str]
) -> keras.Layer:
    """A head with its weights, of as many classes as the config says, or else the file."""
    stated = arch.Head.args.get("class_num")
    shape = network.arrays[names[_CENTRES]].shape
    head = models.build_head(arch, shape[-1] if stated is None and shape else None)
    models.build_classifier(extractor, head)
    return head


def _fold(values: dict[str, np.ndarray], arch: ArchSection, scale: float) -> dict[str, float]:
    """Multiply what takes the feature, so that a feature that is not scaled gives the same."""
    if _argument(arch, "use_last_conv") and _argument(arch, "dropout_scales_inference"):
        scale /= 1 - _argument(arch, "dropout")
    if scale == 1:
        return {}
    if arch.Neck is not None and arch.Neck.name == "BNNeck":
        if _VARIANCE not in values:  # a fresh neck finds the scale of features itself
            return {}
        # That of the variance is of the sum with epsilon.
        values[_VARIANCE] = (values[_VARIANCE] + _EPSILON) / np.float32(scale**2) - _EPSILON
        values[_MEAN] = values[_MEAN] / np.float32(scale)
        return {_MEAN: 1 / scale, _VARIANCE: 1 / scale**2}
    if arch.Neck is not None:
        factors = {_NECK: scale}
    else:  # the embedding has unit length; what sees its length is compensated
        factors = {_CENTRES: scale} if arch.Head.name == "Linear" else {}
        factors |= dict.fromkeys(_NORMS, 1 / scale)
    factors = {path: factor for path, factor in factors.items() if path in values}
    for path, factor in factors.items():
        values[path] = values[path] * np.float32(factor)
    return factors
