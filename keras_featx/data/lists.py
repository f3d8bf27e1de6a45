"""The reference's lists: an image and its label on each line. Imports no framework."""

import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from keras_featx.data import files
from keras_featx.data.labels import class_names, read_labels
from keras_featx.data.samples import Problem, Samples, join_all, refuse
from keras_featx.errors import ConfigError

Problems = list[Problem] | None
_BETWEEN_BLANKS = re.compile(r'"((?:[^"]|"")*)"(?=\s|$)|(\S+)')


def imagenet_list(
    problems: Problems = None,
    *,
    image_root: str,
    cls_label_path: str,
    delimiter: str = " ",
    labels: Literal["auto", "numbers", "names"] = "auto",
    class_id_map_file: str | None = None,
    labels_per_group: int | None = None,
) -> Samples:
    """A list with one ``path label`` a line, the reference's ImageNetDataset.

    Args:
        problems: Where to put rows that cannot be used; see :func:`~.samples.load_samples`.
        image_root: Folder the paths are relative to.
        cls_label_path: The list, UTF-8. A path in double quotes may hold the delimiter.
        delimiter: What stands between the columns.
        labels: ``numbers`` from 0, ``names``, or ``auto``: names where no label looks like a
            number.
        class_id_map_file: Names of the labels, one ``label name`` a line; see
            :func:`~.labels.class_names`.
        labels_per_group: Where the labels are numbers, an image is of group ``label //
            labels_per_group``; see :class:`~.samples.Samples`.
    """
    split = _splitter(cls_label_path, delimiter)
    table = _read(cls_label_path, split, (2,), f"path label) between {delimiter!r}", problems)
    return make_samples(
        cls_label_path, image_root, table, labels, class_id_map_file, problems, labels_per_group
    )


def veri_wild_list(
    problems: Problems = None,
    *,
    image_root: str,
    cls_label_path: str,
    labels: Literal["auto", "numbers", "names"] = "auto",
    class_id_map_file: str | None = None,
    labels_per_group: int | None = None,
) -> Samples:
    """A list with ``path label [id]`` a line between blanks, the reference's VeriWild.

    Args:
        problems: Where to put rows that cannot be used; see :func:`~.samples.load_samples`.
        image_root: Folder the paths are relative to.
        cls_label_path: The list, UTF-8. A third column is a camera, or a number unique to the
            image: gallery entries that share label and id with a query are not searched. A path in
            double quotes may hold blanks.
        labels: ``numbers`` from 0, ``names``, or ``auto``: names where no label looks like a
            number.
        class_id_map_file: Names of the labels, one ``label name`` a line; see
            :func:`~.labels.class_names`.
        labels_per_group: Where the labels are numbers, an image is of group ``label //
            labels_per_group``; see :class:`~.samples.Samples`.
    """
    meaning = "path label [id]) between blanks"
    table = _read(cls_label_path, _split_at_blanks, (2, 3), meaning, problems)
    return make_samples(
        cls_label_path, image_root, table, labels, class_id_map_file, problems, labels_per_group
    )


def logo_list(problems: Problems = None, *, image_root: str, cls_label_path: str) -> Samples:
    """The reference's LogoDataset: ``image_id label ... path`` between tabs.

    A first line that begins with ``image_id`` is a heading. Labels count from 1, the path is the
    fourth column.

    Args:
        problems: Where to put rows that cannot be used; see :func:`~.samples.load_samples`.
        image_root: Folder the paths are relative to.
        cls_label_path: The list, UTF-8.
    """
    split = _splitter(cls_label_path, "\t")

    def pick(line: str) -> list[str]:
        parts = split(line)
        return [parts[3], parts[1]] if len(parts) >= 4 else []

    meaning = "path in the 4th and label in the 2nd of at least 4) between '\\t'"
    table = _read(cls_label_path, pick, (2,), meaning, problems, heading="image_id")
    rows, (paths, labels) = table
    below = []
    for i, text in enumerate(labels):
        if text.isascii() and text.isdigit() and int(text):
            below.append(str(int(text) - 1))
        else:
            what = f"expected a label (a number from 1), got {text!r}"
            refuse(problems, cls_label_path, int(rows[i]), what)
            below.append("-1")
    kept = [i for i, text in enumerate(below) if text != "-1"]
    columns = [[paths[i] for i in kept], [below[i] for i in kept]]
    return make_samples(
        cls_label_path, image_root, (rows[kept], columns), "numbers", None, problems
    )


def icartoon_list(
    problems: Problems = None,
    *,
    image_root: str,
    cls_label_path: str,
    labels: Literal["auto", "numbers", "names"] = "auto",
) -> Samples:
    """The reference's ICartoonDataset: ``path label`` between tabs.

    Args:
        problems: Where to put rows that cannot be used; see :func:`~.samples.load_samples`.
        image_root: Folder the paths are relative to.
        cls_label_path: The list, UTF-8.
        labels: As of :func:`imagenet_list`.
    """
    return imagenet_list(
        problems,
        image_root=image_root,
        cls_label_path=cls_label_path,
        delimiter="\t",
        labels=labels,
    )


