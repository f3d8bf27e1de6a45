"""PaddleClas' recognition configs as ours. Imports no framework.

Nothing is left out in silence: what is called otherwise here, or is done otherwise, and what has no
meaning here is told; what would train another network than the reference's is refused.
"""

from collections.abc import Mapping
from typing import Any

from keras_featx import components
from keras_featx.config import from_dict
from keras_featx.errors import ConfigError
from keras_featx.interop.paddle_data_config import convert_eval, convert_train
from keras_featx.interop.paddle_sections import (
    drop,
    leftover,
    one_key,
    parts_of,
    refused,
    required,
    section_of,
    tell,
)

_SAME = (
    "output_dir", "epochs", "iter_per_epoch", "seed", "eval_during_train", "eval_interval",
    "save_interval", "print_batch_step", "save_inference_dir", "update_freq",
)  # fmt: skip
_IDLE = (
    "device", "use_visualdl", "to_static", "use_dali", "start_eval_epoch", "sim_block_size",
    "use_mlu", "use_gpu", "is_distributed", "sync_bn", "loss_scale",
)  # fmt: skip
_WIDTHS = {
    f"PPLCNet_x{scale}".replace(".", "_"): float(scale)
    for scale in ("0.25", "0.35", "0.5", "0.75", "1.0", "1.5", "2.0", "2.5")
}
_STOPS = ("flatten", "flatten_0", "avg_pool")
# Heads, with arguments that are called otherwise here.
_HEADS: dict[str, dict[str, str]] = {
    "ArcMargin": {},
    "CosMargin": {},
    "CircleMargin": {},
    "AdaMargin": {"m": "margin", "s": "scale"},
    "FC": {},
}
# What the reference takes where its config says nothing, and we do not.
_DEFAULTS = {
    "ArcMargin": {"margin": 0.5, "scale": 80.0},
    "CosMargin": {"margin": 0.35, "scale": 64.0},
    "AdaMargin": {"margin": 0.4, "scale": 64.0},
}
# Arguments of losses that say here what is so anyway.
_OF_LOSSES = {"feature_from": "features", "reduction": "mean"}
_SIZES_OF_LOSSES = ("batch_size", "views", "num_classes", "feat_dim", "ps", "num_ids")


def convert_config(tree: Mapping[str, Any], source: str) -> tuple[dict[str, Any], list[str]]:
    """A recognition config of PaddleClas as ours.

    Args:
        tree: The YAML's nested dicts.
        source: The file, for messages.

    Returns:
        Our config as nested dicts, which :func:`keras_featx.config.from_dict` takes, and notes on
        what was translated, renamed, or has no meaning here.

    Raises:
        ConfigError: On what has no counterpart, with the key's full path and the reason.

    Example:
        >>> from keras_featx.interop.paddle_config import convert_config
        >>> arch = {"Backbone": {"name": "PPLCNet_x1_0"}, "BackboneStopLayer": {"name": "flatten"}}
        >>> arch |= {"Neck": {"name": "FC", "embedding_size": 1280, "class_num": 512}}
        >>> arch |= {"Head": {"name": "ArcMargin", "margin": 0.2, "scale": 30}}
        >>> ours, notes = convert_config({"Arch": arch}, "theirs.yaml")
        >>> ours["Arch"]["Backbone"], ours["Arch"]["Neck"]["embedding_size"]
        ({'name': 'LCNet', 'scale': 1.0, 'dropout_scales_inference': True}, 512)
    """
    notes: list[str] = []
    try:
        rest = dict(tree)
        found: dict[str, Any] = {"Global": {}, "Arch": {}}
        shape = _global(section_of(rest, "Global"), found, notes)
        _arch(section_of(rest, "Arch"), found["Arch"], notes)
        found["Arch"]["image_size"] = shape
        if "Loss" in rest:
            found["Loss"] = _loss(section_of(rest, "Loss"), notes)
        if "Optimizer" in rest:
            found["Optimizer"] = _optimizer(section_of(rest, "Optimizer"), found, notes)
        data = section_of(rest, "DataLoader")
        loaders: dict[str, Any] = {}
        if data.get("Train") is not None:
            loaders["Train"] = convert_train(data.pop("Train"), found["Arch"], notes)
        if data.get("Eval") is not None:
            loaders["Eval"] = convert_eval(data.pop("Eval"), found["Arch"], notes)
        leftover(data, "DataLoader")
        found["DataLoader"] = loaders
        if "Metric" in rest:
            metric = _metric(section_of(rest, "Metric"), notes)
            found["Metric"] = found.get("Metric", {}) | metric
        _others(rest, found, notes)
        from_dict(found)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    return found, notes


