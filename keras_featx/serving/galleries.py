"""A gallery on disk that is served: searched in whole versions, changed by one at a time.

It has what a gallery in memory (:class:`keras_featx.serving.gallery.Gallery`) has, ``search``,
``describe`` and its length, and changes besides.
"""

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from keras_featx.errors import ConfigError, RunError
from keras_featx.gallery.collection import Gallery
from keras_featx.gallery.decisions import Rule, decide
from keras_featx.gallery.means import Means, identity_means
from keras_featx.gallery.opened import Opened
from keras_featx.gallery.versions import Busy, Store
from keras_featx.serving.refusals import Refused

log = logging.getLogger(__name__)

_Kind = TypeVar("_Kind", bound=Opened)

# Of the gallery's folder; each version is a file in it.
_VERSIONS = "versions"
# Nanoseconds. Two changes of a folder within a tick of the file system's clock look like one.
_TICK = 10**8


@dataclass(frozen=True, eq=False)
class _Version:
    """What a search reads: nothing in it changes."""

    opened: Opened
    rule: Rule | None

    @functools.cached_property
    def identities(self) -> int:
        return len(self.opened.identities())

    @functools.cached_property
    def means(self) -> Means:
        return identity_means(self.opened)


def _ready(opened: Opened) -> _Version:
    """A version and its rule; where there is only a threshold, the rule of that.

    Searched once, so that no request waits for an index to be made.
    """
    opened.search(np.eye(1, opened.manifest.size), 1)
    settings, rule = opened.settings, None
    try:
        if "rule" in settings:
            rule = Rule.from_dict(settings["rule"])
        elif "threshold" in settings:
            rule = Rule(threshold=settings["threshold"])
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{opened.store.folder}: {error}") from None
    return _Version(opened, rule)


class StoredGallery:
    """A gallery in a folder, with embeddings of the served model.

    A search reads the newest version, also one that another process made; what it has begun with
    stays as it is. Any thread may search; changes are for one thread at a time.

    Args:
        folder: That :class:`keras_featx.Gallery` opens.
        fingerprint: Of the served model.

    Raises:
        ConfigError: If there is no gallery, or one of another model, or with an impossible rule.
        RunError: If it is damaged.
    """

    def __init__(self, folder: str | os.PathLike, fingerprint: str):
        self.folder, self.fingerprint = Path(folder), fingerprint
        # Of the thread that opens files. Python 3.11's parser, which reads the headers of arrays,
        # may fail where two threads call it at once (python/cpython#106905).
        self._opening = threading.Lock()
        self._told = ""
        self._seen = self._mark()
        self._version = _ready(self._open(Opened))

    def __len__(self) -> int:
        return len(self.current().opened)

    def current(self) -> _Version:
        """The newest version, opened; while another thread is opening it, the one before.

        One that cannot be opened, or is of another model, is told of in the log, and the one before
        goes on.
        """
        mark = self._mark()
        if (mark is None or mark != self._seen) and self._opening.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._opening.release()
        return self._version

    def _mark(self) -> tuple[int, int] | None:
        """What every new version changes; ``None`` while another one may leave it as it is."""
        try:
            found = (self.folder / _VERSIONS).stat()
        except OSError:
            return None
        if time.time_ns() - found.st_mtime_ns < _TICK:
            return None
        return found.st_ino, found.st_mtime_ns

    def _look(self) -> None:
        seen = self._mark()  # before it is read: what comes later is seen next time
        try:
            if Store(self.folder).read() != self._version.opened.manifest:
                opened = self._open(Opened)
                opened.adopt(self._version.opened)
                self._version = _ready(opened)
            self._told = ""
        except (ConfigError, RunError, OSError) as error:
            if str(error) != self._told:
                log.error("%s; version %d goes on", error, self._version.opened.version)
            self._told = str(error)
        self._seen = seen

    def _open(self, kind: type[_Kind]) -> _Kind:
        """The newest version there is, of the served model."""
        store = Store(self.folder)
        while True:
            newest = store.numbers()[-1:]
            try:
                opened = kind(self.folder)
            except (RunError, OSError):
                if store.numbers()[-1:] == newest:
                    raise
                continue  # another process made a newer one and pruned this one meanwhile
            opened.check_fingerprint(self.fingerprint)
            return opened

    def search(self, query: np.ndarray, k: int) -> dict[str, Any]:
        """What ``/v1/search`` answers: neighbours, and where the gallery has a rule, answers.

        Args:
            query: Float32 ``(queries, size)``, unit norm.
            k: At least 1; more than there are means all.
        """
        version = self.current()
        rule = version.rule
        near = version.opened.search(query, k if rule is None else max(k, rule.k))
        found: dict[str, Any] = {"results": [[vars(one) for one in row[:k]] for row in near]}
        if rule is not None:
            looked = near if rule.combine != "mean" else version.means.search(query, rule.k)
            answers = [decide(some, rule) for some in looked]
            found["answers"] = [
                {"identity": one.identity, "similarity": one.similarity, "why": one.why}
                for one in answers
            ]
        return found

    def describe(self) -> dict[str, Any]:
        """What is in it, without the items themselves."""
        version = self.current()
        manifest = version.opened.manifest
        return {
            "items": manifest.items,
            "identities": version.identities,
            "version": manifest.version,
            "fingerprint": manifest.fingerprint,
            "precision": manifest.precision,
            "size": manifest.size,
            "threshold": None if version.rule is None else version.rule.threshold,
        }

    def item(self, one: str) -> dict[str, Any]:
        """An item by its id.

        Raises:
            Refused: 404 if it is not there.
        """
        with self._refusing(404):
            items = self.current().opened.get([one])
        return {"id": one, "identity": items.identities[0], "metadata": items.metadata[0]}

    def put(
        self,
        ids: Sequence[str],
        identities: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[Mapping[str, Any]],
        replace: bool = False,
    ) -> dict[str, Any]:
        """Add items, durably; arguments as of :meth:`keras_featx.Gallery.add`.

        Args:
            ids: Of each.
            identities: Whose each is.
            vectors: ``(items, size)``.
            metadata: JSON objects.
            replace: Those that are there; else one that is there is refused, and nothing added.

        Returns:
            ``{"changed": items, "version": ..., "items": ...}``.

        Raises:
            Refused: 409 at an id that is there, or if the gallery has become another model's; 503
                while another process changes it.
        """

        def make(gallery: Gallery) -> int:
            change = gallery.put if replace else gallery.add
            return change(ids, identities, vectors, metadata)

        return self._change(make, 409)

    def remove(self, one: str) -> dict[str, Any]:
        """Remove an item, durably; as :meth:`put`, but with 404 if it is not there."""
        return self._change(lambda gallery: gallery.remove([one]), 404)

    def _change(self, make: Callable[[Gallery], int], status: int) -> dict[str, Any]:
        with self._opening:
            with self._refusing(409):
                gallery = self._open(Gallery)
            with self._refusing(status):
                changed = make(gallery)
            self._look()
        return {"changed": changed, "version": gallery.version, "items": len(gallery)}

    @contextlib.contextmanager
    def _refusing(self, status: int) -> Iterator[None]:
        """Errors of the gallery as answers, which do not tell where it lies."""
        try:
            yield
        except ConfigError as error:
            raise Refused(status, self._words(error)) from None
        except Busy as error:
            raise Refused(503, self._words(error), {"Retry-After": "1"}) from None

    def _words(self, error: Exception) -> str:
        return f"The gallery: {str(error).removeprefix(f'{self.folder}: ')}"
