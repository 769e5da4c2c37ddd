"""Structured logs on standard output: JSON for machines, readable where somebody looks at a terminal."""

import logging
import sys

import structlog

from openride_analytics.config import Log


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
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("openride_analytics").setLevel(level)
    # asynch logs each refused connection; the service reports its warehouse's state itself.
    logging.getLogger("asynch").setLevel(logging.ERROR)
    # As do those of the collector of traces, where the service says so once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
