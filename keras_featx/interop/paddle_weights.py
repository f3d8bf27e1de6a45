"""PaddleClas' names and layouts of the arrays of LCNets, their necks and heads, and ours.

In the reference a recognition model has its arrays below ``backbone.``, ``neck.`` and ``head.``, a
classifier has those of the backbone bare, and models that are trained together have names such as
``Student.`` before all of them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from keras_featx.backbones import lcnet_v2
from keras_featx.backbones.lcnet import STAGES
from keras_featx.errors import ConfigError

# What every network of ours begins with.
FIRST = {"LCNet": "conv1.conv.weight", "LCNetV2": "stem.0.conv.weight"}
_BACKBONE = "backbone."
_NORM = {"weight": "gamma", "bias": "beta", "_mean": "moving_mean", "_variance": "moving_variance"}
# What Paddle calls the arrays of a layer of its own accord.
_NUMBERED = re.compile(r"(conv2d|batch_norm2d|linear)_(\d+)\.([wb]_\d)(?:_deepcopy_\d+)?")
_LEAVES = {"w_0": "weight", "b_0": "bias", "w_1": "_mean", "w_2": "_variance"}


def _conv_norm(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.conv.weight", f"{ours}_conv/kernel"
    for leaf, weight in _NORM.items():
        yield f"{theirs}.bn.{leaf}", f"{ours}_bn/{weight}"


def _dense(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.weight", f"{ours}/kernel"
    yield f"{theirs}.bias", f"{ours}/bias"


def _places() -> Iterator[tuple[str, str]]:
    """Names of the reference with ours, in the order in which it makes its layers."""
    yield from _conv_norm("backbone.conv1", "conv1")
    for stage, rows in STAGES.items():
        for i, (_, _, gated) in enumerate(rows):
            theirs, ours = f"{_BACKBONE}{stage}.{i}", f"{stage}_{i}"
            yield from _conv_norm(f"{theirs}.dw_conv", f"{ours}_dw")
            if gated:
                yield from _dense(f"{theirs}.se.conv1", f"{ours}_se_conv1")
                yield from _dense(f"{theirs}.se.conv2", f"{ours}_se_conv2")
            yield from _conv_norm(f"{theirs}.pw_conv", f"{ours}_pw")
    yield "backbone.last_conv.weight", "last_conv/kernel"
    yield from _dense("neck.fc", "neck")


def _places_v2() -> Iterator[tuple[str, str]]:
    yield from _conv_norm("backbone.stem.0", "stem_0")
    yield from _block_v2("stem.1", "stem_1")
    for stage, (_, kernel_size, split, rep, gated, _, count) in enumerate(lcnet_v2.STAGES):
        for i in range(count):
            branches = len(lcnet_v2.branch_sizes(kernel_size, 1)) if rep else 0
            yield from _block_v2(
                f"stages.{stage}.{i}", f"stages_{stage}_{i}", branches, gated, split
            )
    yield from _dense("backbone.last_conv", "last_conv")
    for leaf, weight in _NORM.items():
        yield f"neck.feat_bn.{leaf}", f"neck_bn/{weight}"


def _block_v2(
    theirs: str, ours: str, branches: int = 0, gated: bool = False, split: bool = False
) -> Iterator[tuple[str, str]]:
    for i in range(branches):
        yield from _conv_norm(f"{_BACKBONE}{theirs}.dw_conv_list.{i}", f"{ours}_dw_{i}")
    if not branches:
        yield from _conv_norm(f"{_BACKBONE}{theirs}.dw_conv", f"{ours}_dw")
    if gated:
        yield from _dense(f"{_BACKBONE}{theirs}.se.conv1", f"{ours}_se_conv1")
        yield from _dense(f"{_BACKBONE}{theirs}.se.conv2", f"{ours}_se_conv2")
    for suffix in ("_1", "_2") if split else ("",):
        yield from _conv_norm(f"{_BACKBONE}{theirs}.pw_conv{suffix}", f"{ours}_pw{suffix}")


PLACES: dict[str, str] = dict(_places())
_PLACES_V2 = dict(_places_v2())
NAMES = {
    "LCNet": {ours: theirs for theirs, ours in PLACES.items()},
    "LCNetV2": {ours: theirs for theirs, ours in _PLACES_V2.items()},
}
CENTRES = ("head.weight", "head.kernel")  # of Arc, Cos and Circle margin; of AdaMargin


def our_path(name: str) -> str:
    """Where an array of a recognition model belongs in ours.

    Example:
        >>> from keras_featx.interop.paddle_weights import our_path
        >>> our_path("backbone.blocks2.0.dw_conv.bn._mean"), our_path("head.weight")
        ('blocks2_0_dw_bn/moving_mean', 'head/centres')
    """
    if name in CENTRES:
        return "head/centres"
    return PLACES[name] if name in PLACES else _PLACES_V2[name]


def axes(name: str, rank: int) -> tuple[int, ...]:
    """Which axes of the reference's array are ours, in order.

    Convolutions are (out, in, height, width) there and (height, width, in, out) here; depthwise
    ones (channels, 1, height, width) and (height, width, channels, 1). Dense layers are the same,
    but class centres are columns there and rows here.

    Example:
        >>> from keras_featx.interop.paddle_weights import axes
        >>> axes("backbone.last_conv.weight", 4), axes("neck.fc.weight", 2), axes("head.weight", 2)
        ((2, 3, 1, 0), (0, 1), (1, 0))
    """
    if rank == 4:
        depthwise = ".dw_conv." in name or ".dw_conv_list." in name
        return (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
    # Those of a head, or of the classifier that a backbone may have.
    return tuple(range(rank)) if name.startswith("neck.") else tuple(range(rank))[::-1]


def to_keras(name: str, array: np.ndarray) -> np.ndarray:
    """An array in our layout."""
    return array.transpose(axes(name, array.ndim))


@dataclass(frozen=True)
class Network:
    """The arrays of one network of a file.

    Attributes:
        source: The file.
        prefix: What its names begin with, such as ``Student.``.
        bare: Whether the names of its backbone lack ``backbone.``.
        arrays: By the names of a recognition model.
    """

    source: str
    prefix: str
    bare: bool
    arrays: dict[str, np.ndarray]

    def name_in_file(self, name: str) -> str:
        """What the file calls the array of a recognition model."""
        return self.prefix + (name.removeprefix(_BACKBONE) if self.bare else name)

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array of a name in our layout, whose shape is given.

        Raises:
            ConfigError: If it is missing, has another shape, or holds no finite numbers.
        """
        order = axes(name, len(shape))
        expected = tuple(shape[order.index(axis)] for axis in range(len(shape)))
        where = f"{self.source}: {self.name_in_file(name)}"
        if name not in self.arrays:
            raise ConfigError(f"{where}: missing; expected shape {expected}")
        array = self.arrays[name]
        if array.shape not in (expected, expected or (1,)):  # a number may be a row of one
            raise ConfigError(f"{where}: expected shape {expected}, got {array.shape}")
        if array.dtype.kind != "f":
            raise ConfigError(f"{where}: expected real numbers, got {array.dtype}")
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise ConfigError(f"{where}: expected finite numbers, got infinite or undefined ones")
        return array.reshape(expected).transpose(order)


