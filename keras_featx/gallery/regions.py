"""Parts of a picture to look at: boxes that are checked, read from files, or slide; copies removed.

A box is left, top, right and bottom in pixels of the upright picture.
"""

import csv
import json
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.data import files, samples, tables
from keras_featx.errors import ConfigError, first_line

_PATH, _BOX, _SIDES = "path", "box", ("left", "top", "right", "bottom")


def read_boxes(
    source: str | os.PathLike, image_root: str | os.PathLike = ""
) -> dict[str, np.ndarray]:
    """Read boxes of pictures.

    Args:
        source: CSV with columns ``path`` and ``left, top, right, bottom``, or ``path`` and ``box``
            with the four between blanks; or JSON, ``[{"path": ..., "box": [left, top, right,
            bottom]}, ...]``. Other columns and keys mean nothing here.
        image_root: Folder the paths are relative to.

    Returns:
        int64 ``(n, 4)``, rounded outward, by picture, in the order of the file.

    Raises:
        ConfigError: With the file and the row, from 1; of CSV the line.
    """
    name = os.fspath(source)
    ending = Path(name).suffix.lower()
    if ending not in (".csv", ".json"):
        raise ConfigError(f"{name}: expected boxes in .csv or .json")
    try:
        rows = _csv(name) if ending == ".csv" else _json(name)
    except OSError as error:
        raise ConfigError(f"{name}: expected a file of boxes: {error.strerror}") from None
    found: dict[str, list] = {}
    for row, path, text in rows:
        box = tables.parse_box(text)
        if box is None or not any(box):
            raise ConfigError(
                f"{name}:{row}: expected a box 'left top right bottom' with left < right, got "
                f"{text!r}"
            )
        found.setdefault(samples.join(image_root, path), []).append(box)
    return {path: np.array(boxes, np.int64) for path, boxes in found.items()}


def _csv(name: str) -> list[tuple[int, str, str]]:
    """Row, path and text of each box."""
    header = [one.strip() for one in next(csv.reader(files.read_lines(name)), [])]
    sides = (_BOX,) if _BOX in header else _SIDES
    if missing := [side for side in sides if side not in header]:
        raise ConfigError(
            f"{name}:1: expected columns {', '.join(_SIDES)}, or {_BOX}, got {header} without "
            f"{missing[0]!r}"
        )
    rows, columns = tables.read_csv(name, ",", {"path": _PATH, "label": sides[0]}, rest=True)
    columns[sides[0]] = columns.pop("label")
    texts = map(" ".join, zip(*(columns[side] for side in sides), strict=True))
    return list(zip(rows.tolist(), columns["path"], texts, strict=True))


def _json(name: str) -> list[tuple[int, str, str]]:
    try:
        tree = json.loads(files.read_bytes(name))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: expected JSON: {first_line(error)}") from None
    if not isinstance(tree, list) or not tree:
        raise ConfigError(f'{name}: expected [{{"path": ..., "box": [...]}}, ...]')
    rows = []
    for row, one in enumerate(tree, 1):
        box = one.get(_BOX) if isinstance(one, dict) else None
        path = one.get(_PATH) if isinstance(one, dict) else None
        if not isinstance(path, str) or not path or not _four_numbers(box):
            raise ConfigError(
                f'{name}:{row}: expected {{"path": ..., "box": [left, top, right, bottom]}}, got '
                f"{one!r}"
            )
        rows.append((row, path, " ".join(map(_digits, box))))
    return rows


def _four_numbers(box: Any) -> bool:
    numbers = isinstance(box, list) and all(type(number) in (int, float) for number in box)
    return numbers and len(box) == 4


def _digits(number: float) -> str:
    """A number without an exponent, as tables have it."""
    return str(number) if isinstance(number, int) else np.format_float_positional(number, trim="-")


