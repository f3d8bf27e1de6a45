"""Policies: random operations drawn from one set (RandAugment, AutoAugment, AugMix)."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_featx.augment import operations as ops
from keras_featx.augment.common import (
    Augmentation,
    as_bytes,
    check_above,
    check_probability,
    check_within,
    log_gammas,
    other_seed,
    to_bytes,
)

# A strength in [-1, 1], and the value around a moved image.
Operation = Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor]

MAX_SHIFT = 150 / 331  # of a side: 150 pixels of the 331 of arXiv:1805.09501


def _whole(strength: tf.Tensor, most: int) -> tf.Tensor:
    return tf.cast(tf.round(tf.abs(strength) * most), tf.int32)


def _side(image: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.cast(tf.shape(image)[axis], tf.float32)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, s, fill: ops.auto_contrast(image),
    "Equalize": lambda image, s, fill: ops.equalize(image),
    "Invert": lambda image, s, fill: ops.invert(image),
    "Rotate": lambda image, s, fill: ops.rotate(image, 30 * s, fill),
    "Posterize": lambda image, s, fill: ops.posterize(image, 8 - _whole(s, 4)),
    "Solarize": lambda image, s, fill: ops.solarize(image, 256 - _whole(s, 256)),
    "SolarizeAdd": lambda image, s, fill: ops.solarize_add(image, _whole(s, 110)),
    "Color": lambda image, s, fill: ops.color(image, 1 + 0.9 * s),
    "Contrast": lambda image, s, fill: ops.contrast(image, 1 + 0.9 * s),
    "Brightness": lambda image, s, fill: ops.brightness(image, 1 + 0.9 * s),
    "Sharpness": lambda image, s, fill: ops.sharpness(image, 1 + 0.9 * s),
    "ShearX": lambda image, s, fill: ops.shear_x(image, 0.3 * s, fill),
    "ShearY": lambda image, s, fill: ops.shear_y(image, 0.3 * s, fill),
    "TranslateX": lambda image, s, fill: ops.translate_x(
        image, tf.round(MAX_SHIFT * s * _side(image, 1)), fill
    ),
    "TranslateY": lambda image, s, fill: ops.translate_y(
        image, tf.round(MAX_SHIFT * s * _side(image, 0)), fill
    ),
}

# Name, probability and magnitude 0..9 of both operations (arXiv:1805.09501, the policy found on
# ImageNet).
IMAGENET_POLICY = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
# Their magnitudes go from one end of the range to the other; the sign of others is drawn.
ENHANCEMENTS = ("Color", "Contrast", "Brightness", "Sharpness")


def rand_augment(
    *,
    num_ops: int = 2,
    magnitude: float = 9.0,
    operations: tuple[str, ...] = (
        "Identity",
        "AutoContrast",
        "Equalize",
        "Rotate",
        "Solarize",
        "Color",
        "Posterize",
        "Contrast",
        "Brightness",
        "Sharpness",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
    ),
    fill: int = 128,
) -> Augmentation:
    """Some operations of one strength, each drawn anew from all (arXiv:1909.13719).

    Args:
        num_ops: Operations one after the other, at least 1.
        magnitude: Their strength in [0, 10]; 10 is the end of each range. Moves and enhancements
            go either way.
        operations: Names to draw from, all equally likely; a name may come twice. The default is
            the paper's; ``Invert`` and ``SolarizeAdd`` are there besides.
        fill: Value around a moved image.

    Example:
        >>> import tensorflow as tf
        >>> from keras_featx.augment import rand_augment
        >>> function = rand_augment(num_ops=1, operations=("Invert",))
        >>> image = tf.zeros([2, 2, 3], tf.uint8)
        >>> int(function(image, tf.constant([1, 2], tf.int64))[0, 0, 0])
        255
    """
    if num_ops < 1:
        raise ValueError(f"num_ops: expected at least 1, got {num_ops}")
    check_within("magnitude", magnitude, 0, 10)
    apply = _drawn_operations(operations, fill)

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([num_ops, 2], seed)
        which = _index(draw[:, 0], len(operations))
        return apply(image, which, _signed(magnitude / 10, draw[:, 1]))

    return as_bytes(augment)


def auto_augment(*, fill: int = 128) -> Augmentation:
    """One of the 25 pairs of operations found on ImageNet (arXiv:1805.09501).

    Args:
        fill: Value around a moved image.
    """
    names = tuple(sorted({name for pair in IMAGENET_POLICY for name, _, _ in pair}))
    apply = _drawn_operations(names, fill)
    table = [[_policy_step(step, names) for step in pair] for pair in IMAGENET_POLICY]

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draw = tf.random.stateless_uniform([5], seed)
        pair = tf.constant(table)[_index(draw[0], len(table))]
        which, probabilities, strengths, have_sign = tf.unstack(pair, axis=1)
        which = tf.where(draw[1:3] < probabilities, tf.cast(which, tf.int32), len(names))
        return apply(image, which, strengths * tf.where(have_sign > 0, _signed(1.0, draw[3:]), 1.0))

    return as_bytes(augment)


def aug_mix(
    *,
    probability: float = 1.0,
    severity: float = 3.0,
    width: int = 3,
    depth: int = -1,
    alpha: float = 1.0,
    operations: tuple[str, ...] = (
        "AutoContrast",
        "Equalize",
        "Posterize",
        "Rotate",
        "Solarize",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
    ),
    fill: int = 0,
) -> Augmentation:
    """The image mixed with several augmented versions of it (arXiv:1912.02781).

    Args:
        probability: Of mixing at all.
        severity: The strength of each operation is uniform up to it, from 0.1; in [0.1, 10].
        width: Versions, at least 1. Their shares are drawn from a Dirichlet distribution.
        depth: Operations one after the other in each version; -1 draws 1 to 3 for each.
        alpha: Of the Dirichlet distribution, and of the Beta distribution of the share of all
            versions together.
        operations: Names to draw from, all equally likely; the default is the paper's.
        fill: Value around a moved image.
    """
    check_probability(probability)
    check_within("severity", severity, 0.1, 10)
    if width < 1:
        raise ValueError(f"width: expected at least 1, got {width}")
    if depth != -1 and depth < 1:
        raise ValueError(f"depth: expected -1 or at least 1, got {depth}")
    check_above("alpha", alpha, 0)
    apply = _drawn_operations(operations, fill)
    longest = 3 if depth == -1 else depth

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        size = 3 * width * longest
        draw = tf.random.stateless_uniform([1 + size + 2 * width + 2], seed)

        def mixed():
            steps = tf.reshape(draw[1 : 1 + size], [3, width, longest])
            which = _index(steps[0], len(operations))
            strengths = _signed((0.1 + steps[1] * (severity - 0.1)) / 10, steps[2])
            depths = tf.fill([width], longest)
            if depth == -1:
                depths = 1 + _index(draw[1 + size : 1 + size + width], 3)
            logs = log_gammas(draw[-width - 2 :], alpha, other_seed(seed))
            share = tf.sigmoid(logs[0] - logs[1])
            shares = share * tf.nn.softmax(logs[2:])

            def add(i: tf.Tensor, mix: tf.Tensor):
                steps = slice(None, depths[i])
                version = apply(image, which[i, steps], strengths[i, steps])
                return i + 1, mix + shares[i] * tf.cast(version, tf.float32)

            mix = (1 - share) * tf.cast(image, tf.float32)
            _, mix = tf.while_loop(lambda i, mix: i < width, add, [0, mix])
            return to_bytes(mix)

        return tf.cond(draw[0] < probability, mixed, lambda: image)

    return as_bytes(augment)


def _drawn_operations(names: Sequence[str], fill: int) -> Callable[..., tf.Tensor]:
    """``function(image, which, strengths)`` that runs the operations drawn, and no other.

    It takes the number of each operation and its strength, both ``(steps,)``. A number from
    ``len(names)`` on leaves the image.
    """
    known = ["Identity", *OPERATIONS]
    for name in names:
        if name not in known:
            raise ValueError(f"operations: expected some of {known}, got {name!r}")
    if not names:
        raise ValueError(f"operations: expected some of {known}, got none")
    check_within("fill", fill, 0, 255)

    def apply(image: tf.Tensor, which: tf.Tensor, strengths: tf.Tensor) -> tf.Tensor:
        def step(i: tf.Tensor, image: tf.Tensor):
            def branch(name: str):
                if name == "Identity":
                    return lambda: image
                return lambda: tf.ensure_shape(
                    OPERATIONS[name](image, strengths[i], fill), image.shape
                )

            return i + 1, tf.switch_case(which[i], [branch(name) for name in [*names, "Identity"]])

        # A loop: were it unrolled, each step would bring all operations into the graph again.
        return tf.while_loop(lambda i, image: i < tf.size(which), step, [0, image])[1]

    return apply


def _policy_step(step: tuple[str, float, int], names: Sequence[str]) -> list[float]:
    """Number of the operation, probability, strength, and whether its sign is drawn."""
    name, probability, magnitude = step
    if name in ENHANCEMENTS:
        return [names.index(name), probability, 2 * magnitude / 9 - 1, 0]
    return [names.index(name), probability, magnitude / 9, 1]


def _index(draw: tf.Tensor, number: int) -> tf.Tensor:
    """A draw from [0, 1) as one of 0 to ``number`` - 1."""
    return tf.minimum(tf.cast(draw * number, tf.int32), number - 1)


def _signed(strength, draw: tf.Tensor) -> tf.Tensor:
    """Either sign, equally likely."""
    return tf.where(draw < 0.5, -strength, strength)
