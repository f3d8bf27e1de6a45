"""Sets that :mod:`keras_featx.data.pack` wrote, by folder and name."""

from keras_featx.data import files, shards
from keras_featx.data.lists import Problems
from keras_featx.data.samples import Samples, join
from keras_featx.errors import ConfigError

_INDEX = ".index.npz"


def packed(problems: Problems = None, *, folder: str, part: str = "train") -> Samples:
    """A packed set: TFRecord or tar, with labels, names, ids and so on as they were.

    Args:
        problems: Takes nothing: a packed set is whole or refused.
        folder: Where it was packed to.
        part: Its name there: ``train``, ``query``, ``gallery``, or what it was called.
    """
    path = join(folder, f"{part}{_INDEX}")
    if not files.is_file(path):
        if not files.is_folder(folder):
            raise ConfigError(f"{folder}: expected a folder of packed sets, found none")
        there = [name for name in files.names_in(folder) if name.endswith(_INDEX)]
        there = [name.removesuffix(_INDEX) for name in there if not name.startswith(".")]
        raise ConfigError(f"{folder}: part: expected one of {there}, got {part!r}")
    index = shards.read_index(path)
    listed = {name: join(folder, name) for name in index.shards}
    return shards.indexed_samples(path, index, listed, join(folder, part))
