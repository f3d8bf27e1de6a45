"""What all heads share: the class centres, how they are held, and the way to logits and loss.

``head(embedding, label) -> logits`` for training with any loss, with margin and scale;
``head(embedding)`` gives scaled cosines. ``head(embedding, label, with_loss=True)`` is the way for
many classes: cross-entropy, without a ``(batch, classes)`` tensor.
"""

import inspect
import math
import random

import keras
import tensorflow as tf

from keras_featx import distribute
from keras_featx.heads import softmax


class Head(keras.layers.Layer):
    """Owns the class centres ``(classes * sub_centres, size)``, float32 under any policy.

    A built head takes the first numbers of embeddings, too, and the same ones of its centres.

    Args:
        class_num: Number of classes; a config may leave it out, the training list tells it.
        embedding_size: Only checked against the embedding.
        sample_rate: Share of the centres a training step sees, in (0, 1]: those of the batch's
            classes, filled up with a seeded sample of the others (Partial FC, arXiv:2203.15565).
            Only these rows, and these rows of the optimizer's state, are read and written.
        split: Under a mirrored strategy each replica holds only its part of the centres; the
            softmax is normalised over all. A sampled head is always split.
        seed: Of the sample and of random margins.

    Raises:
        ValueError: On a value outside its range, starting with its name.
    """

    unit = True
    stddev: float | None = None
    sub_centres = 1
    scale = 1.0

    def __init__(
        self,
        *,
        class_num: int | None = None,
        embedding_size: int | None = None,
        sample_rate: float = 1.0,
        split: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if class_num is None or class_num < 1:
            raise ValueError(f"class_num: expected a positive number, got {class_num}")
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate: expected in (0, 1], got {sample_rate}")
        self.class_num = class_num
        self.embedding_size = embedding_size
        self.sample_rate = sample_rate
        self.split = split
        self.seed = seed

    def margins(self, own, norm, label, training) -> tuple:
        """Per-row tensors ``(batch,)`` for :meth:`shift`.

        Args:
            own: Own cosines ``(batch,)``, without gradient.
            norm: Lengths of the embeddings ``(batch,)``.
            label: ``(batch,)``, int32.
            training: Whether running statistics are to be updated.
        """
        return ()

    def shift(self, cosine, *margins):
        """What takes the place of the own cosines ``(batch,)`` in the logits."""
        return cosine

    def others(self, own, margins):
        """What takes the place of other cosines: a function of ``(batch, n)``, or ``None``."""
        return None

    def penalty(self, norm):
        """A further loss ``(batch,)`` on the lengths of the embeddings, or ``None``."""
        return None

    def operands(self, embedding):
        """Embeddings and all centres, of as many numbers, as they are multiplied."""
        return embedding, _like(embedding, tf.convert_to_tensor(self.centres))

    def build(self, input_shape):
        size = input_shape[-1]
        if self.embedding_size is not None and self.embedding_size != size:
            raise ValueError(
                f"embedding_size: expected the neck's {size}, got {self.embedding_size}"
            )
        xavier = math.sqrt(2 / (size + self.class_num))  # not truncated
        initializer = _normal(xavier if self.stddev is None else self.stddev)
        if self.split or self.sample_rate < 1:
            self._build_local(size, initializer)
        else:
            shape = (self.class_num * self.sub_centres, size)
            self.centres = self.add_weight(name="centres", shape=shape, initializer=initializer)
        super().build(input_shape)

    def _build_local(self, size, initializer):
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self.part = math.ceil(self.class_num / replicas)  # classes of each replica but the last
        least = self.class_num - (replicas - 1) * self.part
        if least < 1:
            raise ValueError(
                f"split: expected at least one class on each of {replicas} replicas after parts "
                f"of {self.part}, got {self.class_num} classes"
            )
        sampled = self.sample_rate < 1
        self.centres = distribute.local_variable(
            initializer,
            (self.part * self.sub_centres, size),
            name="centres",
            trainable=not sampled,
            rows=self.class_num * self.sub_centres,
        )
        if not sampled:
            return
        self.sampled = min(least, max(1, round(self.sample_rate * self.part)))
        rows = self.sampled * self.sub_centres
        # The optimizer sees this step's centres as a weight of their own, see `optimizers`.
        self.active = distribute.local_variable(
            _zeros, (rows, size), name="active", trainable=True, transient=True
        )
        self.active_rows = distribute.local_variable(
            _zeros, (rows,), name="active_rows", dtype="int32", transient=True
        )
        self.active.bank, self.active.bank_rows = self.centres, self.active_rows
        self.steps = distribute.local_variable(_zeros, (), name="steps", dtype="int32")

    def call(self, embedding, label=None, with_loss=False, epsilon=0.0, training=False):
        embedding = tf.cast(embedding, tf.float32)
        if label is None:
            return self.scale * self.scores(embedding)
        label = tf.cast(tf.reshape(label, (-1,)), tf.int32)
        if with_loss:
            return self._loss(embedding, label, epsilon, training)
        return self._logits(embedding, label, training)

    def compute_output_spec(
        self, embedding, label=None, with_loss=False, epsilon=0.0, training=False
    ):
        batch = embedding.shape[0]
        if with_loss:
            return tuple(keras.KerasTensor((batch,), dtype=d) for d in ("float32", "bool"))
        return keras.KerasTensor((batch, self.class_num), dtype="float32")

    def scores(self, embedding):
        """Cosines ``(batch, classes)`` without margin and scale."""
        return self._scores().of_block(*self.operands(embedding))

    def _scores(self, **kwargs) -> softmax.Scores:
        return softmax.Scores(self.scale, self.unit, self.sub_centres, **kwargs)

    def _logits(self, embedding, label, training):
        cosines = self.scores(embedding)
        own = tf.gather(cosines, label, batch_dims=1)
        margins = self.margins(tf.stop_gradient(own), _norm(embedding), label, training)
        shifted, others = self.shift(own, *margins), self.others(tf.stop_gradient(own), margins)
        if others is not None:
            cosines = others(cosines)
        places = tf.stack([tf.range(tf.shape(label)[0]), label], axis=1)
        return self.scale * tf.tensor_scatter_nd_update(cosines, places, shifted)

    def _loss(self, embedding, label, epsilon, training):
        if distribute.shapes_only():
            nothing = tf.zeros_like(embedding[:, 0])
            return nothing, nothing > 0
        batch = tf.shape(label)[0]
        index, replicas = distribute.replica()
        whole = not distribute.is_local(self.centres)
        if whole:
            norm = _norm(embedding)
            embedding, centres = self.operands(embedding)
            position, here = label, None
        else:
            embedding, label = distribute.gather(embedding), distribute.gather(label)
            norm = _norm(embedding)
            centres, position, here = self._local_centres(label, index, replicas, training)
            centres = _like(embedding, centres)
        nearest = tf.gather(centres, self._scores().rows(position))
        own = tf.stop_gradient(self._scores().of_own(embedding, nearest))
        if here is not None:
            own = distribute.sum_over_replicas(tf.where(here, own, 0.0))
        margins = self.margins(own, norm, label, training)
        scores = self._scores(own=self.shift, others=self.others(own, margins))
        loss, correct = softmax.cross_entropy(
            embedding, centres, position, margins, scores, epsilon, here
        )
        penalty = self.penalty(norm)
        if penalty is not None:
            loss += penalty
        if whole:
            return loss, correct
        rows = slice(index * batch, (index + 1) * batch)
        return loss[rows], correct[rows]

    def _local_centres(self, label, index, replicas, training):
        """This replica's centres of the step, and where among them each row's own class is."""
        classes = min(self.part, self.class_num - index * self.part)
        position = label - index * self.part
        here = (position >= 0) & (position < classes)
        if self.sample_rate < 1 and training:
            position = self._activate(position, here, classes)
            centres = tf.convert_to_tensor(self.active)
        else:
            position = tf.where(here, position, 0)
            centres = self.centres[: classes * self.sub_centres]
        return centres, position, here if replicas > 1 else None

    def _activate(self, position, here, classes):
        """Choose this step's classes and bring in their centres; positions among these."""
        seed = tf.stack([self.seed, tf.convert_to_tensor(self.steps)])
        self.steps.assign_add(1)
        own = tf.boolean_mask(position, here)
        others = _permuted(self.sampled, classes, seed)
        # Own classes first, each once; then others, as many as there is room for.
        chosen, place = tf.unique(tf.concat([own, others], axis=0))
        place = place[: tf.shape(own)[0]]
        room = tf.debugging.assert_less(
            place, self.sampled, f"sample_rate: a batch of more classes than the {self.sampled}"
        )
        rows = tf.reshape(self._scores().rows(chosen[: self.sampled]), (-1,))
        self.active_rows.assign(rows)
        self.active.assign(tf.gather(distribute.own_part(self.centres), rows))
        with tf.control_dependencies([room] if room is not None else []):
            return tf.scatter_nd(tf.where(here), place, tf.shape(position, tf.int64))

    def check_batch(self, classes: int) -> None:
        """Refuse batches of so many classes (over all replicas) where the sample lacks room."""
        if self.sample_rate < 1 and self.sampled < min(classes, self.part):
            raise ValueError(
                f"sample_rate: expected room for the {min(classes, self.part)} classes that a "
                f"batch may have, got {self.sample_rate} of {self.part} classes, which is "
                f"{self.sampled}"
            )

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in self.arguments()}}

    @classmethod
    def arguments(cls) -> list[str]:
        """Names of the keyword arguments, those of the classes above included."""
        classes = [c for c in cls.__mro__ if issubclass(c, Head)]
        found = (inspect.signature(c.__init__).parameters.values() for c in classes)
        return [p.name for own in found for p in own if p.kind is p.KEYWORD_ONLY]


