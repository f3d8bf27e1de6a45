"""The command line: the only place that parses arguments, prints results and exits."""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence

from keras_featx import bulk_options as bulk
from keras_featx import compress
from keras_featx import gallery_options as gallery
from keras_featx._version import __version__
from keras_featx.config import apply_overrides, from_dict, load_config, parse_yaml
from keras_featx.doctor import options as doctor
from keras_featx.errors import ConfigError, RunError
from keras_featx.export_section import FORMATS
from keras_featx.interop import options as interop
from keras_featx.interrupts import unwinding
from keras_featx.serving import options as serving

EPILOG = """exit status: 0 done, 1 failed, 2 wrong use.
The result is one JSON object on the last line of standard output; logs go to standard error."""


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # it names temporary folders
    try:
        with unwinding():
            result = options.command(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 1
    print(json.dumps(result), flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    root = argparse.ArgumentParser(
        prog="keras-featx",
        description="Train, measure and export image embedders.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    train = _with_config(commands, "train", _train, "train an extractor")
    train.add_argument(
        "--strategy", choices=["auto", "single", "mirrored"], help="the same as -o Global.strategy"
    )
    evaluate = _with_config(commands, "eval", _evaluate, "measure retrieval of query in gallery")
    evaluate.add_argument(
        "--output",
        metavar="FOLDER",
        help="write report.html, evaluation.json and evaluation_queries.csv, a row for each query, "
        "there (of DataLoader.Eval.Sets: evaluation_NAME.json and so on)",
    )
    export = _with_config(commands, "export", _export, "write the extractor for other runtimes")
    export.add_argument(
        "--format", action="append", metavar="NAME", help=f"one of {', '.join(FORMATS)}; "
        "repeatable (default: Export.formats of the config)",
    )  # fmt: skip
    export.add_argument(
        "--overwrite", action="store_true", default=None, help="replace an export that is there"
    )
    verify = commands.add_parser("verify", help="open an export again and compare it with Keras")
    verify.add_argument("folder", metavar="FOLDER")
    verify.add_argument(
        "--weights", metavar="NAME_OR_FOLDER", help="measure Recall@1 again, with Keras beside it"
    )
    verify.set_defaults(command=_verify)
    predict = _with_config(commands, "predict", _predict, "embed images", required=False)
    predict.add_argument("image", nargs="+", metavar="IMAGE_OR_FOLDER")
    predict.add_argument(
        "--output", default="features.npz", help="FILE.npz or FILE.jsonl (default: %(default)s)"
    )
    predict.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")

    preview = _with_config(commands, "preview", _preview, "a sheet of augmented training images")
    preview.add_argument("--output", default="preview.png", help="FILE.png (default: %(default)s)")
    preview.add_argument("--samples", type=int, default=8, help="default: %(default)s")
    preview.add_argument("--draws", type=int, default=7, help="of each; default: %(default)s")
    _add_pack(commands)
    doctor.add_arguments(
        _with_config(commands, "doctor", _doctor, "check a data set before training", False)
    )
    gallery.add_arguments(commands)
    interop.add_arguments(
        _with_config(commands, "import-paddle", interop.run, "take over PaddleClas' weights", False)
    )
    compress.add_arguments(
        _with_config(commands, "compress", compress.run, "Recall@1 of shorter embeddings", False)
    )
    bulk.add_arguments(commands)
    serve = commands.add_parser("serve", help="answer embeddings over HTTP")
    serving.add_arguments(serve)
    serve.set_defaults(command=_serve)

    quickstart = commands.add_parser(
        "quickstart", help="the whole path on the images that ship with the package"
    )
    quickstart.add_argument(
        "--output", default="quickstart", help="the run folder (default: %(default)s)"
    )
    quickstart.add_argument("-o", dest="override", action="append", default=[], metavar="KEY=VALUE")
    quickstart.set_defaults(command=_quickstart)
    return root


def _with_config(commands, name: str, function, help_text: str, required: bool = True):
    command = commands.add_parser(name, help=help_text)
    command.add_argument("-c", "--config", required=required, metavar="FILE.yaml")
    command.add_argument(
        "-o",
        dest="override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, such as Global.epochs=1; repeatable",
    )
    command.set_defaults(command=function)
    return command


def _add_pack(commands) -> None:
    pack = _with_config(commands, "pack", _pack, "put images into few large files", required=False)
    pack.add_argument("--output", required=True, metavar="FOLDER", help="a folder or an address")
    pack.add_argument(
        "--part", choices=["train", "query", "gallery", "all"], default="all",
        help="of the config: its training list or an evaluation list (default: %(default)s)",
    )  # fmt: skip
    pack.add_argument(
        "--dataset",
        metavar="DATASET",
        help="without a config: what to pack as PART, such as "
        "'{name: ClassFolders, image_root: images}'",
    )
    pack.add_argument(
        "--format", choices=["tfrecord", "tar"], default="tfrecord", help="default: %(default)s"
    )
    pack.add_argument(
        "--shard-mb", type=float, default=256, metavar="MIB", help="default: %(default)s"
    )
    pack.add_argument(
        "--short-side", type=int, metavar="PIXELS", help="shrink larger images to this short side"
    )
    pack.add_argument(
        "--quality", type=int, default=95, help="of shrunk JPEGs (default: %(default)s)"
    )
    pack.add_argument(
        "--lossless", action="store_true", help="shrunk images that were PNG stay PNG"
    )


def _doctor(options) -> dict:
    from keras_featx.doctor.options import from_arguments

    sources, chosen = from_arguments(options)
    from keras_featx.doctor.checkup import examine

    result = examine(sources, options.output, chosen)
    if options.strict and result["stop_or_spoil"]:
        print(json.dumps(result), flush=True)
        raise RunError(
            f"--strict: {result['stop_or_spoil']} findings would stop or spoil training or "
            f"evaluation; see {result['report']}"
        )
    return result


def _train(options) -> dict:
    overrides = list(options.override)
    if options.strategy:
        overrides.append(f"Global.strategy={options.strategy}")
    config = load_config(options.config, overrides)
    from keras_featx.training import train

    return train(config)


def _evaluate(options) -> dict:
    config = load_config(options.config, options.override)
    from keras_featx.data.outputs import make_folder
    from keras_featx.data.samples import join
    from keras_featx.evaluation import measure_sets, trained_model
    from keras_featx.evaluation_data import load_eval_sets

    started = time.perf_counter()
    sets = load_eval_sets(config)
    model = trained_model(config)
    found = measure_sets(config, model, sets)
    results = {name: one.result for name, one in found.items()}
    for name, result in results.items():
        print(f"{name}\n{result}" if name else result, file=sys.stderr)
    if options.output:
        make_folder(options.output)
        for name, result in results.items():
            file = join(options.output, f"evaluation_{name}" if name else "evaluation")
            result.write_json(f"{file}.json")
            result.write_csv(f"{file}_queries.csv")
        from keras_featx.report.run_page import write_report

        write_report(
            join(options.output, "report.html"),
            config=config,
            sets=found,
            weights=model.count_params(),
            title="/".join(config.Global.pretrained_model.rstrip("/").split("/")[-2:]),
        )
    told = {
        name: {**result, "intervals": result.intervals, "left_out": result.left_out}
        for name, result in results.items()
    }
    seconds = round(time.perf_counter() - started, 1)
    return {**(told if config.DataLoader.Eval.Sets else told[""]), "seconds": seconds}


def _export(options) -> dict:
    config = load_config(options.config, options.override)
    from keras_featx.exporters import export
    from keras_featx.exporters.card import table

    result = export(config, formats=options.format, overwrite=options.overwrite)
    print(table(result["variants"]), file=sys.stderr)
    return {k: v for k, v in result.items() if k != "variants"}


def _verify(options) -> dict:
    from keras_featx.exporters.card import table
    from keras_featx.exporters.verify import verify

    result = verify(options.folder, options.weights)
    print(table(result["variants"]), file=sys.stderr)
    return result


def _serve(options) -> dict:
    chosen = serving.from_arguments(options)
    from keras_featx.serving.server import serve

    return serve(chosen)


def _preview(options) -> dict:
    config = load_config(options.config, options.override)
    from keras_featx.preview import preview

    return preview(config, options.output, samples=options.samples, draws=options.draws)


def _predict(options) -> dict:
    config = _predict_config(options)
    from keras_featx.prediction import predict_to_file

    return predict_to_file(config, options.image, options.output, options.batch_size)


def _predict_config(options):
    if options.config:
        return load_config(options.config, options.override)
    keys = ("pretrained_model", "Global.pretrained_model")
    pairs = [override.partition("=") for override in options.override]
    names = [parse_yaml(value, f"-o {key}") for key, _, value in pairs if key in keys]
    if not names or not isinstance(names[-1], str):
        raise ConfigError("-c FILE.yaml: missing (or -o Global.pretrained_model=NAME)")
    from keras_featx.weights import pretrained_config

    return pretrained_config(names[-1], options.override)


def _pack(options) -> dict:
    if (options.config is None) == (options.dataset is None):
        raise ConfigError("pack: expected -c FILE.yaml or --dataset, one of them")
    how = {
        name: getattr(options, name)
        for name in ("format", "shard_mb", "short_side", "quality", "lossless")
    }
    if options.dataset is None:
        config = load_config(options.config, options.override)
        from keras_featx.packing import pack_config

        return pack_config(config, options.output, options.part, **how)
    tree = {"DataLoader": {"Train": {"dataset": parse_yaml(options.dataset, "--dataset")}}}
    config = from_dict(apply_overrides(tree, options.override))
    from keras_featx.packing import pack_source

    name = "train" if options.part == "all" else options.part
    return pack_source(config.DataLoader.Train.dataset.source, options.output, name, **how)


def _quickstart(options) -> dict:
    from keras_featx.quickstart import quickstart

    result, report = quickstart(options.output, options.override)
    print(report)
    return result


if __name__ == "__main__":
    run()
