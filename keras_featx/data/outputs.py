"""Files that are written: beside, then renamed, so that a name never stands for half a file."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from keras_featx.data import files


def make_folder(path: str) -> None:
    """Make a folder and those above it, where they are not there."""
    if files.is_remote(path):
        with files.remote_errors(path) as tf:
            tf.io.gfile.makedirs(path)
    else:
        os.makedirs(path, exist_ok=True)


def remove(path: str) -> None:
    """Remove a file."""
    if files.is_remote(path):
        with files.remote_errors(path) as tf:
            tf.io.gfile.remove(path)
    else:
        os.remove(path)


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file to write, which stands at ``path`` when all of it is written.

    Until then it has a hidden name of its own in the same folder; after an error it is removed.
    """
    folder, slash, name = path.rpartition("/")
    beside = f"{folder}{slash}.{name}.{uuid.uuid4().hex[:8]}.part"
    try:
        if files.is_remote(path):
            with files.remote_errors(path) as tf:
                with tf.io.gfile.GFile(beside, "wb") as file:
                    yield file
                tf.io.gfile.rename(beside, path, overwrite=True)
        else:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(beside)
        raise


def write_bytes(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Write a file whole."""
    with replacing(os.fspath(path)) as file:
        file.write(data)
