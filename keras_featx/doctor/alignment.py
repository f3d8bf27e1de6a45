"""Whether two small pictures show the same, up to a small shift and scale, noise and brightness.

The one picture is laid over the other by a few Gauss-Newton steps in scale and shift of each axis
(Lucas and Kanade, "An iterative image registration technique", IJCAI 1981). What still differs is
then weighed by what may: noise, and more where the picture changes from pixel to pixel. The worst
of the blocks of the picture counts, as two objects may differ in one small part alone.
"""

import numpy as np

# Pixels a side of the pictures that are laid over each other.
SIDE = 32
# Pairs of one image, stored anew or cropped by 2 %, stay below; of other images, far above.
MOST_DIFFERENCE = 3.0
_BLOCK = 4
_STEPS = 4
# Of the side: how far a picture may be shifted or scaled.
_REACH = 0.06
# Grey levels of noise, and the part of a pixel by which edges may be off.
_NOISE, _EDGE = (2.0, 6.0), 0.15


def differences(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How much pairs of pictures differ, beyond noise; compare with :data:`MOST_DIFFERENCE`.

    Args:
        one: ``(pairs, SIDE, SIDE, 3)``, values 0..255.
        other: Likewise.

    Returns:
        float32 ``(pairs,)``: mean square, in units of what may differ, of the worst block.

    Example:
        >>> import numpy as np
        >>> from keras_featx.doctor.alignment import differences
        >>> one = np.zeros((1, 32, 32, 3))
        >>> one[:, 8:20, 6:22] = 200
        >>> shifted, half = np.roll(one, 1, axis=2), one.copy()
        >>> half[:, 8:14] = 0
        >>> bool(differences(one, shifted)[0] < 3), bool(differences(one, half)[0] > 100)
        (True, True)
    """
    one, other = (_blurred(np.asarray(x, np.float32)) for x in (one, other))
    least = np.full(len(one), np.inf, np.float32)
    best = np.zeros_like(one)
    pose = np.zeros((len(one), 4), np.float32)  # scale and shift of columns, then of rows
    for step in range(_STEPS + 1):
        moved, inside = _moved(other, pose)
        rest = _centred(one - moved, inside)
        error = np.mean(rest**2, axis=(1, 2, 3)) / np.mean(inside, axis=(1, 2, 3))
        better = error < least
        least[better], best[better] = error[better], rest[better]
        if step < _STEPS:
            pose = _next_pose(pose, moved, inside, rest)
    return _worst_block(one, best)


def _worst_block(one: np.ndarray, rest: np.ndarray) -> np.ndarray:
    contrast = one.std(axis=(1, 2)).mean(axis=1)[:, None, None]
    noise = np.clip(contrast / 4, *_NOISE)
    down, right = _slopes(one)
    slope = _largest_around(np.sqrt((down**2 + right**2).max(axis=-1)))
    excess = (rest**2).mean(axis=-1) / (noise**2 + (_EDGE * slope) ** 2)
    count = SIDE // _BLOCK
    blocks = excess.reshape(-1, count, _BLOCK, count, _BLOCK).mean(axis=(2, 4))
    return blocks.max(axis=(1, 2))


def _next_pose(pose, moved, inside, rest) -> np.ndarray:
    """A Gauss-Newton step, no farther than the reach."""
    place = _places()
    down, right = _slopes(moved)
    slopes = (right * place[:, None], right, down * place[:, None, None], down)
    jacobian = np.stack([_centred(s, inside) for s in slopes], -1).reshape(len(pose), -1, 4)
    normal = jacobian.transpose(0, 2, 1) @ jacobian
    # A plain picture has no slope to go by; it stays where it is.
    normal += 1e-3 * (normal * np.eye(4, dtype=np.float32) + np.eye(4, dtype=np.float32))
    right_side = jacobian.transpose(0, 2, 1) @ rest.reshape(len(pose), -1, 1)
    pose = pose + np.linalg.solve(normal, right_side)[..., 0]
    reach = np.array([1, SIDE, 1, SIDE], np.float32) * _REACH
    return np.clip(pose, -reach, reach)


def _moved(pictures: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures at another scale and shift, and where they reach: ``(pairs, SIDE, SIDE, 1)``."""
    place = _places()
    columns = place * (1 + pose[:, :1]) + pose[:, 1:2] + (SIDE - 1) / 2
    rows = place * (1 + pose[:, 2:3]) + pose[:, 3:] + (SIDE - 1) / 2
    pairs = len(pictures)
    moved = (_weights(rows) @ pictures.reshape(pairs, SIDE, -1)).reshape(pictures.shape)
    moved = moved.transpose(0, 2, 1, 3).reshape(pairs, SIDE, -1)
    moved = (_weights(columns) @ moved).reshape(pictures.shape).transpose(0, 2, 1, 3)
    # The outermost pixels hold what lies beyond, too: they are left out where they are moved.
    inside = [(p >= 0.5) & (p <= SIDE - 1.5) for p in (rows, columns)]
    return moved, (inside[0][:, :, None] & inside[1][:, None])[..., None]


def _weights(places: np.ndarray) -> np.ndarray:
    """Linear interpolation as a matrix: ``(pairs, SIDE)`` -> ``(pairs, SIDE, SIDE)``."""
    distance = np.abs(np.clip(places, 0, SIDE - 1)[..., None] - np.arange(SIDE, dtype=np.float32))
    return np.maximum(1 - distance, 0)


def _centred(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Without the mean of the part that is inside; zero outside it."""
    mean = (x * inside).sum(axis=(1, 2), keepdims=True) / inside.sum(axis=(1, 2), keepdims=True)
    return (x - mean) * inside


def _places() -> np.ndarray:
    return np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2


def _slopes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Change from pixel to pixel, along rows and along columns."""
    down, right = np.zeros_like(x), np.zeros_like(x)
    down[:, 1:-1] = (x[:, 2:] - x[:, :-2]) / 2
    right[:, :, 1:-1] = (x[:, :, 2:] - x[:, :, :-2]) / 2
    return down, right


def _largest_around(x: np.ndarray) -> np.ndarray:
    """The largest of 3 x 3 values: ``(pairs, SIDE, SIDE)``."""
    for axis in (1, 2):
        padded = np.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        x = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=axis).max(axis=-1)
    return x


def _blurred(x: np.ndarray) -> np.ndarray:
    """Weights 1, 2, 1 each way: what falls between pixels can then be interpolated."""
    for axis in (1, 2):
        padded = np.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)], mode="edge")
        x, length = np.moveaxis(padded, axis, 0), x.shape[axis]
        x = np.moveaxis(x[:length] + 2 * x[1 : length + 1] + x[2:], 0, axis) / 4
    return x