def find_network(
    arrays: Mapping[str, np.ndarray],
    source: str,
    prefix: str | None = None,
    backbone: str = "LCNet",
) -> Network:
    """Find a network among the arrays of a file.

    Args:
        arrays: By their names in the file.
        source: The file, for messages.
        prefix: What the names of the network begin with, such as ``Student.``. Without, it is the
            only network there is, or the only student.
        backbone: What ours is called.

    Raises:
        ConfigError: If there is none, or several to choose from.

    Example:
        >>> import numpy as np
        >>> from keras_featx.interop.paddle_weights import find_network
        >>> first = {f"{who}.conv1.conv.weight": np.zeros(1) for who in ("Teacher", "Student")}
        >>> find_network(first, "distilled.pdparams").prefix
        'Student.'
    """
    first = FIRST[backbone]
    firsts = [name.removesuffix(first) for name in arrays if f".{name}".endswith(f".{first}")]
    if not firsts:
        raise ConfigError(
            f"{source}: expected the arrays of an {backbone}, such as {first}, "
            f"got {list(arrays)[:3]}"
        )
    below = {first: _without_backbone(first) for first in firsts}
    prefixes = sorted(set(below.values()))
    if prefix is None:
        students = [p for p in prefixes if "student" in p.lower()]
        found = prefixes if len(prefixes) == 1 else students
        if len(found) != 1:
            raise ConfigError(f"{source}: holds several networks: expected --prefix of {prefixes}")
        (prefix,) = found
    elif prefix not in prefixes:
        raise ConfigError(f"--prefix: expected one of {prefixes} for {source}, got {prefix!r}")
    bare = prefix + _BACKBONE not in below
    begin = _BACKBONE if bare else ""
    own = {k: array for k, array in arrays.items() if k.startswith(prefix)}
    named = {begin + name.removeprefix(prefix): array for name, array in own.items()}
    return Network(source, prefix, bare, named)


def _without_backbone(first: str) -> str:
    return first.removesuffix(_BACKBONE) if f".{first}".endswith(f".{_BACKBONE}") else first


def by_number(names: Iterable[str], source: str, with_neck: bool) -> dict[str, str]:
    """Names of a recognition model for numbered ones such as ``conv2d_3.w_0``.

    Paddle numbers layers as they are made, so that their order tells which is which.

    Args:
        names: All of an exported network.
        source: Its file, for messages.
        with_neck: Whether its dense layer is a neck, or the classifier of a backbone.

    Raises:
        ConfigError: If the layers are not those of an LCNet.
    """
    numbered: dict[str, dict[int, list[tuple[str, str]]]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if not match or match[3] not in _LEAVES:
            raise ConfigError(f"{source}: {name}: expected an array of an LCNet")
        layers = numbered.setdefault(match[1], {})
        layers.setdefault(int(match[2]), []).append((name, _LEAVES[match[3]]))
    weights = [name.removesuffix(".weight") for name in PLACES if name.endswith(".weight")]
    made = {
        "batch_norm2d": [layer for layer in weights if layer.endswith(".bn")],
        "conv2d": [layer for layer in weights if not layer.endswith((".bn", ".fc"))],
        "linear": ["neck.fc" if with_neck else "backbone.fc"],
    }
    found = {}
    for kind, layers in made.items():
        numbers = sorted(numbered.get(kind, {}))
        if len(numbers) < len(layers) - (kind != "batch_norm2d") or len(numbers) > len(layers):
            raise ConfigError(
                f"{source}: expected the {len(layers)} {kind} layers of an LCNet, got "
                f"{len(numbers)}; other networks need the names in {source}.info"
            )
        for layer, number in zip(layers, numbers, strict=False):  # without the last convolution
            found |= {name: f"{layer}.{leaf}" for name, leaf in numbered[kind][number]}
    if len(set(found.values())) < len(found):
        raise ConfigError(f"{source}: expected each array of an LCNet once")
    return found
