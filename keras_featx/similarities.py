"""What near means: scores to choose candidates by, and exact values to order them by.

Scores are one float32 matrix product of prepared blocks. They differ a little with the size of the
blocks and with the machine, by no more than a bound that is known; the exact value of a pair is a
float64 sum in the order of the coordinates, rounded to float32, whatever stands beside it. NumPy
only.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

# Half the distance from 1 to the next float32.
_UNIT = 2.0**-24
# Roundings of a product besides its sum: of both factors, their norms, the result.
_MORE = 8
# What float32 may lose at its lower end, where TensorFlow has no subnormal numbers.
_LEAST = 2.0**-126
# Numbers of each of a few float64 arrays at a time.
_NUMBERS = 2**20


class Similarity(NamedTuple):
    """One way to compare vectors.

    Attributes:
        is_distance: Values are distances, small ones near; else similarities, large ones near.
        query: From vectors ``(rows, size)`` to the left side of the product, float32.
        gallery: To the right side, of as many columns. The product's values are *scores*: large
            ones near.
        pairs: Exact values of pairs, float64 ``(rows,)``, from two arrays ``(rows, size)``.
        error: The most by which a score and a rounded value may put two pairs in another order,
            of query norms ``(rows,)``, the largest gallery norm, and the size.
    """

    is_distance: bool
    query: Callable[[np.ndarray], np.ndarray]
    gallery: Callable[[np.ndarray], np.ndarray]
    pairs: Callable[[np.ndarray, np.ndarray], np.ndarray]
    error: Callable[[np.ndarray, float, int], np.ndarray]


def norms(vectors: np.ndarray) -> np.ndarray:
    """Euclidean norms, float64 ``(rows,)``; of bits, the root of their number."""
    if vectors.dtype == np.uint8:
        return np.full(len(vectors), np.sqrt(8 * vectors.shape[1]))
    found = np.empty(len(vectors))
    for part in row_blocks(vectors):
        wide = vectors[part].astype("float64")
        found[part] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return found


def row_blocks(vectors: np.ndarray) -> Iterator[slice]:
    """Rows to compute with in float64 at a time."""
    rows = max(1, _NUMBERS // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), rows):
        yield slice(start, start + rows)


def pair_values(name: str, query: np.ndarray, gallery: np.ndarray, owners, rows) -> np.ndarray:
    """Exact values of pairs of rows by the similarity of that name, float32 ``(pairs,)``."""
    values = np.empty(len(owners), "float32")
    size = max(1, _NUMBERS // max(1, query.shape[1]))
    for start in range(0, len(owners), size):
        part = slice(start, start + size)
        pairs = query[owners[part]], gallery[rows[part]]
        values[part] = SIMILARITIES[name].pairs(*pairs)
    return values


def _floats(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, "float32")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return _floats(vectors / norms(vectors)[:, None])


def _signs(vectors: np.ndarray) -> np.ndarray:
    """From packed bits, uint8, to -1 and 1."""
    return np.unpackbits(vectors, axis=1).astype("float32") * 2 - 1


def _with_ones(vectors: np.ndarray) -> np.ndarray:
    return np.concatenate([_floats(vectors), np.ones((len(vectors), 1), "float32")], 1)


def _with_half_squares(vectors: np.ndarray) -> np.ndarray:
    half = norms(vectors)[:, None] ** 2 / -2
    return np.concatenate([_floats(vectors), _floats(half)], 1)


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", a.astype("float64"), b.astype("float64"))


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _products(a, b) / (norms(a) * norms(b))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return norms(a.astype("float64") - b.astype("float64"))


def _different_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.bitwise_count(a ^ b).sum(1, dtype="int64").astype("float64")


def _roundings(size: int) -> float:
    return (size + _MORE) * _UNIT


def _losses(norms, size: int) -> float:
    """Of products and factors too small for float32, with vectors of these norms together."""
    return _LEAST * (size + np.sqrt(size) * norms + _MORE)


SIMILARITIES = {
    "cosine": Similarity(
        False, _unit, _unit, _cosines,
        lambda query, gallery, size: np.full(len(query), _roundings(size)),
    ),
    "inner_product": Similarity(
        False, _floats, _floats, _products,
        lambda query, gallery, size: (
            _roundings(size) * query * gallery + _losses(query + gallery, size)
        ),
    ),
    # |a - b|^2 = |a|^2 - 2 (a b - |b|^2 / 2)
    "euclidean": Similarity(
        True, _with_ones, _with_half_squares, _distances,
        lambda query, gallery, size: (
            _roundings(size) * (query + gallery) ** 2 + _losses(query + gallery, size)
        ),
    ),
    # Sums of few ones are exact in float32.
    "hamming": Similarity(
        True, _signs, _signs, _different_bits,
        lambda query, gallery, size: np.zeros(len(query)),
    ),
}  # fmt: skip
