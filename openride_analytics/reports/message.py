"""A report as a mail: plain text and HTML, small charts inside, the file attached or linked."""

from email.message import EmailMessage

from openride_analytics.reports.content import Order, Report


def compose(
    report: Report,
    order: Order,
    recipient: str,
    *,
    sender: str,
    message_id: str,
    download_link: str | None,
    unsubscribe_link: str,
    attach: bool = True,
) -> EmailMessage:
    """A mail to one recipient. With `attach` false the file is only linked; it takes a `download_link` then.

    `message_id` without angle brackets. The link to unsubscribe answers to one POST (RFC 8058). Raises `ValueError` for an
    address that is none.
    """
    raise NotImplementedError(
        report, order, recipient, sender, message_id, download_link, unsubscribe_link, attach
    )
