"""Images in memory: given as arrays or as a ``tf.data.Dataset``, or decoded once and kept."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_featx import images
from keras_featx.data import faults, files
from keras_featx.data.labels import read_labels
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError
from keras_featx.sections import PreprocessSection

log = logging.getLogger(__name__)

# Of the memory that is free, what decoded images may take.
SHARE = 0.8


def given(problems=None) -> Samples:
    """Stands in a config for images that are given in Python."""
    raise ConfigError("dataset.name: Given: expected the images as an argument, in Python")


def as_samples(data: Any, source: str) -> Samples:
    """Images and labels given in Python as samples.

    Args:
        data: :class:`Samples`; a pair ``(images, labels)`` as of :func:`from_arrays`; or a
            ``tf.data.Dataset`` as of :func:`from_dataset`.
        source: What to call it in messages.
    """
    if isinstance(data, Samples):
        return data
    if isinstance(data, tf.data.Dataset):
        return from_dataset(data, source)
    if isinstance(data, tuple | list) and len(data) == 2:
        return from_arrays(*data, source=source)
    raise ConfigError(
        f"{source}: expected (images, labels), a tf.data.Dataset or Samples, got "
        f"{type(data).__name__}"
    )


def from_arrays(
    pictures: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[int] | Sequence[str] | np.ndarray,
    ids: Sequence | None = None,
    source: str = "arrays",
) -> Samples:
    """Samples of images in memory. Images that are uint8 with three channels are not copied.

    Args:
        pictures: ``(images, height, width, 3)``, or a sequence of ``(height, width, 3)`` of any
            sizes; red, green, blue in 0..255, uint8 or float. One channel is grey.
        labels: A number from 0 or a name for each.
        ids: An id for each, where query and gallery share images.
        source: What to call them in messages.

    Raises:
        ConfigError: With the place of the image or label, what was expected and what came.

    Example:
        >>> import numpy as np
        >>> from keras_featx.data.memory import from_arrays
        >>> samples = from_arrays(np.zeros((3, 40, 40, 3), np.uint8), ["cat", "dog", "cat"])
        >>> samples.labels.tolist(), samples.names
        ([0, 1, 0], ['cat', 'dog'])
    """
    if len(pictures) != len(labels) or not len(labels):
        raise ConfigError(
            f"{source}: expected a label for each image, got {len(pictures)} images and "
            f"{len(labels)} labels"
        )
    ready = isinstance(pictures, np.ndarray) and pictures.dtype == np.uint8
    if ready and pictures.ndim == 4 and pictures.shape[-1] == 3:
        pixels: Any = pictures
    else:
        pixels = [rgb(p, f"{source}[{i}]") for i, p in enumerate(pictures)]
    rows = np.arange(len(labels))
    texts = [label.decode() if isinstance(label, bytes) else str(label) for label in labels]
    numbers, names = read_labels(texts, rows, source)
    paths = [f"{source}[{i}]" for i in range(len(labels))]
    ids = None if ids is None else np.array([str(i) for i in ids])
    return Samples(source, paths, numbers, rows, ids=ids, names=names, pixels=pixels)


def from_dataset(dataset: tf.data.Dataset, source: str = "dataset") -> Samples:
    """Samples of a dataset of ``(image, label)``, read once and kept in memory.

    Which sample comes at which step is then up to the sampler, as for any other data: samplers by
    identity work and a run resumes exactly. A shuffle or augmentation of the dataset's own has its
    effect once. What does not fit in memory is packed into shards (:mod:`keras_featx.data.pack`).

    Args:
        dataset: Images as of :func:`from_arrays`, batched or not, or encoded (scalar strings).
        source: What to call it in messages.

    Raises:
        ConfigError: If it never ends, or its elements are something else.
    """
    pairs = list(elements(dataset, source))
    if not pairs:
        raise ConfigError(f"{source}: expected images, got an empty dataset")
    return from_arrays([p[0] for p in pairs], [p[1] for p in pairs], source=source)


def elements(
    dataset: tf.data.Dataset, source: str, decode: bool = True
) -> Iterator[tuple[np.ndarray | bytes, Any]]:
    """One image and its label after the other; ``decode`` those that are encoded."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ConfigError(f"{source}: expected a dataset that ends, got one that repeats for ever")
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ConfigError(f"{source}: expected elements (image, label), got {spec}")
    image = spec[0]
    if image.shape.rank == (1 if image.dtype == tf.string else 4):
        dataset = dataset.unbatch()
    if image.dtype == tf.string and decode:
        dataset = dataset.map(lambda data, label: (images.decode(data), label))
    yield from dataset.as_numpy_iterator()


def rgb(picture: Any, source: str) -> np.ndarray:
    """An image as uint8 ``(height, width, 3)``; refuses what is none."""
    array = np.asarray(picture)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ConfigError(
            f"{source}: expected an image (height, width, 3), got shape {np.shape(picture)}"
        )
    if array.dtype != np.uint8:
        low, high = array.min(), array.max()
        if not (low >= 0 and 1 < high <= 255) and (low or high):  # all black may be either
            raise ConfigError(
                f"{source}: expected values in 0..255, got {array.dtype} from {low:.4g} to "
                f"{high:.4g}"
            )
        array = np.rint(array).astype(np.uint8)
    return np.repeat(array, 3, -1) if array.shape[-1] == 1 else array


def decoded(samples: Samples, preprocess: PreprocessSection) -> Samples:
    """The samples with their images decoded and kept in memory, on all cores.

    Raises:
        ConfigError: If they would not fit in the memory that is free.
        RunError: On an image that cannot be decoded.
    """
    if samples.pixels is not None:
        return samples
    if preprocess.reduced_decoding:
        raise ConfigError(
            "DataLoader.Train.cache: expected none with Arch.Preprocess.reduced_decoding, which "
            "decodes each image at the size a step needs, got 'memory'"
        )

    def read(row: int) -> np.ndarray:
        path = samples.paths[row]
        if samples.spans is None:
            data = files.read_bytes(path)
        else:
            data = files.read_range(path, *samples.spans[row].tolist())
        return images.decode(tf.constant(data), None, preprocess).numpy()

    pixels: list[np.ndarray] = []
    size = len(samples)
    try:
        with ThreadPoolExecutor() as pool:
            for first in range(0, size, 256):
                pixels += pool.map(read, range(first, min(first + 256, size)))
                taken = sum(p.nbytes for p in pixels[first:])
                _check_memory(taken // (len(pixels) - first) * (size - len(pixels)), samples)
    except (tf.errors.OpError, OSError) as error:
        raise faults.explain(error, samples) from None
    log.info("%d decoded images take %d MiB", size, sum(p.nbytes for p in pixels) >> 20)
    return Samples(**{**vars(samples), "pixels": pixels})


def _check_memory(to_come: int, samples: Samples) -> None:
    table = Path("/proc/meminfo")
    if not table.exists():
        return
    line = next(x for x in table.read_text().splitlines() if x.startswith("MemAvailable"))
    free = int(line.split()[1]) * 1024
    if to_come > SHARE * free:
        raise ConfigError(
            f"DataLoader.Train.cache: memory: the images of {samples.source} need about "
            f"{to_come >> 20} MiB more, of {free >> 20} MiB that are free: expected none"
        )
