"""Triplet loss: an anchor nearer to its positive than to its negative, by a margin."""

from typing import Literal

import keras
from keras import ops

from keras_featx.losses import miners
from keras_featx.losses.layers import MemoryLoss, MinedLoss, require, require_one_of
from keras_featx.losses.pairs import (
    DISTANCES,
    make_pairs,
    masked_max,
    masked_mean,
    masked_min,
    measure,
)

TRIPLETS = ("hard", "semi_hard", "all")


def triplet_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    margin: float | None = 0.5,
    distance: str = "l2",
    triplets: str = "hard",
    miner: str = "none",
    seed=(0, 0),
):
    """Triplet loss (arXiv:1503.03832, arXiv:1703.07737).

    ``max(d_ap - d_an + margin, 0)``, averaged over the triplets that ``triplets`` names:

    - ``hard``: an anchor with its farthest positive and its nearest negative. One an anchor that
      has both; the others, such as the only row of a class, are not counted. (The reference,
      tensorflow-addons and tensorflow-similarity count them, as triplets with themselves.)
    - ``semi_hard``: each positive pair with the nearest negative beyond the positive; where there
      is none, with the farthest. As tensorflow-addons has it.
    - ``all``: those of all triplets whose loss is not 0.

    The last two form ``(batch, candidates, candidates)`` values.

    Args:
        embedding: ``(batch, size)``, as it is.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself, where no
            row is its own positive.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        margin: 0.5 is the reference's for unit vectors; ``None`` puts ``log(1 + exp(d_ap - d_an))``
            in place of the hinge.
        distance: ``l2``, ``squared`` (squared l2) or ``cosine`` (one minus the cosine).
        triplets: ``hard``, ``semi_hard`` or ``all``.
        miner: Narrows the pairs first; see :mod:`keras_featx.losses.miners`.
        seed: Two integers for a random miner.

    Returns:
        A scalar, float32; 0 where no triplet can be formed.

    Example:
        >>> from keras_featx.losses import triplet_loss
        >>> round(float(triplet_loss([[0.0], [1.0], [3.0]], [0, 0, 1], margin=1.5)), 4)
        0.25
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    matrix = measure(distance, pairs.anchors, pairs.candidates)
    pairs = miners.mine(miner, matrix, pairs, seed=seed)
    if triplets == "hard":
        return _hard(matrix, pairs, margin)
    if triplets == "semi_hard":
        return _semi_hard(matrix, pairs, margin)
    if triplets == "all":
        return _all(matrix, pairs, margin)
    raise ValueError(f"triplets: expected one of {list(TRIPLETS)}, got {triplets!r}")


def _hard(matrix, pairs, margin):
    gap = masked_max(matrix, pairs.positive) - masked_min(matrix, pairs.negative)
    return masked_mean(_hinge(gap, margin), pairs.complete)


def _semi_hard(matrix, pairs, margin):
    negative = pairs.negative[:, None, :]
    to_negative = matrix[:, None, :]  # (anchor, positive, negative)
    beyond = negative & (to_negative > matrix[:, :, None])
    chosen = ops.where(
        ops.any(beyond, axis=2),
        masked_min(to_negative, beyond),
        masked_max(matrix, pairs.negative)[:, None],
    )
    return masked_mean(_hinge(matrix - chosen, margin), pairs.positive & pairs.complete[:, None])


def _all(matrix, pairs, margin):
    loss = _hinge(matrix[:, :, None] - matrix[:, None, :], margin)
    return masked_mean(loss, pairs.positive[:, :, None] & pairs.negative[:, None, :] & (loss > 0))


def _hinge(gap, margin):
    return ops.softplus(gap) if margin is None else ops.relu(gap + margin)


@keras.saving.register_keras_serializable("keras_featx")
class TripletLossV2(MinedLoss):
    """:func:`triplet_loss` of unit vectors, as a layer.

    Args:
        margin: At least 0; ``None`` for the soft margin.
        distance: See :func:`triplet_loss`.
        triplets: See :func:`triplet_loss`.

    The rest: see :class:`~keras_featx.losses.layers.MinedLoss`.
    """

    def __init__(
        self,
        *,
        margin: float | None = 0.5,
        distance: Literal["l2", "squared", "cosine"] = "l2",
        triplets: Literal["hard", "semi_hard", "all"] = "hard",
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_margin(margin)
        require_one_of(DISTANCES, "distance", distance)
        require_one_of(TRIPLETS, "triplets", triplets)
        self.margin = margin
        self.distance = distance
        self.triplets = triplets

    def batch_loss(self, embedding, label, **reference):
        return triplet_loss(
            embedding, label, **reference, margin=self.margin, distance=self.distance,
            triplets=self.triplets, **self.mining(),
        )  # fmt: skip


@keras.saving.register_keras_serializable("keras_featx")
class TripletLoss(MemoryLoss):
    """:func:`triplet_loss` of the hardest triplets by l2 distance, of embeddings as they are.

    Args:
        margin: At least 0; ``None`` for the soft margin. 1.0 as in the reference.

    The rest: see :class:`~keras_featx.losses.layers.MemoryLoss`.
    """

    def __init__(self, *, margin: float | None = 1.0, normalize_feature: bool = False, **kwargs):
        super().__init__(normalize_feature=normalize_feature, **kwargs)
        _check_margin(margin)
        self.margin = margin

    def batch_loss(self, embedding, label, **reference):
        return triplet_loss(embedding, label, **reference, margin=self.margin)


@keras.saving.register_keras_serializable("keras_featx")
class TriHardLoss(MemoryLoss):
    """:func:`triplet_loss` of the hardest triplets by squared distance, of unit vectors.

    The reference's reads groups of ``samples_each_class`` rows off the order of the batch; here
    the labels say what belongs together.

    Args:
        margin: At least 0; 0.1 as in the reference.

    The rest: see :class:`~keras_featx.losses.layers.MemoryLoss`.
    """

    def __init__(self, *, margin: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        _check_margin(margin)
        self.margin = margin

    def batch_loss(self, embedding, label, **reference):
        return triplet_loss(embedding, label, **reference, margin=self.margin, distance="squared")


def _check_margin(margin):
    require(margin is None or margin >= 0, "margin", "a number of at least 0", margin)
