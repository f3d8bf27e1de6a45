"""Measure programs side by side: each a process of its own, one computing at a time.

Standard library only, so that a worker can import it in any virtual environment. A worker reads
lines ``run N`` from standard input and answers each with one line of JSON.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
# OpenMP threads go on spinning for a moment after their work.
SETTLE = 0.5
# Batches of a stream before and after those that count.
LEAD, TAIL = 4, 2


def serve(run: Callable[[int], list[float] | dict], **about) -> None:
    """Be a worker: answer ``run N`` with the seconds of each step, until standard input ends.

    Call :func:`private_stdout` before the imports of frameworks that print.

    Args:
        run: From a number of steps to the seconds each took, or to what :func:`time_stream` gives.
        about: What to tell once at the start, such as versions.
    """
    out = private_stdout()
    print(json.dumps({"about": about}), file=out, flush=True)
    for line in sys.stdin:
        before = processor_time()
        measured = run(int(line.split()[1]))
        if not isinstance(measured, dict):
            measured = {"seconds": measured, "cpu": processor_time() - before}
        print(json.dumps({**measured, "peak_mib": peak_memory()}), file=out, flush=True)


def private_stdout():
    """The real standard output; whatever else prints there goes to standard error from now on."""
    if not hasattr(private_stdout, "file"):
        private_stdout.file = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
    return private_stdout.file


def peak_memory() -> int:
    """Peak resident memory of this process in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def reset_peak_memory() -> None:
    """Let :func:`peak_memory` begin anew, so that it tells of the steps and not of the start."""
    Path("/proc/self/clear_refs").write_text("5")


def time_steps(step: Callable[[], object], steps: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def time_stream(stream: Iterable, steps: int) -> dict:
    """Time ``steps`` batches in the middle of ``LEAD + steps + TAIL``.

    Start-up is left out, and so is the end, where a loader whose processes take whole batches has
    some of them idle.

    Returns:
        What :func:`serve` answers: ``seconds``, the mean of a batch in a list of one, and ``cpu``,
        the processor seconds of all of them, child processes included.
    """
    batches = iter(stream)
    for _ in range(LEAD):
        next(batches)
    cpu, start = processor_time(), time.perf_counter()
    for _ in range(steps):
        next(batches)
    seconds, cpu = time.perf_counter() - start, processor_time() - cpu
    for _ in range(TAIL):
        next(batches)
    return {"seconds": [seconds / steps], "cpu": cpu}


def processor_time() -> float:
    """Processor seconds of this process and its descendants, also those that have ended (Linux)."""
    used, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        pid = int(path.parent.name)
        parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    family = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(used.get(pid, 0) for pid in family) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A worker process, and the seconds per step it has answered so far."""

    def __init__(self, name: str, python: str, script: Path, args: Sequence, threads: int):
        self.name = name
        self.seconds: list[float] = []
        self.steps = 0
        self.cpu = 0.0
        self.peak_mib = 0
        counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        path = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        env = {
            **os.environ,
            **dict.fromkeys(counts, str(threads)),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._process = subprocess.Popen(
            [python, str(script), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.about = self._answer()["about"]

    def run(self, steps: int, keep: bool = True) -> None:
        """Have it do so many steps; ``keep=False`` to warm up."""
        self._process.stdin.write(f"run {steps}\n")
        self._process.stdin.flush()
        answer = self._answer()
        if keep:
            self.seconds += answer["seconds"]
            self.steps += steps
            self.cpu += answer["cpu"]
        self.peak_mib = answer["peak_mib"]
        time.sleep(SETTLE)

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: ended with status {self._process.wait()}")
        return json.loads(line)

    def rates(self, per_step: int) -> dict:
        """Images per second by the median and the fastest step; per second of processor time."""
        median, least = statistics.median(self.seconds), min(self.seconds)
        return {
            "median": round(per_step / median, 2),
            "best": round(per_step / least, 2),
            "per_cpu_second": round(per_step * self.steps / self.cpu, 2),
            "steps": self.steps,
            "peak_mib": self.peak_mib,
        }


def alternate(workers: Sequence[Worker], rounds: int, steps: int, warm_up: int) -> None:
    """Run the workers in turn, so that what disturbs the machine disturbs all of them."""
    for worker in workers:
        worker.run(warm_up, keep=False)
    for _ in range(rounds):
        for worker in workers:
            worker.run(steps)


def row(
    what: str,
    ours: float,
    peer: str,
    theirs: float,
    goal: float | None,
    *,
    unit: str = "images/s",
    less: bool = False,
    **more,
) -> dict:
    """A row of a result file; the ratio is above 1 where ours is better.

    Args:
        what: Was measured.
        ours: Our figure.
        peer: Beside whom, or what bound.
        theirs: Theirs.
        goal: The ratio aimed at; ``None`` where none is set.
        unit: Of both figures.
        less: Less is better, as of seconds and memory.
        more: What else to keep.
    """
    return {
        "what": what,
        "unit": unit,
        "ours": ours,
        "peer": peer,
        "theirs": theirs,
        "ratio": round(theirs / ours if less else ours / theirs, 2),
        "goal": goal,
        **more,
    }


def add_arguments(parser, peers: Sequence[str], rounds: int) -> None:
    """The arguments every benchmark has."""
    for peer in peers:
        parser.add_argument(
            f"--{peer}-python", metavar="PYTHON", help=f"of the environment {peer} lives in"
        )
    parser.add_argument("--rounds", type=int, default=rounds, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")


def note(text: str) -> None:
    """Print for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


def write_results(name: str, command: str, rows: list[dict], **more) -> None:
    """Write ``results/NAME.json`` and print its rows."""
    result = {"command": command, "machine": machine(), "rows": rows, **more}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.replace(path)
    for r in rows:
        goal = "no goal" if r["goal"] is None else f"goal {r['goal']}"
        print(
            f"{r['what']}: {r['ours']} {r['unit']}, {r['peer']} {r['theirs']}: "
            f"{r['ratio']} times ({goal})"
        )


def machine() -> str:
    """Processor name and core count."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores"
