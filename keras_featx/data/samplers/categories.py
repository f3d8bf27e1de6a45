"""Batches of identities of one category."""

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from keras_featx.data.samplers.order import KEY, Order, hashed, permuted
from keras_featx.data.samplers.pk import Part, make_order, make_plan, pick
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError

log = logging.getLogger(__name__)


def category_aware(
    samples: Samples,
    seed: int,
    *,
    category_path: str,
    batch_size: int = 256,
    sample_per_id: int = 4,
    sample_method: Literal["sample_avg_prob", "id_avg_prob"] = "sample_avg_prob",
    drop_small: bool = False,
) -> Order:
    r"""As ``PKSampler``, but the identities of a batch are of one category, which makes it harder.

    A step's category is ``c`` with probability ``images of c / images``, exactly; of the steps of
    a pass, ``c`` gets that share, rounded up or down. Within a category identities come as
    ``pk_sampler`` draws them from a whole list. A category with fewer than P identities gives all
    of them, and the batch is filled up from the other categories by weighted draws; the number of
    such categories is logged.

    Args:
        samples: The training list (:class:`keras_featx.data.samples.Samples`).
        seed: Of every choice, in [0, 2^31).
        category_path: A UTF-8 text file with one ``label category name`` a line, blanks after the
            label: every label of the list once. With ``turned_identities`` the labels are those
            before turning.
        batch_size: Samples per step, over all replicas: a multiple of ``sample_per_id``.
        sample_per_id: K, images of each identity.
        sample_method: How identities are chosen within a category, see ``pk_sampler``.
        drop_small: Leave out identities with fewer than K images.

    Raises:
        ConfigError: As ``pk_sampler``; and on a file of categories that cannot be read, names a
            label twice, lacks one or knows one too many.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from keras_featx.data.samples import Samples
        >>> from keras_featx.data.samplers import category_aware
        >>> samples = Samples("list", list("abcd"), np.arange(4), [1, 2, 3, 4])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "categories.txt")
        ...     _ = file.write_text("0 a bird\n1 a fish\n2 a bird\n3 a fish\n")
        ...     order = category_aware(
        ...         samples, 0, category_path=str(file), batch_size=2, sample_per_id=1
        ...     )
        >>> rows, numbers = order.batch(tf.constant(0, tf.int64))
        >>> sorted(rows.numpy().tolist()) in ([0, 2], [1, 3])
        True
    """
    labels = samples.labels if samples.turns is None else samples.labels // 4
    categories = read_categories(category_path, samples, labels)
    plan = make_plan(
        samples, seed, batch_size, sample_per_id, sample_method, drop_small, categories
    )
    parts = _parts(plan.identities, categories)
    small = int((parts.count.numpy() < plan.p).sum())
    if small:
        log.warning(
            "%d of %d categories have fewer than %d identities; others fill up their batches",
            small,
            len(parts.number),
            plan.p,
        )
    images, steps = len(plan.identities.rows), plan.steps_per_pass
    apart = images // steps

    def choose(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        lap = step // steps
        # Marks on the images in a row by category, as far apart as fits: a category is hit as
        # often as its share says.
        mark = permuted((step % steps)[None], tf.constant(steps, tf.int64), hashed(seed, 7, lap))
        image = (mark * apart + hashed(seed, 8, lap) % images) % images
        which = tf.searchsorted(parts.images_start, image, "right")[0] - 1
        part = Part(*(each[which] for each in parts))
        turns = (part.images + apart - 1) // apart
        turn = lap * turns + (image[0] - part.images_start) // apart
        return pick(plan, part, turn, step)

    return make_order(plan, choose)


def _parts(identities, categories: np.ndarray) -> Part:
    """The categories as parts: a :class:`Part` of vectors."""
    starts = identities.starts.numpy()
    of_identity = categories[identities.rows.numpy()[starts]]
    first = np.flatnonzero(np.diff(of_identity, prepend=-1))
    columns = (
        of_identity[first],
        first,
        np.diff(first, append=len(starts)),
        starts[first],
        np.diff(starts[first], append=len(identities.rows)),
    )
    return Part(*(tf.constant(column, tf.int64) for column in columns))


def read_categories(file: str, samples: Samples, labels: np.ndarray) -> np.ndarray:
    """The category of each image, numbered from 0 in the order the file names them.

    Args:
        file: See :func:`category_aware`.
        samples: The list, for messages.
        labels: The label of each image, as the file names it.

    Returns:
        int64 ``(images,)``.
    """
    known = np.zeros(labels.max() + 1, bool)
    known[labels] = True
    names: dict[str, int] = {}
    category = np.full(len(known), -1)
    row_of = np.zeros(len(known), int)
    for number, label, name in _rows(file):
        if label >= len(known) or not known[label]:
            raise ConfigError(f"{file}:{number}: label {label} has no image in {samples.source}")
        if row_of[label]:
            raise ConfigError(
                f"{file}:{number}: label {label} stands twice, first in row {row_of[label]}"
            )
        row_of[label] = number
        category[label] = names.setdefault(name, len(names))
    categories = category[labels]
    missing = np.flatnonzero(categories < 0)
    if len(missing):
        i = int(missing[0])
        count = len(np.unique(labels[missing]))
        raise ConfigError(
            f"{samples.source}:{samples.rows[i]}: label {labels[i]} has no category in {file} "
            f"({count} such)"
        )
    return categories


def _rows(file: str):
    """Row number, label and category of each line that is not empty."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{KEY}.category_path: {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: expected UTF-8 text: {error.reason}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        label, *name = line.split(None, 1)
        if not name or not label.isascii() or not label.isdigit():
            raise ConfigError(
                f"{file}:{number}: expected 'label category name', got {line.strip()!r}"
            )
        yield number, int(label), name[0].strip()
