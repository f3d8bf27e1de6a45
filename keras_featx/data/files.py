"""Files by path: on disk, or at an address that TensorFlow's file systems know (gs://, s3://).

TensorFlow is imported only when an address comes. ``s3://`` needs the package ``tensorflow-io``.
"""

import contextlib
import glob
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from keras_featx.errors import ConfigError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")

# Files that stay open for :func:`read_range`; systems allow a process 1,024 or 256 of all kinds.
MOST_OPEN = 128


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is an address, such as ``gs://bucket/name``."""
    return "://" in os.fspath(path)


def read_bytes(path: str | os.PathLike) -> bytes:
    """All of a file.

    Raises:
        OSError: With the reason, where it cannot be read.
    """
    path = os.fspath(path)
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    with remote_errors(path) as tf, tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


class _Open:
    """An open file, closed when nobody reads it any more."""

    def __init__(self, path: str):
        self.number = None  # `__del__` comes also where opening fails
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self):
        if self.number is not None:
            os.close(self.number)


_open: OrderedDict[str, _Open] = OrderedDict()  # the one used last at the end
_lock = threading.Lock()


def read_range(path: str, offset: int, length: int) -> bytes:
    """A part of a file; refuses one that ends before. For any number of threads.

    Files on disk stay open for the next call, see :func:`forget`.
    """
    if is_remote(path):
        with remote_errors(path) as tf, tf.io.gfile.GFile(path, "rb") as file:
            file.seek(offset)
            data = file.read(length)
    else:
        with _lock:
            found = _open.get(path)
            if found is not None:
                _open.move_to_end(path)
        if found is None:
            found = _Open(path)
            with _lock:
                _open[path] = found
                while len(_open) > MOST_OPEN:
                    _open.popitem(last=False)
        data = os.pread(found.number, length, offset)
    if len(data) != length:
        raise OSError(None, f"ends {length - len(data)} bytes before the image does", path)
    return data


def forget(paths: Iterable[str]) -> None:
    """Open these files anew for the next :func:`read_range`: others may stand there by now."""
    with _lock:
        for path in paths:
            _open.pop(path, None)


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file to read from its beginning on."""
    if is_remote(path):
        with remote_errors(path) as tf, tf.io.gfile.GFile(path, "rb") as file:
            yield file
    else:
        with open(path, "rb") as file:
            yield file


def size_of(path: str) -> int:
    """The size of a file in bytes."""
    if not is_remote(path):
        return os.stat(path).st_size
    with remote_errors(path) as tf:
        return tf.io.gfile.stat(path).length


def names_in(folder: str) -> list[str]:
    """The names in a folder, sorted, hidden ones too."""
    if not is_remote(folder):
        return sorted(os.listdir(folder))
    with remote_errors(folder) as tf:
        return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder))


def matching(pattern: str) -> list[str]:
    """The files that a pattern with ``*``, ``?`` or ``[...]`` names, sorted."""
    if not is_remote(pattern):
        return sorted(path for path in glob.glob(pattern) if os.path.isfile(path))
    with remote_errors(pattern) as tf:
        return sorted(path for path in tf.io.gfile.glob(pattern) if not tf.io.gfile.isdir(path))


def read_lines(path: str | os.PathLike) -> list[str]:
    """The lines of a UTF-8 text, without a byte-order mark or Windows line ends."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text: {error.reason}") from None
    return [line.rstrip("\r") for line in text.split("\n")]


def line_chunks(path: str | os.PathLike, size: int = 2**9) -> Iterator[list[str]]:
    """The lines of :func:`read_lines`, so many at a time: a long list need not be held whole.

    A caller that splits lines holds a small list for each. Few at a time die young; thousands make
    Python's garbage collector look through all that was read before, again and again.
    """
    path = os.fspath(path)
    if is_remote(path):
        lines = read_lines(path)
        yield from (lines[first : first + size] for first in range(0, len(lines), size))
        return
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        try:
            while lines := list(itertools.islice(file, size)):
                yield [line.rstrip("\n").rstrip("\r") for line in lines]
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: expected UTF-8 text: {error.reason}") from None


def missing(paths: list[str]) -> list[int]:
    """Places of the paths at which there is no file.

    A folder of which many files are wanted is listed once, and a remote one always: to ask for
    each file takes far longer.
    """
    wanted: dict[str, list[str]] = {}
    for path in set(paths):
        wanted.setdefault(path.rpartition("/")[0], []).append(path)
    absent = {path for folder, below in wanted.items() for path in _absent(folder, below)}
    return [i for i, path in enumerate(paths) if path in absent] if absent else []


def _absent(folder: str, paths: list[str]) -> list[str]:
    """Those of the paths inside a folder that are no files."""
    if is_remote(paths[0]):
        with remote_errors(folder) as tf:
            try:
                found = set(tf.io.gfile.listdir(folder))
            except tf.errors.NotFoundError:
                found = set()
        return [path for path in paths if path.rpartition("/")[2] not in found]
    found = _listed(folder, 4 * len(paths)) if len(paths) > 8 else set()
    start = len(folder) + 1 if folder or paths[0].startswith("/") else 0
    # What the listing does not show is asked for: names may differ in case, say.
    return [path for path in paths if path[start:] not in found and not os.path.isfile(path)]


def _listed(folder: str, most: int) -> set[str]:
    """The files of a local folder; of a folder with far more of them than wanted, the first."""
    try:
        with os.scandir(folder or ".") as entries:
            return {e.name for e in itertools.islice(entries, most) if e.is_file()}
    except (OSError, ValueError):
        return set()


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder at this path."""
    path = os.fspath(path)
    if not is_remote(path):
        return os.path.isdir(path)
    with remote_errors(path) as tf:
        return tf.io.gfile.isdir(path)


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is a file at this path."""
    path = os.fspath(path)
    if not is_remote(path):
        return os.path.isfile(path)
    with remote_errors(path) as tf:
        return tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path)


def walk(root: str | os.PathLike) -> Iterable[str]:
    """All files below a folder, but for hidden ones and those in hidden folders.

    Raises:
        OSError: Where a folder cannot be read.
    """
    root = os.fspath(root)
    if is_remote(root):
        with remote_errors(root) as tf:
            levels = list(tf.io.gfile.walk(root))
        for folder, _, names in levels:
            inside = folder[len(root) :].split("/")
            for name in names:
                if not any(part.startswith(".") for part in (*inside, name)):
                    yield f"{folder.rstrip('/')}/{name}"
        return

    def stop(error: OSError):
        raise error

    for folder, below, names in os.walk(root, onerror=stop):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield os.path.join(folder, name)


def find_images(path: str | os.PathLike) -> list[str]:
    """The image itself, or all images below a folder, sorted.

    Raises:
        ConfigError: If there is none.
    """
    if is_file(path):
        return [os.fspath(path)]
    if not is_folder(path):
        raise ConfigError(f"{path}: expected an image or a folder of images, found neither")
    found = sorted(p for p in walk(path) if p.lower().endswith(EXTENSIONS))
    if not found:
        raise ConfigError(f"{path}: expected images ({' '.join(EXTENSIONS)}), found none")
    return found


@contextlib.contextmanager
def remote_errors(path: str) -> Iterator:
    """TensorFlow, with its errors as :class:`OSError`."""
    import tensorflow as tf

    try:
        yield tf
    except tf.errors.UnimplementedError:
        scheme = path.split("://")[0]
        raise OSError(None, f"no file system for {scheme}:// (see docs/data.md)", path) from None
    except tf.errors.OpError as error:
        raise OSError(None, error.message.splitlines()[0], path) from None
