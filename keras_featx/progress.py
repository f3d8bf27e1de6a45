"""The progress bar of long work."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(iterable: Iterable, total: int, what: str) -> Iterable:
    """A progress bar on a terminal, nothing elsewhere."""
    hidden = not sys.stderr.isatty()
    return tqdm(iterable, total=total, desc=what, disable=hidden, leave=False, file=sys.stderr)