def _like(embedding, centres):
    """As many numbers of each centre as the embedding has."""
    size = embedding.shape[-1]
    return centres if size in (None, centres.shape[-1]) else centres[:, :size]


def _norm(embedding):
    # Not tf.norm, which has no gradient at 0.
    return tf.sqrt(tf.maximum(tf.reduce_sum(tf.square(embedding), axis=-1), 1e-12))


def _zeros(shape, dtype):
    return tf.zeros(shape, dtype)


def _normal(stddev: float):
    """An initializer that needs no second copy of a large array, as Keras' own does."""

    @tf.function
    def draw(shape, seed):
        return tf.random.stateless_normal(shape, seed, stddev=stddev)

    def initializer(shape, dtype):
        seed = random.randrange(2**31)  # Python's, which keras.utils.set_random_seed sets too
        return draw(tuple(shape), tf.constant([seed, 0]))

    return initializer


def _permuted(count: int, size: int, seed) -> tf.Tensor:
    """``count`` different numbers below ``size``, in random order, by a seed ``(2,)``."""
    # The op keeps 8 bits of each word of its key where size is small: hash first.
    key = tf.random.stateless_uniform([3], seed, None, None, tf.uint32)
    return tf.raw_ops.RandomIndexShuffle(
        index=tf.range(count), seed=key, max_index=tf.constant(size - 1), rounds=8
    )
