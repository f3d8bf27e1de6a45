"""What the labels of the lists are like."""

import itertools
from collections.abc import Iterator

import numpy as np

from keras_featx.data.samples import Samples
from keras_featx.doctor.findings import Finding, Part, Ref, label_name

# Bars of the picture of how many images identities have.
_BARS = 120


def label_findings(part: Part, class_num: int | None) -> list[Finding]:
    """Findings on the labels of one list; fills in its facts.

    Args:
        part: The list.
        class_num: Classes that the config states, for a training list.
    """
    numbers, first, images = np.unique(part.samples.labels, return_index=True, return_counts=True)
    part.facts |= {"identities": len(numbers), "images_per_identity": spread(images)}
    part.facts["largest"] = [
        [label_name(part.samples, int(numbers[i])), int(images[i])]
        for i in np.argsort(-images, kind="stable")[:10]
    ]
    found: list[Finding] = []
    if part.name == "train":  # query and gallery may use some of the labels of a larger set
        found += _gaps(part, numbers) if part.samples.names is None else []
        for place in np.sort(first[images == 1]).tolist():
            image = part.ref(place)
            what = f"the only image of {image.label!r}"
            found.append(Finding("single_images", image, what))
        found += _outside(part, class_num)
    return found


def _gaps(part: Part, numbers: np.ndarray) -> Iterator[Finding]:
    steps = np.diff(numbers, prepend=-1)
    for after in np.flatnonzero(steps > 1).tolist():
        last = int(numbers[after]) - 1
        first = int(numbers[after] - steps[after]) + 1
        text = str(first) if first == last else f"{first} to {last}"
        several = f"these {last - first + 1} labels"
        missing = f"no image has {'this label' if first == last else several}"
        yield Finding("label_gaps", Ref(part.name, 0, part.samples.source, text), missing)


def _outside(part: Part, class_num: int | None) -> Iterator[Finding]:
    if class_num is None:
        return
    key = "Arch.Head.class_num"
    for place in np.flatnonzero(part.samples.labels >= class_num).tolist():
        what = f"expected a label below {class_num}, which {key} states"
        yield Finding("labels_outside", part.ref(place), what)
    if part.samples.class_num < class_num:
        what = f"{key} is {class_num}, but the labels end at {part.samples.class_num - 1}"
        yield Finding("labels_outside", Ref(part.name, 0, part.samples.source), what)


def spread(images: np.ndarray) -> dict:
    """How evenly images are spread over identities.

    Returns:
        ``min``, ``median``, ``mean``, ``max`` and ``gini`` (0: all have as many; towards 1: few
        have nearly all); ``bars``: images of identities, the largest first, means where there are
        many identities.

    Example:
        >>> import numpy as np
        >>> from keras_featx.doctor.labels import spread
        >>> spread(np.array([2, 8, 2]))["gini"]
        0.333
    """
    ordered = np.sort(images)
    count = len(ordered)
    rank = np.arange(1, count + 1)
    gini = 2 * (rank * ordered).sum() / (count * ordered.sum()) - (count + 1) / count
    bars = [float(part.mean()) for part in np.array_split(ordered[::-1], min(count, _BARS))]
    return {
        "min": int(ordered[0]),
        "median": float(np.median(ordered)),
        "mean": round(float(ordered.mean()), 2),
        "max": int(ordered[-1]),
        "gini": round(float(gini), 3),
        "bars": [round(bar, 2) for bar in bars],
    }


def findings_across(parts: dict[str, Part]) -> tuple[list[Finding], dict[str, int]]:
    """Findings on identities in several lists, and how many there are."""
    found, shared = [], {}
    query, gallery = parts.get("query"), parts.get("gallery")
    if query and gallery:
        found += _unlike(query, gallery)
    if query and gallery and (query.samples.names is None) == (gallery.samples.names is None):
        own, theirs = _identities(query.samples), _identities(gallery.samples)
        shared["query_and_gallery"] = len(own.keys() & theirs.keys())
        shared["gallery_only"] = len(theirs.keys() - own.keys())
        found += _unmatched(query, gallery)
    train = parts.get("train")
    for part in (query, gallery):
        # Numbers of training and evaluation count anew, more often than not.
        if train and part and train.samples.names is not None and part.samples.names is not None:
            both = _identities(train.samples).keys() & _identities(part.samples).keys()
            shared[f"train_and_{part.name}"] = len(both)
            for name in sorted(both):
                ref = Ref(part.name, 0, part.samples.source, name)
                found.append(Finding("shared_identities", ref, f"in train and in {part.name}"))
    return found, shared


def _unmatched(query: Part, gallery: Part) -> Iterator[Finding]:
    """Queries without an image of their identity, and group, in the gallery."""
    grouped = query.samples.groups is not None and gallery.samples.groups is not None
    known = set(_places_to_look(gallery.samples, grouped))
    for place, mark in enumerate(_places_to_look(query.samples, grouped)):
        if mark not in known:
            image = query.ref(place)
            what = f"the gallery has no {image.label!r}"
            what += f" in group {mark[1]!r}" if grouped else ""
            yield Finding("queries_without_match", image, what)


def _places_to_look(samples: Samples, grouped: bool) -> Iterator[tuple]:
    """The identity of each image by name, and its group."""
    names = {number: name for name, number in _identities(samples).items()}
    groups = samples.groups.tolist() if grouped else itertools.repeat(None)
    return zip(map(names.__getitem__, samples.labels.tolist()), groups, strict=False)


def _unlike(query: Part, gallery: Part) -> Iterator[Finding]:
    """What only one of the lists has, but evaluation needs in both or in neither."""
    alike = {"names": "names as labels", "ids": "ids", "cameras": "cameras", "groups": "groups"}
    for attribute, what in alike.items():
        missing = [getattr(part.samples, attribute) is None for part in (query, gallery)]
        if missing[0] != missing[1]:
            part, other = (gallery, query) if missing[0] else (query, gallery)
            text = f"{part.name} has {what}, {other.name} has none"
            yield Finding("unlike_lists", Ref(part.name, 0, part.samples.source), text)


def _identities(samples: Samples) -> dict[str, int]:
    """Names (or numbers) of the labels that have images, with their number."""
    return {label_name(samples, label): label for label in np.unique(samples.labels).tolist()}
