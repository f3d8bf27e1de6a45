"""The arguments of ``keras-featx import-paddle``. Imports no framework."""

import logging

from keras_featx.config import dump_config, from_dict, load_config, read_yaml
from keras_featx.errors import ConfigError

log = logging.getLogger(__name__)


def add_arguments(command) -> None:
    """Add them to the command of the command line."""
    add = command.add_argument
    add(
        "weights", metavar="FILE",
        help=".pdparams, or .pdiparams beside its .pdmodel or .json; or a .yaml config, which "
        "becomes one of ours",
    )  # fmt: skip
    add(
        "--output",
        required=True,
        metavar="PATH",
        help="a folder for Global.pretrained_model, or our .yaml",
    )
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


def _import_config(options) -> dict:
    """Write our config for one of PaddleClas."""
    from keras_featx.data import outputs
    from keras_featx.interop.paddle_config import convert_config

    tree = read_yaml(options.weights)
    ours, notes = convert_config(tree, options.weights)
    for note in notes:
        log.info("%s", note)
    outputs.write_bytes(options.output, dump_config(from_dict(ours)).encode())
    return {"output": options.output, "notes": notes}


def run(options) -> dict:
    """Carry out the command."""
    if options.weights.endswith((".yaml", ".yml")):
        return _import_config(options)
    if options.config is None:
        raise ConfigError("-c FILE.yaml: missing; it describes the network of the weights")
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
