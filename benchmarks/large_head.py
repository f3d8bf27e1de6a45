"""Time and peak memory of a training step of the head alone, for very many classes.

Forward, backward and momentum update (with L2) of ArcMargin on 512-d embeddings, batch 256: ours
with all classes and with a sample of a tenth, beside PaddleClas' dense head. Then ours alone with
1, 2 and 5 million classes, a fiftieth sampled and plain gradient descent: there centres with a
momentum would fill the memory of a small machine.
"""

import argparse
import statistics
import sys

import side_by_side

PEERS = side_by_side.HERE / "peers"
CLASSES, SIZE, BATCH = 185_341, 512, 256
MANY = (1_000_000, 2_000_000, 5_000_000)


def main() -> None:
    """Measure and write results/large_head.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    side_by_side.add_arguments(parser, ("paddle",), rounds=4)
    parser.add_argument("--steps", type=int, default=3, help="in a round; default: %(default)s")
    parser.add_argument("--many", nargs="*", type=int, default=MANY, help="default: %(default)s")
    args = parser.parse_args()
    full = _ours(args, "full", CLASSES, 1.0)
    sampled = _ours(args, "sampled", CLASSES, 0.1)
    workers = [full, sampled]
    if args.paddle_python:
        script = PEERS / "paddle_large_head.py"
        case = (CLASSES, 1.0, SIZE, BATCH)
        workers.append(
            side_by_side.Worker("paddle", args.paddle_python, script, case, args.threads)
        )
    else:
        side_by_side.note("paddle is left out: no --paddle-python")
    side_by_side.alternate(workers, args.rounds, args.steps, warm_up=3)
    for worker in workers:
        worker.close()
    detail = {worker.name: _figures(worker) for worker in workers}
    rows = [_row("time, sampled 0.1 beside our full head", "s", sampled, "ours, full", full, 6.0)]
    if args.paddle_python:
        paddle = workers[2]
        rows += [
            _row("time, full head", "s", full, "paddle", paddle, 1.0),
            _row("time, sampled 0.1", "s", sampled, "paddle", paddle, 1.0),
            _row("peak memory, full head", "MiB", full, "paddle", paddle, 2.0),
            _row("peak memory, sampled 0.1", "MiB", sampled, "paddle", paddle, 1.0),
        ]
    rows.append(_bound("peak memory, sampled 0.1, bound of 1.6 GB", detail["sampled"], 1526))
    for classes in args.many:
        worker = _ours(args, f"{classes} classes", classes, 0.02, "sgd")
        worker.run(3, keep=False)
        worker.run(args.steps * args.rounds)
        worker.close()
        detail[worker.name] = _figures(worker)
    for name, figures in detail.items():
        side_by_side.note(f"  {name}: {figures}")
    side_by_side.write_results(
        "large_head",
        f"python benchmarks/large_head.py --paddle-python PADDLE_PYTHON --rounds {args.rounds} "
        f"--steps {args.steps} --threads {args.threads} --many {' '.join(map(str, args.many))}",
        rows,
        threads=args.threads,
        versions={worker.name: worker.about for worker in workers},
        detail=detail,
    )


def _ours(args, name, classes, rate, rule="momentum") -> side_by_side.Worker:
    case = (classes, rate, SIZE, BATCH, rule, args.threads)
    script = PEERS / "ours_large_head.py"
    return side_by_side.Worker(name, sys.executable, script, case, args.threads)


def _figures(worker: side_by_side.Worker) -> dict:
    return {
        "seconds": round(statistics.median(worker.seconds), 4),
        "fastest": round(min(worker.seconds), 4),
        "peak_mib": worker.peak_mib,
    }


def _row(what, unit, ours, peer, theirs, goal) -> dict:
    """A row of figures where less is better."""
    key = {"s": "seconds", "MiB": "peak_mib"}[unit]
    own, other = _figures(ours)[key], _figures(theirs)[key]
    return side_by_side.row(_title(what), own, peer, other, goal, unit=unit, less=True)


def _bound(what, figures, bound) -> dict:
    own = figures["peak_mib"]
    return side_by_side.row(_title(what), own, "bound", bound, 1.0, unit="MiB", less=True)


def _title(what: str) -> str:
    return f"step of a head of {CLASSES} classes x {SIZE}, batch {BATCH}: {what}"


if __name__ == "__main__":
    main()
