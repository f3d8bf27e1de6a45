"""What averaging over views and better rankings add on `grocery`, and what they cost.

Recall@1 of each beside that of plain cosines of the same network. The other figures are in the
result file: mAP, mINP, and the seconds of what differs. Those are of embedding both lists for
views, and of measuring, which is mostly ranking, for rankings.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import side_by_side

sys.path.insert(0, str(side_by_side.HERE.parent))

import tensorflow as tf  # noqa: E402

from keras_featx import build_model, embed  # noqa: E402
from keras_featx.config import from_dict  # noqa: E402
from keras_featx.data import lists  # noqa: E402
from keras_featx.evaluation import measure  # noqa: E402
from keras_featx.views import as_configured  # noqa: E402
from keras_featx.weights import pretrained_config  # noqa: E402

METRICS = [{"name": "Recallk", "topk": [1]}, "mAP", "mINP"]
FLIP, CROPS = {"flip": True}, {"crops": 5, "crop": 0.875}
PLAIN = "plain cosine"
VIEWS = {PLAIN: None, "flip": FLIP, "five crops": CROPS, "flip + five crops": FLIP | CROPS}
WHITENING = {f"Whitening, {size}": [{"name": "Whitening", "size": size}] for size in (32, 64, 128)}
AUGMENTATION = {"name": "DatabaseAugmentation", "k": 5, "alpha": 3.0}
ALPHA = {"name": "QueryExpansion", "k": 5, "alpha": 3.0}
RANKINGS = WHITENING | {
    "DatabaseAugmentation": [AUGMENTATION],
    "QueryExpansion, average": [{"name": "QueryExpansion", "k": 5}],
    "QueryExpansion, alpha 3": [ALPHA],
    "KReciprocal": ["KReciprocal"],
    "DatabaseAugmentation + QueryExpansion, alpha 3": [AUGMENTATION, ALPHA],
}
# Views, and what follows.
TOGETHER = {
    "flip + KReciprocal": ("flip", ["KReciprocal"]),
    "flip + five crops + QueryExpansion, alpha 3": ("flip + five crops", [ALPHA]),
    "flip + five crops + KReciprocal": ("flip + five crops", ["KReciprocal"]),
}


def main() -> None:
    """Measure and write results/rankings.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that holds grocery")
    parser.add_argument(
        "--weights", required=True, help="a folder of weights, or the name of weights shipped here"
    )
    parser.add_argument("--dry-run", action="store_true", help="write no file")
    side_by_side.add_arguments(parser, (), rounds=3)
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    config = pretrained_config(args.weights, [f"Global.pretrained_model={args.weights}"])
    folder = Path(args.data) / "grocery"
    parts = [
        lists.imagenet_list(image_root=str(folder), cls_label_path=str(folder / f"{name}_list.txt"))
        for name in ("query", "gallery")
    ]
    vectors, embedding = _embedded(config, build_model(config), parts, args.rounds)
    cases = {name: (name, []) for name in VIEWS}
    cases |= {name: (PLAIN, steps) for name, steps in RANKINGS.items()} | TOGETHER
    found, ranking = _measured(cases, parts, vectors, args.rounds)
    detail = {
        name: {
            **{key: round(found[name][key], 4) for key in ("recall@1", "map", "minp")},
            "embedding_seconds": embedding[views],
            "ranking_seconds": ranking[name],
        }
        for name, (views, _) in cases.items()
    }
    for name, figures in detail.items():
        side_by_side.note(f"  {name}: {figures}")
    if not args.dry_run:
        command = f"python benchmarks/rankings.py --data DATA --weights RUN --rounds {args.rounds}"
        side_by_side.write_results("rankings", command, _rows(detail), detail=detail)


def _embedded(config, model, parts, rounds: int) -> tuple[dict, dict]:
    """Embeddings of query and gallery by each kind of views, and the seconds they took."""
    models = {}
    for name, views in VIEWS.items():
        section = from_dict({"Metric": {"Views": views}}).Metric.Views
        models[name], count = as_configured(model, section)
        batch_size = max(1, 64 // count)
        embed(models[name], parts[0].take(range(batch_size)), config.Arch.Preprocess)  # traces it
        models[name] = models[name], config.Arch.Preprocess, batch_size
    vectors, seconds = {}, {name: [] for name in VIEWS}
    for _ in range(rounds):
        for name, (one, *how) in models.items():
            start = time.perf_counter()
            vectors[name] = [embed(one, part, *how) for part in parts]
            seconds[name].append(time.perf_counter() - start)
    return vectors, _medians(seconds)


def _measured(cases, parts, vectors, rounds: int) -> tuple[dict, dict]:
    """The figures of each case, and the seconds from embeddings to them."""
    results, seconds = {}, {name: [] for name in cases}
    for _ in range(rounds):
        for name, (views, steps) in cases.items():
            section = from_dict({"Metric": {"Eval": METRICS, "Ranking": steps}}).Metric
            start = time.perf_counter()
            results[name] = measure(section, *parts, *vectors[views])
            seconds[name].append(time.perf_counter() - start)
    return results, _medians(seconds)


def _medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(some), 3) for name, some in seconds.items()}


def _rows(detail: dict[str, dict]) -> list[dict]:
    plain = detail[PLAIN]
    return [
        side_by_side.row(
            f"Recall@1 on grocery: {name}", figures["recall@1"], PLAIN, plain["recall@1"], None,
            unit="fraction", map=figures["map"], map_of_peer=plain["map"], minp=figures["minp"],
            minp_of_peer=plain["minp"],
        )
        for name, figures in detail.items()
        if name != PLAIN
    ]  # fmt: skip


if __name__ == "__main__":
    main()
