"""Galleries of 512 numbers an item: searching, adding, opening, and how they grow.

Unit vectors in clusters, as embeddings are. Exact search of 10,000 queries in 100,000 items
(float32) beside faiss' `IndexFlatIP`, in turn; HNSW's recall of the 10 nearest; adding 10,000 items
to 100,000 beside adding them to none; opening a million items; and time and memory of exact search
in each precision up to a million.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import side_by_side

sys.path.insert(0, str(side_by_side.HERE.parent))

import faiss  # noqa: E402
import numpy as np  # noqa: E402

from keras_featx import Gallery  # noqa: E402
from keras_featx.gallery.exact import Exact  # noqa: E402
from keras_featx.gallery.indexes import Indexed  # noqa: E402

SIZE, K, PRINT = 512, 10, "0" * 64
ITEMS, QUERIES, MORE = 100_000, 10_000, 10_000
GROWTH = (10_000, 100_000, 1_000_000)
SOME = 64


def vectors_of(count: int, seed: int) -> np.ndarray:
    """Around 5,000 centres, so that a query has near ones."""
    centres = np.random.default_rng(0).normal(size=(5000, SIZE)).astype("float32")
    rng = np.random.default_rng(seed)
    found = np.empty((count, SIZE), "float32")
    for i in range(0, count, 50_000):
        some = slice(i, min(i + 50_000, count))
        number = some.stop - some.start
        found[some] = centres[rng.integers(0, len(centres), number)]
        found[some] += rng.standard_normal((number, SIZE), "float32")
        found[some] /= np.linalg.norm(found[some], axis=1, keepdims=True)
    return found


def add(gallery: Gallery, vectors: np.ndarray, first: int) -> float:
    """Seconds of adding items."""
    ids = [f"{first + i}.jpg" for i in range(len(vectors))]
    names = [f"product {i % 5000}" for i in range(len(vectors))]
    started = time.perf_counter()
    gallery.add(ids, names, vectors)
    return time.perf_counter() - started


def timed(function) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    """Measure and write results/gallery.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--largest", type=int, default=GROWTH[-1], help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="write no file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows, detail = searching(Path(work), args.rounds)
        rows += adding(Path(work), args.rounds)
        more, detail["growth"] = growing(Path(work), args.largest)
        rows += more
    if not args.dry_run:
        command = f"python benchmarks/gallery.py --rounds {args.rounds}"
        side_by_side.write_results("gallery", command, rows, detail=detail)
    else:
        side_by_side.note("\n".join(map(str, [*rows, detail])))


def searching(work: Path, rounds: int) -> tuple[list[dict], dict]:
    """Exact and approximate search in 100,000 items."""
    gallery = Gallery.create(work / "g", PRINT, SIZE, "float32")
    vectors, query = vectors_of(ITEMS, 1), vectors_of(QUERIES, 2)
    add(gallery, vectors, 0)
    flat = faiss.IndexFlatIP(SIZE)
    flat.add(vectors)
    exact = Exact(gallery)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timed(lambda: exact.search(query, K)))
        theirs.append(timed(lambda: flat.search(query, K)))
    _, wanted = exact.search(query, K)
    rows = [
        side_by_side.row(
            "exact search, 10,000 in 100,000", round(statistics.median(ours), 2),
            "faiss IndexFlatIP", round(statistics.median(theirs), 2), 1.0, unit="s", less=True,
        )
    ]  # fmt: skip
    detail = {}
    for search in (64, 128, 256):
        settings = {"links": 32, "build": 200, "search": search}
        index = Indexed(gallery, "faiss-hnsw", settings)
        built = timed(lambda index=index: index.search(query[:1], K))
        seconds = timed(lambda index=index: index.search(query, K))
        _, found = index.search(query, K)
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, wanted, strict=True))
        one = {
            "recall@10": round(hits / wanted.size, 5),
            "queries_per_second": round(len(query) / seconds),
            "building_or_loading_s": round(built, 1),
        }
        detail[f"faiss-hnsw, search {search}"] = one
        side_by_side.note(f"  faiss-hnsw, search {search}: {one}")
    best = detail["faiss-hnsw, search 128"]
    rows.append(
        side_by_side.row(
            "recall@10 of faiss-hnsw", best["recall@10"], "exact", 1.0, 0.999, unit="fraction"
        )
    )
    shutil.rmtree(work / "g")
    return rows, detail


def adding(work: Path, rounds: int) -> list[dict]:
    """10,000 to none, and to 100,000."""
    first, later = [], []
    base, more = vectors_of(ITEMS, 1), vectors_of(MORE, 3)
    for _ in range(rounds):
        empty = Gallery.create(work / "e", PRINT, SIZE, "float16", overwrite=True)
        first.append(add(empty, more, 0))
        full = Gallery.create(work / "f", PRINT, SIZE, "float16", overwrite=True)
        add(full, base, 0)
        later.append(add(full, more, ITEMS))
    shutil.rmtree(work / "e")
    shutil.rmtree(work / "f")
    return [
        side_by_side.row(
            "adding 10,000 to 100,000", round(statistics.median(later), 2), "to none",
            round(statistics.median(first), 2), 1.0, unit="s", less=True,
        )
    ]  # fmt: skip


def growing(work: Path, largest: int) -> tuple[list[dict], dict]:
    """Exact search by precision, and opening."""
    detail: dict[str, dict] = {}
    rows = []
    query = vectors_of(SOME, 2)
    for count in [one for one in GROWTH if one <= largest]:
        vectors = vectors_of(count, 1)
        for precision in ("float32", "float16", "int8"):
            place = work / precision
            gallery = Gallery.create(place, PRINT, SIZE, precision)
            seconds = sum(
                add(gallery, vectors[i : i + 100_000], i) for i in range(0, count, 100_000)
            )
            opened = timed(lambda place=place: Gallery(place))
            fresh = Gallery(place)
            side_by_side.reset_peak_memory()
            before = side_by_side.peak_memory()
            exact = Exact(fresh)
            exact.search(query, K)
            search = timed(lambda exact=exact: exact.search(query, K))
            one = timed(lambda exact=exact: exact.search(query[:1], K))
            detail[f"{count:,} items, {precision}"] = figures = {
                "adding_s": round(seconds, 1),
                "opening_s": round(opened, 3),
                "64_queries_s": round(search, 3),
                "one_query_ms": round(1000 * one, 1),
                "more_memory_mib": side_by_side.peak_memory() - before,
                "bytes": sum(p.stat().st_size for p in place.rglob("*") if p.is_file()),
            }
            side_by_side.note(f"  {count:,} items, {precision}: {figures}")
            if count == GROWTH[-1] and precision == "float16":
                rows.append(
                    side_by_side.row(
                        "opening 1,000,000 items", round(opened, 3), "a second", 1.0, 1.0,
                        unit="s", less=True,
                    )
                )  # fmt: skip
            shutil.rmtree(place)
    return rows, detail


if __name__ == "__main__":
    main()
