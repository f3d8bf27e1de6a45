"""Multi-similarity loss: the pairs of an anchor weigh each other."""

from typing import Literal

import keras
from keras import ops

from keras_featx.losses import miners
from keras_featx.losses.layers import MinedLoss, require
from keras_featx.losses.pairs import make_pairs, masked_logsumexp, similarities


def multi_similarity_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
    miner: str = "multi_similarity",
    seed=(0, 0),
):
    """Multi-similarity loss (arXiv:1904.06627).

    The mean over all anchors of ``log(1 + sum_p exp(-alpha (s_p - base))) / alpha`` plus
    ``log(1 + sum_n exp(beta (s_n - base))) / beta``, over the pairs that the miner leaves. The
    paper's own miner leaves none to an anchor without a positive or a negative.

    Args:
        embedding: ``(batch, size)``, rows of unit length. (tensorflow-similarity clips ``1 - s`` at
            0, which differs only for longer rows.)
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        alpha: Sharpness for positives.
        beta: Sharpness for negatives. 2 and 50 as in the paper.
        base: The cosine around which both turn; 0.5 as in its authors' code.
        epsilon: Margin of the ``multi_similarity`` miner; 0.1 as in the paper.
        miner: See :mod:`keras_featx.losses.miners`.
        seed: Two integers for a random miner.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import multi_similarity_loss
        >>> rows = [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]
        >>> round(float(multi_similarity_loss(rows, [0, 0, 1])), 4)
        0.2262
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    cosine = similarities(pairs.anchors, pairs.candidates)
    pairs = miners.mine(miner, 1.0 - cosine, pairs, epsilon=epsilon, seed=seed)
    positive = masked_logsumexp(-alpha * (cosine - base), pairs.positive)
    negative = masked_logsumexp(beta * (cosine - base), pairs.negative)
    return ops.mean(ops.softplus(positive) / alpha + ops.softplus(negative) / beta)


@keras.saving.register_keras_serializable("keras_featx")
class MultiSimilarityLoss(MinedLoss):
    """:func:`multi_similarity_loss` as a layer.

    Args:
        alpha: Above 0.
        beta: Above 0.
        base: In [-1, 1].
        epsilon: At least 0; of the ``multi_similarity`` miner.
        miner: See :mod:`keras_featx.losses.miners`.

    The rest: see :class:`~keras_featx.losses.layers.MinedLoss`.
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float = 0.1,
        miner: Literal[
            "none", "hard", "semi_hard", "multi_similarity", "distance_weighted"
        ] = "multi_similarity",
        **kwargs,
    ):
        super().__init__(miner=miner, **kwargs)
        require(alpha > 0, "alpha", "a number above 0", alpha)
        require(beta > 0, "beta", "a number above 0", beta)
        require(-1 <= base <= 1, "base", "a cosine in [-1, 1]", base)
        require(epsilon >= 0, "epsilon", "a number of at least 0", epsilon)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.epsilon = epsilon

    def batch_loss(self, embedding, label, **reference):
        return multi_similarity_loss(
            embedding, label, **reference, alpha=self.alpha, beta=self.beta, base=self.base,
            epsilon=self.epsilon, **self.mining(),
        )  # fmt: skip
