"""Threads that do the work of requests, and how much may wait for them."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from keras_featx.serving.refusals import Refused


class Workers:
    """A fixed number of threads with a bounded queue.

    Args:
        threads: How many.
        queue: Tasks that may wait.
        observe: Told the seconds of each task.
        what: The tasks in a word.

    Example:
        >>> from keras_featx.serving.workers import Workers
        >>> workers = Workers(threads=2, queue=8)
        >>> [task.result() for task in workers.submit([lambda: 1, lambda: 2])]
        [1, 2]
        >>> workers.stop()
    """

    def __init__(
        self,
        threads: int,
        queue: int,
        observe: Callable[[float], object] = lambda seconds: None,
        what: str = "images",
    ):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="featx-worker")
        self._lock = threading.Lock()
        self._queue, self._observe, self._what = queue, observe, what
        self._waiting = self._running = 0
        self._threads = threads

    @property
    def waiting(self) -> int:
        """Tasks that no thread has begun."""
        return self._waiting

    def submit(self, tasks: Sequence[Callable]) -> list[Future]:
        """Have tasks done, all of them or none.

        A task that is cancelled before it began is never done; its errors are its future's.

        Raises:
            Refused: 503 if so many cannot wait.
        """
        with self._lock:
            free = self._queue - self._waiting
            # What threads are idle for does not wait.
            if len(tasks) > free + max(self._threads - self._running - self._waiting, 0):
                raise Refused(
                    503,
                    f"Too many {self._what} wait: {self._waiting} of at most {self._queue}; try "
                    "again",
                    {"Retry-After": "1"},
                )
            self._waiting += len(tasks)
        futures = []
        for task in tasks:
            future = self._pool.submit(self._run, task)
            future.add_done_callback(self._forget_cancelled)
            futures.append(future)
        return futures

    def _run(self, task: Callable):
        with self._lock:
            self._waiting -= 1
            self._running += 1
        started = time.perf_counter()
        try:
            return task()
        finally:
            with self._lock:
                self._running -= 1
            self._observe(time.perf_counter() - started)

    def _forget_cancelled(self, future: Future) -> None:
        if future.cancelled():
            with self._lock:
                self._waiting -= 1

    def stop(self) -> None:
        """Let what has begun end, and drop the rest."""
        self._pool.shutdown(cancel_futures=True)
