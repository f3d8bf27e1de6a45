"""Start time, memory and batches per second of the samplers, beside the reference's in NumPy.

A list of 5 million images of 200 thousand identities, their numbers as by Zipf's law; batches of
256 images, 4 of each identity. The peer is PaddleClas' PKSampler as its documentation has it:
a dict from identity to its images, `numpy.random.choice` without replacement over the identities,
then over the images of each. Its package on PyPI lacks the module, so it is written anew here.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import side_by_side

BATCH, K = 256, 4
CASES = {
    "Shuffle": {},
    "IdentityBalanced": {},
    "PKSampler, sample_avg_prob": {"sample_per_id": K},
    "PKSampler, id_avg_prob": {"sample_per_id": K, "sample_method": "id_avg_prob"},
    "HardClass": {"sample_per_id": K},
    "CategoryAware": {"sample_per_id": K},
}
PEERS = {f"PKSampler in NumPy, {method}": method for method in ("sample_avg_prob", "id_avg_prob")}


def zipf_labels(images: int, identities: int) -> np.ndarray:
    """Labels in random order; each identity has one image or more."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, identities + 1)
    more = rng.choice(identities, images - identities, p=share / share.sum())
    labels = np.concatenate([np.arange(identities), more])
    rng.shuffle(labels)
    return labels


def resident() -> float:
    """Resident memory of this process in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def reset_peak() -> None:
    """Let the peak count from here on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def numpy_pk(labels: np.ndarray, method: str):
    """A function that draws a batch."""
    images = {}
    for row, label in enumerate(labels.tolist()):
        images.setdefault(label, []).append(row)
    images = {label: np.array(rows) for label, rows in images.items()}
    identities = np.array(list(images))
    weight = np.array([len(images[i]) if method == "sample_avg_prob" else 1 for i in identities])
    weight = weight / weight.sum()

    def batch() -> list[int]:
        rows = []
        for i in np.random.choice(identities, BATCH // K, replace=False, p=weight):
            rows += np.random.choice(images[i], K, replace=len(images[i]) < K).tolist()
        return rows

    return batch


def ours(name: str, labels: np.ndarray, folder: str, threads: int):
    """A function that makes an iterator of batches."""
    import tensorflow as tf

    from keras_featx import components
    from keras_featx.data.samplers import hard
    from keras_featx.data.samples import Samples

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    arguments = {"batch_size": BATCH, **CASES[name]}
    if name == "CategoryAware":
        arguments["category_path"] = str(Path(folder) / "categories.txt")
    build = components.builder("sampler", name.split(",")[0])
    samples = Samples("list", range(len(labels)), labels, range(1, len(labels) + 1))
    tf.data.Dataset.range(1).map(lambda i: i).get_single_element()  # wakes TensorFlow up

    def start():
        order = build(samples, 0, **arguments)
        if order.refresh:
            # Any table: the search for neighbours is not what is measured.
            rng = np.random.default_rng(0)
            hard.neighbour_table = lambda centres, size: rng.integers(
                0, len(centres), (len(centres), size), np.int32
            )
            order.refresh(np.zeros((labels.max() + 1, 1), np.float32))
        steps = tf.data.Dataset.range(2**40)
        batches = steps.map(order.batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return iter(batches.prefetch(2)).__next__

    return start


def work(name: str, folder: str, threads: int) -> None:
    """Be a worker: start the sampler once, then serve batches."""
    side_by_side.private_stdout()
    labels = np.load(Path(folder) / "labels.npy")
    if name in PEERS:
        start = lambda: numpy_pk(labels, PEERS[name])  # noqa: E731
    else:
        start = ours(name, labels, folder, threads)
    before = resident()
    reset_peak()
    begun = time.perf_counter()
    batch = start()
    seconds = time.perf_counter() - begun
    grown = side_by_side.peak_memory() - before
    side_by_side.serve(
        lambda steps: side_by_side.time_steps(batch, steps),
        start_seconds=round(seconds, 2),
        peak_growth_mib=round(grown),
    )


def compare(workers: dict[str, side_by_side.Worker]) -> list[dict]:
    """Rows of the result file: ours against the peer of the same kind of draw."""
    # A pipeline runs ahead, so single steps say little: batches by the time of all of them.
    rates = {n: round(len(w.seconds) / sum(w.seconds), 1) for n, w in workers.items()}
    rows = []
    for name in CASES:
        peer = next((p for p, method in PEERS.items() if method in name), next(iter(PEERS)))
        mine, theirs = workers[name].about, workers[peer].about
        for what, unit, one, other in (
            ("batches", "batches/s", rates[name], rates[peer]),
            ("start", "s", max(mine["start_seconds"], 0.01), theirs["start_seconds"]),
            ("memory", "MiB", max(mine["peak_growth_mib"], 1), theirs["peak_growth_mib"]),
        ):
            title, less = f"{name}: {what}", what != "batches"
            rows.append(side_by_side.row(title, one, peer, other, 1.0, unit=unit, less=less))
    return rows


def main() -> None:
    """Measure and write results/samplers.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    side_by_side.add_arguments(parser, (), rounds=3)
    parser.add_argument("--images", type=int, default=5_000_000, help="default: %(default)s")
    parser.add_argument("--identities", type=int, default=200_000, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=1000, help="in a run; default: %(default)s")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker, args.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "labels.npy", zipf_labels(args.images, args.identities))
        categories = "".join(f"{i} category {i % 50}\n" for i in range(args.identities))
        (Path(folder) / "categories.txt").write_text(categories)
        workers = {}
        for name in (*PEERS, *CASES):
            arguments = ("--threads", args.threads, "--worker", name, folder)
            script = Path(__file__).resolve()
            worker = side_by_side.Worker(name, sys.executable, script, arguments, args.threads)
            side_by_side.note(f"{name}: {worker.about}")
            side_by_side.alternate([worker], args.rounds, args.steps, warm_up=200)
            worker.close()
            workers[name] = worker
    side_by_side.write_results(
        "samplers",
        f"python benchmarks/samplers.py --rounds {args.rounds} --steps {args.steps} "
        f"--threads {args.threads} --images {args.images} --identities {args.identities}",
        compare(workers),
        threads=args.threads,
    )


if __name__ == "__main__":
    main()
