"""Relational distillation: the student's batch has the shape of the teacher's, not its place."""

import keras
from keras import ops

from keras_featx.losses.distillation import DistillationLoss
from keras_featx.losses.layers import require
from keras_featx.losses.pairs import distances, masked_mean


def relation_distance_loss(embedding, teacher):
    """Distances between rows, in units of their mean, as the teacher's (RKD-D, arXiv:1904.05068).

    Distances of all pairs of different rows are divided by their mean, for student and teacher
    each; the loss is the mean over these pairs of the Huber loss (delta 1) of the difference. The
    authors' code has the zeros of the diagonal in both means.

    Args:
        embedding: ``(batch, size)``.
        teacher: ``(batch, teacher_size)``; it gets no gradient.

    Returns:
        A scalar, float32; 0 for a batch of one.

    Example:
        >>> from keras_featx.losses import relation_distance_loss
        >>> teacher = [[0.0], [1.0], [2.0]]
        >>> float(relation_distance_loss([[0.0, 0.0], [0.0, 5.0], [0.0, 10.0]], teacher))
        0.0
        >>> round(float(relation_distance_loss([[0.0], [1.0], [3.0]], teacher)), 4)
        0.0208
    """
    teacher = ops.stop_gradient(ops.cast(teacher, "float32"))
    return _huber_mean(*_scaled(ops.cast(embedding, "float32")), *_scaled(teacher))


def relation_angle_loss(embedding, teacher):
    """Angles between three rows as the teacher's (RKD-A, arXiv:1904.05068).

    The mean, over all triples of different rows, of the Huber loss (delta 1) of the difference of
    the cosines of the angle at the middle one. Triples of which two rows coincide, for student or
    teacher, have no angle and are left out; the authors' code takes theirs for 0.

    Takes memory for ``batch^2 * size`` and ``batch^3`` numbers: of 256 images 64 MiB for each copy
    of the latter.

    Args:
        embedding: ``(batch, size)``.
        teacher: ``(batch, teacher_size)``; it gets no gradient.

    Returns:
        A scalar, float32; 0 for a batch of less than three.

    Example:
        >>> from keras_featx.losses import relation_angle_loss
        >>> corner, line = [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[0.0], [1.0], [3.0]]
        >>> float(relation_angle_loss(corner, corner))
        0.0
        >>> round(float(relation_angle_loss(corner, line)), 4)
        0.1953
    """
    teacher = ops.stop_gradient(ops.cast(teacher, "float32"))
    return _huber_mean(*_cosines(ops.cast(embedding, "float32")), *_cosines(teacher))


def _huber_mean(ours, our_mask, theirs, their_mask):
    apart = ops.abs(ours - theirs)
    huber = ops.where(apart < 1.0, 0.5 * ops.square(apart), apart - 0.5)
    return masked_mean(huber, our_mask & their_mask)


def _scaled(x):
    """Distances of all pairs in units of their mean, and which pairs count."""
    others = ~ops.eye(ops.shape(x)[0], dtype="bool")
    found = distances(x, x)
    mean = masked_mean(found, others)
    return found / ops.where(mean > 0, mean, 1.0), others


def _cosines(x):
    """Of the angle at row j between rows i and k ``[j, i, k]``, and which triples have one."""
    rows = ops.shape(x)[0]
    between = x[None, :, :] - x[:, None, :]
    squared = ops.sum(ops.square(between), axis=-1)
    apart = squared > 1e-12
    # Not normalize(), whose gradient is not finite at 0.
    length = ops.sqrt(ops.where(apart, squared, 1.0))
    direction = between / length[:, :, None]
    cosine = ops.matmul(direction, ops.transpose(direction, (0, 2, 1)))
    two = ~ops.eye(rows, dtype="bool")[None, :, :]
    coincide = ~apart[None, :, :]
    return cosine, apart[:, :, None] & apart[:, None, :] & two & ~coincide


@keras.saving.register_keras_serializable("keras_featx")
class RelationDistillation(DistillationLoss):
    """Relational distillation (RKD-DA, arXiv:1904.05068) as a layer.

    ``distance_weight`` times :func:`relation_distance_loss` plus ``angle_weight`` times
    :func:`relation_angle_loss`. Sizes of student and teacher may differ. It compares within a
    batch: on several replicas within the batch of all.

    Args:
        distance_weight: 0 leaves distances out.
        angle_weight: 0 leaves angles out.
        weight: Factor on the sum of both.
        normalize_feature: Of the student: compare unit vectors, as they are deployed. The authors
            take the student's embedding as it is.
    """

    def __init__(
        self,
        *,
        distance_weight: float = 1.0,
        angle_weight: float = 2.0,
        weight: float = 1.0,
        normalize_feature: bool = True,
        **kwargs,
    ):
        super().__init__(weight=weight, normalize_feature=normalize_feature, **kwargs)
        for name, value in (("distance_weight", distance_weight), ("angle_weight", angle_weight)):
            require(value >= 0, name, "a number of at least 0", value)
        both = distance_weight + angle_weight
        require(both > 0, "angle_weight", "above 0 where distance_weight is 0", angle_weight)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def batch_loss(self, embedding, teacher):
        loss = 0.0
        if self.distance_weight:
            loss = loss + self.distance_weight * relation_distance_loss(embedding, teacher)
        if self.angle_weight:
            loss = loss + self.angle_weight * relation_angle_loss(embedding, teacher)
        return loss
