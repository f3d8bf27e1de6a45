"""Batches of P identities with K images each."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

from keras_featx.data.samplers.identities import (
    Identities,
    by_identity,
    check_and_count,
    identities_per_batch,
)
from keras_featx.data.samplers.order import KEY, Order, hashed, permuted
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError

METHODS = ("sample_avg_prob", "id_avg_prob")


def pk_sampler(
    samples: Samples,
    seed: int,
    *,
    batch_size: int = 256,
    sample_per_id: int = 4,
    sample_method: Literal["sample_avg_prob", "id_avg_prob"] = "sample_avg_prob",
    drop_small: bool = False,
) -> Order:
    """Each batch is P identities with K images each.

    K is ``sample_per_id``, P is ``batch_size / sample_per_id``. A batch lists its images identity
    by identity. Identities do not repeat in it, nor do the images of one that has K or more.

    ``id_avg_prob``: each identity is in a batch with probability P / identities. A lap is a random
    order of all identities, cut into batches; those that do not fill one at its end wait. Each
    time it comes, an identity shows the next K of a random order of its images.

    ``sample_avg_prob``: the first identity of a batch is ``i`` with probability
    ``images of i / images``, exactly; each further one likewise among those not in the batch yet.
    So draws the reference, anew for each batch. Here the draws of a pass are made as one
    arrangement, so that an image comes about once a pass: with all images in a row by identity,
    every K-th is marked, from a random one on, and the marks are taken in random order, P to a
    batch. An identity of ``n`` images has ``n / K`` marks, rounded up or down, and shows another K
    images at each. Where two marks of a batch fall on one identity, the second is made up for by a
    draw with the probabilities above, not bound to the marks. What differs from independent
    batches: an identity that came is less likely to come again in the pass, by about K / n.

    An identity of ``n`` images, fewer than K, shows each of them K / n times, rounded up or down.
    Such identities are counted in the log.

    Args:
        samples: The training list (:class:`keras_featx.data.samples.Samples`).
        seed: Of every choice, in [0, 2^31).
        batch_size: Samples per step, over all replicas: a multiple of ``sample_per_id``.
        sample_per_id: K.
        sample_method: As above; the default is the reference's.
        drop_small: Leave out identities with fewer than K images.

    Raises:
        ConfigError: On a batch size that K does not divide, or that asks for more identities than
            there are.

    Example:
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from keras_featx.data.samples import Samples
        >>> from keras_featx.data.samplers import pk_sampler
        >>> samples = Samples("list", list("abcdef"), np.array([0, 0, 1, 1, 2, 2]), [*range(1, 7)])
        >>> order = pk_sampler(samples, 0, batch_size=4, sample_per_id=2)
        >>> rows, numbers = order.batch(tf.constant(0, tf.int64))
        >>> len(set(samples.labels[rows].tolist())), len(set(rows.numpy().tolist()))
        (2, 4)
    """
    plan = make_plan(samples, seed, batch_size, sample_per_id, sample_method, drop_small)
    whole = whole_list(plan.identities)
    return make_order(plan, lambda step: pick(plan, whole, step, step))


class Plan(NamedTuple):
    """What the samplers of P identities with K images share."""

    identities: Identities
    p: int
    k: int
    by_images: bool
    seed: int

    @property
    def steps_per_pass(self) -> int:
        """Full batches in as many samples as are drawn from; at least 1."""
        return max(1, len(self.identities.rows) // (self.p * self.k))


class Part(NamedTuple):
    """A stretch of identities to draw from, and of their images. All are int64 scalars."""

    number: tf.Tensor
    first: tf.Tensor
    count: tf.Tensor
    images_start: tf.Tensor
    images: tf.Tensor


def whole_list(identities: Identities) -> Part:
    """All identities as one part."""
    sizes = (0, 0, len(identities.labels), 0, len(identities.rows))
    return Part(*(tf.constant(size, tf.int64) for size in sizes))


def make_plan(
    samples: Samples,
    seed: int,
    batch_size: int,
    sample_per_id: int,
    sample_method: str,
    drop_small: bool,
    parts: np.ndarray | None = None,
) -> Plan:
    """Check the arguments and sort the list by identity; ``parts`` as in ``by_identity``."""
    p = identities_per_batch(batch_size, sample_per_id)
    if sample_method not in METHODS:
        raise ConfigError(
            f"{KEY}.sample_method: expected one of {list(METHODS)}, got {sample_method!r}"
        )
    identities = by_identity(samples, sample_per_id if drop_small else 1, parts)
    check_and_count(identities, samples, p, sample_per_id, drop_small)
    return Plan(identities, p, sample_per_id, sample_method == "sample_avg_prob", seed)


def make_order(
    plan: Plan,
    choose: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    refresh: Callable[[np.ndarray], None] | None = None,
) -> Order:
    """An order from what gives a step's identities and their visits (see :func:`pick`)."""

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = plan.identities.images(*choose(step), plan.k, plan.seed)
        # An image that repeats within a batch needs two numbers.
        numbers = step * plan.k + tf.tile(tf.range(plan.k, dtype=tf.int64), [plan.p])
        return tf.ensure_shape(rows, [plan.p * plan.k]), numbers

    return Order(plan.p * plan.k, plan.steps_per_pass, batch, refresh)


