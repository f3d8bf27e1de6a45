"""A client of ``keras-featx serve`` and of TensorFlow Serving, on the standard library."""

import base64
import http.client
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from keras_featx.errors import ConfigError, RunError

Images = str | os.PathLike | bytes | np.ndarray | Sequence[str | os.PathLike | bytes]

_ITEMS = "/v1/gallery/items"


class Client:
    """Embeddings from a server.

    Args:
        url: Of the server, such as ``http://127.0.0.1:8501``.
        model: Its name there.
        timeout: Seconds until an answer.
        batch_size: Images of a request, at most.
        token: That lets requests change the server's gallery.

    Example:
        >>> import keras_featx
        >>> client = keras_featx.Client("http://127.0.0.1:8501")
        >>> client.url
        'http://127.0.0.1:8501'
    """

    # Of the files of one request; the server's limit is of their base64, a third more.
    BATCH_BYTES = 8 * 2**20

    def __init__(
        self,
        url: str,
        model: str = "embedder",
        timeout: float = 10,
        batch_size: int = 16,
        token: str | None = None,
    ):
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # the port is no number
            right = False
        if not right:
            raise ConfigError(f"url: expected http://HOST:PORT, got {url!r}")
        if batch_size < 1:
            raise ConfigError(f"batch_size: expected at least 1, got {batch_size}")
        if token is not None and not re.fullmatch("[!-~]+", token):
            raise ConfigError("token: expected one word of ASCII, without blanks")
        self.url, self.model = url.rstrip("/"), model
        self.timeout, self.batch_size = timeout, batch_size
        self._parts = parts
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def embed(self, images: Images) -> np.ndarray:
        """Embed images, each exactly once, in their order.

        Args:
            images: A file or several, as paths or as their bytes; or pixels of the network's size,
                uint8 ``(height, width, 3)`` or ``(images, height, width, 3)``.

        Returns:
            Float32 ``(images, embedding_size)``, unit norm.

        Raises:
            ConfigError: On another kind of images.
            RunError: With the server's sentence, or why there was no answer.
            OSError: On a file that cannot be read.
        """
        if isinstance(images, np.ndarray):
            requests = self._pixel_requests(images)
        else:
            requests = ({"instances": batch} for batch in self._batches(images))
        path = f"/v1/models/{quote(self.model, safe='')}:predict"
        rows = [row for one in requests for row in self._call("POST", path, one)["predictions"]]
        return np.array(rows, "float32")

    def search(self, images: Images, k: int = 5) -> list[list[dict[str, Any]]]:
        """The ``k`` nearest of the server's gallery for each image, best first.

        Args:
            images: Files, as in :meth:`embed`.
            k: Of each.

        Returns:
            For each image ``[{"id": ..., "identity": ..., "similarity": cosine, "metadata":
            {...}}, ...]``; of a gallery that is an ``.npz`` file ``[{"path": ..., "similarity":
            cosine}, ...]``.
        """
        return [row for found in self._searches(images, k) for row in found["results"]]

    def identify(self, images: Images) -> list[dict[str, Any]]:
        """Whose each image is by the rule of the server's gallery, or that it is unknown.

        Args:
            images: Files, as in :meth:`embed`.

        Returns:
            For each image ``{"identity": name or None, "similarity": of the best identity, "why":
            why nobody is known}``.

        Raises:
            RunError: Also if the gallery has neither a rule nor a threshold.
        """
        answers: list = []
        for found in self._searches(images, 1):
            if "answers" not in found:
                raise RunError(f"{self.url}: its gallery has neither a rule nor a threshold")
            answers += found["answers"]
        return answers

    def _searches(self, images: Images, k: int) -> Iterator[dict[str, Any]]:
        if isinstance(images, np.ndarray):
            raise ConfigError("images: expected paths or bytes to search with, got an array")
        for batch in self._batches(images):
            yield self._call("POST", "/v1/search", {"instances": batch, "k": k})

    def gallery(self) -> dict[str, Any]:
        """What is in the server's gallery: how many items, version, fingerprint, threshold."""
        return self._call("GET", "/v1/gallery")

    def add(
        self,
        ids: Sequence[str],
        identities: Sequence[str],
        images: Sequence[str | os.PathLike | bytes],
        metadata: Sequence[Mapping[str, Any]] | None = None,
        replace: bool = False,
    ) -> int:
        """Add items to the server's gallery; returns how many.

        What goes in one request is one change: all of it is done or nothing. Of many images, when
        a request is refused, those before it are done.

        Args:
            ids: Of each, any text.
            identities: Whose each is.
            images: Files, as paths or as their bytes.
            metadata: JSON objects.
            replace: Items that are there; else one that is there is refused.

        Raises:
            ConfigError: On counts that differ.
            RunError: With the server's sentence, such as for another token.
        """
        metadata = [{}] * len(ids) if metadata is None else metadata
        given = {"ids": ids, "identities": identities, "images": images, "metadata": metadata}
        for name, values in given.items():
            if isinstance(values, str | bytes) or len(values) != len(ids):
                got = "a text" if isinstance(values, str | bytes) else len(values)
                raise ConfigError(f"{name}: expected one for each of {len(ids)} items, got {got}")
        rows = zip(ids, identities, metadata, strict=True)
        added = 0
        for batch in self._batches(images):
            items = [
                {"id": one, "identity": identity, "image": image, "metadata": dict(more)}
                for image, (one, identity, more) in zip(
                    batch, itertools.islice(rows, len(batch)), strict=True
                )
            ]
            added += self._call("POST", _ITEMS, {"items": items, "replace": replace})["changed"]
        return added

    def remove(self, ids: Sequence[str]) -> int:
        """Remove items from the server's gallery, each in a change of its own; returns how many.

        Raises:
            RunError: At an id that is not there; those before it are removed.
        """
        if isinstance(ids, str):
            raise ConfigError("ids: expected a list of them, got a text")
        return sum(
            self._call("DELETE", f"{_ITEMS}/{quote(one, safe='')}")["changed"] for one in ids
        )

    def status(self) -> dict[str, Any]:
        """The versions of the model and their states."""
        return self._call("GET", f"/v1/models/{quote(self.model, safe='')}")

    def metadata(self) -> dict[str, Any]:
        """The signatures of the newest version: names, types and shapes."""
        return self._call("GET", f"/v1/models/{quote(self.model, safe='')}/metadata")

    def _pixel_requests(self, images: np.ndarray) -> Iterator[dict]:
        images = images[None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
            raise ConfigError(
                "images: expected a uint8 array (images, height, width, 3), got "
                f"{images.dtype} {images.shape}"
            )
        for i in range(0, len(images), self.batch_size):
            batch = images[i : i + self.batch_size].tolist()
            yield {"signature_name": "embed_images", "instances": batch}

    def _batches(self, images: Images) -> Iterator[list[dict]]:
        one = isinstance(images, str | os.PathLike | bytes)
        images = [images] if one else list(images)
        if not images:
            raise ConfigError("images: expected at least one, got none")
        batch: list[dict] = []
        size = 0
        for image in images:
            if not isinstance(image, str | os.PathLike | bytes):
                raise ConfigError(
                    f"images: expected paths or bytes, got {type(image).__name__} among them"
                )
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
            full = len(batch) == self.batch_size or size + len(data) > self.BATCH_BYTES
            if batch and full:
                yield batch
                batch, size = [], 0
            batch.append({"b64": base64.b64encode(data).decode()})
            size += len(data)
        yield batch

    def _call(self, method: str, path: str, request: dict | None = None) -> dict[str, Any]:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname, self._parts.port, timeout=self.timeout)
        body = None if request is None else json.dumps(request, separators=(",", ":")).encode()
        try:
            place = self._parts.path.rstrip("/") + path
            connection.request(method, place, body, self._headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
        except TimeoutError:
            raise RunError(f"{self.url}: no answer within {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RunError(f"{self.url}: no answer: {reason}") from None
        finally:
            connection.close()
        return self._read(status, text)

    def _read(self, status: int, text: bytes) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if status == 200 and isinstance(found, dict):
            return found
        sentence = found.get("error") if isinstance(found, dict) else None
        if not isinstance(sentence, str):
            sentence = f"expected JSON, got {text[:80]!r}"
        raise RunError(f"{self.url}: {status}: {sentence}")
