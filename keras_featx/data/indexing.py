"""Shards without an index: all of them are read through once, several at a time."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_featx import components
from keras_featx.data import files as file_system
from keras_featx.data import outputs, shards
from keras_featx.data.labels import class_names, read_labels
from keras_featx.data.samples import Problem, Samples, refuse
from keras_featx.errors import ConfigError
from keras_featx.progress import progress

log = logging.getLogger(__name__)

_OTHER_KEYS = ("files", "class_id_map_file", "index")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of a shard.

    Attributes:
        number: In its shard, from 1.
        span: Offset and length of the encoded image in bytes.
        label: A number, or a text.
        name: Of its class.
        id: If asked for.
        camera: If asked for.
        group: If asked for.
        box: Left, top, right, bottom in pixels, if asked for.
    """

    number: int
    span: tuple[int, int]
    label: int | str
    name: str | None = None
    id: int | str | None = None
    camera: int | str | None = None
    group: int | str | None = None
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong with an image of a shard; ``number`` from 1."""

    number: int
    what: str


# From a shard's path to what it holds, in order.
Walk = Callable[[str], Iterable[Entry | Fault]]


@dataclass(frozen=True)
class Request:
    """What a config asks for, beside the shards.

    Attributes:
        labels: ``numbers``, ``names`` or ``auto``; see :func:`~.labels.read_labels`.
        label_offset: The smallest label, where they are numbers.
        names_file: With the names of the labels; see :func:`~.labels.class_names`.
        index: Where to keep what reading the shards tells.
        keys: All that decides what is found in a shard.
    """

    labels: str = "auto"
    label_offset: int = 0
    names_file: str | None = None
    index: str | None = None
    keys: dict[str, Any] = field(default_factory=dict)


def keys_of(dataset: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of a data set of shards that decide what is found in a shard, with defaults."""
    schema = components.parameters("dataset", dataset, "dataset")
    keys = {name: value.default for name, value in schema.items() if name not in _OTHER_KEYS}
    return keys | {name: value for name, value in (arguments or {}).items() if name in keys}


def samples_of_shards(
    source: str,
    paths: list[str],
    kind: str,
    walk: Walk,
    request: Request,
    problems: list[Problem] | None = None,
) -> Samples:
    """The images of shards, by their index where there is one.

    Args:
        source: What the config names.
        paths: The shards.
        kind: ``tfrecord`` or ``tar``.
        walk: Reads a shard.
        request: What the config asks for besides.
        problems: Where to put what cannot be used; see :func:`~.samples.load_samples`.
    """
    samples = _by_index(source, paths, request)
    if samples is None:
        index, numbers = _read(source, paths, kind, walk, request, problems)
        samples = index.samples(paths, source)
        if problems:
            samples = Samples(**{**vars(samples), "rows": numbers})
    if request.names_file is None:
        return samples
    if samples.names is not None:
        raise ConfigError(
            f"class_id_map_file: expected with labels that are numbers; those of {source} have "
            "names already"
        )
    names = class_names(request.names_file, samples.class_num)
    return Samples(**{**vars(samples), "names": names})


def _by_index(source: str, paths: list[str], request: Request) -> Samples | None:
    given = request.index
    path = given or shards.index_of_packed(paths)
    if path is None or not file_system.is_file(path):
        return None
    index = shards.read_index(path)
    keys = dict.fromkeys(request.keys) | index.keys  # one it lacks was not known when it was made
    if keys != request.keys:
        if given is None:
            log.info("%s has what other keys lead to; the shards are read", path)
            return None
        different = min(key for key in keys if keys[key] != request.keys.get(key))
        raise ConfigError(
            f"{path}: expected an index made with {different}: "
            f"{request.keys.get(different)!r}, got {keys[different]!r}: remove it to "
            "have the shards read"
        )
    names = _short(paths) if given else [os.path.basename(path) for path in paths]
    return shards.indexed_samples(path, index, dict(zip(names, paths, strict=True)), source)


def _short(paths: list[str]) -> list[str]:
    """The paths below the folder that holds them all, so that a set can be moved."""
    folders = {os.path.dirname(path) for path in paths}
    if len(folders) == 1:
        return [os.path.basename(path) for path in paths]
    common = os.path.commonprefix([f"{folder}/" for folder in folders]).rpartition("/")[0]
    return [path[len(common) :].lstrip("/") for path in paths]


