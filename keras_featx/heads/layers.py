"""Heads with fixed margins and without, each a few lines over its function in :mod:`margins`.

Every margin head has an untrained weight ``margin_factor`` (1) that multiplies its margins, so that
training can let them grow from 0.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_featx.heads import margins
from keras_featx.heads.base import Head


def check_radians(name: str, margin: float) -> float:
    """The margin, if it is an angle from 0 to a right one."""
    if not 0 <= margin <= math.pi / 2:
        raise ValueError(f"{name}: expected radians in [0, pi/2], got {margin}")
    return margin


def check_cosine(name: str, margin: float) -> float:
    """The margin, if it is a difference of cosines from 0 to 1."""
    if not 0 <= margin <= 1:
        raise ValueError(f"{name}: expected in [0, 1], got {margin}")
    return margin


def check_positive(name: str, value: float) -> float:
    """The value, if it is above 0 and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return value


class CosineHead(Head):
    """Logits are scaled cosines.

    Args:
        scale: Factor on the cosines, above 0. The reference's recipes take 30.
    """

    def __init__(self, *, scale: float = 30.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = check_positive("scale", scale)


class MarginHead(CosineHead):
    """Adds the weight ``margin_factor``."""

    def build(self, input_shape):
        super().build(input_shape)
        self.margin_factor = self.add_weight(
            name="margin_factor", shape=(), initializer="ones", trainable=False
        )

    def rows(self, own, margin):
        """A margin, times ``margin_factor``, for every row."""
        return tf.fill(tf.shape(own), margin * tf.convert_to_tensor(self.margin_factor))


@keras.saving.register_keras_serializable("keras_featx")
class Cosine(CosineHead):
    """Normalised softmax: scaled cosines without margin (NormFace, arXiv:1704.06369)."""


@keras.saving.register_keras_serializable("keras_featx")
class Linear(Head):
    """A plain fully connected classifier of embeddings as the neck gives them.

    Args:
        use_bias: Whether each class has an offset.
        stddev: Of the initial weights; Xavier's where not given. PP-ShiTuV2 has 0.001.
        **kwargs: Of every head.
    """

    unit = False

    def __init__(self, *, use_bias: bool = True, stddev: float | None = None, **kwargs):
        super().__init__(**kwargs)
        if stddev is not None and not stddev > 0:
            raise ValueError(f"stddev: expected a positive number, got {stddev}")
        self.stddev = stddev
        if use_bias and (self.split or self.sample_rate < 1):
            raise ValueError("use_bias: expected false with sample_rate or split, got True")
        self.use_bias = use_bias

    def build(self, input_shape):
        super().build(input_shape)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.class_num,), initializer="zeros")

    def operands(self, embedding):
        embedding, centres = super().operands(embedding)
        if not self.use_bias:
            return embedding, centres
        bias = tf.convert_to_tensor(self.bias)[:, None]
        ones = tf.ones_like(embedding[:, :1])
        return tf.concat([embedding, ones], axis=1), tf.concat([centres, bias], axis=1)


