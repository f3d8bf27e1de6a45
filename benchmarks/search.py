"""Exact nearest neighbours beside faiss, usearch and sorting every row, and the bare product.

Unit vectors of 512 numbers in clusters, as embeddings are: 10,000 queries in a gallery of 100,000
and 60,000 in 60,000, the 10 nearest by inner product. The floor is the float32 matrix product in
blocks, its result dropped. usearch, which keeps all similarities (15 GB of the first case), and
sorting every row, as PaddleClas' evaluation does, are timed on the first 256 queries and
multiplied.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import side_by_side

WORKER = side_by_side.HERE / "peers" / "search_worker.py"
CASES = {"10000x100000": (10_000, 100_000), "60000x60000": (60_000, 60_000)}
SIZE, K, SOME = 512, 10, 256
MEMORY = 500


def make_vectors(folder: Path, queries: int, entries: int) -> None:
    """Around 5,000 centres, so that a query has near ones."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5000, SIZE)).astype("float32")
    for name, count in (("query", queries), ("gallery", entries)):
        vectors = centres[rng.integers(0, len(centres), count)]
        vectors += rng.standard_normal((count, SIZE), "float32")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(folder / f"{name}.npy", vectors)


def main() -> None:
    """Measure and write results/search.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    side_by_side.add_arguments(parser, ("faiss", "usearch", "paddle"), rounds=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    args = parser.parse_args()
    rows, detail = [], {}
    for case in args.cases:
        with tempfile.TemporaryDirectory() as folder:
            make_vectors(Path(folder), *CASES[case])
            detail[case] = _measure(args, folder, CASES[case][0])
        rows += _rows(case, detail[case])
    given = [name for name in ("faiss", "usearch", "paddle") if getattr(args, f"{name}_python")]
    words = [f"--{name}-python {name.upper()}_PYTHON" for name in given]
    command = " ".join(["python benchmarks/search.py", *words, f"--rounds {args.rounds}"])
    side_by_side.write_results("search", command, rows, threads=args.threads, detail=detail)


def _measure(args, folder: str, queries: int) -> dict[str, dict]:
    programs = [
        ("ours", sys.executable, queries),
        ("product", sys.executable, queries),
        ("faiss", args.faiss_python, queries),
        ("usearch", args.usearch_python, min(queries, SOME)),
        ("sort", args.paddle_python, min(queries, SOME)),
    ]
    found = {}
    for name, python, _ in programs:
        if not python:
            side_by_side.note(f"{name} is left out: no --*-python")
    workers = [
        (side_by_side.Worker(name, python, WORKER, (name, folder, K, count), args.threads), count)
        for name, python, count in programs
        if python
    ]
    side_by_side.alternate([worker for worker, _ in workers], args.rounds, 1, warm_up=0)
    for worker, count in workers:
        worker.close()
        seconds = statistics.median(worker.seconds) * queries / count
        found[worker.name] = {
            "seconds": round(seconds, 3),
            "beyond_inputs_mib": worker.peak_mib - worker.about["inputs_mib"],
            "timed_queries": count,
            **worker.about,
        }
        side_by_side.note(f"  {worker.name}: {found[worker.name]}")
    return found


def _rows(case: str, found: dict[str, dict]) -> list[dict]:
    titles = {
        "product": ("the bare product, within 1.3 times", 1 / 1.3),
        "faiss": ("faiss IndexFlatIP", 1.0),
        "usearch": ("usearch, exact", 1.0),
        "sort": ("sorting every row (paddle)", 1.0),
    }
    ours, title = found["ours"], f"search of {case} x {SIZE}"
    rows = [
        side_by_side.row(
            f"{title}: time", ours["seconds"], peer, found[name]["seconds"], round(goal, 2),
            unit="s", less=True,
        )
        for name, (peer, goal) in titles.items()
        if name in found
    ]  # fmt: skip
    memory = ours["beyond_inputs_mib"]
    what = f"{title}: peak memory beyond the inputs"
    rows.append(side_by_side.row(what, memory, "bound", MEMORY, 1.0, unit="MiB", less=True))
    return rows


if __name__ == "__main__":
    main()
