"""The addresses of a gallery: searching it, what is in it, and changing it with a token."""

import json
import re
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from keras_featx.serving.answering import (
    LARGE_BODY,
    Handler,
    aside,
    deadline_of,
    done,
    embed,
    json_response,
    wanted_of,
)
from keras_featx.serving.galleries import StoredGallery
from keras_featx.serving.gallery import Gallery
from keras_featx.serving.gallery_items import read_items
from keras_featx.serving.instances import Wanted
from keras_featx.serving.json_text import echo, parse
from keras_featx.serving.refusals import Refused, invalid
from keras_featx.serving.service import Service
from keras_featx.serving.tokens import check_authorized

_ITEMS = "/v1/gallery/items"
_ITEM = re.compile(rf"{_ITEMS}/(.+)")
# Neighbours of an image in a gallery on disk, each of which has metadata of any length.
_MOST = 1000


def find(method: str, path: str) -> tuple[str, Handler] | None:
    """The name of a route and what answers it, if it is one of these.

    Example:
        >>> from keras_featx.serving.gallery_routes import find
        >>> find("DELETE", "/v1/gallery/items/mugs%2F1.jpg")[0]
        'gallery_item'
    """
    if (method, path) == ("POST", "/v1/search"):
        return "search", _search
    if (method, path) == ("GET", "/v1/gallery"):
        return "gallery", _describe
    if method in ("POST", "PUT") and path == _ITEMS:
        return "gallery_items", _put
    if method in ("GET", "DELETE") and (match := _ITEM.fullmatch(path)):
        return "gallery_item", partial(_item if method == "GET" else _remove, raw=match[1])
    return None


def _gallery(service: Service) -> Gallery | StoredGallery:
    if service.gallery is None:
        raise Refused(404, "No gallery is served: start with --gallery FOLDER or FILE.npz")
    return service.gallery


def _stored(service: Service) -> StoredGallery:
    gallery = _gallery(service)
    if not isinstance(gallery, StoredGallery):
        raise Refused(404, "The gallery is a file without ids: start with --gallery FOLDER")
    return gallery


def _writable(service: Service, request: Request) -> StoredGallery:
    gallery = _stored(service)
    check_authorized(request.headers.get("authorization"), service.token)
    return gallery


async def _search(service: Service, request: Request) -> Response:
    gallery = _gallery(service)
    deadline = deadline_of(service)
    async with service.bodies.read(request, deadline) as body:
        what, k = await aside(len(body) > LARGE_BODY, _read_search, service, body)
        rows = await embed(service, service.newest, what, deadline)
    return await _answer(service, lambda: gallery.search(rows, k), deadline)


def _read_search(service: Service, body: bytes) -> tuple[Wanted, int]:
    document = parse(body)
    k = document.get("k", 5)
    if type(k) is not int or k < 1:
        raise invalid(f"k: expected a whole number of at least 1, got {echo(k)}")
    if k > _MOST and isinstance(service.gallery, StoredGallery):
        raise invalid(f"k: expected at most {_MOST}, got {k}")
    return wanted_of(service, document, service.newest, encoded_only=True), k


async def _describe(service: Service, request: Request) -> Response:
    gallery = _gallery(service)

    def describe() -> dict:
        return {**gallery.describe(), "writable": service.token is not None}

    return await _answer(service, describe, deadline_of(service))


async def _item(service: Service, request: Request, raw: str) -> Response:
    gallery, one = _stored(service), _id(raw)
    return await _answer(service, lambda: gallery.item(one), deadline_of(service))


async def _put(service: Service, request: Request) -> Response:
    gallery = _writable(service, request)
    deadline, most = deadline_of(service), service.options.limits.images
    put = request.method == "PUT"
    async with service.bodies.read(request, deadline) as body:
        posted = await aside(len(body) > LARGE_BODY, read_items, body, most, put)
        rows = await embed(service, service.newest, Wanted(posted.images, True), deadline)
    task = partial(
        gallery.put, posted.ids, posted.identities, rows, posted.metadata, posted.replace
    )
    return await _change(service, task, "put" if posted.replace else "add", deadline)


async def _remove(service: Service, request: Request, raw: str) -> Response:
    gallery, one = _writable(service, request), _id(raw)
    return await _change(service, lambda: gallery.remove(one), "remove", deadline_of(service))


async def _answer(service: Service, task: Callable[[], dict], deadline: float) -> Response:
    (body,) = await done(service, [lambda: json.dumps(task()).encode()], deadline)
    return json_response(body)


async def _change(
    service: Service, task: Callable[[], dict], what: str, deadline: float
) -> Response:
    """One change after another, in a thread of their own."""

    def change() -> dict:
        found = task()
        service.metrics.changes.labels(what).inc()
        return found

    try:
        (found,) = await done(service, [change], deadline, service.changes)
    except Refused as refused:
        if refused.status == 504:
            raise Refused(504, f"{refused.message}; the change may still be made") from None
        raise
    return json_response(json.dumps(found).encode())


def _id(raw: str) -> str:
    """The id in an address."""
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise invalid(f"{raw}: expected an id in UTF-8, percent-encoded") from None
