"""Payments: how many, how they went, what they brought in. `GET /v1/metrics/payments`."""

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from openride_analytics.metrics.filters import payments_kept
from openride_analytics.metrics.measure import measure
from openride_analytics.metrics.question import (
    BREAKDOWNS,
    PREVIOUS,
    SERIES,
    SUMMARY,
    AnswerHead,
    BucketStart,
    Money,
    Partial,
    PreviousHead,
    Question,
    answer_by_bucket,
    minus,
    money,
    rate,
    statement,
)
from openride_analytics.warehouse import Row, Warehouse
from openride_analytics.warehouse.facts import repeated

FILTERS: Final = frozenset(
    {"city", "state", "currency", "payment_method", "provider", "route_id", "driver_id"}
)


class PaymentMetrics(Struct, kw_only=True):
    """Of a period or a bucket of it."""

    initiated: Annotated[
        int,
        Meta(
            description="Distinct payments with a `payment.initiated`.",
            examples=[950],
            extra=measure("payments"),
        ),
    ]
    succeeded: Annotated[
        int,
        Meta(
            description="Distinct payments with a `payment.success`.",
            examples=[880],
            extra=measure("payments"),
        ),
    ]
    failed: Annotated[
        int,
        Meta(
            description="Distinct payments with a `payment.failed`.", examples=[91], extra=measure("payments")
        ),
    ]
    refunded: Annotated[
        int,
        Meta(
            description="Distinct payments with a `payment.refunded`.",
            examples=[31],
            extra=measure("payments"),
        ),
    ]
    success_rate: Annotated[
        float | None,
        Meta(
            description="Of the payments initiated that have an outcome by now, the share that succeeded; "
            "one that failed and then succeeded counts as succeeded.",
            examples=[0.9263],
            extra=measure(
                "ratio",
                "those of them that succeeded",
                "payments initiated that have an outcome by now",
                basis="cohort",
            ),
        ),
    ]
    average_processing_time_ms: Annotated[
        float | None,
        Meta(
            description="Mean over the payments that succeeded: `processing_time_ms` where sent, else the time "
            "from initiation to success, else left out. Milliseconds.",
            examples=[2310.5],
            extra=measure(
                "milliseconds",
                "sum of the processing times known",
                "payments that succeeded with a processing time known",
            ),
        ),
    ]
    p50_processing_time_ms: Annotated[
        float | None,
        Meta(
            description="Median of the processing times of the payments that succeeded, linear interpolation. Milliseconds.",
            examples=[1980.0],
            extra=measure("milliseconds"),
        ),
    ]
    p95_processing_time_ms: Annotated[
        float | None,
        Meta(
            description="95th percentile of the processing times. Milliseconds.",
            examples=[6120.4],
            extra=measure("milliseconds"),
        ),
    ]
    refund_rate: Annotated[
        float | None,
        Meta(
            description="Of the payments that succeeded, the share refunded since.",
            examples=[0.0352],
            extra=measure("ratio", "those of them refunded since", "payments that succeeded", basis="cohort"),
        ),
    ]
    revenue: Annotated[
        Money,
        Meta(
            description="Sum of `amount` of the payments that succeeded.",
            examples=[{"NGN": "3512000.00"}],
            extra=measure("money by currency"),
        ),
    ]
    refunded_amount: Annotated[
        Money,
        Meta(
            description="Sum of `refund_amount` of the refund events, partial ones too.",
            examples=[{"NGN": "98000.00"}],
            extra=measure("money by currency", additive=True),
        ),
    ]
    net_revenue: Annotated[
        Money,
        Meta(
            description="`revenue` − `refunded_amount`, by currency.",
            examples=[{"NGN": "3414000.00"}],
            extra=measure("money by currency"),
        ),
    ]


class PaymentBucket(PaymentMetrics, kw_only=True):
    """One bucket of the series."""

    start: BucketStart
    partial: Partial


class PaymentsBy(Struct, kw_only=True):
    """The payments whose events of the period carry a value."""

    value: Annotated[
        str | None, Meta(description="The method or provider; null if not named.", examples=["card"])
    ]
    initiated: Annotated[
        int,
        Meta(description="Distinct payments initiated with it.", examples=[860], extra=measure("payments")),
    ]
    succeeded: Annotated[
        int,
        Meta(
            description="Distinct payments that succeeded with it.", examples=[800], extra=measure("payments")
        ),
    ]
    failed: Annotated[
        int,
        Meta(description="Distinct payments that failed with it.", examples=[77], extra=measure("payments")),
    ]
    success_rate: Annotated[
        float | None,
        Meta(
            description="Of those initiated that have an outcome by now, the share that succeeded.",
            examples=[0.93],
            extra=measure(
                "ratio",
                "those of them that succeeded",
                "payments initiated that have an outcome by now",
                basis="cohort",
            ),
        ),
    ]
    revenue: Annotated[
        Money,
        Meta(
            description="Sum of `amount` of those that succeeded.",
            examples=[{"NGN": "3100000.00"}],
            extra=measure("money by currency"),
        ),
    ]