def _global(section: dict, found: dict, notes: list[str]) -> list[int]:
    """Fills ``Global``; returns the image size."""
    ours = found["Global"]
    for key in _SAME:
        if section.get(key) is not None:
            ours[key] = section[key]
        section.pop(key, None)
    drop(section, _IDLE, "Global", notes)
    if section.pop("checkpoints", None) is not None:
        raise refused("Global.checkpoints", "null: import its weights with `import-paddle`")
    if section.pop("pretrained_model", None) is not None:
        tell(notes, "Global.pretrained_model", "left out: import it with `import-paddle`")
    mode = section.pop("eval_mode", "retrieval")
    if mode == "classification":
        tell(notes, "Global.eval_mode", "evaluation is by retrieval here, classification is not")
    elif mode != "retrieval":
        raise refused("Global.eval_mode", "retrieval", mode)
    if (mode := section.pop("train_mode", None)) is not None:
        raise refused("Global.train_mode", "none", mode)
    if (which := section.pop("retrieval_feature_from", "features")) != "features":
        raise refused("Global.retrieval_feature_from", "features", which)
    binarize = section.pop("feature_binarize", None)
    if binarize is not None:
        ours["feature_binarize"] = binarize
    if not section.pop("feature_normalize", True) and binarize is None:
        raise refused("Global.feature_normalize", "true, as embeddings have unit length", False)
    if section.pop("re_ranking", False):
        tell(notes, "Global.re_ranking", "is Metric.Ranking: [{name: KReciprocal}]")
        found["Metric"] = {"Ranking": [{"name": "KReciprocal", "k1": 20, "k2": 6}]}
    shape = section.pop("image_shape", [3, 224, 224])
    if not isinstance(shape, list) or len(shape) != 3 or shape[0] != 3:
        raise refused("Global.image_shape", "[3, height, width]", shape)
    tell(notes, "Global.image_shape", f"is Arch.image_size, {shape[1:]}")
    leftover(section, "Global")
    return shape[1:]


def _arch(section: dict, ours: dict, notes: list[str]) -> None:
    name = section.pop("name", "RecModel")
    if name != "RecModel":
        raise refused("Arch.name", "RecModel", name)
    drop(section, ("infer_add_softmax", "is_rec"), "Arch", notes)
    if (key := section.pop("infer_output_key", "features")) != "features":
        raise refused("Arch.infer_output_key", "features", key)
    if (key := section.pop("head_feature_from", "neck")) != "neck":
        raise refused("Arch.head_feature_from", "neck", key)
    ours["Backbone"] = _backbone(section_of(section, "Backbone", "Arch"), notes)
    stop = section_of(section, "BackboneStopLayer", "Arch").get("name")
    if stop not in _STOPS:
        raise refused(
            "Arch.BackboneStopLayer.name",
            f"one of {', '.join(_STOPS)}: without, the feature is that of a classifier",
            stop,
        )
    neck = section_of(section, "Neck", "Arch")
    ours["Neck"] = _neck(neck, notes) if neck else None
    ours["Head"] = _head(section_of(section, "Head", "Arch"), notes)
    leftover(section, "Arch")