@keras.saving.register_keras_serializable("keras_featx")
class ArcMargin(MarginHead):
    """Additive angular margin softmax (ArcFace, arXiv:1801.07698).

    Args:
        margin: Radians, in [0, pi/2]. 0.5 as in the paper; the reference's recipes take 0.2.
        easy_margin: Apply the margin only where the cosine is positive.
        **kwargs: Of every head, see :class:`CosineHead` and :class:`keras_featx.heads.base.Head`.

    Example:
        >>> import numpy as np
        >>> from keras_featx.heads.layers import ArcMargin
        >>> head = ArcMargin(class_num=10, margin=0.2, scale=30.0)
        >>> head(np.ones((4, 8), "float32"), np.arange(4)).shape
        TensorShape([4, 10])
        >>> loss, correct = head(np.ones((4, 8), "float32"), np.arange(4), with_loss=True)
        >>> loss.shape
        TensorShape([4])
    """

    def __init__(self, *, margin: float = 0.5, easy_margin: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.margin = check_radians("margin", margin)
        self.easy_margin = easy_margin

    def margins(self, own, norm, label, training):
        return (self.rows(own, self.margin),)

    def shift(self, cosine, margin):
        return margins.arc_margin(cosine, margin, self.easy_margin)


@keras.saving.register_keras_serializable("keras_featx")
class SubCenterArcFace(ArcMargin):
    """ArcFace with several centres a class, of which the nearest counts (ECCV 2020).

    Noisy or many-sided classes spread over their centres: "Sub-center ArcFace: Boosting Face
    Recognition by Large-scale Noisy Web Faces", which takes 3.

    Args:
        sub_centres: Centres of each class, from 1.
        **kwargs: Of :class:`ArcMargin`.
    """

    def __init__(self, *, sub_centres: int = 3, **kwargs):
        super().__init__(**kwargs)
        if sub_centres < 1:
            raise ValueError(f"sub_centres: expected at least 1, got {sub_centres}")
        self.sub_centres = sub_centres


@keras.saving.register_keras_serializable("keras_featx")
class CosMargin(MarginHead):
    """Additive cosine margin softmax (CosFace, arXiv:1801.09414).

    Args:
        margin: In cosine, in [0, 1]. 0.35 as in the paper and the reference.
        **kwargs: Of every head.
    """

    def __init__(self, *, margin: float = 0.35, **kwargs):
        super().__init__(**kwargs)
        self.margin = check_cosine("margin", margin)

    def margins(self, own, norm, label, training):
        return (self.rows(own, self.margin),)

    def shift(self, cosine, margin):
        return margins.cos_margin(cosine, margin)


@keras.saving.register_keras_serializable("keras_featx")
class CombinedMargin(MarginHead):
    """``cos(m1 * theta + m2) - m3``: SphereFace, ArcFace and CosFace in one (arXiv:1801.07698).

    Args:
        m1: Factor on the angle, from 1/2 to 4; 1 is none.
        m2: Radians added to it, in [0, pi/2].
        m3: Taken off the cosine, in [0, 1].
        **kwargs: Of every head. The defaults are the paper's best combination.
    """

    def __init__(self, *, m1: float = 0.9, m2: float = 0.4, m3: float = 0.15, **kwargs):
        super().__init__(**kwargs)
        if not 0.5 <= m1 <= 4:
            raise ValueError(f"m1: expected in [0.5, 4], got {m1}")
        self.m1 = m1
        self.m2 = check_radians("m2", m2)
        self.m3 = check_cosine("m3", m3)

    def margins(self, own, norm, label, training):
        m1 = 1.0 + self.rows(own, self.m1 - 1.0)
        return m1, self.rows(own, self.m2), self.rows(own, self.m3)

    def shift(self, cosine, m1, m2, m3):
        return margins.combined_margin(cosine, m1, m2, m3)


@keras.saving.register_keras_serializable("keras_featx")
class CircleMargin(CosineHead):
    """Circle loss at class level (arXiv:2002.10857): cosines weighted by their distance to go.

    Its margin is no offset that 0 would switch off, so it cannot grow during training.

    Args:
        margin: In cosine, in [0, 1]. 0.25 in the paper (with scale 256); the reference's recipes
            take 0.35 and scale 64.
        **kwargs: Of every head.
    """

    def __init__(self, *, margin: float = 0.25, **kwargs):
        super().__init__(**kwargs)
        self.margin = check_cosine("margin", margin)

    def shift(self, cosine):
        return margins.circle_own(cosine, self.margin)

    def others(self, own, margins_):
        return lambda cosines: margins.circle_others(cosines, self.margin)


@keras.saving.register_keras_serializable("keras_featx")
class DynamicArcMargin(MarginHead):
    """ArcFace with a margin per class, the larger the rarer the class (arXiv:2010.05350).

    The training loop gives the classes' frequencies to :meth:`set_counts`; until then every class
    has ``largest``.

    Args:
        smallest: Radians, of the most frequent class.
        largest: Radians, of the rarest.
        power: Of the frequency, below 0; -1/4 in the paper.
        **kwargs: Of every head.
    """

    def __init__(
        self, *, smallest: float = 0.05, largest: float = 0.5, power: float = -0.25, **kwargs
    ):
        super().__init__(**kwargs)
        self.smallest = check_radians("smallest", smallest)
        self.largest = check_radians("largest", largest)
        if smallest > largest:
            raise ValueError(f"smallest: expected at most largest {largest}, got {smallest}")
        if not power < 0:
            raise ValueError(f"power: expected a negative number, got {power}")
        self.power = power

    def build(self, input_shape):
        super().build(input_shape)
        self.class_margins = self.add_weight(
            name="class_margins",
            shape=(self.class_num,),
            initializer=keras.initializers.Constant(self.largest),
            trainable=False,
        )

    def set_counts(self, counts: np.ndarray) -> None:
        """Set each class' margin by its number of training images ``(classes,)``."""
        self.class_margins.assign(
            margins.class_margins(counts, self.smallest, self.largest, self.power)
        )

    def margins(self, own, norm, label, training):
        return (tf.gather(self.class_margins, label) * tf.convert_to_tensor(self.margin_factor),)

    def shift(self, cosine, margin):
        return margins.arc_margin(cosine, margin)
