"""Retrieval measured while a model of one's own is trained by Keras' ``fit``."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import keras

from keras_featx.embedding import embed
from keras_featx.errors import ConfigError
from keras_featx.evaluation import figure_to_monitor, figures, measure
from keras_featx.evaluation_data import as_pair
from keras_featx.evaluation_sections import MetricSection
from keras_featx.ranking import check_groups
from keras_featx.results import RetrievalResult
from keras_featx.sections import PreprocessSection
from keras_featx.views import as_configured

log = logging.getLogger(__name__)


class RetrievalCallback(keras.callbacks.Callback):
    """Measures retrieval at the end of epochs, on one or several pairs of query and gallery.

    Figures go into the epoch's logs, and so into ``History``, as ``NAME/recall@1`` and so on.

    Args:
        extractor: The part of the model that embeds: images ``(batch, height, width, 3)``, values
            0..255, to vectors of unit norm.
        sets: ``{name: (query, gallery)}``, each what :func:`keras_featx.evaluate` takes: samples,
            ``(images, labels)``, or a ``tf.data.Dataset`` of them.
        metrics: What to measure, and which views of an image to average.
        preprocess: How to resize images to the extractor's input.
        every: Epochs between two measurements.
        monitor: Which figure says what is best; by default ``metrics.monitor``, or the first of the
            first set.
        best_path: Where to save the extractor (``.keras``) whenever that is better than before.

    Attributes:
        results: ``{name: RetrievalResult}`` of the last measurement.
        best: The best value so far, or ``None``.

    Raises:
        ConfigError: Without a set, on lists that do not fit together, and if there is no figure of
            the name to monitor.

    Example:
        >>> import keras, numpy as np
        >>> from keras_featx.monitoring import RetrievalCallback
        >>> rng = np.random.default_rng(0)
        >>> images = rng.integers(0, 256, (12, 8, 8, 3)).astype("uint8")
        >>> labels = np.arange(12) % 3
        >>> image = keras.Input((8, 8, 3))
        >>> embedding = keras.layers.UnitNormalization()(keras.layers.Flatten()(image))
        >>> extractor = keras.Model(image, embedding)
        >>> model = keras.Model(image, keras.layers.Dense(3)(embedding))
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", loss)
        >>> pair = (images[:6], labels[:6]), (images[6:], labels[6:])
        >>> measured = RetrievalCallback(extractor, {"mine": pair})
        >>> history = model.fit(images, labels, epochs=2, verbose=0, callbacks=[measured])
        >>> len(history.history["mine/recall@1"])
        2
    """

    def __init__(
        self,
        extractor: keras.Model,
        sets: Mapping[str, tuple[Any, Any]],
        *,
        metrics: MetricSection | None = None,
        preprocess: PreprocessSection | None = None,
        every: int = 1,
        monitor: str | None = None,
        best_path: str | os.PathLike | None = None,
    ):
        super().__init__()
        if not sets:
            raise ConfigError("sets: expected at least one pair of query and gallery, got none")
        if every < 1:
            raise ConfigError(f"every: expected at least 1, got {every}")
        self.extractor, self.every = extractor, every
        self.sets = {name: as_pair(*pair, f"sets.{name}") for name, pair in sets.items()}
        self.metrics = metrics or MetricSection()
        for query, _ in self.sets.values():
            check_groups(self.metrics, query.groups)
        self.embedder, views = as_configured(extractor, self.metrics.Views)
        self.batch_size = max(1, 64 // views)
        self.preprocess = preprocess or PreprocessSection()
        wanted = monitor or self.metrics.monitor
        self.monitor = figure_to_monitor(self.metrics, self.sets, wanted, "monitor")
        self.best_path = best_path
        self.results: dict[str, RetrievalResult] = {}
        self.best: float | None = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        for name, (query, gallery) in self.sets.items():
            embeddings = [
                embed(self.embedder, part, self.preprocess, self.batch_size)
                for part in (query, gallery)
            ]
            self.results[name] = measure(self.metrics, query, gallery, *embeddings)
        found = figures(self.results)
        if logs is not None:
            logs.update(found)
        if self.best is None or found[self.monitor] > self.best:
            self.best = found[self.monitor]
            log.info("epoch %d: best %s %.4f", epoch + 1, self.monitor, self.best)
            if self.best_path is not None:
                self.extractor.save(self.best_path)
