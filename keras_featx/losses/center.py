"""Center loss: every row near the learned centre of its class."""

import keras
from keras import ops

from keras_featx.losses.layers import EmbeddingLoss, require_class_num


def center_loss(embedding, label, centres):
    """Mean squared distance of each row to the centre of its class (Wen et al., ECCV 2016).

    PaddleClas' clip adds 1e-12 for every other class; nothing else differs.

    Args:
        embedding: ``(batch, size)``, as it is.
        label: ``(batch,)`` or ``(batch, 1)`` integers in [0, classes).
        centres: ``(classes, size)``.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import center_loss
        >>> float(center_loss([[1.0, 2.0], [3.0, 4.0]], [1, 0], [[3.0, 3.0], [1.0, 1.0]]))
        1.0
    """
    own = ops.take(centres, ops.reshape(label, (-1,)), axis=0)
    return ops.mean(ops.sum(ops.square(ops.cast(embedding, "float32") - own), axis=1))


@keras.saving.register_keras_serializable("keras_featx")
class CenterLoss(EmbeddingLoss):
    """:func:`center_loss` as a layer that owns the centres; by default of embeddings as they are.

    Args:
        class_num: Number of classes; a config may leave it out, the training list tells it.

    The rest: see :class:`~keras_featx.losses.layers.EmbeddingLoss`. The weight ``centres`` is
    ``(classes, size)`` and starts as N(0, 1), as in the reference.
    """

    def __init__(self, *, class_num: int | None = None, normalize_feature: bool = False, **kwargs):
        super().__init__(normalize_feature=normalize_feature, **kwargs)
        require_class_num(class_num)
        self.class_num = class_num

    def build(self, embedding_shape, label_shape=None):
        self.centres = self.add_weight(
            name="centres",
            shape=(self.class_num, embedding_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
        )
        super().build(embedding_shape)

    def batch_loss(self, embedding, label):
        return center_loss(embedding, label, self.centres)
