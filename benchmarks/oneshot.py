"""Omniglot's official one-shot test: 20 runs, each of 20 drawings to find among 20 others.

A query is matched only with the gallery of its run (``class_id // 100``); the score is the share
of the 400 queries whose nearest gallery image is of their character: recall@1 of a training with
configs/omniglot_oneshot_lcnet_x0_5.yaml, which uses the background characters alone. Run it where
that ran, as its config names the lists.
"""

import argparse
import sys

import side_by_side

sys.path.insert(0, str(side_by_side.HERE.parent))

import numpy as np  # noqa: E402

from keras_featx import evaluate  # noqa: E402
from keras_featx.weights import pretrained_config  # noqa: E402

# As published for training on 964 background characters (Koch et al. 2015, Lake et al. 2015).
PUBLISHED = {"convolutional Siamese network": 0.92, "people": 0.955, "affine model": 0.818}
GOAL = 0.90


def main() -> None:
    """Measure and write results/oneshot.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, metavar="FOLDER", help="of a training run")
    args = parser.parse_args()
    overrides = [f"Global.pretrained_model={args.weights}"]
    for part in ("Query", "Gallery"):  # a run of an earlier config did not name them
        overrides.append(f"DataLoader.Eval.{part}.dataset.labels_per_group=100")
    result = evaluate(pretrained_config(args.weights, overrides))
    found = round(result["recall@1"], 4)
    right, runs = result.per_query["recall@1"], result.labels // 100
    what = "Omniglot one-shot, 20 ways within an alphabet, 242 background characters"
    rows = [
        side_by_side.row(
            what, found, f"{peer}, 964 background characters", theirs, round(GOAL / theirs, 2),
            unit="fraction",
        )
        for peer, theirs in PUBLISHED.items()
    ]  # fmt: skip
    side_by_side.write_results(
        "oneshot",
        "python benchmarks/oneshot.py --weights RUN",
        rows,
        queries=len(right),
        interval=result.intervals["recall@1"],
        by_run={int(run): float(right[runs == run].mean()) for run in np.unique(runs)},
    )


if __name__ == "__main__":
    main()
