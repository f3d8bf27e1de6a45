"""How a command ends that is told to."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """SIGTERM ends what runs within as an interrupt does: unfinished files beside are removed.

    The exit status is 143. In another thread than the main one, which gets no signals, nothing is
    changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
