"""The HTTP side: addresses, bodies, answers. An ASGI application on Starlette."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from urllib.parse import unquote

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from keras_featx.serving import descriptions, json_text
from keras_featx.serving.embedder import Embedder
from keras_featx.serving.instances import Wanted, signature, wanted
from keras_featx.serving.metrics import CONTENT_TYPE
from keras_featx.serving.refusals import Refused, invalid
from keras_featx.serving.service import Service

log = logging.getLogger(__name__)

_PLACE = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICT = re.compile(rf"{_PLACE}:(classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(rf"{_PLACE}(/metadata)?", re.IGNORECASE)
# A body whose reading, and images whose writing, would hold up all other requests.
_LARGE_BODY, _MANY_ROWS = 2**18, 4

Handler = Callable[[Service, Request], Awaitable[Response]]


def make_app(service: Service) -> Callable:
    """The ASGI application of a service."""

    async def app(scope, receive, send) -> None:
        request = Request(scope, receive)
        started = time.perf_counter()
        route, handler = find_handler(request.method, _path(request))
        try:
            response = await handler(service, request)
        except Refused as refused:
            response = _json(json_text.error(refused.message), refused.status, refused.headers)
        except ClientDisconnect:
            response = _json(json_text.error("The connection ended before the body"), 400)
        except Exception as error:
            log.exception("%s %s", request.method, request.url.path)
            text = f"Internal error: {type(error).__name__}: {str(error).split(chr(10))[0]}"
            response = _json(json_text.error(text), 500)
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
        if path == "/v1/search":
            return "search", _search
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
    path = _path(request)
    if request.method == "GET" and path.lower() in ("/v1/models", "/v1/models/"):
        raise invalid("Missing model name in request.")
    status = 400 if path.lower().startswith("/v1/") else 404
    raise Refused(status, f"Malformed request: {request.method} {path}")


async def _healthz(service: Service, request: Request) -> Response:
    return _json(b'{"alive": true}')


async def _readyz(service: Service, request: Request) -> Response:
    ready = service.workers.waiting < service.options.limits.queue
    return _json(json.dumps({"ready": ready}).encode(), 200 if ready else 503)


async def _metrics(service: Service, request: Request) -> Response:
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


_PLAIN: dict[str, Handler] = {"/healthz": _healthz, "/readyz": _readyz, "/metrics": _metrics}


async def _status(service: Service, request: Request, place: Sequence) -> Response:
    return _json(descriptions.status(service.versions(*_words(place))))


async def _metadata(service: Service, request: Request, place: Sequence) -> Response:
    found = service.find(*_words(place))
    name, size = service.options.name, found.embedding_size
    return _json(descriptions.metadata(name, found.version, found.image_size, size))


async def _predict(service: Service, request: Request, place: Sequence) -> Response:
    *place, method = place
    deadline = _deadline(service)
    async with service.bodies.read(request, deadline) as body:
        large, place = len(body) > _LARGE_BODY, _words(place)
        what, embedder = await _aside(large, _read, service, body, place, method)
        rows = await _embed(service, embedder, what, deadline)
    write = json_text.predictions if what.rows else json_text.outputs
    return _json(await _aside(len(rows) > _MANY_ROWS, write, rows))


def _read(service: Service, body: bytes, place: Sequence, method: str) -> tuple[Wanted, Embedder]:
    document = json_text.parse(body)
    embedder = service.find(*place)
    if method.lower() != "predict":
        signature(document)
        raise invalid(descriptions.no_method(method.lower(), embedder.embedding_size))
    return _wanted(service, document, embedder), embedder


def _wanted(service: Service, document: dict, embedder: Embedder, **how) -> Wanted:
    try:
        return wanted(document, embedder.image_size, service.options.limits.images, **how)
    except RecursionError:
        raise invalid("JSON Parse error: nested too deeply") from None


async def _search(service: Service, request: Request) -> Response:
    gallery = service.gallery
    if gallery is None:
        raise Refused(404, "No gallery is served: start with --gallery FILE.npz")
    deadline = _deadline(service)
    async with service.bodies.read(request, deadline) as body:
        what, k = await _aside(len(body) > _LARGE_BODY, _read_search, service, body)
        rows = await _embed(service, service.newest, what, deadline)
    (found,) = await _done(service, [lambda: gallery.search(rows, k)], deadline)
    return _json(json.dumps({"results": found}).encode())


def _read_search(service: Service, body: bytes) -> tuple[Wanted, int]:
    document = json_text.parse(body)
    k = document.get("k", 5)
    if type(k) is not int or k < 1:
        raise invalid(f"k: expected a whole number of at least 1, got {json_text.echo(k)}")
    return _wanted(service, document, service.newest, encoded_only=True), k


async def _embed(service: Service, embedder: Embedder, what: Wanted, deadline: float) -> np.ndarray:
    """Embeddings ``(images, size)``, each a task of its own."""
    if isinstance(what.images, np.ndarray):
        tasks = [partial(embedder.embed_pixels, image) for image in what.images]
    else:
        most = service.options.limits.pixels
        tasks = [partial(embedder.embed_bytes, image, most) for image in what.images]
    found = await _done(service, tasks, deadline)
    service.metrics.images.inc(len(found))
    return np.stack(found)


async def _done(service: Service, tasks: Sequence[Callable], deadline: float) -> list:
    """Results of tasks; of several that failed, the first one's error."""
    futures = [asyncio.wrap_future(one) for one in service.workers.submit(tasks)]
    try:
        async with asyncio.timeout_at(deadline):
            found = await asyncio.gather(*futures, return_exceptions=True)
    except TimeoutError:
        # Those that wait are dropped by this; one that runs ends for nobody.
        raise Refused(504, f"No answer within {service.options.limits.timeout:g} s") from None
    for i, one in enumerate(found):
        if isinstance(one, Refused):
            raise Refused(one.status, f"{one.message}\n\t [[image {i}]]", one.headers)
        if isinstance(one, BaseException):
            raise one
    return found


def _deadline(service: Service) -> float:
    return asyncio.get_running_loop().time() + service.options.limits.timeout


async def _aside(aside: bool, function: Callable, *arguments):
    """Call in a thread what takes long."""
    if aside:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)


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


def _path(request: Request) -> str:
    raw = request.scope.get("raw_path") or request.url.path.encode()
    return raw.decode("latin-1")


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, "application/json")