def pick(plan: Plan, part: Part, turn: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """P different identities, of the part where it has as many, and the visit each is at.

    Args:
        plan: See :class:`Plan`.
        part: Where to draw from.
        turn: How often the part came before; int64.
        step: Of the run; int64.

    Returns:
        Identities and visits (see ``Identities.images``), each int64 ``(p,)``.
    """
    draw = _draw_by_images if plan.by_images else _draw_by_identity
    identity, visit, lap = draw(plan, part, turn, step)
    # In the order in which they first come.
    identity, which = tf.unique(identity)
    first = tf.math.unsorted_segment_min(tf.range(tf.size(visit)), which, tf.size(identity))
    identity, visit = identity[: plan.p], tf.gather(visit, first[: plan.p])

    def filled_up():
        more = _race(plan, part, identity, step)[: plan.p - tf.size(identity)]
        return tf.concat([identity, more], 0), tf.concat(
            [visit, random_visit(plan, more, lap, step)], 0
        )

    return tf.cond(tf.size(identity) == plan.p, lambda: (identity, visit), filled_up)


def random_visit(plan: Plan, identity: tf.Tensor, lap: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Visits for identities that come out of turn: any ``k`` images of the lap."""
    per_lap = plan.identities.visits_per_lap(identity, plan.k)
    return lap * per_lap + hashed(plan.seed, 2, step, identity) % per_lap


def _draw_by_identity(plan: Plan, part: Part, turn: tf.Tensor, step: tf.Tensor):
    """P identities of a random order; with repetitions where the part has fewer."""
    lap, window = _window(plan, part.count, turn)
    key = hashed(plan.seed, 3, part.number, lap)
    return part.first + permuted(window, part.count, key), tf.repeat(lap, plan.p), lap


def _draw_by_images(plan: Plan, part: Part, turn: tf.Tensor, step: tf.Tensor):
    """The identities of P marks, then of 3 P images drawn independently, to replace repetitions."""
    marks = tf.maximum(part.images // plan.k, 1)
    lap, window = _window(plan, marks, turn)
    mark = permuted(window, marks, hashed(plan.seed, 3, part.number, lap))
    marked = mark * plan.k + hashed(plan.seed, 4, part.number, lap) % part.images
    spare = hashed(plan.seed, 5, step, tf.range(3 * plan.p, dtype=tf.int64))
    image = part.images_start + tf.concat([marked, spare], 0) % part.images
    identity = tf.searchsorted(plan.identities.starts, image, "right", tf.int64) - 1
    place = image - tf.gather(plan.identities.starts, identity)
    # Marks are K apart: no two of one identity begin the same group of its images.
    visit = lap * plan.identities.visits_per_lap(identity, plan.k) + place // plan.k
    return identity, visit, lap


def _window(plan: Plan, size: tf.Tensor, turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Laps through ``size`` entries, P a turn: the lap, and the P places of the turn in it."""
    turns = tf.maximum(size // plan.p, 1)
    places = turn % turns * plan.p + tf.range(plan.p, dtype=tf.int64)
    return turn // turns, places % size


def _race(plan: Plan, part: Part, chosen: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """P identities drawn one by one among those not chosen; from the part as long as it has any.

    Weighted draws without replacement are the order of the greatest ``log(weight) + Gumbel noise``.
    It takes a random number per identity, so it is kept for when the spares do not suffice.
    """
    number = tf.range(len(plan.identities.labels), dtype=tf.int64)
    uniform = (tf.cast(hashed(plan.seed, 6, step, number), tf.float64) + 0.5) * 2.0**-63
    score = -tf.math.log(-tf.math.log(uniform))
    if plan.by_images:
        score += tf.math.log(tf.cast(plan.identities.counts, tf.float64))
    inside = (number >= part.first) & (number < part.first + part.count)
    score = tf.where(inside, score, score - 1000.0)
    lowest = tf.fill(tf.shape(chosen), tf.constant(-np.inf, tf.float64))
    score = tf.tensor_scatter_nd_update(score, chosen[:, None], lowest)
    return tf.cast(tf.math.top_k(score, plan.p).indices, tf.int64)
