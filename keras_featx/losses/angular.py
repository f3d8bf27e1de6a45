"""Triplet loss on cosines, with bounds of their own for positives and negatives."""

import keras
from keras import ops

from keras_featx.losses.layers import MemoryLoss, require
from keras_featx.losses.pairs import make_pairs, masked_max, masked_mean, masked_min, similarities


def triplet_angular_margin_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    margin: float = 0.5,
    add_absolute: bool = False,
    absolute_loss_weight: float = 1.0,
    ap_value: float = 0.9,
    an_value: float = 0.5,
):
    """Hinge between the least similar positive and the most similar negative of each anchor.

    ``mean(max(s_an - s_ap + margin, 0))``; with ``add_absolute`` also ``absolute_loss_weight``
    times ``mean(max(s_an - an_value, 0)) + mean(max(ap_value - s_ap, 0))``. The means go over
    anchors that have a positive and a negative. The form and the defaults are PaddleClas'; there
    the term of the negatives is 1 instead of 0 where it is satisfied.

    Args:
        embedding: ``(batch, size)``, rows of unit length.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        margin: Difference of cosines.
        add_absolute: Also bound the cosines themselves.
        absolute_loss_weight: Factor on the bounds' part.
        ap_value: Lower bound of a positive's cosine.
        an_value: Upper bound of a negative's cosine.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import triplet_angular_margin_loss
        >>> rows = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
        >>> round(float(triplet_angular_margin_loss(rows, [0, 0, 1])), 4)
        0.15
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    cosine = similarities(pairs.anchors, pairs.candidates)
    positive = masked_min(cosine, pairs.positive)
    negative = masked_max(cosine, pairs.negative)
    loss = ops.relu(negative - positive + margin)
    if add_absolute:
        bounds = ops.relu(negative - an_value) + ops.relu(ap_value - positive)
        loss = loss + absolute_loss_weight * bounds
    return masked_mean(loss, pairs.complete)


@keras.saving.register_keras_serializable("keras_featx")
class TripletAngularMarginLoss(MemoryLoss):
    """:func:`triplet_angular_margin_loss` as a layer.

    Args:
        margin: At least 0.
        add_absolute: Also bound the cosines themselves.
        absolute_loss_weight: At least 0.
        ap_value: Lower bound of a positive's cosine, in [-1, 1].
        an_value: Upper bound of a negative's cosine, in [-1, 1].

    The rest: see :class:`~keras_featx.losses.layers.MemoryLoss`.
    """

    def __init__(
        self,
        *,
        margin: float = 0.5,
        add_absolute: bool = False,
        absolute_loss_weight: float = 1.0,
        ap_value: float = 0.9,
        an_value: float = 0.5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        require(margin >= 0, "margin", "a number of at least 0", margin)
        require(
            absolute_loss_weight >= 0,
            "absolute_loss_weight", "a number of at least 0", absolute_loss_weight,
        )  # fmt: skip
        require(-1 <= ap_value <= 1, "ap_value", "a cosine in [-1, 1]", ap_value)
        require(-1 <= an_value <= 1, "an_value", "a cosine in [-1, 1]", an_value)
        self.margin = margin
        self.add_absolute = add_absolute
        self.absolute_loss_weight = absolute_loss_weight
        self.ap_value = ap_value
        self.an_value = an_value

    def batch_loss(self, embedding, label, **reference):
        return triplet_angular_margin_loss(
            embedding, label, **reference, margin=self.margin, add_absolute=self.add_absolute,
            absolute_loss_weight=self.absolute_loss_weight, ap_value=self.ap_value,
            an_value=self.an_value,
        )  # fmt: skip
