"""The sections of a config: frozen dataclasses, the only place where defaults are written.

Attribute names are the keys of the YAML. :mod:`keras_featx.config` fills them from a file.
"""

from dataclasses import dataclass, field
from typing import Literal

from keras_featx.components import Component, part
from keras_featx.distillation_section import DistillationSection
from keras_featx.errors import ConfigError
from keras_featx.evaluation_sections import EvalSection, MetricSection
from keras_featx.export_section import ExportSection
from keras_featx.optimizer_section import EMASection, OptimizerSection


@dataclass(frozen=True, kw_only=True)
class GlobalSection:
    """What holds for the whole run.

    Attributes:
        output_dir: The run folder; everything a run writes lies in it.
        epochs: Passes over the training list.
        iter_per_epoch: Steps per epoch; ``None`` means one pass over the list.
        seed: Seed of weights, order and augmentation.
        strategy: ``auto`` (mirrored when there are several GPUs), ``single`` or ``mirrored``.
        precision: Keras dtype policy of the network; embedding, head and loss stay float32.
        deterministic: TensorFlow's op determinism: the same run gives the same bits, slower.
        eval_during_train: Evaluate query against gallery every ``eval_interval`` epochs.
        eval_interval: In epochs.
        save_interval: Save ``latest`` every so many epochs (and always after the last).
        checkpoint: A ``latest`` folder to resume from.
        pretrained_model: A ``best_model`` folder, or the name of weights shipped with the package.
        imprint_head: Begin with each class centre at the mean embedding of its training images
            (arXiv:1712.07136) instead of a random one; for fine-tuning pretrained weights.
        save_inference_dir: Where exports go; ``None`` means ``output_dir/inference``.
        print_batch_step: Log a line every so many steps.
        report: Draw ``report.html`` at the end of training, where there is evaluation.
        update_freq: Batches whose mean gradient makes one update of the weights. Epochs and steps
            count batches all the same.
        feature_binarize: Evaluate with embeddings of -1 and 1: ``sign``, or ``round`` of a network
            whose embedding, before its length is made 1, has numbers from 0 to 1; see
            :func:`keras_featx.compact.binarized`.
    """

    output_dir: str = "output/RecModel"
    epochs: int = 100
    iter_per_epoch: int | None = None
    seed: int = 0
    strategy: Literal["auto", "single", "mirrored"] = "auto"
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    deterministic: bool = False
    eval_during_train: bool = True
    eval_interval: int = 1
    save_interval: int = 1
    checkpoint: str | None = None
    pretrained_model: str | None = None
    imprint_head: bool = False
    save_inference_dir: str | None = None
    print_batch_step: int = 10
    report: bool = True
    update_freq: int = 1
    feature_binarize: Literal["sign", "round"] | None = None

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        for key in ("epochs", "eval_interval", "save_interval", "print_batch_step", "update_freq"):
            _at_least(path, key, getattr(self, key), 1)
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"{path}.seed: expected in [0, 2^31), got {self.seed}")
        if self.iter_per_epoch is not None:
            _at_least(path, "iter_per_epoch", self.iter_per_epoch, 1)
        if self.imprint_head and not self.pretrained_model:
            raise ConfigError(f"{path}.imprint_head: expected with pretrained_model only")
        if not self.output_dir:
            raise ConfigError(f"{path}.output_dir: expected a folder, got ''")


