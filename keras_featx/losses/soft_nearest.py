"""Soft nearest neighbour loss: the chance of drawing a neighbour of one's own class."""

from typing import Literal

import keras

from keras_featx.losses.layers import MemoryLoss, require, require_one_of
from keras_featx.losses.pairs import DISTANCES, make_pairs, masked_logsumexp, masked_mean, measure


def soft_nearest_neighbor_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    temperature: float = 1.0,
    distance: str = "squared",
):
    """Soft nearest neighbour loss (arXiv:1902.01889).

    ``-log(sum_p exp(-d_p / temperature) / sum_k exp(-d_k / temperature))``, ``p`` over positives
    and ``k`` over all candidates, averaged over anchors that have a positive and a negative.
    tensorflow-similarity adds 1e-9 to the ratio, which hides the gradient where it is needed most,
    and keeps anchors without a positive in the mean, as 0.

    Args:
        embedding: ``(batch, size)``, as it is.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        temperature: Above 0.
        distance: ``squared`` as in the paper, ``l2`` or ``cosine``.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import soft_nearest_neighbor_loss
        >>> round(float(soft_nearest_neighbor_loss([[0.0], [1.0], [2.0]], [0, 0, 1])), 4)
        0.3709
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    logits = -measure(distance, pairs.anchors, pairs.candidates) / temperature
    loss = masked_logsumexp(logits, pairs.positive | pairs.negative) - masked_logsumexp(
        logits, pairs.positive
    )
    return masked_mean(loss, pairs.complete)


@keras.saving.register_keras_serializable("keras_featx")
class SoftNearestNeighborLoss(MemoryLoss):
    """:func:`soft_nearest_neighbor_loss` as a layer.

    Args:
        temperature: Above 0.
        distance: ``squared``, ``l2`` or ``cosine``.

    The rest: see :class:`~keras_featx.losses.layers.MemoryLoss`.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        distance: Literal["squared", "l2", "cosine"] = "squared",
        **kwargs,
    ):
        super().__init__(**kwargs)
        require(temperature > 0, "temperature", "a number above 0", temperature)
        require_one_of(DISTANCES, "distance", distance)
        self.temperature = temperature
        self.distance = distance

    def batch_loss(self, embedding, label, **reference):
        return soft_nearest_neighbor_loss(
            embedding, label, **reference, temperature=self.temperature, distance=self.distance
        )
