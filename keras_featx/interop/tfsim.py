"""The losses and samplers of tensorflow-similarity 0.17.1, in a classifier.

The package (the extra ``[similarity]``) is imported when a loss is made; this module and configs
that name its losses do without. Its losses on two views, such as ``SimCLRLoss``, take no labels and
are not here.

Example:
    >>> from keras_featx import components
    >>> components.parameters("loss", "tfsim.CircleLoss", "")["gamma"].default
    80.0
"""

import functools
import importlib
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_featx.losses.layers import EmbeddingLoss, require, require_one_of

REGISTERED = "keras_featx.tfsim"


class SimilarityLoss(EmbeddingLoss):
    """A loss of tensorflow-similarity: ``layer(embedding, label) -> (batch,)``.

    A subclass has the library's name, arguments and defaults, and gives the arguments to
    :meth:`wrap`. The value is the mean over all rows, as the library has it.

    Args:
        distance: A distance of the library by name or alias, such as ``cosine`` or ``l2``.

    The rest: see :class:`~keras_featx.losses.layers.EmbeddingLoss`. Rows are scaled to unit length
    first, which the library leaves to the network.

    Raises:
        ValueError: On an impossible value, or without the library.
    """

    def __init__(self, *, distance: str = "cosine", **kwargs):
        super().__init__(**kwargs)
        known = library("distances").DISTANCES
        require_one_of([n for d in known for n in (d.name, *d.aliases)], "distance", distance)
        self.distance = distance

    def wrap(self, **arguments):
        """Make the library's loss of the same name with these arguments, and keep both."""
        for name, value in arguments.items():
            setattr(self, name, value)
        make = getattr(library("losses"), type(self).__name__)
        loss = make(
            distance=self.distance, reduction=None, **arguments
        )  # its default is not Keras'
        # It branches on tensors, which takes a `tf.function` of its own: Keras traces a step as is.
        self.row_losses = tf.function(functools.partial(loss.fn, **loss._fn_kwargs))

    def batch_loss(self, embedding, label):
        return ops.mean(self.row_losses(label, embedding, label, embedding))


class QueueLoss(SimilarityLoss):
    """A loss of tensorflow-similarity that its ``XBM`` can wrap.

    With ``memory_size`` the layer is ``XBM(loss, memory_size, warmup_steps)`` (cross-batch memory,
    arXiv:1912.06798): a training step compares its batch with itself and with earlier batches, at
    most ``memory_size`` rows together, newest first. The rows are kept in weights of the layer, so
    that they are saved, resumed and the same in every replica, which the library's are not. Outside
    training the batch is compared with itself alone.

    Args:
        memory_size: Rows to compare with, at least those of a batch; 0 for no memory.
        warmup_steps: Training steps before the first batch is remembered.

    The rest: see :class:`SimilarityLoss`.
    """

    def __init__(self, *, memory_size: int = 0, warmup_steps: int = 0, **kwargs):
        super().__init__(**kwargs)
        require(memory_size >= 0, "memory_size", "a number of at least 0", memory_size)
        require(warmup_steps >= 0, "warmup_steps", "a number of at least 0", warmup_steps)
        self.memory_size = memory_size
        self.warmup_steps = warmup_steps

    def build(self, embedding_shape, label_shape=None):
        super().build(embedding_shape)
        if self.memory_size:
            size = self.memory_size  # newest first
            self.memory = self._state("memory", (size, embedding_shape[-1]), "float32")
            self.memory_label = self._state("memory_label", (size,), "int64")
            self.memory_count = self._state("memory_count", (), "int64")
            self.step = self._state("step", (), "int64")

    def step_loss(self, embedding, label, training):
        if not (training and self.memory_size):
            return self.batch_loss(embedding, label)
        size, rows = self.memory_size, ops.shape(label)[0]
        if isinstance(rows, int):
            require(rows <= size, "memory_size", f"at least the {rows} rows of a batch", size)
        memory = ops.concatenate([embedding, self.memory])[:size]
        memory_label = ops.concatenate([label, self.memory_label])[:size]
        reach = ops.minimum(self.memory_count + ops.cast(rows, "int64"), size)
        loss = ops.mean(self.row_losses(label, embedding, memory_label[:reach], memory[:reach]))
        self.memory.assign(memory)
        self.memory_label.assign(memory_label)
        self.memory_count.assign(ops.where(self.step >= self.warmup_steps, reach, 0))
        self.step.assign(self.step + 1)
        return loss

    def _state(self, name, shape, dtype):
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False,
            aggregation="only_first_replica",  # all hold the same: their batch is gathered
        )  # fmt: skip


@keras.saving.register_keras_serializable(REGISTERED)
class CircleLoss(QueueLoss):
    """``tensorflow_similarity.losses.CircleLoss`` (arXiv:2002.10857, with two logarithms).

    Args:
        gamma: Scale, above 0.
        margin: Distance on whose two sides pairs weigh differently.

    The rest: see :class:`QueueLoss`.
    """

    def __init__(self, *, gamma: float = 80.0, margin: float = 0.4, **kwargs):
        super().__init__(**kwargs)
        require(gamma > 0, "gamma", "a number above 0", gamma)
        self.wrap(gamma=gamma, margin=margin)


