"""What to check, and what to look for. Imports no framework."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from keras_featx.config import from_dict, load_config, parse_yaml
from keras_featx.data.files import is_folder
from keras_featx.doctor.findings import PARTS, kinds_left_out
from keras_featx.errors import ConfigError
from keras_featx.sections import Component, Config


@dataclass(frozen=True)
class Limits:
    """What counts as a very small and a very large image.

    Attributes:
        small: Pixels of the short side below which it is very small.
        large: Megapixels above which it is very large.
        why_small: What the first was taken from, for messages.
    """

    small: int = 32
    large: float = 50.0
    why_small: str = ""


@dataclass(frozen=True)
class Cleaning:
    """How cleaned lists are written.

    Attributes:
        also: Further kinds whose rows are left out.
        keep: Kinds whose rows stay.
        force: Overwrite what is there.
    """

    also: Sequence[str] = ()
    keep: Sequence[str] = ()
    force: bool = False

    @property
    def kinds(self) -> set[str]:
        """The kinds whose rows are left out."""
        return kinds_left_out(self.also, self.keep)


@dataclass(frozen=True)
class Options:
    """What to look for.

    Attributes:
        limits: Of very small and very large images.
        class_num: Classes that the config states.
        model: A config with ``Global.pretrained_model``: look for wrong labels with this network.
        cleaning: Write cleaned lists.
    """

    limits: Limits = field(default_factory=Limits)
    class_num: int | None = None
    model: Config | None = None
    cleaning: Cleaning | None = None


def add_arguments(command) -> None:
    """The arguments of ``keras-featx doctor``, for an ``argparse`` parser that has ``-c``."""
    add = command.add_argument
    command.epilog = (
        "exit status: 0 checked, whatever was found (1 with --strict, if it would stop or spoil "
        "training or evaluation); docs/doctor.md"
    )
    for part in ("train", "query", "gallery"):
        add(f"--{part}", metavar="LIST_OR_FOLDER", help="in place of the config's")
    add("--image-root", metavar="FOLDER", help="of the paths of lists (default: that of the list)")
    add(
        "--dataset-name", metavar="NAME", help="of the lists, such as VeriWild (default: CSV for "
        "*.csv, else ImageNetDataset; ClassFolders for folders)",
    )  # fmt: skip
    add(
        "--set", dest="arguments", action="append", default=[], metavar="KEY=VALUE",
        help="a further argument of the lists, such as delimiter=,; repeatable",
    )  # fmt: skip
    add(
        "--model", metavar="NAME_OR_FOLDER", help="weights to look for wrong labels with (default: "
        "Global.pretrained_model of the config)",
    )  # fmt: skip
    add(
        "--small", type=int, metavar="PIXELS", help="a shorter side is very small (default: a "
        "quarter of the config's image size, else 32)",
    )  # fmt: skip
    add(
        "--large", type=float, default=50.0, metavar="MEGAPIXELS",
        help="more is very large (default: %(default)g)",
    )  # fmt: skip
    add(
        "--output", default="doctor", metavar="FOLDER",
        help="for doctor.html and doctor.json (default: %(default)s)",
    )  # fmt: skip
    add("--write-clean", action="store_true", help="write cleaned lists beside the old ones")
    add("--also", default="", metavar="KINDS", help="leave these out, too: near_duplicates,...")
    add("--keep", default="", metavar="KINDS", help="do not leave these out")
    add("--force", action="store_true", help="overwrite cleaned lists")
    add("--strict", action="store_true", help="exit 1 if training would be stopped or spoilt")


def from_arguments(arguments) -> tuple[dict[str, Component], Options]:
    """Lists and options of the command line, checked as far as can be without reading a list."""
    config = load_config(arguments.config, arguments.override) if arguments.config else None
    if config is None and arguments.override:
        raise ConfigError(f"-o {arguments.override[0]}: expected with -c FILE.yaml only")
    given = {part: getattr(arguments, part) for part in PARTS}
    found = of_config(config) if config else {}
    found |= of_paths(given, arguments.image_root, arguments.dataset_name, arguments.arguments)
    if not found:
        raise ConfigError("-c FILE.yaml: missing (or --train, --query or --gallery)")
    cleaning = None
    also, keep = (text.replace(",", " ").split() for text in (arguments.also, arguments.keep))
    if arguments.write_clean:
        kinds_left_out(also, keep)  # refuses unknown ones before anything is read
        cleaning = Cleaning(also, keep, arguments.force)
    elif also or keep or arguments.force:
        raise ConfigError("--also, --keep, --force: expected with --write-clean only")
    sources = {part: found[part] for part in PARTS if part in found}
    limits = _limits(arguments.small, arguments.large, config)
    model = _model(arguments.model, config)
    return sources, Options(limits, _class_num(config), model, cleaning)


def _class_num(config: Config | None) -> int | None:
    """Classes of the list that the config states."""
    stated = config.Arch.Head.args.get("class_num") if config else None
    train = config.DataLoader.Train if config else None
    if stated is None or train is None or not train.dataset.turned_identities:
        return stated
    return None if stated % 4 else stated // 4


def _limits(small: int | None, large: float, config: Config | None) -> Limits:
    for option, value in (("--small", small), ("--large", large)):
        if value is not None and not value > 0:
            raise ConfigError(f"{option}: expected a positive number, got {value}")
    if small is not None:
        return Limits(small, large)
    if config is None:
        return Limits(large=large)
    side = -(-min(config.Arch.image_size) // 4)
    return Limits(side, large, ", a quarter of Arch.image_size")


def _model(name: str | None, config: Config | None) -> Config | None:
    if name is None:
        return config if config and config.Global.pretrained_model else None
    from keras_featx.weights import pretrained_config

    try:
        return pretrained_config(name, [f"Global.pretrained_model={name}"])
    except ConfigError as error:
        key = "Global.pretrained_model"
        raise ConfigError(str(error).replace(key, "--model", 1)) from None


def of_config(config: Config) -> dict[str, Component]:
    """The lists a config names."""
    loader, found = config.DataLoader, {}
    if loader.Train is not None:
        found["train"] = loader.Train.dataset.source
    if loader.Eval is not None:
        _, pair = loader.Eval.only_pair()
        found |= {"query": pair.Query.dataset, "gallery": pair.Gallery.dataset}
    return found


def of_paths(
    paths: dict[str, str | None],
    image_root: str | None = None,
    name: str | None = None,
    arguments: Sequence[str] = (),
) -> dict[str, Component]:
    """Lists and folders given directly.

    Args:
        paths: By part; a folder holds one folder per identity.
        image_root: Folder the paths of lists are relative to; by default, that of the list.
        name: Of the data set; by default ``CSV`` for ``.csv``, else ``ImageNetDataset``.
        arguments: Further ones of the data set, as ``KEY=VALUE``.

    Example:
        >>> from keras_featx.doctor.options import of_paths
        >>> of_paths({"train": "photos/list.csv"})["train"].to_dict()
        {'name': 'CSV', 'image_root': 'photos', 'cls_label_path': 'photos/list.csv'}
    """
    more = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {argument}: expected KEY=VALUE, such as delimiter=,")
        # A blank, a comma or a tab means itself.
        bare = key == "delimiter" and not text.startswith('"')
        more[key] = text if bare else parse_yaml(text, f"--set {key}")
    found = {}
    for part, path in paths.items():
        if path is None:
            continue
        if is_folder(path):
            tree = {"name": "ClassFolders", "image_root": path}
        else:
            default = "CSV" if path.lower().endswith(".csv") else "ImageNetDataset"
            root = image_root if image_root is not None else os.path.dirname(path) or "."
            tree = {"name": name or default, "image_root": root, "cls_label_path": path, **more}
        found[part] = _checked(part, tree)
    return found


def _checked(part: str, tree: dict) -> Component:
    """Check the arguments as those of a config; messages name the option instead of the key."""
    lists = dict.fromkeys(("Query", "Gallery"), {"dataset": tree})
    try:
        config = from_dict({"DataLoader": {"Eval": lists}})
    except ConfigError as error:
        key = "DataLoader.Eval.Query.dataset"
        raise ConfigError(str(error).replace(key, f"--{part}", 1)) from None
    return config.DataLoader.Eval.Query.dataset
