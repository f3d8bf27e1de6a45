"""The arguments of ``keras-featx gallery``. Imports no framework."""

import importlib
from collections.abc import Callable

from keras_featx.gallery.backends import SETTINGS
from keras_featx.gallery.decisions import COMBINE
from keras_featx.gallery.segments import PRECISIONS

_SOURCE = (
    "a folder with one folder per identity, a .csv or .parquet table, an .npz of embeddings, or "
    "such as '{name: ImageNetDataset, image_root: ..., cls_label_path: ...}'"
)


def add_arguments(commands) -> None:
    """Add them to the commands of the command line."""
    gallery = commands.add_parser("gallery", help="embeddings of known identities, to search in")
    verbs = gallery.add_subparsers(required=True, metavar="WHAT")
    _add_filling(verbs)
    _add_asking(verbs)
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


def _add_backend(command) -> None:
    command.add_argument(
        "--backend", metavar="BACKEND", help=f"what searches: {', '.join(SETTINGS)}, or such as "
        "'{name: faiss-hnsw, search: 256}' (default: auto)",
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
    _add_backend(build)
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


def _add_asking(verbs) -> None:
    search = _verb(verbs, "search", "say whose images are")
    search.add_argument("image", nargs="+", metavar="IMAGE_OR_FOLDER")
    _add_model(search)
    _add_backend(search)
    search.add_argument("-k", type=int, metavar="NEIGHBOURS", help="to show (default: 5)")
    search.add_argument(
        "--threshold", type=float, metavar="COSINE", help="below it: of nobody known (default: "
        "that of `calibrate`; none where that was not done)",
    )  # fmt: skip
    search.add_argument(
        "--output", metavar="FILE", help="write the answers, a line of JSON each (.jsonl), or a "
        "panel of neighbours (.html, .png)",
    )  # fmt: skip
    search.add_argument(
        "--boxes", metavar="FILE", help="look at these parts of the images: .csv or .json"
    )
    search.add_argument(
        "--windows", action="store_true", help="look at parts of all sizes and places"
    )
    search.add_argument(
        "--overlap", type=float, default=0.5, metavar="SHARE", help="of two parts of one identity "
        "that overlap more, one is kept (default: %(default)s)",
    )  # fmt: skip
    calibrate = _verb(verbs, "calibrate", "find the threshold for a share of false accepts")
    calibrate.add_argument(
        "--far", type=float, default=0.01, help="share of strangers that may be accepted "
        "(default: %(default)s)",
    )  # fmt: skip
    calibrate.add_argument(
        "--unknown", metavar="SOURCE", help="images of identities that are not in the gallery "
        "(default: its own items, each among those of other identities)",
    )  # fmt: skip
    calibrate.add_argument(
        "--known", metavar="SOURCE", help="images of identities that are (default: its own items)"
    )
    calibrate.add_argument(
        "--image-root", default="", metavar="FOLDER", help="of the paths of tables"
    )
    _add_model(calibrate)
    calibrate.add_argument(
        "--per-identity", action="store_true", help="also a threshold for each identity"
    )
    for command in (calibrate, evaluate := _verb(verbs, "evaluate", "measure its answers")):
        command.add_argument("-k", type=int, help="neighbours that are looked at (default: 5)")
        command.add_argument(
            "--combine", choices=COMBINE, help="what scores an identity (default: max)"
        )
        command.add_argument(
            "--margin", type=float, metavar="COSINE",
            help="to the second identity, from which on an answer is believed (default: 0)",
        )  # fmt: skip
    _add_source(evaluate)
    _add_model(evaluate)
    evaluate.add_argument("--threshold", type=float, metavar="COSINE")
    evaluate.add_argument("--output", metavar="FOLDER", help="write figures and queries there")


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
