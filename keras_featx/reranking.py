"""Better rankings from the neighbours of neighbours: no training, only more search.

The functions that change embeddings return unit vectors and may stand one after the other;
:func:`k_reciprocal` comes last, as it gives distances instead.
"""

from collections.abc import Callable

import numpy as np

from keras_featx.errors import ConfigError
from keras_featx.search import check_vectors, nearest
from keras_featx.similarities import row_blocks

_CHUNK = 256
_ROWS = 8192


def query_expansion(
    query: np.ndarray, gallery: np.ndarray, *, k: int = 5, alpha: float = 0.0
) -> np.ndarray:
    """Each query becomes the mean of itself and its ``k`` nearest gallery entries.

    With ``alpha`` above 0 entry ``i`` weighs ``max(cosine, 0) ** alpha`` (arXiv:1711.02512); with 0
    all weigh alike (average query expansion).

    Args:
        query: Unit vectors ``(queries, size)``.
        gallery: Unit vectors ``(entries, size)``.
        k: Neighbours; at least 1.
        alpha: At least 0.

    Returns:
        float32 ``(queries, size)``, unit vectors.

    Example:
        >>> import numpy as np
        >>> from keras_featx.reranking import query_expansion
        >>> query_expansion(np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]]), k=1).round(3)
        array([[0.894, 0.447]], dtype=float32)
    """
    _check(k, alpha)
    similar, rows = nearest(query, gallery, k)
    return _with_neighbours(query, gallery, similar, rows, alpha)


def database_augmentation(gallery: np.ndarray, *, k: int = 5, alpha: float = 0.0) -> np.ndarray:
    """Each gallery entry becomes the mean of itself and its ``k`` nearest others.

    Args:
        gallery: Unit vectors ``(entries, size)``.
        k: Neighbours; at least 1.
        alpha: As of :func:`query_expansion`.

    Returns:
        float32 ``(entries, size)``, unit vectors.
    """
    _check(k, alpha)
    similar, rows = nearest(gallery, gallery, k + 1)
    # Its own row is one of them, but for copies of it that stand before; the last one goes then.
    own = rows == np.arange(len(gallery))[:, None]
    own[~own.any(1), -1] = True
    shape = (len(gallery), rows.shape[1] - 1)
    return _with_neighbours(
        gallery, gallery, similar[~own].reshape(shape), rows[~own].reshape(shape), alpha
    )


