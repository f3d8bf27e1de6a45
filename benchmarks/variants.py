"""Every exported variant of a trained network: Recall@1, size, milliseconds of an image.

The export's own gate measures them, each in its runtime, on the query and gallery of the weights'
config, and integers once more after `Export.tune`. Run it where the training ran, as its config
names the lists.
"""

import argparse
import dataclasses
import sys
import tempfile

import side_by_side

sys.path.insert(0, str(side_by_side.HERE.parent))

from keras_featx import export, models  # noqa: E402
from keras_featx.export_section import EXACT, FORMATS, REDUCED, TuneSection  # noqa: E402
from keras_featx.weights import pretrained_config  # noqa: E402

INTEGERS, TUNED = "tflite_int8", "tflite_int8, tuned"


def main() -> None:
    """Measure and write results/variants.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, metavar="FOLDER", help="of a training run")
    parser.add_argument("--steps", type=int, default=400, help="of tuning (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="write no file")
    args = parser.parse_args()
    config = pretrained_config(args.weights, [f"Global.pretrained_model={args.weights}"])
    model = models.build_model(config)
    # What falls short is to be told here, not refused.
    section = dataclasses.replace(config.Export, max_recall_loss=1.0)
    with tempfile.TemporaryDirectory() as folder:
        place = dataclasses.replace(config.Global, save_inference_dir=f"{folder}/export")
        config = dataclasses.replace(config, Export=section, Global=place)
        figures = export(config, model, formats=FORMATS)["variants"]
        tuned = dataclasses.replace(section, tune=TuneSection(steps=args.steps))
        config = dataclasses.replace(config, Export=tuned)
        more = export(config, model, formats=["tflite", INTEGERS], overwrite=True)["variants"]
        figures[TUNED] = more[INTEGERS]
    keras = figures["tflite"]["recall@1"] + figures["tflite"]["recall@1_loss"]
    first = figures["tflite"]
    rows = []
    for name in (*FORMATS, TUNED):
        one = figures[name]
        goal = None if name in EXACT else round(1 - 0.005 / keras, 4)
        recall = round(one["recall@1"], 4)
        what = f"Recall@1 of {name}"
        rows.append(side_by_side.row(what, recall, "Keras", round(keras, 4), goal, unit="fraction"))
    for name in (*REDUCED, TUNED):
        one = figures[name]
        for what, key, unit in (("size", "bytes", "bytes"), ("one image", "latency_ms", "ms")):
            row = side_by_side.row(
                f"{what}, {name}", one[key], "tflite", first[key], None, unit=unit, less=True
            )
            rows.append(row)
    if args.dry_run:
        side_by_side.note("\n".join(map(str, rows)))
        return
    command = f"python benchmarks/variants.py --weights RUN --steps {args.steps}"
    about = f"LCNet {dict(config.Arch.Backbone.args)}, {config.Arch.image_size[0]} px"
    side_by_side.write_results("variants", command, rows, network=about, detail=figures)


if __name__ == "__main__":
    main()
