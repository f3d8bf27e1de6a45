"""Labels of lists: numbers from 0, or names that are numbered in sorted order."""

import re
from collections.abc import Sequence

import numpy as np

from keras_featx.data import files
from keras_featx.data.samples import Problem, refuse
from keras_featx.errors import ConfigError

_LIKE_A_NUMBER = re.compile(r"[-+]?[0-9][0-9_.]*(?:[eE][-+]?[0-9]+)?")


def read_labels(
    texts: Sequence[str],
    rows: np.ndarray,
    source: str,
    how: str = "auto",
    problems: list[Problem] | None = None,
) -> tuple[np.ndarray, list[str] | None]:
    """Labels of a list's label column.

    Args:
        texts: The column.
        rows: Row of each in the list, for messages.
        source: The list.
        how: ``numbers``, ``names``, or ``auto``: names where no label looks like a number.
        problems: Where to put rows without a label; see :func:`~.samples.load_samples`.

    Returns:
        int64 labels, -1 for a row that went to ``problems``; and the names in order of their
        number, or ``None`` where labels are numbers.
    """
    known = set(texts)
    if how == "auto":
        # A list of numbers with one slip must not become a list of names.
        how = "numbers" if any(map(_LIKE_A_NUMBER.fullmatch, known)) else "names"
    if how == "names":
        return _names(texts, rows, source, problems)
    if all(text.isascii() and text.isdigit() and len(text) < 10 for text in known):
        number = {text: int(text) for text in known}
        return np.fromiter(map(number.__getitem__, texts), np.int64, len(texts)), None
    labels = np.full(len(texts), -1, np.int64)
    for i, text in enumerate(texts):
        if text.isascii() and text.isdigit() and int(text) < 2**31:
            labels[i] = int(text)
        else:
            what = f"expected a label (a number from 0), got {text!r}"
            refuse(problems, source, int(rows[i]), what)
    return labels, None


def _names(texts, rows, source, problems) -> tuple[np.ndarray, list[str]]:
    bad = {text for text in set(texts) if not text.strip() or "\0" in text}
    for i, text in enumerate(texts if bad else ()):
        if text in bad:
            what = f"expected a label (a number from 0, or a name), got {text!r}"
            refuse(problems, source, int(rows[i]), what)
    names = sorted(set(texts) - bad)
    number = {name: i for i, name in enumerate(names)}
    return np.fromiter((number.get(t, -1) for t in texts), np.int64, len(texts)), names


def class_names(file: str, class_num: int) -> list[str]:
    """Names of the labels 0 to ``class_num`` - 1 from a file with one ``label name`` a line.

    The name is all that follows the first blank; class centres are stored and found again by it.

    Raises:
        ConfigError: A label or a name that comes twice, with both rows; a label without a name, or
            outside the list's.
    """
    rows, first = {}, {}
    for number, line in enumerate(files.read_lines(file), start=1):
        if not line.strip():
            continue
        text, _, name = line.strip().partition(" ")
        if not text.isascii() or not text.isdigit() or int(text) >= 2**31:
            raise ConfigError(f"{file}:{number}: expected a label (a number from 0), got {text!r}")
        label, name = int(text), name.strip()
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
