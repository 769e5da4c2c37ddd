"""HEAD: what GET would answer, without the body. Mail gateways and monitors ask so, and HTTP wants it of every server."""

import asyncio
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

_NO_BODY: Final[Message] = {"type": "http.response.body", "body": b"", "more_body": False}


class Heads:
    """An ASGI application around another one, which is asked for GET. What would be streamed ends before it begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's own life."""
        if scope["type"] != ScopeType.HTTP or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        asked: Any = {**scope, "method": "GET"}
        cut_off = False

        async def without_body(message: Message) -> None:
            nonlocal cut_off
            if message["type"] == "http.response.start":
                if "path_template" in asked:  # which those around us look for
                    scope["path_template"] = asked["path_template"]
                await send(message)
                await send(_NO_BODY)
            elif message["type"] == "http.response.body" and message["more_body"]:
                cut_off = True
                answering.cancel()

        answering = asyncio.create_task(_answered(self._app, asked, receive, without_body))
        try:
            await answering
        except asyncio.CancelledError:
            if not cut_off:
                raise


async def _answered(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)
