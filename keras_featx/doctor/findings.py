"""What can be wrong with a data set, and how it is written down. Imports no framework."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from keras_featx import components
from keras_featx.data.samples import Samples
from keras_featx.errors import ConfigError

PARTS = ("train", "query", "gallery")
STOPS, SPOILS, NOTE = "stops", "spoils", "note"


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        title: In words, of several.
        about: What it means.
        weight: ``stops`` training or evaluation, ``spoils`` it, or is a ``note``.
        left_out: Whether a cleaned list goes without these rows if nothing else is said.
        rows: Whether its findings are rows of a list, so that they can be left out at all.
    """

    title: str
    about: str
    weight: str
    left_out: bool = False
    rows: bool = True


# Worst first: the order in which they are told.
KINDS: dict[str, Kind] = {
    "unreadable_rows": Kind(
        "rows that cannot be read", "Loading the list ends with an error.", STOPS, True
    ),
    "missing_files": Kind(
        "images that do not exist", "Loading the list ends with an error.", STOPS, True
    ),
    "unreadable_files": Kind(
        "files that cannot be read", "The system refuses to read them.", STOPS, True
    ),
    "empty_files": Kind("files of zero bytes", "They cannot be decoded.", STOPS, True),
    "truncated": Kind(
        "images that end early",
        "The file breaks off before the end of the image and cannot be decoded: often a copy or a "
        "download that was interrupted.",
        STOPS,
        True,
    ),
    "undecodable": Kind(
        "files that cannot be decoded", "They are damaged, or no images.", STOPS, True
    ),
    "boxes_outside": Kind(
        "boxes that leave their image", "The part to use is not there.", STOPS, True
    ),
    "labels_outside": Kind(
        "labels outside the classes of the config", "Training refuses them.", STOPS
    ),
    "unlike_lists": Kind(
        "query and gallery that do not fit together", "Evaluation refuses them.", STOPS, rows=False
    ),
    "leaks": Kind(
        "training images that are also in query or gallery",
        "The same file or the same bytes: evaluation is on what was trained on.",
        SPOILS,
        True,
    ),
    "near_leaks": Kind(
        "training images almost the same as one of query or gallery",
        "Copies that were resized, cropped or stored anew.",
        SPOILS,
        True,
    ),
    "queries_in_gallery": Kind(
        "queries that are also in the gallery",
        "Such a query finds itself. If that is meant, a number unique to each image tells "
        "evaluation not to count it (dataset VeriWild, or the id column of CSV).",
        SPOILS,
        True,
    ),
    "conflicting_duplicates": Kind(
        "the same image under different labels",
        "The same file or the same bytes: at most one of the labels is right.",
        SPOILS,
        True,
    ),
    "near_conflicts": Kind(
        "almost the same image under different labels",
        "Copies that were resized, cropped or stored anew, or objects that differ in very little.",
        SPOILS,
    ),
    "wrong_labels": Kind(
        "labels that are likely wrong",
        "The images that a network finds most similar have another label, and agree on it.",
        SPOILS,
    ),
    "duplicates": Kind(
        "further copies of an image under one label",
        "The same file or the same bytes: the image counts more than others.",
        NOTE,
        True,
    ),
    "near_duplicates": Kind(
        "images almost the same as another of their label",
        "Copies that were resized, cropped or stored anew, or shots in quick succession.",
        NOTE,
    ),
    "queries_near_gallery": Kind(
        "queries almost the same as a gallery image", "They are too easy to find.", NOTE
    ),
    "shared_identities": Kind(
        "identities both trained and evaluated on",
        "Figures on them are not those of unseen identities. Known only where labels are names.",
        NOTE,
        rows=False,
    ),
    "queries_without_match": Kind(
        "queries whose label the gallery lacks", "They are not counted in evaluation.", NOTE
    ),
    "single_images": Kind(
        "identities with a single image", "There is nothing to pull together.", NOTE
    ),
    "label_gaps": Kind(
        "numbers below the largest label that no image has",
        "The head has a class centre for each, which is never right.",
        NOTE,
        rows=False,
    ),
    "wrong_extensions": Kind(
        "files whose extension names another format",
        "They are decoded by their content; other programs may stumble.",
        NOTE,
    ),
    "cmyk": Kind("images in CMYK", "Colours of printing, turned into red, green, blue.", NOTE),
    "sixteen_bit": Kind("images with more than 8 bits a channel", "Cut down to 8 bits.", NOTE),
    "animated": Kind("animations", "Only the first frame is used.", NOTE),
    "exif_rotated": Kind(
        "images stored turned or mirrored",
        "EXIF says how to set them upright; boxes count in the upright image.",
        NOTE,
    ),
    "very_small": Kind("very small images", "There is little to see.", NOTE),
    "very_large": Kind("very large images", "Decoding them is slow.", NOTE),
}


