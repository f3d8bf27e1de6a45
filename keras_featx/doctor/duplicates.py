"""Images that are the same, or almost.

The perceptual hash of an image is its picture in 8 x 8 cells without the mean colour, at unit
length. Pairs whose hashes have a cosine of 0.9 are looked at closely (:mod:`.alignment`). A
difference hash of 128 bits was no help: by a crop of 2 % it changes by up to 20 bits, and tables of
its parts find pairs up to 7.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from keras_featx.doctor import alignment
from keras_featx.progress import progress

# Square of the largest distance of two hashes: a cosine of 0.9.
_REACH = 0.2
# Grey levels: a picture of less contrast has a shorter hash, as it is mostly noise.
_LEAST_CONTRAST = 4.0
# Grey levels by which the mean colour may differ.
_MOST_SHIFT = 16.0
# Of one image, only so many of the nearest are looked at closely.
_MOST_CANDIDATES = 16
_DIRECTIONS, _ROWS, _COLUMNS = 24, 1024, 4096
_KEPT, _AT_A_TIME = 16384, 32


@dataclass(frozen=True)
class Alike:
    """Images that are almost the same.

    Attributes:
        group: int64 ``(images,)``: equal for those that are alike, directly or by way of others.
        partner: Of some image, one that it was found to be almost the same as.
    """

    group: np.ndarray
    partner: dict[int, int]


def identical(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images of the same content, by digests uint8 ``(images, 20)``.

    Returns:
        A number from 0 for each image, equal for equal ones; and for each number, its first image.

    Example:
        >>> import numpy as np
        >>> from keras_featx.doctor.duplicates import identical
        >>> digests = np.repeat(np.array([[7], [3], [7]], np.uint8), 20, axis=1)
        >>> [x.tolist() for x in identical(digests)]
        [[1, 0, 1], [1, 0]]
    """
    keys = np.ascontiguousarray(digests).view("V20")[:, 0]
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    return number.reshape(-1), first


def alike(pictures: np.ndarray, detail: Callable[[int], np.ndarray]) -> Alike:
    """Find images that are almost the same.

    Args:
        pictures: uint8 ``(images, cells, cells, 3)``.
        detail: From an image to a picture of it, ``(SIDE, SIDE, 3)``; see :mod:`.alignment`.
    """
    group = list(range(len(pictures)))
    partner: dict[int, int] = {}

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    kept: dict[int, np.ndarray] = {}
    with ThreadPoolExecutor() as pool:
        for pairs in candidates(pictures):
            for first in range(0, len(pairs), 2048):
                some = [p for p in pairs[first : first + 2048].tolist() if root(p[0]) != root(p[1])]
                needed = sorted({i for pair in some for i in pair} - kept.keys())
                if len(kept) > _KEPT:
                    needed = sorted({i for pair in some for i in pair})
                    kept.clear()
                kept.update(zip(needed, pool.map(detail, needed), strict=True))
                for i, j in _same(some, kept, pool):
                    if root(i) != root(j):
                        partner.setdefault(i, j)
                        partner.setdefault(j, i)
                        group[root(j)] = root(i)
    return Alike(np.array([root(i) for i in range(len(group))], np.int64), partner)


def _same(pairs: list, pictures: dict[int, np.ndarray], pool: ThreadPoolExecutor) -> list:
    def judge(first: int) -> list:
        some = pairs[first : first + _AT_A_TIME]
        one, other = (np.stack([pictures[pair[k]] for pair in some]) for k in (0, 1))
        good = alignment.differences(one, other) < alignment.MOST_DIFFERENCE
        return [pair for pair, same in zip(some, good.tolist(), strict=True) if same]

    return [pair for some in pool.map(judge, range(0, len(pairs), _AT_A_TIME)) for pair in some]


