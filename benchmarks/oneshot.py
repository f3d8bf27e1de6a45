"""Omniglot's official one-shot test: 20 runs, each of 20 drawings to find among 20 others.

A query is matched only with the gallery of its run (``class_id // 100``); the score is the share
of the 400 queries whose nearest gallery image is of their character. Train with
configs/omniglot_oneshot_lcnet_x0_5.yaml, which uses the background characters alone.
"""

import argparse
import sys
from pathlib import Path

import side_by_side

sys.path.insert(0, str(side_by_side.HERE.parent))

import numpy as np  # noqa: E402

from keras_featx import build_model, embed, retrieval_metrics  # noqa: E402
from keras_featx.data import lists  # noqa: E402
from keras_featx.weights import pretrained_config  # noqa: E402

# As published for training on 964 background characters (Koch et al. 2015, Lake et al. 2015).
PUBLISHED = {"convolutional Siamese network": 0.92, "people": 0.955, "affine model": 0.818}
GOAL = 0.90


def main() -> None:
    """Measure and write results/oneshot.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that holds omniglot")
    parser.add_argument("--weights", required=True, metavar="FOLDER", help="of a training run")
    args = parser.parse_args()
    folder = Path(args.data) / "omniglot"
    config = pretrained_config(args.weights, [f"Global.pretrained_model={args.weights}"])
    model = build_model(config)
    query, gallery = (
        lists.imagenet_list(
            image_root=str(folder), cls_label_path=str(folder / f"oneshot_{part}_list.txt")
        )
        for part in ("query", "gallery")
    )
    embedded = [embed(model, part, config.Arch.Preprocess) for part in (query, gallery)]
    result = retrieval_metrics(
        embedded[0],
        query.labels,
        embedded[1],
        gallery.labels,
        query_groups=query.labels // 100,
        gallery_groups=gallery.labels // 100,
    )
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
        "python benchmarks/oneshot.py --data DATA --weights RUN",
        rows,
        queries=len(right),
        interval=result.intervals["recall@1"],
        by_run={int(run): float(right[runs == run].mean()) for run in np.unique(runs)},
    )


if __name__ == "__main__":
    main()
