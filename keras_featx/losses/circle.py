"""Circle loss, and its special case without weights, the pairwise CosFace."""

import keras
from keras import ops

from keras_featx.losses import miners
from keras_featx.losses.layers import MemoryLoss, MinedLoss, require
from keras_featx.losses.pairs import make_pairs, masked_logsumexp, similarities


def circle_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    margin: float = 0.4,
    gamma: float = 80.0,
    miner: str = "none",
    seed=(0, 0),
):
    """Circle loss (arXiv:2002.10857).

    The mean over all anchors of ``log(1 + sum_n exp(gamma a_n (s_n - margin)) *
    sum_p exp(-gamma a_p (s_p - 1 + margin)))`` with the weights ``a_n = max(s_n + margin, 0)`` and
    ``a_p = max(1 + margin - s_p, 0)``, through which no gradient flows, as the paper asks. An
    anchor without a positive or a negative has the loss 0 and stays in the mean.

    :class:`keras.losses.Circle` leaves every anchor whose loss is 0 out of the mean and lets the
    gradient through the weights. tensorflow-similarity adds two logarithms instead of multiplying
    the sums, which couples positives and negatives no more.

    Args:
        embedding: ``(batch, size)``, rows of unit length.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        margin: 0.4 is the paper's for image retrieval, 0.25 for faces.
        gamma: Scale; 80 is the paper's for image retrieval, 256 for faces.
        miner: Narrows the pairs first; see :mod:`keras_featx.losses.miners`.
        seed: Two integers for a random miner.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import circle_loss
        >>> rows = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
        >>> round(float(circle_loss(rows, [0, 0, 1])), 4)
        2.1339
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    cosine = similarities(pairs.anchors, pairs.candidates)
    pairs = miners.mine(miner, 1.0 - cosine, pairs, seed=seed)
    positive_weight = ops.stop_gradient(ops.relu(1.0 + margin - cosine))
    negative_weight = ops.stop_gradient(ops.relu(cosine + margin))
    positive = -gamma * positive_weight * (cosine - 1.0 + margin)
    negative = gamma * negative_weight * (cosine - margin)
    return _mean_of_coupled(positive, negative, pairs)


def pairwise_cosface_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    margin: float = 0.35,
    gamma: float = 64.0,
):
    """Additive margin softmax over pairs: circle loss with all weights 1 (arXiv:2002.10857).

    The mean over all anchors of ``log(1 + sum_n exp(gamma (s_n + margin)) *
    sum_p exp(-gamma s_p))``; 0 for an anchor without a positive or a negative.

    Args:
        embedding: ``(batch, size)``, rows of unit length.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        margin: Difference of cosines; 0.35 and 64 are CosFace's (arXiv:1801.09414).
        gamma: Scale.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import pairwise_cosface_loss
        >>> rows = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
        >>> round(float(pairwise_cosface_loss(rows, [0, 0, 1])), 4)
        3.2
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    cosine = similarities(pairs.anchors, pairs.candidates)
    return _mean_of_coupled(-gamma * cosine, gamma * (cosine + margin), pairs)


def _mean_of_coupled(positive, negative, pairs):
    """Mean of ``log(1 + sum exp(positive) * sum exp(negative))`` over anchors."""
    positive = masked_logsumexp(positive, pairs.positive)
    negative = masked_logsumexp(negative, pairs.negative)
    return ops.mean(ops.softplus(positive + negative))


@keras.saving.register_keras_serializable("keras_featx")
class CircleLoss(MinedLoss):
    """:func:`circle_loss` as a layer.

    Args:
        margin: In [0, 1].
        gamma: Above 0.

    The rest: see :class:`~keras_featx.losses.layers.MinedLoss`.
    """

    def __init__(self, *, margin: float = 0.4, gamma: float = 80.0, **kwargs):
        super().__init__(**kwargs)
        require(0 <= margin <= 1, "margin", "a number in [0, 1]", margin)
        require(gamma > 0, "gamma", "a number above 0", gamma)
        self.margin = margin
        self.gamma = gamma

    def batch_loss(self, embedding, label, **reference):
        return circle_loss(
            embedding, label, **reference, margin=self.margin, gamma=self.gamma,
            **self.mining(),
        )  # fmt: skip


@keras.saving.register_keras_serializable("keras_featx")
class PairwiseCosface(MemoryLoss):
    """:func:`pairwise_cosface_loss` as a layer.

    Args:
        margin: At least 0.
        gamma: Above 0.

    The rest: see :class:`~keras_featx.losses.layers.MemoryLoss`.
    """

    def __init__(self, *, margin: float = 0.35, gamma: float = 64.0, **kwargs):
        super().__init__(**kwargs)
        require(margin >= 0, "margin", "a number of at least 0", margin)
        require(gamma > 0, "gamma", "a number above 0", gamma)
        self.margin = margin
        self.gamma = gamma

    def batch_loss(self, embedding, label, **reference):
        return pairwise_cosface_loss(
            embedding, label, **reference, margin=self.margin, gamma=self.gamma
        )
