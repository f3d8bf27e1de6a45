"""Supervised contrastive loss: a softmax over all other rows, its target even over positives."""

import keras

from keras_featx.losses.layers import MemoryLoss, require
from keras_featx.losses.pairs import make_pairs, masked_logsumexp, masked_mean, similarities


def supcon_loss(
    embedding,
    label,
    *,
    reference=None,
    reference_label=None,
    pair_mask=None,
    temperature: float = 0.07,
    base_temperature: float = 0.07,
):
    """Supervised contrastive loss (arXiv:2004.11362, its "out" form).

    ``-temperature / base_temperature`` times the mean, over anchors that have a positive and a
    negative, of the mean log-probability of their positives among all their candidates. Labels
    alone say what is positive, in any order and number; PaddleClas takes the order of the batch
    for it and gives a wrong value where classes differ in size.

    Args:
        embedding: ``(batch, size)``, rows of unit length unless dot products are meant.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reference: ``(candidates, size)`` to compare with; ``None`` for the batch itself.
        reference_label: ``(candidates,)``.
        pair_mask: Pairs that count, broadcast to ``(batch, candidates)``.
        temperature: Of the softmax.
        base_temperature: Keeps the loss' scale when ``temperature`` changes.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import supcon_loss
        >>> rows = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
        >>> round(float(supcon_loss(rows, [0, 0, 1], temperature=1.0, base_temperature=1.0)), 4)
        0.4846
    """
    pairs = make_pairs(embedding, label, reference, reference_label, pair_mask)
    logits = similarities(pairs.anchors, pairs.candidates) / temperature
    log_sum = masked_logsumexp(logits, pairs.positive | pairs.negative)
    loss = log_sum - masked_mean(logits, pairs.positive, axis=1)
    return temperature / base_temperature * masked_mean(loss, pairs.complete)


@keras.saving.register_keras_serializable("keras_featx")
class SupConLoss(MemoryLoss):
    """:func:`supcon_loss` as a layer.

    Args:
        temperature: Above 0.
        base_temperature: Above 0.

    The rest: see :class:`~keras_featx.losses.layers.MemoryLoss`.
    """

    def __init__(self, *, temperature: float = 0.07, base_temperature: float = 0.07, **kwargs):
        super().__init__(**kwargs)
        require(temperature > 0, "temperature", "a number above 0", temperature)
        require(base_temperature > 0, "base_temperature", "a number above 0", base_temperature)
        self.temperature = temperature
        self.base_temperature = base_temperature

    def batch_loss(self, embedding, label, **reference):
        return supcon_loss(
            embedding, label, **reference, temperature=self.temperature,
            base_temperature=self.base_temperature,
        )  # fmt: skip
