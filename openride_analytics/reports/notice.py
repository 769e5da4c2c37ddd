"""What a schedule's owner is told by mail when a report did not come, or not to all."""

from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from openride_analytics.reports.runs import Delivery, Run

_WHAT: Final = {
    "failed": "could not be made or sent",
    "missed": "was missed: nothing was running when it was due, nor soon enough afterwards",
    "partly_delivered": "was not sent to everybody",
}


def compose_notice(
    run: Run, others: list[Delivery], *, owner: str, sender: str, message_id: str
) -> EmailMessage:
    """A plain mail; `others` are the run's deliveries to its recipients, and it says what became of each."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = owner
    message["Subject"] = f"Report not delivered: {run.definition.name}"
    message["Date"] = format_datetime(run.finished_at or run.created_at)
    message["Message-ID"] = f"<{message_id}>"
    message["Auto-Submitted"] = "auto-generated"
    due = run.due_at.astimezone(run.definition.zone)
    when = f"{due:%Y-%m-%d %H:%M} ({run.definition.timezone})"
    lines = [
        f"The report “{run.definition.name}”, due {when}, {_WHAT.get(run.state, 'did not come')}.",
        "",
    ]
    if run.error:
        lines += [run.error, ""]
    for delivery in others:
        if delivery.kind != "notice":
            why = f": {delivery.error}" if delivery.error else ""
            lines.append(f"- {delivery.address}: {delivery.state}{why}")
    lines += [
        "",
        f"Report {run.report_id}, schedule {run.schedule_id}.",
        "You get this mail because you are the owner of the schedule.",
    ]
    message.set_content("\n".join(lines), cte="quoted-printable")
    return message
