"""The layer around the losses on embeddings: normalise, gather, remember, weigh."""

import inspect
import re
from typing import Literal

import keras
from keras import ops

from keras_featx import distribute
from keras_featx.losses import miners


class EmbeddingLoss(keras.layers.Layer):
    """A loss on embeddings and labels: ``layer(embedding, label) -> (batch,)``.

    The value is one number for the whole batch, times ``weight``, given to every row. A subclass
    says in :meth:`batch_loss` what the number is.

    Everything is float32 under any precision policy. In a replica of a
    :class:`tf.distribute.Strategy` the rows of all replicas are gathered first, so that losses and
    gradients are those of one device with the whole batch.

    Args:
        weight: Factor on the loss in the sum of losses.
        normalize_feature: Scale embeddings to unit length first.
    """

    def __init__(self, *, weight: float = 1.0, normalize_feature: bool = True, **kwargs):
        kwargs.setdefault("dtype", "float32")
        kwargs.setdefault("name", snake_case(type(self).__name__))
        super().__init__(**kwargs)
        require(weight >= 0, "weight", "a number of at least 0", weight)
        self.weight = weight
        self.normalize_feature = normalize_feature

    def batch_loss(self, embedding, label):
        """The loss of a batch, a scalar, of ``(batch, size)``, float32, and ``(batch,)``, int64."""
        raise NotImplementedError

    def step_loss(self, embedding, label, training: bool):
        """The loss of a step, a scalar: that of the batch, and of what the layer remembers."""
        return self.batch_loss(embedding, label)

    def call(self, embedding, label, training=False):
        rows, size = ops.shape(embedding)
        embedding = ops.reshape(distribute.gather(ops.cast(embedding, "float32")), (-1, size))
        label = distribute.gather(ops.cast(ops.reshape(label, (-1,)), "int64"))
        if self.normalize_feature:
            embedding = ops.normalize(embedding, axis=-1)
        loss = self.step_loss(embedding, label, training)
        return ops.broadcast_to(self.weight * loss, (rows,))

    def compute_output_spec(self, embedding, label, training=None):
        return keras.KerasTensor(embedding.shape[:1], dtype="float32")

    def get_config(self):
        classes = [cls for cls in type(self).__mro__ if issubclass(cls, EmbeddingLoss)]
        own = [name for cls in classes for name in inspect.getfullargspec(cls.__init__).kwonlyargs]
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


