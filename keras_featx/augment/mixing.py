"""Augmentation of whole batches: pairs of images become one (Mixup, CutMix).

A builder returns a :class:`Mixing`, to be called with ``(images, seed)``: uint8 ``(batch, height,
width, 3)`` and int64 ``(2,)``. It gives

- the images, of the same shape,
- partner, int32 ``(batch,)``: the row of the batch each image was mixed with,
- share, float32 ``(batch,)``: how much of the image, and so of the label, is its own; the rest is
  its partner's.

Each row draws a share of its own, where the papers draw one for the batch. That costs nothing, and
the loss of a batch varies less: with one share, all images of a batch are easy or hard together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from keras_featx import components
from keras_featx.augment.common import (
    check_above,
    check_probability,
    log_gammas,
    op_seed,
    other_seed,
)
from keras_featx.errors import ConfigError
from keras_featx.sections import Component

Mixed = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class Mixing:
    """A way to mix a batch.

    Attributes:
        mix: ``function(images, seed)``; always mixes.
        probability: Of mixing a batch, where the object itself is called.
    """

    mix: Callable[[tf.Tensor, tf.Tensor], Mixed]
    probability: float

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> Mixed:
        return _one_of([self], images, seed)


def build_mixing(ops: Sequence[Component], path: str) -> Callable[..., Mixed] | None:
    """A function that mixes each batch in one of several ways, or leaves it.

    Args:
        ops: Registered ``batch_augmentation`` parts; a batch gets each with its probability, and
            stays as it is with what is left to 1.
        path: Of the list in the config, for messages.

    Returns:
        ``function(images, seed)``, see above; ``None`` for an empty list.

    Raises:
        ConfigError: On impossible arguments, or probabilities that add up to more than 1.

    Example:
        >>> import tensorflow as tf
        >>> from keras_featx.augment.mixing import build_mixing
        >>> from keras_featx.sections import Component
        >>> ops = [Component(name=n, args={"probability": 0.5}) for n in ("Mixup", "CutMix")]
        >>> mix = build_mixing(ops, "batch_transform_ops")
        >>> images, partner, share = mix(
        ...     tf.zeros([4, 32, 32, 3], tf.uint8), tf.constant([1, 2], tf.int64)
        ... )
        >>> images.shape, partner.dtype, share.dtype
        (TensorShape([4, 32, 32, 3]), tf.int32, tf.float32)
    """
    ways = []
    for i, op in enumerate(ops):
        builder = components.builder("batch_augmentation", op.name, f"{path}.{i}")
        try:
            ways.append(builder(**op.args))
        except ValueError as error:
            raise ConfigError(f"{path}.{i}.{error}") from None
    total = sum(way.probability for way in ways)
    if total > 1 + 1e-6:
        raise ConfigError(f"{path}: expected probabilities that sum to at most 1, got {total:g}")
    return (lambda images, seed: _one_of(ways, images, seed)) if ways else None


def mixup(*, alpha: float = 0.2, probability: float = 1.0) -> Mixing:
    """Weighted means of two images (arXiv:1710.09412).

    Args:
        alpha: Shares are drawn from Beta(alpha, alpha), in steps of 1/256, above 0.
        probability: Of mixing a batch.
    """
    check_above("alpha", alpha, 0)
    check_probability(probability)

    def mix(images: tf.Tensor, seed: tf.Tensor) -> Mixed:
        batch = tf.shape(images)[0]
        draw = tf.random.stateless_uniform([3, batch], seed)
        # Whole numbers of 256 parts: 16 bits hold the products, and the share is exactly the one
        # the pixels have.
        parts = tf.round(256 * _beta(draw[1:], alpha, seed))
        own = tf.cast(parts, tf.uint16)[:, None, None, None]
        partner = _partners(draw[0])
        others = tf.cast(tf.gather(images, partner), tf.uint16)
        total = tf.cast(images, tf.uint16) * own + others * (256 - own) + 128
        mixed = tf.cast(tf.bitwise.right_shift(total, tf.constant(8, tf.uint16)), tf.uint8)
        return mixed, partner, parts / 256

    return Mixing(mix, probability)


def cut_mix(*, alpha: float = 1.0, probability: float = 1.0) -> Mixing:
    """A rectangle of one image in another (arXiv:1905.04899).

    Args:
        alpha: What the rectangle leaves is drawn from Beta(alpha, alpha), above 0. It has the
            shape of the image, its centre lies anywhere, and what is beyond the edge is lost;
            the share is that of the pixels left.
        probability: Of mixing a batch.
    """
    check_above("alpha", alpha, 0)
    check_probability(probability)

    def mix(images: tf.Tensor, seed: tf.Tensor) -> Mixed:
        batch, height, width, channels = tf.unstack(tf.shape(images))
        draw = tf.random.stateless_uniform([5, batch], seed)
        side = tf.sqrt(1 - _beta(draw[1:3], alpha, seed))
        rows, tall = _stretch(height, side, draw[3])
        columns, wide = _stretch(width, side, draw[4])
        partner = _partners(draw[0])
        # Channels beside each other: a mask of one channel would be broadcast, which is slow.
        inside = rows[:, :, None] & tf.repeat(columns, channels, axis=1)[:, None]
        flat = tf.reshape(images, [batch, height, width * channels])
        mixed = tf.reshape(tf.where(inside, tf.gather(flat, partner), flat), tf.shape(images))
        cut = tf.cast(tall * wide, tf.float32) / tf.cast(height * width, tf.float32)
        return tf.ensure_shape(mixed, images.shape), partner, 1 - cut

    return Mixing(mix, probability)


def _stretch(length: tf.Tensor, share: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Which pixels of a side are in the rectangle, ``(batch, length)``, and how many."""
    pixels = tf.cast(length, tf.float32)
    size = tf.cast(share * pixels, tf.int32)
    first = tf.cast(place * pixels, tf.int32) - size // 2
    last = tf.minimum(first + size, length)
    first = tf.maximum(first, 0)
    at = tf.range(length)
    return (at >= first[:, None]) & (at < last[:, None]), last - first


def _beta(draw: tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws of Beta(alpha, alpha), ``(batch,)``, from uniform ones, ``(2, batch)``."""
    logs = log_gammas(draw, alpha, other_seed(seed))
    return tf.sigmoid(logs[0] - logs[1])


def _partners(draw: tf.Tensor) -> tf.Tensor:
    """A random permutation: int32 ``(batch,)``."""
    return tf.argsort(draw, stable=True)


def _one_of(ways: Sequence[Mixing], images: tf.Tensor, seed: tf.Tensor) -> Mixed:
    draw = tf.random.stateless_uniform([], op_seed(seed, 0))
    ends = tf.cumsum([way.probability for way in ways])
    which = tf.reduce_sum(tf.cast(draw >= ends, tf.int32))
    branches = [
        lambda way=way, i=i: way.mix(images, op_seed(seed, i + 1)) for i, way in enumerate(ways)
    ]
    batch = tf.shape(images)[0]
    alone = lambda: (images, tf.range(batch), tf.ones([batch]))  # noqa: E731
    return tf.switch_case(which, [*branches, alone])
