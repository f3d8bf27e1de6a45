"""The verbs of ``keras-featx gallery``: from parsed arguments to one JSON object.

What needs TensorFlow is imported where it is used: most verbs do not wait for it.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_featx.config import parse_yaml
from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery.backends import check_settings
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.decisions import Rule
from keras_featx.gallery.sources import Wanted, read_wanted
from keras_featx.gallery.versions import Store
from keras_featx.progress import progress

_BATCH = 64


def parse_source(text: str, option: str = "SOURCE") -> Any:
    """A path, or a data set in YAML."""
    return parse_yaml(text, option) if text.lstrip().startswith("{") else text


def extractor_of(gallery: Gallery, given: str | None):
    """The model of a gallery: the given one, else the one that built it.

    Raises:
        ConfigError: If it is not there, or another.
    """
    from keras_featx.extractors import open_extractor

    name = given or gallery.settings.get("model")
    if name is None:
        raise ConfigError(f"{gallery.store.folder}: expected --model, as no model built it")
    try:
        extractor = open_extractor(name)
    except ConfigError as error:
        if given:
            raise
        raise ConfigError(
            f"{gallery.store.folder}: the model that built it is not there; name it by --model: "
            f"{error}"
        ) from None
    gallery.check_fingerprint(extractor.fingerprint)
    return extractor


def build(options) -> dict[str, Any]:
    """Make a gallery and fill it; goes on with one that a killed run left empty."""
    from keras_featx.extractors import open_extractor

    wanted = read_wanted(parse_source(options.source), options.image_root)
    extractor = None
    if options.model is not None:
        extractor = open_extractor(options.model)
        fingerprint, size = extractor.fingerprint, extractor.embedding_size
    elif wanted.vectors is not None and wanted.fingerprint is not None:
        fingerprint, size = wanted.fingerprint, wanted.vectors.shape[-1]
    else:
        raise ConfigError(f"--model: expected the model to embed {wanted.source} with")
    settings: dict[str, Any] = {}
    if options.backend is not None:
        settings["backend"] = _backend(options)
    if options.model is not None:
        path = Path(options.model)
        settings["model"] = str(path.resolve()) if path.exists() else options.model
    gallery = None
    if not options.overwrite and Store(options.folder).exists():
        gallery = Gallery(options.folder)
        begun = (fingerprint, options.precision) == (
            gallery.fingerprint,
            gallery.manifest.precision,
        )
        if gallery.version > 1 or not begun:
            raise ConfigError(
                f"{options.folder}: expected nothing, got a gallery (--overwrite replaces it, "
                "`add` adds to it)"
            )
    if gallery is None:
        gallery = Gallery.create(
            options.folder, fingerprint, size, options.precision, settings, options.overwrite
        )
    return _filled(gallery, wanted, extractor, "add")


def _backend(options) -> Any:
    """Settings of a backend, without what is secret."""
    given = parse_source(options.backend, "--backend")
    if check_settings(given).get("token"):
        raise ConfigError("--backend: token: expected in the environment, MILVUS_TOKEN")
    return given


def _filled(gallery: Gallery, wanted: Wanted, extractor, mode) -> dict[str, Any]:
    from keras_featx.gallery.filling import fill

    counts = fill(gallery, wanted, extractor, mode)
    return {**counts, **_state(gallery)}


def _state(gallery: Gallery) -> dict[str, Any]:
    return {
        "gallery": str(gallery.store.folder),
        "version": gallery.version,
        "items": len(gallery),
        "identities": len(gallery.identities()),
    }


def add(options) -> dict[str, Any]:
    """Put items in, embedding only what is new or changed."""
    return _put(options, "add")


def update(options) -> dict[str, Any]:
    """Replace items that are there."""
    return _put(options, "update")


def _put(options, mode: str) -> dict[str, Any]:
    gallery = Gallery(options.folder)
    wanted = read_wanted(parse_source(options.source), options.image_root)
    extractor = None if wanted.samples is None else extractor_of(gallery, options.model)
    return _filled(gallery, wanted, extractor, mode)


def remove(options) -> dict[str, Any]:
    """Remove items by their ids or identities."""
    gallery = Gallery(options.folder)
    ids = list(options.id)
    if not ids and not options.identity:
        raise ConfigError("ID: expected ids, or --identity NAME")
    known = gallery.identities()
    for name in options.identity:
        if name not in known:
            raise ConfigError(f"--identity: expected an identity of {options.folder}, got {name!r}")
    if options.identity:
        wanted = set(options.identity)
        for items in gallery.items():
            pairs = zip(items.ids, items.identities, strict=True)
            ids += [one for one, identity in pairs if identity in wanted]
    return {"removed": gallery.remove(ids), **_state(gallery)}


def reembed(options) -> dict[str, Any]:
    """Embed all images again, by another model."""
    from keras_featx.extractors import open_extractor
    from keras_featx.gallery import filling

    gallery = Gallery(options.folder)
    moved = None
    if options.moved is not None:
        old, equals, new = options.moved.partition("=")
        if not equals or not old:
            raise ConfigError(f"--moved: expected OLD=NEW, got {options.moved!r}")
        moved = (old, new)
    extractor = open_extractor(options.model)
    counts = filling.reembed(gallery, extractor, moved)
    path = Path(options.model)
    gallery.set(model=str(path.resolve()) if path.exists() else options.model)
    return {**counts, **_state(gallery), "fingerprint": gallery.fingerprint}


def search(options) -> dict[str, Any]:
    """Say whose images are."""
    from keras_featx.gallery import answering

    gallery = Gallery(options.folder)
    rule = rule_of(gallery, options)
    backend = None if options.backend is None else _backend(options)
    extractor = extractor_of(gallery, options.model)
    if options.boxes is not None or options.windows:
        if options.boxes is not None and options.windows:
            raise ConfigError("search: expected --boxes or --windows, one of them")
        return answering.answer_scenes(
            gallery, extractor, options.image, rule, options.boxes, options.overlap,
            options.output, backend,
        )  # fmt: skip
    return answering.answer(
        gallery, extractor, options.image, rule, options.k, options.output, backend
    )


def rule_of(gallery: Gallery, options) -> Rule:
    """The rule of a gallery, with what options say in its place."""
    rule = Rule.from_dict(gallery.settings.get("rule", {}))
    given = {
        name: value
        for name in ("threshold", "margin", "combine")
        if (value := getattr(options, name, None)) is not None
    }
    if "threshold" in given:
        given["thresholds"] = {}
    return replace(rule, **given)


def calibrate(options) -> dict[str, Any]:
    """Find a threshold and keep it with the gallery."""
    from keras_featx.gallery import calibration

    gallery = Gallery(options.folder)
    given = {
        name: value
        for name in ("margin", "combine", "k")
        if (value := getattr(options, name)) is not None
    }
    rule = Rule(**given)
    asked = {}
    for name in ("unknown", "known"):
        if source := getattr(options, name):
            asked[name] = _embedded(gallery, options, parse_source(source, f"--{name}"))
    found = calibration.calibrate(
        gallery, options.far, rule, per_identity=options.per_identity, **asked
    )
    about = {k: v for k, v in found.to_dict().items() if k != "rule"}
    gallery.set(rule=found.rule.to_dict(), threshold=found.threshold, calibration=about)
    return {**about, **_state(gallery)}


def evaluate(options) -> dict[str, Any]:
    """Measure answers on queries of whom some may be strangers."""
    from keras_featx.gallery import open_set

    gallery = Gallery(options.folder)
    rule = rule_of(gallery, options)
    if options.k is not None:
        rule = replace(rule, k=options.k)
    query, identities = _embedded(gallery, options, parse_source(options.source))
    found = open_set.evaluate(gallery, query, identities, rule)
    print(found, file=sys.stderr)
    if options.output is not None:
        found.write(options.output)
    return found.to_dict()


def _embedded(gallery: Gallery, options, source) -> tuple[np.ndarray, list[str]]:
    """Embeddings and identities of what a person names."""
    wanted = read_wanted(source, options.image_root)
    if wanted.samples is None:
        if wanted.fingerprint is not None:
            gallery.check_fingerprint(wanted.fingerprint)
        return wanted.vectors, wanted.identities
    extractor = extractor_of(gallery, options.model)
    steps = -(-len(wanted) // _BATCH)
    batches = progress(extractor.embed(wanted.samples, _BATCH), steps, "embedding", _BATCH)
    return np.concatenate(list(batches)), wanted.identities


def info(options) -> dict[str, Any]:
    """What is in a gallery."""
    gallery = Gallery(options.folder)
    counts = list(gallery.identities().values())
    found = {
        **_state(gallery),
        "fingerprint": gallery.fingerprint,
        "embedding_size": gallery.manifest.size,
        "precision": gallery.manifest.precision,
        "items_of_an_identity": [min(counts), max(counts)] if counts else None,
        "versions": gallery.store.numbers(),
        "settings": gallery.settings,
    }
    tables = {}
    if options.examine:
        from keras_featx.gallery.identities import merges, near_duplicates, outliers

        tables = {
            "outliers": outliers(gallery),
            "near_duplicates": near_duplicates(gallery),
            "merges": merges(gallery),
        }
    if options.output is not None:
        from keras_featx.report.gallery_page import write_info

        shown = {name.replace("_", "-").capitalize(): rows for name, rows in tables.items()}
        write_info(gallery, options.output, tables=shown or None)
        found["output"] = options.output
    return {**found, **tables}


def check(options) -> dict[str, Any]:
    """Compare the checksums of all files."""
    gallery = Gallery(options.folder)
    wrong = gallery.check()
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise RunError(f"{wrong[0]}{more}")
    return {**_state(gallery), "damaged": 0}


def compact(options) -> dict[str, Any]:
    """Write all items into one segment."""
    gallery = Gallery(options.folder)
    gallery.compact()
    return _state(gallery)


def rollback(options) -> dict[str, Any]:
    """Make a new version with what an older one had."""
    gallery = Gallery(options.folder)
    gallery.rollback(options.version)
    return _state(gallery)


def prune(options) -> dict[str, Any]:
    """Forget old versions."""
    gallery = Gallery(options.folder)
    return {"forgotten": gallery.prune(options.keep), **_state(gallery)}


def pack(options) -> dict[str, Any]:
    """Write the gallery file of devices."""
    from keras_featx.device_gallery import pack_gallery

    if (options.dataset is None) == (options.gallery is None):
        raise ConfigError("pack: expected --dataset or --gallery, one of them")
    images: Any = options.gallery and Gallery(options.gallery)
    if images is None:
        images = parse_yaml(options.dataset, "--dataset")
        if not isinstance(images, dict):
            raise ConfigError(f"--dataset: expected {{name: ..., ...}}, got {options.dataset!r}")
    return pack_gallery(options.model, images, options.output, options.precision, options.threshold)
