"""From image files to answers, in lines of JSON or in pictures."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.data import outputs, pipeline
from keras_featx.data.files import find_images
from keras_featx.errors import ConfigError
from keras_featx.extractors import BATCH, Extractor
from keras_featx.gallery.decisions import Answer, Rule, decide, look_up
from keras_featx.gallery.opened import Match, Opened
from keras_featx.gallery.regions import read_boxes
from keras_featx.gallery.scenes import Found, recognise
from keras_featx.progress import progress
from keras_featx.report.gallery_panels import write_panel, write_scene

_SHOWN = 5


def answer(
    gallery: Opened,
    extractor: Extractor,
    images: Sequence[str],
    rule: Rule,
    k: int | None = None,
    output: str | os.PathLike | None = None,
    backend: Any = None,
) -> dict[str, Any]:
    """Say whose images are.

    Args:
        gallery: To look in.
        extractor: Of its model.
        images: Files or folders.
        rule: How neighbours become an answer.
        k: Neighbours to tell of; by default 5.
        output: ``.jsonl``, ``.html`` or ``.png`` to write.
        backend: Of ``gallery.search``.

    Returns:
        ``{"results": [{"image", "identity", "similarity", "why", "neighbours": [...]}, ...]}``.
    """
    shown = _SHOWN if k is None else k
    if shown < 1:
        raise ConfigError(f"-k: expected at least 1, got {shown}")
    _check_output(output, (".jsonl", ".html", ".png"))
    paths = [path for item in images for path in find_images(item)]
    samples = pipeline.as_samples(paths)
    steps = -(-len(paths) // BATCH)
    vectors = np.concatenate(list(progress(extractor.embed(samples), steps, "embedding", BATCH)))
    near = gallery.search(vectors, max(shown, rule.k), backend)
    looked = near if rule.combine != "mean" else look_up(gallery, vectors, rule)
    answers = [decide(some, rule) for some in looked]
    results = [
        {"image": path, **_as_json(one), "neighbours": _neighbours(some[:shown])}
        for path, one, some in zip(paths, answers, near, strict=True)
    ]
    if output is not None:
        if Path(output).suffix == ".jsonl":
            _write_lines(output, results)
        else:
            cut = [some[:shown] for some in near]
            write_panel(output, paths, answers, cut, threshold=rule.threshold)
    return _result(gallery, results, output)


def answer_scenes(
    gallery: Opened,
    extractor: Extractor,
    images: Sequence[str],
    rule: Rule,
    boxes: str | os.PathLike | None = None,
    overlap: float = 0.5,
    output: str | os.PathLike | None = None,
    backend: Any = None,
) -> dict[str, Any]:
    """Say whose parts of images are.

    Args:
        gallery: To look in.
        extractor: Of its model.
        images: Files or folders.
        rule: How neighbours become an answer. Needs a threshold.
        boxes: A file of :func:`~keras_featx.gallery.regions.read_boxes`; without it windows slide.
        overlap: See :func:`~keras_featx.gallery.scenes.recognise`.
        output: ``.jsonl``; or ``.html`` or ``.png`` where there is one image.
        backend: Of ``gallery.search``.

    Returns:
        ``{"results": [{"image", "found": [{"box", "identity", "similarity"}, ...]}, ...]}``: what
        has an identity.
    """
    if rule.threshold is None:
        raise ConfigError(
            f"{gallery.store.folder}: parts of images need a threshold: calibrate, or --threshold"
        )
    if rule.combine == "mean":
        raise ConfigError("combine: expected max, best_of or vote for parts of images, got 'mean'")
    _check_output(output, (".jsonl", ".html", ".png"))
    paths = [path for item in images for path in find_images(item)]
    if output is not None and Path(output).suffix != ".jsonl" and len(paths) > 1:
        raise ConfigError(f"--output: expected .jsonl for {len(paths)} images, got {output!r}")
    known = None if boxes is None else read_boxes(boxes)
    if known is not None and (missing := [path for path in paths if path not in known]):
        raise ConfigError(f"{boxes}: expected boxes of {missing[0]}, got none")
    results, found = [], []
    for path in progress(paths, len(paths), "searching"):
        found = recognise(
            gallery, extractor, path, None if known is None else known[path],
            decide=lambda matches: decide(matches, rule), k=rule.k, overlap=overlap,
            unknown=False, backend=backend,
        )  # fmt: skip
        results.append({"image": path, "found": [_part(one) for one in found]})
    if output is not None:
        if Path(output).suffix == ".jsonl":
            _write_lines(output, results)
        else:
            write_scene(output, paths[0], found, threshold=rule.threshold)
    return _result(gallery, results, output)


def _part(one: Found) -> dict[str, Any]:
    return {"box": list(one.box), "identity": one.identity, "similarity": one.similarity}


def _as_json(one: Answer) -> dict[str, Any]:
    return {"identity": one.identity, "similarity": one.similarity, "why": one.why}


def _neighbours(matches: Sequence[Match]) -> list[dict[str, Any]]:
    return [
        {"id": one.id, "identity": one.identity, "similarity": one.similarity} for one in matches
    ]


def _result(gallery: Opened, results: list, output) -> dict[str, Any]:
    written = {} if output is None else {"output": os.fspath(output)}
    return {"gallery": str(gallery.store.folder), "images": len(results), **written,
            "results": results}  # fmt: skip


def _check_output(output, endings: Sequence[str]) -> None:
    if output is not None and Path(output).suffix not in endings:
        raise ConfigError(
            f"--output: expected a name ending in {', '.join(endings)}, got {os.fspath(output)!r}"
        )


def _write_lines(output, results: list[dict]) -> None:
    lines = [json.dumps(one, ensure_ascii=False) for one in results]
    outputs.write_bytes(output, ("\n".join(lines) + "\n").encode())
