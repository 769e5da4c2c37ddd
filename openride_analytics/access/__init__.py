"""Who calls, and what they may do: API keys, JSON Web Tokens, scopes, limits, and the record of changes."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

Scope = Literal["read", "export", "reports", "ingest", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request. `who` is what the audit log calls them."""

    who: str
    scopes: frozenset[str]
    requests_per_minute: int = 0  # 0: no limit
    expires_at: float | None = None  # Unix seconds

    def may(self, scope: Scope) -> bool:
        """Whether the scope is theirs; `admin` includes all others."""
        return scope in self.scopes or "admin" in self.scopes


ANYBODY: Final = Caller("anonymous", frozenset(SCOPES))


class Denied(Exception):
    """A request that is not let in. `reason` is one of a few words, for counting."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        reason: str,
        challenge: str = "",
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason
        self.headers: dict[str, str] = {}
        if status in (401, 403):
            self.headers["WWW-Authenticate"] = f'Bearer realm="openride-analytics"{challenge}'
        if retry_after_seconds is not None:
            self.headers["Retry-After"] = str(retry_after_seconds)


def not_valid(reason: str) -> Denied:
    """What a caller is told whose credentials are wrong, whatever is wrong with them."""
    return Denied(
        401,
        "The key or token is not known, has expired or was revoked.",
        reason=reason,
        challenge=', error="invalid_token"',
    )


def cannot_tell(detail: str) -> Denied:
    """The answer while credentials cannot be checked."""
    return Denied(503, detail, reason="cannot_tell", retry_after_seconds=5)