@dataclass(frozen=True, kw_only=True)
class PreprocessSection:
    """How an image becomes the network's input; travels with the model.

    Attributes:
        resize: ``squash`` ignores the aspect ratio, as the reference does; ``crop`` takes the
            largest centred part of the right shape; ``pad`` puts the whole image in the middle.
        resize_short: With ``crop``: resize the short side to this, then cut out the centre.
        pad_value: With ``pad``: the grey level around the image, 0 to 255.
        interpolation: What pixels in between are made of.
        antialias: Average over all pixels when an image becomes smaller, as Pillow does; the
            reference does not.
        backend: ``opencv`` has the rounding of ``cv2.resize``, ``tensorflow`` the exact value.
        background: Red, green and blue, 0 to 255, behind what is not opaque in a PNG or WebP;
            ``None`` takes the colours as they are stored, as the reference does.
        reduced_decoding: Decode a JPEG at 1/2, 1/4 or 1/8 of its size where that is still as large
            as what it is resized to: faster, and a little smoother.
        mean: Per channel (red, green, blue), for pixels in 0..1; subtracted inside the network.
        std: Likewise; divided by inside the network.
    """

    resize: Literal["squash", "crop", "pad"] = "squash"
    resize_short: int | None = None
    pad_value: float = 0.0
    interpolation: Literal["bilinear", "nearest", "area", "bicubic", "lanczos3"] = "bilinear"
    antialias: bool = False
    backend: Literal["tensorflow", "opencv"] = "tensorflow"
    background: tuple[float, float, float] | None = None
    reduced_decoding: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if min(self.std) <= 0:
            raise ConfigError(f"{path}.std: expected positive numbers, got {list(self.std)}")
        if self.resize_short is not None:
            if self.resize != "crop":
                raise ConfigError(
                    f"{path}.resize_short: expected with resize: crop only, got {self.resize!r}"
                )
            _at_least(path, "resize_short", self.resize_short, 1)
        if not 0 <= self.pad_value <= 255:
            raise ConfigError(f"{path}.pad_value: expected in [0, 255], got {self.pad_value}")
        if self.pad_value and self.resize != "pad":
            raise ConfigError(
                f"{path}.pad_value: expected with resize: pad only, got {self.resize!r}"
            )
        if (
            self.background is not None
            and not 0 <= min(self.background) <= max(self.background) <= 255
        ):
            raise ConfigError(
                f"{path}.background: expected numbers in [0, 255], got {list(self.background)}"
            )
        if self.antialias and self.interpolation in ("nearest", "area"):
            raise ConfigError(
                f"{path}.antialias: expected with bilinear, bicubic or lanczos3 only, got "
                f"{self.interpolation!r}"
            )
        if self.backend == "opencv" and (self.antialias or self.interpolation == "lanczos3"):
            what = "antialias" if self.antialias else "lanczos3"
            raise ConfigError(f"{path}.backend: expected tensorflow with {what}, got 'opencv'")


