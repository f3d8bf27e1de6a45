"""A teacher: opened, its embeddings of the training images kept in a file, its losses attached."""

import hashlib
import json
import logging
from pathlib import Path

import keras
import numpy as np

from keras_featx import components, models
from keras_featx.data import outputs
from keras_featx.data.samples import Samples
from keras_featx.embedding import EmbeddingFile, images_digest
from keras_featx.errors import ConfigError, RunError
from keras_featx.extractors import BATCH, Extractor, open_extractor
from keras_featx.losses.distillation import DistillationLoss
from keras_featx.losses.layers import snake_case
from keras_featx.progress import progress
from keras_featx.sections import Config

log = logging.getLogger(__name__)

TEACHER = "teacher"
KEY = "Distillation"


def open_teacher(config: Config) -> Extractor | None:
    """Open the teacher of a config; ``None`` where there is no ``Distillation``.

    Raises:
        ConfigError: If there is no such teacher, or training images are of a kind that a teacher
            cannot see in advance.
    """
    if config.Distillation is None:
        return None
    section = config.DataLoader.Train
    where = "DataLoader.Train"
    refused = {
        f"{where}.dataset.batch_transform_ops: expected [] with {KEY}, as no teacher has seen the "
        "mixtures": section.dataset.batch_transform_ops,
        f"{where}.dataset.turned_identities: expected false with {KEY}, as the teacher sees "
        "upright images": section.dataset.turned_identities,
        f"{where}.bad_images: expected raise with {KEY}, as the teacher sees every image, got "
        "'skip'": section.bad_images == "skip",
        f"{where}.service: expected none with {KEY}, as its workers have no teacher, got "
        f"{section.service!r}": section.service,
    }
    for message, holds in refused.items():
        if holds:
            raise ConfigError(message)
    try:
        return open_extractor(config.Distillation.teacher)
    except (ConfigError, RunError) as error:
        raise type(error)(f"{KEY}.teacher: {error}") from None


def attach(classifier: keras.Model, extractor: keras.Model, config: Config, size: int):
    """A classifier with the losses of ``Distillation`` beside its own.

    Args:
        classifier: From :func:`keras_featx.build_classifier`.
        extractor: Its extractor.
        config: With a ``Distillation``.
        size: Numbers of the teacher's embedding.

    Returns:
        The model with the further input ``"teacher"``, ``(batch, size)``, and a further output for
        each loss; :func:`keras_featx.compile_classifier` makes it train.

    Raises:
        ConfigError: On a loss that cannot be built, or that wants the student's size.
    """
    teacher = keras.Input((size,), dtype="float32", name=TEACHER)
    # As losses on embeddings get it: before its length is made 1.
    embedding = extractor.get_layer(models.EMBEDDING).input
    found: dict[str, keras.KerasTensor] = {}
    for i, part in enumerate(config.Distillation.losses):
        name = snake_case(part.name)
        alike = sum(other.name == part.name for other in config.Distillation.losses[:i])
        name = f"{name}_{alike + 1}" if alike else name
        with models.named(f"{KEY}.losses.{i}"):
            build = components.builder("distillation", part.name)
            loss: DistillationLoss = build(**part.args, name=name)
            found[name] = loss(embedding, teacher)
    inputs = {**classifier.input, TEACHER: teacher}
    return keras.Model(inputs, {**classifier.output, **found}, name=classifier.name)


def same_teacher(teacher: Extractor | None, before: str, config: Config) -> str:
    """The teacher's fingerprint; refuses to go on with another than before.

    Args:
        teacher: The teacher, or ``None``.
        before: Its fingerprint in the checkpoint; empty where there was none.
        config: Of the run.
    """
    if teacher is None:
        return ""
    if before not in ("", teacher.fingerprint):
        raise ConfigError(
            f"{KEY}.teacher: expected the one of {config.Global.checkpoint}, of fingerprint "
            f"{before[:16]}, got {teacher.source} of {teacher.fingerprint[:16]}"
        )
    return teacher.fingerprint


