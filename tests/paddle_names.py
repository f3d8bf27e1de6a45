"""Load weights under PaddleClas' names into our networks, for parity tests."""

import re

import numpy as np

LEAVES = {
    ("conv", "weight"): "kernel",
    ("bn", "weight"): "gamma",
    ("bn", "bias"): "beta",
    ("bn", "_mean"): "moving_mean",
    ("bn", "_variance"): "moving_variance",
}


def our_path(name: str) -> str:
    """`backbone.blocks2.0.dw_conv.bn._mean` -> `blocks2_0_dw_bn/moving_mean`."""
    fixed = {
        "backbone.last_conv.weight": "last_conv/kernel",
        "neck.fc.weight": "neck/kernel",
        "neck.fc.bias": "neck/bias",
        "head.weight": "head/centres",
    }
    if name in fixed:
        return fixed[name]
    match = re.fullmatch(r"backbone\.(blocks6)\.(\d)\.se\.(conv\d)\.(weight|bias)", name)
    if match:
        leaf = "kernel" if match[4] == "weight" else "bias"
        return f"{match[1]}_{match[2]}_se_{match[3]}/{leaf}"
    match = re.fullmatch(r"backbone\.(blocks\d)\.(\d)\.(dw|pw)_conv\.(conv|bn)\.(\w+)", name)
    if match:
        return f"{match[1]}_{match[2]}_{match[3]}_{match[4]}/{LEAVES[match[4], match[5]]}"
    match = re.fullmatch(r"backbone\.conv1\.(conv|bn)\.(\w+)", name)
    return f"conv1_{match[1]}/{LEAVES[match[1], match[2]]}"


def to_keras(name: str, array: np.ndarray) -> np.ndarray:
    """OIHW to HWIO; depthwise (C, 1, k, k) to (k, k, C, 1); centres to rows; others stay."""
    if name == "head.weight":
        return array.T
    if array.ndim != 4:
        return array
    if ".dw_conv." in name:
        return array.transpose(2, 3, 0, 1)
    return array.transpose(2, 3, 1, 0)


def load(model, golden) -> None:
    """Every golden parameter into the model; every weight of the model from a parameter."""
    params = {k.removeprefix("param/"): golden[k] for k in golden.files if k.startswith("param/")}
    variables = {v.path: v for v in model.weights if not v.path.endswith("margin_factor")}
    for name, array in params.items():
        variables.pop(our_path(name)).assign(to_keras(name, array))
    if variables:
        raise AssertionError(f"not in the golden file: {sorted(variables)}")
