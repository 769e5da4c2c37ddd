"""Reports on their way: by mail, and to webhooks.

A webhook goes to an address that somebody has typed in. So that nobody reaches into the network behind the service with it,
the host's name is looked up once, every address of it must be public, and the connection is made to the very address that was
looked at. Hosts that the operator lists may be private ones, and be spoken to without TLS. Redirects are not followed.
"""

import asyncio
import contextlib
import hashlib
import hmac
import socket
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from time import time
from typing import Final
from urllib.parse import SplitResult, urlsplit

import aiosmtplib
import httpx

from openride_analytics.config import Smtp

SIGNATURE_HEADER: Final = "OpenRide-Signature"
DELIVERY_HEADER: Final = "OpenRide-Delivery"
_LATER: Final = frozenset({408, 421, 425, 429})
"""Statuses below 500 that ask to come again."""
_QUIT_SECONDS: Final = 2.0
_MOST_ADDRESSES: Final = 3
# The last 32 bits are an IPv4 address, which a gateway of the network connects to.
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")


class DeliveryFailed(Exception):
    """The receiver has not accepted it. `permanent`: the same would fail again. The message names nobody and no secret."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


async def send_mail(smtp: Smtp, message: EmailMessage) -> None:
    """Hands a message to the mail server.

    Raises `DeliveryFailed`: for good where the server refuses sender, recipient or message with a 5xx. When it was cut off
    between the message's end and the server's answer, the message may have been accepted all the same.
    """
    if not smtp.host:
        raise DeliveryFailed("no mail server is configured: [smtp] host", permanent=False)
    client = _mail_client(smtp)
    try:
        async with asyncio.timeout(smtp.timeout_seconds):
            await client.connect()
            sender = message["From"].addresses[0].addr_spec
            recipients = [address.addr_spec for address in message["To"].addresses]
            # In the message's own form: aiosmtplib's would fold what must stay whole.
            await client.sendmail(sender, recipients, message.as_bytes())
    except aiosmtplib.SMTPRecipientsRefused as error:
        codes = {refused.code for refused in error.recipients}
        permanent = all(code >= 500 for code in codes)
        raise DeliveryFailed(
            f"the mail server refused the recipient ({min(codes, default=0)})", permanent=permanent
        ) from None
    except aiosmtplib.SMTPAuthenticationError as error:
        raise DeliveryFailed(
            f"the mail server refused the login ({error.code})", permanent=False
        ) from None  # mended by the operator, not by another message
    except (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPDataError) as error:
        raise DeliveryFailed(
            f"the mail server refused the message ({error.code})", permanent=error.code >= 500
        ) from None
    except (ValueError, UnicodeError, aiosmtplib.SMTPNotSupported) as error:
        raise DeliveryFailed(f"the message cannot be sent: {type(error).__name__}", permanent=True) from None
    except (aiosmtplib.SMTPException, OSError) as error:  # a time-out is an OSError
        raise DeliveryFailed(
            f"the mail server could not be used: {type(error).__name__}", permanent=False
        ) from None
    finally:
        # Accepted is accepted, however the goodbye goes.
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            async with asyncio.timeout(_QUIT_SECONDS):
                if client.is_connected:
                    await client.quit()
        client.close()


async def try_mail(smtp: Smtp) -> None:
    """Connects to the mail server, logs in and takes leave. Raises what that raises."""
    client = _mail_client(smtp)
    try:
        await client.connect()
        await client.quit()
    finally:
        client.close()


def _mail_client(smtp: Smtp) -> aiosmtplib.SMTP:
    return aiosmtplib.SMTP(
        hostname=smtp.host,
        port=smtp.port,
        use_tls=smtp.security == "tls",
        start_tls=smtp.security == "starttls",
        username=smtp.username or None,
        password=smtp.password or None,
        timeout=smtp.timeout_seconds,
        tls_context=None if smtp.security == "none" else _mail_context(smtp.ca_file),
    )


@dataclass(frozen=True)
class Webhook:
    """Where to, and the secret that the receiver checks the signature with."""

    url: str
    secret: str
    timeout_seconds: float = 20.0
    private_hosts: frozenset[str] = frozenset()


def check_url(url: str, private_hosts: frozenset[str] = frozenset()) -> None:
    """Raises `ValueError` with a sentence where no webhook can go: for callers to ask before they save an address.

    The host's addresses are looked at when something is sent.
    """
    parts, _, _ = _target(url)
    host = parts.hostname or ""
    if host in private_hosts:
        return
    if parts.scheme != "https":
        raise ValueError("A webhook's address must begin with https://.")
    with contextlib.suppress(_NoAddress):
        if not _is_public(_address(host)):
            raise ValueError("A webhook's address must be a public one.")


async def post_webhook(webhook: Webhook, body: bytes, *, delivery_id: str) -> None:
    """Posts JSON. Raises `DeliveryFailed`; any 2xx is success.

    `delivery_id` is the same whenever the same is sent again, so that a receiver can tell. The signature header is
    `t=<Unix seconds>,v1=<hex>`, where v1 is the HMAC-SHA256 of `<t>.<body>` with the webhook's secret.
    """
    try:
        check_url(webhook.url, webhook.private_hosts)
    except ValueError as error:
        raise DeliveryFailed(str(error), permanent=True) from None
    try:
        async with asyncio.timeout(webhook.timeout_seconds):
            status = await _post(webhook, body, delivery_id)
    except httpx.InvalidURL:
        raise DeliveryFailed("the webhook has no valid address", permanent=True) from None
    except (httpx.HTTPError, OSError) as error:  # a time-out and a name that is unknown are OSErrors
        raise DeliveryFailed(
            f"the webhook could not be reached: {type(error).__name__}", permanent=False
        ) from None
    if not 200 <= status < 300:
        permanent = status < 500 and status not in _LATER
        raise DeliveryFailed(f"the webhook answered {status}", permanent=permanent)


def signature(secret: str, body: bytes, at: int) -> str:
    """The signature header of a body sent at that Unix second."""
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={signed}"


async def _post(webhook: Webhook, body: bytes, delivery_id: str) -> int:
    parts, port, host_header = _target(webhook.url)
    host = parts.hostname or ""
    addresses = await _addresses(host, port)
    if host not in webhook.private_hosts and not all(map(_is_public, addresses)):
        raise DeliveryFailed("the webhook's host has an address that is not public", permanent=True)
    headers = {
        "Host": host_header,
        "Content-Type": "application/json",
        "User-Agent": "openride-analytics",
        DELIVERY_HEADER: delivery_id,
        SIGNATURE_HEADER: signature(webhook.secret, body, int(time())),
    }
    # No proxy of the environment: it would look the name up again.
    async with httpx.AsyncClient(
        trust_env=False, verify=_web_context(), follow_redirects=False, timeout=webhook.timeout_seconds
    ) as client:
        for number, address in enumerate(addresses[:_MOST_ADDRESSES], start=1):
            literal = f"[{address}]" if address.version == 6 else str(address)
            request = client.build_request(
                "POST",
                parts._replace(netloc=f"{literal}:{port}", fragment="").geturl(),
                content=body,
                headers=headers,
                extensions={"sni_hostname": host},  # also the name that the certificate must have
            )
            try:
                response = await client.send(request, stream=True)
            except httpx.ConnectError:
                if number == min(len(addresses), _MOST_ADDRESSES):
                    raise
                continue
            await response.aclose()  # what it says besides is of no use
            return response.status_code
    raise httpx.ConnectError("no address")


def _target(url: str) -> tuple[SplitResult, int, str]:
    """The address taken apart, its port, and the Host header."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    except (ValueError, KeyError):
        raise ValueError("A webhook's address must be like https://example.com/path.") from None
    if (
        not parts.hostname
        or parts.username is not None
        or any(c.isspace() or not c.isprintable() for c in url)
    ):
        raise ValueError("A webhook's address must have a host, and no user, password or spaces.")
    if not url.isascii():
        raise ValueError("A webhook's address must be in ASCII.")
    return parts, port, parts.netloc


class _NoAddress(ValueError):
    pass


def _address(host: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(host)
    except ValueError:
        raise _NoAddress from None


async def _addresses(host: str, port: int) -> list[IPv4Address | IPv6Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in _TRANSLATED:
            return _is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


@cache
def _web_context() -> ssl.SSLContext:
    return ssl.create_default_context()


@cache
def _mail_context(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file or None)