def _backbone(section: dict, notes: list[str]) -> dict[str, Any]:
    path = "Arch.Backbone"
    name = section.pop("name", None)
    if name in _WIDTHS:
        ours = {"name": "LCNet", "scale": _WIDTHS[name]}
    elif name == "PPLCNetV2_base_ShiTu":
        ours = {"name": "LCNetV2"}
    else:
        raise refused(f"{path}.name", "PPLCNet_x0_25 to PPLCNet_x2_5, PPLCNetV2_base_ShiTu", name)
    if section.pop("pretrained", False):
        tell(notes, f"{path}.pretrained", "left out: import these weights with `import-paddle`")
    drop(section, ("use_ssld", "class_num"), path, notes)
    for theirs, own in {"act": "activation", "dropout_prob": "dropout"}.items():
        if theirs in section:
            ours[own] = section.pop(theirs)
            tell(notes, f"{path}.{theirs}", f"is {own}")
    rates = section.pop("lr_mult_list", None)
    if rates is not None and (not isinstance(rates, list) or set(rates) != {1.0}):
        raise refused(f"{path}.lr_mult_list", "1 everywhere; see Optimizer.parts here", rates)
    known = components.parameters("backbone", ours["name"], path)
    ours |= {key: section.pop(key) for key in list(section) if key in known}
    leftover(section, path)
    # As the reference's dropout does.
    return ours | {"dropout_scales_inference": True}


def _neck(section: dict, notes: list[str]) -> dict[str, Any]:
    path = "Arch.Neck"
    name = section.pop("name", None)
    if name == "FC":
        ours = {"name": "Dense", "embedding_size": section.pop("class_num", None)}
        _initial_only(section, "weight_attr", path)
        drop(section, ("embedding_size", "weight_attr"), path, notes)
        tell(notes, f"{path}.class_num", "is embedding_size")
        ours["use_bias"] = _has_bias(section, path)
    elif name == "BNNeck":
        _initial_only(section, "weight_attr", path)
        drop(section, ("num_features", "weight_attr"), path, notes)
        rate = section_of(section, "bias_attr", path).get("learning_rate", 1)
        ours = {"name": "BNNeck", "train_bias": rate > 1e-10}
    else:
        raise refused(f"{path}.name", "FC or BNNeck", name)
    leftover(section, path)
    return ours


def _head(section: dict, notes: list[str]) -> dict[str, Any]:
    path = "Arch.Head"
    name = section.pop("name", None)
    if name not in _HEADS:
        raise refused(f"{path}.name", f"one of {', '.join(_HEADS)}", name)
    ours: dict[str, Any] = {"name": name}
    if name == "FC":
        ours = {"name": "Linear", "use_bias": _has_bias(section, path)}
        _initial_only(section, "weight_attr", path)
        where = f"{path}.weight_attr"
        initial = section_of(section_of(section, "weight_attr", path), "initializer", where)
        if initial.get("name") == "Normal":
            ours["stddev"] = required(initial, "std", f"{where}.initializer")
        elif initial.get("name") not in (None, "XavierNormal"):
            raise refused(f"{path}.weight_attr.initializer.name", "Normal", initial["name"])
    for theirs, own in _HEADS[name].items():
        if theirs in section:
            ours[own] = section.pop(theirs)
            tell(notes, f"{path}.{theirs}", f"is {own}")
    known = components.parameters("head", ours["name"], path)
    ours |= {key: section.pop(key) for key in list(section) if key in known}
    for key, value in _DEFAULTS.get(name, {}).items():
        if key not in ours:
            ours[key] = value
            tell(notes, f"{path}.{key}", f"is {value:g} there where it is not stated")
    leftover(section, path)
    return ours


def _has_bias(section: dict, path: str) -> bool:
    """Of a fully connected layer; Paddle has one unless that is said to be false."""
    given = section.pop("bias_attr", None)
    if given not in (None, True, False):
        raise refused(f"{path}.bias_attr", "true or false", given)
    return given is not False