def candidates(pictures: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of images whose hashes are close: int64 ``(pairs, 2)`` at a time, each pair once.

    Distances in the leading directions of all hashes are never larger than the true ones, so no
    pair is lost by comparing these first.
    """
    size = len(pictures)
    if size < 2:
        return
    hashes = np.empty((size, _DIRECTIONS), np.float32)
    directions = _leading(pictures)
    for first in range(0, size, _ROWS):
        some = slice(first, first + _ROWS)
        hashes[some] = perceptual_hash(pictures[some]) @ directions
    order = np.argsort(hashes[:, 0], kind="stable")
    hashes = hashes[order]
    squares = (hashes**2).sum(axis=1, keepdims=True)
    ones = np.ones_like(squares)
    # The product of these two is the square of the distance.
    left = np.concatenate([-2 * hashes, ones, squares], 1)
    right = np.concatenate([hashes, squares, ones], 1)
    last = np.searchsorted(hashes[:, 0], hashes[:, 0] + _REACH**0.5, side="right")

    def block(first: int) -> np.ndarray:
        end = min(first + _ROWS, size)
        found = []
        for start in range(first, last[end - 1], _COLUMNS):
            stop = min(start + _COLUMNS, last[end - 1])
            distances = left[first:end] @ right[start:stop].T
            i, j = np.divmod(np.flatnonzero(distances < _REACH), stop - start)
            later = j + start > i + first
            i, j = i[later], j[later]
            i, j = _nearest_of_each(i, j, distances[i, j])
            found.append(np.stack([i + first, j + start], 1))
        return _checked(pictures, order[np.concatenate(found)])

    firsts = range(0, size, _ROWS)
    with ThreadPoolExecutor() as pool:
        # Not all at once: what is found waits for a close look.
        for start in progress(firsts[::16], total=len(firsts[::16]), what="comparing"):
            yield from pool.map(block, firsts[start // _ROWS :][:16])


def _checked(pictures: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Those pairs that are close in all directions and in colour."""
    kept = []
    for first in range(0, len(pairs), _COLUMNS):
        some = pairs[first : first + _COLUMNS]
        one, other = (pictures[some[:, k]] for k in (0, 1))
        distance = ((perceptual_hash(one) - perceptual_hash(other)) ** 2).sum(axis=1)
        shift = np.abs(one.mean(axis=(1, 2)) - other.mean(axis=(1, 2))).max(axis=1)
        kept.append(some[(distance < _REACH) & (shift < _MOST_SHIFT)])
    return np.concatenate([np.zeros((0, 2), np.int64), *kept])


def _nearest_of_each(i: np.ndarray, j: np.ndarray, distance: np.ndarray) -> tuple:
    """At most so many ``j`` of each ``i``, the nearest ones."""
    if not len(i) or np.bincount(i).max() <= _MOST_CANDIDATES:
        return i, j
    order = np.lexsort((distance, i))
    i, j = i[order], j[order]
    start = np.flatnonzero(np.diff(i, prepend=-1))
    rank = np.arange(len(i)) - np.repeat(start, np.diff(start, append=len(i)))
    return i[rank < _MOST_CANDIDATES], j[rank < _MOST_CANDIDATES]


def perceptual_hash(pictures: np.ndarray) -> np.ndarray:
    """Pictures without their mean colour, at unit length: float32 ``(images, cells² · 3)``.

    Example:
        >>> import numpy as np
        >>> from keras_featx.doctor.duplicates import perceptual_hash
        >>> picture = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
        >>> bool(np.allclose(perceptual_hash(picture), perceptual_hash(picture + 5)))
        True
    """
    x = pictures.astype(np.float32)
    x = (x - x.mean(axis=(1, 2), keepdims=True)).reshape(len(x), -1)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(length, _LEAST_CONTRAST * x.shape[1] ** 0.5)


def _leading(pictures: np.ndarray) -> np.ndarray:
    """The directions in which hashes differ most: ``(cells² · 3, directions)``."""
    some = perceptual_hash(pictures[:: -(-len(pictures) // 20000)])
    return np.linalg.eigh(np.cov(some.T))[1][:, ::-1][:, :_DIRECTIONS].astype(np.float32)
