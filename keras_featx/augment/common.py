"""What every augmentation is, its seeds, and checks of arguments."""

from collections.abc import Callable, Sequence

import tensorflow as tf

# From an image (height, width, 3) and a seed, int64 (2,), to an image of the same size.
Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
MAX_OPS = 64


def op_seed(seed: tf.Tensor, number: int) -> tf.Tensor:
    """The seed of the ``number``-th operation (0 is the window) on one sample."""
    return seed * tf.constant([1, MAX_OPS], tf.int64) + tf.constant([0, number], tf.int64)


def other_seed(seed: tf.Tensor) -> tf.Tensor:
    """A second seed for the same operation: negative, as no other is."""
    return -1 - seed


def as_floats(function: Augmentation) -> Augmentation:
    """Give a function float32, whose values may leave 0..255 and need not be whole."""
    return plain(lambda image, seed: function(tf.cast(image, tf.float32), seed))


def as_bytes(function: Augmentation) -> Augmentation:
    """Give a function uint8, rounded and cut where an earlier operation left floats."""
    return plain(lambda image, seed: function(to_bytes(image), seed))


def plain(function: Callable) -> Callable:
    """Keep AutoGraph out: there is no Python control flow on tensors to translate.

    Translating all operations of a policy would take most of the time to build a dataset.
    """
    return tf.autograph.experimental.do_not_convert(function)


def to_bytes(image: tf.Tensor) -> tf.Tensor:
    """Round to the nearest whole number and cut at 0 and 255."""
    return image if image.dtype == tf.uint8 else tf.saturate_cast(tf.round(image), tf.uint8)


def between(draw: tf.Tensor, low, high) -> tf.Tensor:
    """A draw from [0, 1) moved to [low, high)."""
    return low + draw * (high - low)


def log_gammas(draw: tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Logarithms of independent draws from the Gamma distribution of shape ``alpha``.

    A draw itself may be too small for any float when ``alpha`` is; its logarithm is not. Shares of
    a Dirichlet distribution are the softmax of such logarithms, one of a Beta distribution is the
    sigmoid of a difference.

    Args:
        draw: Uniform in [0, 1); of the shape wanted.
        alpha: Above 0.
        seed: int64 ``(2,)``, not the one of ``draw``.

    Example:
        >>> import tensorflow as tf
        >>> from keras_featx.augment.common import log_gammas
        >>> draw = tf.random.stateless_uniform([100_000, 2], [1, 2])
        >>> shares = tf.nn.softmax(log_gammas(draw, 0.001, tf.constant([3, 4], tf.int64)))
        >>> bool(tf.reduce_all(tf.math.is_finite(shares)))
        True
    """
    # G(a) is distributed as G(a + 1) * U^(1 / a).
    larger = tf.random.stateless_gamma(tf.shape(draw), seed, alpha + 1)
    return tf.math.log(larger) + tf.math.log(1 - draw) / alpha


def check_probability(probability: float) -> None:
    """Refuse what is no probability."""
    check_within("probability", probability, 0, 1)


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside the closed interval."""
    if not low <= value <= high:
        raise ValueError(f"{name}: expected in [{low}, {high}], got {value}")


def check_above(name: str, value: float, low: float) -> None:
    """Refuse a value that is not above the bound."""
    if not value > low:
        raise ValueError(f"{name}: expected above {low}, got {value}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse what is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {list(choices)}, got {value!r}")