def further_inputs(
    teacher: Extractor | None, samples: Samples, config: Config
) -> dict[str, np.ndarray]:
    """What the classifier gets besides images and labels, ``(images, size)``: the teacher's."""
    if teacher is None:
        return {}
    folder = config.Distillation.cache or Path(config.Global.output_dir) / TEACHER
    return {TEACHER: teacher_embeddings(teacher, samples, Path(folder))}


def teacher_embeddings(teacher: Extractor, samples: Samples, folder: Path) -> np.ndarray:
    """The teacher's embeddings of images, from a file of the folder, which is made if need be.

    ``KEY.npy``, where KEY stands for the teacher's fingerprint and the images (paths, boxes, sizes
    and times of files), and ``KEY.json``, which has the SHA-256 of the numbers. While it is being
    made it is called ``KEY.npy.part``; what was interrupted is gone on with.

    Args:
        teacher: The teacher.
        samples: The images, in their order.
        folder: Where files are kept; those of other teachers and images are left alone.

    Returns:
        float32 ``(images, size)``, unit norm, mapped from the file.

    Raises:
        ConfigError: If the file there is damaged or does not fit.
        RunError: On an undecodable image, or one whose embedding is not a unit vector.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from keras_featx.distilling import teacher_embeddings
        >>> from keras_featx.evaluation_data import load_eval_samples
        >>> from keras_featx.extractors import open_extractor
        >>> from keras_featx.quickstart import quickstart_config
        >>> query, _ = load_eval_samples(quickstart_config())
        >>> teacher = open_extractor("emoji-lcnet-x0_5")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     teacher_embeddings(teacher, query.take([0, 1, 2]), Path(folder)).shape
        (3, 256)
    """
    key = f"{teacher.fingerprint} {images_digest(samples)}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    path, note = folder / f"{name}.npy", folder / f"{name}.json"
    shape = (len(samples), teacher.embedding_size)
    if path.exists():
        log.info("%s: the teacher's embeddings of %d images", path, shape[0])
        return _checked(path, note, shape)
    try:
        store = EmbeddingFile(path, shape, "float32", key)
    except OSError as error:
        raise ConfigError(
            f"{KEY}.cache: expected a folder that can be written, got {str(folder)!r}: "
            f"{error.strerror}"
        ) from None
    rest = samples.take(np.arange(store.done, len(samples))) if store.done else samples
    steps = -(-len(rest) // BATCH)
    try:
        for found in progress(teacher.embed(rest, BATCH), steps, "embedding by the teacher", BATCH):
            _check_units(found, samples, store.done, teacher)
            store.add(found)
    finally:
        store.note()
    about = {"key": key, "teacher": teacher.source, "sha256": _digest(store.array)}
    outputs.write_bytes(note, json.dumps(about).encode())  # before the name says it is whole
    return store.finished()


def _checked(path: Path, note: Path, shape: tuple[int, int]) -> np.ndarray:
    again = "; remove it to have it made again"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        digest = json.loads(note.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(
            f"{path}: expected the teacher's embeddings, with {note.name} beside it: {reason}"
            f"{again}"
        ) from None
    if (array.dtype, array.shape) != (np.float32, shape):
        raise ConfigError(
            f"{path}: expected float32 {shape}, an embedding of the teacher for each training "
            f"image, got {array.dtype} {array.shape}{again}"
        )
    if _digest(array) != digest:
        raise ConfigError(
            f"{path}: expected numbers of SHA-256 {digest} as in {note.name}, got "
            f"{_digest(array)}; it is damaged{again}"
        )
    return array


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256()
    for first in range(0, len(array), 2**16):
        digest.update(np.ascontiguousarray(array[first : first + 2**16], "<f4"))
    return digest.hexdigest()


def _check_units(found: np.ndarray, samples: Samples, first: int, teacher: Extractor) -> None:
    norms = np.linalg.norm(found, axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) < 1e-2))  # NaN, too
    if len(bad):
        raise RunError(
            f"{samples.title(first + int(bad[0]))}: expected an embedding of norm 1 from "
            f"{teacher.source}, got one of norm {norms[bad[0]]:.3g}"
        )
