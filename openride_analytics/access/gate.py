"""The one place that decides whether a request is let in: who is it, may they, and not too often."""

import math
import time
from collections.abc import Sequence

import asyncpg

from openride_analytics.access import ANYBODY, Caller, Denied, Scope, not_valid
from openride_analytics.access.keys import PREFIX, Keys
from openride_analytics.access.limits import Limits
from openride_analytics.access.tokens import Tokens
from openride_analytics.cache import Cache
from openride_analytics.config import Auth


class Gate:
    """Lets callers in. Where access is off everybody is `ANYBODY`."""

    def __init__(self, auth: Auth, cache: Cache) -> None:
        self.enabled = auth.enabled
        self.keys = Keys(auth.requests_per_minute)
        self._tokens = Tokens(auth)
        self._limits = Limits(cache)

    async def run(self, postgres: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Keeps what is known of keys up to date, until cancelled."""
        if self.enabled:
            await self.keys.run(postgres)

    async def admit(self, authorization: Sequence[str], scope: Scope) -> Caller:
        """The caller behind the request's `Authorization` headers; raises `Denied`."""
        if not self.enabled:
            return ANYBODY
        caller = await self._caller(authorization)
        if caller.requests_per_minute:
            wait = await self._limits.wait_seconds(caller.who, caller.requests_per_minute)
            if wait:
                raise Denied(
                    429,
                    f"More than {caller.requests_per_minute} requests a minute.",
                    reason="too_many",
                    retry_after_seconds=math.ceil(wait),
                )
        if not caller.may(scope):
            raise Denied(
                403,
                f"This needs the scope `{scope}`, which the key or token does not have.",
                reason="no_scope",
                challenge=f', error="insufficient_scope", scope="{scope}"',
            )
        return caller

    async def _caller(self, authorization: Sequence[str]) -> Caller:
        if not authorization:
            raise Denied(
                401, "This needs a key or token: `Authorization: Bearer …`.", reason="no_credentials"
            )
        kind, _, credentials = authorization[0].partition(" ")
        if len(authorization) > 1 or kind.lower() != "bearer":
            raise not_valid("bad_header")
        credentials = credentials.strip(" ")
        if credentials.startswith(PREFIX):
            return await self.keys.verify(credentials)
        return await self._tokens.verify(credentials)

    def holds(self, caller: Caller) -> bool:
        """Whether a caller who was let in would still be: for what goes on for long."""
        if caller is ANYBODY:
            return True
        if caller.who.startswith("key:"):
            return self.keys.holds(caller)
        return caller.expires_at is None or time.time() < caller.expires_at
