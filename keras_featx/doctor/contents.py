"""The images of all lists together: each is read once, however often it is listed."""

import logging
import time
from dataclasses import dataclass

import numpy as np

from keras_featx.data.samples import Samples
from keras_featx.doctor.findings import Finding, Part
from keras_featx.doctor.options import Limits
from keras_featx.doctor.scan import Scan, scan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contents:
    """What was read.

    Attributes:
        parts: The lists.
        image_of: For each part, the number of the image of each of its samples.
        first: int64 ``(images, 2)``: part and place where an image is listed first.
        scan: Of the images.
    """

    parts: list[Part]
    image_of: list[np.ndarray]
    first: np.ndarray
    scan: Scan


def read_parts(parts: list[Part], limits: Limits) -> tuple[Contents, list[Finding]]:
    """Read every image of every list; tells of each row what is wrong with its image."""
    known: dict = {}
    image_of, first, scans = [], [], []
    faults: list[list[tuple[str, str]]] = []
    for number, part in enumerate(parts):
        before = len(known)
        images = [known.setdefault(key, len(known)) for key in _keys(part.samples)]
        image_of.append(np.array(images, np.int64))
        places, at = np.unique(image_of[-1], return_index=True)
        new = at[places >= before]
        first.append(np.stack([np.full(len(new), number), new], 1))
        started = time.perf_counter()
        scans.append(scan(part.samples.take(new), limits, f"reading {part.name}"))
        seconds = time.perf_counter() - started
        log.info("%s: %d images read in %.1f s", part.name, len(new), seconds)
        own: list[list[tuple[str, str]]] = [[] for _ in new]
        for place, kind, what in scans[-1].faults:
            own[place].append((kind, what))
        faults += own
    contents = Contents(parts, image_of, np.concatenate(first), _joined(scans))
    found = []
    for part, images in zip(parts, image_of, strict=True):
        part.usable = contents.scan.usable[images]
        _count(part, contents.scan, images)
        bad = np.array([bool(told) for told in faults], bool)[images]
        for place in np.flatnonzero(bad).tolist():
            found += [Finding(k, part.ref(place), what) for k, what in faults[images[place]]]
    return contents, found


def _keys(samples: Samples):
    if samples.spans is None and samples.boxes is None:
        return samples.paths
    return samples.images()


def _joined(scans: list[Scan]) -> Scan:
    names = ("usable", "digests", "pictures", "sizes", "bytes", "formats")
    return Scan(*(np.concatenate([getattr(s, name) for s in scans]) for name in names), faults=[])


def _count(part: Part, scan: Scan, images: np.ndarray) -> None:
    images = np.unique(images)
    formats, numbers = np.unique(scan.formats[images], return_counts=True)
    short = scan.sizes[images][scan.usable[images]].min(axis=1, initial=2**40)
    part.facts |= {
        "decodable": int(part.usable.sum()),
        "bytes": int(scan.bytes[images].sum()),
        "formats": {
            name: count
            for name, count in zip(formats.tolist(), numbers.tolist(), strict=True)
            if name
        },
        "short_side": _spread(short),
    }


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return {
        "min": int(values.min()),
        "median": float(np.median(values)),
        "max": int(values.max()),
    }
