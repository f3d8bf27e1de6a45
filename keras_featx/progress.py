"""How far long work is: a bar on a terminal, the log in a file."""

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

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


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Copy the package's log into a file while the block runs."""
    logger = logging.getLogger("keras_featx")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(before, logging.INFO) or logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()
