"""Smooth average precision: the retrieval metric itself, with sigmoids for its steps."""

import keras
from keras import ops

from keras_featx.losses.layers import EmbeddingLoss, require
from keras_featx.losses.pairs import make_pairs, masked_mean, similarities


def smooth_ap_loss(embedding, label, *, temperature: float = 0.01):
    """One minus the mean smoothed average precision of each row querying the others.

    Smooth-AP (arXiv:2007.12163): the rank of a candidate is 1 plus the sum of
    ``sigmoid((s_j - s_i) / temperature)`` over the other candidates; a positive's precision is its
    rank among the positives over its rank among all. The mean goes over rows that have a positive
    and a negative. No row ranks itself. (The authors' code counts the query among its positives,
    where it is always first.)

    Forms ``(batch, batch, batch)`` values.

    Args:
        embedding: ``(batch, size)``, rows of unit length.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        temperature: Of the sigmoids, in cosines; 0.01 as in the paper.

    Returns:
        A scalar in [0, 1], float32.

    Example:
        >>> from keras_featx.losses import smooth_ap_loss
        >>> rows = [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]
        >>> round(float(smooth_ap_loss(rows, [0, 0, 1])), 4)
        0.25
    """
    pairs = make_pairs(embedding, label)
    cosine = similarities(pairs.anchors, pairs.candidates)
    # [query, positive, candidate]: how much the candidate stands before the positive
    before = ops.sigmoid((cosine[:, None, :] - cosine[:, :, None]) / temperature)
    others = ~ops.eye(ops.shape(cosine)[1], dtype="bool")[None, :, :]

    def rank(candidates):
        return 1.0 + ops.sum(ops.where(candidates[:, None, :] & others, before, 0.0), axis=2)

    ratio = rank(pairs.positive) / rank(pairs.positive | pairs.negative)
    precision = masked_mean(ratio, pairs.positive, axis=1)
    return masked_mean(1.0 - precision, pairs.complete)


@keras.saving.register_keras_serializable("keras_featx")
class SmoothAPLoss(EmbeddingLoss):
    """:func:`smooth_ap_loss` as a layer.

    Args:
        temperature: Above 0.

    The rest: see :class:`~keras_featx.losses.layers.EmbeddingLoss`.
    """

    def __init__(self, *, temperature: float = 0.01, **kwargs):
        super().__init__(**kwargs)
        require(temperature > 0, "temperature", "a number above 0", temperature)
        self.temperature = temperature

    def batch_loss(self, embedding, label):
        return smooth_ap_loss(embedding, label, temperature=self.temperature)
