"""The sections of a config that say how weights are updated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_featx import components
from keras_featx.components import Component, part
from keras_featx.errors import ConfigError


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
