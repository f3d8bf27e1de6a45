"""The sections of a config: frozen dataclasses, the only place where defaults are written.

Attribute names are the keys of the YAML. :mod:`keras_featx.config` fills them from a file.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from keras_featx import components
from keras_featx.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Component:
    """A pluggable part: its registered name and the arguments its builder gets."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Back to the flat form of the YAML: ``{name: ..., **args}``."""
        return {"name": self.name, **self.args}


def part(
    kind: str, default: Any = dataclasses.MISSING, many: bool = False, inline: bool = False
) -> Any:
    """Declare a dataclass field holding a component (or a list of them) of a registry.

    The keys of an ``inline`` component stand beside those of its section.
    """
    metadata = {"kind": kind, "many": many, "inline": inline}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default_factory=lambda: default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class GlobalSection:
    """What holds for the whole run.

    Attributes:
        output_dir: The run folder; everything a run writes lies in it.
        epochs: Passes over the training list.
        iter_per_epoch: Steps per epoch; ``None`` means one pass over the list.
        seed: Seed of weights, order and augmentation.
        strategy: ``auto`` (mirrored when there are several GPUs), ``single`` or ``mirrored``.
        precision: Keras dtype policy of the network; embedding, head and loss stay float32.
        deterministic: TensorFlow's op determinism: the same run gives the same bits, slower.
        eval_during_train: Evaluate query against gallery every ``eval_interval`` epochs.
        eval_interval: In epochs.
        save_interval: Save ``latest`` every so many epochs (and always after the last).
        checkpoint: A ``latest`` folder to resume from.
        pretrained_model: A ``best_model`` folder, or the name of weights shipped with the package.
        imprint_head: Begin with each class centre at the mean embedding of its training images
            (arXiv:1712.07136) instead of a random one; for fine-tuning pretrained weights.
        save_inference_dir: Where exports go; ``None`` means ``output_dir/inference``.
        print_batch_step: Log a line every so many steps.
        update_freq: Batches whose mean gradient makes one update of the weights. Epochs and steps
            count batches all the same.
    """

    output_dir: str = "output/RecModel"
    epochs: int = 100
    iter_per_epoch: int | None = None
    seed: int = 0
    strategy: Literal["auto", "single", "mirrored"] = "auto"
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    deterministic: bool = False
    eval_during_train: bool = True
    eval_interval: int = 1
    save_interval: int = 1
    checkpoint: str | None = None
    pretrained_model: str | None = None
    imprint_head: bool = False
    save_inference_dir: str | None = None
    print_batch_step: int = 10
    update_freq: int = 1

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        for key in ("epochs", "eval_interval", "save_interval", "print_batch_step", "update_freq"):
            _at_least(path, key, getattr(self, key), 1)
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"{path}.seed: expected in [0, 2^31), got {self.seed}")
        if self.iter_per_epoch is not None:
            _at_least(path, "iter_per_epoch", self.iter_per_epoch, 1)
        if self.imprint_head and not self.pretrained_model:
            raise ConfigError(f"{path}.imprint_head: expected with pretrained_model only")
        if not self.output_dir:
            raise ConfigError(f"{path}.output_dir: expected a folder, got ''")


