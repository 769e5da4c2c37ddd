-- The events of bookings, payments and trips once more, so that questions about them need not put each one together
-- again: `histories` has them by the thing, to see its whole life at once, and `facts` in the order of time, each event
-- with what the rest of its thing's life says. See openride_analytics/warehouse/facts.py for the way from one to the other.

-- Fed by the view below. Contents that lost their key to another stay until they are merged away: see `buried`. Small
-- granules and blocks: it is read by thousands of scattered things at a time.
CREATE TABLE IF NOT EXISTS histories
(
    kind                 LowCardinality(String),  -- 'booking', 'payment' or 'trip'
    thing_id             UUID,
    event_type           LowCardinality(String),
    event_timestamp      DateTime64(3, 'UTC'),
    event_id             UUID,
    booking_id           UUID,
    route_id             UUID,
    rider_id             UUID,
    driver_id            UUID,
    seats_booked         Nullable(UInt32),
    total_price          Nullable(Decimal(18, 4)),
    currency             LowCardinality(String),
    cancelled_by         LowCardinality(String),
    scheduled_departure  Nullable(DateTime64(3, 'UTC')),
    actual_departure     Nullable(DateTime64(3, 'UTC')),
    duration_minutes     Nullable(Float64),
    distance_km          Nullable(Float64),
    driver_earnings      Nullable(Decimal(18, 4)),
    platform_commission  Nullable(Decimal(18, 4)),
    amount               Nullable(Decimal(18, 4)),
    refund_amount        Nullable(Decimal(18, 4)),
    payment_method       LowCardinality(String),
    provider             LowCardinality(String),
    error_code           LowCardinality(String),
    processing_time_ms   Nullable(UInt32),
    content_rank         UInt64
)
ENGINE = ReplacingMergeTree(content_rank)
ORDER BY (thing_id, kind, event_type, event_timestamp, event_id)
SETTINGS index_granularity = 128, min_compress_block_size = 4096, max_compress_block_size = 16384;

-- Contents that lost: to an earlier event under the same id, or to another content under the same key. A verdict for good, like
-- the tombstones of `events`.
CREATE TABLE IF NOT EXISTS buried
(
    thing_id         UUID,
    event_type       LowCardinality(String),
    event_timestamp  DateTime64(3, 'UTC'),
    event_id         UUID,
    content_rank     UInt64
)
ENGINE = ReplacingMergeTree
ORDER BY (thing_id, event_type, event_timestamp, event_id, content_rank);

