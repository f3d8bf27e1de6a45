"""Learning-rate schedules as tables: one value per step. NumPy only.

All begin with a linear warm-up from ``warmup_start_lr`` over ``warmup_epoch`` epochs; the schedule
proper starts after it. The first step takes the first value of the table.
"""

import numpy as np


def constant(
    epochs: int,
    steps_per_epoch: int,
    *,
    learning_rate: float,
    warmup_epoch: float = 0.0,
    warmup_start_lr: float = 0.0,
) -> np.ndarray:
    """The same rate at every step."""
    _check_rate("learning_rate", learning_rate)

    def after(step, _):
        return np.full(len(step), learning_rate)

    return _table(epochs, steps_per_epoch, learning_rate, warmup_epoch, warmup_start_lr, after)


def cosine(
    epochs: int,
    steps_per_epoch: int,
    *,
    learning_rate: float,
    warmup_epoch: float = 0.0,
    warmup_start_lr: float = 0.0,
    eta_min: float = 0.0,
) -> np.ndarray:
    """Half a cosine from ``learning_rate`` to ``eta_min`` (SGDR, arXiv:1608.03983).

    Example:
        >>> from keras_featx.schedules import cosine
        >>> cosine(4, 1, learning_rate=1.0).round(3).tolist()
        [1.0, 0.854, 0.5, 0.146]
    """
    _check_rate("learning_rate", learning_rate)

    def after(step, length):
        return eta_min + (learning_rate - eta_min) * (1 + np.cos(np.pi * step / length)) / 2

    return _table(epochs, steps_per_epoch, learning_rate, warmup_epoch, warmup_start_lr, after)


def piecewise(
    epochs: int,
    steps_per_epoch: int,
    *,
    decay_epochs: tuple[float, ...],
    values: tuple[float, ...],
    warmup_epoch: float = 0.0,
    warmup_start_lr: float = 0.0,
) -> np.ndarray:
    """Constant between the epochs given; ``values`` has one entry more than ``decay_epochs``.

    The epochs are counted from the end of the warm-up, as in the reference.
    """
    if len(values) != len(decay_epochs) + 1:
        raise ValueError(
            f"values: expected {len(decay_epochs) + 1} (one more than decay_epochs), "
            f"got {len(values)}"
        )
    if list(decay_epochs) != sorted(decay_epochs):
        raise ValueError(f"decay_epochs: expected rising numbers, got {list(decay_epochs)}")
    for value in values:
        _check_rate("values", value)
    bounds = np.round(np.array(decay_epochs) * steps_per_epoch)

    def after(step, _):
        return np.array(values)[np.searchsorted(bounds, step, side="right")]

    return _table(epochs, steps_per_epoch, values[0], warmup_epoch, warmup_start_lr, after)


def _table(epochs, steps_per_epoch, peak, warmup_epoch, start, after) -> np.ndarray:
    if warmup_epoch < 0:
        raise ValueError(f"warmup_epoch: expected at least 0, got {warmup_epoch}")
    total = epochs * steps_per_epoch
    # A warm-up longer than the run is cut to it, as in the reference: the rate never peaks.
    warm = min(round(warmup_epoch * steps_per_epoch), total)
    rising = start + (peak - start) * np.arange(warm) / max(warm, 1)
    falling = after(np.arange(total - warm), max(total - warm, 1))
    return np.concatenate([rising, falling])


def _check_rate(name: str, rate: float) -> None:
    if rate <= 0:
        raise ValueError(f"{name}: expected a positive learning rate, got {rate}")
