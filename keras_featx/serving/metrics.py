"""Counts and times of a server, in Prometheus' text form."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The numbers of one server, in a registry of its own.

    Attributes:
        requests: Counted by route and status.
        latency: Seconds of requests, by route.
        images: Embedded.
        image_seconds: Of a worker for one image: header, decoding, network.
        changes: Of the gallery, counted by what they were.
    """

    def __init__(self, waiting: Callable[[], int], items: Callable[[], int] | None = None):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "featx"}
        self.requests = Counter("requests", "Answered requests.", ["route", "code"], **own)
        self.latency = Histogram(
            "request_seconds", "Of requests.", ["route"], buckets=_SECONDS, **own
        )
        self.images = Counter("images", "Embedded images.", **own)
        self.image_seconds = Histogram(
            "image_seconds", "Of a worker, for an image or a search.", buckets=_SECONDS, **own
        )
        Gauge("queue_images", "Images that wait for a worker.", **own).set_function(waiting)
        self.changes = Counter("gallery_changes", "Made over HTTP.", ["kind"], **own)
        if items is not None:
            Gauge("gallery_items", "Of the newest version.", **own).set_function(items)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)

    def total(self, name: str) -> int:
        """A counter over all of its labels, ``requests`` or ``images``."""
        samples = getattr(self, name).collect()[0].samples
        return int(sum(one.value for one in samples if one.name.endswith("_total")))
