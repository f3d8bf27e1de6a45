"""What shorter, coarser and re-ranked embeddings keep of Recall@1 on `grocery`, and their bytes.

Recall@1 of each beside that of the whole embedding in float32, of the same network; bytes of an
image, intervals and mAP beside them; all precisions and rankings are in `detail`.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import side_by_side

ROOT = side_by_side.HERE.parent
WHOLE = "whole, float32"
SIZES = "256,128,64,32"
SHOWN = {("float32", "plain"), ("sign", "plain")}


def main() -> None:
    """Measure and write results/compact.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that holds grocery")
    parser.add_argument("--weights", required=True, help="a folder of weights, trained on it")
    parser.add_argument("--dry-run", action="store_true", help="write no file")
    args = parser.parse_args()
    found = _measured(args.data, str(Path(args.weights).resolve()))
    plain = found["rows"][0]
    # Float16 is as good as float32 throughout; re-ranking of one precision shows what it does.
    chosen = [
        one for one in found["rows"][1:]
        if one["precision"] == "int8" or (one["precision"], one["ranking"]) in SHOWN
    ]  # fmt: skip
    rows = [_row(one, plain) for one in chosen]
    counts = {key: found[key] for key in ("queries", "gallery", "fitted_to")}
    if not args.dry_run:
        command = "python benchmarks/compact.py --data DATA --weights RUN"
        side_by_side.write_results("compact", command, rows, **counts, detail=found["rows"])


def _measured(data: str, weights: str) -> dict:
    command = [
        sys.executable, "-m", "keras_featx.cli", "compress",
        "-c", str(ROOT / "configs" / "grocery_lcnet_x0_5.yaml"),
        "-o", f"Global.pretrained_model={weights}", "--rerank", "--sizes", SIZES,
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=data, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _row(one: dict, plain: dict) -> dict:
    how = f"first {one['size']}" if one["shortened"] == "prefix" else f"PCA {one['size']}"
    again = "" if one["ranking"] == "plain" else f", {one['ranking']}"
    return side_by_side.row(
        f"Recall@1 on grocery: {how if one['shortened'] else 'whole'}, {one['precision']}{again}",
        round(one["recall@1"], 4), WHOLE, round(plain["recall@1"], 4), None, unit="fraction",
        bytes=one["bytes"], bytes_of_peer=plain["bytes"], map=round(one["map"], 4),
        interval=[round(one["low"], 4), round(one["high"], 4)],
    )  # fmt: skip


if __name__ == "__main__":
    main()
