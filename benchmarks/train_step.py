"""Images per second of one training step, side by side with PaddleClas and timm.

Forward, backward and momentum update of LCNet with a 512-d embedding and an ArcMargin head of
1000 classes, batch 32, float32, on data already in memory.
"""

import argparse
import sys

import side_by_side

PEERS = side_by_side.HERE / "peers"
CASES = ("2.5@224", "2.5@112", "1.0@224")
BATCH = 32
GOAL = 1.5


def main() -> None:
    """Measure and write results/train_step.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    side_by_side.add_arguments(parser, ("paddle", "timm"), rounds=8)
    parser.add_argument("--steps", type=int, default=3, help="in a round; default: %(default)s")
    parser.add_argument(
        "--cases", nargs="+", default=CASES, metavar="SCALE@PIXELS", help="default: %(default)s"
    )
    args = parser.parse_args()
    rows, versions, detail = [], {}, {}
    for case in args.cases:
        scale, pixels = case.split("@")
        what = f"training step, LCNet x{scale}, {pixels} px, batch {BATCH}"
        side_by_side.note(what)
        workers = _workers(args, scale, pixels)
        side_by_side.alternate(workers, args.rounds, args.steps, warm_up=2)
        rates = {worker.name: worker.rates(BATCH) for worker in workers}
        for worker in workers:
            worker.close()
            versions[worker.name] = worker.about
            side_by_side.note(f"  {worker.name}: {rates[worker.name]}")
        detail[case] = rates
        ours = rates["keras_featx"]["median"]
        for name in [worker.name for worker in workers[1:]]:
            rows.append(side_by_side.row(what, ours, name, rates[name]["median"], GOAL))
    side_by_side.write_results(
        "train_step",
        "python benchmarks/train_step.py --paddle-python PADDLE_PYTHON --timm-python TIMM_PYTHON "
        f"--rounds {args.rounds} --steps {args.steps} --threads {args.threads} "
        f"--cases {' '.join(args.cases)}",
        rows,
        threads=args.threads,
        versions=versions,
        detail=detail,
    )


def _workers(args: argparse.Namespace, scale: str, pixels: str) -> list[side_by_side.Worker]:
    """Ours first; a peer whose Python is not given is left out."""
    found = [("keras_featx", sys.executable, "ours_train_step.py")]
    for name, python in (("paddle", args.paddle_python), ("timm", args.timm_python)):
        if python:
            found.append((name, python, f"{name}_train_step.py"))
        else:
            side_by_side.note(f"  {name} is left out: no --{name}-python")
    case = (scale, pixels, BATCH, args.threads)
    return [
        side_by_side.Worker(name, python, PEERS / script, case, args.threads)
        for name, python, script in found
    ]


if __name__ == "__main__":
    main()