class MemoryLoss(EmbeddingLoss):
    """A loss that may also compare a batch with earlier ones.

    With ``memory_size`` the layer keeps the newest rows of earlier batches, as they were
    (cross-batch memory, arXiv:1912.06798). A training step first puts its batch in, then adds to
    the loss of the batch ``memory_weight`` times the loss of the batch against the memory; no row
    is compared with itself, and nothing flows back into the memory. Outside training the memory is
    neither read nor written. It is saved with the weights.

    Args:
        memory_size: Rows to remember; 0 for none.
        memory_start: Training steps before the first batch is remembered. Embeddings move too fast
            at the start to be of use later.
        memory_weight: Factor on the memory's part.

    The rest: see :class:`EmbeddingLoss`.
    """

    def __init__(
        self, *, memory_size: int = 0, memory_start: int = 0, memory_weight: float = 1.0, **kwargs
    ):
        super().__init__(**kwargs)
        require(memory_size >= 0, "memory_size", "a number of at least 0", memory_size)
        require(memory_start >= 0, "memory_start", "a number of at least 0", memory_start)
        require(memory_weight >= 0, "memory_weight", "a number of at least 0", memory_weight)
        self.memory_size = memory_size
        self.memory_start = memory_start
        self.memory_weight = memory_weight
        self.step = None

    @property
    def counts_steps(self) -> bool:
        """Whether a step's loss depends on the number of the step."""
        return self.memory_size > 0

    def batch_loss(self, embedding, label, **reference):
        """The loss of a batch, a scalar.

        Args:
            embedding: ``(batch, size)``, float32.
            label: ``(batch,)``, int64.
            **reference: Nothing, or ``reference``, ``reference_label`` and ``pair_mask``: the
                memory to compare with.
        """
        raise NotImplementedError

    def build(self, embedding_shape, label_shape=None):
        super().build(embedding_shape)
        if self.counts_steps:
            self.step = self._state("step", (), "int64")
        if self.memory_size:
            size = self.memory_size  # newest last
            self.memory = self._state("memory", (size, embedding_shape[-1]), "float32")
            self.memory_label = self._state("memory_label", (size,), "int64")
            self.memory_count = self._state("memory_count", (), "int64")

    def step_loss(self, embedding, label, training):
        loss = self.batch_loss(embedding, label)
        if training and self.memory_size:
            loss = loss + self.memory_weight * self._memory_loss(embedding, label)
        if training and self.step is not None:
            self.step.assign(self.step + 1)
        return loss

    def _state(self, name, shape, dtype):
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False,
            aggregation="only_first_replica",  # all hold the same: their batch is gathered
        )  # fmt: skip

    def _memory_loss(self, embedding, label):
        size, rows = self.memory_size, ops.cast(ops.shape(label)[0], "int64")
        memory = ops.concatenate([self.memory, ops.stop_gradient(embedding)])[-size:]
        memory_label = ops.concatenate([self.memory_label, label])[-size:]
        started = ops.cast(self.step >= self.memory_start, "int64")
        count = ops.minimum(self.memory_count + started * rows, size)
        self.memory.assign(memory)
        self.memory_label.assign(memory_label)
        self.memory_count.assign(count)

        slot = ops.arange(size, dtype="int64")
        row_in_slot = slot - size + rows  # of this batch; negative in older slots
        itself = row_in_slot[None, :] == ops.arange(rows, dtype="int64")[:, None]
        filled = slot >= size - count
        return self.batch_loss(
            embedding, label,
            reference=memory, reference_label=memory_label, pair_mask=filled[None, :] & ~itself,
        )  # fmt: skip


class MinedLoss(MemoryLoss):
    """A loss whose pairs a miner may choose.

    Args:
        miner: See :mod:`keras_featx.losses.miners`.
        seed: Of a random miner, which draws anew each training step.

    The rest: see :class:`MemoryLoss`.
    """

    def __init__(
        self,
        *,
        miner: Literal[
            "none", "hard", "semi_hard", "multi_similarity", "distance_weighted"
        ] = "none",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_one_of(miners.MINERS, "miner", miner)
        self.miner = miner
        self.seed = seed

    @property
    def counts_steps(self):
        return super().counts_steps or self.miner == "distance_weighted"

    def mining(self) -> dict:
        """The miner, and two integers for this step's draws."""
        return {"miner": self.miner, "seed": (self.seed, 0 if self.step is None else self.step)}


def snake_case(name: str) -> str:
    """The name of a class as a column of a log is called.

    Example:
        >>> from keras_featx.losses.layers import snake_case
        >>> snake_case("SmoothAPLoss"), snake_case("TripletLossV2")
        ('smooth_ap_loss', 'triplet_loss_v2')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def require(condition: bool, name: str, expected: str, value) -> None:
    """Refuse a parameter's value unless the condition holds.

    Example:
        >>> from keras_featx.losses.layers import require
        >>> require(False, "margin", "a number above 0", -1)
        Traceback (most recent call last):
        ValueError: margin: expected a number above 0, got -1
    """
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def require_one_of(choices, name: str, value) -> None:
    """Refuse a value that is none of the choices."""
    require(value in choices, name, f"one of {list(choices)}", value)


def require_class_num(class_num: int | None) -> None:
    """Refuse a layer that owns vectors of classes without their number."""
    require(class_num is not None and class_num >= 1, "class_num", "a positive number", class_num)