def _read(source, paths, kind, walk, request, problems) -> tuple[shards.Index, np.ndarray]:
    """The index of shards, and the number of each image among all, good or bad, from 1."""
    started = time.monotonic()
    log.info("reading %d shards of %s, as there is no index of them", len(paths), source)
    entries: list[Entry] = []
    shard, numbers = [], []
    count = 0
    for i, found in enumerate(_walk_all(paths, walk, stop=problems is None)):
        if not found:
            log.warning("%s: has no images", paths[i])
        for item in found:
            count += 1
            if isinstance(item, Fault):
                refuse(problems, paths[i], item.number, item.what)
            else:
                entries.append(item)
                shard.append(i)
                numbers.append(count)
    if not entries:
        found = f"; {problems[0].source}:{problems[0].row}: {problems[0].what}" if problems else ""
        raise ConfigError(f"{source}: expected images, got none{found}")
    places = [(paths[i], entry.number) for i, entry in zip(shard, entries, strict=True)]
    labels, names, good = _labels(source, entries, places, request, problems)
    entries = [entries[i] for i in good]
    index = shards.Index(
        kind=kind,
        keys=request.keys,
        shards=_short(paths),
        sizes=np.array([file_system.size_of(path) for path in paths], np.int64),
        shard=np.array(shard, np.int64)[good],
        spans=np.array([entry.span for entry in entries], np.int64),
        labels=labels[good],
        names=names,
        ids=_column([entry.id for entry in entries]),
        cameras=_column([entry.camera for entry in entries]),
        groups=_column([entry.group for entry in entries]),
        boxes=None if entries[0].box is None else np.array([e.box for e in entries], np.int64),
    )
    seconds = time.monotonic() - started
    log.info("%d images in %d shards, read in %.1f s", len(entries), len(paths), seconds)
    if request.index and not problems:
        outputs.write_bytes(request.index, index.to_bytes())
        log.info("wrote the index %s", request.index)
    return index, np.array(numbers, np.int64)[good]


def _walk_all(paths: list[str], walk: Walk, stop: bool) -> Iterable[list[Entry | Fault]]:
    """What each shard holds; with ``stop``, only up to its first fault."""

    def one(path: str) -> list[Entry | Fault]:
        found = []
        for item in walk(path):
            found.append(item)
            if stop and isinstance(item, Fault):
                break
        return found

    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        yield from progress(pool.map(one, paths), total=len(paths), what="reading shards")
    finally:
        pool.shutdown(cancel_futures=True)


def _column(values: list) -> np.ndarray | None:
    return None if values[0] is None else np.array(values)


def _labels(
    source: str,
    entries: Sequence[Entry],
    places: Sequence[tuple[str, int]],
    request: Request,
    problems: list[Problem] | None,
) -> tuple[np.ndarray, list[str] | None, np.ndarray]:
    """Labels from 0, their names, and which images have one."""
    values = [entry.label for entry in entries]
    found: list[Problem] = []
    names = None
    if request.labels != "names" and all(isinstance(value, int) for value in values):
        below = (value - request.label_offset for value in values)
        labels = np.array([min(max(value, -1), 2**31) for value in below], np.int64)
    else:
        texts = [str(value) for value in values]
        labels, names = read_labels(texts, np.arange(len(texts)), source, request.labels, found)
        if names is None:
            labels -= request.label_offset
        elif request.label_offset:
            raise ConfigError(
                f"label_offset: expected 0, as the labels of {source} are names, got "
                f"{request.label_offset}"
            )
    bad = {problem.row: problem.what for problem in found}
    for i in np.flatnonzero((labels < 0) | (labels >= 2**31)).tolist():
        what = f"expected a label (a number from {request.label_offset}), got {values[i]!r}"
        bad.setdefault(i, what)
    for i in sorted(bad):
        refuse(problems, *places[i], bad[i])
    good = np.array([i for i in range(len(values)) if i not in bad], np.int64)
    if not len(good):
        raise ConfigError(f"{source}: expected images with a label, got none; {bad[0]}")
    if names is None and entries[0].name is not None:
        names = _class_names(source, [(labels[i], entries[i].name, places[i]) for i in good])
    return labels, names, good


def _class_names(source: str, rows: list[tuple[int, str, tuple[str, int]]]) -> list[str]:
    """The name of each label, where every image brings its own."""
    names: dict[int, str] = {}
    for label, name, (path, number) in rows:
        if names.setdefault(int(label), name) != name:
            raise ConfigError(
                f"{path}:{number}: expected the name {names[int(label)]!r} of label {label}, as "
                f"before, got {name!r}"
            )
    missing = next((label for label in range(max(names) + 1) if label not in names), None)
    if missing is not None:
        raise ConfigError(f"{source}: expected a name for label {missing}, got none")
    first: dict[str, int] = {}
    for label in sorted(names):
        if first.setdefault(names[label], label) != label:
            raise ConfigError(
                f"{source}: expected a name of its own for label {label}, got {names[label]!r}, "
                f"which is label {first[names[label]]}'s"
            )
    return [names[label] for label in range(len(names))]
