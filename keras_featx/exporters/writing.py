"""From an extractor to an export folder: written beside, measured, then put in place."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_featx.config import dump_config, load_config
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError, RunError
from keras_featx.export_section import EXACT, REDUCED, ExportSection
from keras_featx.exporters import (
    card,
    gate,
    litert,
    measuring,
    onnx_file,
    saved_model,
    tflite_metadata,
)
from keras_featx.exporters.gate import FILES
from keras_featx.exporters.measuring import KERAS
from keras_featx.exporters.source import Source, integer_network, make_source, training_images
from keras_featx.sections import Config

PARITY, PROBES, CONFIG = "parity.json", "probes.npz", "config.yaml"

log = logging.getLogger(__name__)


def write_export(
    config: Config, model: keras.Model | None, folder: Path, images: list[bytes]
) -> dict[str, Any]:
    """Write, measure, and put in place; see :func:`keras_featx.export`."""
    section = config.Export
    chosen = measuring.eval_set(config, section.formats) if config.DataLoader.Eval else None
    if chosen is None and (needy := [name for name in section.formats if name in REDUCED]):
        raise ConfigError(f"{needy[0]}: expected DataLoader.Eval, to measure Recall@1 on")
    train = training_images(config)
    source = make_source(config, model, train)
    files = gate.probes(images)
    probes = gate.load_probes(files, config.Arch)
    expected = source.embed(probes)
    gate.check_unit_norm(expected)

    with _beside(folder) as beside:
        writers = _writers(config, source, train, files)
        variants, figures = {}, {}
        for name in section.formats:
            log.info("writing %s", name)
            writers[name](beside / FILES[name])
            variants[name] = _opened(name, beside, folder, config)
            figures[name] = _probed(name, variants[name], probes, files, expected, config, folder)
            figures[name]["bytes"] = _size(beside / FILES[name])
        found = None
        if chosen is not None:
            runs = {KERAS: source.embed, **{k: v.from_pixels for k, v in variants.items()}}
            found = measuring.retrieval(config, runs, chosen, source.extractor)
            for name in section.formats:
                figures[name] |= _retrieved(name, found, section, str(folder / FILES[name]))
        _describe(beside, config, source, figures, found, files, expected, train)
        _replace(beside, folder)
    return _result(folder, section, figures, len(files))


def _opened(name: str, beside: Path, folder: Path, config: Config) -> gate.Variant:
    try:
        return gate.open_variant(name, beside / FILES[name], config.Arch.image_size)
    except RunError as error:  # by the name it would have had
        raise RunError(str(error).replace(str(beside), str(folder))) from None


def _writers(
    config: Config, source: Source, train: Samples | None, files: list[bytes]
) -> dict[str, Callable[[Path], None]]:
    """By format, what writes it to a path."""
    section, preprocess = config.Export, config.Arch.Preprocess

    def write_saved_model(path: Path) -> None:
        assets = {"labels.txt": "".join(f"{n}\n" for n in source.names)} if source.names else {}
        version = path / str(section.version)
        saved_model.save(source.deployed_basic, preprocess, version, assets, files[:8])

    def write_litert(name: str, network, kind: str, path: Path) -> None:
        fingerprint = source.fingerprint(preprocess)
        about = tflite_metadata.facts(name, preprocess, fingerprint, section.licence)
        litert.save(network, path, kind, section.tflite_batch, about)

    def of_floats(name: str, kind: str) -> Callable[[Path], None]:
        return lambda path: write_litert(name, source.deployed, kind, path)

    def write_integers(path: Path) -> None:
        write_litert("tflite_int8", integer_network(config, source, train), "int8", path)

    return {
        "saved_model": write_saved_model,
        "tflite": of_floats("tflite", "float32"),
        "tflite_float16": of_floats("tflite_float16", "float16"),
        "tflite_dynamic": of_floats("tflite_dynamic", "int8"),
        "tflite_int8": write_integers,
        "onnx": lambda path: onnx_file.save(source.deployed, path, section.onnx_layout),
    }


def _probed(name, variant, probes, files, expected, config, folder) -> dict[str, Any]:
    """What the probes say of a variant; refuses one that embeds otherwise than Keras."""
    where = str(folder / FILES[name])
    likeness = gate.compare(expected, variant.from_pixels(probes), where)
    if variant.from_bytes is not None:
        other = gate.compare(expected, variant.from_bytes(files), where)
        likeness = likeness.with_other(other)
    gate.check_cosine(name, likeness, config.Export.min_cosine, where)
    return {
        "probes": dataclasses.asdict(likeness),
        "latency_ms": measuring.latency(variant.from_pixels, probes[0]),
    }


def _retrieved(name, found, section: ExportSection, where: str) -> dict[str, Any]:
    """What query and gallery say of a variant; refuses one that falls short."""
    likeness = measuring.retrieval_likeness(found, name, where)
    gate.check_cosine(name, likeness, section.min_cosine, where)
    figures = measuring.retrieval_figures(found, name)
    measuring.check_recall(name, figures, section, where)
    return {"lists": dataclasses.asdict(likeness), **figures}


def _describe(beside, config, source, figures, found, files, expected, train) -> None:
    """The files beside the artefacts: config, settings for servers, parity, probes, card."""
    # Nothing of the machine that wrote it, and nothing that needs its weights.
    plain = dataclasses.replace(
        config.Global,
        output_dir="output",
        save_inference_dir=None,
        pretrained_model=None,
        checkpoint=None,
        imprint_head=False,
    )
    (beside / CONFIG).write_text(dump_config(dataclasses.replace(config, Global=plain)))
    load_config(beside / CONFIG)  # what cannot be read again could not be verified or served
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
    had = folder.exists()
    if had:
        folder.rename(old)
    try:
        beside.rename(folder)
    except BaseException:
        if had:
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file())
