"""What copies mean: within a label, across labels, and between lists."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from keras_featx.data.samples import Samples
from keras_featx.doctor import duplicates
from keras_featx.doctor.alignment import SIDE
from keras_featx.doctor.contents import Contents
from keras_featx.doctor.duplicates import Alike
from keras_featx.doctor.findings import PARTS, Finding, Part, Ref, label_name
from keras_featx.doctor.scan import picture

# Images that are named to show a finding.
_SHOWN = 3


@dataclass(frozen=True)
class _Member:
    """A sample among copies: its part, its place there, its label and its content."""

    part: int
    place: int
    label: int
    content: int


def find_copies(contents: Contents) -> tuple[list[np.ndarray], list[Finding]]:
    """Look for copies in all lists.

    Returns:
        For each part, int64 ``(samples,)``: equal for images that are the same or almost, -1 for
        those that cannot be decoded; and the findings.
    """
    scan, parts = contents.scan, contents.parts
    usable = np.flatnonzero(scan.usable)
    number, first = duplicates.identical(scan.digests[usable])
    of_image = np.full(len(scan.usable), -1)
    of_image[usable] = number
    content = [of_image[images] for images in contents.image_of]
    shown = usable[first]  # one image of each content

    def detail(number: int) -> np.ndarray:
        part, place = contents.first[shown[number]].tolist()
        return picture(parts[part].samples, place, SIDE)

    near = duplicates.alike(scan.pictures[shown], detail)
    found = [*identical_findings(parts, content), *near_findings(parts, content, near)]
    return [np.where(own < 0, -1, near.group[own]) for own in content], found


def identical_findings(parts: list[Part], content: list[np.ndarray]) -> list[Finding]:
    """Findings on images of the same content."""
    found = []
    for members in _groups(parts, content, content):
        by_part = _by_part(parts, members)
        for part, own in by_part.items():
            for some in _by_group(parts[part], own):
                found += _within(parts[part], some)
        found += _between(parts, by_part, "leaks", "queries_in_gallery", "the same image as {}")
    return found


def near_findings(parts: list[Part], content: list[np.ndarray], alike: Alike) -> list[Finding]:
    """Findings on images that are almost the same but not quite."""
    group = [np.where(own < 0, -1, alike.group[own]) for own in content]
    found = []
    for members in _groups(parts, content, group):
        if len({m.content for m in members}) == 1:
            continue
        by_part = _by_part(parts, members)
        for part, own in by_part.items():
            for some in _by_group(parts[part], own):
                found += _nearly_within(parts[part], some, alike)
        kinds = ("near_leaks", "queries_near_gallery")
        found += _between(parts, by_part, *kinds, "almost the same as {}", others_only=True)
    return found


def _groups(
    parts: list[Part], content: list[np.ndarray], group: list[np.ndarray]
) -> Iterator[list[_Member]]:
    """Samples of equal group, where there are several; in the order of lists and rows."""
    every = np.concatenate(group)
    part = np.repeat(np.arange(len(parts)), [len(own) for own in group])
    place = np.concatenate([np.arange(len(own)) for own in group])
    label = np.concatenate([p.samples.labels for p in parts])
    inside = np.concatenate(content)
    order = np.argsort(every, kind="stable")
    order = order[every[order] >= 0]
    for some in np.split(order, np.flatnonzero(np.diff(every[order])) + 1):
        if len(some) > 1:
            columns = (column[some].tolist() for column in (part, place, label, inside))
            yield [_Member(*values) for values in zip(*columns, strict=True)]


def _by_part(parts: list[Part], members: list[_Member]) -> dict[int, list[_Member]]:
    return {
        number: own
        for number in range(len(parts))
        if (own := [m for m in members if m.part == number])
    }


def _by_group(part: Part, members: list[_Member]) -> Iterable[list[_Member]]:
    """Members of one list, apart where evaluation never brings them together."""
    groups = part.samples.groups
    if groups is None or part.name == "train":
        return [members]
    found: dict = {}
    for member in members:
        found.setdefault(groups[member.place], []).append(member)
    return found.values()


def _within(part: Part, members: list[_Member]) -> Iterator[Finding]:
    """Of members of the same content in one list."""
    if len(members) == 1:
        return
    if len({m.label for m in members}) == 1:
        first = part.ref(members[0].place)
        for member in members[1:]:
            image = part.ref(member.place)
            same = "file" if _same_file(part.samples, members[0].place, member.place) else "bytes"
            what = f"the same {same} as {where(first, image)}"
            yield Finding("duplicates", image, what, (first,))
        return
    for member in members:
        image = part.ref(member.place)
        others = [m for m in members if m.label != member.label]
        refs = tuple(part.ref(m.place) for m in others[:_SHOWN])
        labels = sorted({part.ref(m.place).label for m in others})
        what = f"label {image.label!r}, but {_list(labels)} in {where(refs[0], image)}"
        yield Finding("conflicting_duplicates", image, what + _more(others, refs), refs)


def _same_file(samples: Samples, one: int, other: int) -> bool:
    spans = samples.spans
    same = samples.paths[one] == samples.paths[other]
    return same and (spans is None or spans[one].tolist() == spans[other].tolist())


def _nearly_within(part: Part, members: list[_Member], alike: Alike) -> Iterator[Finding]:
    """Of members of one list that are alike; those of equal content are told of elsewhere."""
    several = len({m.label for m in members}) > 1
    seen: dict[int, dict[int, _Member]] = {}  # label -> content -> its first member
    for member in members:
        own = seen.setdefault(member.label, {})
        if member.content not in own and own:
            closest = own.get(alike.partner.get(member.content, -1), next(iter(own.values())))
            image, other = part.ref(member.place), part.ref(closest.place)
            what = f"almost the same as {where(other, image)}"
            yield Finding("near_duplicates", image, what, (other,))
        own.setdefault(member.content, member)
    for member in members if several else ():
        others = [m for m in members if m.label != member.label and m.content != member.content]
        if others:
            image = part.ref(member.place)
            refs = tuple(part.ref(m.place) for m in others[:_SHOWN])
            labels = _list(sorted({part.ref(m.place).label for m in others}))
            what = f"label {image.label!r}, but {labels} in {where(refs[0], image)}"
            yield Finding("near_conflicts", image, what + _more(others, refs), refs)


def _between(
    parts: list[Part],
    by_part: dict[int, list[_Member]],
    leak: str,
    found_itself: str,
    what: str,
    others_only: bool = False,
) -> Iterator[Finding]:
    """Of members in several lists; with ``others_only``, of those without an equal there."""
    number = {part.name: i for i, part in enumerate(parts)}
    train, query, gallery = (by_part.get(number.get(n, -1), []) for n in PARTS)
    for member in train:
        yield from _shown(parts, member, query + gallery, leak, what, others_only)
    for member in query:
        others = [m for m in gallery if not _told_apart(parts, member, m)]
        yield from _shown(parts, member, others, found_itself, what, others_only)


def _shown(parts, member, others, kind, what, others_only) -> Iterator[Finding]:
    if not others or (others_only and any(m.content == member.content for m in others)):
        return
    image = parts[member.part].ref(member.place)
    refs = tuple(parts[m.part].ref(m.place) for m in others[:_SHOWN])
    yield Finding(kind, image, what.format(where(refs[0], image)) + _more(others, refs), refs)


def _told_apart(parts: list[Part], query: _Member, entry: _Member) -> bool:
    """Whether evaluation leaves this gallery entry out of the search for this query."""
    labels = [label_name(parts[m.part].samples, m.label) for m in (query, entry)]
    same = {}  # where both lists have them
    for name in ("ids", "cameras", "groups"):
        one, other = (getattr(parts[m.part].samples, name) for m in (query, entry))
        if one is not None and other is not None:
            same[name] = one[query.place] == other[entry.place]
    if not same.get("groups", True):
        return True
    return labels[0] == labels[1] and (same.get("ids", False) or same.get("cameras", False))


def where(other: Ref, image: Ref) -> str:
    """How to name another image beside one: its row, and its list where that is another."""
    row = f"row {other.row}" if other.row else other.path
    return row if other.part == image.part else f"{row} of {other.part}"


def _more(others: list, refs: tuple) -> str:
    return f" and {len(others) - 1} more" if len(others) > 1 else ""


def _list(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return f"{shown} ..." if len(names) > _SHOWN else shown
