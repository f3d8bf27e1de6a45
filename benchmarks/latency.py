"""Milliseconds of an embedding: our exports in their runtimes, beside Paddle Inference and timm.

LCNet x1.0 and x2.5 with a 512-d linear neck and unit norm at 224 pixels, batch 1 and 32, one
thread and two; from pixels of that size to embeddings. OpenVINO runs our ONNX file. The last peer
is a bare matrix product of as many multiply-adds.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import side_by_side

sys.path.insert(0, str(side_by_side.HERE.parent))

import keras  # noqa: E402
import numpy as np  # noqa: E402

from keras_featx.config import from_dict  # noqa: E402
from keras_featx.exporters import litert, onnx_file, quantize, saved_model  # noqa: E402
from keras_featx.exporters.deploy import deploy_form  # noqa: E402
from keras_featx.models import build_extractor  # noqa: E402

PEERS = side_by_side.HERE / "peers"
CASES = ("1.0@224x1", "1.0@224x32", "2.5@224x1", "2.5@224x32")
# Beside Paddle: within 1.15 of its time, at or below it, at half of it.
GOALS = {"saved_model": 0.87, "tflite": 1.0, "onnx": 1.0, "tflite_int8": 2.0}
FILES = {
    "saved_model": ("saved_model", "saved_model"),
    "tflite": ("tflite", "model.tflite"),
    "tflite_dynamic": ("tflite", "dynamic.tflite"),
    "tflite_int8": ("tflite", "int8.tflite"),
    "onnx": ("onnx", "model.onnx"),
    "openvino": ("openvino", "model.onnx"),
}


def main() -> None:
    """Measure and write results/latency.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    side_by_side.add_arguments(parser, ("paddle", "timm", "openvino"), rounds=5)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="SCALE@PIXELSxBATCH")
    parser.add_argument("--counts", nargs="+", type=int, default=(1, 2), help="of threads")
    parser.add_argument("--dry-run", action="store_true", help="write no file")
    args = parser.parse_args()
    rows, detail, versions = [], {}, {}
    for case in args.cases:
        scale, _, rest = case.partition("@")
        pixels, batch = map(int, rest.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            macs = _write(Path(folder), float(scale), pixels)
            for threads in args.counts:
                what = f"LCNet x{scale}, {pixels} px, batch {batch}, {threads} thread(s)"
                side_by_side.note(what)
                workers = _workers(args, Path(folder), scale, pixels, batch, threads, macs)
                side_by_side.alternate(workers, args.rounds, max(3, 40 // batch), warm_up=5)
                found = {}
                for worker in workers:
                    worker.close()
                    versions |= worker.about
                    found[worker.name] = {
                        "median_ms": round(1000 * statistics.median(worker.seconds), 2),
                        "best_ms": round(1000 * min(worker.seconds), 2),
                        "peak_mib": worker.peak_mib,
                    }
                    side_by_side.note(f"  {worker.name}: {found[worker.name]}")
                detail[what] = found
                rows += _rows(what, found)
    if not args.dry_run:
        peers = [p for p in ("paddle", "timm", "openvino") if getattr(args, f"{p}_python")]
        given = " ".join(f"--{p}-python {p.upper()}_PYTHON" for p in peers)
        command = (
            f"python benchmarks/latency.py {given} --rounds {args.rounds} "
            f"--cases {' '.join(args.cases)} --counts {' '.join(map(str, args.counts))}"
        )
        side_by_side.write_results("latency", command, rows, versions=versions, detail=detail)


def _write(folder: Path, scale: float, pixels: int) -> int:
    """Artefacts of a network whose activations live, though it has learnt nothing; its MACs."""
    tree = {
        "Arch": {
            "image_size": [pixels, pixels],
            "Backbone": {"name": "LCNet", "scale": scale},
            "Neck": {"name": "Dense", "embedding_size": 512},
        }
    }
    config = from_dict(tree)
    keras.utils.set_random_seed(0)
    model = build_extractor(config.Arch)
    images = np.random.default_rng(0).integers(0, 256, (8, pixels, pixels, 3), np.uint8)
    for _ in range(30):  # batch statistics that fit
        model(images.astype("float32"), training=True)
    deployed = deploy_form(model)
    saved_model.save(deploy_form(model, basic=True), config.Arch.Preprocess, folder / "saved_model")
    litert.save(deployed, folder / "model.tflite")
    litert.save(deployed, folder / "dynamic.tflite", "int8")
    litert.save(quantize.integer_form(model, images), folder / "int8.tflite", "int8")
    onnx_file.save(deployed, folder / "model.onnx")
    return sum(_macs(layer) for layer in deployed.layers)


def _macs(layer: keras.Layer) -> int:
    """Multiply-adds of an image in a layer."""
    if not isinstance(
        layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense
    ):
        return 0
    places = int(np.prod(layer.output.shape[1:-1]))
    return places * int(np.prod(layer.kernel.shape))


def _workers(args, folder: Path, scale, pixels, batch, threads, macs) -> list[side_by_side.Worker]:
    case = (pixels, batch, threads)
    workers = []
    for name, (kind, file) in FILES.items():
        python = args.openvino_python if kind == "openvino" else sys.executable
        if python:
            given = (kind, folder / file, *case)
            workers.append(
                side_by_side.Worker(name, python, PEERS / "ours_latency.py", given, threads)
            )
        else:
            side_by_side.note(f"  {name} is left out: no --openvino-python")
    for name, python in (("paddle", args.paddle_python), ("timm", args.timm_python)):
        if python:
            script = PEERS / f"{name}_latency.py"
            workers.append(side_by_side.Worker(name, python, script, (scale, *case), threads))
        else:
            side_by_side.note(f"  {name} is left out: no --{name}-python")
    script = PEERS / "product_bound.py"
    given = (macs, batch, threads)
    workers.append(side_by_side.Worker("bare product", sys.executable, script, given, threads))
    return workers


def _rows(what: str, found: dict) -> list[dict]:
    def row(name: str, peer: str, goal: float | None) -> dict:
        ours, theirs = found[name]["median_ms"], found[peer]["median_ms"]
        return side_by_side.row(f"{name}: {what}", ours, peer, theirs, goal, unit="ms", less=True)

    rows = [row(name, "bare product", None) for name in ("tflite", "onnx")]
    for peer in ("paddle", "timm"):
        if peer in found:
            names = [name for name in FILES if name in found]
            goals = GOALS if peer == "paddle" else {}
            rows += [row(name, peer, goals.get(name)) for name in names]
    return rows


if __name__ == "__main__":
    main()
