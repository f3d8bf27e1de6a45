"""Verify an export again: its files are those that were written, and embed as they did."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_featx.config import load_config
from keras_featx.embedding import forward
from keras_featx.errors import ConfigError, RunError, first_line
from keras_featx.export_section import EXACT
from keras_featx.exporters import card, gate, measuring
from keras_featx.exporters.deploy import in_float32
from keras_featx.exporters.gate import FILES
from keras_featx.exporters.measuring import KERAS
from keras_featx.exporters.writing import CONFIG, PARITY, PROBES
from keras_featx.fingerprints import fingerprint
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
    try:
        probes = gate.load_probes(files, config.Arch)
    except tf.errors.OpError:
        raise ConfigError(f"{folder / PROBES}: expected images of an export") from None
    variants, figures = {}, {}
    for name, before in parity["variants"].items():
        path = folder / FILES[name]
        variants[name] = gate.open_variant(name, path, config.Arch.image_size)
        found = gate.compare(expected, variants[name].from_pixels(probes), str(path))
        if variants[name].from_bytes is not None:
            other = gate.compare(expected, variants[name].from_bytes(files), str(path))
            found = found.with_other(other)
        gate.check_cosine(name, found, parity["min_cosine"], str(path))
        least = before["probes"]["mean_cosine"] - _SLACK
        if name not in EXACT and found.mean_cosine < least:
            raise RunError(
                f"{path}: mean cosine to Keras {found.mean_cosine:.4f}, expected at least "
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
    except OSError as error:
        raise ConfigError(f"{path}: expected that of an export: {error.strerror}") from None
    except ValueError:
        parity = None
    if not _is_parity(parity):
        raise ConfigError(f"{path}: expected the figures of an export")
    return parity


def _is_parity(parity: Any) -> bool:
    """Whether this is what an export writes, as far as it is used here."""
    try:
        files, variants = parity["files"], parity["variants"]
        wanted = {CONFIG, PROBES}
        for name, figures in variants.items():
            float(figures["probes"]["mean_cosine"])
            wanted.add(FILES[name])
        inside = all(not Path(name).is_absolute() and ".." not in name for name in files)
        return bool(
            isinstance(files, dict)
            and inside
            and variants
            and wanted <= {*files, *(name.split("/")[0] for name in files)}
            and isinstance(parity["min_cosine"], float | int)
            and 0 < parity["min_cosine"] <= 1
        )
    except (TypeError, KeyError, AttributeError, ValueError):
        return False


def _read_probes(path: Path) -> tuple[list[bytes], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            data, ends, embeddings = (archive[k] for k in ("files", "ends", "embeddings"))
        starts = [0, *ends[:-1].tolist()]
        files = [data[a:b].tobytes() for a, b in zip(starts, ends.tolist(), strict=True)]
    except Exception as error:
        raise ConfigError(f"{path}: expected images of an export: {first_line(error)}") from None
    return files, embeddings


def _measure_again(folder: Path, config: Config, weights: str, variants, figures) -> None:
    if config.Export.projection is not None:
        raise ConfigError("--weights: expected an export without Export.projection")
    chosen = measuring.eval_set(config, variants)
    if chosen is None:
        raise ConfigError("--weights: expected an export whose lists can be read")
    named = dataclasses.replace(config.Global, pretrained_model=weights)
    model = in_float32(build_model(dataclasses.replace(config, Global=named)))
    exported = json.loads((folder / "card.json").read_text())["fingerprint"]
    if fingerprint(model.get_weights(), config.Arch.Preprocess) != exported:
        raise RunError(f"--weights {weights}: expected the weights that were exported, got others")
    embed = functools.partial(forward, model)
    runs = {KERAS: embed, **{k: v.from_pixels for k, v in variants.items()}}
    found = measuring.retrieval(config, runs, chosen, model)
    for name in variants:
        figures[name] |= measuring.retrieval_figures(found, name)
        measuring.check_recall(name, figures[name], config.Export, str(folder / FILES[name]))
