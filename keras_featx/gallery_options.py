"""The arguments of ``keras-featx gallery``. Imports no framework."""

import importlib
from collections.abc import Callable

_SOURCE = (
    "a folder with one folder per identity, a .csv or .parquet table, an .npz of embeddings, or "
    "such as '{name: ImageNetDataset, image_root: ..., cls_label_path: ...}'"
)
PRECISIONS = ("float32", "float16", "int8")


def add_arguments(commands) -> None:
    """Add them to the commands of the command line."""
    gallery = commands.add_parser("gallery", help="embeddings of known identities, to search in")
    verbs = gallery.add_subparsers(required=True, metavar="WHAT")
    _add_filling(verbs)
    _add_looking(verbs)
    _add_versions(verbs)
    _add_pack(verbs)


def _verb(verbs, name: str, help_text: str):
    """A verb of a gallery's folder; a function of its name in gallery_commands does it."""
    command = verbs.add_parser(name, help=help_text)
    command.add_argument("folder", metavar="GALLERY", help="its folder")
    command.set_defaults(command=_later(name))
    return command


def _later(name: str) -> Callable[..., dict]:
    def run(options) -> dict:
        return getattr(importlib.import_module("keras_featx.gallery_commands"), name)(options)

    return run


def _add_model(command) -> None:
    command.add_argument(
        "--model", metavar="MODEL", help="an export, weights, or the name of shipped ones "
        "(default: that which built the gallery)",
    )  # fmt: skip


def _add_source(command, name: str = "source", help_text: str = _SOURCE, **more) -> None:
    command.add_argument(name, metavar="SOURCE", help=help_text, **more)
    if name == "source":
        command.add_argument(
            "--image-root", default="", metavar="FOLDER", help="of the paths of a table"
        )


def _add_filling(verbs) -> None:
    build = _verb(verbs, "build", "make a gallery and embed its images")
    _add_source(build)
    build.add_argument(
        "--model", metavar="MODEL", help="an export, weights, or the name of shipped ones"
    )
    build.add_argument(
        "--precision", choices=PRECISIONS, default="float16", help="default: %(default)s"
    )
    build.add_argument("--overwrite", action="store_true", help="replace a gallery that is there")
    add = _verb(verbs, "add", "embed what is new or changed")
    update = _verb(verbs, "update", "embed what is changed; refuse what is not there")
    for command in (add, update):
        _add_source(command)
        _add_model(command)
    remove = _verb(verbs, "remove", "remove items")
    remove.add_argument("id", nargs="*", metavar="ID")
    remove.add_argument(
        "--identity", action="append", default=[], metavar="NAME",
        help="all items of it; repeatable",
    )  # fmt: skip
    reembed = _verb(verbs, "reembed", "embed all images again, by another model")
    reembed.add_argument("--model", required=True, metavar="MODEL", help="the other one")
    reembed.add_argument(
        "--moved", metavar="OLD=NEW", help="where paths begin with OLD, the images are at NEW now"
    )


def _add_looking(verbs) -> None:
    info = _verb(verbs, "info", "what is in a gallery")
    info.add_argument("--output", metavar="FILE.html", help="a page with histograms and a map")
    info.add_argument(
        "--examine", action="store_true",
        help="look for outliers, near-duplicates and identities that look like one",
    )  # fmt: skip
    _verb(verbs, "check", "read every file and compare its checksum")


def _add_versions(verbs) -> None:
    _verb(verbs, "compact", "write all items into one file, without those removed")
    rollback = _verb(verbs, "rollback", "go back to a version")
    rollback.add_argument("version", type=int, metavar="VERSION")
    prune = _verb(verbs, "prune", "forget old versions and free their files")
    prune.add_argument("--keep", type=int, default=10, help="versions (default: %(default)s)")


def _add_pack(verbs) -> None:
    pack = verbs.add_parser("pack", help="write the gallery file of devices")
    pack.add_argument("model", metavar="MODEL.tflite", help="the file that the device runs")
    pack.add_argument(
        "--dataset", metavar="DATASET",
        help="embed these, such as '{name: ClassFolders, image_root: images}'",
    )  # fmt: skip
    pack.add_argument(
        "--gallery", metavar="GALLERY", help="take the items of a gallery of that model"
    )
    pack.add_argument("--output", required=True, metavar="FILE.kfg")
    pack.add_argument(
        "--precision", choices=PRECISIONS[1:], default="float16", help="default: %(default)s"
    )
    pack.add_argument(
        "--threshold", type=float, metavar="COSINE",
        help="from which on two images are the same (default: that of the gallery, or of "
        "card.json beside the model)",
    )  # fmt: skip
    pack.set_defaults(command=_later("pack"))