def make_samples(
    source: str,
    root: str,
    table: tuple[np.ndarray, Sequence[list[str]]],
    labels: str,
    names_file: str | None,
    problems: Problems,
    labels_per_group: int | None = None,
    **more: np.ndarray,
) -> Samples:
    """Samples of the columns path, label and perhaps id of a list, with every file looked for.

    Args:
        source: The list.
        root: Folder the paths are relative to.
        table: Row numbers, and the columns. The column of paths becomes those of the samples.
        labels: How to read them, see :func:`~.labels.read_labels`.
        names_file: Names of the labels.
        problems: Where to put rows that cannot be used.
        labels_per_group: As of :func:`imagenet_list`.
        more: Further arrays of :class:`Samples`, a row an image.
    """
    rows, columns = table
    numbers, names = read_labels(columns[1], rows, source, labels, problems)
    paths = columns[0]
    join_all(root, paths)
    absent = files.missing(paths)
    if absent:
        _refuse_missing(source, rows, paths, absent, problems)
    # Ids are only compared, so names serve as well as numbers.
    ids = np.array(columns[2]) if len(columns) > 2 else None
    if labels_per_group is not None:
        if labels_per_group < 1:
            raise ConfigError(
                f"{source}: labels_per_group: expected at least 1, got {labels_per_group}"
            )
        if names is not None:
            raise ConfigError(
                f"labels_per_group: expected with labels that are numbers; those of {source} are "
                "names"
            )
        more["groups"] = numbers // labels_per_group
    if names_file is not None:
        if names is not None:
            raise ConfigError(
                f"class_id_map_file: expected with labels that are numbers; those of {source} are "
                "names already"
            )
        names = class_names(names_file, int(numbers.max()) + 1)
    samples = Samples(source, paths, numbers, rows, ids=ids, names=names, **more)
    if not problems:
        return samples
    good = numbers >= 0
    good[absent] = False
    if not good.any():
        raise ConfigError(f"{source}: expected rows that can be used, got none; {problems[0].what}")
    return samples.take(np.flatnonzero(good))


def _refuse_missing(source, rows, paths, absent, problems) -> None:
    if problems is None:
        more = f" ({len(absent) - 1} more are missing)" if len(absent) > 1 else ""
        what = f"missing image {paths[absent[0]]!r}{more}"
        refuse(None, source, int(rows[absent[0]]), what)
    for i in absent:
        what = f"missing image {paths[i]!r}"
        problems.append(Problem(source, int(rows[i]), what, "missing", paths[i]))


def _read(
    source: str,
    split: Callable[[str], list[str]],
    widths: tuple[int, ...],
    meaning: str,
    problems: Problems,
    heading: str | None = None,
) -> tuple[np.ndarray, list[list[str]]]:
    """Row numbers and columns of the lines that are not empty."""
    rows: list[np.ndarray] = []
    columns: list[list[str]] = []
    known: dict[str, str] = {}  # labels repeat: one string for all that are equal
    first = 1
    for lines in files.line_chunks(source):
        parts = list(map(split, lines))
        numbers = np.arange(first, first + len(lines))
        sure = len(columns) in widths and all(map(str.strip, lines))
        if not sure or set(map(len, parts)) != {len(columns)}:
            wanted = (len(columns),) if columns else widths
            skip = heading if first == 1 else None
            good = _usable(source, first, lines, parts, widths, wanted, meaning, problems, skip)
            numbers, parts = numbers[good], [parts[i] for i in good]
        if parts:
            columns = columns or [[] for _ in parts[0]]
            rows.append(numbers)
            paths, labels, *rest = zip(*parts, strict=True)
            columns[0] += paths
            columns[1] += map(known.setdefault, labels, labels)
            for column, values in zip(columns[2:], rest, strict=True):
                column += values
        first += len(lines)
    if not rows:
        found = f"; {problems[0].what}" if problems else ""
        raise ConfigError(f"{source}: expected rows of '{meaning.split(')')[0]}', got none{found}")
    return np.concatenate(rows), columns


def _usable(source, first, lines, parts, widths, wanted, meaning, problems, heading) -> list[int]:
    """Places of the lines that can be used, of some that begin at row ``first`` of a list."""
    good = []
    for i, line in enumerate(lines):
        if not line.strip() or (heading and i == 0 and line.startswith(heading)):
            continue
        if len(parts[i]) not in widths:
            either = " or ".join(map(str, widths))
            what = f"expected {either} columns ({meaning}, got {len(parts[i])}: {line!r}"
            refuse(problems, source, first + i, what)
        elif len(parts[i]) not in wanted:
            what = f"expected {wanted[0]} columns as in the rows before"
            refuse(problems, source, first + i, what)
        else:
            wanted = (len(parts[i]),)
            good.append(i)
    return good


def _splitter(source: str, delimiter: str) -> Callable[[str], list[str]]:
    if delimiter == "":
        raise ConfigError(f"{source}: delimiter: expected a character, got ''")
    sign = re.escape(delimiter)
    quoted = re.compile(rf'(?:^|(?<={sign}))(?:"((?:[^"]|"")*)"|(.*?))(?:{sign}|$)')

    def split(line: str) -> list[str]:
        if '"' not in line:
            return line.split(delimiter)
        parts, place = [], 0
        while place <= len(line):
            found = quoted.match(line, place)
            parts.append(_unquoted(found))
            if not found.group(0).endswith(delimiter):
                break
            place = found.end()
        return parts

    return split


def _split_at_blanks(line: str) -> list[str]:
    if '"' not in line:
        return line.split()
    return [_unquoted(found) for found in _BETWEEN_BLANKS.finditer(line)]


def _unquoted(found: re.Match) -> str:
    return found[2] if found[1] is None else found[1].replace('""', '"')
