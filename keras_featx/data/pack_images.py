"""The images that are packed: read, looked at, shrunk if asked for, with what is known of them."""

from typing import Any

import tensorflow as tf

from keras_featx.data import encoding, faults, files
from keras_featx.data.pack_plan import Options
from keras_featx.data.pack_shards import Image
from keras_featx.data.samples import Samples
from keras_featx.errors import RunError


def size_of(samples: Samples, row: int) -> int:
    """About how many bytes an image takes.

    Raises:
        RunError: If there is no such file, with its row.
    """
    if samples.pixels is not None:
        return samples.pixels[row].nbytes
    if samples.spans is not None:
        return int(samples.spans[row, 1])
    try:
        return files.size_of(samples.paths[row])
    except OSError as error:
        raise _failure(samples, row, error.strerror) from None


def encoded(samples: Samples, titles: list[str], options: Options, row: int) -> Image:
    """An image as it is packed.

    Raises:
        RunError: If it cannot be used, with its row.
    """
    box = None if samples.boxes is None else samples.boxes[row].tolist()
    try:
        data = _read(samples, row)
        kind = encoding.kind_of(data)
        if kind is None and data:
            what = f"expected JPEG, PNG, GIF, BMP or WebP, got {data[:8].hex(' ')}"
            raise _failure(samples, row, what)
        if not data:
            raise _failure(samples, row, "the file is empty")
        if options.short_side is not None:
            common = (options.short_side, options.quality, options.lossless)
            data, box = encoding.smaller(data, box, *common)
            kind = encoding.kind_of(data)
    except (OSError, tf.errors.OpError, ValueError) as error:
        reason = faults.reason_of(samples, row) or str(error).splitlines()[0]
        raise _failure(samples, row, reason) from None
    return Image(data, kind, _facts(samples, titles, row, box))


def _read(samples: Samples, row: int) -> bytes:
    if samples.pixels is not None:
        return encoding.encode_png(samples.pixels[row])
    if samples.spans is not None:
        return files.read_range(samples.paths[row], *samples.spans[row].tolist())
    return files.read_bytes(samples.paths[row])


def _facts(samples: Samples, titles: list[str], row: int, box: list[int] | None) -> dict[str, Any]:
    label = int(samples.labels[row])
    facts = {"path": titles[row], "label": label}
    if samples.names is not None:
        facts["name"] = samples.names[label]
    columns = {"id": samples.ids, "camera": samples.cameras, "group": samples.groups}
    for name, column in columns.items():
        if column is not None:
            value = column[row].item() if hasattr(column[row], "item") else column[row]
            facts[name] = value if isinstance(value, int) else str(value)
    if box is not None:
        facts["box"] = list(box)
    return facts


def _failure(samples: Samples, row: int, reason: str) -> RunError:
    return RunError(f"{samples.source}:{samples.rows[row]}: {samples.paths[row]}: {reason}")
