"""Margin functions: from cosines to class centres to what replaces them in the logits.

Pure functions on `keras.ops`; angles in radians. The own-logit functions see only each row's cosine
to its own class centre, ``(batch,)``, so that no one-hot matrix of ``(batch, classes)`` is ever
made; the ``*_others`` functions see cosines to other classes, ``(batch, n)``. What they return, of
the same shape, replaces the cosine before the scale. A margin is a number or one per row,
``(batch,)``. Values and gradients are finite at -1 and 1, and as far outside as rounding goes.
Results are float64 for float64, else float32: half precision has no room for ``1 - cosine^2``.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops


def _wide(values):
    values = ops.convert_to_tensor(values)
    float64 = keras.backend.standardize_dtype(values.dtype) == "float64"
    return values if float64 else ops.cast(values, "float32")


def _like(value, tensor):
    return ops.convert_to_tensor(value, tensor.dtype)  # a cast would take a number through float32


def _sine(cosine):
    # Rounding may leave a cosine just above 1; the maximum keeps the root real there.
    return ops.sqrt(ops.maximum(1.0 - ops.square(cosine) + 1e-6, 1e-12))


def arc_margin(cosine, margin, easy_margin: bool = False):
    """Additive angular margin: cos(theta + margin) (ArcFace, arXiv:1801.07698).

    Beyond theta = pi - margin, cos(theta + margin) would rise again; there the cosine minus
    ``margin * sin(margin)`` takes its place (without ``easy_margin``). The sine is
    ``sqrt(1 - cosine^2 + 1e-6)`` as in the reference, which keeps its gradient finite at +-1.

    Args:
        cosine: Cosine of each row to its own class centre, ``(batch,)``, in [-1, 1].
        margin: Radians, in [0, pi); up to 2.33 the result falls all the way to theta = pi.
        easy_margin: Apply the margin only where the cosine is positive; the result then rises by
            ``sin(margin)`` at theta = pi/2.

    Example:
        >>> from keras_featx.heads.margins import arc_margin
        >>> [round(float(c), 4) for c in arc_margin([1.0, 0.0, -1.0], 0.5)]
        [0.8771, -0.4794, -1.2397]
    """
    cosine = _wide(cosine)
    margin = _like(margin, cosine)
    shifted = cosine * ops.cos(margin) - _sine(cosine) * ops.sin(margin)
    if easy_margin:
        return ops.where(cosine > 0, shifted, cosine)
    return ops.where(cosine > -ops.cos(margin), shifted, cosine - margin * ops.sin(margin))


def cos_margin(cosine, margin):
    """Additive cosine margin: cos(theta) - margin (CosFace, arXiv:1801.09414).

    The margin is in cosine, not radians; 0.35 in the paper.

    Example:
        >>> [round(float(c), 4) for c in cos_margin([1.0, 0.0], 0.35)]
        [0.65, -0.35]
    """
    cosine = _wide(cosine)
    return cosine - _like(margin, cosine)


def combined_margin(cosine, m1, m2, m3):
    """All three margins at once: cos(m1 * theta + m2) - m3 (ArcFace, arXiv:1801.07698).

    ``m1`` is SphereFace's margin (arXiv:1704.08063), ``m2`` `arc_margin`'s, ``m3`` `cos_margin`'s;
    the function equals those where the other margins are none. The ArcFace paper's best
    combination is (0.9, 0.4, 0.15).

    Where ``m1 * theta + m2`` passes pi the formula would rise again. `arc_margin`'s continuation is
    taken, with the additive margin m that passes pi at the same theta, ``pi - (pi - m2) / m1``:
    the cosine minus ``m * sin(m)``, or minus ``1 - cos(m)`` where that is more (above 2.33, as for
    an ``m1`` of 4), so that the result never rises. SphereFace's own steps of -2 are not taken:
    they would grow the logits' range and slope with ``m1``.

    Args:
        cosine: As for `arc_margin`.
        m1: Factor on the angle, above 0; 1 for none.
        m2: Radians, in [0, pi/2].
        m3: In cosine.

    Example:
        >>> [round(float(c), 4) for c in combined_margin([1.0, 0.0, -1.0], 0.9, 0.4, 0.15)]
        [0.7707, -0.3905, -1.1591]
    """
    cosine = _wide(cosine)
    m1, m2 = _like(m1, cosine), _like(m2, cosine)
    # Not arccos, whose slope at +-1 is infinite; this one's is -1 / sine.
    theta = ops.arctan2(_sine(cosine), cosine)
    angle = m1 * theta + m2
    same = math.pi - (math.pi - m2) / m1
    drop = ops.maximum(same * ops.sin(same), 1 - ops.cos(same))
    shifted = ops.where(angle < math.pi, ops.cos(angle), ops.cos(theta) - drop)
    return cos_margin(ops.where(m1 == 1, arc_margin(cosine, m2), shifted), m3)


def circle_own(cosine, margin):
    """Own logit of circle loss: ``(1 + margin - c)`` times ``c - (1 - margin)`` (arXiv:2002.10857).

    The first factor, at least 0, is a weight without gradient. The margin is in cosine, 0.25 in the
    paper and 0.35 in the reference's recipes; none of this kind gives the plain cosine.

    Example:
        >>> [round(float(c), 4) for c in circle_own([1.0, 0.0], 0.25)]
        [0.0625, -0.9375]
    """
    cosine = _wide(cosine)
    margin = _like(margin, cosine)
    weight = ops.stop_gradient(ops.maximum(1 + margin - cosine, 0))
    return weight * (cosine - (1 - margin))


def circle_others(cosine, margin):
    """Other logits of circle loss: ``(c + margin)``, at least 0, times ``c - margin``.

    Like `circle_own`, with a weight that has no gradient (arXiv:2002.10857). One margin for all.

    Example:
        >>> [round(float(c), 4) for c in circle_others([0.75, 0.0, -0.5], 0.25)]
        [0.5, -0.0625, -0.0]
    """
    cosine = _wide(cosine)
    margin = _like(margin, cosine)
    return ops.stop_gradient(ops.maximum(cosine + margin, 0)) * (cosine - margin)


def ada_margin(cosine, score, margin):
    """Margin by quality: cos(theta - margin * z) - margin * (1 + z) (AdaFace, arXiv:2204.00964).

    As in the reference the cosine is clipped to +-(1 - 1e-3) and the shifted angle to
    [1e-3, pi - 1e-3]: there the result is flat and has no gradient. The reference clips the cosines
    to other classes too, which need no angle.

    ``score`` is the quality z of each row, ``(batch,)``, from `ada_norm_score`: at -1 the margin is
    ArcFace's, at 0 CosFace's. The margin is in radians and in cosine; 0.4 in the paper.

    Example:
        >>> [round(float(c), 4) for c in ada_margin([0.0, 0.0, 0.0], [-1.0, 0.0, 1.0], 0.4)]
        [-0.3894, -0.4, -0.4106]
    """
    cosine = _wide(cosine)
    score = ops.stop_gradient(_like(score, cosine))
    margin = _like(margin, cosine)
    theta = ops.arccos(ops.clip(cosine, -1 + 1e-3, 1 - 1e-3))
    shifted = ops.clip(theta - margin * score, 1e-3, math.pi - 1e-3)
    return ops.cos(shifted) - margin * (1 + score)


def _safe_norm(norm):
    return ops.stop_gradient(ops.clip(_wide(norm), 1e-3, 100.0))


def ada_norm_score(norm, mean, std, h=0.333):
    """Quality of each row, in [-1, 1], by its embedding's norm (AdaFace, arXiv:2204.00964).

    ``norm`` is the length of each embedding, ``(batch,)``, clipped to [1e-3, 100]; it gets no
    gradient. Mean and standard deviation are from `ada_statistics`; a norm one standard deviation
    above the mean has the score ``h``, 0.333 in the paper.

    Example:
        >>> [round(float(z), 3) for z in ada_norm_score([10.0, 20.0, 90.0], 20.0, 10.0)]
        [-0.333, 0.0, 1.0]
    """
    norm = _safe_norm(norm)
    mean, std = _like(mean, norm), _like(std, norm)
    return ops.stop_gradient(ops.clip((norm - mean) / (std + 1e-3) * h, -1, 1))


def ada_statistics(norm, mean, std, t_alpha=1.0):
    """Next running mean and standard deviation of the norms (AdaFace, arXiv:2204.00964).

    Scalars without gradient from the norms ``(batch,)``, clipped to [1e-3, 100], and from ``mean``
    and ``std`` so far, 20 and 100 at the start. ``t_alpha`` is the batch's share, in [0, 1]; the
    reference takes the batch alone. The standard deviation is the unbiased one, as in the
    reference; that of one row is 0 (the reference gives NaN).

    Example:
        >>> [round(float(s), 4) for s in ada_statistics([1.0, 2.0, 3.0], 20.0, 100.0)]
        [2.0, 1.0]
    """
    norm = _safe_norm(norm)
    mean, std = _like(mean, norm), _like(std, norm)
    batch_mean = ops.mean(norm)
    rest = ops.cast(ops.maximum(ops.size(norm) - 1, 1), norm.dtype)
    batch_std = ops.sqrt(ops.sum(ops.square(norm - batch_mean)) / rest)
    mean = t_alpha * batch_mean + (1 - t_alpha) * mean
    return mean, t_alpha * batch_std + (1 - t_alpha) * std


def mag_margin(norm, lower_norm=10.0, upper_norm=110.0, lower_margin=0.45, upper_margin=0.8):
    """Margin that grows with the embedding's norm (MagFace, arXiv:2103.06627).

    Radians ``(batch,)`` for `arc_margin`: linear from ``lower_margin`` at ``lower_norm`` (above 0)
    to ``upper_margin`` at ``upper_norm``, constant outside. ``norm`` is the length of each
    embedding, ``(batch,)``, which gets gradients through the margin. Defaults: the paper's.

    Example:
        >>> [round(float(m), 4) for m in mag_margin([1.0, 60.0, 500.0])]
        [0.45, 0.625, 0.8]
    """
    part = (ops.clip(_wide(norm), lower_norm, upper_norm) - lower_norm) / (upper_norm - lower_norm)
    return lower_margin + (upper_margin - lower_margin) * part


def mag_regulariser(norm, upper_norm=110.0, lower_norm=10.0):
    """MagFace's loss that draws norms up: norm / upper_norm^2 + 1 / norm (arXiv:2103.06627).

    Per row, smallest at ``upper_norm``. The paper defines it from ``lower_norm`` up; below, it goes
    on along its tangent, which lifts a short embedding without the formula's overflow at 0. (The
    authors' code clips the norm, so that rows outside are never moved.) The paper adds 35 times the
    mean to the loss.

    Example:
        >>> [round(float(g), 4) for g in mag_regulariser([0.0, 10.0, 110.0])]
        [0.2, 0.1008, 0.0182]
    """
    norm = _wide(norm)
    inside = ops.maximum(norm, lower_norm)
    tangent = 2 / lower_norm + norm * (1 / upper_norm**2 - 1 / lower_norm**2)
    return ops.where(norm < lower_norm, tangent, inside / upper_norm**2 + 1 / inside)


def elastic_margin(margin, std, seed, shape):
    """Random margins, normal about ``margin`` (ElasticFace, arXiv:2109.09416).

    For `arc_margin` (0.5 and std 0.05 in the paper) or `cos_margin` (0.35 and 0.05). A pure
    function: the same seed gives the same margins. Clipped to [0, pi/2], where both are defined.

    Args:
        margin: Mean.
        std: Standard deviation, at least 0.
        seed: An integer, two integers ``(2,)`` such as (seed, step), or a `SeedGenerator`.
        shape: Of the result, usually ``(batch,)``; may be a tensor.

    Example:
        >>> first, second = (elastic_margin(0.5, 0.05, (7, 0), (3,)) for _ in range(2))
        >>> bool((first == second).numpy().all())
        True
    """
    if isinstance(seed, keras.random.SeedGenerator):
        seed = seed.next()
    elif isinstance(seed, (int, np.integer)):
        seed = (seed, 0)
    # keras.random takes no tensor as a seed.
    draws = tf.random.stateless_normal(shape, ops.cast(seed, "int32"), margin, std)
    return ops.clip(draws, 0, math.pi / 2)


def elastic_plus(margins, cosine):
    """Hand out margins so that the hardest row gets the largest (ElasticFace+, arXiv:2109.09416).

    ``margins`` from `elastic_margin`, ``(batch,)``, come back in another order: the larger the own
    cosine, the smaller the margin.

    Example:
        >>> [round(float(m), 1) for m in elastic_plus([0.1, 0.3, 0.2], [0.9, 0.5, -0.2])]
        [0.1, 0.2, 0.3]
    """
    easiest_first = ops.argsort(-ops.convert_to_tensor(cosine))
    return ops.take(ops.sort(margins), ops.argsort(easiest_first))


def curricular_others(cosine, threshold, t):
    """Cosines to other classes, the hard ones re-weighted: c * (t + c) (arXiv:2004.00288).

    Hard (CurricularFace) is a cosine ``(batch, n)`` above its row's ``threshold``, ``(batch,)``:
    what `arc_margin` made of the own cosine. ``t`` is from `curricular_statistic`. Gradients pass
    to neither.

    Example:
        >>> [round(float(c), 4) for c in curricular_others([[0.75, 0.25]], [0.5], 0.25)[0]]
        [0.75, 0.25]
    """
    cosine = _wide(cosine)
    threshold = _like(threshold, cosine)
    t = ops.stop_gradient(_like(t, cosine))
    return ops.where(cosine > threshold[:, None], cosine * (t + cosine), cosine)


def curricular_statistic(own_cosine, t, momentum=0.99):
    """Next moving average of the own cosines, CurricularFace's progress t (arXiv:2004.00288).

    A scalar without gradient, from the own cosines before their margin, ``(batch,)``, and ``t`` so
    far: 0 at the start. ``momentum`` is the share of ``t``, 0.99 in the paper.

    Example:
        >>> round(float(curricular_statistic([0.5, 1.0], 0.0)), 4)
        0.0075
    """
    mean = ops.stop_gradient(ops.mean(_wide(own_cosine)))
    return momentum * _like(t, mean) + (1 - momentum) * mean


def class_margins(counts, smallest=0.05, largest=0.5, power=-0.25):
    """Margin per class, the larger the rarer: a * count^power + b (arXiv:2010.05350).

    ``counts`` are the training images of each class, ``(classes,)``; none counts as one. The most
    frequent class gets ``smallest`` radians and the rarest ``largest``, however close they are; if
    all are equally frequent, all get ``largest``. ``power`` is below 0. A NumPy array
    ``(classes,)``. The defaults are those of the authors' code.

    Raises:
        ValueError: No class, a negative count, margins out of order, a power not below 0.

    Example:
        >>> class_margins([1, 16, 256], 0.05, 0.5).round(2)
        array([0.5 , 0.2 , 0.05])
    """
    counts = np.asarray(counts, "float64")
    if counts.ndim != 1 or not counts.size or not (counts >= 0).all():
        raise ValueError(f"counts: expected one number of at least 0 per class, got {counts}")
    if not 0 <= smallest <= largest:
        raise ValueError(f"smallest: expected in [0, largest = {largest}], got {smallest}")
    if not power < 0:
        raise ValueError(f"power: expected a negative number, got {power}")
    rarity = np.maximum(counts, 1) ** power
    if rarity.min() == rarity.max():
        return np.full(len(counts), float(largest))
    part = (rarity - rarity.min()) / (rarity.max() - rarity.min())
    return smallest + (largest - smallest) * part
