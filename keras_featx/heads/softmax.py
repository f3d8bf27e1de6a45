"""Softmax cross-entropy over many class centres without a ``(batch, classes)`` tensor.

Classes are walked in blocks, once forward for the log-sum-exp and once backward, where each
block's scores are computed again instead of being kept (the idea of Cut Cross-Entropy,
arXiv:2411.09009). What lives at once is one block, and the gradient of the centres.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_featx import distribute

# Classes in a block: at a batch of 256 its scores take 16 MB. Smaller blocks multiply slower.
BLOCK = 8192
LOWEST = tf.float32.min


class Scores(NamedTuple):
    """How embeddings and centres become logits.

    Attributes:
        scale: Factor on the scores.
        unit: Whether embeddings and centres are normalised, so that scores are cosines.
        sub_centres: Centres a class; its score is that of the nearest.
        own: From the own score ``(batch,)`` and per-row tensors to what takes its place.
        others: From the scores of other classes ``(batch, n)`` to what takes their place;
            ``None`` where they stay. What it captures gets no gradient.
    """

    scale: float = 1.0
    unit: bool = True
    sub_centres: int = 1
    own: Callable[..., tf.Tensor] = lambda score: score
    others: Callable[[tf.Tensor], tf.Tensor] | None = None

    def of_block(self, embedding: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
        """Scores ``(batch, n)`` to the centres of n classes, ``(n * sub_centres, size)``."""
        if self.unit:
            embedding, centres = _unit(embedding), _unit(centres)
        found = tf.matmul(embedding, centres, transpose_b=True)
        if self.sub_centres > 1:
            found = tf.reshape(found, (tf.shape(found)[0], -1, self.sub_centres))
            found = tf.reduce_max(found, axis=-1)
        return found

    def of_own(self, embedding: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
        """Scores ``(batch,)`` to each row's own centres, ``(batch, sub_centres, size)``."""
        if self.unit:
            embedding, centres = _unit(embedding), _unit(centres)
        return tf.reduce_max(tf.reduce_sum(embedding[:, None] * centres, axis=-1), axis=-1)

    def rows(self, position: tf.Tensor) -> tf.Tensor:
        """Rows ``(batch, sub_centres)`` of the centres of the classes at the given positions."""
        return position[:, None] * self.sub_centres + tf.range(self.sub_centres)

    def logits(self, found: tf.Tensor) -> tf.Tensor:
        """Logits of other classes, from their scores."""
        return self.scale * (found if self.others is None else self.others(found))