def _initial_only(section: dict, key: str, path: str) -> None:
    """Refuse attributes of weights that change how they train."""
    attributes = section.get(key)
    if attributes is not None and (
        not isinstance(attributes, Mapping) or set(attributes) - {"initializer"}
    ):
        raise refused(f"{path}.{key}", "an initializer alone", attributes)


def _loss(section: dict, notes: list[str]) -> dict[str, Any]:
    drop(section, ("Eval",), "Loss", notes)
    ours = []
    for i, part in enumerate(parts_of(section, "Train", "Loss")):
        name, given = one_key(part, f"Loss.Train.{i}")
        path = f"Loss.Train.{i}.{name}"
        if name not in components.REGISTRIES["loss"]:
            raise refused(path, "a loss that is here (docs/losses.md)")
        known = components.parameters("loss", name, path)
        for key, value in _OF_LOSSES.items():
            if given.get(key, value) != value:
                raise refused(f"{path}.{key}", value, given[key])
            given.pop(key, None)
        drop(given, [key for key in _SIZES_OF_LOSSES if key not in known], path, notes)
        taken = {key: given.pop(key) for key in list(given) if key in known}
        leftover(given, path)
        ours.append({"name": name, **taken})
    leftover(section, "Loss")
    return {"Train": ours}


def _optimizer(section: dict, found: dict, notes: list[str]) -> dict[str, Any]:
    rates = section_of(section, "lr", "Optimizer")
    if rates.get("name") in ("MultiStep", "MultiStepDecay"):
        rate, gamma = required(rates, "learning_rate", "Optimizer.lr"), rates.pop("gamma", 0.1)
        steps = required(rates, "milestones", "Optimizer.lr")
        values = [rate * gamma**i for i in range(len(steps) + 1)]
        rates = {**rates, "name": "Piecewise", "decay_epochs": steps, "values": values}
        tell(notes, "Optimizer.lr.name", "MultiStep is Piecewise with the rates spelled out")
    if rates.pop("by_epoch", False):
        raise refused("Optimizer.lr.by_epoch", "false, as rates change at every step here", True)
    drop(rates, ("last_epoch", "verbose"), "Optimizer.lr", notes)
    for theirs, own in {"beta1": "beta_1", "beta2": "beta_2"}.items():
        if theirs in section:
            section[own] = section.pop(theirs)
            tell(notes, f"Optimizer.{theirs}", f"is {own}")
    drop(section, ("multi_precision",), "Optimizer", notes)
    return {**section, "lr": rates}


def _metric(section: dict, notes: list[str]) -> dict[str, Any]:
    drop(section, ("Train",), "Metric", notes)
    ours = []
    for i, part in enumerate(parts_of(section, "Eval", "Metric")):
        name, given = one_key(part, f"Metric.Eval.{i}")
        if name == "TopkAcc":
            tell(notes, f"Metric.Eval.{i}", "TopkAcc is of classification: left out")
            continue
        if name not in components.REGISTRIES["metric"]:
            raise refused(f"Metric.Eval.{i}.{name}", "a metric that is here (docs/evaluation.md)")
        ours.append({"name": name, **given})
    leftover(section, "Metric")
    return {"Eval": ours} if ours else {}


def _others(rest: dict, found: dict, notes: list[str]) -> None:
    """Mixed precision, moving averages, and what commands of the reference have of their own."""
    if amp := section_of(rest, "AMP"):
        if amp.pop("use_amp", True):
            found["Global"]["precision"] = "mixed_float16"
        tell(notes, "AMP", f"is Global.precision, {found['Global'].get('precision', 'float32')}")
    if average := section_of(rest, "EMA"):
        found["EMA"] = {"decay": average.get("decay", 0.9999), "warmup": False}
    drop(rest, ("Infer", "profiler_options"), "", notes)
    leftover(rest, "")
