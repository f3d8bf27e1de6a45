"""A gallery in memory, for ``/v1/search``."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.search import nearest


@dataclass(frozen=True)
class Gallery:
    """Embeddings and what they are of.

    Attributes:
        paths: As the file has them.
        features: Float32 ``(entries, size)``, unit norm.
        fingerprint: Of the model that made them, where the file says it.
    """

    paths: list[str]
    features: np.ndarray
    fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self) -> dict[str, Any]:
        """What is in it, as far as a file tells."""
        return {
            "items": len(self),
            "identities": None,
            "version": None,
            "fingerprint": self.fingerprint,
            "precision": str(self.features.dtype),
            "size": self.features.shape[1],
            "threshold": None,
        }

    def search(self, query: np.ndarray, k: int) -> dict[str, Any]:
        """What ``/v1/search`` answers: for each query the ``k`` nearest entries, best first.

        Args:
            query: Float32 ``(queries, size)``, unit norm.
            k: At least 1; more than there are means all.

        Example:
            >>> import numpy as np
            >>> from keras_featx.serving.gallery import Gallery
            >>> Gallery(["a.png", "b.png"], np.eye(2, dtype="float32")).search(np.eye(2)[:1], 1)
            {'results': [[{'path': 'a.png', 'similarity': 1.0}]]}
        """
        values, rows = nearest(query, self.features, k, backend="numpy")
        results = [
            [
                {"path": self.paths[row], "similarity": value}
                for row, value in zip(near, found, strict=True)
            ]
            for near, found in zip(rows.tolist(), values.tolist(), strict=True)
        ]
        return {"results": results}


def load_gallery(path: Path, size: int) -> Gallery:
    """Read what ``keras-featx predict --output FILE.npz`` wrote.

    Args:
        path: Its arrays are ``paths`` and ``features``, and in newer ones ``fingerprint``.
        size: Of an embedding of the model.

    Raises:
        ConfigError: If it cannot be read or holds other embeddings.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = sorted(file.files)
            if sorted({*names} - {"fingerprint"}) != ["features", "paths"]:
                raise ConfigError(f"{path}: expected arrays paths and features, got {names}")
            paths, features = file["paths"], file["features"]
            fingerprint = str(file["fingerprint"]) if "fingerprint" in names else None
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}: expected a readable .npz file: {reason}") from None
    if features.ndim != 2 or paths.shape != features.shape[:1] or not len(paths):
        raise ConfigError(
            f"{path}: expected one row of features for each of the paths, got {features.shape} and "
            f"{paths.shape}"
        )
    if features.shape[1] != size:
        raise ConfigError(
            f"{path}: expected embeddings of size {size}, as the model's, got {features.shape[1]}"
        )
    features = features.astype("float32")
    lengths = np.linalg.norm(features, axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) < 1e-2))  # NaN, too
    if len(bad):
        raise ConfigError(
            f"{path}: expected features of norm 1, got {lengths[bad[0]]:.3g} in row {bad[0]}"
        )
    return Gallery(paths.astype(str).tolist(), features, fingerprint)
