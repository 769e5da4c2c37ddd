"""Links that people get in their mail: signed, so that nobody makes up others, and for files not for ever."""

import base64
import hmac
import secrets
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

import asyncpg

from openride_analytics.config import Config

_SECRET_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 16
UNSUBSCRIBE_PATH: Final = "/v1/reports/unsubscribe"


class Links:
    """Makes the links and checks them. All instances share the secret."""

    def __init__(self, config: Config, secret: bytes) -> None:
        server, reports = config.server, config.reports
        self._base = reports.public_url.rstrip("/") or f"http://{server.host}:{server.port}"
        self._valid = timedelta(days=min(reports.link_days, reports.retention_days))
        self._secret = secret

    @classmethod
    async def of(cls, config: Config, pool: "asyncpg.Pool[asyncpg.Record]") -> "Links":
        """With the configured secret, or the one that the first instance put into PostgreSQL."""
        if config.reports.signing_secret:
            return cls(config, config.reports.signing_secret.encode())
        await pool.execute(
            "INSERT INTO report_link_secret (secret) VALUES ($1) ON CONFLICT DO NOTHING",
            secrets.token_bytes(_SECRET_BYTES),
        )
        secret: bytes = await pool.fetchval("SELECT secret FROM report_link_secret")
        return cls(config, secret)

    def file(self, report_id: UUID, now: datetime) -> tuple[str, datetime]:
        """A link to a report's file, and when it ends."""
        ends = (now + self._valid).replace(microsecond=0)
        expires = str(int(ends.timestamp()))
        query = urlencode({"expires": expires, "signature": self._sign(f"file {report_id} {expires}")})
        return f"{self._base}/v1/reports/{report_id}/file?{query}", ends

    def opens_file(self, report_id: UUID, expires: str, signature: str, now: datetime) -> bool:
        """Whether the parameters of a link are ours, and its time is not over."""
        if not hmac.compare_digest(self._sign(f"file {report_id} {expires}").encode(), signature.encode()):
            return False
        return now.timestamp() < int(expires)

    def unsubscribe(self, recipient_id: UUID) -> str:
        """A link that takes this recipient off its schedule's list. It does not end."""
        token = base64.urlsafe_b64encode(recipient_id.bytes).decode().rstrip("=")
        return f"{self._base}{UNSUBSCRIBE_PATH}?{urlencode({'token': token + self._sign(f'unsubscribe {recipient_id}')})}"

    def unsubscribes(self, token: str) -> UUID | None:
        """Whom a token is for; None if it is not ours."""
        try:
            recipient_id = UUID(bytes=base64.urlsafe_b64decode(token[:22].encode("ascii") + b"=="))
        except ValueError:
            return None
        signature = self._sign(f"unsubscribe {recipient_id}")
        return recipient_id if hmac.compare_digest(signature.encode(), token[22:].encode()) else None

    def _sign(self, text: str) -> str:
        digest = hmac.new(self._secret, text.encode(), sha256).digest()[:_SIGNATURE_BYTES]
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
