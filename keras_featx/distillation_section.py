"""The section of a config that names a teacher."""

from dataclasses import dataclass

from keras_featx.components import Component, part
from keras_featx.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DistillationSection:
    """Training towards the embeddings of a teacher, beside the losses of ``Loss.Train``.

    The teacher embeds every training image once, before training, as evaluation would see it: not
    augmented, at the teacher's own size. A step costs no more than without it.

    Attributes:
        teacher: What :func:`keras_featx.extractors.open_extractor` opens: a folder or file of
            ``keras-featx export`` (``.onnx``, ``.tflite``), a folder of weights such as
            ``best_model``, or the name of shipped ones.
        losses: Summed with the others, with their ``weight``.
        cache: The folder that keeps the teacher's embeddings; ``None`` means
            ``output_dir/teacher``. Runs may share one.
    """

    teacher: str
    losses: tuple[Component, ...] = part(
        "distillation", (Component(name="EmbeddingDistillation"),), many=True
    )
    cache: str | None = None

    def check(self, path: str) -> None:
        """Refuse an empty list, and names that are none."""
        if not self.losses:
            raise ConfigError(f"{path}.losses: expected at least one loss, got []")
        if not self.teacher:
            raise ConfigError(f"{path}.teacher: expected an export or a folder of weights, got ''")
        if self.cache == "" or "://" in (self.cache or ""):
            raise ConfigError(f"{path}.cache: expected a local folder, got {self.cache!r}")
