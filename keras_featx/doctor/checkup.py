"""The whole examination of a data set: every row, every image, copies, leaks, labels."""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_featx.data.outputs import write_bytes
from keras_featx.data.samples import Problem, Samples, load_samples
from keras_featx.doctor import clean, copies, labels, words, wrong_labels
from keras_featx.doctor.contents import read_parts
from keras_featx.doctor.findings import (
    KINDS,
    PARTS,
    Finding,
    Part,
    Ref,
    bad,
    counts,
)
from keras_featx.doctor.options import Options
from keras_featx.doctor.thumbnails import thumbnails
from keras_featx.errors import ConfigError
from keras_featx.report.doctor_page import page
from keras_featx.sections import Component

log = logging.getLogger(__name__)


def examine(
    sources: Mapping[str, Component | Samples],
    output: str | os.PathLike,
    options: Options | None = None,
) -> dict[str, Any]:
    """Check lists of images; writes ``doctor.json`` and ``doctor.html``, logs a summary.

    Args:
        sources: By part, ``train``, ``query`` or ``gallery``: a data set as a config names it, or
            samples.
        output: The folder for the report.
        options: What to look for.

    Returns:
        ``images``, ``findings`` and ``stop_or_spoil`` (counts), ``counts`` (by kind), ``report``,
        ``clean`` (what was written, by old list), ``seconds``.

    Raises:
        ConfigError: A list that cannot be read at all, or a cleaned one that would overwrite.
        RunError: If nothing would be left of a list.

    Example:
        >>> from keras_featx.doctor.checkup import examine
        >>> from keras_featx.doctor.options import of_paths
        >>> folder = "keras_featx/assets/emoji_mini"
        >>> found = examine(of_paths({"train": f"{folder}/train_list.txt"}), "output/doctor")
        >>> found["images"], found["stop_or_spoil"]
        (480, 0)
    """
    started = time.perf_counter()
    options = options or Options()
    to_clean, kinds = [], set()
    if options.cleaning is not None:
        kinds = options.cleaning.kinds
        plain = [(name, _plain(source)) for name, source in sources.items()]
        to_clean = clean.targets(plain, options.cleaning.force)
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output: expected a folder, got {output}")
    parts, found = _load(sources)
    contents, more = read_parts(parts, options.limits)
    found += more
    group, more = copies.find_copies(contents)
    found += more
    for part in parts:
        found += labels.label_findings(part, options.class_num)
    across, shared = labels.findings_across({part.name: part for part in parts})
    found += across
    remarks = []
    if options.model is not None:
        suspects, remark = wrong_labels.find(parts, group, options.model)
        found += suspects
        remarks.append(remark)
    found.sort(key=_rank)
    log.info("%s", words.summary(parts, found))
    folder.mkdir(parents=True, exist_ok=True)
    html = page(parts, found, thumbnails(parts), shared, remarks)
    write_bytes(folder / "doctor.html", html.encode())
    tree = _tree(parts, found, shared)
    write_bytes(folder / "doctor.json", json.dumps(tree, indent=1).encode())
    cleaned = {
        target.source: clean.write_clean(
            target, [part for part in parts if part.name in target.parts], found, kinds
        )
        for target in to_clean
    }
    number = counts(found)
    return {
        "images": sum(len(part.samples) for part in parts),
        "findings": len(found),
        "stop_or_spoil": bad(number),
        "counts": number,
        "report": str(folder / "doctor.html"),
        **({"clean": cleaned} if cleaned else {}),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _rank(finding: Finding) -> tuple:
    """Worst kind first; within it the surest first, then by list and row."""
    image = finding.image
    place = PARTS.index(image.part), image.row, image.path, image.label
    return list(KINDS).index(finding.kind), -(finding.score or 0), place


def _plain(source: Component | Samples) -> dict[str, Any]:
    return {"name": "Given"} if isinstance(source, Samples) else source.to_dict()


def _load(sources: Mapping[str, Component | Samples]) -> tuple[list[Part], list[Finding]]:
    parts, found = [], []
    for name in (name for name in PARTS if name in sources):
        source = sources[name]
        problems: list[Problem] = []
        samples = source
        if not isinstance(source, Samples):
            samples = load_samples(source, name, problems)
        parts.append(Part(name, samples, _plain(source)))
        for problem in problems:
            kind = "missing_files" if problem.kind == "missing" else "unreadable_rows"
            # A folder has no rows: there the source is the file itself.
            path = problem.path if problem.row else problem.source
            found.append(Finding(kind, Ref(name, problem.row, path), problem.what))
    return parts, found


def _tree(parts: list[Part], found: list[Finding], shared: dict[str, int]) -> dict[str, Any]:
    number = counts(found)
    return {
        "lists": {
            part.name: {
                "source": part.samples.source,
                "dataset": part.dataset,
                "images": len(part.samples),
                **part.facts,
            }
            for part in parts
        },
        "identities_shared": shared,
        "kinds": {
            kind: {"title": KINDS[kind].title, "weight": KINDS[kind].weight, "count": count}
            for kind, count in number.items()
        },
        "findings": {
            kind: [finding.to_dict() for finding in found if finding.kind == kind]
            for kind in number
        },
    }