@dataclass(frozen=True, kw_only=True)
class MatryoshkaSection:
    """Training of embeddings whose first numbers are embeddings, too (arXiv:2205.13147).

    The loss is the sum of those of the first 32, 64, ... numbers, each made a unit vector where the
    loss takes unit vectors. Class centres are cut likewise (the paper's MRL-E).

    Attributes:
        sizes: How many numbers; rising, the last is the whole embedding.
        weights: Of the losses of each size; by default 1 each, as in the paper.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    @property
    def parts(self) -> tuple[tuple[int, float], ...]:
        """``((size, weight), ...)``."""
        weights = self.weights or (1.0,) * len(self.sizes)
        return tuple(zip(self.sizes, weights, strict=True))

    def check(self, path: str) -> None:
        """Refuse sizes that do not rise, and weights that do not belong to them."""
        sizes = list(self.sizes)
        if len(sizes) < 2 or sizes[0] < 1 or sizes != sorted(set(sizes)):
            raise ConfigError(f"{path}.sizes: expected two or more that rise, got {sizes}")
        if self.weights is not None:
            weights = list(self.weights)
            if len(weights) != len(sizes) or min(weights) < 0 or weights[-1] == 0:
                raise ConfigError(
                    f"{path}.weights: expected {len(sizes)} numbers of at least 0, the last above "
                    f"0, got {weights}"
                )


@dataclass(frozen=True, kw_only=True)
class ArchSection:
    """The network. ``image_size`` is (height, width) in pixels."""

    name: Literal["RecModel"] = "RecModel"
    image_size: tuple[int, int] = (224, 224)
    Preprocess: PreprocessSection = field(default_factory=PreprocessSection)
    Backbone: Component = part("backbone", Component(name="LCNet", args={"scale": 2.5}))
    Neck: Component | None = part("neck", Component(name="Dense"))
    Head: Component = part("head", Component(name="ArcMargin"))
    Matryoshka: MatryoshkaSection | None = None

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if min(self.image_size) < 32:
            raise ConfigError(
                f"{path}.image_size: expected at least 32 pixels a side (the network halves its "
                f"input up to five times), got {list(self.image_size)}"
            )
        short = self.Preprocess.resize_short
        if short is not None and short < max(self.image_size):
            raise ConfigError(
                f"{path}.Preprocess.resize_short: expected at least the larger side of image_size "
                f"{list(self.image_size)}, got {short}"
            )


@dataclass(frozen=True, kw_only=True)
class LossSection:
    """Losses of training, summed with their ``weight``."""

    Train: tuple[Component, ...] = part("loss", (Component(name="CELoss"),), many=True)

    def check(self, path: str) -> None:
        """Refuse an empty list."""
        if not self.Train:
            raise ConfigError(f"{path}.Train: expected at least one loss, got []")


@dataclass(frozen=True, kw_only=True)
class TrainDatasetSection:
    """The training list (name, paths: the keys of ``source`` stand beside these).

    Attributes:
        source: The list.
        transform_ops: Augmentation, in order.
        batch_transform_ops: Mixing of the images of a batch; one of them is drawn for each batch.
        turned_identities: Every image four times, by quarter turns, each a new identity; the
            head has four times the classes.
    """

    source: Component = part("dataset", inline=True)
    turned_identities: bool = False
    transform_ops: tuple[Component, ...] = part(
        "augmentation", (Component(name="RandomResizedCrop"), Component(name="RandomFlip")), True
    )
    batch_transform_ops: tuple[Component, ...] = part("batch_augmentation", (), True)


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """Training data: the list, its augmentation, and which sample comes at which step.

    Attributes:
        dataset: The list and its augmentation.
        sampler: Which sample comes at which step.
        bad_images: ``raise``: one that cannot be decoded ends training; ``skip``: another of its
            batch stands in, and its path goes into ``skipped.csv`` of the run folder.
        max_bad_fraction: Of the images that may be skipped; one more ends training.
        cache: ``memory`` keeps the decoded images of the list there.
        service: Address of a tf.data service, ``grpc://host:port``, that reads the images.
    """

    dataset: TrainDatasetSection
    sampler: Component = part("sampler", Component(name="Shuffle"))
    bad_images: Literal["raise", "skip"] = "raise"
    max_bad_fraction: float = 0.01
    cache: Literal["none", "memory"] = "none"
    service: str | None = None

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if not 0 <= self.max_bad_fraction < 1:
            raise ConfigError(
                f"{path}.max_bad_fraction: expected in [0, 1), got {self.max_bad_fraction}"
            )
        if self.bad_images == "skip" and self.cache == "memory":
            raise ConfigError(f"{path}.cache: expected none with bad_images: skip, got 'memory'")
        if self.service is not None and not self.service.startswith("grpc://"):
            raise ConfigError(f"{path}.service: expected grpc://host:port, got {self.service!r}")


@dataclass(frozen=True, kw_only=True)
class DataLoaderSection:
    """The data of training and evaluation; a command asks only for the part it needs."""

    Train: TrainSection | None = None
    Eval: EvalSection | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole config. Attribute names are the keys of the YAML.

    Example:
        >>> from keras_featx.config import Config
        >>> Config().Arch.image_size
        (224, 224)
    """

    Global: GlobalSection = field(default_factory=GlobalSection)
    Arch: ArchSection = field(default_factory=ArchSection)
    Loss: LossSection = field(default_factory=LossSection)
    Distillation: DistillationSection | None = None
    Optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    EMA: EMASection | None = None
    DataLoader: DataLoaderSection = field(default_factory=DataLoaderSection)
    Metric: MetricSection = field(default_factory=MetricSection)
    Export: ExportSection = field(default_factory=ExportSection)


def _at_least(path: str, key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{path}.{key}: expected at least {least}, got {value}")
