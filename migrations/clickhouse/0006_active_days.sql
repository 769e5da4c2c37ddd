-- Who acted on which day, in which of its hours: what 0005 had a row an hour for. A driver who is online all day is one row
-- instead of 24, so what is counted no longer grows with the locations sent.
--
-- A set, fed by the views below: repeats change nothing, and it is read without FINAL. An hour may outlive its reason (an
-- event that lost its id to another): what may have done so is listed in `doubtful_hours`, and readers then look at the events.
-- By user, because distinct users are counted: each one's rows are met together.
CREATE TABLE IF NOT EXISTS active_days
(
    -- By what: a user's or route's event (kept for ever), another event, a trip that the user drove, a location.
    kind     Enum8('lasting' = 1, 'passing' = 2, 'driving' = 3, 'online' = 4),
    day      Int32,  -- full days since 1970, UTC
    user_id  UUID,
    hours    SimpleAggregateFunction(groupBitOr, UInt32)  -- bit 0: from 00:00 to 01:00 UTC
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Milli(day * 86400000, 'UTC'))
ORDER BY (user_id, day, kind)
SETTINGS min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

-- What the platform did itself (KYC, confirmations, completed bookings, payment outcomes) is nobody's act.
CREATE MATERIALIZED VIEW IF NOT EXISTS events_to_active_days TO active_days AS
SELECT
    act.1 AS kind,
    toInt32(intDiv(hour, 24)) AS day,
    act.2 AS user_id,
    groupBitOr(bitShiftLeft(toUInt32(1), hour % 24)) AS hours
FROM
(
    SELECT
        intDiv(toUnixTimestamp64Milli(event_timestamp), 3600000) AS hour,
        arrayJoin(multiIf(
            event_type IN ('user.registered', 'user.upgraded_to_driver'), [('lasting', user_id)],
            event_type IN ('route.created', 'route.activated', 'route.cancelled'), [('lasting', driver_id)],
            event_type IN ('booking.created', 'payment.initiated'), [('passing', rider_id)],
            event_type IN ('trip.started', 'trip.completed'), [('passing', rider_id), ('driving', driver_id)],
            cancelled_by = 'RIDER', [('passing', rider_id)],  -- booking.cancelled, trip.cancelled
            cancelled_by = 'DRIVER', [('passing', driver_id)],
            []
        )) AS act
    FROM events
    WHERE event_type IN (
        'user.registered', 'user.upgraded_to_driver',
        'route.created', 'route.activated', 'route.cancelled',
        'booking.created', 'booking.cancelled',
        'payment.initiated',
        'trip.started', 'trip.completed', 'trip.cancelled'
    )
      AND is_deleted = 0
)
WHERE notEmpty(act.2)
GROUP BY kind, day, user_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS driver_locations_to_active_days TO active_days AS
SELECT
    'online' AS kind,
    toInt32(intDiv(hour, 24)) AS day,
    driver_id AS user_id,
    groupBitOr(bitShiftLeft(toUInt32(1), hour % 24)) AS hours
FROM
(
    SELECT driver_id, intDiv(toUnixTimestamp64Milli(event_timestamp), 3600000) AS hour
    FROM driver_locations
    WHERE is_deleted = 0 AND notEmpty(driver_id)
)
GROUP BY kind, day, user_id;

-- What the rows an hour say. They are gone when this file was cut off at its end: the empty table lets it run again.
CREATE TABLE IF NOT EXISTS active_hours
(
    kind     Enum8('lasting' = 1, 'passing' = 2, 'driving' = 3, 'online' = 4),
    hour     Int64,
    user_id  UUID
)
ENGINE = ReplacingMergeTree
ORDER BY (user_id, hour, kind);

INSERT INTO active_days (kind, day, user_id, hours)
SELECT
    kind,
    toInt32(intDiv(hour, 24)) AS day,
    user_id,
    groupBitOr(bitShiftLeft(toUInt32(1), hour % 24)) AS hours
FROM active_hours
GROUP BY kind, day, user_id
SETTINGS optimize_aggregation_in_order = 1;

DROP VIEW IF EXISTS events_to_active_hours;

DROP VIEW IF EXISTS driver_locations_to_active_hours;

DROP TABLE IF EXISTS active_hours;