-- One row an event that counts, on the same key as in `events`. Read it with FINAL. `version` grows with what was known of
-- the thing when the row was made, so that writers at the same time agree.
CREATE TABLE IF NOT EXISTS facts
(
    event_type           LowCardinality(String),
    event_timestamp      DateTime64(3, 'UTC'),
    event_id             UUID,
    kind                 LowCardinality(String),
    thing_id             UUID,
    booking_id           UUID,
    route_id             UUID,
    rider_id             UUID,
    driver_id            UUID,
    seats_booked         Nullable(UInt32),
    total_price          Nullable(Decimal(18, 4)),
    currency             LowCardinality(String),
    cancelled_by         LowCardinality(String),
    scheduled_departure  Nullable(DateTime64(3, 'UTC')),
    actual_departure     Nullable(DateTime64(3, 'UTC')),
    duration_minutes     Nullable(Float64),
    distance_km          Nullable(Float64),
    driver_earnings      Nullable(Decimal(18, 4)),
    platform_commission  Nullable(Decimal(18, 4)),
    amount               Nullable(Decimal(18, 4)),
    refund_amount        Nullable(Decimal(18, 4)),
    payment_method       LowCardinality(String),
    provider             LowCardinality(String),
    error_code           LowCardinality(String),
    processing_time_ms   Nullable(UInt32),

    -- Of the thing, as known now, at any time. `is_alone`: no type of event came twice, and a trip that completed was not cancelled
    -- too: each of its events then counts by itself.
    is_alone             Bool,
    is_cancelled         Bool,
    is_completed         Bool,
    is_succeeded         Bool,
    is_failed            Bool,
    is_refunded          Bool,
    confirmed_ms         Nullable(Int64),  -- first booking.confirmed, Unix milliseconds
    confirmed_seats      Nullable(UInt32), -- of that event
    initiated_ms         Nullable(Int64),  -- first payment.initiated, Unix milliseconds

    version              UInt128,
    is_deleted           UInt8 DEFAULT 0,

    INDEX scheduled_departure_minmax scheduled_departure TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(event_timestamp)
PRIMARY KEY (event_type, event_timestamp)
ORDER BY (event_type, event_timestamp, event_id);

CREATE MATERIALIZED VIEW IF NOT EXISTS events_to_histories TO histories AS
SELECT
    splitByChar('.', event_type)[1] AS kind,
    multiIf(kind = 'booking', booking_id, kind = 'payment', payment_id, trip_id) AS thing_id,
    event_type,
    event_timestamp,
    event_id,
    booking_id,
    route_id,
    rider_id,
    driver_id,
    seats_booked,
    total_price,
    currency,
    cancelled_by,
    scheduled_departure,
    actual_departure,
    duration_minutes,
    distance_km,
    driver_earnings,
    platform_commission,
    amount,
    refund_amount,
    payment_method,
    provider,
    error_code,
    processing_time_ms,
    content_rank
FROM events
WHERE is_deleted = 0
  AND event_type IN
  (
      'booking.created', 'booking.confirmed', 'booking.cancelled', 'booking.completed',
      'payment.initiated', 'payment.success', 'payment.failed', 'payment.refunded',
      'trip.started', 'trip.completed', 'trip.cancelled'
  );

-- What is stored already. Its facts are derived by the service in the first night, or at once by `openride-analytics rebuild`.
INSERT INTO histories
(
    kind, thing_id, event_type, event_timestamp, event_id, booking_id, route_id, rider_id, driver_id, seats_booked,
    total_price, currency, cancelled_by, scheduled_departure, actual_departure, duration_minutes, distance_km, driver_earnings,
    platform_commission, amount, refund_amount, payment_method, provider, error_code, processing_time_ms, content_rank
)
SELECT
    splitByChar('.', event_type)[1] AS kind,
    multiIf(kind = 'booking', booking_id, kind = 'payment', payment_id, trip_id) AS thing_id,
    event_type,
    event_timestamp,
    event_id,
    booking_id,
    route_id,
    rider_id,
    driver_id,
    seats_booked,
    total_price,
    currency,
    cancelled_by,
    scheduled_departure,
    actual_departure,
    duration_minutes,
    distance_km,
    driver_earnings,
    platform_commission,
    amount,
    refund_amount,
    payment_method,
    provider,
    error_code,
    processing_time_ms,
    content_rank
FROM events
WHERE is_deleted = 0
  AND event_type IN
  (
      'booking.created', 'booking.confirmed', 'booking.cancelled', 'booking.completed',
      'payment.initiated', 'payment.success', 'payment.failed', 'payment.refunded',
      'trip.started', 'trip.completed', 'trip.cancelled'
  );

-- What is needed to see that one key came with several contents, and of which things.
ALTER TABLE event_ids
    ADD COLUMN IF NOT EXISTS thing_id UUID,
    ADD COLUMN IF NOT EXISTS content_rank UInt64,
    MODIFY ORDER BY (event_id, event_type, event_timestamp, driver_id, thing_id, content_rank);

ALTER TABLE incoming_to_event_ids MODIFY QUERY
WITH
    JSONExtract(
        line,
        'Tuple(
            event_id UUID,
            event_type LowCardinality(String),
            event_timestamp Int64,
            user_id UUID,
            rider_id UUID,
            driver_id UUID,
            booking_id UUID,
            payment_id UUID,
            trip_id UUID
        )'
    ) AS e
SELECT
    e.event_id AS event_id,
    e.event_type AS event_type,
    fromUnixTimestamp64Milli(e.event_timestamp, 'UTC') AS event_timestamp,
    if(kind = 'location', e.driver_id, toUUID('00000000-0000-0000-0000-000000000000')) AS driver_id,
    multiIf(
        startsWith(event_type, 'booking.'), e.booking_id,
        startsWith(event_type, 'payment.'), e.payment_id,
        startsWith(event_type, 'trip.'), e.trip_id,
        toUUID('00000000-0000-0000-0000-000000000000')
    ) AS thing_id,
    least(sipHash64(line), 18446744073709551614) AS content_rank
FROM incoming
ARRAY JOIN splitByChar('\n', lines) AS line
WHERE ids_given = 1
  AND e.user_id NOT IN (SELECT user_id FROM erased_users)
  AND e.rider_id NOT IN (SELECT user_id FROM erased_users)
  AND e.driver_id NOT IN (SELECT user_id FROM erased_users);
