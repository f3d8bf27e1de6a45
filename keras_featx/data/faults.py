"""Images that cannot be used: which one it was, and how training goes on without it."""

import csv
import io
import logging
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_featx import images
from keras_featx.data.samples import Samples, read_image
from keras_featx.errors import RunError

log = logging.getLogger(__name__)

BOX = "expected a box inside the image, got left, top, right, bottom"


class Skipped:
    """The bad images that training has met and skipped.

    Args:
        samples: The training images.
        max_fraction: Of the images that may be bad; one more is an error.
        file: A CSV file that gets a line for each: row, image, reason. What it holds of an
            earlier run counts.
    """

    def __init__(self, samples: Samples, max_fraction: float, file: Path | None = None):
        self.samples = samples
        self.max_fraction = max_fraction
        self.file = file
        self.error: RunError | None = None
        self._allowed = max_fraction * len(np.unique(samples.rows))
        self._rows: set[int] = set()  # of the list: a turned image is one image
        self._lock = threading.Lock()
        if file is not None and file.is_file():
            with open(file, newline="", encoding="utf-8") as lines:
                self._rows = {int(line["row"]) for line in csv.DictReader(lines)}

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, rows: np.ndarray) -> None:
        """Take note of rows that could not be used."""
        with self._lock:
            for row in sorted(rows.tolist()):
                number = int(self.samples.rows[row])
                if number in self._rows:
                    continue
                self._rows.add(number)
                title, reason = self.samples.title(row), reason_of(self.samples, row)
                log.warning("skipped %s: %s", title, reason)
                self._write(number, title, reason)
                if len(self) > self._allowed:
                    self.error = RunError(
                        f"DataLoader.Train.max_bad_fraction: {len(self)} images of "
                        f"{self.samples.source} cannot be used, the last {title}: {reason}; "
                        f"expected at most a fraction of {self.max_fraction} of "
                        f"{len(np.unique(self.samples.rows))}"
                    )
                    raise self.error

    def _write(self, number: int, title: str, reason: str) -> None:
        if self.file is None:
            return
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        if not self.file.exists():
            writer.writerow(["row", "image", "reason"])
        writer.writerow([number, title, reason])
        with open(self.file, "a", newline="", encoding="utf-8") as file:
            file.write(buffer.getvalue())


def guarded(
    rows: tf.data.Dataset, load: Callable[..., tf.Tensor], shape: tuple[int, ...]
) -> tf.data.Dataset:
    """Load an image for each ``(row, ...)``; where that fails, zeros with ``good`` false.

    Returns:
        Dataset of ``(image, row, good)``, in the order of the rows.
    """

    def one(row: tf.Tensor, *more: tf.Tensor) -> tf.data.Dataset:
        # An error inside a graph cannot be caught; a dataset of one element can leave it out.
        own = tf.data.Dataset.from_tensors((row, *more))
        own = own.map(lambda *key: (tf.ensure_shape(load(*key), shape), key[0], True))
        other = tf.data.Dataset.from_tensors((tf.zeros(shape, tf.uint8), row, False))
        return own.ignore_errors().concatenate(other).take(1)

    return rows.interleave(
        one, cycle_length=16, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def stand_in(
    image: tf.Tensor, row: tf.Tensor, good: tf.Tensor, labels: tf.Tensor, skipped: Skipped
) -> tuple[tf.Tensor, tf.Tensor]:
    """Replace the bad images of a batch by good ones of it, of the same identity where it can be.

    What stands in follows from the batch alone, so that a resumed run gets the same.

    Args:
        image: ``(batch, height, width, 3)``.
        row: ``(batch,)``.
        good: bool ``(batch,)``.
        labels: Of all rows.
        skipped: Takes note of the bad ones.

    Returns:
        Images and rows.
    """

    def replaced() -> tuple[tf.Tensor, tf.Tensor]:
        label = tf.gather(labels, row)
        size = tf.size(row)
        place = tf.range(size)
        # The next good one in the batch, those of the same identity before all others.
        distance = (place[None] - place[:, None]) % size
        distance += size * tf.cast(label[None] != label[:, None], tf.int32)
        distance += 2 * size * tf.cast(~good, tf.int32)[None]
        chosen = tf.where(good, place, tf.argmin(distance, axis=1, output_type=tf.int32))
        note = tf.numpy_function(
            lambda rows: skipped.note(rows) or np.int64(0), [tf.boolean_mask(row, ~good)], tf.int64
        )
        check = tf.debugging.Assert(tf.reduce_any(good), ["no image of a batch can be used"])
        with tf.control_dependencies([note, check]):
            return tf.gather(image, chosen), tf.gather(row, chosen)

    return tf.cond(tf.reduce_all(good), lambda: (image, row), replaced)


def reason_of(samples: Samples, row: int) -> str | None:
    """Why an image cannot be used, or ``None`` if it can."""
    if samples.pixels is not None:
        return _box_fault(samples, row, samples.pixels[row].shape[:2])
    try:
        data = read_image(samples, row)
    except OSError as error:
        return error.strerror
    if not data:
        return "the file is empty"
    try:
        size = images.decode(tf.constant(data)).shape[:2]
    except tf.errors.OpError as error:
        return re.sub(r"^\{\{.*?\}\} ", "", error.message.splitlines()[0]).split(" [Op:")[0]
    return _box_fault(samples, row, size)


def _box_fault(samples: Samples, row: int, size: tuple[int, int]) -> str | None:
    if samples.boxes is None:
        return None
    box = samples.boxes[row].tolist()
    if box[3] <= size[0] and box[2] <= size[1]:
        return None
    return f"{BOX} {box} of an image of height, width {list(size)}"


def first_bad(samples: Samples) -> tuple[int, str] | None:
    """The first row that cannot be used, with the reason; all cores look for it."""
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(lambda row: reason_of(samples, row), range(len(samples)))
        for row, reason in enumerate(reasons):
            if reason is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                return row, reason
    return None


def explain(error: Exception, samples: Samples) -> Exception:
    """A TensorFlow error from reading images as one that names the image, where one is bad.

    A graph stops with an error that does not name the file; this looks for it.
    """
    found = first_bad(samples)
    if found is None:
        return error
    title, reason = samples.title(found[0]), found[1]
    expected = "" if reason.startswith(BOX) else "expected a decodable image: "
    return RunError(f"{samples.source}: {title}: {expected}{reason}")
