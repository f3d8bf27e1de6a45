"""Lists of images with labels: parse, check, say which row is wrong. Imports no framework."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_featx import components
from keras_featx.errors import ConfigError
from keras_featx.sections import Component

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


@dataclass(frozen=True)
class Samples:
    """Images on disk with their identities.

    Attributes:
        source: The list file or folder they came from, for messages.
        paths: Image files.
        labels: int64 ``(images,)``, from 0.
        rows: Row of each image in the list, from 1.
        ids: Image or camera ids, where the list has them.
        names: Class name of each label, where the source has names.
        turns: Quarter turns to give each image, see :func:`turned_identities`.
    """

    source: str
    paths: list[str]
    labels: np.ndarray
    rows: list[int]
    ids: np.ndarray | None = None
    names: list[str] | None = None
    turns: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def class_num(self) -> int:
        """Largest label plus one."""
        return int(self.labels.max()) + 1


def load_samples(dataset: Component, path: str) -> Samples:
    """Read and check the list a config names.

    Raises:
        ConfigError: With the file and row, what was expected and what came.
    """
    try:
        return components.builder("dataset", dataset.name, path)(**dataset.args)
    except OSError as error:
        raise ConfigError(f"{path}: {error.filename}: {error.strerror}") from None


def imagenet_list(
    *,
    image_root: str,
    cls_label_path: str,
    delimiter: str = " ",
    class_id_map_file: str | None = None,
) -> Samples:
    """A list with one ``path label`` a line, the reference's ImageNetDataset.

    Args:
        image_root: Folder the paths are relative to.
        cls_label_path: The list, UTF-8.
        delimiter: What stands between the columns.
        class_id_map_file: Names of the labels, one ``label name`` a line; see :func:`class_names`.
    """
    rows = _read_rows(cls_label_path, delimiter, columns=(2,), meaning="path label")
    return _samples(cls_label_path, image_root, rows, class_id_map_file)


def veri_wild_list(
    *, image_root: str, cls_label_path: str, class_id_map_file: str | None = None
) -> Samples:
    """A list with ``path label [id]`` a line between blanks, the reference's VeriWild.

    Args:
        image_root: Folder the paths are relative to.
        cls_label_path: The list, UTF-8. A third column is a camera, or a number unique to the
            image: gallery entries that share label and id with a query are not searched.
        class_id_map_file: Names of the labels, one ``label name`` a line; see :func:`class_names`.
    """
    rows = _read_rows(cls_label_path, None, columns=(2, 3), meaning="path label [id]")
    return _samples(cls_label_path, image_root, rows, class_id_map_file)


def class_names(file: str, class_num: int) -> list[str]:
    """Names of the labels 0 to ``class_num`` - 1 from a file with one ``label name`` a line.

    The name is all that follows the first blank; class centres are stored and found again by it.

    Raises:
        ConfigError: A label or a name that comes twice, with both rows; a label without a name, or
            outside the list's.
    """
    rows, first = {}, {}
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        text, _, name = line.strip().partition(" ")
        label, name = _label(text, file, number), name.strip()
        if not name or "\0" in name:
            raise ConfigError(f"{file}:{number}: expected 'label name', got {line!r}")
        if label >= class_num or label in rows:
            raise ConfigError(
                f"{file}:{number}: expected each label below {class_num} once, got {label}"
            )
        if name in first:
            raise ConfigError(
                f"class_id_map_file: {file}:{number}: expected a name of its own for label "
                f"{label}, got {name!r}, which is label {first[name]}'s"
            )
        rows[label], first[name] = name, label
    missing = next((label for label in range(class_num) if label not in rows), None)
    if missing is not None:
        raise ConfigError(f"{file}: expected a name for label {missing}, got none")
    return [rows[label] for label in range(class_num)]


def _lines(file: str) -> list[str]:
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: expected UTF-8 text: {error.reason}") from None
    return [line.rstrip("\r") for line in text.split("\n")]


def class_folders(*, image_root: str) -> Samples:
    """A folder with one folder of images per identity; labels follow the sorted names.

    Args:
        image_root: The folder. Hidden entries are left alone; a file that is no image by its
            extension is refused.
    """
    root = Path(image_root)
    if not root.is_dir():
        raise ConfigError(f"{image_root}: expected a folder with one folder per identity")
    loose = sorted(p for p in root.iterdir() if p.suffix.lower() in EXTENSIONS)
    if loose:
        raise ConfigError(f"{loose[0]}: expected images inside the folder of their identity")
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    paths, labels = [], []
    for label, name in enumerate(names):
        files = sorted(_files(root / name))
        for file in files:
            if file.suffix.lower() not in EXTENSIONS:
                raise ConfigError(f"{file}: expected an image ({' '.join(EXTENSIONS)})")
        if not files:
            raise ConfigError(f"{root / name}: expected images of this identity, got none")
        paths += map(str, files)
        labels += [label] * len(files)
    if not paths:
        raise ConfigError(f"{image_root}: expected one folder per identity, got none")
    rows = list(range(1, len(paths) + 1))
    return Samples(image_root, paths, np.array(labels, np.int64), rows, names=names)


def _read_rows(
    file: str, delimiter: str | None, columns: tuple[int, ...], meaning: str
) -> list[tuple[int, list[str]]]:
    if delimiter == "":
        raise ConfigError(f"{file}: delimiter: expected a character, got ''")
    rows = []
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        parts = line.split(delimiter)
        if len(parts) not in columns:
            between = "blanks" if delimiter is None else repr(delimiter)
            wanted = " or ".join(map(str, columns))
            raise ConfigError(
                f"{file}:{number}: expected {wanted} columns ({meaning}) between {between}, "
                f"got {len(parts)}: {line!r}"
            )
        rows.append((number, parts))
    if not rows:
        raise ConfigError(f"{file}: expected rows of '{meaning}', got none")
    if len({len(parts) for _, parts in rows}) > 1:
        first = len(rows[0][1])
        number = next(n for n, parts in rows if len(parts) != first)
        raise ConfigError(f"{file}:{number}: expected {first} columns as in the rows before")
    return rows


def _samples(
    source: str, root: str, rows: list[tuple[int, list[str]]], names_file: str | None = None
) -> Samples:
    labels = [_label(parts[1], source, number) for number, parts in rows]
    paths = [os.path.join(root, parts[0]) for _, parts in rows]
    numbers = [number for number, _ in rows]
    missing = [i for i, path in enumerate(paths) if not os.path.isfile(path)]
    if missing:
        more = f" ({len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise ConfigError(
            f"{source}:{numbers[missing[0]]}: missing image {paths[missing[0]]!r}{more}"
        )
    ids = None
    if len(rows[0][1]) == 3:
        # Ids are only compared, so names serve as well as numbers.
        ids = np.array([parts[2] for _, parts in rows])
    names = None if names_file is None else class_names(names_file, max(labels) + 1)
    return Samples(source, paths, np.array(labels, np.int64), numbers, ids=ids, names=names)


def _label(text: str, source: str, row: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**31:
        raise ConfigError(f"{source}:{row}: expected a label (a number from 0), got {text!r}")
    return int(text)


def check_labels(samples: Samples, class_num: int | None, key: str) -> int:
    """The number of classes of a training list, checked against what a config states.

    Raises:
        ConfigError: A label outside ``[0, class_num)``, with its row; or a ``class_num`` the list
            does not reach.
    """
    if class_num is None:
        return samples.class_num
    outside = np.flatnonzero(samples.labels >= class_num)
    if len(outside):
        i = int(outside[0])
        raise ConfigError(
            f"{samples.source}:{samples.rows[i]}: label {samples.labels[i]} is outside "
            f"[0, {class_num}), the classes of {key} ({len(outside)} such rows)"
        )
    if samples.class_num != class_num:
        raise ConfigError(
            f"{key}: expected {samples.class_num}, as the labels of {samples.source} go from 0 to "
            f"{samples.class_num - 1}, got {class_num}"
        )
    return class_num


def turned_identities(samples: Samples) -> Samples:
    """Each image four times, turned by 0, 90, 180 and 270 degrees, as four identities.

    More identities to tell apart make a better embedder where each has few images (class
    augmentation, as in arXiv:1606.04080). Identity ``i`` turned ``t`` times gets label
    ``4 * i + t``.
    """
    turns = np.tile(np.arange(4), len(samples))
    return Samples(
        samples.source,
        [path for path in samples.paths for _ in range(4)],
        4 * np.repeat(samples.labels, 4) + turns,
        [row for row in samples.rows for _ in range(4)],
        names=samples.names and [f"{n} turned {90 * t}" for n in samples.names for t in range(4)],
        turns=turns,
    )


def find_images(path: str | os.PathLike) -> list[str]:
    """The image itself, or all images below a folder, sorted.

    Raises:
        ConfigError: If there is none.
    """
    root = Path(path)
    if root.is_file():
        return [str(root)]
    if not root.is_dir():
        raise ConfigError(f"{path}: expected an image or a folder of images, found neither")
    found = sorted(str(p) for p in _files(root) if p.suffix.lower() in EXTENSIONS)
    if not found:
        raise ConfigError(f"{path}: expected images ({' '.join(EXTENSIONS)}), found none")
    return found


def _files(root: Path) -> Iterable[Path]:
    """All files below a folder, but for hidden ones and those in hidden folders."""
    for path in root.rglob("*"):
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(root).parts):
            yield path
