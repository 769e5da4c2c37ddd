"""Mails to a real SMTP server, webhooks to a real HTTP server, and what goes wrong with both."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from openride_analytics.config import Smtp
from openride_analytics.reports import sending
from openride_analytics.reports.message import POLICY
from openride_analytics.reports.sending import (
    DELIVERY_HEADER,
    SIGNATURE_HEADER,
    DeliveryFailed,
    Webhook,
    check_url,
    post_webhook,
    send_mail,
    signature,
)
from tests.servers.process import HOST, free_port

UNSUBSCRIBE = "https://example.com/unsubscribe/" + "t" * 120
BODY = b'{"type": "report.ready"}'


class Mailbox:
    """What a mail server has accepted; `answer` to say something else to a message or recipient."""

    def __init__(self) -> None:
        self.accepted: list[Envelope] = []
        self.answers: dict[str, str] = {}
        self.hang_up = False

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name, as those below
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if answer := self.answers.get("RCPT"):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if answer := self.answers.get("DATA"):
            if answer == "silence":
                await asyncio.sleep(3600)
            return answer
        self.accepted.append(envelope)
        return "250 OK"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.hang_up:
            server.transport.abort()  # type: ignore[union-attr]  # it is there while it talks
        return "221 Bye"


@contextlib.contextmanager
def mail_server(mailbox: Mailbox, **options: Any) -> Iterator[int]:
    """The port of a server that runs in a thread of its own."""
    port = free_port()
    controller = Controller(mailbox, hostname=HOST, port=port, ready_timeout=20, **options)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", HOST).configure_cert(context)
    return context


def _message() -> EmailMessage:
    message = EmailMessage(policy=POLICY)
    message["List-Unsubscribe"] = f"<{UNSUBSCRIBE}>"
    message["From"] = "Reports <reports@example.com>"
    message["To"] = "boss@example.com"
    message["Subject"] = "Figures"
    message.set_content("₦1,234")
    return message


def _smtp(port: int, **options: Any) -> Smtp:
    return Smtp(**{"host": HOST, "port": port, "security": "none", "timeout_seconds": 20.0, **options})


async def test_a_mail_arrives_as_it_was_composed() -> None:
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        await send_mail(_smtp(port), _message())
    (envelope,) = mailbox.accepted
    assert envelope.mail_from == "reports@example.com"
    assert envelope.rcpt_tos == ["boss@example.com"]
    assert isinstance(envelope.content, bytes)
    assert envelope.content.rstrip() == _message().as_bytes().rstrip()
    assert f"List-Unsubscribe: <{UNSUBSCRIBE}>\r\n".encode() in envelope.content


async def test_a_mail_goes_by_starttls_with_a_login(tls: ssl.SSLContext, ca_file: Path) -> None:
    mailbox = Mailbox()

    def login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        known = isinstance(data, LoginPassword) and (data.login, data.password) == (b"user", b"right")
        return AuthResult(success=known, handled=False)

    options = {"tls_context": tls, "require_starttls": True, "authenticator": login, "auth_required": True}
    with mail_server(mailbox, **options) as port:
        smtp = {"security": "starttls", "ca_file": str(ca_file), "username": "user"}
        await send_mail(_smtp(port, password="right", **smtp), _message())
        with pytest.raises(DeliveryFailed) as refused:
            await send_mail(_smtp(port, password="wrong", **smtp), _message())
    assert len(mailbox.accepted) == 1
    assert not refused.value.permanent
    assert "wrong" not in str(refused.value)


async def test_a_mail_goes_by_tls_from_the_first_byte(tls: ssl.SSLContext, ca_file: Path) -> None:
    mailbox = Mailbox()
    with mail_server(mailbox, ssl_context=tls) as port:
        await send_mail(_smtp(port, security="tls", ca_file=str(ca_file)), _message())
    assert len(mailbox.accepted) == 1


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tls: ssl.SSLContext) -> None:
    mailbox = Mailbox()
    with mail_server(mailbox, ssl_context=tls) as port, pytest.raises(DeliveryFailed) as refused:
        await send_mail(_smtp(port, security="tls"), _message())
    assert not refused.value.permanent
    assert not mailbox.accepted


async def test_a_server_without_tls_gets_nothing_where_tls_is_asked_for() -> None:
    mailbox = Mailbox()
    with mail_server(mailbox) as port, pytest.raises(DeliveryFailed):
        await send_mail(_smtp(port, security="starttls"), _message())
    assert not mailbox.accepted


@pytest.mark.parametrize(
    ("step", "answer", "permanent"),
    [
        ("RCPT", "550 no such user boss@example.com", True),
        ("RCPT", "450 greylisted", False),
        ("DATA", "554 looks like spam", True),
        ("DATA", "452 disk full", False),
    ],
)
async def test_a_refusal_is_final_if_the_server_says_so(step: str, answer: str, permanent: bool) -> None:  # noqa: FBT001  # from the table
    mailbox = Mailbox()
    mailbox.answers[step] = answer
    with mail_server(mailbox) as port, pytest.raises(DeliveryFailed) as refused:
        await send_mail(_smtp(port), _message())
    assert refused.value.permanent is permanent
    assert "boss" not in str(refused.value)


async def test_a_server_that_falls_silent_is_given_up() -> None:
    mailbox = Mailbox()
    mailbox.answers["DATA"] = "silence"
    with mail_server(mailbox) as port:
        async with asyncio.timeout(30):
            with pytest.raises(DeliveryFailed) as given_up:
                await send_mail(_smtp(port, timeout_seconds=1.0), _message())
    assert not given_up.value.permanent


async def test_a_mail_that_was_accepted_is_sent_however_the_goodbye_goes() -> None:
    mailbox = Mailbox()
    mailbox.hang_up = True
    with mail_server(mailbox) as port:
        await send_mail(_smtp(port), _message())
    assert len(mailbox.accepted) == 1


async def test_no_server_and_no_configured_server_are_failures_that_may_pass() -> None:
    for smtp in (_smtp(free_port()), Smtp()):
        with pytest.raises(DeliveryFailed) as failed:
            await send_mail(smtp, _message())
        assert not failed.value.permanent


@contextlib.asynccontextmanager
async def web_server(answer: bytes | None) -> AsyncIterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """An address, and what was posted to it; an answer of None never comes."""
    requests: list[tuple[dict[str, str], bytes]] = []
    serving: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            body = await reader.readexactly(int(headers["Content-Length"]))
            requests.append(({"": lines[0], **headers}, body))
            if answer is None:
                await asyncio.sleep(3600)
            writer.write(answer or b"")
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://{HOST}:{port}/hook?team=ops", requests
    finally:
        server.close()
        for task in filter(None, serving):
            task.cancel()
        await asyncio.gather(*filter(None, serving), return_exceptions=True)


def _webhook(url: str, seconds: float = 20.0) -> Webhook:
    return Webhook(url, "s3cret", seconds, frozenset({HOST}))


def _status(line: str, more: str = "") -> bytes:
    return f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n{more}\r\n".encode()


async def test_a_webhook_is_posted_once_with_a_signature_that_can_be_checked() -> None:
    async with web_server(_status("204 No Content")) as (url, requests):
        await post_webhook(_webhook(url), BODY, delivery_id="d-1")
    ((headers, body),) = requests
    assert headers[""] == "POST /hook?team=ops HTTP/1.1"
    assert headers["Host"] == url.split("/")[2]
    assert headers["Content-Type"] == "application/json"
    assert headers[DELIVERY_HEADER] == "d-1"
    assert body == BODY
    at = int(headers[SIGNATURE_HEADER].split(",")[0].removeprefix("t="))
    assert headers[SIGNATURE_HEADER] == signature("s3cret", BODY, at)
    assert headers[SIGNATURE_HEADER] != signature("another", BODY, at)
    assert headers[SIGNATURE_HEADER] != signature("s3cret", BODY + b" ", at)


def test_the_signature_is_the_documented_one() -> None:
    # echo -n '1764000000.{}' | openssl dgst -sha256 -hmac s3cret
    expected = "t=1764000000,v1=6850ae36adb3d514d560e4f72b01d4ed2cd2e5702a042a7728aa7c2d94d2d1cb"
    assert signature("s3cret", b"{}", 1_764_000_000) == expected


@pytest.mark.parametrize(
    ("line", "permanent"),
    [
        ("400 Bad Request", True),
        ("404 Not Found", True),
        ("410 Gone", True),
        ("408 Request Timeout", False),
        ("429 Too Many Requests", False),
        ("500 Internal Server Error", False),
        ("503 Service Unavailable", False),
    ],
)
async def test_a_webhook_that_does_not_accept_fails(line: str, permanent: bool) -> None:  # noqa: FBT001  # from the table
    async with web_server(_status(line)) as (url, requests):
        with pytest.raises(DeliveryFailed) as failed:
            await post_webhook(_webhook(url), BODY, delivery_id="d-1")
    assert failed.value.permanent is permanent
    assert len(requests) == 1


async def test_a_webhook_is_not_followed_elsewhere() -> None:
    async with (
        web_server(_status("200 OK")) as (elsewhere, requests),
        web_server(_status("307 Temporary Redirect", f"Location: {elsewhere}\r\n")) as (url, _),
    ):
        with pytest.raises(DeliveryFailed) as failed:
            await post_webhook(_webhook(url), BODY, delivery_id="d-1")
    assert failed.value.permanent
    assert not requests


@pytest.mark.parametrize("answer", [None, b"", b"nonsense\r\n\r\n"])
async def test_a_webhook_that_says_nothing_of_use_is_tried_again(answer: bytes | None) -> None:
    async with web_server(answer) as (url, _):
        async with asyncio.timeout(30):
            with pytest.raises(DeliveryFailed) as failed:
                await post_webhook(_webhook(url, 1.0), BODY, delivery_id="d-1")
    assert not failed.value.permanent


async def test_a_webhook_whose_answer_never_ends_is_an_accepted_one() -> None:
    async with web_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nand so on") as (url, _):
        await post_webhook(_webhook(url), BODY, delivery_id="d-1")


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/hook",
        "https://localhost/hook",
        "https://[::1]/hook",
        "https://[::ffff:10.0.0.1]/hook",
        "https://[64:ff9b::a00:1]/hook",
        "https://10.1.2.3/hook",
        "https://192.168.0.1/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://[fd00::1]/hook",
        "https://0.0.0.0/hook",
        "https://0x7f000001/hook",
        "https://2130706433/hook",
        "https://224.0.0.1/hook",
    ],
)
async def test_a_webhook_reaches_nothing_behind_the_service(url: str) -> None:
    with pytest.raises(DeliveryFailed) as refused:
        await post_webhook(Webhook(url, "s3cret"), BODY, delivery_id="d-1")
    assert refused.value.permanent
    assert "public" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "ftp://example.com/hook",
        "https:///hook",
        "https://user:password@example.com/",
        "https://example.com/a b",
        "https://example.com:port/",
        "https://exämple.com/",
        "https://10.0.0.1/",
        "example.com",
        "",
        "https://[",
    ],
)
def test_an_address_for_no_webhook_is_refused_before_it_is_saved(url: str) -> None:
    with pytest.raises(ValueError, match="webhook"):
        check_url(url)


def test_an_address_for_a_webhook_is_taken() -> None:
    check_url("https://example.com/hooks/1?team=ops")
    check_url("http://10.0.0.1:8080/", frozenset({"10.0.0.1"}))


async def test_a_name_that_has_one_private_address_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def looked_up(host: str, port: int) -> list[Any]:
        return [ip_address("93.184.216.34"), ip_address("10.0.0.1")]

    monkeypatch.setattr(sending, "_addresses", looked_up)
    with pytest.raises(DeliveryFailed, match="not public"):
        await post_webhook(Webhook("https://example.com/", "s3cret"), BODY, delivery_id="d-1")