@dataclass(frozen=True, kw_only=True)
class PreprocessSection:
    """How an image becomes the network's input; travels with the model.

    Attributes:
        resize: ``squash`` ignores the aspect ratio, as the reference does; ``crop`` resizes the
            short side and cuts the centre.
        interpolation: Without antialiasing, as in the reference, or ``area``.
        mean: Per channel (red, green, blue), for pixels in 0..1; subtracted inside the network.
        std: Likewise; divided by inside the network.
    """

    resize: Literal["squash", "crop"] = "squash"
    interpolation: Literal["bilinear", "nearest", "area", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if min(self.std) <= 0:
            raise ConfigError(f"{path}.std: expected positive numbers, got {list(self.std)}")


@dataclass(frozen=True, kw_only=True)
class ArchSection:
    """The network. ``image_size`` is (height, width) in pixels."""

    name: Literal["RecModel"] = "RecModel"
    image_size: tuple[int, int] = (224, 224)
    Preprocess: PreprocessSection = field(default_factory=PreprocessSection)
    Backbone: Component = part("backbone", Component(name="LCNet", args={"scale": 2.5}))
    Neck: Component | None = part("neck", Component(name="Dense"))
    Head: Component = part("head", Component(name="ArcMargin"))

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if min(self.image_size) < 32:
            raise ConfigError(
                f"{path}.image_size: expected at least 32 pixels a side (the network halves its "
                f"input up to five times), got {list(self.image_size)}"
            )


@dataclass(frozen=True, kw_only=True)
class LossSection:
    """Losses of training, summed with their ``weight``."""

    Train: tuple[Component, ...] = part("loss", (Component(name="CELoss"),), many=True)

    def check(self, path: str) -> None:
        """Refuse an empty list."""
        if not self.Train:
            raise ConfigError(f"{path}.Train: expected at least one loss, got []")


@dataclass(frozen=True, kw_only=True)
class PartSection:
    """How the weights of a part of the network are trained.

    Attributes:
        match: Shell pattern of their names in ``weights.npz``: ``extractor/blocks2*``,
            ``*/neck/*``, ``head/*``, ``loss/*/proxies``. Of several that match, the last counts.
        lr_factor: Factor on their learning rate.
        frozen: They stay as they are, batch statistics included.
        weight_decay: Whether they are decayed, by the regulariser or by the rule.
    """

    match: str
    lr_factor: float = 1.0
    frozen: bool = False
    weight_decay: bool = True

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if self.lr_factor <= 0:
            raise ConfigError(
                f"{path}.lr_factor: expected a positive number (or frozen: true), "
                f"got {self.lr_factor}"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerSection:
    """The update rule (name, momentum: its keys stand beside these) and what goes with it.

    Attributes:
        rule: The rule. ``Momentum`` is the reference's, with the learning rate outside the
            velocity.
        clip_norm: Upper bound of the norm of all gradients together.
        clip_norm_each: Upper bound of the norm of each weight's gradient.
        clip_value: Upper bound of every gradient's magnitude.
        lr: The schedule.
        regularizer: ``{name: L2, coeff: 1e-5}`` adds ``coeff * weight`` to the gradient of
            every weight but the scales and offsets of batch normalisation.
        margin_warmup_epoch: (start, end): the head's margin is 0 until epoch ``start`` and
            grows linearly to its full value at epoch ``end``. A full margin from the first
            step hardly learns from scratch.
        parts: Learning rates, decay and freezing by name.
    """

    rule: Component = part("optimizer", Component(name="Momentum"), inline=True)
    clip_norm: float | None = None
    clip_norm_each: float | None = None
    clip_value: float | None = None
    lr: Component = part(
        "schedule", Component(name="Cosine", args={"learning_rate": 0.04, "warmup_epoch": 5})
    )
    regularizer: Component | None = part("regularizer", None)
    margin_warmup_epoch: tuple[float, float] | None = None
    parts: tuple[PartSection, ...] = ()

    @staticmethod
    def upgrade(tree: Mapping[str, Any]) -> Mapping[str, Any]:
        """Read what version 0.1 wrote: the keys of four rules, whichever it was."""
        former = {"momentum": 0.9, "nesterov": False, "beta_1": 0.9, "beta_2": 0.999}
        former |= {"epsilon": 1e-8, "weight_decay": 0.0}
        rule = tree.get("name", "Momentum")
        if not former.keys() <= tree.keys() or rule not in components.REGISTRIES["optimizer"]:
            return tree
        taken = components.parameters("optimizer", rule, "")
        return {k: v for k, v in tree.items() if k in taken or former.get(k, tree) != v}

    def check(self, path: str) -> None:
        """Refuse impossible values and keys that do not go together."""
        clips = [k for k in ("clip_norm", "clip_norm_each", "clip_value") if getattr(self, k)]
        if len(clips) > 1:
            raise ConfigError(f"{path}.{clips[1]}: expected one way to clip, got {clips}")
        for key in ("clip_norm", "clip_norm_each", "clip_value"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ConfigError(f"{path}.{key}: expected a positive number, got {value}")
        rule = self.rule.name
        if self.regularizer and "weight_decay" in components.parameters("optimizer", rule, path):
            raise ConfigError(
                f"{path}.regularizer: expected with a rule without weight_decay, got it with {rule}"
            )
        if self.margin_warmup_epoch is not None:
            start, end = self.margin_warmup_epoch
            if not 0 <= start <= end:
                raise ConfigError(
                    f"{path}.margin_warmup_epoch: expected 0 <= start <= end, got {[start, end]}"
                )


@dataclass(frozen=True, kw_only=True)
class EMASection:
    """A moving average of the extractor, evaluated and kept as ``best_model`` in its place.

    Attributes:
        decay: What remains of the average at an update; ``1 / (1 - decay)`` is its span.
        warmup: At most ``(1 + n) / (10 + n)`` remains at update ``n``, for short runs. The
            reference has none.
    """

    decay: float = 0.9999
    warmup: bool = True

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if not 0 <= self.decay < 1:
            raise ConfigError(f"{path}.decay: expected in [0, 1), got {self.decay}")


@dataclass(frozen=True, kw_only=True)
class TrainDatasetSection:
    """The training list (name, paths: the keys of ``source`` stand beside these).

    Attributes:
        source: The list.
        transform_ops: Augmentation, in order.
        turned_identities: Every image four times, by quarter turns, each a new identity; the
            head has four times the classes.
    """

    source: Component = part("dataset", inline=True)
    turned_identities: bool = False
    transform_ops: tuple[Component, ...] = part(
        "augmentation", (Component(name="RandomResizedCrop"), Component(name="RandomFlip")), True
    )


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """Training data: the list, its augmentation, and which sample comes at which step."""

    dataset: TrainDatasetSection
    sampler: Component = part("sampler", Component(name="Shuffle"))


@dataclass(frozen=True, kw_only=True)
class EvalListSection:
    """One evaluation list. Its images are only decoded and resized."""

    dataset: Component = part("dataset")
    batch_size: int = 64

    def check(self, path: str) -> None:
        """Refuse an empty batch."""
        _at_least(path, "batch_size", self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class EvalSection:
    """Queries, and the gallery they are looked up in."""

    Query: EvalListSection
    Gallery: EvalListSection


@dataclass(frozen=True, kw_only=True)
class DataLoaderSection:
    """The data of training and evaluation; a command asks only for the part it needs."""

    Train: TrainSection | None = None
    Eval: EvalSection | None = None


@dataclass(frozen=True, kw_only=True)
class MetricSection:
    """Metrics of evaluation; the first value of the first one chooses ``best_model``."""

    Eval: tuple[Component, ...] = part(
        "metric", (Component(name="Recallk"), Component(name="mAP")), many=True
    )

    def check(self, path: str) -> None:
        """Refuse an empty list."""
        if not self.Eval:
            raise ConfigError(f"{path}.Eval: expected at least one metric, got []")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole config. Attribute names are the keys of the YAML.

    Example:
        >>> from keras_featx.config import Config
        >>> Config().Arch.image_size
        (224, 224)
    """

    Global: GlobalSection = field(default_factory=GlobalSection)
    Arch: ArchSection = field(default_factory=ArchSection)
    Loss: LossSection = field(default_factory=LossSection)
    Optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    EMA: EMASection | None = None
    DataLoader: DataLoaderSection = field(default_factory=DataLoaderSection)
    Metric: MetricSection = field(default_factory=MetricSection)


def _at_least(path: str, key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{path}.{key}: expected at least {least}, got {value}")
