"""The arguments of ``keras-featx import-paddle``. Imports no framework."""

from keras_featx.config import load_config


def add_arguments(command) -> None:
    """Add them to the command of the command line."""
    add = command.add_argument
    add(
        "weights", metavar="WEIGHTS",
        help=".pdparams, or .pdiparams beside its .pdmodel or .json",
    )  # fmt: skip
    add("--output", required=True, metavar="FOLDER", help="for Global.pretrained_model")
    add(
        "--prefix", metavar="NAME.",
        help="what the names of the network begin with, where there are several, such as Teacher. "
        "(default: the only network, or the only student)",
    )  # fmt: skip
    add("--model", metavar="FILE", help="the .pdmodel or .json of a .pdiparams, if elsewhere")
    add(
        "--dropout", type=float, metavar="RATE",
        help="dropout_prob of the reference's backbone, of which a .pdparams says nothing "
        "(default: 0.2)",
    )  # fmt: skip
    add(
        "--fresh-neck", action="store_true",
        help="the file has no neck: keep its initial weights",
    )  # fmt: skip


def run(options) -> dict:
    """Carry out the command."""
    config = load_config(options.config, options.override)
    from keras_featx.interop.paddle import import_paddle

    return import_paddle(
        options.weights,
        config,
        options.output,
        prefix=options.prefix,
        model=options.model,
        dropout=options.dropout,
        fresh_neck=options.fresh_neck,
    )