@keras.saving.register_keras_serializable(REGISTERED)
class MultiSimilarityLoss(QueueLoss):
    """``tensorflow_similarity.losses.MultiSimilarityLoss`` (arXiv:1904.06627).

    Args:
        alpha: Sharpness for positives, above 0.
        beta: Sharpness for negatives, above 0.
        epsilon: Margin of the miner.
        lmda: The paper's lambda; pairs turn around the distance ``center - lmda``.
        center: Expected distance, 1 for cosine.

    The rest: see :class:`QueueLoss`.
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 40.0,
        epsilon: float = 0.1,
        lmda: float = 0.5,
        center: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        require(alpha > 0, "alpha", "a number above 0", alpha)
        require(beta > 0, "beta", "a number above 0", beta)
        self.wrap(alpha=alpha, beta=beta, epsilon=epsilon, lmda=lmda, center=center)


@keras.saving.register_keras_serializable(REGISTERED)
class TripletLoss(QueueLoss):
    """``tensorflow_similarity.losses.TripletLoss`` (arXiv:1503.03832): one triplet per anchor.

    Args:
        positive_mining_strategy: ``hard``, the farthest positive, or ``easy``, the nearest.
        negative_mining_strategy: ``hard``, the nearest negative; ``easy``, the farthest; or
            ``semi-hard``, the nearest beyond the farthest positive.
        margin: ``None`` for the soft margin ``log(1 + exp(d_ap - d_an))`` (arXiv:1703.07737).

    The rest: see :class:`QueueLoss`.
    """

    def __init__(
        self,
        *,
        positive_mining_strategy: Literal["easy", "hard"] = "hard",
        negative_mining_strategy: Literal["easy", "hard", "semi-hard"] = "semi-hard",
        margin: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _wrap_triplets(self, positive_mining_strategy, negative_mining_strategy, margin)


@keras.saving.register_keras_serializable(REGISTERED)
class PNLoss(SimilarityLoss):
    """``tensorflow_similarity.losses.PNLoss`` (doi:10.1038/s41598-019-45301-0).

    The triplet loss in which the negative shall be far from the positive, too.

    Args:
        positive_mining_strategy: See :class:`TripletLoss`.
        negative_mining_strategy: See :class:`TripletLoss`.
        margin: See :class:`TripletLoss`.

    The rest: see :class:`SimilarityLoss`. (In ``XBM`` the library takes rows of the memory for rows
    of the batch.)
    """

    def __init__(
        self,
        *,
        positive_mining_strategy: Literal["easy", "hard"] = "hard",
        negative_mining_strategy: Literal["easy", "hard", "semi-hard"] = "semi-hard",
        margin: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _wrap_triplets(self, positive_mining_strategy, negative_mining_strategy, margin)


@keras.saving.register_keras_serializable(REGISTERED)
class SoftNearestNeighborLoss(SimilarityLoss):
    """``tensorflow_similarity.losses.SoftNearestNeighborLoss`` (arXiv:1902.01889).

    Args:
        distance: See :class:`SimilarityLoss`.
        temperature: Above 0.

    The rest: see :class:`SimilarityLoss`. (In ``XBM`` the library's shapes do not fit.)
    """

    def __init__(self, *, distance: str = "sql2", temperature: float = 1.0, **kwargs):
        super().__init__(distance=distance, **kwargs)
        require(temperature > 0, "temperature", "a number above 0", temperature)
        self.wrap(temperature=temperature)


class SamplerBatches(keras.utils.PyDataset):
    """The batches of a sampler of tensorflow-similarity, for the ``fit`` of a classifier.

    Its samplers draw from Python's and TensorFlow's global generators, so a batch is no function of
    seed and step and a run cannot be resumed exactly: they are for Python, not for configs.

    Args:
        sampler: With a length and ``sampler[step] -> (images, labels)``; images as the classifier's
            extractor takes them, ``(batch, height, width, 3)``, values 0..255, labels ``(batch,)``.
        classifier: From :func:`keras_featx.build_classifier`.

    Raises:
        ValueError: When a batch's labels are no column, as after an augmenter that makes views.

    Example:
        >>> import numpy as np, keras_featx
        >>> from keras_featx.interop.tfsim import SamplerBatches
        >>> from keras_featx.losses import SupConLoss
        >>> extractor = keras_featx.build_model("emoji-lcnet-x0_5")
        >>> classifier = keras_featx.build_classifier(extractor, None, {"loss": SupConLoss()})
        >>> sampler = [(np.zeros((4, 64, 64, 3)), np.array([7, 7, 9, 9]))]
        >>> inputs, targets = SamplerBatches(sampler, classifier)[0]
        >>> sorted(inputs), sorted(targets)
        (['image', 'label'], ['loss'])
    """

    def __init__(self, sampler, classifier: keras.Model):
        super().__init__()
        self.sampler = sampler
        self.outputs = list(classifier.output)
        self.running = False

    def __len__(self):
        return len(self.sampler)

    def __getitem__(self, step):
        image, label = self.sampler[step]
        label = np.asarray(label)
        require(label.ndim == 1, "labels", "one for each image of a batch, got shape", label.shape)
        return {"image": np.asarray(image), "label": label}, dict.fromkeys(self.outputs, label)

    def on_epoch_begin(self):
        """Note that an epoch runs."""
        self.running = True

    def on_epoch_end(self):
        """Tell the sampler, which counts epochs. Keras calls this once before the first, too."""
        if self.running:
            self.sampler.on_epoch_end()
            self.running = False


def library(module: str):
    """Import ``tensorflow_similarity.<module>``."""
    try:
        return importlib.import_module(f"tensorflow_similarity.{module}")
    except ImportError as error:
        raise ValueError(
            "name: expected tensorflow-similarity to be installed "
            f'(pip install "keras_featx[similarity]"), got {str(error).splitlines()[0]}'
        ) from error


def _wrap_triplets(layer: SimilarityLoss, positive: str, negative: str, margin: float | None):
    require_one_of(("easy", "hard"), "positive_mining_strategy", positive)
    require_one_of(("easy", "hard", "semi-hard"), "negative_mining_strategy", negative)
    layer.wrap(positive_mining_strategy=positive, negative_mining_strategy=negative, margin=margin)
