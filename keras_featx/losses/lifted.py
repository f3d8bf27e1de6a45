"""Lifted structured loss: each positive pair against all negatives of both its ends."""

import keras
from keras import ops

from keras_featx.losses.layers import EmbeddingLoss, require
from keras_featx.losses.pairs import distances, make_pairs, masked_logsumexp, masked_mean


def lifted_structure_loss(embedding, label, *, margin: float = 1.0):
    """Lifted structured loss (arXiv:1511.06452).

    Half the mean over positive pairs ``(i, j)`` of ``max(J, 0)^2``, with ``J = d_ij +
    log(sum_k exp(margin - d_ik) + sum_l exp(margin - d_jl))``, ``k`` and ``l`` over the negatives
    of ``i`` and ``j``, and ``d`` the Euclidean distance. As in tensorflow-addons.

    Args:
        embedding: ``(batch, size)``, as it is.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        margin: Of distances; 1.0 as in tensorflow-addons.

    Returns:
        A scalar, float32; 0 where there is no positive pair or no negative.

    Example:
        >>> from keras_featx.losses import lifted_structure_loss
        >>> round(float(lifted_structure_loss([[0.0], [1.0], [3.0]], [0, 0, 1])), 4)
        0.0491
    """
    pairs = make_pairs(embedding, label)
    matrix = distances(pairs.anchors, pairs.candidates)
    pressure = masked_logsumexp(margin - matrix, pairs.negative)  # (batch,)
    structured = ops.logaddexp(pressure[:, None], pressure[None, :]) + matrix
    return 0.5 * masked_mean(ops.square(ops.relu(structured)), pairs.positive)


@keras.saving.register_keras_serializable("keras_featx")
class LiftedStructLoss(EmbeddingLoss):
    """:func:`lifted_structure_loss` as a layer.

    Args:
        margin: At least 0.

    The rest: see :class:`~keras_featx.losses.layers.EmbeddingLoss`.
    """

    def __init__(self, *, margin: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        require(margin >= 0, "margin", "a number of at least 0", margin)
        self.margin = margin

    def batch_loss(self, embedding, label):
        return lifted_structure_loss(embedding, label, margin=self.margin)
