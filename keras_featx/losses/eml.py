"""EML loss: how far the softly farthest positive is beyond the softly nearest negative."""

import math

import keras
from keras import ops

from keras_featx.losses.layers import MemoryLoss, require
from keras_featx.losses.pairs import make_pairs, masked_logsumexp, masked_mean, squared_distances


def eml_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    beta: float = 1e5,
):
    """Ensemble metric learning loss (PaddleClas' ``EmlLoss``, after arXiv:1212.6094).

    ``log(1 + beta x) / log(1 + beta)`` with ``x = mean_p exp(d_p) * mean_n exp(-d_n)`` and ``d``
    squared distances, averaged over anchors that have a positive and a negative. PaddleClas reads
    positives off the order of the batch and approximates the logarithm piecewise; the difference is
    below float32's rounding.

    Args:
        embedding: ``(batch, size)``, as it is.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        beta: Sharpness; 1e5 as in the reference.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import eml_loss
        >>> round(float(eml_loss([[0.0], [1.0], [3.0]], [0, 0, 1])), 4)
        0.5236
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    squared = squared_distances(pairs.anchors, pairs.candidates)
    log_x = _log_mean_exp(squared, pairs.positive) + _log_mean_exp(-squared, pairs.negative)
    loss = ops.softplus(log_x + math.log(beta)) / math.log1p(beta)
    return masked_mean(loss, pairs.complete)


def _log_mean_exp(values, mask):
    count = ops.sum(ops.cast(mask, "float32"), axis=1)
    return masked_logsumexp(values, mask) - ops.log(ops.maximum(count, 1.0))


@keras.saving.register_keras_serializable("keras_featx")
class EmlLoss(MemoryLoss):
    """:func:`eml_loss` as a layer, by default of embeddings as they are.

    Args:
        beta: Above 0.

    The rest: see :class:`~keras_featx.losses.layers.MemoryLoss`.
    """

    def __init__(self, *, beta: float = 1e5, normalize_feature: bool = False, **kwargs):
        super().__init__(normalize_feature=normalize_feature, **kwargs)
        require(beta > 0, "beta", "a number above 0", beta)
        self.beta = beta

    def batch_loss(self, embedding, label, **reference):
        return eml_loss(embedding, label, **reference, beta=self.beta)
