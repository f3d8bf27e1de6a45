"""Parts of a network by their weights' names: their learning rate, their decay, frozen or not."""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import keras

from keras_featx import weights
from keras_featx.errors import ConfigError
from keras_featx.optimizer_section import PartSection


def chosen(parts: Sequence[PartSection], name: str) -> PartSection:
    """The last part whose pattern matches a weight's name, else one that changes nothing.

    Example:
        >>> from keras_featx.optimizers.parts import chosen
        >>> from keras_featx.optimizer_section import PartSection
        >>> parts = [PartSection(match="extractor/*", lr_factor=0.1), PartSection(match="*/neck/*")]
        >>> [chosen(parts, f"extractor/{name}/kernel").lr_factor for name in ("conv1", "neck")]
        [0.1, 1.0]
    """
    matching = [part for part in parts if fnmatchcase(name, part.match)]
    return matching[-1] if matching else PartSection(match=name)


def named_weights(
    extractor: keras.Model, head: keras.Layer | None, losses: Iterable[keras.Layer] = ()
) -> dict[str, keras.Variable]:
    """All weights of a classifier by the names that they have in ``weights.npz``."""
    named = weights.named_variables(extractor, "extractor")
    if head is not None:
        named |= weights.named_variables(head, "head")
    for loss in losses:
        named |= weights.named_variables(loss, "loss")
    return named


def freeze(
    parts: Sequence[PartSection],
    extractor: keras.Model,
    head: keras.Layer | None,
    losses: Iterable[keras.Layer] = (),
) -> None:
    """Check the patterns of all parts, and freeze the weights of those that say so.

    A layer whose weights are all frozen becomes non-trainable as a whole: a batch normalisation
    then uses its running statistics and leaves them as they are. To be called before ``compile``.

    Args:
        parts: ``Optimizer.parts``.
        extractor: The extractor.
        head: The head, or ``None``.
        losses: Those losses that are layers; the name of a weight begins ``loss/<name>/``.

    Raises:
        ConfigError: If a pattern matches no trained weight, or no weight is left to train.
    """
    owners = [owner for owner in (extractor, head, *losses) if owner is not None]
    names = {id(v): name for name, v in named_weights(extractor, head, losses).items()}
    # A sampled head trains a few rows of its centres at a time, through a weight without a name.
    trained = [
        names[id(getattr(v, "bank", v))] for owner in owners for v in owner.trainable_weights
    ]
    for i, part in enumerate(parts):
        _check_match(part.match, trained, f"Optimizer.parts.{i}.match")

    def frozen(variable) -> bool:
        name = names.get(id(getattr(variable, "bank", variable)))
        return name is not None and chosen(parts, name).frozen

    for owner in owners:
        for layer in owner._flatten_layers():
            held = [v for v in layer.weights if frozen(v)]
            if held and len(held) == len(layer.weights):
                layer.trainable = False
            for variable in held:
                variable.trainable = False
    if parts and not any(owner.trainable_weights for owner in owners):
        raise ConfigError("Optimizer.parts: expected a weight left to train, got all frozen")


def _check_match(pattern: str, trained: Sequence[str], path: str) -> None:
    if not any(fnmatchcase(name, pattern) for name in trained):
        near = difflib.get_close_matches(pattern, trained, n=3, cutoff=0.0)
        raise ConfigError(
            f"{path}: expected a pattern of trained weights, got {pattern!r}, which matches none; "
            f"the closest are {near}"
        )
