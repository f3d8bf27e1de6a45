"""The sections of a config that say what is evaluated, and how; see :mod:`keras_featx.sections`."""

import re
from dataclasses import dataclass
from typing import Literal

from keras_featx.components import Component, part
from keras_featx.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvalListSection:
    """One evaluation list. Its images are only decoded and resized.

    Attributes:
        dataset: The list.
        batch_size: Images at a time.
        bad_images: ``raise``: one that cannot be decoded is an error; ``skip``: it is left out, and
            the result says how many were.
    """

    dataset: Component = part("dataset")
    batch_size: int = 64
    bad_images: Literal["raise", "skip"] = "raise"

    def check(self, path: str) -> None:
        """Refuse an empty batch."""
        if self.batch_size < 1:
            raise ConfigError(f"{path}.batch_size: expected at least 1, got {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class EvalPairSection:
    """Queries, and the gallery they are looked up in."""

    Query: EvalListSection
    Gallery: EvalListSection


@dataclass(frozen=True, kw_only=True)
class EvalSection:
    """One query and gallery, or several by name.

    Attributes:
        Query: Queries of the only pair.
        Gallery: The gallery they are looked up in.
        Sets: Pairs by name, in place of ``Query`` and ``Gallery``.
        use: The only one of ``Sets`` to use; ``None`` means all.
    """

    Query: EvalListSection | None = None
    Gallery: EvalListSection | None = None
    Sets: dict[str, EvalPairSection] | None = None
    use: str | None = None

    def check(self, path: str) -> None:
        """Refuse half a pair, pairs of both kinds, and names that make no file."""
        if self.Sets is None:
            for key in ("Query", "Gallery"):
                if getattr(self, key) is None:
                    raise ConfigError(f"{path}.{key}: missing")
            if self.use is not None:
                raise ConfigError(f"{path}.use: expected with Sets only, got {self.use!r}")
            return
        for key in ("Query", "Gallery"):
            if getattr(self, key) is not None:
                raise ConfigError(f"{path}.{key}: expected without Sets, or in one of them")
        if not self.Sets:
            raise ConfigError(f"{path}.Sets: expected at least one pair, got {{}}")
        for name in self.Sets:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ConfigError(
                    f"{path}.Sets: expected names of letters, digits, _ . and -, got {name!r}"
                )
        if self.use is not None and self.use not in self.Sets:
            raise ConfigError(f"{path}.use: expected one of {list(self.Sets)}, got {self.use!r}")

    def pairs(self) -> dict[str, tuple[str, EvalPairSection]]:
        """``{name: (key of the config, pair)}``; the name of an only pair is empty."""
        key = "DataLoader.Eval"
        if self.Sets is None:
            return {"": (key, EvalPairSection(Query=self.Query, Gallery=self.Gallery))}
        named = self.Sets if self.use is None else {self.use: self.Sets[self.use]}
        return {name: (f"{key}.Sets.{name}", pair) for name, pair in named.items()}

    def only_pair(self) -> tuple[str, EvalPairSection]:
        """Key and pair, where there is or was chosen one.

        Raises:
            ConfigError: If there are several.
        """
        pairs = self.pairs()
        if len(pairs) > 1:
            raise ConfigError(
                f"DataLoader.Eval.Sets: expected one pair here, got {list(pairs)}; choose one with "
                "DataLoader.Eval.use"
            )
        return next(iter(pairs.values()))


@dataclass(frozen=True, kw_only=True)
class ViewsSection:
    """Views of an image whose embeddings are averaged; see :mod:`keras_featx.views`.

    Attributes:
        flip: Every view also mirrored.
        crops: 0, 1 (the centre) or 5 (the corners too) besides the whole image.
        crop: Side of a crop, relative to the image's.
    """

    flip: bool = False
    crops: int = 0
    crop: float = 0.875

    @property
    def count(self) -> int:
        """How many views there are."""
        return (1 + self.crops) * (1 + self.flip)

    def check(self, path: str) -> None:
        """Refuse impossible values."""
        if self.crops not in (0, 1, 5):
            raise ConfigError(f"{path}.crops: expected 0, 1 or 5, got {self.crops}")
        if not 0 < self.crop <= 1:
            raise ConfigError(f"{path}.crop: expected in (0, 1], got {self.crop}")
        if self.count == 1:
            raise ConfigError(f"{path}: expected flip or crops, got nothing to average")


@dataclass(frozen=True, kw_only=True)
class MetricSection:
    """Metrics of evaluation, and what is done with embeddings before.

    Attributes:
        Eval: Metrics.
        monitor: The figure that chooses ``best_model``, such as ``map`` or, of a named set,
            ``logos/recall@1``; by default the first of the first metric and set.
        Views: Of query and gallery images, to average; by default the image alone.
        Ranking: Improvements of the ranking, in order; see :mod:`keras_featx.reranking`.
        paddle: Give PaddleClas' own figures besides; see :mod:`keras_featx.paddle_protocol`.
    """

    Eval: tuple[Component, ...] = part(
        "metric", (Component(name="Recallk"), Component(name="mAP")), many=True
    )
    monitor: str | None = None
    Views: ViewsSection | None = None
    Ranking: tuple[Component, ...] = part("ranking", (), many=True)
    paddle: bool = False

    def check(self, path: str) -> None:
        """Refuse an empty list."""
        if not self.Eval:
            raise ConfigError(f"{path}.Eval: expected at least one metric, got []")
        for i, step in enumerate(self.Ranking[:-1]):
            if step.name == "KReciprocal":
                raise ConfigError(
                    f"{path}.Ranking.{i}: expected KReciprocal last, got it at {i} of "
                    f"{len(self.Ranking)}"
                )
