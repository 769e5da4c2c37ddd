"""Reports on their way: by mail, and to webhooks."""

from dataclasses import dataclass
from email.message import EmailMessage
from typing import Final

from openride_analytics.config import Smtp

SIGNATURE_HEADER: Final = "OpenRide-Signature"
_NOT_FOR_GOOD: Final = frozenset({408, 421, 425, 429})
_LONGEST_ANSWER_BYTES: Final = 65_536


class DeliveryFailed(Exception):
    """Nothing was accepted. `permanent`: the same will fail again. The message names no address and no secret."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


async def send_mail(smtp: Smtp, message: EmailMessage) -> None:
    """Hands the message to the mail server. Raises `DeliveryFailed`; one of the server's 5xx to it is permanent."""
    raise NotImplementedError(smtp, message)


@dataclass(frozen=True)
class Webhook:
    """Where to, and the secret that the receiver checks the signature with."""

    url: str
    secret: str
    timeout_seconds: float = 20.0
    private_hosts: frozenset[str] = frozenset()


def check_url(url: str) -> None:
    """Raises `ValueError` with a sentence where no webhook can go: for a caller to ask before a schedule is saved."""
    raise NotImplementedError(url)


async def post_webhook(webhook: Webhook, body: bytes, *, delivery_id: str) -> None:
    """Posts JSON, signed. Raises `DeliveryFailed`. Any 2xx is success; redirects are not followed.

    `delivery_id` is the same whenever the same is sent again, so that a receiver can tell.
    """
    raise NotImplementedError(webhook, body, delivery_id)
