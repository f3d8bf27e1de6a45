"""From an extractor to an export folder: written beside, measured, then put in place."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_featx import models, weights
from keras_featx.config import dump_config
from keras_featx.data import pipeline
from keras_featx.data.samples import Samples, load_samples
from keras_featx.embedding import embed, forward
from keras_featx.errors import ConfigError
from keras_featx.export_section import EXACT, REDUCED, ExportSection
from keras_featx.exporters import card, gate, litert, measuring, onnx_file, quantize, saved_model
from keras_featx.exporters.deploy import Projection, deploy_form, in_float32
from keras_featx.exporters.gate import FILES
from keras_featx.exporters.measuring import KERAS
from keras_featx.reranking import fit_pca, whitened
from keras_featx.sections import Config

PARITY, PROBES, CONFIG = "parity.json", "probes.npz", "config.yaml"
# More embeddings hardly move the components of PCA.
_MOST_FITTED = 20_000

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

    @functools.cached_property
    def deployed(self) -> keras.Model:
        """The deploy form."""
        return deploy_form(self.extractor, self.projection)


def write_export(
    config: Config, model: keras.Model | None, folder: Path, paths: list[str]
) -> dict[str, Any]:
    """Write, measure, and put in place; see :func:`keras_featx.export`."""
    section = config.Export
    chosen = measuring.eval_set(config, section.formats) if config.DataLoader.Eval else None
    if chosen is None and (needy := [name for name in section.formats if name in REDUCED]):
        raise ConfigError(f"{needy[0]}: expected DataLoader.Eval, to measure Recall@1 on")
    train = _training_images(config)
    source = _source(config, model, train)
    files = gate.probes([tf.io.read_file(path).numpy() for path in paths])
    probes = gate.load_probes(files, config.Arch)
    expected = source.embed(probes)
    gate.check_unit_norm(expected)

    with _beside(folder) as beside:
        for name in section.formats:
            log.info("writing %s", name)
            _writers(config, source, train, files)[name](beside / FILES[name])
        variants = {
            name: gate.open_variant(name, beside / FILES[name], config.Arch.image_size)
            for name in section.formats
        }
        runs = {KERAS: source.embed, **{k: v.from_pixels for k, v in variants.items()}}
        found = None if chosen is None else measuring.retrieval(config, runs, chosen, model)
        figures = {}
        for name, variant in variants.items():
            where = str(folder / FILES[name])
            figures[name] = _measured(name, variant, probes, files, expected, found, where)
            gate.check_cosine(
                name, gate.Likeness(**figures[name]["probes"]), section.min_cosine, where
            )
            if found is not None:
                measuring.check_recall(name, figures[name], section, where)
            figures[name]["bytes"] = _size(beside / FILES[name])
        _describe(beside, config, source, figures, found, files, expected, train)
        _replace(beside, folder)
    return _result(folder, section, figures, len(files))


def _training_images(config: Config) -> Samples | None:
    """What calibration, tuning and projection learn from, where something asks for it."""
    section = config.Export
    reason = "tflite_int8" if "tflite_int8" in section.formats else None
    reason = "Export.projection" if section.projection is not None else reason
    train = config.DataLoader.Train
    if train is None:
        if reason:
            raise ConfigError(f"DataLoader.Train: missing; {reason} learns from training images")
        return None
    try:
        samples = load_samples(train.dataset.source, "DataLoader.Train.dataset")
    except ConfigError:
        if reason:
            raise
        return None
    if "tflite_int8" in section.formats and len(samples) < section.calibration_images:
        raise ConfigError(
            f"Export.calibration_images: expected at most {len(samples)}, the images of "
            f"{samples.source}, got {section.calibration_images}"
        )
    return samples


def _source(config: Config, model: keras.Model | None, train: Samples | None) -> Source:
    extractor = in_float32(model or models.build_model(config))
    names = None
    if config.Global.pretrained_model:
        path = weights.weights_folder(config.Global.pretrained_model) / weights.WEIGHTS
        names = weights.decode_names(weights.read_arrays(path)[0].get(weights.CLASS_NAMES))
    wanted = config.Export.projection
    if wanted is None:
        return Source(extractor, None, names)
    some = _spread(train, _MOST_FITTED)
    embeddings = embed(extractor, some, config.Arch.Preprocess)
    try:
        mean, matrix = fit_pca(embeddings, size=wanted.size)
    except ConfigError as error:
        raise ConfigError(f"Export.projection.{error}") from None
    if not wanted.whiten:
        matrix = matrix / np.linalg.norm(matrix, axis=0)
    return Source(extractor, (mean, matrix), names)


def _spread(samples: Samples, count: int) -> Samples:
    """So many of them, from all over the list."""
    rows = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return samples.take(rows)


def _writers(
    config: Config, source: Source, train: Samples | None, files: list[bytes]
) -> dict[str, Callable[[Path], None]]:
    """By format, what writes it to a path."""
    section, preprocess = config.Export, config.Arch.Preprocess

    def write_saved_model(path: Path) -> None:
        assets = {"labels.txt": "".join(f"{n}\n" for n in source.names)} if source.names else {}
        version = path / str(section.version)
        saved_model.save(source.deployed, preprocess, version, assets, files[:8])

    def write_litert(path: Path, kind: str) -> None:
        litert.save(source.deployed, path, kind, section.tflite_batch)

    def write_integers(path: Path) -> None:
        network = _integer_network(config, source, train)
        litert.save(network, path, "int8", section.tflite_batch)

    return {
        "saved_model": write_saved_model,
        "tflite": functools.partial(write_litert, kind="float32"),
        "tflite_float16": functools.partial(write_litert, kind="float16"),
        "tflite_dynamic": functools.partial(write_litert, kind="int8"),
        "tflite_int8": write_integers,
        "onnx": lambda path: onnx_file.save(source.deployed, path, section.onnx_layout),
    }


def _integer_network(config: Config, source: Source, train: Samples) -> keras.Model:
    section, arch = config.Export, config.Arch
    some = _spread(train, section.calibration_images)
    batches = pipeline.image_dataset(some, arch.image_size, arch.Preprocess, 32)
    calibration = np.concatenate([batch.numpy() for batch in batches])
    network = quantize.integer_form(source.extractor, calibration, source.projection)
    if section.tune is not None:
        quantize.finetune(
            network,
            source.deployed,
            quantize.augmented(config, train, section.tune),
            section.tune.learning_rate,
            section.tune.steps,
        )
    return network


def _measured(name, variant, probes, files, expected, found, where) -> dict[str, Any]:
    """Everything that is measured of a variant."""
    figures: dict[str, Any] = {}
    embedded = variant.from_pixels(probes)
    likeness = measuring.likeness(expected, embedded, where)
    if variant.from_bytes is not None:
        other = measuring.likeness(expected, variant.from_bytes(files), where)
        likeness = {
            "largest_difference": max(likeness["largest_difference"], other["largest_difference"]),
            "smallest_cosine": min(likeness["smallest_cosine"], other["smallest_cosine"]),
            "mean_cosine": min(likeness["mean_cosine"], other["mean_cosine"]),
        }
    figures["probes"] = likeness
    if found is not None:
        query, _ = found.embeddings[name]
        figures["queries"] = measuring.likeness(found.embeddings[KERAS][0], query, where)
        figures.update(measuring.retrieval_figures(found, name))
    figures["latency_ms"] = measuring.latency(variant.from_pixels, probes[0])
    return figures


def _describe(beside, config, source, figures, found, files, expected, train) -> None:
    """The files beside the artefacts: config, settings for servers, parity, probes, card."""
    plain = dataclasses.replace(config.Global, output_dir="output", pretrained_model=None)
    plain = dataclasses.replace(plain, save_inference_dir=None, checkpoint=None)
    (beside / CONFIG).write_text(dump_config(dataclasses.replace(config, Global=plain)))
    if "saved_model" in figures:
        settings = saved_model.serving_files("/models/embedder", config.Export.version)
        for name, text in settings.items():
            (beside / name).write_text(text)
    data = np.frombuffer(b"".join(files), np.uint8)
    ends = np.cumsum([len(one) for one in files])
    np.savez(beside / PROBES, files=data, ends=ends, embeddings=expected)
    facts = card.collect(config, source, figures, found, train)
    if found is not None and "saved_model" in figures:
        assets = beside / FILES["saved_model"] / str(config.Export.version) / "assets"
        assets.mkdir(exist_ok=True)
        (assets / "threshold.json").write_text(json.dumps(facts["threshold"], indent=1) + "\n")
    (beside / "card.json").write_text(json.dumps(facts, indent=1) + "\n")
    (beside / "README.md").write_text(card.as_markdown(facts))
    parity = {
        "min_cosine": config.Export.min_cosine,
        "max_recall_loss": config.Export.max_recall_loss,
        "variants": figures,
        "files": {name: card.digest(beside / name) for name in card.files_of(beside)},
    }
    (beside / PARITY).write_text(json.dumps(parity, indent=1) + "\n")


def _result(folder: Path, section: ExportSection, figures: dict, count: int) -> dict[str, Any]:
    paths = {name: str(folder / FILES[name]) for name in figures}
    if "saved_model" in paths:
        paths["saved_model"] = str(folder / FILES["saved_model"] / str(section.version))
    exact = [figures[name]["probes"]["largest_difference"] for name in figures if name in EXACT]
    recall = {name: one["recall@1"] for name, one in figures.items() if "recall@1" in one}
    return {
        **paths,
        "largest_difference": max(exact, default=None),
        "images": count,
        "variants": figures,
        **({"recall@1": recall} if recall else {}),
    }


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder to write to beside another; nothing is left of it after an error."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
    except OSError as error:
        raise ConfigError(
            f"Global.save_inference_dir: expected a folder that can be written, got "
            f"{str(folder)!r}: {error.strerror}"
        ) from None
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace(beside: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file())
