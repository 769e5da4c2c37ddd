"""Structured logs on standard output: JSON for machines, readable where somebody looks at a terminal."""

import logging
import sys
from time import monotonic
from typing import Final

import structlog

from openride_analytics.config import Log

_QUIET_SECONDS: Final = 30.0
_MOST_REMEMBERED: Final = 200


class Repeats(logging.Filter):
    """Lets what a library says in one place of its code through once in half a minute, with the number of those left out.

    Kafka's client has a hundred lines a second to say about a broker that is away. Our own lines all go through.
    Of what a library warns of the error is kept, and not the way through its code: asyncpg has 40 lines to say about a
    refused connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int], tuple[float, int]] = {}
        """By file and line: when it was last let through, and how many were not since."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        if record.name.startswith("openride_analytics"):
            return True
        place = record.pathname, record.lineno
        now = monotonic()
        last, left_out = self._said.pop(place, (-_QUIET_SECONDS, 0))
        if now - last < _QUIET_SECONDS:
            self._said[place] = last, left_out + 1
            return False
        self._said[place] = now, 0
        if len(self._said) > _MOST_REMEMBERED:
            del self._said[next(iter(self._said))]
        record.left_out = left_out
        if record.exc_info and record.levelno < logging.ERROR:
            error = record.exc_info[1]
            record.error = f"{type(error).__name__}: {error}"[:300]
            record.exc_info = None
        return True


def _what_is_known(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for name in ("left_out", "error"):
        if known := getattr(event["_record"], name, None):
            event[name] = known
    return event


def configure(settings: Log) -> None:
    """Sets up structlog, and lets the libraries' own logs through it from warnings on."""
    readable = settings.format == "console" or (settings.format == "auto" and sys.stdout.isatty())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    renderer: structlog.typing.Processor
    if readable:
        # The other form would show the values of local variables, and with them personal data.
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, _what_is_known],
        )
    )
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("openride_analytics").setLevel(level)
    # asynch logs each refused connection; the service reports its warehouse's state itself.
    logging.getLogger("asynch").setLevel(logging.ERROR)
    # As do those of the collector of traces, where the service says so once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
