"""Request bodies: how large they may be, how long they may take, and how many bytes of them are held at once.

Everything between the port and the application passes here, so no handler has to mind slow, endless or broken-off bodies.
"""

import asyncio
import contextlib
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send

from openride_analytics.http.problems import BadRequest

# A body may take as long as at this pace, but never longer than the longest.
_FIRST_SECONDS: Final = 10.0
_BYTES_PER_SECOND: Final = 1_024
_LONGEST_SECONDS: Final = 60.0
# Many clients hear an answer only when they have sent all: what they send after it is thrown away for so long.
_DRAIN_SECONDS: Final = 2.0
# Events come by the thousand; all else that is sent is an order of a few lines, or a list of ids.
_LARGE_BODIES: Final = frozenset({"/v1/events"})
_LARGEST_OTHER_BYTES: Final = 1_048_576


class HeldBytes:
    """How many bytes of bodies, packed and unpacked, the process may hold at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    def claim(self, count: int) -> None:
        """Takes a share, to be released later; raises `BadRequest` (503) where there is none left."""
        if self._held + count > self._most:
            raise BadRequest("Too many large requests at once; try again a little later.", status=503)
        self._held += count

    def release(self, count: int) -> None:
        """Gives a share back."""
        self._held -= count


class BoundedBodies:
    """An ASGI application around another one, whose `receive` raises `BadRequest` for a body beyond its bounds.

    An answer to a body that was not read to its end closes the connection, so nobody sends for ever.
    """

    def __init__(self, app: ASGIApp, *, largest_bytes: int, held: HeldBytes) -> None:
        self._app = app
        self._largest_bytes = largest_bytes
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's own life."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        largest_bytes = self._largest_bytes
        if scope["path"].rstrip("/") not in _LARGE_BODIES:
            largest_bytes = min(largest_bytes, _LARGEST_OTHER_BYTES)
        body = _Body(scope, receive, send, largest_bytes, self._held)
        try:
            await self._app(scope, body.receive, body.send)
        finally:
            self._held.release(body.claimed)


class _Body:
    """The body of one request."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, largest_bytes: int, held: HeldBytes
    ) -> None:
        headers = dict(scope["headers"])
        announced = int(headers.get(b"content-length", b"0"))  # the server has checked that it is a number
        self._receive = receive
        self._send = send
        self._largest_bytes = largest_bytes
        self._held = held
        self._began = asyncio.get_running_loop().time()
        self._announced = announced
        self._received = 0
        self._complete = announced == 0 and b"transfer-encoding" not in headers
        # Such a client sends only after it was told to, and reading would tell it.
        self._waits = b"expect" in headers
        self.claimed = 0

    async def receive(self) -> HTTPReceiveMessage:
        """The next part of the body; after its end whatever the server says."""
        if self._complete:
            return await self._next()
        if self._announced > self._largest_bytes:
            raise self._too_large()
        # The deadline moves on with what has come.
        seconds = min(_LONGEST_SECONDS, _FIRST_SECONDS + self._received / _BYTES_PER_SECOND)
        try:
            async with asyncio.timeout_at(self._began + seconds):
                message = await self._next()
        except TimeoutError:
            raise BadRequest("The body came too slowly.", status=408) from None
        self._waits = False
        if message["type"] != "http.request":
            self._complete = True
            raise BadRequest("The body broke off.")  # nobody listens; but no handler shall see half a body
        self._complete = not message["more_body"]
        self._received += len(message["body"])
        if self._received > self._largest_bytes:
            raise self._too_large()
        self._held.claim(len(message["body"]))
        self.claimed += len(message["body"])
        return message

    async def send(self, message: Message) -> None:
        """Passes on the answer; before it begins, the rest of the body is thrown away."""
        if message["type"] == "http.response.start" and not self._complete:
            if not self._waits:
                await self._drain()
            if not self._complete:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        await self._send(message)

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._complete:
                    message = await self._next()
                    self._complete = message["type"] != "http.request" or not message["more_body"]

    async def _next(self) -> HTTPReceiveMessage:
        message: Any = await self._receive()  # not of a websocket: this is a request
        received: HTTPReceiveMessage = message
        return received

    def _too_large(self) -> BadRequest:
        return BadRequest(f"The body has more than {self._largest_bytes} bytes.", status=413)
