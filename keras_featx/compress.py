"""``keras-featx compress``: what shorter and coarser embeddings cost. Imports no framework."""

import sys
import zipfile
from typing import Any

import numpy as np

from keras_featx.compact import PRECISIONS, as_text, compact_table
from keras_featx.config import load_config
from keras_featx.errors import ConfigError, first_line
from keras_featx.labelled import Labelled

FITTED = ("train", "gallery", "none")


def add_arguments(command) -> None:
    """Add them to the command of the command line."""
    add = command.add_argument
    add("--query", metavar="FILE.npz", help="embeddings in place of a config: arrays features, and "
        "identities or, as `predict` writes them, paths in a folder per identity")  # fmt: skip
    add("--gallery", metavar="FILE.npz", help="likewise")
    add("--train", metavar="FILE.npz", help="features that PCA is fitted to")
    add("--sizes", metavar="N,N,...", help="numbers of the embeddings (default: all, and halves "
        "of it down to 16)")  # fmt: skip
    add("--precisions", default=",".join(PRECISIONS[:4]), metavar="NAME,...", help="of "
        f"{', '.join(PRECISIONS)} (default: %(default)s)")  # fmt: skip
    add("--fit", choices=FITTED, help="what PCA is fitted to, never to queries (default: train "
        "where there is such a list or file, else gallery)")  # fmt: skip
    add("--rerank", action="store_true", help="also with k-reciprocal re-ranking")


def run(options) -> dict[str, Any]:
    """Carry out the command: the table to standard error, its rows in the result."""
    files = {name: getattr(options, name) for name in ("query", "gallery", "train")}
    given = [name for name in files if files[name]]
    if options.config is None and not {"query", "gallery"} <= set(given):
        raise ConfigError("compress: expected -c FILE.yaml, or --query and --gallery")
    if options.config is not None and given:
        raise ConfigError(f"compress: expected -c FILE.yaml or files, got --{given[0]} besides")
    if options.config is None:
        query, gallery, fitted_to, fit = _of_files(files, options.fit)
    else:
        from keras_featx.evaluation_vectors import vectors_of

        config = load_config(options.config, options.override)
        query, gallery, fitted_to, fit = vectors_of(config, options.fit)
    whole = gallery.embeddings.shape[1]
    table = compact_table(
        query,
        gallery,
        _sizes(options.sizes, whole),
        precisions=options.precisions.split(","),
        fitted_to=fitted_to,
        rerank=options.rerank,
    )
    text = "no PCA" if fitted_to is None else f"PCA of {len(fitted_to)} images ({fit})"
    print(as_text(table), file=sys.stderr)
    print(f"{table[0]['queries']} queries, {len(gallery.labels)} gallery images; {text}",
          file=sys.stderr)  # fmt: skip
    return {
        "embedding_size": whole,
        "queries": table[0]["queries"],
        "gallery": len(gallery.labels),
        "fitted_to": fit,
        "rows": [{k: v for k, v in row.items() if k != "queries"} for row in table],
    }


def _sizes(text: str | None, whole: int) -> list[int]:
    if text is None:
        halves = (whole >> i for i in range(whole.bit_length()))
        return [whole, *(size for size in halves if 16 <= size < whole)]
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--sizes: expected whole numbers and commas, got {text!r}") from None


def _of_files(files: dict[str, str | None], fit: str | None):
    arrays = {name: _read(path, name) for name, path in files.items() if path}
    sizes = {name: one["features"].shape[1] for name, one in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"compress: expected embeddings of one size, got {sizes}")
    known = {str(one["fingerprint"]) for one in arrays.values() if "fingerprint" in one}
    if len(known) > 1:
        raise ConfigError(
            f"compress: expected embeddings of one network, got {len(known)} fingerprints in "
            f"{', '.join(files[name] for name in arrays)}"
        )
    fit = fit or ("train" if "train" in arrays else "gallery")
    if fit == "train" and "train" not in arrays:
        raise ConfigError("--fit train: expected --train FILE.npz")
    names = [_identities(arrays[name], files[name]) for name in ("query", "gallery")]
    labels = np.unique(np.concatenate(names), return_inverse=True)[1]
    query, gallery = (
        Labelled(arrays[name]["features"], own)
        for name, own in zip(("query", "gallery"), np.split(labels, [len(names[0])]), strict=True)
    )
    return query, gallery, None if fit == "none" else arrays[fit]["features"], fit


def _read(path: str, name: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: expected a readable .npz file: {first_line(error)}") from None
    features = arrays.get("features")
    if features is None or features.ndim != 2 or features.dtype.kind != "f" or not len(features):
        got = sorted(arrays) if features is None else f"{features.dtype} {features.shape}"
        raise ConfigError(f"{path}: expected floats (images, size) in features, got {got}")
    lengths = np.linalg.norm(features.astype("float64"), axis=1)
    bad = ~(np.abs(lengths - 1) < 1e-2)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ConfigError(
            f"{path}: expected unit vectors, got a norm of {lengths[row]:.4g} in row {row} "
            f"({int(bad.sum())} such rows)"
        )
    return arrays


def _identities(arrays: dict[str, np.ndarray], path: str) -> np.ndarray:
    if "identities" in arrays:
        names = arrays["identities"].astype(str)
    elif "paths" in arrays:
        parts = [one.replace("\\", "/").split("/") for one in arrays["paths"].astype(str).tolist()]
        names = np.array([one[-2] if len(one) > 1 else "" for one in parts])
    else:
        raise ConfigError(f"{path}: expected identities or paths, got {sorted(arrays)}")
    if names.shape != (len(arrays["features"]),):
        raise ConfigError(
            f"{path}: expected {len(arrays['features'])} identities, one for each of features, got "
            f"{' x '.join(map(str, names.shape))}"
        )
    if (names == "").any():
        row = int(np.flatnonzero(names == "")[0])
        raise ConfigError(f"{path}: expected an identity in every row, got none in row {row}")
    return names
