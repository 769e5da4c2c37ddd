"""API keys: `ork_<id>_<secret>`, of which PostgreSQL holds the id and the secret's hash.

Each instance holds all keys that may be used and reads them again every few seconds, so a request costs no query, and a key
that was revoked anywhere is refused everywhere within `READ_SECONDS`. An instance that cannot read them goes on with those
it has for `TRUSTED_SECONDS` at most.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import asyncpg
import structlog

from openride_analytics.access import Caller, Scope, audit, cannot_tell, not_valid
from openride_analytics.postgres import AWAY

log = structlog.get_logger(__name__)

PREFIX: Final = "ork_"
READ_SECONDS: Final = 5.0
TRUSTED_SECONDS: Final = 60.0
MOST_KEYS: Final = 1_000  # that may be used; the revoked and expired stay in the list
# Ids that are not known are looked up, so that a new key works at once, but all together no more often than this.
_LOOK_AGAIN_SECONDS: Final = 1.0
_WRITE_USE_SECONDS: Final = 60.0
_LISTED: Final = 2_000
_FORM: Final = re.compile(r"ork_([0-9a-f]{16})_([0-9a-f]{48})", re.ASCII)


class TooManyKeys(Exception):
    """There are `MOST_KEYS` that may be used."""


@dataclass(frozen=True)
class _Known:
    secret_hash: bytes
    caller: Caller


class Keys:
    """The keys that may be used, as one instance knows them."""

    def __init__(self, requests_per_minute: int) -> None:
        self._requests_per_minute = requests_per_minute
        self._postgres: asyncpg.Pool[asyncpg.Record] | None = None
        self._known: dict[str, _Known] = {}
        self._read_began = float("-inf")
        self._tried = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._used: dict[str, datetime] = {}
        self._use_written = monotonic()

    async def run(self, postgres: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Keeps the keys up to date, until cancelled."""
        self._postgres = postgres
        while True:
            await self.read_again(0.0)
            if monotonic() - self._use_written >= _WRITE_USE_SECONDS:
                await self.write_use()
            await asyncio.sleep(READ_SECONDS)

    async def verify(self, text: str) -> Caller:
        """Whose key it is; raises `Denied`."""
        parts = _FORM.fullmatch(text)
        if parts is None:
            raise not_valid("bad_key")
        key_id, secret = parts.groups()
        if key_id not in self._known:
            await self.read_again(_LOOK_AGAIN_SECONDS)
        if not self._trusted:
            raise cannot_tell("Keys cannot be checked just now.")
        known = self._known.get(key_id)
        # The same work and time whether the id is known or not.
        expected = known.secret_hash if known else bytes(hashlib.sha256().digest_size)
        if not hmac.compare_digest(_hash(secret), expected) or known is None:
            raise not_valid("bad_key")
        if not self.holds(known.caller):
            raise not_valid("expired_key")
        self._used[key_id] = datetime.now(UTC)
        return known.caller

    def holds(self, caller: Caller) -> bool:
        """Whether a caller's key is still one that may be used."""
        known = self._known.get(caller.who.removeprefix("key:"))
        expires_at = None if known is None else known.caller.expires_at
        in_time = expires_at is None or datetime.now(UTC).timestamp() < expires_at
        return known is not None and in_time and self._trusted

    @property
    def _trusted(self) -> bool:
        return monotonic() - self._read_began <= TRUSTED_SECONDS

    async def read_again(self, pause_seconds: float) -> None:
        """Reads the keys, so long after the last attempt, together with all who wait for it. A failure is logged."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(self._tried + pause_seconds))
        await asyncio.shield(self._reading)

    async def _read(self, at: float) -> None:
        if self._postgres is None:
            return
        await asyncio.sleep(max(0.0, at - monotonic()))
        began = self._tried = monotonic()
        try:
            rows = await self._postgres.fetch(_USABLE, MOST_KEYS)
        except AWAY as error:
            log.warning("keys_not_read", error=type(error).__name__)
            return
        self._known = {
            row["id"]: _Known(
                row["secret_hash"],
                Caller(
                    f"key:{row['id']}",
                    frozenset(row["scopes"]),
                    self._requests_per_minute
                    if row["requests_per_minute"] is None
                    else row["requests_per_minute"],
                    row["expires_at"].timestamp() if row["expires_at"] else None,
                ),
            )
            for row in rows
        }
        self._read_began = began

    async def write_use(self) -> None:
        """Writes when keys were last used. What cannot be written is written the next time."""
        used, self._used = self._used, {}
        self._use_written = monotonic()
        if not used or self._postgres is None:
            return
        try:
            await self._postgres.execute(_USED, list(used), list(used.values()))
        except AWAY as error:
            log.warning("use_of_keys_not_written", error=type(error).__name__)
            self._used = used | self._used


async def create(
    postgres: "asyncpg.Pool[asyncpg.Record]",
    *,
    name: str,
    scopes: Sequence[Scope],
    expires_at: datetime | None,
    requests_per_minute: int | None,
    by: str,
) -> tuple[str, asyncpg.Record]:
    """Makes a key; returns it, which nobody can do again, and what is kept of it."""
    key_id, secret = secrets.token_hex(8), secrets.token_hex(24)
    async with postgres.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE")
        if await connection.fetchval(_COUNT_USABLE) >= MOST_KEYS:
            raise TooManyKeys
        row = await connection.fetchrow(
            _CREATE, key_id, _hash(secret), name, sorted(set(scopes)), requests_per_minute, by, expires_at
        )
        await audit.record(connection, by, "key.created", {"id": key_id, "scopes": row["scopes"]})
    return f"{PREFIX}{key_id}_{secret}", row


async def listed(postgres: "asyncpg.Pool[asyncpg.Record]") -> list[asyncpg.Record]:
    """All keys that may be used, then the others, the newest first, up to a number."""
    rows: list[asyncpg.Record] = await postgres.fetch(_LIST, _LISTED)
    return rows


async def revoke(postgres: "asyncpg.Pool[asyncpg.Record]", id: str, *, by: str) -> asyncpg.Record | None:
    """Ends a key for good; returns what is kept of it, or None where there is none. Repeating it changes nothing."""
    async with postgres.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(_REVOKE, id)
        if row is not None:
            await audit.record(connection, by, "key.revoked", {"id": id})
            return row
        return await connection.fetchrow(f"SELECT {_SHOWN} FROM api_keys WHERE id = $1", id)


def _hash(secret: str) -> bytes:
    """Of 192 random bits: nothing slower is needed."""
    return hashlib.sha256(secret.encode()).digest()


_SHOWN: Final = """
id, name, scopes, requests_per_minute, created_at, created_by, expires_at, revoked_at, last_used_at
"""

_IS_USABLE: Final = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"

_USABLE: Final = f"""
SELECT id, secret_hash, scopes, requests_per_minute, expires_at
FROM api_keys
WHERE {_IS_USABLE}
LIMIT $1
"""

_COUNT_USABLE: Final = f"SELECT count(*) FROM api_keys WHERE {_IS_USABLE}"

_CREATE: Final = f"""
INSERT INTO api_keys (id, secret_hash, name, scopes, requests_per_minute, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING {_SHOWN}
"""

_LIST: Final = f"""
SELECT {_SHOWN}
FROM api_keys
ORDER BY {_IS_USABLE} DESC, created_at DESC, id
LIMIT $1
"""

_REVOKE: Final = f"""
UPDATE api_keys
SET revoked_at = now()
WHERE id = $1 AND revoked_at IS NULL
RETURNING {_SHOWN}
"""

_USED: Final = """
UPDATE api_keys
SET last_used_at = greatest(last_used_at, used.at)
FROM unnest($1::text[], $2::timestamptz[]) AS used (id, at)
WHERE api_keys.id = used.id
"""
