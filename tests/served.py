"""Servers for tests: a small network exported as `serve` expects it, and requests in raw HTTP."""

import contextlib
import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from conftest import randomize, tiny_config

from keras_featx import models
from keras_featx.config import dump_config
from keras_featx.embedding import embed
from keras_featx.exporters import litert
from keras_featx.serving.app import make_app
from keras_featx.serving.folders import find_artefacts
from keras_featx.serving.options import Limits, Options
from keras_featx.serving.server import open_service


def export_folder(folder, seed=0, *overrides):
    """An export folder, with its config and the extractor."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(folder, *overrides)
    model = randomize(models.build_extractor(config.Arch), seed)
    litert.save(model, folder / "model.tflite")
    (folder / "config.yaml").write_text(dump_config(config))
    return config, model


def expected(config, model, paths):
    """What the Keras extractor gives, checked to be no dead network's."""
    found = embed(model, [str(path) for path in paths], config.Arch.Preprocess)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    cosines = found @ found.T
    assert len(paths) < 2 or cosines[~np.eye(len(paths), dtype=bool)].max() < 1 - 1e-4
    return found


@dataclass
class Served:
    """A running server."""

    host: str
    port: int
    service: object

    @property
    def url(self):
        return f"http://{self.host}:{self.port}"

    def call(self, method, path, body=None, headers=None):
        """Status, headers and body of one answer; a body that is no bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), text

    def post(self, path, body):
        """Status and JSON of an answer."""
        status, _, text = self.call("POST", path, body)
        return status, json.loads(text)

    def error(self, body, path="/v1/models/embedder:predict"):
        """Status and sentence of a refusal."""
        status, answer = self.post(path, body)
        assert list(answer) == ["error"]
        return status, answer["error"]


@contextlib.contextmanager
def serving(folder, limits=None, **options):
    """A server in a thread of this process."""
    import uvicorn

    options = Options(folder=folder, port=0, threads=2, limits=limits or Limits(), **options)
    service = open_service(options, find_artefacts(Path(folder), options.model))
    listener = socket.create_server((options.host, 0))
    config = uvicorn.Config(
        make_app(service), log_config=None, log_level="warning", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(*listener.getsockname(), service)
    finally:
        server.should_exit = True
        thread.join()
        service.stop()
