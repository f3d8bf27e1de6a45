"""A client of ``keras-featx serve`` and of TensorFlow Serving, on the standard library."""

import base64
import http.client
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from keras_featx.errors import ConfigError, RunError

Images = str | os.PathLike | bytes | np.ndarray | Sequence[str | os.PathLike | bytes]


class Client:
    """Embeddings from a server.

    Args:
        url: Of the server, such as ``http://127.0.0.1:8501``.
        model: Its name there.
        timeout: Seconds until an answer.
        batch_size: Images of a request, at most.

    Example:
        >>> import keras_featx
        >>> client = keras_featx.Client("http://127.0.0.1:8501")
        >>> client.url
        'http://127.0.0.1:8501'
    """

    # Of the files of one request; the server's limit is of their base64, a third more.
    BATCH_BYTES = 8 * 2**20

    def __init__(
        self, url: str, model: str = "embedder", timeout: float = 10, batch_size: int = 16
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
        self.url, self.model = url.rstrip("/"), model
        self.timeout, self.batch_size = timeout, batch_size
        self._parts = parts

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
            For each image ``[{"path": ..., "similarity": cosine}, ...]``.
        """
        if isinstance(images, np.ndarray):
            raise ConfigError("images: expected paths or bytes to search with, got an array")
        found: list = []
        for batch in self._batches(images):
            found += self._call("POST", "/v1/search", {"instances": batch, "k": k})["results"]
        return found

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
            connection.request(method, place, body, {"Content-Type": "application/json"})
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
