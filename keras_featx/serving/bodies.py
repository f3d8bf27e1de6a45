"""The bodies of requests: read within limits, and counted while they are in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from keras_featx.serving.options import Limits
from keras_featx.serving.refusals import Refused

# What is still read of a body that is refused, so that its sender sees the answer.
_DRAIN = 2**27


class Bodies:
    """Those in memory, of the requests of one event loop.

    Args:
        limits: ``body`` of one, ``bodies`` of all, ``timeout`` until one is there.

    Attributes:
        held: Bytes in memory.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self.held = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request, deadline: float) -> AsyncIterator[bytes]:
        """The body of a request, counted until the ``async with`` ends.

        Args:
            request: One whose body nobody has read.
            deadline: By the clock of the event loop.

        Raises:
            Refused: 408, 413, 415, or 503 while the others in memory are too many.
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Refused(415, f"Content-Encoding: expected none, got {encoding}")
        parts: list[bytes] = []
        refused = None
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    refused = await self._collect(request, parts)
                    if refused is not None:
                        await _drain(request)
            except TimeoutError:
                text = f"The body did not arrive within {self._limits.timeout:g} s"
                refused = refused or Refused(408, text)
            if refused is not None:
                raise refused
            yield b"".join(parts)
        finally:
            self.held -= sum(map(len, parts))

    async def _collect(self, request: Request, parts: list[bytes]) -> Refused | None:
        """Read the body, or as much as it takes to say why not."""
        told = request.headers.get("content-length")
        size = int(told or 0)  # the HTTP parser has refused what is no number
        too_large = Refused(
            413, f"Expected a body of at most {self._limits.body} bytes, got {told or 'more'}"
        )
        if size > self._limits.body:
            return too_large
        if self.held + size > self._limits.bodies:
            return self._too_many()
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._limits.body:
                return too_large
            if self.held + len(part) > self._limits.bodies:
                return self._too_many()
            self.held += len(part)
            parts.append(part)
        return None

    def _too_many(self) -> Refused:
        most = self._limits.bodies
        text = f"Too many bodies: {self.held} of at most {most} bytes in memory; try again"
        return Refused(503, text, {"Retry-After": "1"})


async def _drain(request: Request) -> None:
    """Read on and forget: a connection closed on a sender makes it miss the answer."""
    if request.headers.get("expect"):  # it has sent nothing yet
        return
    left = _DRAIN
    async for part in request.stream():
        left -= len(part)
        if left < 0:
            return
