"""JSON Web Tokens of somebody else's making: HS256 with a shared secret, or RS256 and ES256 with keys from a JWKS address.

The algorithm is the key's and never the token's choice; keys that a token brings along or points to are not looked at. Keys
are kept, and fetched again when they are old or a token names one that is not known, but never more often than a bound.
"""

import asyncio
from time import monotonic
from typing import Any, Final

import httpx
import jwt
import msgspec
import structlog

from openride_analytics.access import SCOPES, Caller, cannot_tell, not_valid
from openride_analytics.config import Auth

log = structlog.get_logger(__name__)

_LONGEST_TOKEN: Final = 8_192
_LEEWAY_SECONDS: Final = 10
_FETCH_SECONDS: Final = 5.0
_FETCH_BYTES: Final = 262_144
_MOST_KEYS: Final = 100
_OLD_SECONDS: Final = 600.0
_TRUSTED_SECONDS: Final = 3_600.0  # with keys that could not be fetched again
_FETCH_AGAIN_SECONDS: Final = 30.0
_SMALLEST_RSA_BITS: Final = 2_048


class Tokens:
    """Verifies tokens as the configuration says."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def verify(self, token: str) -> Caller:
        """Who the token speaks for; raises `Denied`."""
        auth = self._auth
        if not (auth.jwt_secret or auth.jwks_url) or len(token) > _LONGEST_TOKEN:
            raise not_valid("bad_token")
        try:
            key: Any
            if auth.jwt_secret:
                key, algorithms = auth.jwt_secret, ["HS256"]
            else:
                key = await self._key(jwt.get_unverified_header(token).get("kid"))
                algorithms = [key.algorithm_name]
            claims = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                issuer=auth.jwt_issuer,
                audience=auth.jwt_audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError) as error:
            # The caller is not told what is wrong with it; who sets up the identity provider has to know.
            log.debug("token_refused", error=type(error).__name__)
            raise not_valid(
                "expired_token" if isinstance(error, jwt.ExpiredSignatureError) else "bad_token"
            ) from None
        return Caller(
            f"token:{claims['sub']}",
            _scopes(claims.get(auth.jwt_scopes_claim)),
            auth.requests_per_minute,
            float(claims["exp"]) + _LEEWAY_SECONDS,
        )

    async def _key(self, kid: Any) -> jwt.PyJWK:
        if not isinstance(kid, str):
            raise not_valid("bad_token")
        known, age = self._keys.get(kid), monotonic() - self._fetched
        if (known is None or age > _OLD_SECONDS) and monotonic() - self._tried > _FETCH_AGAIN_SECONDS:
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.create_task(self._fetch())
            await asyncio.shield(self._fetching)
        elif known is None and self._fetching is not None and not self._fetching.done():
            await asyncio.shield(self._fetching)
        if monotonic() - self._fetched > _TRUSTED_SECONDS:
            raise cannot_tell("Tokens cannot be checked just now.")
        if kid not in self._keys:
            raise not_valid("bad_token")
        return self._keys[kid]

    async def _fetch(self) -> None:
        """Fetches the keys; a failure is logged and leaves those that are there."""
        self._tried = monotonic()
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                body = await _bounded_get(self._auth.jwks_url)
            fetched = _usable(body)
        except (httpx.HTTPError, TimeoutError, OSError, ValueError) as error:
            log.warning("jwks_not_fetched", error=type(error).__name__)
            return
        self._keys, self._fetched = fetched, self._tried


async def try_keys(url: str) -> int:
    """How many keys that can be used are at the address. Raises what fetching them raises."""
    return len(_usable(await _bounded_get(url)))


async def _bounded_get(url: str) -> bytes:
    body = b""
    async with (
        httpx.AsyncClient(timeout=_FETCH_SECONDS, follow_redirects=False) as client,
        client.stream("GET", url) as response,
    ):
        if response.status_code != httpx.codes.OK:
            raise ValueError(response.status_code)
        async for part in response.aiter_bytes(65_536):
            body += part
            if len(body) > _FETCH_BYTES:
                raise ValueError("too large")
    return body


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


def _usable(body: bytes) -> dict[str, jwt.PyJWK]:
    """The public keys for signatures, by their ids. Raises ValueError."""
    found: dict[str, jwt.PyJWK] = {}
    for described in msgspec.json.decode(body, type=_Document).keys[:_MOST_KEYS]:
        algorithm = {"RSA": "RS256", "EC": "ES256"}.get(str(described.get("kty")))
        kid = described.get("kid")
        if (
            algorithm is None
            or not isinstance(kid, str)
            or described.get("use", "sig") != "sig"
            or described.get("alg", algorithm) != algorithm
            or (algorithm == "ES256" and described.get("crv") != "P-256")
        ):
            continue
        try:
            key = jwt.PyJWK(described, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if algorithm == "RS256" and key.key.key_size < _SMALLEST_RSA_BITS:
            continue
        found[kid] = key
    return found


def _scopes(claim: Any) -> frozenset[str]:
    """Those of ours that a claim names: text with spaces, or a list."""
    named = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(scope for scope in SCOPES if scope in named)
