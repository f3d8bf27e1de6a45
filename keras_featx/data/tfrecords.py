"""TFRecord files of ``tf.train.Example``: found and checked once, then read image by image."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from keras_featx import components
from keras_featx.data import examples, indexing, records, shards
from keras_featx.data import files as file_system
from keras_featx.data.indexing import Entry, Fault
from keras_featx.data.lists import Problems
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError

_SIZE_KEYS = ("image/height", "image/width")


def tfrecords(
    problems: Problems = None,
    *,
    files: str,
    image_key: str = "image/encoded",
    label_key: str = "image/class/label",
    labels: Literal["auto", "numbers", "names"] = "auto",
    label_offset: int = 0,
    name_key: str | None = None,
    id_key: str | None = None,
    camera_key: str | None = None,
    group_key: str | None = None,
    box_keys: tuple[str, ...] | None = None,
    box_unit: Literal["pixels", "fractions"] = "pixels",
    class_id_map_file: str | None = None,
    index: str | None = None,
) -> Samples:
    """TFRecord files of ``tf.train.Example``, a record an image.

    Args:
        problems: Where to put records that cannot be used; see :func:`~.samples.load_samples`.
        files: A file, a folder of files with ``.tfrec`` in their names, or a pattern such as
            ``train-*`` or ``train-{00..15}.tfrecord``.
        image_key: The feature with the encoded image.
        label_key: The feature with the label: a number or a text.
        labels: ``numbers``, ``names``, or ``auto``: names where no label looks like a number.
        label_offset: The smallest label; TensorFlow's own sets often count from 1.
        name_key: A feature with the name of the class.
        id_key: A feature with an image id.
        camera_key: A feature with a camera.
        group_key: A feature with a group.
        box_keys: The feature with left, top, right, bottom, or four features of one number each.
        box_unit: Of boxes; fractions are of ``image/width`` and ``image/height``.
        class_id_map_file: Names of the labels; see :func:`~.labels.class_names`.
        index: A file to keep the places of the images in, ``.npz``: made when it is missing,
            so that the records are read through only once.

    Raises:
        ConfigError: With the file and the number of the record, what was expected and what came.
    """
    keys = indexing.keys_of("TFRecord", locals())
    if box_keys is not None:
        keys["box_keys"] = list(box_keys)  # as an index has it
        if len(box_keys) not in (1, 4):
            raise ConfigError(
                f"{files}: box_keys: expected 1 or 4 features, got {keys['box_keys']}"
            )
    request = indexing.Request(labels, label_offset, class_id_map_file, index, keys)
    found = shards.find(files, ".tfrec")
    return indexing.samples_of_shards(
        files, found, "tfrecord", lambda path: _walk(path, keys), request, problems
    )


def _walk(path: str, keys: dict) -> Iterator[Entry | Fault]:
    with file_system.opened(path) as file:
        for record in records.walk(file, file_system.size_of(path)):
            if record.fault:
                yield Fault(record.number, record.fault)
                continue
            try:
                yield _entry(record, keys)
            except ValueError as error:
                yield Fault(record.number, str(error))


def _entry(record: records.Record, keys: dict) -> Entry:
    try:
        features = examples.read(record.data)
    except ValueError as error:
        raise ValueError(f"expected a tf.train.Example, got {error}") from None
    first, end = _one(record, features, keys["image_key"], "bytes")
    if first == end:
        raise ValueError(f"expected an encoded image in {keys['image_key']!r}, got 0 bytes")

    def optional(key: str) -> int | str | None:
        return None if keys[key] is None else _plain(record, features, keys[key])

    return Entry(
        record.number,
        (record.offset + first, end - first),
        _plain(record, features, keys["label_key"]),
        name=None if keys["name_key"] is None else str(optional("name_key")),
        id=optional("id_key"),
        camera=optional("camera_key"),
        group=optional("group_key"),
        box=None if keys["box_keys"] is None else _box(record, features, keys),
    )


def _one(record, features, key: str, *kinds: str):
    """The only value of a feature."""
    if key not in features:
        raise ValueError(
            f"expected a feature {key!r}, got {sorted(features)}"
            f"{components.closest(key, list(features))}"
        )
    feature = features[key]
    if feature.kind not in kinds or len(feature.values) != 1:
        raise ValueError(
            f"expected one value ({' or '.join(kinds)}) in {key!r}, got {len(feature.values)} of "
            f"{feature.kind or 'no kind'}"
        )
    return feature.values[0]


def _plain(record, features, key: str) -> int | str:
    """The only value of a feature, a number or a text."""
    value = _one(record, features, key, "int64", "bytes")
    if isinstance(value, int):
        return value
    try:
        return record.data[slice(*value)].decode()
    except UnicodeDecodeError:
        raise ValueError(f"expected UTF-8 text in {key!r}, got other bytes") from None


def _box(record, features, keys: dict) -> tuple[int, int, int, int]:
    names = keys["box_keys"]
    if len(names) == 4:
        box = [_one(record, features, key, "int64", "float") for key in names]
    else:
        feature = features.get(names[0], examples.Feature("", []))
        if feature.kind not in ("int64", "float") or len(feature.values) != 4:
            raise ValueError(
                f"expected four numbers in {names[0]!r}, got {len(feature.values)} of "
                f"{feature.kind or 'no kind'}"
            )
        box = feature.values
    left, top, right, bottom = map(float, box)
    if keys["box_unit"] == "fractions":
        height, width = (_one(record, features, key, "int64") for key in _SIZE_KEYS)
        left, top, right, bottom = left * width, top * height, right * width, bottom * height
    elif (left, top, right, bottom) == (0, 0, 0, 0):
        return 0, 0, 0, 0  # the whole image
    if not (0 <= left < right < 2**31 and 0 <= top < bottom < 2**31):
        raise ValueError(f"expected a box left, top, right, bottom with left < right, got {box}")
    # Outward to whole pixels; float32 does not hit them exactly.
    slack = 1e-3
    return (
        int(np.floor(left + slack)),
        int(np.floor(top + slack)),
        int(np.ceil(right - slack)),
        int(np.ceil(bottom - slack)),
    )
