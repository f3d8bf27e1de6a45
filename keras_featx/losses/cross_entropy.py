"""Softmax cross-entropy with label smoothing."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_featx")
class CELoss(keras.losses.Loss):
    """Mean cross-entropy of logits, without a one-hot matrix.

    With smoothing the target is ``(1 - epsilon) * onehot + epsilon / classes``.

    Args:
        weight: Factor on the loss in the sum of losses.
        epsilon: Label smoothing, in [0, 1).

    Example:
        >>> import numpy as np
        >>> from keras_featx.losses.cross_entropy import CELoss
        >>> round(float(CELoss()(np.array([0]), np.array([[2.0, 0.0]]))), 4)
        0.1269
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        epsilon: float = 0.0,
        name="ce_loss",
        reduction="sum_over_batch_size",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        if not 0 <= epsilon < 1:
            raise ValueError(f"epsilon: expected in [0, 1), got {epsilon}")
        self.weight = weight
        self.epsilon = epsilon

    def call(self, label, logits):
        label = ops.cast(ops.reshape(label, (-1, 1)), "int32")
        log_sum = ops.logsumexp(logits, axis=-1)
        own = ops.take_along_axis(logits, label, axis=-1)[:, 0]
        loss = log_sum - own
        if self.epsilon:
            smooth = log_sum - ops.mean(logits, axis=-1)
            loss = (1 - self.epsilon) * loss + self.epsilon * smooth
        return self.weight * loss

    def get_config(self):
        return {**super().get_config(), "weight": self.weight, "epsilon": self.epsilon}
