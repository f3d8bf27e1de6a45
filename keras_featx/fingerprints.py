"""What tells embeddings of one model from those of another."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from keras_featx.sections import PreprocessSection


def fingerprint(
    weights: Sequence[np.ndarray],
    preprocess: PreprocessSection,
    projection: Sequence[np.ndarray] | None = None,
) -> str:
    """SHA-256 of all that an embedding depends on, besides rounding.

    Args:
        weights: Of the extractor, in their order.
        preprocess: How images become its input.
        projection: Mean and matrix behind it, or ``None``.

    Example:
        >>> import numpy as np
        >>> from keras_featx.fingerprints import fingerprint
        >>> from keras_featx.sections import PreprocessSection
        >>> one = fingerprint([np.zeros(3)], PreprocessSection())
        >>> one == fingerprint([np.zeros(3)], PreprocessSection(antialias=True))
        False
    """
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(preprocess), sort_keys=True).encode())
    for array in (*weights, *(projection or ())):
        array = np.ascontiguousarray(array, "<f4")
        digest.update(f"{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def rounded(whole: str, kind: str) -> str:
    """The fingerprint of a variant that rounds so much that its embeddings are others.

    Example:
        >>> from keras_featx.fingerprints import rounded
        >>> len(rounded("ab" * 32, "tflite_int8"))
        64
    """
    return hashlib.sha256(f"{whole} {kind}".encode()).hexdigest()
