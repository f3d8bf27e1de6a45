"""The progress bar of long work."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(iterable: Iterable, total: int, what: str, images: int = 1) -> Iterable:
    """A progress bar on a terminal, with rate and remaining time; nothing elsewhere.

    Each of the ``total`` items counts as so many ``images``.
    """
    hidden = not sys.stderr.isatty()
    scale = {"unit": " images", "unit_scale": images} if images > 1 else {}
    return tqdm(
        iterable, total=total, desc=what, disable=hidden, leave=False, file=sys.stderr, **scale
    )
