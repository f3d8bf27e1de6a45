"""Verify an export again: its files are those that were written, and embed as they did."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.config import load_config
from keras_featx.errors import ConfigError, RunError
from keras_featx.export_section import EXACT, FORMATS
from keras_featx.exporters import card, gate, measuring
from keras_featx.exporters.gate import FILES
from keras_featx.exporters.measuring import KERAS
from keras_featx.exporters.writing import CONFIG, PARITY, PROBES
from keras_featx.models import build_model
from keras_featx.sections import Config

# Another processor has other integer kernels.
_SLACK = 0.005


def verify(folder: str | Path, weights: str | None = None) -> dict[str, Any]:
    """Open every artefact of an export again and compare it with what Keras gave.

    Args:
        folder: That :func:`keras_featx.export` wrote, wherever it lies now.
        weights: A weights folder, or the name of shipped ones: with it Recall@1 is measured again,
            on the lists of the export's config.

    Returns:
        ``{"folder": ..., "files": checked, "variants": {format: figures}}``.

    Raises:
        ConfigError: If this is no export.
        RunError: With the first file that is missing or another, or the first artefact that falls
            short.

    Example:
        >>> import keras_featx
        >>> from keras_featx.quickstart import quickstart_config
        >>> config = quickstart_config("output/example_verify")
        >>> path = keras_featx.export(config, formats=["tflite"], overwrite=True)["tflite"]
        >>> keras_featx.verify("output/example_verify/inference")["variants"]["tflite"] != {}
        True
    """
    folder = Path(folder)
    parity = _read_parity(folder)
    for name, digest in parity["files"].items():
        if not (folder / name).is_file():
            raise RunError(f"{folder / name}: missing; parity.json beside it names it")
        if card.digest(folder / name) != digest:
            raise RunError(f"{folder / name}: expected the file that was exported, got another")
    config = load_config(folder / CONFIG)
    files, expected = _read_probes(folder / PROBES)
    probes = gate.load_probes(files, config.Arch)
    variants, figures = {}, {}
    for name, before in parity["variants"].items():
        path = folder / FILES[name]
        variants[name] = gate.open_variant(name, path, config.Arch.image_size)
        found = gate.compare(expected, variants[name].from_pixels(probes), str(path))
        if variants[name].from_bytes is not None:
            gate.check_cosine(
                name,
                gate.compare(expected, variants[name].from_bytes(files), str(path)),
                parity["min_cosine"],
                str(path),
            )
        gate.check_cosine(name, found, parity["min_cosine"], str(path))
        least = before["probes"]["smallest_cosine"] - _SLACK
        if name not in EXACT and found.smallest_cosine < least:
            raise RunError(
                f"{path}: cosine to Keras {found.smallest_cosine:.4f}, expected at least "
                f"{least:.4f}, as when it was exported"
            )
        figures[name] = {"probes": dataclasses.asdict(found)}
    if weights is not None:
        _measure_again(folder, config, weights, variants, figures)
    return {"folder": str(folder), "files": len(parity["files"]), "variants": figures}


def _read_parity(folder: Path) -> dict:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder that keras-featx export wrote")
    path = folder / PARITY
    try:
        parity = json.loads(path.read_text())
        good = set(parity["variants"]) <= set(FORMATS) and {CONFIG, PROBES} <= set(parity["files"])
        good = good and parity["variants"] and 0 < float(parity["min_cosine"]) <= 1
        good = good and all("probes" in one for one in parity["variants"].values())
    except OSError as error:
        raise ConfigError(f"{path}: expected that of an export: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        good = False
    if not good or any(Path(name).is_absolute() or ".." in name for name in parity["files"]):
        raise ConfigError(f"{path}: expected the figures of an export")
    return parity


def _read_probes(path: Path) -> tuple[list[bytes], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            data, ends, embeddings = (archive[k] for k in ("files", "ends", "embeddings"))
        starts = [0, *ends[:-1].tolist()]
        files = [data[a:b].tobytes() for a, b in zip(starts, ends.tolist(), strict=True)]
    except Exception as error:
        raise ConfigError(f"{path}: expected images of an export: {error}") from None
    return files, embeddings


def _measure_again(folder: Path, config: Config, weights: str, variants, figures) -> None:
    if config.Export.projection is not None:
        raise ConfigError("--weights: expected an export without Export.projection")
    chosen = measuring.eval_set(config, variants)
    if chosen is None:
        raise ConfigError("--weights: expected an export whose lists can be read")
    named = dataclasses.replace(config.Global, pretrained_model=weights)
    model = build_model(dataclasses.replace(config, Global=named))
    runs = {KERAS: model.predict_on_batch, **{k: v.from_pixels for k, v in variants.items()}}
    found = measuring.retrieval(config, runs, chosen, model)
    for name in variants:
        figures[name] |= measuring.retrieval_figures(found, name)
        measuring.check_recall(name, figures[name], config.Export, str(folder / FILES[name]))
