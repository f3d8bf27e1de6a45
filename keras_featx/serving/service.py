"""What a running server knows, and how the words of an address lead to a version."""

from dataclasses import dataclass, field

from keras_featx.serving.bodies import Bodies
from keras_featx.serving.embedder import Embedder
from keras_featx.serving.galleries import StoredGallery
from keras_featx.serving.gallery import Gallery
from keras_featx.serving.metrics import Metrics
from keras_featx.serving.options import Options
from keras_featx.serving.refusals import Refused, invalid
from keras_featx.serving.workers import Workers

# That may wait for the one that is being made.
_CHANGES = 64


@dataclass(frozen=True)
class Service:
    """A model in its versions, with the workers that run it.

    Attributes:
        options: As given.
        embedders: By version, in rising order; the last is the default.
        gallery: To search in, or ``None``.
        token: Of those who may change the gallery; ``None`` where nobody may.
        workers: Threads.
        changes: One more thread, for changes of the gallery.
        metrics: Numbers.
        bodies: Of requests, in memory.
    """

    options: Options
    embedders: dict[int, Embedder]
    gallery: Gallery | StoredGallery | None
    token: str | None = field(repr=False)
    workers: Workers
    changes: Workers
    metrics: Metrics
    bodies: Bodies

    @property
    def newest(self) -> Embedder:
        """The version that answers where none is named."""
        return next(reversed(self.embedders.values()))

    def stop(self) -> None:
        """Let what has begun end, and drop the rest."""
        self.workers.stop()
        self.changes.stop()

    def find(self, name: str, version: int | None, label: str | None) -> Embedder:
        """The version that a request for a prediction means.

        Raises:
            Refused: 404, or 400 for an unknown label.
        """
        self._check_name(name, version)
        if label is not None:
            return self.embedders[self._labelled(label)]
        if version is None:
            return self.newest
        if version not in self.embedders:
            raise Refused(404, f"Servable not found for request: Specific({name}, {version})")
        return self.embedders[version]

    def _check_name(self, name: str, version: int | None) -> None:
        if name != self.options.name:
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Refused(404, f"Servable not found for request: {asked}")

    def _labelled(self, label: str) -> int:
        if label not in self.options.labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return self.options.labels[label]

    def versions(self, name: str, version: int | None, label: str | None) -> list[int]:
        """The versions whose state a request asks for.

        Raises:
            Refused: 404, or 400 for a label that is not among those there are.
        """
        if name != self.options.name:
            raise Refused(404, f"Could not find any versions of model {name}")
        # Without labels TensorFlow Serving passes over one.
        if label is not None and self.options.labels:
            return [self._labelled(label)]
        if version is None:
            return list(self.embedders)
        if version not in self.embedders:
            raise Refused(404, f"Could not find version {version} of model {name}")
        return [version]


def make_service(
    options: Options,
    embedders: dict[int, Embedder],
    gallery: Gallery | StoredGallery | None,
    token: str | None,
) -> Service:
    """Start the workers."""
    metrics = Metrics(lambda: workers.waiting, None if gallery is None else gallery.__len__)
    workers = Workers(options.threads, options.limits.queue, metrics.image_seconds.observe)
    changes = Workers(1, _CHANGES, what="changes")
    bodies = Bodies(options.limits)
    return Service(options, embedders, gallery, token, workers, changes, metrics, bodies)
