"""Contrastive loss: positives together, negatives apart by a bound, each pair for itself."""

from typing import Literal

import keras
from keras import ops

from keras_featx.losses import miners
from keras_featx.losses.layers import MinedLoss, require, require_one_of
from keras_featx.losses.pairs import distances, make_pairs, masked_mean, similarities

GEOMETRIES = ("cosine", "l2")


def contrastive_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    margin: float = 0.5,
    distance: str = "cosine",
    miner: str = "none",
    seed=(0, 0),
):
    """Contrastive loss.

    - ``cosine``: ``1 - s`` of positives plus ``s`` of negatives where ``s > margin``, summed over
      all pairs and divided by the batch size; the form of arXiv:1912.06798 and PaddleClas.
    - ``l2``: the mean over all pairs of ``d^2`` of positives and ``max(margin - d, 0)^2`` of
      negatives (Hadsell et al., CVPR 2006); on the pairs ``(2i, 2i + 1)`` alone it is that of
      tensorflow-addons.

    Each kind of pair counts without the other: a batch of one class is still pulled together.

    Args:
        embedding: ``(batch, size)``, rows of unit length for ``cosine``.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself without
            self-pairs. (PaddleClas leaves out what has a cosine above ``1 - 1e-5`` instead.)
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        margin: The cosine up to which, or the distance from which, a negative is left alone.
        distance: ``cosine`` or ``l2``.
        miner: Narrows the pairs first; see :mod:`keras_featx.losses.miners`.
        seed: Two integers for a random miner.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import contrastive_loss
        >>> rows = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
        >>> round(float(contrastive_loss(rows, [0, 0, 1])), 4)
        0.5333
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    if distance == "cosine":
        cosine = similarities(pairs.anchors, pairs.candidates)
        pairs = miners.mine(miner, 1.0 - cosine, pairs, seed=seed)
        loss = ops.where(pairs.positive, 1.0 - cosine, 0.0)
        loss = loss + ops.where(pairs.negative & (cosine > margin), cosine, 0.0)
        return ops.mean(ops.sum(loss, axis=1))
    if distance != "l2":
        raise ValueError(f"distance: expected one of {list(GEOMETRIES)}, got {distance!r}")
    apart = distances(pairs.anchors, pairs.candidates)
    pairs = miners.mine(miner, apart, pairs, seed=seed)
    hinge = ops.square(ops.relu(margin - apart))
    loss = ops.where(pairs.positive, ops.square(apart), hinge)
    return masked_mean(loss, pairs.positive | pairs.negative)


@keras.saving.register_keras_serializable("keras_featx")
class ContrastiveLoss(MinedLoss):
    """:func:`contrastive_loss` as a layer.

    Args:
        margin: Cosine, in [-1, 1], or distance, at least 0.
        distance: ``cosine`` or ``l2``.

    The rest: see :class:`~keras_featx.losses.layers.MinedLoss`.
    """

    def __init__(
        self,
        *,
        margin: float = 0.5,
        distance: Literal["cosine", "l2"] = "cosine",
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_one_of(GEOMETRIES, "distance", distance)
        if distance == "cosine":
            require(-1 <= margin <= 1, "margin", "a cosine in [-1, 1]", margin)
        else:
            require(margin >= 0, "margin", "a distance of at least 0", margin)
        self.margin = margin
        self.distance = distance

    def batch_loss(self, embedding, label, **reference):
        return contrastive_loss(
            embedding, label, **reference, margin=self.margin, distance=self.distance,
            **self.mining(),
        )  # fmt: skip
