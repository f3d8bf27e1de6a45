"""Margin functions: from the cosine to the own class centre to what replaces it in the logits.

Pure functions on `keras.ops`; angles in radians. They see only each row's own cosine, ``(batch,)``,
so that no one-hot matrix of ``(batch, classes)`` is ever made.
"""

from keras import ops


def arc_margin(cosine, margin, easy_margin: bool = False):
    """Additive angular margin: cos(theta + margin) (ArcFace, arXiv:1801.07698).

    Beyond theta = pi - margin, cos(theta + margin) would rise again; there the cosine minus
    ``margin * sin(margin)`` takes its place (without ``easy_margin``). The sine is
    ``sqrt(1 - cosine^2 + 1e-6)`` as in the reference, which keeps its gradient finite at +-1.

    Args:
        cosine: Cosine of each row to its own class centre, ``(batch,)``, in [-1, 1].
        margin: Radians, in [0, pi).
        easy_margin: Apply the margin only where the cosine is positive, elsewhere none.

    Returns:
        ``(batch,)``.

    Example:
        >>> from keras_featx.heads.margins import arc_margin
        >>> [round(float(c), 4) for c in arc_margin([1.0, 0.0, -1.0], 0.5)]
        [0.8771, -0.4794, -1.2397]
    """
    cosine = ops.convert_to_tensor(cosine)
    margin = ops.cast(margin, cosine.dtype)
    # Rounding may leave a cosine just above 1; the maximum keeps the root real there.
    sine = ops.sqrt(ops.maximum(1.0 - ops.square(cosine) + 1e-6, 1e-12))
    shifted = cosine * ops.cos(margin) - sine * ops.sin(margin)
    if easy_margin:
        return ops.where(cosine > 0, shifted, cosine)
    return ops.where(cosine > -ops.cos(margin), shifted, cosine - margin * ops.sin(margin))
