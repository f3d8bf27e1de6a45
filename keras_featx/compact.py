"""Shorter and coarser embeddings: what they keep, and the Recall@1 and bytes of each choice.

NumPy only. What is stored is the gallery; queries are compared with it as they are, but for bits,
which are compared with bits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.labelled import Labelled
from keras_featx.metrics import mean_average_precision, recall_at_k
from keras_featx.reranking import fit_pca, k_reciprocal
from keras_featx.results import score

RULES = ("sign", "round")
PRECISIONS = ("float32", "float16", "int8", *RULES)
SHORTENED = ("prefix", "pca")
Table = list[dict[str, Any]]


def binarized(embeddings: np.ndarray, rule: str) -> np.ndarray:
    """Embeddings of whole numbers, as the reference's ``feature_binarize`` makes them.

    The inner product of two vectors of -1 and 1 is their size less twice the number of places where
    they differ, so ranking by it is ranking by the Hamming distance.

    Args:
        embeddings: Float ``(items, size)``.
        rule: ``sign``: 1 above 0, -1 below, and 0 stays 0; ``round``: numbers from 0 to 1, such as
            a sigmoid gives, to -1 up to 0.5 and 1 above.

    Returns:
        int8 ``(items, size)``.

    Raises:
        ConfigError: On numbers that are not finite or, with ``round``, beyond 0 and 1.

    Example:
        >>> import numpy as np
        >>> from keras_featx.compact import binarized
        >>> binarized(np.array([[0.6, -0.8, 0.0]]), "sign")
        array([[ 1, -1,  0]], dtype=int8)
    """
    if rule not in RULES:
        raise ConfigError(f"feature_binarize: expected one of {list(RULES)}, got {rule!r}")
    low, high = (0, 1) if rule == "round" else (-np.inf, np.inf)
    bad = ~np.isfinite(embeddings) | (embeddings < low) | (embeddings > high)
    if bad.any():
        row, place = np.argwhere(bad)[0].tolist()
        expected = "from 0 to 1 with round" if rule == "round" else "that are finite"
        raise ConfigError(
            f"feature_binarize: expected numbers {expected}, got {embeddings[row, place]:.4g} at "
            f"{place} of row {row} ({int(bad.any(1).sum())} such rows)"
        )
    if rule == "sign":
        return np.sign(embeddings).astype("int8")
    return (np.round(embeddings) * 2 - 1).astype("int8")


def packed(embeddings: np.ndarray, rule: str = "sign") -> np.ndarray:
    """:func:`binarized` embeddings as bits, for :func:`keras_featx.search.nearest` by ``hamming``.

    Args:
        embeddings: Float ``(items, size)``.
        rule: As of :func:`binarized`.

    Returns:
        uint8 ``(items, size / 8, rounded up)``, the first number in the highest bit; 1 is 1, -1 is
        0, and so are the bits that fill up.

    Raises:
        ConfigError: As of :func:`binarized`, and on a 0 with ``sign``, which is no bit.

    Example:
        >>> import numpy as np
        >>> from keras_featx.compact import packed
        >>> packed(np.array([[1.0, -1.0, 0.5]]))
        array([[160]], dtype=uint8)
    """
    found = binarized(embeddings, rule)
    if not found.all():
        row, place = np.argwhere(found == 0)[0].tolist()
        raise ConfigError(
            f"feature_binarize: expected numbers other than 0 to make bits of, got 0 at {place} of "
            f"row {row} ({int((found == 0).any(1).sum())} such rows)"
        )
    return np.packbits(found > 0, axis=1)


def read_back(embeddings: np.ndarray, precision: str) -> np.ndarray:
    """What is read where embeddings are stored in a precision.

    Args:
        embeddings: Unit vectors ``(items, size)``.
        precision: ``float32``, ``float16``; ``int8``: of each vector the largest number becomes
            127 or -127, and its length, which is known to be 1, is not stored; ``sign`` or
            ``round``: bits, see :func:`packed`.

    Returns:
        float32 unit vectors ``(items, size)``; of bits int8, -1 and 1.

    Example:
        >>> import numpy as np
        >>> from keras_featx.compact import read_back
        >>> read_back(np.array([[0.6, 0.8]]), "int8").round(5)
        array([[0.59899, 0.80076]], dtype=float32)
    """
    if precision in RULES:
        size = embeddings.shape[1]
        bits = np.unpackbits(packed(embeddings, precision), axis=1, count=size)
        return bits.astype("int8") * 2 - 1
    if precision == "float32":
        return embeddings.astype("float32")
    if precision == "int8":
        embeddings = np.rint(embeddings / np.abs(embeddings).max(1, keepdims=True) * 127)
    return _unit(embeddings.astype("float16" if precision == "float16" else "float64"))


def bytes_of(size: int, precision: str) -> int:
    """Bytes of one embedding of so many numbers, without what a file or an index adds."""
    return {"float32": 4 * size, "float16": 2 * size, "int8": size}.get(precision, -(-size // 8))


def compact_table(
    query: Labelled,
    gallery: Labelled,
    sizes: Sequence[int],
    *,
    precisions: Sequence[str] = PRECISIONS[:4],
    fitted_to: np.ndarray | None = None,
    rerank: bool = False,
) -> Table:
    """Recall@1 and mAP of every size in every precision.

    Args:
        query: What is looked up: unit vectors.
        gallery: What it is looked up in.
        sizes: Numbers of the shortened embeddings: their first ones, as Matryoshka training is for,
            and as many components of PCA. Of the whole size both are one.
        precisions: See :func:`read_back`.
        fitted_to: What PCA is fitted to, never the queries: embeddings of training images or of the
            gallery ``(items, size)``; ``None`` leaves it out.
        rerank: Also with k-reciprocal re-ranking; not where there are groups.

    Returns:
        ``[{"size", "shortened", "precision", "bytes", "ranking", "recall@1", "low", "high", "map",
        "queries"}, ...]``: ``low`` and ``high`` bound the 95 % interval of Recall@1 (``None`` with
        a single identity).

    Raises:
        ConfigError: On sizes beyond that of the embeddings, and where nothing can be measured.

    Example:
        >>> import numpy as np
        >>> from keras_featx.compact import compact_table
        >>> from keras_featx.labelled import Labelled
        >>> points = np.random.default_rng(0).normal(size=(40, 16))
        >>> points /= np.linalg.norm(points, axis=1, keepdims=True)
        >>> parts = Labelled(points, np.arange(40) % 4), Labelled(points, np.arange(40) % 4)
        >>> table = compact_table(*parts, [16, 8], precisions=["float32", "sign"])
        >>> [(row["size"], row["bytes"], row["recall@1"]) for row in table]
        [(16, 64, 1.0), (16, 2, 1.0), (8, 32, 1.0), (8, 1, 0.975)]
    """
    whole = gallery.embeddings.shape[1]
    for size in sizes:
        if not 1 <= size <= whole:
            raise ConfigError(f"sizes: expected 1 to {whole}, the embeddings' size, got {size}")
    for name in precisions:
        if name not in PRECISIONS:
            raise ConfigError(f"precisions: expected some of {list(PRECISIONS)}, got {name!r}")
    if rerank and query.groups is not None:
        raise ConfigError("re-ranking: expected lists without groups")
    table = []
    shorter = [size for size in sizes if size < whole]
    axes = None if fitted_to is None or not shorter else _axes(fitted_to, max(shorter))
    for size in sizes:
        for how in SHORTENED:
            if how == "pca" and (axes is None or size == whole):
                continue
            vectors = [_shortened(p.embeddings, size, axes, how) for p in (query, gallery)]
            for precision in precisions:
                stored = [_stored(v, precision, i == 1) for i, v in enumerate(vectors)]
                parts = [_with(p, v) for p, v in zip((query, gallery), stored, strict=True)]
                about = {
                    "size": size,
                    "shortened": how if size < whole else None,
                    "precision": precision,
                    "bytes": bytes_of(size, precision),
                }
                table.append({**about, "ranking": "plain", **_measured(*parts)})
                if rerank:
                    found = _measured(*parts, distances=k_reciprocal)
                    table.append({**about, "ranking": "k-reciprocal", **found})
    return table


def as_text(table: Table) -> str:
    """The table as a person reads it."""
    lines = ["size  shortened  precision  bytes  ranking       Recall@1 (95 % interval)    mAP"]
    for row in table:
        low, high = row["low"], row["high"]
        interval = " " * 18 if low is None else f"({low:.4f} to {high:.4f})"
        lines.append(
            f"{row['size']:4}  {row['shortened'] or 'no':9}  {row['precision']:9}  "
            f"{row['bytes']:5}  {row['ranking']:12}  {row['recall@1']:.4f} {interval}  "
            f"{row['map']:.4f}"
        )
    return "\n".join(lines)


def _axes(fitted_to: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the first components of PCA, of length 1."""
    mean, matrix = fit_pca(fitted_to, size=size)
    return mean, matrix / np.linalg.norm(matrix, axis=0)


