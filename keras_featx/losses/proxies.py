"""Proxy losses: rows against one learned vector a class, instead of against each other."""

import keras
from keras import ops

from keras_featx.losses.layers import EmbeddingLoss, require, require_class_num
from keras_featx.losses.pairs import (
    masked_logsumexp,
    masked_mean,
    similarities,
    squared_distances,
)


def proxy_anchor_loss(embedding, label, proxies, *, margin: float = 0.1, alpha: float = 32.0):
    """Proxy-Anchor loss (arXiv:2003.13911).

    The mean of ``log(1 + sum_p exp(-alpha (s - margin)))`` over the proxies of classes in the
    batch, plus the mean of ``log(1 + sum_n exp(alpha (s + margin)))`` over all proxies; ``p`` and
    ``n`` go over the rows of a proxy's class and of others. Defaults are the paper's.

    Args:
        embedding: ``(batch, size)``, rows of unit length.
        label: ``(batch,)`` or ``(batch, 1)`` integers in [0, classes).
        proxies: ``(classes, size)``, of any length.
        margin: Of cosines.
        alpha: Scale.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import proxy_anchor_loss
        >>> proxies = [[2.0, 0.0], [0.0, 1.0]]
        >>> round(float(proxy_anchor_loss([[1.0, 0.0]], [0], proxies)), 4)
        1.62
    """
    proxies = ops.normalize(ops.cast(proxies, "float32"), axis=1)
    cosine = similarities(ops.cast(embedding, "float32"), proxies)
    own = _own(label, proxies)
    attraction = masked_logsumexp(-alpha * (cosine - margin), own, axis=0)
    repulsion = masked_logsumexp(alpha * (cosine + margin), ~own, axis=0)
    pull = masked_mean(ops.softplus(attraction), ops.any(own, axis=0))
    return pull + ops.mean(ops.softplus(repulsion))


def proxy_nca_loss(embedding, label, proxies, *, scale: float = 9.0):
    """Proxy-NCA loss (arXiv:1703.07464), as a softmax over all proxies.

    Mean cross-entropy with ``-scale * d^2`` to the unit proxies as logits. As in ProxyNCA++
    (arXiv:2004.01113) and pytorch-metric-learning the own proxy is among the alternatives, so that
    the loss is a probability's; the first paper leaves it out.

    Args:
        embedding: ``(batch, size)``, rows of unit length.
        label: ``(batch,)`` or ``(batch, 1)`` integers in [0, classes).
        proxies: ``(classes, size)``, of any length.
        scale: One over the temperature; 9 as in ProxyNCA++.

    Returns:
        A scalar, float32.

    Example:
        >>> from keras_featx.losses import proxy_nca_loss
        >>> proxies = [[2.0, 0.0], [0.0, 1.0]]
        >>> round(float(proxy_nca_loss([[1.0, 0.0]], [0], proxies, scale=1.0)), 4)
        0.1269
    """
    proxies = ops.normalize(ops.cast(proxies, "float32"), axis=1)
    logits = -scale * squared_distances(embedding, proxies)
    own = ops.sum(ops.where(_own(label, proxies), logits, 0.0), axis=1)
    return ops.mean(ops.logsumexp(logits, axis=1) - own)


def _own(label, proxies):
    label = ops.cast(ops.reshape(label, (-1, 1)), "int64")
    return ops.equal(label, ops.arange(proxies.shape[0], dtype="int64")[None, :])


class _ProxyLoss(EmbeddingLoss):
    """Owns ``proxies``, ``(classes, size)``; only their directions count."""

    def build(self, embedding_shape, label_shape=None):
        self.proxies = self.add_weight(
            name="proxies",
            shape=(self.class_num, embedding_shape[-1]),
            initializer=keras.initializers.VarianceScaling(
                2.0, mode="fan_in", distribution="untruncated_normal"
            ),
        )
        super().build(embedding_shape)


@keras.saving.register_keras_serializable("keras_featx")
class ProxyAnchorLoss(_ProxyLoss):
    """:func:`proxy_anchor_loss` as a layer that owns the proxies.

    Args:
        class_num: Number of classes; a config may leave it out, the training list tells it.
        margin: At least 0.
        alpha: Above 0.

    The rest: see :class:`~keras_featx.losses.layers.EmbeddingLoss`. The proxies start as
    N(0, 2 / classes), as the authors have it; they want a far higher learning rate than the
    network (100 times in the paper).
    """

    def __init__(
        self, *, class_num: int | None = None, margin: float = 0.1, alpha: float = 32.0, **kwargs
    ):
        super().__init__(**kwargs)
        require_class_num(class_num)
        require(margin >= 0, "margin", "a number of at least 0", margin)
        require(alpha > 0, "alpha", "a number above 0", alpha)
        self.class_num = class_num
        self.margin = margin
        self.alpha = alpha

    def batch_loss(self, embedding, label):
        return proxy_anchor_loss(
            embedding, label, self.proxies, margin=self.margin, alpha=self.alpha
        )


@keras.saving.register_keras_serializable("keras_featx")
class ProxyNCALoss(_ProxyLoss):
    """:func:`proxy_nca_loss` as a layer that owns the proxies.

    Args:
        class_num: Number of classes; a config may leave it out, the training list tells it.
        scale: Above 0.

    The rest: see :class:`~keras_featx.losses.layers.EmbeddingLoss`. The proxies start as
    N(0, 2 / classes).
    """

    def __init__(self, *, class_num: int | None = None, scale: float = 9.0, **kwargs):
        super().__init__(**kwargs)
        require_class_num(class_num)
        require(scale > 0, "scale", "a number above 0", scale)
        self.class_num = class_num
        self.scale = scale

    def batch_loss(self, embedding, label):
        return proxy_nca_loss(embedding, label, self.proxies, scale=self.scale)
