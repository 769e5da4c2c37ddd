"""A mail server that keeps what it is given: aiosmtpd, in a thread of the tests."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.servers.process import HOST, free_port


@dataclass(frozen=True)
class Mail:
    """A message that was accepted."""

    recipient: str
    message: EmailMessage

    @property
    def message_id(self) -> str:
        return str(self.message["Message-ID"])


class SmtpServer:
    """Accepts everything, but for what `answer` (recipient → an SMTP reply or None) says otherwise."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.answer: Callable[[str], str | None] = lambda _: None
        self.delay_seconds = 0.0
        self.port = free_port()
        self._controller = Controller(self, hostname=HOST, port=self.port, ready_timeout=30)

    @property
    def config(self) -> dict[str, Any]:
        """What the section `[smtp]` has to say."""
        return {
            "host": HOST,
            "port": self.port,
            "security": "none",
            "sender": "Reports <reports@openride.test>",
        }

    def reset(self) -> None:
        """As new."""
        self.mails.clear()
        self.answer = lambda _: None
        self.delay_seconds = 0.0

    def to(self, recipient: str) -> list[Mail]:
        """What one recipient has got."""
        return [mail for mail in list(self.mails) if mail.recipient == recipient]

    def counts(self) -> Counter[str]:
        """How many mails each recipient has got."""
        return Counter(mail.recipient for mail in list(self.mails))

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Refuses, or takes note of the recipient."""
        refused = self.answer(address)
        if refused is None:
            envelope.rcpt_tos.append(address)
        return refused or "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keeps the message, and only then, perhaps late, says so."""
        content = envelope.content
        assert isinstance(content, bytes)
        message = message_from_bytes(content, policy=default)
        assert isinstance(message, EmailMessage)
        self.mails += [Mail(recipient, message) for recipient in envelope.rcpt_tos]
        await asyncio.sleep(self.delay_seconds)
        return "250 OK"

    def start(self) -> None:
        """Listens when it returns."""
        self._controller.start()

    def stop(self) -> None:
        """Listens no more."""
        self._controller.stop()


@pytest.fixture(scope="session")
def smtp_server() -> Iterator[SmtpServer]:
    """One for the whole session; tests use `smtp`."""
    server = SmtpServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def smtp(smtp_server: SmtpServer) -> SmtpServer:
    """A mail server that has got nothing yet."""
    smtp_server.reset()
    return smtp_server
