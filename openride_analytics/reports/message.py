"""A report as a mail (plain text and HTML, small charts inside, the file attached or linked), and as a webhook's body."""

from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime, getaddresses
from html import escape
from typing import Any, Final

import msgspec

from openride_analytics.period import instant_text
from openride_analytics.reports.content import Order, Report
from openride_analytics.reports.document import KeyNumber

_COLOURS: Final = {"better": "#00735c", "worse": "#a8480a", "neutral": "#5b6875"}
_ARROWS: Final = {"up": "▲ ", "down": "▼ ", "level": ""}
_FONT: Final = "font-family:Inter,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"


class _WholeUrls(EmailPolicy):
    """Python would fold a long address in a header by encoding it, and no mail program would know it again."""

    def fold(self, name: str, value: Any) -> str:
        if name.lower() == "list-unsubscribe":
            return f"{name}: {value}{self.linesep}"
        folded: str = super().fold(name, value)
        return folded

    def fold_binary(self, name: str, value: Any) -> bytes:
        if name.lower() == "list-unsubscribe":
            return self.fold(name, value).encode("ascii")
        return super().fold_binary(name, value)


POLICY: Final = _WholeUrls(linesep="\r\n")


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
    """A mail to one recipient. Without `attach` the file is only linked, so there must be a `download_link`.

    `message_id` stands between angle brackets in the header, and is given without them. The link to unsubscribe must take the
    one POST of RFC 8058. The file is read, so callers with a large one to attach use a thread. Raises `ValueError` for an
    address that is none.
    """
    if not attach and download_link is None:
        raise ValueError("A report that is not attached needs a link.")
    message = EmailMessage(policy=POLICY)
    message["From"] = _address(sender)
    message["To"] = _address(recipient)
    message["Subject"] = _line(f"{order.name}: {report.period_text}")
    message["Date"] = format_datetime(order.now)
    message["Message-ID"] = f"<{_token(message_id)}>"
    message["List-Unsubscribe"] = f"<{_token(unsubscribe_link)}>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        _text(report, order, download_link, unsubscribe_link, attach=attach), cte="quoted-printable"
    )
    local, _, domain = message_id.rpartition("@")
    images = [f"chart-{number}.{local}@{domain}" for number in range(len(report.charts))]
    page = _html(report, order, download_link, unsubscribe_link, images, attach=attach)
    message.add_alternative(page, subtype="html", cte="quoted-printable")
    *_, body = message.iter_parts()
    if not isinstance(body, EmailMessage):  # which `add_alternative` has just made
        raise TypeError
    for number, (chart, name) in enumerate(zip(report.charts, images, strict=True), start=1):
        body.add_related(
            chart.png, "image", "png", cid=f"<{name}>", disposition="inline", filename=f"chart-{number}.png"
        )
    if attach:
        main, _, sub = report.media_type.partition("/")
        message.add_attachment(
            report.path.read_bytes(), maintype=main, subtype=sub, filename=report.file_name
        )
    return message


def webhook_body(report: Report, order: Order, *, report_id: str, download_link: str | None) -> bytes:
    """What a webhook is told: the key numbers, and where the file is. JSON."""
    return msgspec.json.encode(
        {
            "type": "report.ready",
            "report_id": report_id,
            "name": order.name,
            "period": {
                "start": instant_text(order.period.start),
                "end": instant_text(order.period.end),
                "timezone": order.period.timezone.key,
                "text": report.period_text,
            },
            "compared_with": report.compared_with,
            "filters": order.filters.given,
            "empty": report.empty,
            "key_numbers": report.key_numbers,
            "file": {
                "name": report.file_name,
                "media_type": report.media_type,
                "bytes": report.bytes,
                "rows": report.rows,
                "url": download_link,
            },
        }
    )