class FailuresBy(Struct, kw_only=True):
    """Failures by their code."""

    value: Annotated[str | None, Meta(description="`error_code`.", examples=["INSUFFICIENT_FUNDS"])]
    failed: Annotated[
        int,
        Meta(description="Distinct payments that failed with it.", examples=[40], extra=measure("payments")),
    ]


class PaymentBreakdowns(Struct, kw_only=True):
    """Of the whole period."""

    payment_method: Annotated[list[PaymentsBy], Meta(description="By payment method, the most used first.")]
    provider: Annotated[list[PaymentsBy], Meta(description="By provider, the most used first.")]
    error_code: Annotated[
        list[FailuresBy], Meta(description="Failures by their code, the most frequent first.")
    ]


class PreviousPayments(PreviousHead, kw_only=True):
    """The period before."""

    summary: Annotated[PaymentMetrics, SUMMARY]


class PaymentsAnswer(AnswerHead, kw_only=True):
    """What `GET /v1/metrics/payments` answers."""

    summary: Annotated[PaymentMetrics, SUMMARY]
    previous: Annotated[PreviousPayments | None, PREVIOUS]
    series: Annotated[list[PaymentBucket], SERIES]
    breakdowns: Annotated[PaymentBreakdowns, BREAKDOWNS]


_TYPES: Final = "('payment.initiated', 'payment.success', 'payment.failed', 'payment.refunded')"

# initiated, succeeded, failed, refunded: distinct payments with that event in the span. success_rate follows the payments
# initiated in the span, refund_rate those that succeeded in it. Amount and processing time of a payment are those of its first
# success in the span; refunded_amount adds up refund events, of which a payment may have several.
_SQL: Final = """
-- payments.buckets
WITH
    payments AS
    (
        SELECT
            {own_bucket} AS span,
            true AS adds_up,
            event_type = 'payment.initiated' AS of_initiated,
            event_type = 'payment.success' AS of_succeeded,
            event_type = 'payment.failed' AS of_failed,
            event_type = 'payment.refunded' AS of_refunded,
            of_initiated AND (is_succeeded OR is_failed) AS of_initiated_with_outcome,
            of_initiated AND is_succeeded AS of_initiated_succeeded,
            of_succeeded AND is_refunded AS of_succeeded_refunded,
            of_succeeded AND amount IS NOT NULL AS has_amount,
            if(has_amount, amount, NULL) AS paid,
            if(has_amount, currency, '') AS paid_currency,
            if(
                of_succeeded,
                coalesce(toInt64(processing_time_ms), toUnixTimestamp64Milli(event_timestamp) - initiated_ms),
                NULL
            ) AS processing_ms
        FROM facts FINAL
        WHERE event_type IN {types} AND {in_period} AND {kept} AND is_alone

        UNION ALL

        SELECT
            {bucket} AS span,
            false AS adds_up,
            max(event_type = 'payment.initiated') AS of_initiated,
            max(event_type = 'payment.success') AS of_succeeded,
            max(event_type = 'payment.failed') AS of_failed,
            max(event_type = 'payment.refunded') AS of_refunded,
            of_initiated AND any(is_succeeded OR is_failed) AS of_initiated_with_outcome,
            of_initiated AND any(is_succeeded) AS of_initiated_succeeded,
            of_succeeded AND any(is_refunded) AS of_succeeded_refunded,
            max(event_type = 'payment.success' AND amount IS NOT NULL) AS has_amount,
            argMinIf(amount, {first}, event_type = 'payment.success') AS paid,
            argMinIf(currency, {first}, event_type = 'payment.success' AND amount IS NOT NULL) AS paid_currency,
            if(
                of_succeeded,
                coalesce(
                    toInt64(argMinIf(processing_time_ms, {first}, event_type = 'payment.success')),
                    minIf(toUnixTimestamp64Milli(event_timestamp), event_type = 'payment.success') - any(initiated_ms)
                ),
                NULL
            ) AS processing_ms
        FROM {repeated}
        WHERE event_type IN {types} AND {in_period} AND {kept}
        GROUP BY span, thing_id
    ),
    counts AS
    (
        SELECT
            span,
            adds_up,
            paid_currency,
            countIf(of_initiated) AS initiated,
            countIf(of_succeeded) AS succeeded,
            countIf(of_failed) AS failed,
            countIf(of_refunded) AS refunded,
            countIf(of_initiated_with_outcome) AS initiated_with_outcome,
            countIf(of_initiated_succeeded) AS initiated_succeeded,
            countIf(of_succeeded_refunded) AS succeeded_refunded,
            count(processing_ms) AS timed_payments,
            sum(processing_ms) AS processing_ms_sum,
            quantilesExactInclusiveState(0.5, 0.95)(processing_ms) AS times,
            countIf(has_amount) AS paid_payments,
            sum(paid) AS revenue
        FROM payments
        GROUP BY span, adds_up, paid_currency
    ),
    refunds AS
    (
        SELECT bucket, CAST(sumMap(map(currency, amount)), 'Map(String, String)') AS amounts
        FROM
        (
            SELECT {own_bucket} AS own, currency, sum(assumeNotNull(refund_amount)) AS amount
            FROM facts FINAL
            WHERE event_type = 'payment.refunded' AND {in_period} AND {kept} AND refund_amount IS NOT NULL
            GROUP BY own, currency
        )
        ARRAY JOIN arrayDistinct([own, -1]) AS bucket
        GROUP BY bucket
    )
SELECT
    bucket,
    sum(counts.initiated) AS initiated,
    sum(counts.succeeded) AS succeeded,
    sum(counts.failed) AS failed,
    sum(counts.refunded) AS refunded,
    sum(counts.initiated_with_outcome) AS initiated_with_outcome,
    sum(counts.initiated_succeeded) AS initiated_succeeded,
    sum(counts.succeeded_refunded) AS succeeded_refunded,
    sum(counts.timed_payments) AS timed_payments,
    ifNull(sum(counts.processing_ms_sum), 0) AS processing_ms_sum,
    quantilesExactInclusiveMerge(0.5, 0.95)(times) AS percentiles,
    if(timed_payments = 0, NULL, percentiles[1]) AS p50_processing_ms,
    if(timed_payments = 0, NULL, percentiles[2]) AS p95_processing_ms,
    CAST(
        sumMapIf(map(paid_currency, assumeNotNull(counts.revenue)), paid_payments > 0), 'Map(String, String)'
    ) AS revenue,
    any(refunds.amounts) AS refunded_amount
FROM counts
ARRAY JOIN {spans} AS bucket
LEFT JOIN refunds USING (bucket)
GROUP BY bucket
"""

