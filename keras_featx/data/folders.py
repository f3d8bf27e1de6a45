"""A folder with one folder of images per identity."""

import os

import numpy as np

from keras_featx.data import files
from keras_featx.data.lists import Problems
from keras_featx.data.samples import Samples, refuse
from keras_featx.errors import ConfigError


def class_folders(problems: Problems = None, *, image_root: str) -> Samples:
    """A folder with one folder of images per identity; labels follow the sorted names.

    Args:
        problems: Where to put files that are no images; see :func:`~.samples.load_samples`.
        image_root: The folder. Hidden entries are left alone; a file that is no image by its
            extension is refused.
    """
    if not files.is_folder(image_root):
        raise ConfigError(f"{image_root}: expected a folder with one folder per identity")
    root = image_root.rstrip("/") or "/"
    inside: dict[str, list[str]] = {name: [] for name in _folders(root)}
    for path in sorted(files.walk(root)):
        name, _, below = path[len(root) :].replace(os.sep, "/").lstrip("/").partition("/")
        image = path.lower().endswith(files.EXTENSIONS)
        if not below:
            if image:
                raise ConfigError(f"{path}: expected images inside the folder of their identity")
        elif image:
            inside[name].append(path)
        else:
            what = f"expected an image ({' '.join(files.EXTENSIONS)})"
            if problems is None:
                raise ConfigError(f"{path}: {what}")
            refuse(problems, path, 0, what)
    names = sorted(inside)
    for name in names:
        if not inside[name]:
            what = "expected images of this identity, got none"
            if problems is None:
                raise ConfigError(f"{os.path.join(root, name)}: {what}")
            refuse(problems, os.path.join(root, name), 0, what)
    if not any(inside.values()):
        raise ConfigError(f"{image_root}: expected one folder per identity, got none")
    paths = [path for name in names for path in inside[name]]
    labels = np.repeat(np.arange(len(names)), [len(inside[name]) for name in names])
    return Samples(image_root, paths, labels, np.arange(1, len(paths) + 1), names=names)


def _folders(root: str) -> list[str]:
    if files.is_remote(root):
        import tensorflow as tf

        found = [name.rstrip("/") for name in tf.io.gfile.listdir(root)]
        found = [name for name in found if tf.io.gfile.isdir(f"{root}/{name}")]
    else:
        found = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    return [name for name in found if not name.startswith(".")]
