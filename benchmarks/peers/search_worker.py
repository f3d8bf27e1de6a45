"""Exact search as a worker: PROGRAM FOLDER K QUERIES.

PROGRAM is `ours`, `product` (the bare float32 matrix product in the same blocks, its result
dropped), `faiss` (IndexFlatIP), `usearch` (exact), `sort` (PaddleClas' rule: blocks of 64 queries,
every row sorted whole). FOLDER holds `query.npy` and `gallery.npy`; a step looks up the first
QUERIES of them.
"""

import os
import sys

import side_by_side

side_by_side.private_stdout()

import numpy as np  # noqa: E402

THREADS = int(os.environ["OMP_NUM_THREADS"])


def _ours(query, gallery, k):
    from keras_featx.search import nearest

    return lambda: nearest(query, gallery, k, backend="numpy"), np.__version__


def _product(query, gallery, k):
    from keras_featx.search import BLOCKS
    from keras_featx.search_backends import product_function

    product, (some, many) = product_function(), BLOCKS

    def run():
        for start in range(0, len(query), some):
            for first in range(0, len(gallery), many):
                product(query[start : start + some], gallery[first : first + many])

    return run, np.__version__


def _faiss(query, gallery, k):
    import faiss

    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return lambda: index.search(query, k), faiss.__version__


def _usearch(query, gallery, k):
    import usearch
    from usearch.index import MetricKind, search

    return (
        lambda: search(gallery, query, k, MetricKind.IP, exact=True, threads=THREADS),
        usearch.__version__,
    )


def _sort(query, gallery, k):
    import paddle

    paddle.set_device("cpu")
    right = paddle.to_tensor(gallery)

    def run():
        for start in range(0, len(query), 64):
            similar = paddle.matmul(paddle.to_tensor(query[start : start + 64]), right.T)
            paddle.argsort(similar, axis=1, descending=True).numpy()

    return run, paddle.__version__


PROGRAMS = {
    "ours": _ours,
    "product": _product,
    "faiss": _faiss,
    "usearch": _usearch,
    "sort": _sort,
}


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def main(program: str, folder: str, k: int, queries: int) -> None:
    """Load, then serve: a step is one search."""
    query, gallery = (np.load(f"{folder}/{name}.npy") for name in ("query", "gallery"))
    before = _resident()  # a copy of the gallery in an index counts as a program's own
    step, version = PROGRAMS[program](query[:queries], gallery, k)
    side_by_side.reset_peak_memory()
    side_by_side.serve(
        lambda steps: side_by_side.time_steps(step, steps),
        version=version,
        inputs_mib=before,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
