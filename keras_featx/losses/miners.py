"""Miners: which of the possible pairs a loss looks at.

Each takes distances ``(batch, candidates)`` and the masks of positive and negative pairs, and
returns two smaller masks. Where distances tie, all that tie are taken, so that the order of the
batch has no say.
"""

import tensorflow as tf
from keras import ops

from keras_featx.losses.pairs import (
    Pairs,
    cosine_distances,
    masked_max,
    masked_min,
)

MINERS = ("none", "hard", "semi_hard", "multi_similarity", "distance_weighted")


def hard(distance, positive, negative):
    """The farthest positives and the nearest negatives of each anchor (arXiv:1703.07737).

    Example:
        >>> import numpy as np
        >>> from keras_featx.losses.miners import hard
        >>> positive, negative = hard([[0.1, 0.3, 0.2, 0.4]], [[1, 1, 0, 0]], [[0, 0, 1, 1]])
        >>> np.array(positive).astype(int), np.array(negative).astype(int)
        (array([[0, 1, 0, 0]]), array([[0, 0, 1, 0]]))
    """
    distance, positive, negative = _tensors(distance, positive, negative)
    farthest = masked_max(distance, positive)[:, None]
    nearest = masked_min(distance, negative)[:, None]
    return positive & (distance == farthest), negative & (distance == nearest)


def semi_hard(distance, positive, negative):
    """All positives, and the nearest negatives beyond the farthest of them (arXiv:1503.03832).

    Where no negative is that far, the farthest one. As tensorflow-similarity has it.
    """
    distance, positive, negative = _tensors(distance, positive, negative)
    beyond = negative & (distance > masked_max(distance, positive)[:, None])
    chosen = ops.where(
        ops.any(beyond, axis=1), masked_min(distance, beyond), masked_max(distance, negative)
    )
    return positive, negative & (distance == chosen[:, None])


def multi_similarity(distance, positive, negative, *, epsilon: float = 0.1):
    """Positives not nearer than the nearest negative less ``epsilon``, and the other way round.

    "Similarity-P" mining of arXiv:1904.06627; 0.1 is its value for cosines.
    """
    distance, positive, negative = _tensors(distance, positive, negative)
    complete = (ops.any(positive, axis=1) & ops.any(negative, axis=1))[:, None]
    nearest = masked_min(distance, negative)[:, None]
    farthest = masked_max(distance, positive)[:, None]
    return (
        positive & complete & (distance + epsilon > nearest),
        negative & complete & (distance - epsilon < farthest),
    )


def distance_weighted(
    distance, positive, negative, *, dimension: int, seed, cutoff: float = 0.5, limit: float = 1.4
):
    """All positives, and one random negative of each anchor, drawn evenly over distances.

    The chance of a negative is one over the density of distances on the unit sphere
    (arXiv:1706.07567), which for most pairs is near the square root of 2.

    Args:
        distance: Euclidean distances of unit vectors, ``(batch, candidates)``.
        positive: Mask, ``(batch, candidates)``.
        negative: Mask, ``(batch, candidates)``.
        dimension: Size of an embedding, which gives the density.
        seed: Two integers; the same two draw the same.
        cutoff: Nearer negatives count as being this far: they are mostly noise.
        limit: Farther negatives are drawn only where there is no other.
    """
    distance, positive, negative = _tensors(distance, positive, negative)
    near = negative & (distance < limit)
    some_near = ops.any(near, axis=1, keepdims=True)
    clipped = ops.clip(distance, cutoff, limit)
    log_density = (dimension - 2.0) * ops.log(clipped) + (dimension - 3.0) / 2.0 * ops.log(
        1.0 - 0.25 * ops.square(clipped)
    )
    seed = ops.stack([ops.cast(number, "int32") for number in seed])
    uniform = tf.random.stateless_uniform(ops.shape(distance), seed, minval=1e-7)
    # The largest of logits plus Gumbel noise is a draw from their softmax.
    drawn = ops.where(some_near, -log_density, 0.0) - ops.log(-ops.log(uniform))
    allowed = ops.where(some_near, near, negative)
    return positive, allowed & (drawn == masked_max(drawn, allowed)[:, None])


def mine(miner: str, distance, pairs: Pairs, *, epsilon: float = 0.1, seed=(0, 0)) -> Pairs:
    """Keep the pairs that a miner of this name chooses.

    Args:
        miner: One of :data:`MINERS`.
        distance: The loss' own distances, ``(batch, candidates)``. ``distance_weighted`` measures
            the angle itself.
        pairs: What there is to choose from.
        epsilon: Of ``multi_similarity``.
        seed: Of ``distance_weighted``: two integers.
    """
    distance = ops.stop_gradient(distance)
    masks = pairs.positive, pairs.negative
    if miner == "hard":
        masks = hard(distance, *masks)
    elif miner == "semi_hard":
        masks = semi_hard(distance, *masks)
    elif miner == "multi_similarity":
        masks = multi_similarity(distance, *masks, epsilon=epsilon)
    elif miner == "distance_weighted":
        chord = ops.sqrt(ops.maximum(2.0 * cosine_distances(pairs.anchors, pairs.candidates), 0.0))
        size = pairs.anchors.shape[1]
        masks = distance_weighted(ops.stop_gradient(chord), *masks, dimension=size, seed=seed)
    elif miner != "none":
        raise ValueError(f"miner: expected one of {list(MINERS)}, got {miner!r}")
    return Pairs(pairs.anchors, pairs.candidates, *masks)


def _tensors(distance, positive, negative):
    masks = (ops.cast(mask, "bool") for mask in (positive, negative))
    return ops.cast(distance, "float32"), *masks
