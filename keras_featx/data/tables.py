"""CSV with named columns."""

import csv
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from keras_featx import components
from keras_featx.data import files
from keras_featx.data.lists import Problems, make_samples
from keras_featx.data.samples import Samples, refuse
from keras_featx.errors import ConfigError

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")


def csv_list(
    problems: Problems = None,
    *,
    image_root: str,
    cls_label_path: str,
    delimiter: str = ",",
    split: str | None = None,
    labels: Literal["auto", "numbers", "names"] = "auto",
    class_id_map_file: str | None = None,
    path_column: str = "path",
    label_column: str = "label",
    id_column: str = "id",
    camera_column: str = "camera",
    group_column: str = "group",
    split_column: str = "split",
    box_column: str = "box",
) -> Samples:
    """A CSV file whose first line names the columns; path and label are needed, others optional.

    Gallery entries that share label and id, or label and camera, with a query are not searched, nor
    those of another group.

    Args:
        problems: Where to put rows that cannot be used; see :func:`~.samples.load_samples`.
        image_root: Folder the paths are relative to.
        cls_label_path: The file, UTF-8. Values may be quoted.
        delimiter: One character.
        split: Take only rows with this in the split column; needed where there is one.
        labels: ``numbers`` from 0, ``names``, or ``auto``: names where no label looks like a
            number.
        class_id_map_file: Names of the labels, one ``label name`` a line; see
            :func:`~.labels.class_names`.
        path_column: Its name.
        label_column: Its name.
        id_column: Of image ids, if there is one.
        camera_column: If there is one.
        group_column: If there is one.
        split_column: If there is one.
        box_column: If there is one: ``left top right bottom`` in pixels, between blanks or commas;
            empty for the whole image.
    """
    source = cls_label_path
    if len(delimiter) != 1:
        raise ConfigError(f"{source}: delimiter: expected one character, got {delimiter!r}")
    wanted = {
        "path": path_column, "label": label_column, "id": id_column, "camera": camera_column,
        "group": group_column, "split": split_column, "box": box_column,
    }  # fmt: skip
    rows, columns = read_csv(source, delimiter, wanted, problems)
    rows, columns = _of_split(source, rows, columns, split, split_column)
    more = {f"{role}s": np.array(columns[role]) for role in ("camera", "group") if role in columns}
    if "box" in columns:
        good, boxes = _boxes(source, rows, columns["box"], problems)
        rows, columns = rows[good], {k: [v[i] for i in good] for k, v in columns.items()}
        more = {k: v[good] for k, v in more.items()} | {"boxes": boxes}
    kept = [columns[name] for name in ("path", "label", "id") if name in columns]
    return make_samples(
        source, image_root, (rows, kept), labels, class_id_map_file, problems, **more
    )


def read_csv(
    source: str,
    delimiter: str,
    wanted: Mapping[str, str],
    problems: Problems = None,
    *,
    rest: bool = False,
) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Row numbers and columns of a CSV file.

    Args:
        source: The file.
        delimiter: One character.
        wanted: Names of columns by what they are for; ``path`` and ``label`` are needed.
        problems: Where to put rows that cannot be used.
        rest: Also all other columns, by their names.

    Raises:
        ConfigError: On a file that is no such table, with the row.
    """
    reader = csv.reader(files.read_lines(source), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(reader, [])]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ConfigError(f"{source}:1: expected each column once, got {twice[0]!r} twice")
    for role in ("path", "label"):
        if wanted[role] not in header:
            raise ConfigError(
                f"{source}:1: {role}_column: expected a column {wanted[role]!r}, got {header}"
                f"{components.closest(wanted[role], header)}"
            )
    places = {role: header.index(name) for role, name in wanted.items() if name in header}
    if rest:
        others = [name for name in header if name not in wanted.values()]
        places |= {name: header.index(name) for name in others}
    rows: list[int] = []
    columns: dict[str, list[str]] = {role: [] for role in places}
    while True:
        number = reader.line_num + 1  # where the row begins; quoted values may hold line breaks
        try:
            parts = next(reader, None)
        except csv.Error as error:
            raise ConfigError(f"{source}:{number}: expected CSV: {error}") from None
        if parts is None:
            break
        if not parts or parts == [""]:
            continue
        if len(parts) != len(header):
            what = f"expected {len(header)} columns as in the heading, got {len(parts)}: {parts}"
            refuse(problems, source, number, what)
        elif not parts[places["path"]]:
            refuse(problems, source, number, "expected a path, got ''")
        else:
            rows.append(number)
            for role, place in places.items():
                columns[role].append(parts[place])
    if not rows:
        raise ConfigError(f"{source}: expected rows below the heading, got none")
    return np.array(rows, np.int64), columns


def _of_split(source, rows, columns, split, name) -> tuple[np.ndarray, dict[str, list[str]]]:
    if "split" not in columns:
        if split is not None:
            raise ConfigError(f"{source}:1: split: expected a column {name!r} to choose from")
        return rows, columns
    known = sorted(set(columns["split"]))
    if split not in known:
        raise ConfigError(f"{source}: split: expected one of {known}, got {split!r}")
    places = [i for i, value in enumerate(columns["split"]) if value == split]
    return rows[places], {k: [v[i] for i in places] for k, v in columns.items()}


def _boxes(source, rows, texts, problems) -> tuple[list[int], np.ndarray]:
    good, boxes = [], []
    for i, text in enumerate(texts):
        box = parse_box(text)
        if box is None:
            what = f"expected a box 'left top right bottom' with left < right, got {text!r}"
            refuse(problems, source, int(rows[i]), what)
        else:
            good.append(i)
            boxes.append(box)
    return good, np.array(boxes, np.int64).reshape(-1, 4)


def parse_box(text: str) -> tuple[int, int, int, int] | None:
    """A box in whole pixels, rounded outward; zeros for an empty text, ``None`` for a wrong one.

    Example:
        >>> from keras_featx.data.tables import parse_box
        >>> parse_box("10.5, 20, 30, 40.25")
        (10, 20, 30, 41)
    """
    parts = text.replace(",", " ").strip("[]() ").split()
    if not parts:
        return 0, 0, 0, 0
    if len(parts) != 4 or not all(map(_NUMBER.fullmatch, parts)):
        return None
    left, top, right, bottom = map(float, parts)
    if min(left, top) < 0 or left >= right or top >= bottom or max(right, bottom) >= 2**31:
        return None
    return int(left), int(top), -int(-right // 1), -int(-bottom // 1)
