"""Batches of identities that the network takes for one another."""

from typing import Literal

import numpy as np
import tensorflow as tf

from keras_featx import search
from keras_featx.data.samplers.order import KEY, Order
from keras_featx.data.samplers.pk import make_order, make_plan, pick, random_visit, whole_list
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError


def hard_class(
    samples: Samples,
    seed: int,
    *,
    batch_size: int = 256,
    sample_per_id: int = 4,
    sample_method: Literal["sample_avg_prob", "id_avg_prob"] = "sample_avg_prob",
    drop_small: bool = False,
) -> Order:
    """As ``PKSampler``, but a batch's identities are one and the P - 1 nearest to it.

    The first identity of a batch is the one ``pk_sampler`` puts first, so with its probabilities;
    the others follow in the order of the cosine of their class centres with its own. Each shows K
    of its images, drawn at random. Until ``Order.refresh`` is given class centres, batches are
    those of ``pk_sampler``: before centres mean anything, neither do neighbours. A batch is a
    function of seed, step and the centres given last.

    Args:
        samples: The training list (:class:`keras_featx.data.samples.Samples`).
        seed: Of every choice, in [0, 2^31).
        batch_size: Samples per step, over all replicas: a multiple of ``sample_per_id``.
        sample_per_id: K, images of each identity.
        sample_method: How the first identity is chosen, see ``pk_sampler``.
        drop_small: Leave out identities with fewer than K images.

    Raises:
        ConfigError: As ``pk_sampler``; and on a batch of one identity.

    Example:
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from keras_featx.data.samples import Samples
        >>> from keras_featx.data.samplers import hard_class
        >>> samples = Samples("list", list("abcd"), np.arange(4), [1, 2, 3, 4])
        >>> order = hard_class(samples, 0, batch_size=2, sample_per_id=1)
        >>> order.refresh(np.array([[1.0, 0.1], [0.1, 1.0], [1.0, 0.2], [0.2, 1.0]]))
        >>> rows, numbers = order.batch(tf.constant(0, tf.int64))
        >>> sorted(rows.numpy().tolist()) in ([0, 2], [1, 3])
        True
    """
    plan = make_plan(samples, seed, batch_size, sample_per_id, sample_method, drop_small)
    if plan.p < 2:
        raise ConfigError(
            f"{KEY}.batch_size: expected at least {2 * sample_per_id}, sample_per_id "
            f"{sample_per_id} for each of two identities, got {batch_size}"
        )
    whole, labels = whole_list(plan.identities), plan.identities.labels
    tables = []  # none, or the last

    def refresh(centres: np.ndarray) -> None:
        if np.ndim(centres) != 2 or len(centres) <= labels.max():
            raise ValueError(
                f"centres: expected (classes, embedding_size) with at least {labels.max() + 1} "
                f"classes, got {np.shape(centres)}"
            )
        table = neighbour_table(np.asarray(centres)[labels], plan.p - 1)
        tables[:] = [tf.constant(table)]

    def choose(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        identity, visit = pick(plan, whole, step, step)
        if not tables:
            return identity, visit
        near = tf.cast(tables[0][identity[0]], tf.int64)
        lap = visit[0] // plan.identities.visits_per_lap(identity[0], plan.k)
        near_visit = random_visit(plan, near, lap, step)
        return tf.concat([identity[:1], near], 0), tf.concat([visit[:1], near_visit], 0)

    return make_order(plan, choose, refresh)


def neighbour_table(centres: np.ndarray, size: int) -> np.ndarray:
    """The other classes nearest to each, by the cosine of their centres.

    The search is exact: its time grows with the square of the number of classes.

    Args:
        centres: ``(classes, embedding_size)``, of any norm.
        size: Neighbours of each; more than there are means all.

    Returns:
        int32 ``(classes, min(size, classes - 1))``, nearest first; ties go to the lower class.

    Raises:
        ValueError: On centres that are not finite.

    Example:
        >>> import numpy as np
        >>> from keras_featx.data.samplers import neighbour_table
        >>> neighbour_table(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]), 1).tolist()
        [[2], [2], [0]]
    """
    centres = np.asarray(centres, np.result_type(centres, np.float32))
    if not np.isfinite(centres).all():
        raise ValueError("centres: expected finite numbers")
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    unit = centres / np.maximum(norms, np.finfo(centres.dtype).tiny)
    size = min(size, len(centres) - 1)
    nearest = search.nearest(unit, unit, size + 1)[1]
    # Of equal centres, one may come before the class itself, or push it out.
    itself = nearest == np.arange(len(centres))[:, None]
    itself[~itself.any(axis=1), -1] = True
    return nearest[~itself].reshape(len(centres), size).astype(np.int32)
