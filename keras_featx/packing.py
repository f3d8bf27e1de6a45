"""Pack the data sets that a config names."""

import logging
import os
from typing import Any

from keras_featx.components import Component
from keras_featx.data.pack import pack
from keras_featx.data.samples import Samples, load_samples
from keras_featx.errors import ConfigError
from keras_featx.evaluation_data import load_eval_samples
from keras_featx.sections import Config

log = logging.getLogger(__name__)

_KEYS = {
    "train": "DataLoader.Train.dataset",
    "query": "DataLoader.Eval.Query.dataset",
    "gallery": "DataLoader.Eval.Gallery.dataset",
}


def pack_config(
    config: Config, output: str | os.PathLike, part: str = "all", **options: Any
) -> dict[str, Any]:
    """Pack the training list and the evaluation lists of a config, each under the name of its part.

    Args:
        config: Its ``DataLoader`` names the lists; the rest does not matter.
        output: A folder or an address.
        part: ``train``, ``query``, ``gallery``, or ``all`` that the config has.
        options: As of :func:`keras_featx.data.pack.pack`.

    Returns:
        As of :func:`keras_featx.data.pack.pack`, for all parts together, and their names.

    Raises:
        ConfigError: On bad lists, or a part that the config does not have.
        RunError: On an image that cannot be read, with its row.
    """
    loader = config.DataLoader
    found: dict[str, Samples] = {}
    if part in ("train", "all") and loader.Train is not None:
        found["train"] = load_samples(loader.Train.dataset.source, _KEYS["train"])
    if part in ("query", "gallery", "all") and loader.Eval is not None:
        # Together, as only then an image in both lists is noticed; packed it would not be.
        query, gallery = load_eval_samples(config)
        found |= {"query": query, "gallery": gallery}
    wanted = list(found) if part == "all" else [part]
    if not wanted or not set(wanted) <= set(found):
        raise ConfigError(f"{_KEYS.get(part, 'DataLoader')}: missing; there is nothing to pack")
    results = [pack(found[name], output, name, **options) for name in wanted]
    for name in wanted:
        log.info("%s: %s", _KEYS[name], lines(output, name))
    return _together(results) | {"parts": wanted}


def pack_source(
    source: Component, output: str | os.PathLike, name: str, **options: Any
) -> dict[str, Any]:
    """Pack one data set without a config around it; arguments as of :func:`pack_config`."""
    result = pack(load_samples(source, "--dataset"), output, name, **options)
    log.info("dataset: %s", lines(output, name))
    return result | {"parts": [name]}


def lines(output: str | os.PathLike, name: str) -> str:
    """What stands for a packed set in a config."""
    return f"{{name: Packed, folder: {os.fspath(output)}, part: {name}}}"


def _together(results: list[dict[str, Any]]) -> dict[str, Any]:
    total = {key: sum(result[key] for result in results) for key in results[0]}
    written = sum(result["images_per_second"] * result["seconds"] for result in results)
    total["seconds"] = round(total["seconds"], 2)
    total["images_per_second"] = round(written / max(total["seconds"], 0.01), 1)
    return total