# The same counts by the value that each event itself carries. `what` says which breakdown a row belongs to; an event of a
# payment that is alone belongs to both.
_BREAKDOWNS: Final = """
-- payments.breakdowns
WITH
    payments AS
    (
        SELECT
            'both' AS what,
            payment_method AS method_used,
            provider AS provider_used,
            event_type = 'payment.initiated' AS of_initiated,
            event_type = 'payment.success' AS of_succeeded,
            event_type = 'payment.failed' AS of_failed,
            of_initiated AND (is_succeeded OR is_failed) AS of_initiated_with_outcome,
            of_initiated AND is_succeeded AS of_initiated_succeeded,
            of_succeeded AND amount IS NOT NULL AS has_amount,
            if(has_amount, amount, NULL) AS paid,
            if(has_amount, currency, '') AS paid_currency
        FROM facts FINAL
        WHERE event_type IN ('payment.initiated', 'payment.success', 'payment.failed')
          AND {in_period}
          AND {kept}
          AND is_alone

        UNION ALL

        SELECT
            arrayJoin(['payment_method', 'provider']) AS what,
            if(what = 'payment_method', payment_method, '') AS method_used,
            if(what = 'provider', provider, '') AS provider_used,
            max(event_type = 'payment.initiated') AS of_initiated,
            max(event_type = 'payment.success') AS of_succeeded,
            max(event_type = 'payment.failed') AS of_failed,
            of_initiated AND any(is_succeeded OR is_failed) AS of_initiated_with_outcome,
            of_initiated AND any(is_succeeded) AS of_initiated_succeeded,
            max(event_type = 'payment.success' AND amount IS NOT NULL) AS has_amount,
            argMinIf(amount, {first}, event_type = 'payment.success') AS paid,
            argMinIf(currency, {first}, event_type = 'payment.success' AND amount IS NOT NULL) AS paid_currency
        FROM {repeated}
        WHERE event_type IN ('payment.initiated', 'payment.success', 'payment.failed')
          AND {in_period}
          AND {kept}
        GROUP BY what, method_used, provider_used, thing_id
    ),
    counts AS
    (
        SELECT
            what,
            method_used,
            provider_used,
            paid_currency,
            countIf(of_initiated) AS initiated,
            countIf(of_succeeded) AS succeeded,
            countIf(of_failed) AS failed,
            countIf(of_initiated_with_outcome) AS initiated_with_outcome,
            countIf(of_initiated_succeeded) AS initiated_succeeded,
            countIf(has_amount) AS paid_payments,
            sum(paid) AS revenue
        FROM payments
        GROUP BY what, method_used, provider_used, paid_currency
    )
SELECT
    breakdown.1 AS what,
    breakdown.2 AS value,
    sum(counts.initiated) AS initiated,
    sum(counts.succeeded) AS succeeded,
    sum(counts.failed) AS failed,
    sum(counts.initiated_with_outcome) AS initiated_with_outcome,
    sum(counts.initiated_succeeded) AS initiated_succeeded,
    CAST(
        sumMapIf(map(paid_currency, assumeNotNull(counts.revenue)), paid_payments > 0), 'Map(String, String)'
    ) AS revenue
FROM counts
ARRAY JOIN arrayFilter(
    each -> counts.what IN ('both', each.1), [('payment_method', method_used), ('provider', provider_used)]
) AS breakdown
GROUP BY breakdown

UNION ALL

SELECT
    'error_code' AS what,
    error_code AS value,
    0 AS initiated,
    0 AS succeeded,
    uniqExact(thing_id) AS failed,
    0 AS initiated_with_outcome,
    0 AS initiated_succeeded,
    CAST(map(), 'Map(String, String)') AS revenue
FROM facts FINAL
WHERE event_type = 'payment.failed'
  AND {in_period}
  AND {kept}
GROUP BY error_code
"""


