"""The queries and galleries that are evaluated, read and checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_featx.components import Component
from keras_featx.data import memory
from keras_featx.data.samples import Samples, load_samples
from keras_featx.errors import ConfigError
from keras_featx.evaluation_sections import EvalListSection, EvalPairSection
from keras_featx.ranking import check_groups
from keras_featx.sections import Config

_LIST = EvalListSection(dataset=Component(name="Given"))
_GIVEN = EvalPairSection(Query=_LIST, Gallery=_LIST)


@dataclass(frozen=True, eq=False)
class EvalSet:
    """A query and a gallery to measure, and how their images are read."""

    query: Samples
    gallery: Samples
    how: EvalPairSection = _GIVEN


def load_eval_sets(config: Config, query: Any = None, gallery: Any = None) -> dict[str, EvalSet]:
    """Every query and gallery of the config, or given ones, by the name of their set.

    Raises:
        ConfigError: On bad lists, where a query would find itself (see :func:`as_pair`), and where
            the config asks for what goes beyond the groups of the lists.
    """
    sets = _read_sets(config, query, gallery)
    for one in sets.values():
        check_groups(config.Metric, one.query.groups)
    return sets


def _read_sets(config: Config, query: Any, gallery: Any) -> dict[str, EvalSet]:
    section = config.DataLoader.Eval
    given = query is not None or gallery is not None
    if section is not None:
        pairs = {"": section.only_pair()} if given else section.pairs()
    elif query is None or gallery is None:
        raise ConfigError("DataLoader.Eval: missing; evaluation needs Query and Gallery")
    else:
        pairs = {"": ("DataLoader.Eval", _GIVEN)}
    sets = {}
    for name, (key, how) in pairs.items():
        parts = [
            load_samples(part.dataset, f"{key}.{part_name}.dataset") if one is None else one
            for part_name, part, one in (
                ("Query", how.Query, query),
                ("Gallery", how.Gallery, gallery),
            )
        ]
        sets[name] = EvalSet(*as_pair(*parts, key), how)
    return sets


def load_eval_samples(
    config: Config, query: Any = None, gallery: Any = None
) -> tuple[Samples, Samples]:
    """Query and gallery of the only pair, of the config or given, whatever is to be measured."""
    if config.DataLoader.Eval is not None:
        config.DataLoader.Eval.only_pair()
    (found,) = _read_sets(config, query, gallery).values()
    return found.query, found.gallery


def as_pair(query: Any, gallery: Any, where: str = "DataLoader.Eval") -> tuple[Samples, Samples]:
    """Query and gallery as samples, after a check that no query finds itself.

    Args:
        query: Samples, or images given in Python.
        gallery: Likewise.
        where: What messages call the two together.

    Raises:
        ConfigError: Where an image is in both without an id, or one alone has ids, cameras or
            groups.
    """
    query, gallery = memory.as_samples(query, "query"), memory.as_samples(gallery, "gallery")
    for what in ("ids", "cameras", "groups"):
        if (getattr(query, what) is None) != (getattr(gallery, what) is None):
            which = "Gallery" if getattr(gallery, what) is None else "Query"
            column = " (a third column)" if what == "ids" else ""
            raise ConfigError(f"{where}.{which}: expected {what}{column} in both lists")
    if query.ids is None and query.pixels is None and gallery.pixels is None:
        both = set(_images_in_groups(gallery)).intersection(_images_in_groups(query))
        if both:
            first = min(image[0] for image, _ in both)
            raise ConfigError(
                f"{query.source}: {first} is also in the gallery {gallery.source} "
                f"({len(both)} such images): each would find itself. Expected disjoint lists, or a "
                "third column with a number unique to each image (name: VeriWild)"
            )
    shared_labels(query, gallery)
    return query, gallery


def _images_in_groups(samples: Samples) -> Iterator[tuple]:
    groups = [None] * len(samples) if samples.groups is None else samples.groups.tolist()
    return zip(samples.images(), groups, strict=True)


def shared_labels(
    query: Samples, gallery: Samples
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Labels that mean the same in both lists, and names of them; folders are matched by name."""
    if (query.names is None) != (gallery.names is None):
        raise ConfigError(
            f"{query.source} and {gallery.source}: expected labels of one kind, got names and "
            "numbers"
        )
    if query.names is None:
        return query.labels, gallery.labels, None
    names = sorted({*query.names, *gallery.names})
    number = {name: i for i, name in enumerate(names)}
    query_map, gallery_map = (
        np.array([number[name] for name in samples.names]) for samples in (query, gallery)
    )
    return query_map[query.labels], gallery_map[gallery.labels], np.array(names)
