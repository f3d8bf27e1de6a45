"""What is exported: the network in float32, what stands behind it, and what it learns from."""

import functools
import logging
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_featx import models, weights
from keras_featx.data.samples import Samples, load_samples
from keras_featx.embedding import embed, forward
from keras_featx.errors import ConfigError
from keras_featx.exporters import measuring, quantize
from keras_featx.exporters.deploy import Projection, deploy_form, in_float32
from keras_featx.fingerprints import fingerprint
from keras_featx.reranking import fit_pca, whitened
from keras_featx.sections import Config, PreprocessSection

# More embeddings hardly move the components of PCA.
MOST_FITTED = 20_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        extractor: In float32.
        projection: Of its embeddings, or ``None``.
        names: Of the identities it was trained on, where they have names.
    """

    extractor: keras.Model
    projection: Projection | None
    names: list[str] | None

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """As Keras does it, without folding: what every artefact is held to."""
        found = forward(self.extractor, tf.constant(pixels))
        return found if self.projection is None else whitened(found, *self.projection)

    def fingerprint(self, preprocess: PreprocessSection) -> str:
        """Of the embeddings of images that are prepared so."""
        return fingerprint(self.extractor.get_weights(), preprocess, self.projection)

    @functools.cached_property
    def deployed(self) -> keras.Model:
        """The deploy form."""
        return deploy_form(self.extractor, self.projection)

    @functools.cached_property
    def deployed_basic(self) -> keras.Model:
        """The deploy form for runtimes that have no operator for hard-swish."""
        return deploy_form(self.extractor, self.projection, basic=True)


def training_images(config: Config) -> Samples | None:
    """What calibration, tuning and projection learn from, where something asks for it."""
    section = config.Export
    reason = "tflite_int8" if "tflite_int8" in section.formats else None
    fitted = section.projection is not None and section.projection.by == "pca"
    reason = "Export.projection" if fitted else reason
    train = config.DataLoader.Train
    if train is None:
        if reason:
            raise ConfigError(f"DataLoader.Train: missing; {reason} learns from training images")
        return None
    try:
        samples = load_samples(train.dataset.source, "DataLoader.Train.dataset")
    except ConfigError as error:
        if reason:
            raise
        log.warning("the card says nothing of training images: %s", error)
        return None
    if "tflite_int8" in section.formats and len(samples) < section.calibration_images:
        raise ConfigError(
            f"Export.calibration_images: expected at most {len(samples)}, the images of "
            f"{samples.source}, got {section.calibration_images}"
        )
    return samples


def make_source(config: Config, model: keras.Model | None, train: Samples | None) -> Source:
    """The network of a config, or a given one, with the projection that ``Export`` asks for.

    Raises:
        ConfigError: If they do not fit.
    """
    extractor = in_float32(model or models.build_model(config))
    if extractor.input_shape[1:3] != config.Arch.image_size:
        raise ConfigError(
            f"Arch.image_size: expected {list(extractor.input_shape[1:3])}, that of the model, got "
            f"{list(config.Arch.image_size)}"
        )
    names = _class_names(config.Global.pretrained_model, extractor)
    wanted = config.Export.projection
    if wanted is None:
        return Source(extractor, None, names)
    if wanted.by == "prefix":
        return Source(extractor, _prefix(extractor.output_shape[-1], wanted.size), names)
    some = spread(train, MOST_FITTED)
    embeddings = embed(extractor, some, config.Arch.Preprocess)
    try:
        mean, matrix = fit_pca(embeddings, size=wanted.size)
    except ConfigError as error:
        raise ConfigError(f"Export.projection.{error}") from None
    if not wanted.whiten:
        matrix = matrix / np.linalg.norm(matrix, axis=0)
    return Source(extractor, (mean, matrix), names)


def _prefix(whole: int, size: int) -> Projection:
    """The first numbers of an embedding, as a projection."""
    if size > whole:
        raise ConfigError(
            f"Export.projection.size: expected at most {whole}, that of the embedding, got {size}"
        )
    return np.zeros(whole), np.eye(whole, size)


def _class_names(pretrained: str | None, extractor: keras.Model) -> list[str] | None:
    """Names of the identities beside weights, if the model has those weights."""
    if not pretrained:
        return None
    path = weights.weights_folder(pretrained) / weights.WEIGHTS
    arrays, _ = weights.read_arrays(path)
    for name, variable in weights.named_variables(extractor, "extractor").items():
        if name not in arrays or not np.array_equal(arrays[name], np.asarray(variable)):
            return None
    return weights.decode_names(arrays.get(weights.CLASS_NAMES))


def spread(samples: Samples, count: int) -> Samples:
    """So many of them, from all over the list."""
    rows = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return samples.take(rows)


def integer_network(config: Config, source: Source, train: Samples) -> keras.Model:
    """The network that rounds as integers do, trained a while if ``Export.tune`` says so."""
    section = config.Export
    some = spread(train, section.calibration_images)
    calibration = np.concatenate(list(measuring.pixels(some, config)))
    network = quantize.integer_form(source.extractor, calibration, source.projection)
    if section.tune is not None:
        quantize.finetune(
            network,
            source.deployed,
            quantize.augmented(config, train, section.tune),
            steps=section.tune.steps,
            learning_rate=section.tune.learning_rate,
        )
    return network
