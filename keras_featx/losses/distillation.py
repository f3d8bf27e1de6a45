"""Distillation: losses that are small where a student answers as its teacher does."""

from typing import Literal

import keras
from keras import ops

from keras_featx import distribute
from keras_featx.losses.layers import EmbeddingLoss, require, require_one_of


def kl_distillation_loss(logits, teacher, *, temperature: float = 4.0):
    """Soft targets (arXiv:1503.02531).

    ``T^2 KL(softmax(teacher / T) || softmax(logits / T))``, averaged over rows. The factor ``T^2``
    keeps gradients as large as they are without temperature, so a weight need not follow it. Where
    teacher and student answer alike the loss is 0: the teacher's entropy, which does not depend on
    the student, is taken off.

    Args:
        logits: ``(batch, classes)`` of the student.
        teacher: ``(batch, classes)`` logits of the teacher; it gets no gradient.
        temperature: ``T``, above 0; 4 as in PaddleClas.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import kl_distillation_loss
        >>> round(float(kl_distillation_loss([[2.0, 0.0]], [[0.0, 0.0]], temperature=1.0)), 4)
        0.4338
    """
    teacher = ops.stop_gradient(ops.cast(teacher, "float32"))
    return temperature**2 * _divergence(
        teacher / temperature, ops.cast(logits, "float32") / temperature
    )


def mutual_learning_loss(logits, other):
    """What two networks that learn from each other differ in (arXiv:1706.00384).

    ``(KL(p || q) + KL(q || p)) / 2`` of their softmax, averaged over rows: PaddleClas' form. In
    the paper each network takes the other's answer as given and has one of the two terms. Here both
    get gradients; ``keras.ops.stop_gradient`` on one is for a teacher that is not to learn.

    Args:
        logits: ``(batch, classes)``.
        other: ``(batch, classes)``, of the other network.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import mutual_learning_loss
        >>> round(float(mutual_learning_loss([[2.0, 0.0]], [[0.0, 0.0]])), 4)
        0.3808
    """
    logits, other = ops.cast(logits, "float32"), ops.cast(other, "float32")
    return (_divergence(logits, other) + _divergence(other, logits)) / 2


def embedding_distillation_loss(embedding, teacher, *, distance: str = "cosine"):
    """How far each embedding is from the teacher's of the same image, averaged over rows.

    Args:
        embedding: ``(batch, size)``, unit norm.
        teacher: ``(batch, size)``, unit norm; it gets no gradient.
        distance: ``cosine`` is one minus the cosine; ``squared`` the squared Euclidean distance,
            twice that for unit vectors; ``l2`` the distance itself, whose gradient is as large near
            the teacher as far from it.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import embedding_distillation_loss
        >>> float(embedding_distillation_loss([[1.0, 0.0]], [[0.0, 1.0]]))
        1.0
    """
    require_one_of(DISTANCES, "distance", distance)
    embedding = ops.cast(embedding, "float32")
    teacher = ops.stop_gradient(ops.cast(teacher, "float32"))
    if distance == "cosine":
        return ops.mean(1.0 - ops.sum(embedding * teacher, axis=1))
    squared = ops.sum(ops.square(embedding - teacher), axis=1)
    if distance == "squared":
        return ops.mean(squared)
    apart = squared > 1e-12  # the gradient at 0 is 0
    return ops.mean(ops.where(apart, ops.sqrt(ops.where(apart, squared, 1.0)), 0.0))


DISTANCES = ("cosine", "l2", "squared")


def _divergence(target, logits):
    """``KL(softmax(target) || softmax(logits))``, averaged over rows."""
    log_p, log_q = ops.log_softmax(target, axis=-1), ops.log_softmax(logits, axis=-1)
    return ops.mean(ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1))


@keras.saving.register_keras_serializable("keras_featx")
class KLDistillation(keras.losses.Loss):
    """:func:`kl_distillation_loss` for ``compile``: the teacher's logits are the target.

    Args:
        temperature: Above 0.
        weight: Factor on the loss.

    Example:
        >>> from keras_featx.losses import KLDistillation
        >>> round(float(KLDistillation(temperature=1.0)([[0.0, 0.0]], [[2.0, 0.0]])), 4)
        0.4338
    """

    def __init__(self, *, temperature: float = 4.0, weight: float = 1.0, **kwargs):
        super().__init__(**{"name": "kl_distillation", **kwargs})
        require(temperature > 0, "temperature", "a number above 0", temperature)
        require(weight >= 0, "weight", "a number of at least 0", weight)
        self.temperature, self.weight = temperature, weight

    def call(self, teacher, logits):
        return self.weight * kl_distillation_loss(logits, teacher, temperature=self.temperature)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature, "weight": self.weight}


class DistillationLoss(EmbeddingLoss):
    """A loss on embeddings and a teacher's of the same images: ``layer(embedding, teacher)``.

    As of :class:`~keras_featx.losses.layers.EmbeddingLoss`, but with the teacher's embeddings
    ``(batch, teacher_size)`` in place of labels. A subclass says in :meth:`batch_loss` what the
    number is.
    """

    def call(self, embedding, teacher, training=False):
        rows = ops.shape(embedding)[0]
        embedding, teacher = (self._whole(x) for x in (embedding, teacher))
        teacher = ops.stop_gradient(teacher)
        if self.normalize_feature:
            embedding, teacher = ops.normalize(embedding, axis=-1), ops.normalize(teacher, axis=-1)
        return ops.broadcast_to(self.weight * self.batch_loss(embedding, teacher), (rows,))

    def compute_output_spec(self, embedding, teacher, training=None):
        return keras.KerasTensor(embedding.shape[:1], dtype="float32")

    def _whole(self, x):
        """The rows of all replicas, float32."""
        return ops.reshape(distribute.gather(ops.cast(x, "float32")), (-1, x.shape[-1]))


@keras.saving.register_keras_serializable("keras_featx")
class EmbeddingDistillation(DistillationLoss):
    """:func:`embedding_distillation_loss` as a layer, of unit vectors.

    Args:
        distance: ``cosine``, ``l2`` or ``squared``.
        projection: ``linear`` puts a trained matrix from the embedding to the teacher's size
            before the comparison; the extractor does not get it. ``none`` wants equal sizes.
        weight: Factor on the loss in the sum of losses.
    """

    def __init__(
        self,
        *,
        distance: Literal["cosine", "l2", "squared"] = "cosine",
        projection: Literal["none", "linear"] = "none",
        weight: float = 1.0,
        **kwargs,
    ):
        super().__init__(weight=weight, **kwargs)
        require_one_of(DISTANCES, "distance", distance)
        require_one_of(("none", "linear"), "projection", projection)
        require(self.normalize_feature, "normalize_feature", "True", self.normalize_feature)
        self.distance, self.projection = distance, projection
        self.matrix = None

    def build(self, embedding_shape, teacher_shape):
        super().build(embedding_shape)
        ours, theirs = embedding_shape[-1], teacher_shape[-1]
        if self.projection == "linear":
            self.matrix = self.add_weight(name="projection", shape=(ours, theirs))
        elif ours != theirs:
            raise ValueError(
                f"projection: expected 'linear', as an embedding has {ours} numbers and the "
                f"teacher's {theirs}, got 'none'"
            )

    def batch_loss(self, embedding, teacher):
        if self.matrix is not None:
            embedding = ops.normalize(ops.matmul(embedding, self.matrix), axis=-1)
        return embedding_distillation_loss(embedding, teacher, distance=self.distance)
