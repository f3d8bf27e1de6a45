"""Geometry of pairs: which rows belong together, how far apart they are, and safe reductions.

Every reduction has a finite value and a finite gradient where nothing is selected, so that a batch
without a positive or a negative costs nothing instead of spreading NaN.
"""

from typing import NamedTuple

from keras import ops

# Stands for minus infinity: its exponential is 0, yet sums and differences of it stay finite.
LOWEST = -1e30


class Pairs(NamedTuple):
    """Anchors, candidates and what they are to each other.

    Attributes:
        anchors: ``(batch, size)``, float32.
        candidates: ``(candidates, size)``, float32.
        positive: ``(batch, candidates)``: the same label, and the pair counts.
        negative: ``(batch, candidates)``: another label, and the pair counts.
    """

    anchors: object
    candidates: object
    positive: object
    negative: object

    @property
    def complete(self):
        """``(batch,)``: anchors with at least one positive and one negative."""
        return ops.any(self.positive, axis=1) & ops.any(self.negative, axis=1)


def make_pairs(embedding, label, reference=None, reference_label=None, pair_mask=None) -> Pairs:
    """Pair a batch with itself, each row with all others, or with reference rows.

    Args:
        embedding: ``(batch, size)``.
        label: ``(batch,)`` or ``(batch, 1)``; compared as they are, never cast to float.
        reference: ``(candidates, size)``; ``None`` for the batch itself without self-pairs.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.

    Raises:
        ValueError: If only one of ``reference`` and ``reference_label`` is given.

    Example:
        >>> from keras_featx.losses.pairs import make_pairs
        >>> pairs = make_pairs([[0.0], [1.0], [2.0]], [7, 7, 8])
        >>> int(pairs.positive.numpy().sum()), int(pairs.negative.numpy().sum())
        (2, 4)
        >>> pairs.complete.numpy()
        array([ True,  True, False])
    """
    if (reference is None) != (reference_label is None):
        raise ValueError("reference: expected together with reference_label")
    embedding, label = ops.cast(embedding, "float32"), ops.reshape(label, (-1,))
    counted = True
    if reference is None:
        counted = ~ops.eye(ops.shape(label)[0], dtype="bool")
        reference, reference_label = embedding, label
    if pair_mask is not None:
        counted = counted & ops.convert_to_tensor(pair_mask)
    same = ops.equal(label[:, None], ops.reshape(reference_label, (1, -1)))
    return Pairs(embedding, ops.cast(reference, "float32"), same & counted, ~same & counted)


def similarities(a, b):
    """Dot products, ``(rows of a, rows of b)``: cosines where rows have unit length."""
    return ops.matmul(a, ops.transpose(b))


def squared_distances(a, b):
    """Squared Euclidean distances, ``(rows of a, rows of b)``.

    The products are formed in float64: in float32, and still more in the TF32 of GPUs, what
    cancels between near rows would drown their distance.
    """
    a, b = ops.cast(a, "float64"), ops.cast(b, "float64")
    norms = ops.sum(ops.square(a), axis=1)[:, None] + ops.sum(ops.square(b), axis=1)[None, :]
    squared = norms - 2.0 * ops.matmul(a, ops.transpose(b))
    return ops.cast(ops.maximum(squared, 0.0), "float32")


def distances(a, b):
    """Euclidean distances, ``(rows of a, rows of b)``; rows that coincide get gradient 0."""
    squared = squared_distances(a, b)
    apart = squared > 1e-12  # below, float64 may be rounding
    return ops.where(apart, ops.sqrt(ops.where(apart, squared, 1.0)), 0.0)


def cosine_distances(a, b):
    """One minus the cosine, in [0, 2], of rows of any length."""
    return 1.0 - similarities(ops.normalize(a, axis=1), ops.normalize(b, axis=1))


DISTANCES = {"l2": distances, "squared": squared_distances, "cosine": cosine_distances}


def measure(distance: str, a, b):
    """Distances of one of the kinds in :data:`DISTANCES`, ``(rows of a, rows of b)``."""
    if distance not in DISTANCES:
        raise ValueError(f"distance: expected one of {list(DISTANCES)}, got {distance!r}")
    return DISTANCES[distance](a, b)


def masked_max(values, mask, axis=-1):
    """Maximum of the selected values along an axis; 0 where none is."""
    largest = ops.max(ops.where(mask, values, LOWEST), axis=axis)
    return ops.where(ops.any(mask, axis=axis), largest, 0.0)


def masked_min(values, mask, axis=-1):
    """Minimum of the selected values along an axis; 0 where none is."""
    return -masked_max(-values, mask, axis)


def masked_logsumexp(values, mask, axis=-1):
    """Log-sum-exp of the selected values along an axis; about :data:`LOWEST` where none is."""
    return ops.logsumexp(ops.where(mask, values, LOWEST), axis=axis)


def masked_mean(values, mask, axis=None):
    """Mean of the selected values; 0 where none is."""
    count = ops.sum(ops.cast(mask, "float32"), axis=axis)
    return ops.sum(ops.where(mask, values, 0.0), axis=axis) / ops.maximum(count, 1.0)