def _shortened(vectors: np.ndarray, size: int, axes, how: str) -> np.ndarray:
    if how == "pca":
        return _unit((vectors - axes[0]) @ axes[1][:, :size])
    return vectors if size == vectors.shape[1] else _unit(vectors[:, :size])


def _stored(vectors: np.ndarray, precision: str, is_gallery: bool) -> np.ndarray:
    """A gallery as it is read back; queries as they are, unless bits are compared."""
    return read_back(vectors, precision) if is_gallery or precision in RULES else vectors


def _with(part: Labelled, vectors: np.ndarray) -> Labelled:
    return Labelled(vectors, part.labels, part.ids, part.cameras, part.groups)


def _measured(query: Labelled, gallery: Labelled, distances=None) -> dict[str, Any]:
    found = score(query, gallery, [recall_at_k, mean_average_precision], distances=distances)
    low, high = found.intervals.get("recall@1", (None, None))
    figures = {"recall@1": found["recall@1"], "low": low, "high": high, "map": found["map"]}
    return {**figures, "queries": found["queries"]}


def _unit(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype("float64")
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not lengths.all():
        row = int(np.flatnonzero(lengths == 0)[0])
        raise ConfigError(f"expected embeddings other than 0, got a zero vector in row {row}")
    return (wide / lengths).astype("float32")
