"""Heads: layers that own the class centres and turn embeddings into logits.

``head(embedding, label) -> logits`` for training, with margin and scale; ``head(embedding)`` gives
the scaled cosines. ``head(embedding, label, with_scores=True)`` returns both the logits and the
margin-free scores, on which accuracy is reported. Centres and logits are float32 under any
precision policy.
"""

import math

import keras
from keras import ops

from keras_featx.heads import margins


class _Head(keras.layers.Layer):
    """The weights and checks shared by all heads."""

    def __init__(self, class_num, embedding_size, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if class_num is None or class_num < 1:
            raise ValueError(f"class_num: expected a positive number, got {class_num}")
        self.class_num = class_num
        self.embedding_size = embedding_size

    def build(self, input_shape):
        size = input_shape[-1]
        if self.embedding_size is not None and self.embedding_size != size:
            raise ValueError(
                f"embedding_size: expected the neck's {size}, got {self.embedding_size}"
            )
        stddev = math.sqrt(2 / (size + self.class_num))  # Xavier, not truncated
        self.centres = self.add_weight(
            name="centres",
            shape=(size, self.class_num),
            initializer=keras.initializers.RandomNormal(stddev=stddev),
        )
        super().build(input_shape)

    def compute_output_spec(self, embedding, label=None, with_scores=False):
        shape = (embedding.shape[0], self.class_num)
        logits, scores = (keras.KerasTensor(shape, dtype="float32") for _ in range(2))
        return (logits, scores) if with_scores else logits

    def get_config(self):
        config = super().get_config()
        return {**config, "class_num": self.class_num, "embedding_size": self.embedding_size}

    def _cosines(self, embedding):
        embedding = ops.normalize(ops.cast(embedding, "float32"), axis=-1)
        return ops.matmul(embedding, ops.normalize(self.centres, axis=0))  # (batch, classes)


@keras.saving.register_keras_serializable("keras_featx")
class ArcMargin(_Head):
    """Additive angular margin softmax (ArcFace, arXiv:1801.07698).

    Args:
        class_num: Number of classes; a config may leave it out, the training list tells it.
        embedding_size: Only checked against the embedding.
        margin: Radians, in [0, pi/2]. 0.5 as in the paper; the reference's recipes take 0.2.
        scale: Factor on the cosines. The reference's recipes take 30.
        easy_margin: Apply the margin only where the cosine is positive.

    The layer's weight ``margin_factor`` (1, not trained) multiplies the margin, so that training
    can let it grow from 0.

    Example:
        >>> import numpy as np
        >>> from keras_featx.heads.layers import ArcMargin
        >>> head = ArcMargin(class_num=10, margin=0.2, scale=30.0)
        >>> head(np.ones((4, 8), "float32"), np.arange(4)).shape
        TensorShape([4, 10])
    """

    def __init__(
        self,
        *,
        class_num: int | None = None,
        embedding_size: int | None = None,
        margin: float = 0.5,
        scale: float = 30.0,
        easy_margin: bool = False,
        **kwargs,
    ):
        super().__init__(class_num, embedding_size, **kwargs)
        if not 0 <= margin <= math.pi / 2:
            raise ValueError(f"margin: expected radians in [0, pi/2], got {margin}")
        if scale <= 0:
            raise ValueError(f"scale: expected a positive number, got {scale}")
        self.margin = margin
        self.scale = scale
        self.easy_margin = easy_margin

    def build(self, input_shape):
        super().build(input_shape)
        self.margin_factor = self.add_weight(
            name="margin_factor", shape=(), initializer="ones", trainable=False
        )

    def call(self, embedding, label=None, with_scores=False):
        cosine = self._cosines(embedding)
        logits = cosine
        if label is not None:
            rows = ops.arange(ops.shape(cosine)[0], dtype="int32")
            own = ops.stack([rows, ops.cast(ops.reshape(label, (-1,)), "int32")], axis=1)
            own_cosine = ops.take_along_axis(cosine, own[:, 1:], axis=1)[:, 0]
            shifted = margins.arc_margin(
                own_cosine, self.margin * self.margin_factor, self.easy_margin
            )
            logits = ops.scatter_update(cosine, own, shifted)
        logits = logits * self.scale
        return (logits, cosine) if with_scores else logits

    def get_config(self):
        config = super().get_config()
        own = {"margin": self.margin, "scale": self.scale, "easy_margin": self.easy_margin}
        return {**config, **own}


@keras.saving.register_keras_serializable("keras_featx")
class Cosine(_Head):
    """Normalised softmax: scaled cosines without margin (NormFace, arXiv:1704.06369)."""

    def __init__(
        self,
        *,
        class_num: int | None = None,
        embedding_size: int | None = None,
        scale: float = 30.0,
        **kwargs,
    ):
        super().__init__(class_num, embedding_size, **kwargs)
        if scale <= 0:
            raise ValueError(f"scale: expected a positive number, got {scale}")
        self.scale = scale

    def call(self, embedding, label=None, with_scores=False):
        cosine = self._cosines(embedding)
        logits = cosine * self.scale
        return (logits, cosine) if with_scores else logits

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("keras_featx")
class Linear(_Head):
    """A plain fully connected classifier, with bias unless told otherwise."""

    def __init__(
        self,
        *,
        class_num: int | None = None,
        embedding_size: int | None = None,
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(class_num, embedding_size, **kwargs)
        self.use_bias = use_bias

    def build(self, input_shape):
        super().build(input_shape)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.class_num,), initializer="zeros")

    def call(self, embedding, label=None, with_scores=False):
        logits = ops.matmul(ops.cast(embedding, "float32"), self.centres)
        if self.use_bias:
            logits = logits + self.bias
        return (logits, logits) if with_scores else logits

    def get_config(self):
        return {**super().get_config(), "use_bias": self.use_bias}
