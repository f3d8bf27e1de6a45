"""The arguments of ``keras-featx gallery``. Imports no framework."""

from keras_featx.config import parse_yaml
from keras_featx.errors import ConfigError


def add_arguments(commands) -> None:
    """Add them to the commands of the command line."""
    gallery = commands.add_parser("gallery", help="embeddings of known identities, to search in")
    pack = gallery.add_subparsers(required=True, metavar="WHAT").add_parser(
        "pack", help="embed images by a .tflite and write the gallery file of devices"
    )
    pack.add_argument("model", metavar="MODEL.tflite", help="the file that the device runs")
    pack.add_argument(
        "--dataset", required=True, metavar="DATASET",
        help="such as '{name: ClassFolders, image_root: images}'",
    )  # fmt: skip
    pack.add_argument("--output", required=True, metavar="FILE.kfg")
    pack.add_argument(
        "--precision", choices=["float16", "int8"], default="float16", help="default: %(default)s"
    )
    pack.add_argument(
        "--threshold", type=float, metavar="COSINE",
        help="from which on two images are the same (default: that of card.json beside the model)",
    )  # fmt: skip
    pack.set_defaults(command=_pack)


def _pack(options) -> dict:
    dataset = parse_yaml(options.dataset, "--dataset")
    if not isinstance(dataset, dict):
        raise ConfigError(f"--dataset: expected {{name: ..., ...}}, got {options.dataset!r}")
    from keras_featx.device_gallery import pack_gallery

    return pack_gallery(
        options.model, dataset, options.output, options.precision, options.threshold
    )
