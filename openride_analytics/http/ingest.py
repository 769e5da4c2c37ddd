"""`GET /v1/ingest/status`: how far this instance has got with the stream, and what it had to refuse."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta, Struct

from openride_analytics.http.access import needs
from openride_analytics.http.answers import PROBLEMS
from openride_analytics.http.parameters import Query
from openride_analytics.ops.metrics import Rate
from openride_analytics.period import instant_text
from openride_analytics.service import Service


class PartitionStatus(Struct, kw_only=True):
    """One partition of an event topic."""

    topic: Annotated[str, Meta(description="Kafka topic.", examples=["openride.events.booking"])]
    partition: Annotated[int, Meta(description="Its number.", examples=[0])]
    assigned: Annotated[
        bool, Meta(description="This instance reads it; else another one of the group, or nobody.")
    ]
    committed_offset: Annotated[
        int | None,
        Meta(description="Where the group would go on; null: nothing stored yet.", examples=[5120]),
    ]
    end_offset: Annotated[int | None, Meta(description="Where the log ends.", examples=[5124])]
    lag_events: Annotated[
        int | None, Meta(description="Records not stored yet; null: not known.", examples=[4])
    ]
    lag_seconds: Annotated[
        float | None,
        Meta(
            description="How long the oldest record not stored yet has waited, at most; null: not known, or read by "
            "another instance.",
            examples=[0.4],
        ),
    ]
    error: Annotated[
        str,
        Meta(description="Why it cannot be read just now; else empty.", examples=["CorruptRecordException"]),
    ]


class Rates(Struct, kw_only=True):
    """Events a second."""

    last_minute: Annotated[float, Meta(description="Mean over the last 60 seconds.", examples=[51.3])]
    last_5_minutes: Annotated[float, Meta(description="Mean over the last 300 seconds.", examples=[49.8])]


class Lost(Struct, kw_only=True):
    """Records that Kafka's retention (or somebody) removed before they were read."""

    topic: Annotated[str, Meta(description="Kafka topic.", examples=["openride.events.booking"])]
    partition: Annotated[int, Meta(description="Its number.", examples=[0])]
    from_offset: Annotated[int, Meta(description="First offset that is gone.", examples=[100])]
    to_offset: Annotated[int, Meta(description="First offset that is there again.", examples=[250])]
    noticed_at: Annotated[
        str, Meta(description="When it was noticed, UTC.", examples=["2026-03-01T07:05:00Z"])
    ]


class FailureStatus(Struct, kw_only=True):
    """What went wrong last."""

    at: Annotated[str, Meta(description="When, UTC.", examples=["2026-03-01T07:05:00Z"])]
    part: Annotated[str, Meta(description="`store` or `kafka`.", examples=["store"])]
    error: Annotated[
        str, Meta(description="Kind of error; the log says more.", examples=["WarehouseUnavailable"])
    ]


class IngestStatus(Struct, kw_only=True):
    """The state of ingestion in this instance."""

    state: Annotated[
        str,
        Meta(
            description="`ok`, `retrying` (a batch cannot be stored just now), `paused` (retrying, and no room for more), "
            "`starting`.",
            examples=["ok"],
        ),
    ]
    kafka: Annotated[
        str,
        Meta(description="`ok`, `away`, `held` (a partition cannot be read) or `off`.", examples=["ok"]),
    ]
    waiting_events: Annotated[int, Meta(description="Events that wait for the next batch.", examples=[120])]
    stored_per_second: Annotated[Rates, Meta(description="Events stored, repeats included.")]
    rejected_per_second: Annotated[Rates, Meta(description="Records that became dead letters.")]
    stored: Annotated[
        int, Meta(description="Events stored since the start, repeats included.", examples=[91234])
    ]
    rejected: Annotated[
        dict[str, int],
        Meta(description="Dead letters since the start, by reason.", examples=[{"invalid_field": 3}]),
    ]
    partitions: Annotated[
        list[PartitionStatus],
        Meta(description="All partitions of the event topics; none while Kafka is away."),
    ]
    lag_events: Annotated[
        int | None,
        Meta(description="Sum of the partitions' known lags; null: Kafka does not say.", examples=[4]),
    ]
    lag_unknown_since: Annotated[
        str | None,
        Meta(
            description="Since when the lag is not known, UTC: Kafka is away, does not say how far a topic goes, or was just "
            "asked for the first time; null: it is known.",
            examples=["2026-03-01T07:05:00Z"],
        ),
    ]
    lost: Annotated[list[Lost], Meta(description="The last gaps that were noticed, oldest first.")]
    last_error: Annotated[FailureStatus | None, Meta(description="The last failure; null: none yet.")]


@get(
    "/v1/ingest/status",
    opt=needs("read"),
    operation_id="ingest_status",
    summary="How far ingestion has got",
    description="Of the instance that answers: its counts since its start, and the partitions of the whole group. "
    "The same figures are at `/metrics`.",
    tags=["Ingest"],
    responses={
        200: ResponseSpec(IngestStatus, description="The state now.", generate_examples=False),
        400: PROBLEMS[400],
    },
)
async def ingest_status(request: Request[Any, Any, State]) -> Response[bytes]:
    """Answers whatever the servers do: it is asked when something is wrong."""
    service: Service = request.app.state.service
    Query(request.query_params.multi_items(), ())
    return Response(
        msgspec.json.encode(_status(service)),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _status(service: Service) -> IngestStatus:
    pipeline, kafka, metrics = service.pipeline, service.kafka, service.metrics
    partitions = kafka.partitions() if kafka else []
    unknown_since = kafka.lag_unknown_since if kafka else None
    if not service.started.is_set():
        state = "starting"
    elif pipeline.retrying:
        state = "retrying" if pipeline.has_room else "paused"
    else:
        state = "ok"
    return IngestStatus(
        state=state,
        kafka=kafka.state if kafka else "off",
        waiting_events=pipeline.waiting_events,
        stored_per_second=_rates(metrics.stored_rate),
        rejected_per_second=_rates(metrics.rejected_rate),
        stored=metrics.stored_so_far(),
        rejected=metrics.rejected_by_reason(),
        partitions=[msgspec.convert(state, PartitionStatus, from_attributes=True) for state in partitions],
        lag_events=None if unknown_since is not None else sum(state.lag_events or 0 for state in partitions),
        lag_unknown_since=None if unknown_since is None else _instant(unknown_since),
        lost=[
            Lost(
                topic=loss.topic,
                partition=loss.partition,
                from_offset=loss.from_offset,
                to_offset=loss.to_offset,
                noticed_at=_instant(loss.noticed_at),
            )
            for loss in (kafka.losses if kafka else ())
        ],
        last_error=_last_error(service),
    )


def _instant(seconds: float) -> str:
    return instant_text(datetime.fromtimestamp(seconds, UTC))


def _rates(rate: Rate) -> Rates:
    return Rates(last_minute=rate.per_second(60), last_5_minutes=rate.per_second(300))


def _last_error(service: Service) -> FailureStatus | None:
    failures = [
        (failure, part)
        for failure, part in (
            (service.pipeline.last_failure, "store"),
            (service.kafka.last_failure if service.kafka else None, "kafka"),
        )
        if failure is not None
    ]
    if not failures:
        return None
    failure, part = max(failures, key=lambda item: item[0].at)
    return FailureStatus(at=instant_text(failure.at), part=part, error=failure.error)
