-- Who acted in which hour: distinct users of any time are counted from these rows instead of the events themselves.
--
-- A set, fed by the views below: repeats change nothing, and it is read without FINAL. A row may outlive its reason (an
-- event that lost its id to another): what may have done so is listed in `doubtful_hours`, and readers then look at the events.
-- By user, because distinct users are counted: each one's rows are met together.
CREATE TABLE IF NOT EXISTS active_hours
(
    -- By what: a user's or route's event (kept for ever), another event, a trip that the user drove, a location.
    kind     Enum8('lasting' = 1, 'passing' = 2, 'driving' = 3, 'online' = 4),
    hour     Int64,  -- full hours since 1970, UTC
    user_id  UUID
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Milli(hour * 3600000, 'UTC'))
ORDER BY (user_id, hour, kind)
SETTINGS min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

-- The rows of `active_hours` that are not to be believed; with the nil UUID: nobody's of that hour. One that is believed
-- again is dropped by `doubted_at`.
CREATE TABLE IF NOT EXISTS doubtful_hours
(
    kind        Enum8('lasting' = 1, 'passing' = 2, 'driving' = 3, 'online' = 4),
    hour        Int64,
    user_id     UUID,
    doubted_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(doubted_at)
ORDER BY (hour, kind, user_id);

-- What the platform did itself (KYC, confirmations, completed bookings, payment outcomes) is nobody's act.
CREATE MATERIALIZED VIEW IF NOT EXISTS events_to_active_hours TO active_hours AS
SELECT DISTINCT
    act.1 AS kind,
    hour,
    act.2 AS user_id
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
WHERE notEmpty(act.2);

CREATE MATERIALIZED VIEW IF NOT EXISTS driver_locations_to_active_hours TO active_hours AS
SELECT DISTINCT
    'online' AS kind,
    intDiv(toUnixTimestamp64Milli(event_timestamp), 3600000) AS hour,
    driver_id AS user_id
FROM driver_locations
WHERE is_deleted = 0 AND notEmpty(driver_id);

-- What is stored already. Repeats are left to the merges: a DISTINCT of all that is stored would have to fit in memory.
INSERT INTO active_hours (kind, hour, user_id)
SELECT
    act.1 AS kind,
    hour,
    act.2 AS user_id
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
    FROM events FINAL
    WHERE event_type IN (
        'user.registered', 'user.upgraded_to_driver',
        'route.created', 'route.activated', 'route.cancelled',
        'booking.created', 'booking.cancelled',
        'payment.initiated',
        'trip.started', 'trip.completed', 'trip.cancelled'
    )
      AND is_deleted = 0
)
WHERE notEmpty(act.2);

INSERT INTO active_hours (kind, hour, user_id)
SELECT
    'online' AS kind,
    intDiv(toUnixTimestamp64Milli(event_timestamp), 3600000) AS hour,
    driver_id AS user_id
FROM driver_locations FINAL
WHERE is_deleted = 0 AND notEmpty(driver_id);
