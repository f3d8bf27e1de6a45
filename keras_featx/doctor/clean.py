"""Lists without the rows that were found bad, and what was left out and why."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_featx.data import files
from keras_featx.data.outputs import write_bytes
from keras_featx.doctor.findings import Finding, Part
from keras_featx.errors import ConfigError, RunError


@dataclass(frozen=True)
class Target:
    """A list to write.

    Attributes:
        source: The old list, or the folder.
        clean: The new list.
        left_out: What was left out and why.
        parts: Names of the parts that come from this source.
    """

    source: str
    clean: str
    left_out: str
    parts: tuple[str, ...]


def targets(parts: Iterable[tuple[str, dict[str, Any]]], force: bool) -> list[Target]:
    """Where the cleaned lists go: beside the old ones; lists of one file are cleaned together.

    Args:
        parts: Name and data set of each part.
        force: Overwrite what is there.

    Raises:
        ConfigError: There is something already, or the data set is no list and no folder.
    """
    named: dict[tuple[str, str], list[str]] = {}
    for part, dataset in parts:
        source = dataset.get("cls_label_path")
        if source is None and dataset["name"] == "ClassFolders":
            source = dataset["image_root"].rstrip("/")
        if source is None or files.is_remote(source):
            raise ConfigError(
                "--write-clean: expected lists or folders on disk, got "
                f"{source or dataset['name']} as {part}"
            )
        stem, extension = (source, ".csv")
        if "cls_label_path" in dataset:
            stem, extension = os.path.splitext(source)
        named.setdefault((source, stem + ".clean" + (extension or ".txt")), []).append(part)
    found = []
    for (source, clean), names in named.items():
        left_out = clean.rpartition(".clean.")[0] + ".left_out.csv"
        found.append(Target(source, clean, left_out, tuple(names)))
        for path in (clean, left_out):
            if os.path.exists(path) and not force:
                raise ConfigError(f"--write-clean: {path} is there already (--force overwrites)")
    return found


def write_clean(
    target: Target, parts: Sequence[Part], findings: Iterable[Finding], kinds: set[str]
) -> dict[str, Any]:
    """Write a cleaned list, and a CSV file of row, path, kind and reason of what it lacks.

    Args:
        target: Where to.
        parts: The parts of this source.
        findings: All that was found.
        kinds: Whose rows are left out.

    Returns:
        ``list``, ``left_out``, ``rows`` and ``rows_left_out``; ``dataset``, as a config names it.

    Raises:
        RunError: If nothing would be left of a part.
    """
    folder = _is_folder(parts[0])
    bad: dict[tuple[int, str], Finding] = {}
    for finding in findings:
        image = finding.image
        path = image.path if folder else ""
        if finding.kind in kinds and image.part in target.parts and (image.row or path):
            bad.setdefault((image.row, path), finding)
    images = {part.name: _images_left(part, bad, target) for part in parts}
    if folder:
        text = _of_folder(parts[0], {path for _, path in bad})
    else:
        delimiter = parts[0].dataset.get("delimiter", ",")
        records = csv_records(delimiter) if parts[0].dataset["name"] == "CSV" else single_lines
        text = _without(target.source, {row for row, _ in bad}, records)
    write_bytes(Path(target.left_out), _table(bad).encode(errors="backslashreplace"))
    write_bytes(Path(target.clean), text)
    return {
        "list": target.clean,
        "left_out": target.left_out,
        "rows_left_out": len(bad),
        "images": images,
        "datasets": {part.name: _dataset(part, target) for part in parts},
    }


def _is_folder(part: Part) -> bool:
    return "cls_label_path" not in part.dataset


def _images_left(part: Part, bad: dict, target: Target) -> int:
    """How many images a part keeps; refuses to leave none."""
    samples = part.samples
    if _is_folder(part):
        paths = {path for _, path in bad}
        left = sum(path not in paths for path in samples.paths)
    else:
        rows = {row for row, _ in bad}
        left = sum(row not in rows for row in samples.rows.tolist())
    if not left:
        raise RunError(
            f"--write-clean: nothing would be left of {part.name} ({target.source}); "
            f"the first reason: {next(iter(bad.values())).what}"
        )
    return left


def _without(
    source: str, rows: set[int], records: Callable[[list[str]], list[tuple[int, int]]]
) -> bytes:
    """The list without these rows, all else byte for byte."""
    data = files.read_bytes(source)
    lines = data.split(b"\n")
    kept = []
    for first, last in records(data.decode("utf-8-sig").split("\n")):
        if first not in rows and last not in rows:
            kept += lines[first - 1 : last]
    return b"\n".join(kept)


def single_lines(lines: list[str]) -> list[tuple[int, int]]:
    """First and last line of each row of a list: the line itself, from 1."""
    return [(number, number) for number in range(1, len(lines) + 1)]


def csv_records(delimiter: str) -> Callable[[list[str]], list[tuple[int, int]]]:
    """First and last line of each row of a CSV file, whose values may hold line breaks.

    Example:
        >>> from keras_featx.doctor.clean import csv_records
        >>> csv_records(",")(["path,label", '"a', 'b",1', "c,2"])
        [(1, 1), (2, 3), (4, 4)]
    """

    def records(lines: list[str]) -> list[tuple[int, int]]:
        reader = csv.reader((x.rstrip("\r") for x in lines), delimiter=delimiter, strict=True)
        found, last = [], 0
        for _ in reader:
            found.append((last + 1, reader.line_num))
            last = reader.line_num
        return found

    return records


def _of_folder(part: Part, paths: set[str]) -> bytes:
    """A CSV list of the images of a folder but for these."""
    samples, root = part.samples, part.dataset["image_root"].rstrip("/")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "label"])
    for path, label in zip(samples.paths, samples.labels.tolist(), strict=True):
        if path not in paths:
            writer.writerow([path[len(root) + 1 :], samples.names[label]])
    return buffer.getvalue().encode()


def _dataset(part: Part, target: Target) -> dict[str, Any]:
    """The cleaned list as a config names it."""
    if not _is_folder(part):
        return {**part.dataset, "cls_label_path": target.clean}
    root = part.dataset["image_root"]
    # Folders may be called 001, which is a name all the same.
    return {"name": "CSV", "image_root": root, "cls_label_path": target.clean, "labels": "names"}


def _table(bad: dict[tuple[int, str], Finding]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["row", "path", "kind", "reason"])
    for _, finding in sorted(bad.items()):
        image = finding.image
        writer.writerow([image.row or "", image.path, finding.kind, finding.what])
    return buffer.getvalue()