class _Targets(NamedTuple):
    """Which class is whose: see the arguments of :func:`cross_entropy`."""

    position: tf.Tensor
    here: tf.Tensor | None
    classes: int
    all_classes: tf.Tensor | float
    epsilon: float

    def only_here(self, values: tf.Tensor) -> tf.Tensor:
        """Of values that each row has on one replica only: their sum over the replicas."""
        if self.here is None:
            return values
        return distribute.sum_over_replicas(tf.where(self.here, values, 0.0))

    def within(self, start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        """(row, column) of the own classes in a block."""
        inside = (self.position >= start) & (self.position < stop)
        if self.here is not None:
            inside &= self.here
        rows = tf.cast(tf.where(inside)[:, 0], tf.int32)
        return tf.stack([rows, tf.gather(self.position, rows) - start], axis=1)


def cross_entropy(
    embedding: tf.Tensor,
    centres: tf.Tensor,
    position: tf.Tensor,
    margins: tuple[tf.Tensor, ...],
    scores: Scores,
    epsilon: float = 0.0,
    here: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropy of each row, and whether its own class scores highest.

    Args:
        embedding: ``(batch, size)``, float32.
        centres: ``(classes * sub_centres, size)``: all; or a sample that holds the own class of
            every row; or, with ``here``, this replica's part.
        position: Of each row's own class among these classes, ``(batch,)``, int32.
        margins: Per-row tensors ``(batch,)`` for ``scores.own``; they get gradients.
        scores: How scores become logits.
        epsilon: Label smoothing over the classes given, in [0, 1).
        here: Where classes are split over replicas: whether the own class is in this part,
            ``(batch,)``. Rows are then those of all replicas (:func:`distribute.gather`), and each
            replica takes the loss of its own.

    Returns:
        Loss ``(batch,)``, differentiable in ``embedding``, ``centres`` and ``margins``; and a bool
        ``(batch,)``, by scores without margin.
    """
    classes = centres.shape[0] // scores.sub_centres
    total = float(classes)
    if here is not None:
        total = distribute.sum_over_replicas(tf.constant(total))
    targets = _Targets(position, here, classes, total, epsilon)

    @tf.custom_gradient
    def loss_of(embedding, centres, *margins):
        nearest = tf.gather(centres, scores.rows(position))
        own_score = targets.only_here(scores.of_own(embedding, nearest))
        own_logit = scores.scale * scores.own(own_score, *margins)
        log_sum, sums, best = _log_sum(embedding, centres, own_logit, scores, targets)
        value = log_sum - own_logit
        if epsilon:
            smooth = log_sum - (sums + own_logit) / total
            value = (1 - epsilon) * value + epsilon * smooth

        def logit_of(score, *margins):
            return scores.scale * scores.own(score, *margins)

        def backward(d_value, _):
            # Split: a replica is asked about its own rows, its centres see those of all.
            d_every = d_value if here is None else distribute.sum_over_replicas(d_value)
            d_embedding, d_centres = _through_others(
                embedding, centres, log_sum, d_every, scores, targets
            )
            slope = tf.exp(own_logit - log_sum) - (1 - epsilon + epsilon / total)
            _, *d_margins = _gradients(logit_of, [own_score, *margins], d_value * slope)
            d_score, *_ = _gradients(logit_of, [own_score, *margins], d_every * slope)
            if here is not None:
                d_score = tf.where(here, d_score, 0.0)
            more, d_nearest = _gradients(scores.of_own, [embedding, nearest], d_score)
            d_centres = _add_rows(d_centres, scores.rows(position), d_nearest)
            return d_embedding + more, d_centres, *d_margins

        return (value, own_score > best), backward

    return loss_of(embedding, centres, *margins)


def _log_sum(embedding, centres, own_logit, scores: Scores, targets: _Targets):
    """Log-sum-exp of all logits, sum of the other logits, and best other score: ``(batch,)``."""

    def step(start, stop, state):
        largest, exponentials, sums, best = state
        found = scores.of_block(embedding, _block(centres, start, stop, scores))
        logits, own = scores.logits(found), targets.within(start, stop)
        if targets.epsilon:
            zeros = tf.zeros(tf.shape(own)[:1])
            sums += tf.reduce_sum(tf.tensor_scatter_nd_update(logits, own, zeros), axis=1)
        lowest = tf.fill(tf.shape(own)[:1], LOWEST)
        logits = tf.tensor_scatter_nd_update(logits, own, lowest)
        highest = tf.maximum(largest, tf.reduce_max(logits, axis=1))
        exponentials *= tf.exp(largest - highest)
        exponentials += tf.reduce_sum(tf.exp(logits - highest[:, None]), axis=1)
        if scores.others is None:
            best = highest / scores.scale
        else:
            found = tf.tensor_scatter_nd_update(found, own, lowest)
            best = tf.maximum(best, tf.reduce_max(found, axis=1))
        return highest, exponentials, sums, best

    zeros = tf.zeros_like(own_logit)
    state = _over_blocks(targets.classes, step, (zeros + LOWEST, zeros, zeros, zeros + LOWEST))
    if targets.here is not None:
        every = distribute.gather(tf.stack(state)[None])  # (replicas, 4, batch)
        largest = tf.reduce_max(every[:, 0], axis=0)
        exponentials = tf.reduce_sum(every[:, 1] * tf.exp(every[:, 0] - largest), axis=0)
        sums, best = tf.reduce_sum(every[:, 2], axis=0), tf.reduce_max(every[:, 3], axis=0)
        state = largest, exponentials, sums, best
    before, exponentials, sums, best = state
    largest = tf.maximum(before, own_logit)
    exponentials = exponentials * tf.exp(before - largest) + tf.exp(own_logit - largest)
    return largest + tf.math.log(exponentials), sums, best


def _through_others(embedding, centres, log_sum, d_value, scores: Scores, targets: _Targets):
    """Gradients of embedding and centres through the logits of other classes."""

    def step(start, stop, state):
        d_embedding, d_centres = state
        block = _block(centres, start, stop, scores)
        with tf.GradientTape() as tape:
            tape.watch([embedding, block])
            logits = scores.logits(scores.of_block(embedding, block))
        part = tf.exp(logits - log_sum[:, None])
        if targets.epsilon:
            part -= targets.epsilon / targets.all_classes
        own = targets.within(start, stop)
        part = tf.tensor_scatter_nd_update(part, own, tf.zeros(tf.shape(own)[:1]))
        more, found = tape.gradient(logits, [embedding, block], part * d_value[:, None])
        rows = tf.range(start * scores.sub_centres, stop * scores.sub_centres)
        # A functional update would copy the whole gradient, several times over.
        return d_embedding + more, tf.raw_ops.InplaceUpdate(x=d_centres, i=rows, v=found)

    nothing = tf.raw_ops.Empty(shape=tf.shape(centres), dtype=centres.dtype)
    return _over_blocks(targets.classes, step, (tf.zeros_like(embedding), nothing))


def _add_rows(x, rows, values):
    """Add values ``(batch, sub_centres, size)`` to rows of x, in place; rows may repeat."""
    rows, position = tf.unique(tf.reshape(rows, (-1,)))
    values = tf.reshape(values, (-1, x.shape[1]))
    values = tf.math.unsorted_segment_sum(values, position, tf.size(rows))
    return tf.raw_ops.InplaceAdd(x=x, i=rows, v=values)


def _gradients(function: Callable, arguments: list, upstream) -> list:
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = function(*arguments)
    return tape.gradient(value, arguments, upstream, unconnected_gradients="zero")


def _unit(x):
    return tf.math.l2_normalize(x, axis=-1)


def _block(centres, start, stop, scores: Scores):
    return centres[start * scores.sub_centres : stop * scores.sub_centres]


def _over_blocks(classes: int, step: Callable, state: tuple) -> tuple:
    """Run ``state = step(start, stop, state)`` over all classes."""
    if classes <= BLOCK:
        return step(0, classes, state)

    def body(start, *state):
        stop = tf.minimum(start + BLOCK, classes)
        return stop, *step(start, stop, state)

    # One block after the other: memory is the point.
    return tf.while_loop(
        lambda start, *_: start < classes, body, (tf.constant(0), *state), parallel_iterations=1
    )[1:]
