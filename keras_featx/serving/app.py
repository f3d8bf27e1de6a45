"""The HTTP side: addresses, bodies, answers. An ASGI application on Starlette."""

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from keras_featx.serving import descriptions, gallery_routes, json_text
from keras_featx.serving.answering import (
    LARGE_BODY,
    Handler,
    aside,
    deadline_of,
    embed,
    json_response,
    path_of,
    wanted_of,
)
from keras_featx.serving.embedder import Embedder
from keras_featx.serving.instances import Wanted, signature
from keras_featx.serving.metrics import CONTENT_TYPE
from keras_featx.serving.refusals import Refused, invalid
from keras_featx.serving.service import Service

log = logging.getLogger(__name__)

_PLACE = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICT = re.compile(rf"{_PLACE}:(classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(rf"{_PLACE}(/metadata)?", re.IGNORECASE)
# Images whose writing would hold up all other requests.
_MANY_ROWS = 4


def make_app(service: Service) -> Callable:
    """The ASGI application of a service."""

    async def app(scope, receive, send) -> None:
        request = Request(scope, receive)
        started = time.perf_counter()
        route, handler = find_handler(request.method, path_of(request))
        try:
            response = await handler(service, request)
        except Refused as refused:
            body = json_text.error(refused.message)
            response = json_response(body, refused.status, refused.headers)
        except ClientDisconnect:
            response = json_response(json_text.error("The connection ended before the body"), 400)
        except Exception as error:
            log.exception("%s %s", request.method, request.url.path)
            text = f"Internal error: {type(error).__name__}: {str(error).split(chr(10))[0]}"
            response = json_response(json_text.error(text), 500)
        service.metrics.requests.labels(route, response.status_code).inc()
        service.metrics.latency.labels(route).observe(time.perf_counter() - started)
        await response(scope, receive, send)

    return app


def find_handler(method: str, path: str) -> tuple[str, Handler]:
    """The name of a route, for metrics, and what answers it.

    Example:
        >>> from keras_featx.serving.app import find_handler
        >>> find_handler("GET", "/v1/models/embedder/versions/2")[0]
        'status'
    """
    if method == "POST":
        if match := _PREDICT.fullmatch(path):
            return "predict", partial(_predict, place=match.groups())
    if found := gallery_routes.find(method, path):
        return found
    if method in ("GET", "HEAD") and path in _PLAIN:
        return path[1:], _PLAIN[path]
    if method == "GET":
        if match := _STATUS.fullmatch(path):
            *place, wanted_metadata = match.groups()
            if wanted_metadata:
                return "metadata", partial(_metadata, place=place)
            return "status", partial(_status, place=place)
    return "other", _malformed


async def _malformed(service: Service, request: Request) -> Response:
    path = path_of(request)
    if request.method == "GET" and path.lower() in ("/v1/models", "/v1/models/"):
        raise invalid("Missing model name in request.")
    status = 400 if path.lower().startswith("/v1/") else 404
    raise Refused(status, f"Malformed request: {request.method} {path}")


async def _healthz(service: Service, request: Request) -> Response:
    return json_response(b'{"alive": true}')


async def _readyz(service: Service, request: Request) -> Response:
    ready = service.workers.waiting < service.options.limits.queue
    return json_response(json.dumps({"ready": ready}).encode(), 200 if ready else 503)


async def _metrics(service: Service, request: Request) -> Response:
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


_PLAIN: dict[str, Handler] = {"/healthz": _healthz, "/readyz": _readyz, "/metrics": _metrics}


async def _status(service: Service, request: Request, place: Sequence) -> Response:
    return json_response(descriptions.status(service.versions(*_words(place))))


async def _metadata(service: Service, request: Request, place: Sequence) -> Response:
    found = service.find(*_words(place))
    name, size = service.options.name, found.embedding_size
    return json_response(descriptions.metadata(name, found.version, found.image_size, size))


async def _predict(service: Service, request: Request, place: Sequence) -> Response:
    *place, method = place
    deadline = deadline_of(service)
    async with service.bodies.read(request, deadline) as body:
        large, place = len(body) > LARGE_BODY, _words(place)
        what, embedder = await aside(large, _read, service, body, place, method)
        rows = await embed(service, embedder, what, deadline)
    write = json_text.predictions if what.rows else json_text.outputs
    return json_response(await aside(len(rows) > _MANY_ROWS, write, rows))


def _read(service: Service, body: bytes, place: Sequence, method: str) -> tuple[Wanted, Embedder]:
    document = json_text.parse(body)
    embedder = service.find(*place)
    if method.lower() != "predict":
        signature(document)
        raise invalid(descriptions.no_method(method.lower(), embedder.embedding_size))
    return wanted_of(service, document, embedder), embedder


def _words(place: Sequence[str | None]) -> tuple[str, int | None, str | None]:
    """Name, version and label of an address."""
    name, version, label = place
    if version is not None and int(version[:20]) >= 2**63:
        raise invalid(f"Failed to convert version: {version} to numeric.")
    return (
        unquote(name),
        None if version is None else int(version),
        None if label is None else unquote(label),
    )