def check_boxes(boxes: Any, size: tuple[int, int], source: str) -> np.ndarray:
    """Boxes in whole pixels, rounded outward: int64 ``(n, 4)``.

    Args:
        boxes: Left, top, right and bottom of each.
        size: (height, width) of the picture.
        source: What to call it in messages.

    Raises:
        ConfigError: At a box that is empty, not finite, or not inside the picture.

    Example:
        >>> from keras_featx.gallery.regions import check_boxes
        >>> check_boxes([[0.5, 2, 9.1, 8]], (8, 10), "photo").tolist()
        [[0, 2, 10, 8]]
    """
    try:
        given = np.asarray(boxes, "float64")
    except (TypeError, ValueError):
        raise ConfigError(f"{source}: expected boxes of 4 numbers, got {boxes!r}") from None
    if not given.size and given.ndim <= 2:
        return np.zeros((0, 4), np.int64)
    if given.ndim != 2 or given.shape[1] != 4:
        raise ConfigError(f"{source}: expected boxes (n, 4), got shape {given.shape}")
    height, width = size
    left, top, right, bottom = given.T
    inside = (left >= 0) & (top >= 0) & (left < right) & (top < bottom)
    inside &= (right <= width) & (bottom <= height)
    if len(bad := np.flatnonzero(~inside)):  # NaN, too
        shown = " ".join(f"{number:.10g}" for number in given[bad[0]])
        raise ConfigError(
            f"{source}: boxes[{bad[0]}]: expected 'left top right bottom' with left < right inside "
            f"the picture of {width} x {height} pixels, got {shown!r}"
        )
    whole = np.concatenate([np.floor(given[:, :2]), np.ceil(given[:, 2:])], axis=1)
    return whole.astype(np.int64)


def windows(
    size: tuple[int, int],
    sizes: Sequence[float] = (1.0, 0.5, 0.25),
    stride: float = 0.5,
    aspects: Sequence[float] = (1.0,),
) -> np.ndarray:
    """Boxes that cover a picture, evenly spaced.

    Args:
        size: (height, width) of the picture.
        sizes: Sides of the windows in parts of the picture's shorter side.
        stride: The most by which one window is shifted against the next, in parts of its own side.
        aspects: Width by height of the windows, at the same area.

    Returns:
        int64 ``(n, 4)``: left, top, right, bottom; sizes as given, in rows from the top left.
        Windows that would not fit are left out.

    Raises:
        ConfigError: On other numbers than these, or if no window fits.

    Example:
        >>> from keras_featx.gallery.regions import windows
        >>> windows((40, 80), sizes=[1.0]).tolist()
        [[0, 0, 40, 40], [20, 0, 60, 40], [40, 0, 80, 40]]
    """
    for name, values in (("sizes", sizes), ("aspects", aspects)):
        if not len(values) or not all(0 < value < np.inf for value in values):
            raise ConfigError(f"{name}: expected numbers above 0, got {list(values)}")
    if not 0 < stride <= 1:
        raise ConfigError(f"stride: expected a fraction in (0, 1], got {stride}")
    height, width = size
    boxes: dict[tuple[int, int, int, int], None] = {}
    for side in sizes:
        for aspect in aspects:
            high = round(side * min(size) / aspect**0.5)
            wide = round(side * min(size) * aspect**0.5)
            if not (0 < high <= height and 0 < wide <= width):
                continue
            for top in _starts(height, high, stride):
                for left in _starts(width, wide, stride):
                    boxes[left, top, left + wide, top + high] = None
    if not boxes:
        raise ConfigError(
            f"sizes: expected a window that fits into {width} x {height} pixels, got sizes "
            f"{list(sizes)} with aspects {list(aspects)}"
        )
    return np.array(list(boxes), np.int64)


def _starts(length: int, part: int, stride: float) -> list[int]:
    """Where windows of a length begin, the first and the last at the ends."""
    count = int(np.ceil((length - part) / max(1.0, stride * part))) + 1
    return np.rint(np.linspace(0, length - part, count)).astype(int).tolist()


def suppress(
    boxes: Sequence[Sequence[int]] | np.ndarray, groups: Sequence[Hashable], overlap: float
) -> list[int]:
    """Greedy non-maximum suppression: of what overlaps within a group, the first stays.

    Args:
        boxes: ``(n, 4)``, best first.
        groups: Of each box; one of ``None`` neither suppresses nor is suppressed.
        overlap: The largest intersection over union that two boxes of a group may have.

    Returns:
        Rows that stay, rising.

    Example:
        >>> from keras_featx.gallery.regions import suppress
        >>> suppress([[0, 0, 10, 10], [0, 1, 10, 11], [0, 1, 10, 11]], ["ant", "ant", "bee"], 0.5)
        [0, 2]
    """
    import tensorflow as tf

    boxes = np.asarray(boxes, "float32").reshape(-1, 4)
    kept = [row for row, group in enumerate(groups) if group is None]
    for group in dict.fromkeys(groups):
        rows = np.array([row for row, other in enumerate(groups) if other == group], np.int64)
        if group is not None:
            corners = boxes[rows][:, [1, 0, 3, 2]]
            scores = np.arange(len(rows), 0, -1, dtype="float32")
            stay = tf.image.non_max_suppression(corners, scores, len(rows), overlap)
            kept += rows[stay.numpy()].tolist()
    return sorted(kept)
