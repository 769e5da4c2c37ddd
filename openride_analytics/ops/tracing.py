"""What is done because of what, as spans for a collector of traces (OpenTelemetry, OTLP over HTTP).

Where none is configured nothing is recorded, and neither exporter nor protobuf is loaded: then a span costs what entering
and leaving a `with` costs. There are spans of requests, statements, batches and reports, but never of a single event.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal

Kind = Literal["internal", "server", "client", "consumer"]
Attributes = Mapping[str, str | int | float | bool]


class Span:
    """Something that is being done. This one is not recorded."""

    trace_id: str = ""
    """As 32 hexadecimal digits; empty for one that is not recorded."""

    def set(self, name: str, value: str | float) -> None:
        """Gives it an attribute: never a value that names somebody."""

    def rename(self, name: str) -> None:
        """Gives it another name, where that was not known at its beginning."""

    def fail(self, error: str) -> None:
        """Marks it as failed, by the kind of error."""


class Tracing:
    """Makes spans. This one records nothing."""

    on: bool = False

    def span(
        self,
        name: str,  # noqa: ARG002  # what follows is for those that record
        *,
        kind: Kind = "internal",  # noqa: ARG002
        attributes: Attributes | None = None,  # noqa: ARG002
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
        start_ns: int | None = None,  # noqa: ARG002
    ) -> AbstractContextManager[Span]:
        """A span from now (or `start_ns`, Unix nanoseconds) to the end of the context; what is raised there is its failure.

        It belongs to the current one, or to a caller's where `headers` (`traceparent`) say so, and is the current one now.
        """
        return _NOT_RECORDED

    def statement(self, name: str, system: str) -> AbstractContextManager[Span]:  # noqa: ARG002
        """A span of a call of a database, for the current one; where there is none, nor is this one.

        Its context may be left by another task than has entered it.
        """
        return _NOT_RECORDED

    def past(self, name: str, parent: Span, start_ns: int, end_ns: int, attributes: Attributes) -> None:
        """A span that is over already; its parent may be over, too."""

    async def close(self) -> None:
        """Sends what is left, if that goes fast."""


_NOT_RECORDED: Final = nullcontext(Span())
OFF: Final = Tracing()
