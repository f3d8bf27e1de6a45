"""Margin sample mining: one triplet a batch, of its hardest pairs."""

import keras
from keras import ops

from keras_featx.losses.layers import MemoryLoss, require
from keras_featx.losses.pairs import make_pairs, masked_max, masked_min, squared_distances


def margin_sample_mining_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    margin: float = 0.1,
):
    """``max(d_p - d_n + margin, 0)`` of the batch's farthest positive and nearest negative pair.

    Margin sample mining (arXiv:1710.00478) on squared distances. PaddleClas reads groups of
    ``samples_each_class`` rows off the order of the batch; here the labels say what belongs
    together.

    Args:
        embedding: ``(batch, size)``, as it is.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        margin: Of squared distances; 0.1 as in the reference.

    Returns:
        A scalar, float32; 0 without a positive or a negative pair.

    Example:
        >>> from keras_featx.losses import margin_sample_mining_loss
        >>> round(float(margin_sample_mining_loss([[0.0], [1.0], [1.5]], [0, 0, 1])), 4)
        0.85
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    squared = squared_distances(pairs.anchors, pairs.candidates)
    gap = masked_max(squared, pairs.positive, axis=None) - masked_min(
        squared, pairs.negative, axis=None
    )
    both = ops.any(pairs.positive) & ops.any(pairs.negative)
    return ops.where(both, ops.relu(gap + margin), 0.0)


@keras.saving.register_keras_serializable("keras_featx")
class MSMLoss(MemoryLoss):
    """:func:`margin_sample_mining_loss` of unit vectors, as a layer.

    Args:
        margin: At least 0.

    The rest: see :class:`~keras_featx.losses.layers.MemoryLoss`.
    """

    def __init__(self, *, margin: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        require(margin >= 0, "margin", "a number of at least 0", margin)
        self.margin = margin

    def batch_loss(self, embedding, label, **reference):
        return margin_sample_mining_loss(embedding, label, **reference, margin=self.margin)
