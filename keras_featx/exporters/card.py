"""The model card: what an export is, for people (README.md) and for programs (card.json)."""

import contextlib
import datetime
import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx._version import __version__
from keras_featx.config import to_dict
from keras_featx.exporters.measuring import KERAS, Retrieval
from keras_featx.sections import Config

_RUNTIMES = ("tensorflow", "keras", "ai-edge-litert", "onnxruntime", "onnx", "tf2onnx")
_COLUMNS = (
    ("smallest cosine", lambda one: f"{one['probes']['smallest_cosine']:.7f}"),
    ("Recall@1", lambda one: f"{100 * one['recall@1']:.2f} %"),
    ("same neighbour", lambda one: f"{100 * one['neighbours_agree']:.1f} %"),
    ("size", lambda one: f"{one['bytes'] / 1e6:.2f} MB"),
    ("one image", lambda one: f"{one['latency_ms']:.1f} ms"),
)


def table(variants: dict[str, dict]) -> str:
    """The figures of variants as a table in Markdown; columns that one of them lacks are left out.

    Example:
        >>> from keras_featx.exporters.card import table
        >>> print(table({"tflite": {"bytes": 2_000_000, "latency_ms": 3.21}}))
        | variant | size | one image |
        | --- | --- | --- |
        | tflite | 2.00 MB | 3.2 ms |
    """
    titles, rows = ["variant"], [[name] for name in variants]
    for title, text in _COLUMNS:
        try:
            cells = [text(one) for one in variants.values()]
        except KeyError:
            continue
        titles.append(title)
        rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def collect(config: Config, source, figures: dict, found: Retrieval | None, train) -> dict:
    """What ``card.json`` holds.

    Args:
        config: Of the export.
        source: The :class:`~keras_featx.exporters.source.Source`.
        figures: Of each variant.
        found: What was retrieved, or ``None``.
        train: The training images, where their list could be read.
    """
    arch = to_dict(config)["Arch"]
    facts: dict[str, Any] = {
        "format": 1,
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "licence": config.Export.licence,
        "fingerprint": source.fingerprint(config.Arch.Preprocess),
        "network": {**arch, "parameters": source.deployed.count_params()},
        "embedding_size": source.deployed.output_shape[-1],
        "projection": None if source.projection is None else vars(config.Export.projection),
        "trained_on": train and {
            "list": os.path.basename(train.source),
            "images": len(train),
            "identities": len(np.unique(train.labels)),
        },
        "evaluation": None,
        "threshold": None,
        "variants": figures,
        "measured_on": {"processor": _processor(), "cores": os.cpu_count()},
        "versions": {"keras_featx": __version__} | _versions(),
    }  # fmt: skip
    if found is not None:
        result = found.results[KERAS]
        far = f"{config.Export.far:g}"
        facts["evaluation"] = {
            "set": found.name,
            **{k: v for k, v in result.items() if "far=" not in k},
            "identities": len(np.unique(result.labels)),
            "intervals": {k: v for k, v in result.intervals.items() if "far=" not in k},
        }
        facts["threshold"] = {
            "cosine": result[f"threshold@far={far}"],
            "impostor_pairs_accepted": config.Export.far,
            "genuine_pairs_accepted": result[f"tar@far={far}"],
        }
    return facts


def as_markdown(facts: dict) -> str:
    """The card for people."""
    arch, height_width = facts["network"], facts["network"]["image_size"]
    lines = [
        "# An image embedder",
        "",
        f"Maps an image to a vector of {facts['embedding_size']} numbers and norm 1; the cosine of "
        "two vectors says how likely two images show the same thing.",
        "",
        f"- Made {facts['made']} by keras_featx {facts['versions']['keras_featx']}.",
        f"- Licence of the weights: {facts['licence'] or 'not stated'}.",
        f"- Fingerprint: `{facts['fingerprint']}`.",
        f"- Network: {_words(arch['Backbone'])}, neck {_words(arch['Neck'])}; "
        f"{arch['parameters']:,} weights.",
        f"- Input: RGB, 0 to 255, {height_width[0]} x {height_width[1]} (height x width), resized "
        f"as {_words(arch['Preprocess'])}. The subtraction of the mean is inside.",
    ]
    if trained := facts["trained_on"]:
        lines.append(
            f"- Trained on {trained['images']:,} images of {trained['identities']:,} identities "
            f"({trained['list']})."
        )
    where = facts["measured_on"]
    lines += ["", "## How well it finds", "", *_evaluation(facts), "", "## Variants", ""]
    lines += [table(facts["variants"]), ""]
    lines.append(
        "Cosines are to Keras, on test images. Times: median of one image on "
        f"{where['processor']}, one thread (SavedModel: all {where['cores']})."
    )
    return "\n".join(lines) + "\n"


def _evaluation(facts: dict) -> list[str]:
    found = facts["evaluation"]
    if found is None:
        return ["Not measured: the export had no query and gallery."]
    low, high = found["intervals"].get("recall@1", (None, None))
    interval = "" if low is None else f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    threshold = facts["threshold"]
    return [
        f"Recall@1 {100 * found['recall@1']:.1f} %{interval}, mAP {100 * found['map']:.1f} %: "
        f"{found['queries']:,} queries of {found['identities']:,} identities, "
        f"{found['gallery']:,} gallery images; "
        f"{found['queries_without_match']:,} queries left out. One view an image, ranked by the "
        f"cosine{', on the set ' + found['set'] if found['set'] else ''}.",
        "",
        f"Taken for the same from a cosine of {threshold['cosine']:.4f} on, "
        f"{100 * threshold['impostor_pairs_accepted']:g} % of the pairs of two things are accepted "
        f"and {100 * threshold['genuine_pairs_accepted']:.1f} % of the pairs of one.",
    ]


def _words(part: dict | None) -> str:
    if part is None:
        return "none"
    rest = ", ".join(f"{k} {v}" for k, v in part.items() if k != "name")
    return f"{part['name']} ({rest})" if "name" in part else rest


def _versions() -> dict[str, str]:
    """Of what is installed under these names; a build for one device may have another."""
    found = {}
    for name in _RUNTIMES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> list[str]:
    """All files of an export, by their paths in it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
