"""N-pairs loss: each anchor picks its partner out of one row of every pair."""

import keras
from keras import ops

from keras_featx.losses.layers import EmbeddingLoss, require
from keras_featx.losses.pairs import masked_logsumexp, masked_mean, similarities


def n_pairs_loss(embedding, label, *, reg_lambda: float = 0.01):
    """N-pairs loss (Sohn, NIPS 2016).

    The rows of a label, in their order, are paired: the first is an anchor, the second its partner,
    the third an anchor again. A row left over is not used. Each anchor's dot products with all
    partners are logits; the target is even over the partners of its label. To their mean
    cross-entropy comes ``reg_lambda / 2`` times the mean squared length of the rows used.

    On rows that alternate between anchor and partner this is PaddleClas' where labels do not
    repeat (it takes a second pair of a label for a negative), and without regularisation that of
    tensorflow-addons.

    Args:
        embedding: ``(batch, size)``, as it is.
        label: ``(batch,)`` or ``(batch, 1)`` integers.
        reg_lambda: 0.01 as in the reference.

    Returns:
        A scalar, float32; 0 where no anchor has both a partner and a negative.

    Example:
        >>> from keras_featx.losses import n_pairs_loss
        >>> round(float(n_pairs_loss([[1.0], [2.0], [-1.0], [-2.0]], [5, 5, 6, 6])), 4)
        0.0306
    """
    embedding, label = ops.cast(embedding, "float32"), ops.reshape(label, (-1,))
    same = ops.equal(label[:, None], label[None, :])
    rank = ops.sum(ops.cast(ops.tril(same, k=-1), "int32"), axis=1)  # earlier rows of the label
    partner = same & (rank[None, :] == rank[:, None] + 1) & (rank % 2 == 0)[:, None]
    choices = (rank % 2 == 1)[None, :]
    used = ops.any(partner, axis=1) & ops.any(choices & ~same, axis=1)

    logits = similarities(embedding, embedding)
    own = masked_mean(logits, choices & same, axis=1)
    cross_entropy = masked_mean(masked_logsumexp(logits, choices) - own, used)
    rows_used = used | ops.any(partner & used[:, None], axis=0)
    length = masked_mean(ops.sum(ops.square(embedding), axis=1), rows_used)
    return cross_entropy + 0.5 * reg_lambda * length


@keras.saving.register_keras_serializable("keras_featx")
class NpairsLoss(EmbeddingLoss):
    """:func:`n_pairs_loss` as a layer, by default of embeddings as they are.

    Args:
        reg_lambda: At least 0.

    The rest: see :class:`~keras_featx.losses.layers.EmbeddingLoss`.
    """

    def __init__(self, *, reg_lambda: float = 0.01, normalize_feature: bool = False, **kwargs):
        super().__init__(normalize_feature=normalize_feature, **kwargs)
        require(reg_lambda >= 0, "reg_lambda", "a number of at least 0", reg_lambda)
        self.reg_lambda = reg_lambda

    def batch_loss(self, embedding, label):
        return n_pairs_loss(embedding, label, reg_lambda=self.reg_lambda)
