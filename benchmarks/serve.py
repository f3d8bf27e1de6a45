"""`keras-featx serve` under load, beside the same network called in one process.

1, 8 and 32 clients send one JPEG of 500 x 375 a request and wait for the answer, each on a
connection of its own. The bare runtime decodes and embeds the same files with as many threads as
the server has workers (or fewer, for fewer clients), without HTTP and JSON; TensorFlow's SavedModel
is called likewise by its signature for encoded images. All take turns. Each answer is compared with
the first one for the same file. The load comes from this process, which takes processor time from
the server's.
"""

import argparse
import base64
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import side_by_side

sys.path.insert(0, str(side_by_side.HERE.parent))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import keras_featx  # noqa: E402
from keras_featx.config import from_dict  # noqa: E402
from keras_featx.models import build_extractor  # noqa: E402
from keras_featx.runtimes import open_networks  # noqa: E402
from keras_featx.serving.embedder import make_embedder  # noqa: E402
from keras_featx.serving.folders import find_artefacts  # noqa: E402

CLIENTS = (1, 8, 32)
FILES, WARM_UP = 64, 32
PATH = "/v1/models/embedder:predict"
SERVED, RUNTIME, SAVED_MODEL = "keras-featx serve", "LiteRT in one process", "SavedModel in process"


def main() -> None:
    """Measure and write results/serve.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    side_by_side.add_arguments(parser, (), rounds=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of LCNet (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="pixels (default: %(default)s)")
    parser.add_argument(
        "--requests", type=int, default=10_000, help="of each number of clients, in all rounds "
        "together; the others do a fifth (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="write no file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = make_export(Path(name), args.scale, args.size)
        detail = measure(folder, make_files(), args)
    rows = make_rows(detail, f"LCNet x{args.scale:g} at {args.size}")
    if args.dry_run:
        print(json.dumps(rows, indent=1))
        return
    command = f"python benchmarks/serve.py --requests {args.requests} --rounds {args.rounds}"
    side_by_side.write_results("serve", command, rows, threads=args.threads, detail=detail)


def make_export(folder: Path, scale: float, size: int) -> Path:
    """An export folder of a network whose activations live, though it has learnt nothing."""
    tree = {
        "Global": {"output_dir": str(folder)},
        "Arch": {"image_size": [size, size], "Backbone": {"name": "LCNet", "scale": scale}},
    }
    config = from_dict(tree)
    model = build_extractor(config.Arch)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        name = variable.path.rsplit("/", 1)[-1]
        low, high = {"gamma": (1, 2), "moving_variance": (0.05, 0.3)}.get(name, (0, 0))
        if high:
            variable.assign(rng.uniform(low, high, variable.shape))
        elif name in ("beta", "bias"):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    result = keras_featx.export(config, model, formats=["saved_model", "tflite"])
    return Path(result["tflite"]).parent


def make_files() -> list[bytes]:
    """JPEG files of about the detail of photographs."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(FILES):
        coarse = rng.integers(0, 256, (48, 64, 3)).astype("uint8")
        pixels = tf.image.resize(coarse, (375, 500), "bicubic")
        pixels = tf.clip_by_value(pixels + rng.normal(0, 4, (375, 500, 3)), 0, 255)
        found.append(tf.io.encode_jpeg(tf.cast(pixels, tf.uint8), quality=90).numpy())
    return found


