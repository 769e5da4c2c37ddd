"""JSON Web Tokens: which are let in, and where their keys come from."""

import asyncio
import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from openride_analytics.access import Denied
from openride_analytics.access.tokens import Tokens
from openride_analytics.config import Auth
from tests.component.test_access import AUDIENCE, ISSUER, SECRET, app, ask, refused
from tests.component.test_http import App
from tests.servers.process import HOST, free_port

__all__ = ["app"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Tokens


def token(
    key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "exp": int(time.time()) + 600,
        "scope": "read unknown",
    }
    given = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return jwt.encode(given, key, algorithm, headers)


async def test_a_token_is_let_in_by_its_scopes(app: App) -> None:
    assert (await ask(app, "GET", "/v1/metrics/definitions", token())).status_code == 200
    assert (await ask(app, "GET", "/v1/metrics/definitions", token(scope=["read"]))).status_code == 200
    refused(await ask(app, "GET", "/v1/keys", token()), 403)
    refused(await ask(app, "GET", "/v1/metrics/definitions", token(scope=None)), 403)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1_700_000_000},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 4_000_000_000},
        {"iss": "https://other.example.com"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"sub": None},
        {"key": "another secret of more than 32 bytes"},
    ],
)
async def test_a_token_that_is_not_for_us_is_a_401(app: App, claims: dict[str, Any]) -> None:
    refused(await ask(app, "GET", "/v1/metrics/definitions", token(**claims)), 401)


async def test_a_token_without_a_signature_is_a_401(app: App) -> None:
    head, body, _ = token().split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    for forged in (f"{none}.{body}.", f"{head}.{body}.", f"{none}.{body}.{'A' * 43}"):
        refused(await ask(app, "GET", "/v1/metrics/definitions", forged), 401)


class Jwks:
    """An address with keys, that can be changed and counts how often it is asked."""

    def __init__(self) -> None:
        self.body = b"{}"
        self.asked = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(self.body) + self.body
        )
        await writer.drain()
        writer.close()


def described(key: Any, kid: str, **more: str) -> dict[str, Any]:
    """The public half as a JWK."""
    kind: Any = (
        jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    )
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, **more}


async def test_keys_from_an_address_are_kept_and_cannot_be_mistaken(monkeypatch: pytest.MonkeyPatch) -> None:
    rs, es = rsa.generate_private_key(65_537, 2_048), ec.generate_private_key(ec.SECP256R1())
    weak, later = rsa.generate_private_key(65_537, 1_024), ec.generate_private_key(ec.SECP256R1())
    jwks, port = Jwks(), free_port()
    jwks.body = json.dumps(
        {
            "keys": [
                *(described(rs, "rs"), described(es, "es"), described(weak, "weak")),
                *(described(rs, "enc", use="enc"), described(rs, "ps", alg="PS256")),
                {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()},
            ]
        }
    ).encode()
    auth = Auth(enabled=True, jwks_url=f"http://{HOST}:{port}/", jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
    tokens = Tokens(auth)

    async def status(text: str) -> int:
        try:
            await tokens.verify(text)
        except Denied as denied:
            return denied.status
        return 200

    good = token(rs, "RS256", {"kid": "rs"})
    assert await status(good) == 503  # nobody is there yet
    tokens._tried = float("-inf")
    async with await asyncio.start_server(jwks.answer, HOST, port):
        assert await asyncio.gather(*(status(good) for _ in range(5))) == [200] * 5
        assert await status(token(es, "ES256", {"kid": "es"})) == 200
        assert jwks.asked == 1
        public = rs.public_key().public_numbers().n.to_bytes(256, "big")
        confused = _signed({"alg": "HS256", "kid": "rs"}, public)
        for bad in (
            confused,
            token(headers={"kid": "oct"}),
            token(headers={"kid": "rs"}),
            token(es, "ES256", {"kid": "rs"}),
            token(rs, "RS512", {"kid": "rs"}),
            token(rs, "RS256", {"kid": "enc"}),
            token(rs, "PS256", {"kid": "ps"}),
            token(rs, "RS256"),
            token(later, "ES256", {"kid": "later"}),
            token(later, "ES256", {"kid": "es", "jwk": described(later, "es")}),
            token(rs, "RS256", {"kid": "rs"}, exp=1_700_000_000),
        ):
            assert await status(bad) == 401
        assert jwks.asked == 1  # what is not known is not asked for again and again

        jwks.body = json.dumps({"keys": [described(later, "later")]}).encode()
        monkeypatch.setattr("openride_analytics.access.tokens._FETCH_AGAIN_SECONDS", 0.0)
        assert await status(token(later, "ES256", {"kid": "later"})) == 200
        assert await status(good) == 401  # that key is no longer there
        for broken in (b"{", b"[]", b" " * 300_000):
            jwks.body = broken
            assert await status(token(later, "ES256", {"kid": "other"})) == 401
        assert await status(token(later, "ES256", {"kid": "later"})) == 200
    monkeypatch.setattr("openride_analytics.access.tokens._TRUSTED_SECONDS", -1.0)
    assert await status(token(later, "ES256", {"kid": "later"})) == 503


def _signed(header: dict[str, str], secret: bytes) -> str:
    """A token whose HMAC secret is somebody's public key."""
    body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "eve", "exp": int(time.time()) + 600, "scope": "admin"}
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, body)
    ]
    signature = hmac.digest(secret, ".".join(parts).encode(), "sha256")
    return ".".join([*parts, base64.urlsafe_b64encode(signature).decode().rstrip("=")])
