"""What a run trains and evaluates on, read and checked before anything is built."""

import dataclasses
from typing import Any

from keras_featx import augment, components, distilling
from keras_featx.augment.mixing import build_mixing
from keras_featx.data import memory
from keras_featx.data.samplers import Order
from keras_featx.data.samples import Samples, check_labels, load_samples, turned_identities
from keras_featx.errors import ConfigError
from keras_featx.evaluation_data import EvalSet, load_eval_sets
from keras_featx.extractors import Extractor
from keras_featx.sections import Config


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The training images, which of them come at which step, and what is evaluated on.

    ``teacher`` is there where the config has a ``Distillation``.
    """

    samples: Samples
    class_num: int
    order: Order
    sets: dict[str, EvalSet]
    teacher: Extractor | None = None


def load_training_data(
    config: Config, given: Any = None, query: Any = None, gallery: Any = None
) -> TrainingData:
    """Read and check every list before anything is built."""
    samples = load_training_samples(config, given)
    section = config.DataLoader.Train
    stated = config.Arch.Head.args.get("class_num")
    class_num = check_labels(samples, stated, "Arch.Head.class_num")
    wanted = config.DataLoader.Eval is not None or query is not None or gallery is not None
    sets = (
        load_eval_sets(config, query, gallery) if config.Global.eval_during_train and wanted else {}
    )
    sampler = components.builder("sampler", section.sampler.name)
    order = sampler(samples, config.Global.seed, **section.sampler.args)
    return TrainingData(samples, class_num, order, sets, distilling.open_teacher(config))


def load_training_samples(config: Config, given: Any = None) -> Samples:
    """The training images of a config, or given ones as it says they are to be used."""
    section = config.DataLoader.Train
    if section is None:
        raise ConfigError("DataLoader.Train: missing; expected a list of images to train on")
    augment.build_augmentations(
        section.dataset.transform_ops, "DataLoader.Train.dataset.transform_ops"
    )
    build_mixing(
        section.dataset.batch_transform_ops, "DataLoader.Train.dataset.batch_transform_ops"
    )
    if given is None:
        samples = load_samples(section.dataset.source, "DataLoader.Train.dataset")
    else:
        samples = memory.as_samples(given, "data")
    if section.cache == "memory":
        samples = memory.decoded(samples, config.Arch.Preprocess)
    if section.dataset.turned_identities:
        if config.Arch.image_size[0] != config.Arch.image_size[1]:
            raise ConfigError(
                "DataLoader.Train.dataset.turned_identities: expected a square Arch.image_size, "
                f"got {list(config.Arch.image_size)}"
            )
        samples = turned_identities(samples)
    return samples
