"""The images of each identity as flat arrays, and how an identity's images come round."""

import logging
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_featx.data.samplers.order import KEY, hashed, permuted
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError

log = logging.getLogger(__name__)


class Identities(NamedTuple):
    """Identities and their images, one identity after the other.

    Attributes:
        labels: The label of each identity, int64 NumPy ``(identities,)``.
        rows: Rows of the list, by identity: int32 ``(images,)``.
        starts: Where each identity's rows begin: int64 ``(identities,)``.
        counts: Images of each identity: int64 ``(identities,)``.
    """

    labels: np.ndarray
    rows: tf.Tensor
    starts: tf.Tensor
    counts: tf.Tensor

    def images(self, identity: tf.Tensor, visit: tf.Tensor, k: int, seed: int) -> tf.Tensor:
        """The ``k`` images an identity shows at its ``visit``-th turn, ``(n * k,)`` rows.

        A lap of ``visits_per_lap`` turns deals a permutation of the images out in groups of
        ``k``. Where ``k`` does not divide their number, the last group is filled up with images
        of the first; where they are fewer than ``k``, they are repeated, each as often as
        another or once more.

        Args:
            identity: int64 ``(n,)``.
            visit: int64 ``(n,)``, from 0.
            k: Images per turn.
            seed: Of the permutations.
        """
        count = tf.gather(self.counts, identity)
        laps = self.visits_per_lap(identity, k)
        key = hashed(seed, 1, identity, visit // laps)
        place = (visit % laps * k)[:, None] + tf.range(k, dtype=tf.int64)
        count, key = (tf.repeat(each, k) for each in (count, key))
        place = permuted(tf.reshape(place, [-1]) % count, count, key)
        rows = tf.gather(self.rows, tf.repeat(tf.gather(self.starts, identity), k) + place)
        return tf.cast(rows, tf.int64)

    def visits_per_lap(self, identity: tf.Tensor, k: int) -> tf.Tensor:
        """Turns of ``k`` images in which an identity has shown all of them."""
        return (tf.gather(self.counts, identity) + k - 1) // k


def by_identity(
    samples: Samples, keep_from: int = 1, parts: np.ndarray | None = None
) -> Identities:
    """Sort the rows of a list by identity.

    Args:
        samples: The list.
        keep_from: Leave out identities with fewer images.
        parts: A number for each row, the same for all rows of an identity: identities are sorted
            by it first, then by label.
    """
    keys = samples.labels
    if parts is not None:
        keys = parts * samples.class_num + keys
    rows = np.argsort(keys, kind="stable").astype(np.int32)
    keys = keys[rows]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    counts = np.diff(starts, append=len(keys))
    if keep_from > 1:
        kept = counts >= keep_from
        rows = rows[np.repeat(kept, counts)]
        counts = counts[kept]
        starts = np.cumsum(counts) - counts
    labels = samples.labels[rows[starts]]
    return Identities(
        labels, tf.constant(rows), tf.constant(starts, tf.int64), tf.constant(counts, tf.int64)
    )


def identities_per_batch(batch_size: int, sample_per_id: int) -> int:
    """P, checked: ``batch_size`` is P identities times ``sample_per_id`` images."""
    if sample_per_id < 1:
        raise ConfigError(f"{KEY}.sample_per_id: expected at least 1, got {sample_per_id}")
    if batch_size < 1 or batch_size % sample_per_id:
        raise ConfigError(
            f"{KEY}.batch_size: expected a multiple of sample_per_id {sample_per_id}, "
            f"got {batch_size}"
        )
    return batch_size // sample_per_id


def check_and_count(
    identities: Identities, samples: Samples, p: int, sample_per_id: int, drop_small: bool
) -> None:
    """Refuse a batch of more identities than there are, and log what is unusual about them."""
    found = len(identities.labels)
    if found < p:
        kept = f" with at least {sample_per_id} images" if drop_small else ""
        raise ConfigError(
            f"{KEY}.batch_size: expected at most {found * sample_per_id}, sample_per_id "
            f"{sample_per_id} for each of the {found} identities{kept} of {samples.source}, "
            f"got {p * sample_per_id}"
        )
    if drop_small:
        left_out = len(np.unique(samples.labels)) - found
        if left_out:
            log.warning(
                "%d identities have fewer than %d images; they are left out",
                left_out,
                sample_per_id,
            )
        return
    small = int((identities.counts.numpy() < sample_per_id).sum())
    if small:
        log.warning(
            "%d identities have fewer than %d images; their images repeat within a batch",
            small,
            sample_per_id,
        )
