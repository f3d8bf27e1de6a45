"""The section of a config that says what is exported, how, and what is good enough."""

from dataclasses import dataclass
from typing import Literal

from keras_featx.errors import ConfigError

# Variants that compute as Keras does, and those that keep or compute less precise numbers.
EXACT = ("saved_model", "tflite", "onnx")
# Of the latter the mean cosine to Keras at least: what is below is another network, whatever it
# finds. Healthy ones have 0.999999, 0.999 and 0.98.
REDUCED = {"tflite_float16": 0.9999, "tflite_dynamic": 0.99, "tflite_int8": 0.95}
FORMATS = (*EXACT, *REDUCED)


@dataclass(frozen=True, kw_only=True)
class ProjectionSection:
    """A shorter embedding, as part of the network.

    Attributes:
        by: ``pca`` of the embeddings of training images, or ``prefix``: the first numbers, of a
            network trained with ``Arch.Matryoshka``.
        size: Numbers of the shorter embedding; ``None`` keeps all that vary.
        whiten: Whether each component gets variance 1 before the unit norm is taken again.
    """

    by: Literal["pca", "prefix"] = "pca"
    size: int | None = None
    whiten: bool = False

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if self.by == "prefix" and (self.size is None or self.whiten):
            raise ConfigError(f"{path}: expected with by: prefix a size and no whitening")
        if self.size is not None and self.size < 1:
            raise ConfigError(f"{path}.size: expected at least 1, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class TuneSection:
    """Training of the integer network, where rounding alone costs too much.

    It learns to give the float network's embeddings of augmented training images.

    Attributes:
        steps: Batches of ``batch_size`` images.
        batch_size: Images of a step.
        learning_rate: Relative to each weight's size; falls to 0 along a half cosine.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 1e-4

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        for key in ("steps", "batch_size", "learning_rate"):
            if not getattr(self, key) > 0:
                raise ConfigError(
                    f"{path}.{key}: expected a positive number, got {getattr(self, key)}"
                )


@dataclass(frozen=True, kw_only=True)
class ExportSection:
    """What ``keras-featx export`` writes.

    Attributes:
        formats: Of ``saved_model``, ``tflite``, ``onnx``, which compute as Keras does, and
            ``tflite_float16`` (weights), ``tflite_dynamic`` (int8 weights), ``tflite_int8``
            (whole numbers throughout).
        overwrite: Replace an export that is there.
        version: Number of the SavedModel's folder, which TensorFlow Serving calls its version.
        tflite_batch: 1 image at a time; ``None`` leaves the batch free, at some cost in speed.
        onnx_layout: Order of the axes of ``image`` in ONNX.
        projection: Makes embeddings shorter, or white.
        calibration_images: Training images that say between which bounds integers round.
        tune: Trains the integer network.
        min_cosine: Of the same image's embeddings, here and in Keras, where computed alike.
        max_recall_loss: Of Recall@1, where numbers are less precise.
        far: Share of impostor pairs that the decision threshold may accept.
        licence: Of the weights, for the model card: an SPDX identifier or a sentence.
    """

    formats: tuple[Literal[FORMATS], ...] = EXACT
    overwrite: bool = False
    version: int = 1
    tflite_batch: int | None = 1
    onnx_layout: Literal["NHWC", "NCHW"] = "NHWC"
    projection: ProjectionSection | None = None
    calibration_images: int = 128
    tune: TuneSection | None = None
    min_cosine: float = 0.999999
    max_recall_loss: float = 0.005
    far: float = 0.01
    licence: str | None = None

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise ConfigError(
                f"{path}.formats: expected some of {list(FORMATS)}, each once, "
                f"got {list(self.formats)}"
            )
        for key in ("version", "calibration_images"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{path}.{key}: expected at least 1, got {getattr(self, key)}")
        if self.tflite_batch not in (1, None):
            raise ConfigError(f"{path}.tflite_batch: expected 1 or null, got {self.tflite_batch}")
        if not 0 < self.min_cosine <= 1:
            raise ConfigError(f"{path}.min_cosine: expected in (0, 1], got {self.min_cosine}")
        if not 0 <= self.max_recall_loss <= 1:
            raise ConfigError(
                f"{path}.max_recall_loss: expected in [0, 1], got {self.max_recall_loss}"
            )
        if not 0 < self.far < 1:
            raise ConfigError(f"{path}.far: expected in (0, 1), got {self.far}")