@dataclass(frozen=True)
class Ref:
    """An image, or a row, or a label of a list.

    Attributes:
        part: ``train``, ``query`` or ``gallery``.
        row: Of the list, from 1; 0 where there is none.
        path: Of the image.
        label: Its name, or number.
        place: Among the samples of the part; -1 if it is not one of them.
    """

    part: str
    row: int
    path: str
    label: str = ""
    place: int = -1


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        kind: One of :data:`KINDS`.
        image: What it is about.
        what: In words.
        others: Images that show it, such as the copy.
        score: How sure it is, 0 to 1, where that is not plain.
        suggestion: A label that fits better.
    """

    kind: str
    image: Ref
    what: str
    others: tuple[Ref, ...] = ()
    score: float | None = None
    suggestion: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without what is empty."""
        tree = asdict(self)
        for ref in (tree["image"], *tree["others"]):
            ref.pop("place")
        return {k: v for k, v in tree.items() if k != "kind" and v not in (None, (), "")}


@dataclass
class Part:
    """One list, with what is known of it.

    Attributes:
        name: ``train``, ``query`` or ``gallery``.
        samples: Its usable rows.
        dataset: Name and arguments, as in a config.
        facts: Counts, for the report.
        usable: bool ``(images,)``: can be decoded.
    """

    name: str
    samples: Samples
    dataset: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    usable: Any = None

    def ref(self, place: int) -> Ref:
        """One of its images."""
        samples = self.samples
        label = label_name(samples, int(samples.labels[place]))
        return Ref(self.name, int(samples.rows[place]), samples.paths[place], label, int(place))


def label_name(samples: Samples, label: int) -> str:
    """The name of a label, or its number."""
    return str(label) if samples.names is None else samples.names[label]


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many of each kind, worst kind first, without those that are none."""
    number = dict.fromkeys(KINDS, 0)
    for finding in findings:
        number[finding.kind] += 1
    return {kind: count for kind, count in number.items() if count}


def bad(number: dict[str, int]) -> int:
    """How many findings of :func:`counts` stop or spoil training or evaluation.

    Example:
        >>> from keras_featx.doctor.findings import bad
        >>> bad({"empty_files": 2, "leaks": 1, "animated": 7})
        3
    """
    return sum(count for kind, count in number.items() if KINDS[kind].weight != NOTE)


def kinds_left_out(also: Sequence[str] = (), keep: Sequence[str] = ()) -> set[str]:
    """The kinds whose rows a cleaned list goes without.

    Raises:
        ConfigError: A kind that is not known, or is not about rows.
    """
    known = sorted(name for name, kind in KINDS.items() if kind.rows)
    for option, names in (("--also", also), ("--keep", keep)):
        for name in names:
            if name not in known:
                near = components.closest(name, known)
                raise ConfigError(f"{option}: expected some of {known}, got {name!r}{near}")
    default = {name for name, kind in KINDS.items() if kind.left_out}
    return (default | set(also)) - set(keep)
