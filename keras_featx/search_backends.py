"""Where a search computes its products and looks for candidates: NumPy, or TensorFlow on a GPU."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits


class Backend(NamedTuple):
    """Where products are computed.

    Attributes:
        scope: A context around a search; the argument is how many threads it has. Searches may
            overlap.
        product: Makes a function, for one thread, from both sides ``(queries, size)`` and
            ``(rows, size)`` to scores, which may be gone after the next call.
        kth: The k-th largest of scores ``(queries, rows)``, along the rows.
        reaching: Of scores and a bound per query ``(queries, 1)``: the query, the row and the
            score of all that reach it, in the order of queries.
    """

    scope: Callable[[int], contextlib.AbstractContextManager]
    product: Callable[[], Callable[[np.ndarray, np.ndarray], Any]]
    kth: Callable[[Any, int], np.ndarray]
    reaching: Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_backend(name: str | None) -> Backend:
    """``numpy`` or ``tensorflow``; by default TensorFlow where it has a GPU.

    Raises:
        ValueError: On another name.
    """
    if name not in (None, "numpy", "tensorflow"):
        raise ValueError(f"backend: expected 'numpy' or 'tensorflow', got {name!r}")
    if name != "numpy":
        import tensorflow as tf

        if name == "tensorflow" or tf.config.list_physical_devices("GPU"):
            return _tensorflow(tf)
    return Backend(
        _blas_scope,
        product_function,
        lambda scores, k: np.partition(scores, -k, axis=1)[:, -k],
        _reaching,
    )


class _Shared:
    """A setting of the whole process while any search wants it.

    Searches that overlap in several threads would each restore what they found, the last of them
    perhaps what another one had set.

    Args:
        setting: The context of the first to come; the last to go leaves it.
    """

    def __init__(self, setting: Callable[[int], contextlib.AbstractContextManager]):
        self._setting, self._users = setting, 0
        self._lock, self._stack = threading.Lock(), contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self, threads: int) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._stack.enter_context(self._setting(threads))
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._stack.close()


def _blas_threads(threads: int) -> contextlib.AbstractContextManager:
    """Products have the cores that our own threads leave them, and no more than they had."""
    own = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
    return threadpool_limits(min([max(1, cores() // threads), *own]), "blas")


_few_blas_threads = _Shared(_blas_threads)


def _blas_scope(threads: int) -> contextlib.AbstractContextManager:
    # A search of one thread leaves all to BLAS.
    return contextlib.nullcontext() if threads == 1 else _few_blas_threads(threads)


@contextlib.contextmanager
def _without_tensor_float(threads: int) -> Iterator[None]:
    """Full float32 in TensorFlow's products: no TensorFloat-32."""
    import tensorflow as tf

    former = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(former)


_full_float32 = _Shared(_without_tensor_float)


def product_function() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """``left @ right.T`` into the same memory each time: new memory takes a tenth longer."""
    memory = np.zeros(0, "float32")

    def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        nonlocal memory
        size = len(left) * len(right)
        if size > memory.size:
            memory = np.empty(size, "float32")
        return np.matmul(left, right.T, out=memory[:size].reshape(len(left), len(right)))

    return product


def _reaching(scores: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, ...]:
    flat = np.flatnonzero(scores >= bound)
    owners = flat // scores.shape[1]
    rows = flat - owners * scores.shape[1]
    return owners, rows, scores[owners, rows]


def _tensorflow(tf) -> Backend:
    """Only candidates leave the device."""

    def reaching(scores, bound: np.ndarray) -> tuple[np.ndarray, ...]:
        places = tf.where(scores >= bound)
        found = tf.gather_nd(scores, places).numpy()
        return *places.numpy().T, found

    return Backend(
        _full_float32,
        lambda: lambda left, right: tf.matmul(left, right, transpose_b=True),
        lambda scores, k: tf.math.top_k(scores, k, sorted=True)[0][:, -1].numpy(),
        reaching,
    )
