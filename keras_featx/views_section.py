"""The section of the config that says which views of an image are averaged."""

from dataclasses import dataclass

from keras_featx.errors import ConfigError


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