def _address(text: str) -> Address:
    """Of `Name <local@domain>` or `local@domain`. Raises `ValueError`."""
    found = getaddresses([text])
    name, spec = found[0] if len(found) == 1 else ("", "")
    if not spec.isascii() or not text.isprintable() or spec.count("@") != 1:
        raise ValueError("not an e-mail address")
    try:
        address = Address(_line(name), addr_spec=spec)
    except Exception as error:  # its parser raises IndexError and others for some texts
        raise ValueError("not an e-mail address") from error
    if not address.username or not address.domain or any(c.isspace() for c in spec):
        raise ValueError("not an e-mail address")
    return address


def _line(text: str) -> str:
    """One line without control characters: nothing in it can begin another header."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _token(text: str) -> str:
    if not text or not text.isascii() or any(c.isspace() or not c.isprintable() or c in "<>" for c in text):
        raise ValueError("an id or address in a header must be printable ASCII without spaces")
    return text


def _changed(number: KeyNumber) -> str:
    if number.before is None:
        return ""
    if number.change is None:
        return f"before: {number.before}"
    return f"{number.change} from {number.before}"


def _size(count: int) -> str:
    return f"{count / 1_048_576:,.1f} MB" if count >= 1_048_576 else f"{max(1, round(count / 1024)):,} KB"


def _file_sentence(report: Report, *, attach: bool) -> str:
    file = f"{report.file_name} ({_size(report.bytes)})"
    return (
        f"The whole report is attached: {file}."
        if attach
        else f"The whole report is too large to attach: {file}."
    )


def _text(
    report: Report, order: Order, download_link: str | None, unsubscribe_link: str, *, attach: bool
) -> str:
    width = max((len(number.label) for number in report.key_numbers), default=0) + 2
    lines = [_line(order.name), report.period_text]
    if report.compared_with:
        lines.append(f"Compared with {report.compared_with}")
    lines += [
        f"{name.replace('_', ' ').capitalize()}: {_line(value)}"
        for name, value in order.filters.given.items()
    ]
    lines.append("")
    if report.empty:
        lines += ["Nothing happened in this period.", ""]
    for number in report.key_numbers:
        value = f"{number.value}{f', also {number.also}' if number.also else ''}"
        changed = _changed(number)
        lines.append(f"{number.label:<{width}}{value}{f'  ({changed})' if changed else ''}")
    lines += ["", _file_sentence(report, attach=attach)]
    if download_link:
        lines.append(f"Download: {download_link}")
    lines += ["", "-- ", "OpenRide Analytics", f"No longer wanted? Unsubscribe: {unsubscribe_link}", ""]
    return "\n".join(lines)


def _html(
    report: Report,
    order: Order,
    download_link: str | None,
    unsubscribe_link: str,
    images: list[str],
    *,
    attach: bool,
) -> str:
    """Tables and inline styles: what Outlook understands."""
    numbers = report.key_numbers
    glance = ", ".join(f"{number.label} {number.value}" for number in numbers[:3])
    facts = [f"Compared with {report.compared_with}"] if report.compared_with else []
    facts += [
        f"{name.replace('_', ' ').capitalize()}: {value}" for name, value in order.filters.given.items()
    ]
    rows = "".join(
        f"<tr>{_card(numbers[at])}{_card(numbers[at + 1] if at + 1 < len(numbers) else None)}</tr>\n"
        for at in range(0, len(numbers), 2)
    )
    charts = "".join(
        f'<tr><td style="padding:22px 32px 0"><div style="{_FONT};font-size:15px;font-weight:600;color:#1d2733;'
        f'padding-bottom:8px">{escape(chart.title)} <span style="font-weight:400;font-size:13px;color:#5b6875">'
        f'{escape(chart.subtitle)}</span></div><img src="cid:{escape(name)}" width="{chart.width}" '
        f'alt="{escape(chart.alt)}" style="display:block;width:100%;max-width:{chart.width}px;height:auto;border:0">'
        "</td></tr>\n"
        for chart, name in zip(report.charts, images, strict=True)
    )
    button = ""
    if download_link:
        button = (
            '<table role="presentation" cellspacing="0" cellpadding="0" border="0" style="margin-top:14px"><tr>'
            f'<td style="background:#0072b2;border-radius:4px"><a href="{escape(download_link)}" style="display:inline-block;'
            f'padding:10px 18px;{_FONT};font-size:14px;font-weight:600;color:#ffffff;text-decoration:none">'
            "Download the report</a></td></tr></table>"
        )
    empty = ""
    if report.empty:
        empty = (
            f'<tr><td style="padding:18px 32px 0;{_FONT};font-size:15px;color:#1d2733">'
            "Nothing happened in this period.</td></tr>"
        )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>{escape(_line(order.name))}</title>
</head>
<body style="margin:0;padding:0;background:#eef1f4">
<div style="display:none;max-height:0;overflow:hidden">{escape(glance)}</div>
<table role="presentation" width="100%" cellspacing="0" cellpadding="0" border="0" style="background:#eef1f4">
<tr><td align="center" style="padding:24px 12px">
<table role="presentation" width="600" cellspacing="0" cellpadding="0" border="0"
 style="width:100%;max-width:600px;background:#ffffff;border-radius:8px">
<tr><td style="padding:28px 32px 0;{_FONT};word-break:break-word">
<div style="font-size:11px;font-weight:600;letter-spacing:1px;color:#0072b2">OPENRIDE ANALYTICS</div>
<h1 style="margin:6px 0 2px;font-size:24px;line-height:1.25;color:#1d2733">{escape(_line(order.name))}</h1>
<div style="font-size:16px;color:#1d2733">{escape(report.period_text)}</div>
<div style="font-size:13px;line-height:1.5;color:#5b6875;padding-top:4px">{"<br>".join(map(escape, facts))}</div>
</td></tr>
{empty}
<tr><td style="padding:16px 26px 0">
<table role="presentation" width="100%" cellspacing="0" cellpadding="0" border="0">
{rows}</table>
</td></tr>
{charts}<tr><td style="padding:22px 32px 28px;{_FONT};font-size:14px;line-height:1.5;color:#1d2733">
{escape(_file_sentence(report, attach=attach))}
{button}
</td></tr>
</table>
<div style="{_FONT};font-size:12px;line-height:1.6;color:#5b6875;padding:16px 32px">
Sent by OpenRide Analytics because this address is on the list of this report.<br>
<a href="{escape(unsubscribe_link)}" style="color:#5b6875">Unsubscribe</a>
</div>
</td></tr>
</table>
</body>
</html>
"""


def _card(number: KeyNumber | None) -> str:
    if number is None:
        return '<td width="50%"></td>'
    changed = ""
    if number.before is not None and number.change is not None:
        arrow = _ARROWS[number.direction or "level"]
        changed = (
            f'<span style="font-weight:600;color:{_COLOURS[number.trend]}">{arrow}{escape(number.change)}</span> '
            f"from {escape(number.before)}"
        )
    elif number.before is not None:
        changed = escape(_changed(number))
    also = f"<br>also {escape(number.also)}" if number.also else ""
    return (
        f'<td width="50%" valign="top" align="left" style="padding:0 6px 12px">'
        '<table role="presentation" width="100%" cellspacing="0" cellpadding="0" border="0"><tr>'
        f'<td style="background:#f4f6f8;border-radius:6px;padding:12px 14px;{_FONT}">'
        f'<div style="font-size:13px;color:#5b6875">{escape(number.label)}</div>'
        f'<div style="font-size:22px;line-height:1.35;font-weight:600;color:#1d2733">{escape(number.value)}</div>'
        f'<div style="font-size:13px;line-height:1.4;color:#5b6875">{changed or "&nbsp;"}{also}</div>'
        "</td></tr></table></td>"
    )