def _with_neighbours(vectors, others, similar, rows, alpha: float) -> np.ndarray:
    result = np.empty(vectors.shape, "float32")
    weights = np.maximum(similar.astype("float64"), 0) ** alpha
    for start in range(0, len(vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        near = others[rows[part]].astype("float64")
        result[part] = _unit(vectors[part] + np.einsum("nk,nkd->nd", weights[part], near))
    return result


def fit_pca(embeddings: np.ndarray, *, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the projection of PCA with whitening.

    Args:
        embeddings: What to fit to ``(items, size)``: a training set, or a gallery.
        size: Components to keep; by default all that vary.

    Returns:
        ``mean (size,)`` and ``projection (size, kept)``, float64: :func:`whitened` applies them.

    Raises:
        ConfigError: If more components are asked for than vary.
    """
    mean = embeddings.mean(0, dtype="float64")
    covariance = np.zeros((embeddings.shape[1],) * 2)
    for part in row_blocks(embeddings):
        centred = embeddings[part] - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / max(1, len(embeddings) - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    varying = int(np.count_nonzero(values > max(values[0], 0) * 1e-9))
    if not varying:
        raise ConfigError(f"expected embeddings that differ, got {len(embeddings)} equal ones")
    if size is not None and not 1 <= size <= varying:
        raise ConfigError(
            f"size: expected 1 to {varying}, the number of components that vary in "
            f"{len(embeddings)} embeddings, got {size}"
        )
    kept = size or varying
    return mean, vectors[:, :kept] / np.sqrt(values[:kept])


def whitened(embeddings: np.ndarray, mean: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """Project as :func:`fit_pca` says, to unit vectors, float32 ``(items, kept)``.

    Example:
        >>> import numpy as np
        >>> from keras_featx.reranking import fit_pca, whitened
        >>> points = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9)
        >>> whitened(points, *fit_pca(points, size=3)).shape
        (50, 3)
    """
    return _unit((embeddings - mean) @ projection)


def k_reciprocal(
    query: np.ndarray, gallery: np.ndarray, *, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> Callable[[slice], np.ndarray]:
    """k-reciprocal re-ranking (arXiv:1701.08398).

    What is near to the same images is near to one another: sets of mutual neighbours are compared
    (Jaccard distance), and the distance of the vectors counts besides. Memory grows with
    ``(queries + entries) * (size + k1)``; a dense row exists only for the queries asked for.

    Args:
        query: Float ``(queries, size)``.
        gallery: Float ``(entries, size)``.
        k1: Neighbours that may be mutual.
        k2: Neighbours whose sets are averaged; 1 for none.
        weight: Of the squared distance, in [0, 1]; the rest is that of the sets.

    Returns:
        From a slice of the queries to distances, float32 ``(queries, entries)``.

    Raises:
        ConfigError: On arguments outside their range.
        ValueError: On vectors that do not fit together or are not finite.

    Example:
        >>> import numpy as np
        >>> from keras_featx.reranking import k_reciprocal
        >>> points = np.random.default_rng(0).normal(size=(30, 4))
        >>> k_reciprocal(points[:5], points[5:], k1=6, k2=2)(slice(0, 3)).shape
        (3, 25)
    """
    check_vectors(query, gallery)
    if not 1 <= k2 <= k1 + 1:
        raise ConfigError(f"k2: expected in 1..{k1 + 1}, k1 + 1, got {k2}")
    if k1 < 1:
        raise ConfigError(f"k1: expected at least 1, got {k1}")
    if not 0 <= weight <= 1:
        raise ConfigError(f"weight: expected in [0, 1], got {weight}")
    both = np.concatenate([query, gallery])
    near = nearest(both, both, k1 + 1, "euclidean")[1]
    farthest = _largest_distances(both)
    rows, columns, values = _mutual_weights(both, near, farthest, k1)
    if k2 > 1:
        rows, columns, values = _averaged(rows, columns, values, near[:, :k2])
    starts = np.searchsorted(rows, np.arange(len(both) + 1))
    # Of the gallery, by column.
    first = starts[len(query)]
    order = first + np.argsort(columns[first:], kind="stable")
    by_column = np.searchsorted(columns[order], np.arange(len(both) + 1))
    holders, held = rows[order] - len(query), values[order]
    right = gallery.astype("float64").T
    squares = np.einsum("ij,ij->j", right, right)

    def distances(part: slice) -> np.ndarray:
        block = np.asarray(query[part], "float64")
        own = np.einsum("ij,ij->i", block, block)
        plain = block @ right
        plain *= -2
        plain += own[:, None] + squares
        plain = np.maximum(plain, 0, out=plain)
        plain /= farthest[: len(query)][part, None]
        for i, row in zip(range(len(block)), range(len(query))[part], strict=True):
            ours = slice(starts[row], starts[row + 1])
            spans = [(by_column[c], by_column[c + 1]) for c in columns[ours]]
            found = np.concatenate([np.zeros(0, "int64"), *(np.arange(a, b) for a, b in spans)])
            limits = np.repeat(values[ours], np.array([b - a for a, b in spans], "int64"))
            common = np.bincount(
                holders[found], np.minimum(held[found], limits), minlength=len(gallery)
            )
            plain[i] = (1 - weight) * (1 - common / (2 - common)) + weight * plain[i]
        return plain.astype("float32")

    return distances


def _largest_distances(vectors: np.ndarray) -> np.ndarray:
    """The squared distance from each to the farthest of all."""
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype="float64")
    largest = np.zeros(len(vectors))
    for start in range(0, len(vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        for first in range(0, len(vectors), _ROWS):
            others = slice(first, first + _ROWS)
            products = vectors[part].astype("float64") @ vectors[others].T.astype("float64")
            scores = squares[others] - 2 * products
            largest[part] = np.maximum(largest[part], scores.max(1) + squares[part])
    return np.maximum(largest, np.finfo("float64").tiny)


def _mutual_weights(vectors, near, farthest, k1: int):
    """Each item's expanded set of mutual neighbours, weighted: rows, columns, values, by row."""
    mutual = _mutual(near, k1)
    small = _mutual(near, round(k1 / 2))
    found = []
    for start in range(0, len(near), _CHUNK):
        sets = mutual[start : start + _CHUNK]
        theirs = small[np.maximum(sets, 0)]  # (items, k1 + 1, k1 / 2 + 1), -1 for none
        theirs[sets < 0] = -1
        inside = (theirs[..., None] == sets[:, None, None, :]) & (theirs[..., None] >= 0)
        share = inside.any(-1).sum(-1) > 2 / 3 * (theirs >= 0).sum(-1)
        members = np.concatenate(
            [sets, np.where(share[..., None], theirs, -1).reshape(len(sets), -1)], 1
        )
        rows = np.broadcast_to(np.arange(len(sets))[:, None] + start, members.shape)
        found.append(np.unique(np.stack([rows, members], -1)[members >= 0], axis=0))
    rows, columns = np.concatenate(found).T
    values = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        apart = vectors[rows[part]].astype("float64") - vectors[columns[part]]
        values[part] = np.exp(-np.einsum("ij,ij->i", apart, apart) / farthest[rows[part]])
    return rows, columns, values / np.bincount(rows, values)[rows]


def _mutual(near: np.ndarray, k: int) -> np.ndarray:
    """Those of the k + 1 nearest that have the item among theirs; -1 in place of the others."""
    near = near[:, : k + 1]
    result = np.empty_like(near)
    for start in range(0, len(near), _CHUNK):
        ours = near[start : start + _CHUNK]
        items = np.arange(start, start + len(ours))
        back = (near[ours] == items[:, None, None]).any(-1)
        result[start : start + _CHUNK] = np.where(back, ours, -1)
    return result


def _averaged(rows, columns, values, near: np.ndarray):
    """The mean of the sets of each item's nearest."""
    starts = np.searchsorted(rows, np.arange(len(near) + 1))
    found = []
    for start in range(0, len(near), _CHUNK):
        ours = near[start : start + _CHUNK]
        sizes = np.diff(starts)[ours]
        ends = np.cumsum(sizes)
        places = np.repeat(starts[ours].ravel() - (ends - sizes.ravel()), sizes.ravel())
        places += np.arange(ends[-1])
        items = np.repeat(np.arange(start, start + len(ours)), sizes.sum(1))
        keys, place = np.unique(np.stack([items, columns[places]], -1), axis=0, return_inverse=True)
        sums = np.bincount(place.ravel(), values[places]) / near.shape[1]
        found.append((keys[:, 0], keys[:, 1], sums))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        row = int(np.flatnonzero(norms == 0)[0])
        raise ConfigError(f"expected vectors that do not cancel, got a zero vector in row {row}")
    return (vectors / norms).astype("float32")


def _check(k: int, alpha: float) -> None:
    if k < 1:
        raise ConfigError(f"k: expected at least 1, got {k}")
    if alpha < 0:
        raise ConfigError(f"alpha: expected at least 0, got {alpha}")