def measure(folder: Path, files: list[bytes], args) -> dict:
    """All programs in turns: rates, latencies, failures, and the server's memory."""
    (artefact,) = find_artefacts(folder).values()
    embedder = make_embedder(artefact, open_networks(artefact.path, (args.size,) * 2, args.threads))
    signature = tf.saved_model.load(str(folder / "saved_model" / "1")).signatures["serving_default"]
    bodies = [
        json.dumps({"instances": [{"b64": base64.b64encode(one).decode()}]}).encode()
        for one in files
    ]
    process, address = start_server(folder, args.threads)
    try:
        calls: dict[str, Callable[[], Callable[[int], bytes]]] = {
            SERVED: lambda: client(address, bodies),
            RUNTIME: lambda: lambda i: embedder.embed_bytes(files[i], 10**9).tobytes(),
            SAVED_MODEL: lambda: lambda i: signature(image_bytes=tf.constant([files[i]]))[
                "embedding"
            ].numpy().tobytes(),
        }  # fmt: skip
        for make in calls.values():
            load(make, 1, WARM_UP, {})
        before = resident_mib(process.pid)
        found = {}
        for clients in CLIENTS:
            seen: dict[str, dict[int, bytes]] = {name: {} for name in calls}
            parts: dict[str, list[dict]] = {name: [] for name in calls}
            for _ in range(args.rounds):
                for name, make in calls.items():
                    ours = name == SERVED
                    requests = max(args.requests // args.rounds // (1 if ours else 5), clients)
                    threads = clients if ours else min(clients, args.threads)
                    parts[name].append(load(make, threads, requests, seen[name]))
                    time.sleep(side_by_side.SETTLE)
            found[str(clients)] = {name: summary(some) for name, some in parts.items()}
            side_by_side.note(f"  {clients} clients: {found[str(clients)]}")
        memory = {"start_mib": before, "end_mib": resident_mib(process.pid)}
    finally:
        process.terminate()
        process.wait()
    return {"clients": found, "memory": memory}


def start_server(folder: Path, threads: int) -> tuple[subprocess.Popen, str]:
    """A server as a process of its own, and its ``host:port``."""
    command = [sys.executable, "-m", "keras_featx.cli", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--threads", str(threads)],
        cwd=side_by_side.HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if match := re.search(r" at http://([^\s]+): versions", line):
            # Or it would stop when nobody reads what it logs.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, match[1]
    raise SystemExit(f"the server ended with status {process.wait()}")


def client(address: str, bodies: list[bytes]) -> Callable[[int], bytes]:
    """A function that sends one request on a connection of its own and returns the answer."""
    connection = http.client.HTTPConnection(address, timeout=60)

    def ask(i: int) -> bytes:
        connection.request("POST", PATH, bodies[i])
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise OSError(f"{answer.status}: {text[:200]}")
        return text

    return ask


def load(make: Callable, threads: int, requests: int, seen: dict[int, bytes]) -> dict:
    """So many requests by so many threads: seconds of all and of each, and how many failed."""
    numbers = iter(range(requests))
    lock = threading.Lock()
    latencies: list[float] = []
    failed: list[str] = []

    def work() -> None:
        call = make()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            i = number % FILES
            started = time.perf_counter()
            try:
                answer = call(i)
                if seen.setdefault(i, answer) != answer:
                    failed.append(f"another answer for file {i}")
            except Exception as error:
                failed.append(f"{type(error).__name__}: {error}")
                call = make()
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "latencies": latencies, "failed": failed}


def summary(parts: list[dict]) -> dict:
    """Median rate of the rounds, latencies of all of their requests in milliseconds."""
    latencies = np.concatenate([part["latencies"] for part in parts]) * 1000
    rates = [len(part["latencies"]) / part["seconds"] for part in parts]
    failed = [text for part in parts for text in part["failed"]]
    quantiles = {f"p{q}_ms": round(float(np.percentile(latencies, q)), 2) for q in (50, 90, 99)}
    return {
        "images_per_second": round(float(np.median(rates)), 1),
        **quantiles,
        "max_ms": round(float(latencies.max()), 2),
        "requests": len(latencies),
        "failed": len(failed),
        "failures": failed[:3],
    }


def resident_mib(process: int) -> int:
    """Resident memory of a process in MiB (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)[1]) // 1024


def make_rows(detail: dict, what: str) -> list[dict]:
    """Rates beside each peer, the share of right answers, and memory."""
    rows = []
    for clients, found in detail["clients"].items():
        title = f"serve, {what}, {clients} client{'s' if clients != '1' else ''}"
        ours = found[SERVED]
        latency = {key: ours[key] for key in ("p50_ms", "p90_ms", "p99_ms")}
        for peer in (RUNTIME, SAVED_MODEL):
            theirs = found[peer]["images_per_second"]
            rows.append(
                side_by_side.row(title, ours["images_per_second"], peer, theirs, None, **latency)
            )
    asked = sum(found[SERVED]["requests"] for found in detail["clients"].values())
    failed = sum(found[SERVED]["failed"] for found in detail["clients"].values())
    right = round(1 - failed / asked, 6)
    rows.append(
        side_by_side.row("serve: right answers", right, f"of {asked}", 1.0, 1.0, unit="fraction")
    )
    memory = detail["memory"]
    rows.append(
        side_by_side.row(
            "serve: memory at the end", memory["end_mib"], "at the start", memory["start_mib"],
            0.95, unit="MiB", less=True,
        )
    )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
