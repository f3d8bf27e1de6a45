"""The random window of loaders that bring none of their own."""

import math
from collections.abc import Callable


def random_window(height: int, width: int, draw: Callable[[], float]) -> tuple[int, int, int, int]:
    """A window by area (0.08 to 1 of the image) and aspect ratio (3/4 to 4/3).

    Args:
        height: Of the image.
        width: Of the image.
        draw: Gives random numbers in [0, 1).

    Returns:
        (top, left, height, width).
    """
    aspect = 3 / 4 + draw() * (4 / 3 - 3 / 4)
    bound = min(width / height / aspect, height / width * aspect)
    low, high = min(0.08, bound), min(1.0, bound)
    side = math.sqrt(height * width * (low + draw() * (high - low)))
    tall = min(max(int(side / math.sqrt(aspect)), 1), height)
    wide = min(max(int(side * math.sqrt(aspect)), 1), width)
    return int(draw() * (height - tall + 1)), int(draw() * (width - wide + 1)), tall, wide
