"""Exact nearest neighbours, block by block. NumPy only."""

import numpy as np


def nearest(
    query: np.ndarray, gallery: np.ndarray, k: int, block_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` gallery rows of greatest inner product with each query, best first.

    For unit vectors the inner product is the cosine. Ties go to the lowest gallery row.

    Args:
        query: ``(queries, size)``.
        gallery: ``(entries, size)``.
        k: Neighbours; more than the gallery holds means all of it.
        block_size: Queries per matrix product.

    Returns:
        Similarities and gallery rows, each ``(queries, min(k, entries))``.

    Example:
        >>> import numpy as np
        >>> from keras_featx.search import nearest
        >>> nearest(np.eye(2), np.array([[1.0, 0.0], [0.6, 0.8]]), k=1)[1].tolist()
        [[0], [1]]
    """
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(
            "query and gallery: expected (rows, size) arrays of one size, "
            f"got {query.shape} and {gallery.shape}"
        )
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    similarities, rows = [], []
    for start in range(0, len(query), block_size):
        block = similarity(query[start : start + block_size], gallery)
        order = np.argsort(-block, axis=1, kind="stable")[:, :k]
        rows.append(order)
        similarities.append(np.take_along_axis(block, order, axis=1))
    empty = np.empty((0, min(k, len(gallery))), "float32")
    return np.concatenate([empty, *similarities]), np.concatenate([empty.astype(int), *rows])


def similarity(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Inner products, ``(queries, entries)``, float32 rounded from float64.

    In float32, BLAS gives equal gallery rows products that differ in their last bit by the row's
    place in the matrix and by the number of queries: ties would be broken, and not by row.
    """
    return (query.astype("float64") @ gallery.astype("float64").T).astype("float32")
