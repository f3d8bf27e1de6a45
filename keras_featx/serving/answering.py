"""What answers have in common: work in threads, within a time, and bodies in JSON."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from keras_featx.serving.embedder import Embedder
from keras_featx.serving.instances import Wanted, wanted
from keras_featx.serving.refusals import Refused, invalid
from keras_featx.serving.service import Service
from keras_featx.serving.workers import Workers

# A body whose reading would hold up all other requests.
LARGE_BODY = 2**18

Handler = Callable[[Service, Request], Awaitable[Response]]


def deadline_of(service: Service) -> float:
    """When a request that begins now is given up, by the clock of the event loop."""
    return asyncio.get_running_loop().time() + service.options.limits.timeout


def wanted_of(service: Service, document: dict, embedder: Embedder, **how) -> Wanted:
    """The images of a request, within the limits; ``how`` as of :func:`wanted`."""
    try:
        return wanted(document, embedder.image_size, service.options.limits.images, **how)
    except RecursionError:
        raise invalid("JSON Parse error: nested too deeply") from None


async def embed(service: Service, embedder: Embedder, what: Wanted, deadline: float) -> np.ndarray:
    """Embeddings ``(images, size)``, each a task of its own."""
    if isinstance(what.images, np.ndarray):
        tasks = [partial(embedder.embed_pixels, image) for image in what.images]
    else:
        most = service.options.limits.pixels
        tasks = [partial(embedder.embed_bytes, image, most) for image in what.images]
    tasks = [partial(_placed, task, i) for i, task in enumerate(tasks)]
    found = await done(service, tasks, deadline)
    service.metrics.images.inc(len(found))
    return np.stack(found)


def _placed(task: Callable, i: int):
    """A task whose refusal says of which image of the request it is."""
    try:
        return task()
    except Refused as one:
        raise Refused(one.status, f"{one.message}\n\t [[image {i}]]", one.headers) from None


async def done(
    service: Service, tasks: Sequence[Callable], deadline: float, workers: Workers | None = None
) -> list:
    """Results of tasks; of several that failed, the first one's error.

    Args:
        service: Whose workers do them, unless others are named.
        tasks: Functions without arguments.
        deadline: By the clock of the event loop.
        workers: Others.

    Raises:
        Refused: 503 if so many cannot wait, 504 after the deadline.
    """
    submitted = (workers or service.workers).submit(tasks)
    futures = [asyncio.wrap_future(one) for one in submitted]
    try:
        async with asyncio.timeout_at(deadline):
            found = await asyncio.gather(*futures, return_exceptions=True)
    except TimeoutError:
        # Those that wait are dropped by this; one that runs ends for nobody.
        raise Refused(504, f"No answer within {service.options.limits.timeout:g} s") from None
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


async def aside(large: bool, function: Callable, *arguments):
    """Call in a thread what takes long."""
    if large:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)


def path_of(request: Request) -> str:
    """The path as it came, percent-encoded."""
    raw = request.scope.get("raw_path") or request.url.path.encode()
    return raw.decode("latin-1")


def json_response(
    body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """An answer whose body is JSON."""
    return Response(body, status, headers, "application/json")