async def ask(warehouse: Warehouse, question: Question) -> PaymentsAnswer:
    """Answers for a period; raises what `Warehouse.query` raises."""
    kept = payments_kept(question.filters, "thing_id")

    async def breakdowns() -> PaymentBreakdowns:
        sql = statement(_BREAKDOWNS, kept=kept, repeated=repeated())
        return _breakdowns(sorted(await warehouse.query(sql, question.parameters), key=_most_first))

    return await answer_by_bucket(
        warehouse,
        question,
        statement(_SQL, types=_TYPES, kept=kept, repeated=repeated()),
        _shape,
        answer=PaymentsAnswer,
        summary=PaymentMetrics,
        previous=PreviousPayments,
        item=PaymentBucket,
        breakdowns=breakdowns,
    )


def _breakdowns(rows: list[Row]) -> PaymentBreakdowns:
    return PaymentBreakdowns(
        payment_method=[_payments_by(row) for row in rows if row["what"] == "payment_method"],
        provider=[_payments_by(row) for row in rows if row["what"] == "provider"],
        error_code=[
            FailuresBy(value=row["value"] or None, failed=row["failed"])
            for row in rows
            if row["what"] == "error_code"
        ],
    )


def _shape(_question: Question, row: Row, _start: datetime, _end: datetime) -> dict[str, Any]:
    return {
        "initiated": row.get("initiated", 0),
        "succeeded": row.get("succeeded", 0),
        "failed": row.get("failed", 0),
        "refunded": row.get("refunded", 0),
        "success_rate": rate(row.get("initiated_succeeded"), row.get("initiated_with_outcome")),
        "average_processing_time_ms": rate(row.get("processing_ms_sum"), row.get("timed_payments")),
        "p50_processing_time_ms": row.get("p50_processing_ms"),
        "p95_processing_time_ms": row.get("p95_processing_ms"),
        "refund_rate": rate(row.get("succeeded_refunded"), row.get("succeeded")),
        "revenue": money(row.get("revenue")),
        "refunded_amount": money(row.get("refunded_amount")),
        "net_revenue": minus(row.get("revenue"), row.get("refunded_amount")),
    }


def _most_first(row: Row) -> tuple[int | bool | str, ...]:
    return -row["initiated"], -row["succeeded"], -row["failed"], row["value"] == "", row["value"]


def _payments_by(row: Row) -> PaymentsBy:
    return PaymentsBy(
        value=row["value"] or None,
        initiated=row["initiated"],
        succeeded=row["succeeded"],
        failed=row["failed"],
        success_rate=rate(row["initiated_succeeded"], row["initiated_with_outcome"]),
        revenue=money(row["revenue"]),
    )
