"""Galleries of unit vectors around centres, and cosines by brute force."""

import numpy as np

from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.neighbourhoods import Contents

SIZE = 12


def unit(x):
    x = np.asarray(x, "float64")
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def clustered(identities, each, seed, spread=0.6):
    """Unit vectors around centres, and the name of each."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(identities, SIZE)))
    vectors = unit(
        np.repeat(centres, each, 0) + spread / 3 * rng.normal(size=(identities * each, SIZE))
    )
    return vectors.astype("float32"), [f"i{seed}_{i // each}" for i in range(identities * each)]


def filled(folder, vectors, names, precision="float32"):
    gallery = Gallery.create(folder, "ab" * 32, np.shape(vectors)[1], precision)
    gallery.add([f"{i}.jpg" for i in range(len(names))], names, vectors)
    return gallery


def cosines(one, two):
    """In float64, rounded to float32, one pair at a time as far as sums go."""
    one, two = np.asarray(one, "float64"), np.asarray(two, "float64")
    return np.einsum("ik,jk->ij", one, two).astype("float32")


def mean_of(vectors):
    """Of unit norm, in float32 as it is searched."""
    return unit(np.asarray(vectors, "float64").sum(0)).astype("float32")


def whole_numbers(rng, items, labels):
    """Vectors whose products are exact, and of which many are equal."""
    own = np.sort(rng.integers(0, labels, items))[rng.permutation(items)]
    names, own = np.unique(own, return_inverse=True)
    vectors = rng.integers(-2, 3, (items, 4)).astype("float32")
    return Contents([str(i) for i in range(items)], vectors, own, [f"n{i}" for i in names])
