"""Margin heads that follow the length of the embeddings, the state of training, or chance."""

from typing import Literal

import keras
import tensorflow as tf

from keras_featx import distribute
from keras_featx.heads import margins
from keras_featx.heads.layers import MarginHead, check_cosine, check_positive, check_radians


class RunningHead(MarginHead):
    """Keeps statistics of the batches seen, those of all replicas together."""

    def running(self, name: str, start: float, dtype: str = "float32"):
        """A number that every replica sets to the same value."""

        def initializer(shape, dtype):
            return tf.fill(shape, tf.constant(start, dtype))

        return distribute.local_variable(initializer, (), name=name, dtype=dtype)

    def every_row(self, values):
        """Values of the rows of all replicas."""
        return values if distribute.is_local(self.centres) else distribute.gather(values)


@keras.saving.register_keras_serializable("keras_featx")
class AdaMargin(RunningHead):
    """AdaFace (arXiv:2204.00964): long embeddings, of good images, get the harder margin.

    Args:
        margin: Radians and cosine, in [0, 1]. 0.4 in the paper and the reference.
        h: Score of a norm one standard deviation above the mean; 0.333 in the paper.
        t_alpha: Share of a batch in the running statistics, in (0, 1]; the paper recommends 0.01,
            the reference takes 1, the batch alone.
        **kwargs: Of every head.
    """

    def __init__(self, *, margin: float = 0.4, h: float = 0.333, t_alpha: float = 0.01, **kwargs):
        super().__init__(**kwargs)
        self.margin = check_cosine("margin", margin)
        self.h = check_positive("h", h)
        if not 0 < t_alpha <= 1:
            raise ValueError(f"t_alpha: expected in (0, 1], got {t_alpha}")
        self.t_alpha = t_alpha

    def build(self, input_shape):
        super().build(input_shape)
        self.norm_mean = self.running("norm_mean", 20.0)
        self.norm_std = self.running("norm_std", 100.0)

    def margins(self, own, norm, label, training):
        mean, std = tf.convert_to_tensor(self.norm_mean), tf.convert_to_tensor(self.norm_std)
        if training:
            mean, std = margins.ada_statistics(self.every_row(norm), mean, std, self.t_alpha)
            self.norm_mean.assign(mean)
            self.norm_std.assign(std)
        score = margins.ada_norm_score(norm, mean, std, self.h)
        return self.rows(own, self.margin), score

    def shift(self, cosine, margin, score):
        return margins.ada_margin(cosine, score, margin)


@keras.saving.register_keras_serializable("keras_featx")
class CurricularFace(RunningHead):
    """ArcFace whose hard other classes weigh more as training goes on (arXiv:2004.00288).

    Args:
        margin: Radians, in [0, pi/2]. 0.5 in the paper, with scale 64.
        **kwargs: Of every head.
    """

    def __init__(self, *, margin: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.margin = check_radians("margin", margin)

    def build(self, input_shape):
        super().build(input_shape)
        self.t = self.running("t", 0.0)

    def margins(self, own, norm, label, training):
        if training:
            t = tf.convert_to_tensor(self.t)
            self.t.assign(margins.curricular_statistic(self.every_row(own), t))
        return (self.rows(own, self.margin),)

    def shift(self, cosine, margin):
        return margins.arc_margin(cosine, margin)

    def others(self, own, margins_):
        threshold = self.shift(own, *margins_)
        t = tf.convert_to_tensor(self.t)
        return lambda cosines: margins.curricular_others(cosines, threshold, t)


@keras.saving.register_keras_serializable("keras_featx")
class MagFace(MarginHead):
    """MagFace (arXiv:2103.06627): the length of an embedding is its quality.

    The margin grows with the length, and ``norm_weight * g(length)`` draws lengths up; the latter
    is in the loss of ``with_loss=True`` only. Defaults are the paper's (with scale 64).

    Args:
        lower_norm: Length up to which the margin is ``lower_margin``, above 0.
        upper_norm: Length from which it is ``upper_margin``.
        lower_margin: Radians, in [0, pi/2].
        upper_margin: Radians, from ``lower_margin``.
        norm_weight: Factor on g, from 0.
        **kwargs: Of every head.
    """

    def __init__(
        self,
        *,
        lower_norm: float = 10.0,
        upper_norm: float = 110.0,
        lower_margin: float = 0.45,
        upper_margin: float = 0.8,
        norm_weight: float = 35.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.lower_norm = check_positive("lower_norm", lower_norm)
        if not upper_norm > lower_norm:
            raise ValueError(
                f"upper_norm: expected above lower_norm {lower_norm}, got {upper_norm}"
            )
        self.upper_norm = upper_norm
        self.lower_margin = check_radians("lower_margin", lower_margin)
        self.upper_margin = check_radians("upper_margin", upper_margin)
        if upper_margin < lower_margin:
            raise ValueError(
                f"upper_margin: expected at least lower_margin {lower_margin}, got {upper_margin}"
            )
        if not norm_weight >= 0:
            raise ValueError(f"norm_weight: expected at least 0, got {norm_weight}")
        self.norm_weight = norm_weight

    def margins(self, own, norm, label, training):
        bounds = self.lower_norm, self.upper_norm, self.lower_margin, self.upper_margin
        return (margins.mag_margin(norm, *bounds) * tf.convert_to_tensor(self.margin_factor),)

    def shift(self, cosine, margin):
        return margins.arc_margin(cosine, margin)

    def penalty(self, norm):
        regulariser = margins.mag_regulariser(norm, self.upper_norm, self.lower_norm)
        return self.norm_weight * regulariser if self.norm_weight else None


@keras.saving.register_keras_serializable("keras_featx")
class ElasticFace(RunningHead):
    """ElasticFace (arXiv:2109.09416): each row's margin is drawn anew at every step.

    Args:
        margin: Mean of the margins: radians, or cosine for ``kind`` cos. 0.5 and 0.35 in the paper.
        std: Their standard deviation, from 0. 0.05 in the paper.
        kind: ``arc`` adds to the angle, ``cos`` takes off the cosine.
        plus: Rows with the larger cosine get the smaller margin (ElasticFace+; std 0.0175).
        **kwargs: Of every head.
    """

    def __init__(
        self,
        *,
        margin: float = 0.5,
        std: float = 0.05,
        kind: Literal["arc", "cos"] = "arc",
        plus: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.margin = check_radians("margin", margin)
        if not std >= 0:
            raise ValueError(f"std: expected at least 0, got {std}")
        if kind not in ("arc", "cos"):
            raise ValueError(f"kind: expected arc or cos, got {kind!r}")
        self.std, self.kind, self.plus = std, kind, plus

    def build(self, input_shape):
        super().build(input_shape)
        self.draws = self.running("draws", 0, dtype="int32")

    def margins(self, own, norm, label, training):
        if not training:
            return (self.rows(own, self.margin),)
        draw = tf.convert_to_tensor(self.draws)
        self.draws.assign_add(1)
        # The margins of all replicas' rows, of which these are some.
        index, replicas = (0, 1) if distribute.is_local(self.centres) else distribute.replica()
        batch = tf.shape(own)[0]
        seed = tf.stack([self.seed, draw])
        drawn = margins.elastic_margin(self.margin, self.std, seed, [replicas * batch])
        drawn = drawn[index * batch : (index + 1) * batch]
        if self.plus:
            drawn = margins.elastic_plus(drawn, own)
        return (drawn * tf.convert_to_tensor(self.margin_factor),)

    def shift(self, cosine, margin):
        if self.kind == "cos":
            return margins.cos_margin(cosine, margin)
        return margins.arc_margin(cosine, margin)
