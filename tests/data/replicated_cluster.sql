-- What a replicated cluster `rides` is laid out with, for the database `openride`: made from the migrations
-- by `warehouse/cluster.py`, and compared with this file by tests/component/test_cluster_sql.py.

CREATE DATABASE IF NOT EXISTS `openride` ON CLUSTER 'rides' ENGINE = Atomic;

CREATE DATABASE IF NOT EXISTS `openride_shard` ON CLUSTER 'rides' ENGINE = Atomic COMMENT '2 shards';

CREATE TABLE IF NOT EXISTS openride_shard.schema_migrations ON CLUSTER 'rides'
(
    version     UInt32,
    name        String,
    checksum    String,
    applied_at  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/schema_migrations', '{replica}')
ORDER BY version;

CREATE TABLE IF NOT EXISTS openride.schema_migrations ON CLUSTER 'rides' AS openride_shard.schema_migrations
ENGINE = Distributed('rides', 'openride_shard', 'schema_migrations', cityHash64(version));

CREATE TABLE IF NOT EXISTS openride.incoming ON CLUSTER 'rides'
(
    kind        String,
    ids_given   Int64,
    arrived_ms  Int64,
    lines       String
)
ENGINE = Null;

CREATE TABLE IF NOT EXISTS openride_shard.events ON CLUSTER 'rides'
(
    event_type               LowCardinality(String),
    event_id                 UUID,
    event_timestamp          DateTime64(3, 'UTC'),
    user_id                  UUID,
    role                     LowCardinality(String),
    city                     LowCardinality(String),
    state                    LowCardinality(String),
    referral_code            String,
    kyc_status               LowCardinality(String),
    verified_by              UUID,
    previous_role            LowCardinality(String),
    new_role                 LowCardinality(String),
    route_id                 UUID,
    driver_id                UUID,
    route_name               String,
    origin_city              LowCardinality(String),
    origin_state             LowCardinality(String),
    destination_city         LowCardinality(String),
    destination_state        LowCardinality(String),
    stops_count              UInt32,
    seats_total              UInt8,
    base_price               Nullable(Decimal(18, 4)),
    departure_time           LowCardinality(String),
    active_days              Array(LowCardinality(String)),
    cancellation_reason      String,
    active_bookings_count    UInt32,
    booking_id               UUID,
    rider_id                 UUID,
    seats_booked             Nullable(UInt32),
    total_price              Nullable(Decimal(18, 4)),
    currency                 LowCardinality(String),
    pickup_lat               Nullable(Float64),
    pickup_lon               Nullable(Float64),
    dropoff_lat              Nullable(Float64),
    dropoff_lon              Nullable(Float64),
    pickup_stop_id           UUID,
    dropoff_stop_id          UUID,
    scheduled_departure      Nullable(DateTime64(3, 'UTC')),
    payment_id               UUID,
    confirmation_code        String,
    cancelled_by             LowCardinality(String),
    refund_initiated         Bool,
    trip_id                  UUID,
    actual_departure         Nullable(DateTime64(3, 'UTC')),
    actual_arrival           Nullable(DateTime64(3, 'UTC')),
    duration_minutes         Nullable(Float64),
    amount                   Nullable(Decimal(18, 4)),
    payment_method           LowCardinality(String),
    provider                 LowCardinality(String),
    provider_transaction_id  String,
    processing_time_ms       Nullable(UInt32),
    error_code               LowCardinality(String),
    error_message            String,
    refund_amount            Nullable(Decimal(18, 4)),
    original_amount          Nullable(Decimal(18, 4)),
    refund_reason            String,
    refunded_by              UUID,
    start_lat                Nullable(Float64),
    start_lon                Nullable(Float64),
    passengers_count         UInt8,
    distance_km              Nullable(Float64),
    end_lat                  Nullable(Float64),
    end_lon                  Nullable(Float64),
    driver_earnings          Nullable(Decimal(18, 4)),
    platform_commission      Nullable(Decimal(18, 4)),
    on_time                  Nullable(Bool),
    was_started              Bool,
    partial_distance_km      Nullable(Float64),
    content_rank             UInt64,
    is_deleted               UInt8 DEFAULT 0,
    INDEX scheduled_departure_minmax scheduled_departure TYPE minmax GRANULARITY 1
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/events', '{replica}', content_rank, is_deleted)
PARTITION BY toYYYYMM(event_timestamp)
PRIMARY KEY (event_type, event_timestamp)
ORDER BY (event_type, event_timestamp, event_id);

CREATE TABLE IF NOT EXISTS openride.events ON CLUSTER 'rides' AS openride_shard.events
ENGINE = Distributed('rides', 'openride_shard', 'events', cityHash64(event_id));

CREATE TABLE IF NOT EXISTS openride_shard.driver_locations ON CLUSTER 'rides'
(
    event_id                 UUID,
    event_timestamp          DateTime64(3, 'UTC'),
    driver_id                UUID,
    trip_id                  UUID,
    lat                      Float64,
    lon                      Float64,
    speed_kmh                Nullable(Float32),
    bearing                  Nullable(Float32),
    accuracy_meters          Nullable(Float32),
    city                     LowCardinality(String),
    state                    LowCardinality(String),
    content_rank             UInt64,
    is_deleted               UInt8 DEFAULT 0
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/driver_locations', '{replica}', content_rank, is_deleted)
PARTITION BY toYYYYMM(event_timestamp)
PRIMARY KEY (toStartOfHour(event_timestamp), driver_id)
ORDER BY (toStartOfHour(event_timestamp), driver_id, event_timestamp, event_id);

CREATE TABLE IF NOT EXISTS openride.driver_locations ON CLUSTER 'rides' AS openride_shard.driver_locations
ENGINE = Distributed('rides', 'openride_shard', 'driver_locations', cityHash64(event_id));

CREATE TABLE IF NOT EXISTS openride_shard.event_ids ON CLUSTER 'rides'
(
    event_id         UUID,
    event_type       LowCardinality(String),
    event_timestamp  DateTime64(3, 'UTC'),
    driver_id        UUID
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/event_ids', '{replica}')
ORDER BY (event_id, event_type, event_timestamp, driver_id)
SETTINGS index_granularity = 512;

CREATE TABLE IF NOT EXISTS openride.event_ids ON CLUSTER 'rides' AS openride_shard.event_ids
ENGINE = Distributed('rides', 'openride_shard', 'event_ids', cityHash64(event_id));

CREATE TABLE IF NOT EXISTS openride_shard.erased_users ON CLUSTER 'rides'
(
    user_id    UUID,
    erased_at  DateTime64(3, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/erased_users', '{replica}')
ORDER BY user_id;

CREATE TABLE IF NOT EXISTS openride.erased_users ON CLUSTER 'rides' AS openride_shard.erased_users
ENGINE = Distributed('rides', 'openride_shard', 'erased_users', cityHash64(user_id));

CREATE TABLE IF NOT EXISTS openride_shard.ingest_log ON CLUSTER 'rides'
(
    stored_at   DateTime64(3, 'UTC'),
    arrived_at  DateTime64(3, 'UTC'),
    kind        LowCardinality(String),
    events      UInt64
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/openride_shard/ingest_log', '{replica}')
ORDER BY stored_at
TTL toDateTime(stored_at) + INTERVAL 7 DAY;

CREATE TABLE IF NOT EXISTS openride.ingest_log ON CLUSTER 'rides' AS openride_shard.ingest_log
ENGINE = Distributed('rides', 'openride_shard', 'ingest_log', cityHash64(stored_at));

CREATE TABLE IF NOT EXISTS openride_shard.dead_letters ON CLUSTER 'rides'
(
    dead_letter_id  String,
    rejected_ms     Int64,
    source          String,
    topic           String,
    partition       Int64,
    offset          Int64,
    key             String,
    reason          String,
    field           String,
    detail          String,
    event_type      String,
    record          String
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/dead_letters', '{replica}')
ORDER BY dead_letter_id;

CREATE TABLE IF NOT EXISTS openride.dead_letters ON CLUSTER 'rides' AS openride_shard.dead_letters
ENGINE = Distributed('rides', 'openride_shard', 'dead_letters', cityHash64(dead_letter_id));

CREATE MATERIALIZED VIEW IF NOT EXISTS openride.incoming_to_events ON CLUSTER 'rides' TO openride.events AS
SELECT
    e.event_type AS event_type,
    e.event_id AS event_id,
    fromUnixTimestamp64Milli(e.event_timestamp, 'UTC') AS event_timestamp,
    e.user_id AS user_id,
    e.role AS role,
    e.city AS city,
    e.state AS state,
    e.referral_code AS referral_code,
    e.kyc_status AS kyc_status,
    if(
        e.verified_by IN (SELECT user_id FROM openride.erased_users),
        toUUID('00000000-0000-0000-0000-000000000000'),
        e.verified_by
    ) AS verified_by,
    e.previous_role AS previous_role,
    e.new_role AS new_role,
    e.route_id AS route_id,
    e.driver_id AS driver_id,
    e.route_name AS route_name,
    e.origin_city AS origin_city,
    e.origin_state AS origin_state,
    e.destination_city AS destination_city,
    e.destination_state AS destination_state,
    e.stops_count AS stops_count,
    e.seats_total AS seats_total,
    e.base_price AS base_price,
    e.departure_time AS departure_time,
    e.active_days AS active_days,
    e.cancellation_reason AS cancellation_reason,
    e.active_bookings_count AS active_bookings_count,
    e.booking_id AS booking_id,
    e.rider_id AS rider_id,
    e.seats_booked AS seats_booked,
    e.total_price AS total_price,
    e.currency AS currency,
    e.pickup_lat AS pickup_lat,
    e.pickup_lon AS pickup_lon,
    e.dropoff_lat AS dropoff_lat,
    e.dropoff_lon AS dropoff_lon,
    e.pickup_stop_id AS pickup_stop_id,
    e.dropoff_stop_id AS dropoff_stop_id,
    fromUnixTimestamp64Milli(e.scheduled_departure, 'UTC') AS scheduled_departure,
    e.payment_id AS payment_id,
    e.confirmation_code AS confirmation_code,
    e.cancelled_by AS cancelled_by,
    e.refund_initiated AS refund_initiated,
    e.trip_id AS trip_id,
    fromUnixTimestamp64Milli(e.actual_departure, 'UTC') AS actual_departure,
    fromUnixTimestamp64Milli(e.actual_arrival, 'UTC') AS actual_arrival,
    e.duration_minutes AS duration_minutes,
    e.amount AS amount,
    e.payment_method AS payment_method,
    e.provider AS provider,
    e.provider_transaction_id AS provider_transaction_id,
    e.processing_time_ms AS processing_time_ms,
    e.error_code AS error_code,
    e.error_message AS error_message,
    e.refund_amount AS refund_amount,
    e.original_amount AS original_amount,
    e.refund_reason AS refund_reason,
    if(
        e.refunded_by IN (SELECT user_id FROM openride.erased_users),
        toUUID('00000000-0000-0000-0000-000000000000'),
        e.refunded_by
    ) AS refunded_by,
    e.start_lat AS start_lat,
    e.start_lon AS start_lon,
    e.passengers_count AS passengers_count,
    e.distance_km AS distance_km,
    e.end_lat AS end_lat,
    e.end_lon AS end_lon,
    e.driver_earnings AS driver_earnings,
    e.platform_commission AS platform_commission,
    e.on_time AS on_time,
    e.was_started AS was_started,
    e.partial_distance_km AS partial_distance_km,
    least(sipHash64(line), 18446744073709551614) AS content_rank
FROM
(
    SELECT
        line,
        untuple(
            JSONExtract(
                line,
                'Tuple(
                    event_type LowCardinality(String),
                    event_id UUID,
                    event_timestamp Int64,
                    user_id UUID,
                    role LowCardinality(String),
                    city LowCardinality(String),
                    state LowCardinality(String),
                    referral_code String,
                    kyc_status LowCardinality(String),
                    verified_by UUID,
                    previous_role LowCardinality(String),
                    new_role LowCardinality(String),
                    route_id UUID,
                    driver_id UUID,
                    route_name String,
                    origin_city LowCardinality(String),
                    origin_state LowCardinality(String),
                    destination_city LowCardinality(String),
                    destination_state LowCardinality(String),
                    stops_count UInt32,
                    seats_total UInt8,
                    base_price Nullable(Decimal(18, 4)),
                    departure_time LowCardinality(String),
                    active_days Array(LowCardinality(String)),
                    cancellation_reason String,
                    active_bookings_count UInt32,
                    booking_id UUID,
                    rider_id UUID,
                    seats_booked Nullable(UInt32),
                    total_price Nullable(Decimal(18, 4)),
                    currency LowCardinality(String),
                    pickup_lat Nullable(Float64),
                    pickup_lon Nullable(Float64),
                    dropoff_lat Nullable(Float64),
                    dropoff_lon Nullable(Float64),
                    pickup_stop_id UUID,
                    dropoff_stop_id UUID,
                    scheduled_departure Nullable(Int64),
                    payment_id UUID,
                    confirmation_code String,
                    cancelled_by LowCardinality(String),
                    refund_initiated Bool,
                    trip_id UUID,
                    actual_departure Nullable(Int64),
                    actual_arrival Nullable(Int64),
                    duration_minutes Nullable(Float64),
                    amount Nullable(Decimal(18, 4)),
                    payment_method LowCardinality(String),
                    provider LowCardinality(String),
                    provider_transaction_id String,
                    processing_time_ms Nullable(UInt32),
                    error_code LowCardinality(String),
                    error_message String,
                    refund_amount Nullable(Decimal(18, 4)),
                    original_amount Nullable(Decimal(18, 4)),
                    refund_reason String,
                    refunded_by UUID,
                    start_lat Nullable(Float64),
                    start_lon Nullable(Float64),
                    passengers_count UInt8,
                    distance_km Nullable(Float64),
                    end_lat Nullable(Float64),
                    end_lon Nullable(Float64),
                    driver_earnings Nullable(Decimal(18, 4)),
                    platform_commission Nullable(Decimal(18, 4)),
                    on_time Nullable(Bool),
                    was_started Bool,
                    partial_distance_km Nullable(Float64)
                )'
            )
        ) AS e
    FROM openride.incoming
    ARRAY JOIN splitByChar('\n', lines) AS line
    WHERE kind = 'event'
)
WHERE e.user_id NOT IN (SELECT user_id FROM openride.erased_users)
  AND e.rider_id NOT IN (SELECT user_id FROM openride.erased_users)
  AND e.driver_id NOT IN (SELECT user_id FROM openride.erased_users);

CREATE MATERIALIZED VIEW IF NOT EXISTS openride.incoming_to_driver_locations ON CLUSTER 'rides' TO openride.driver_locations AS
WITH
    JSONExtract(
        line,
        'Tuple(
            event_id UUID,
            event_timestamp Int64,
            driver_id UUID,
            trip_id UUID,
            lat Float64,
            lon Float64,
            speed_kmh Nullable(Float32),
            bearing Nullable(Float32),
            accuracy_meters Nullable(Float32),
            city LowCardinality(String),
            state LowCardinality(String)
        )'
    ) AS e
SELECT
    e.event_id AS event_id,
    fromUnixTimestamp64Milli(e.event_timestamp, 'UTC') AS event_timestamp,
    e.driver_id AS driver_id,
    e.trip_id AS trip_id,
    e.lat AS lat,
    e.lon AS lon,
    e.speed_kmh AS speed_kmh,
    e.bearing AS bearing,
    e.accuracy_meters AS accuracy_meters,
    e.city AS city,
    e.state AS state,
    least(sipHash64(line), 18446744073709551614) AS content_rank
FROM openride.incoming
ARRAY JOIN splitByChar('\n', lines) AS line
WHERE kind = 'location'
  AND e.driver_id NOT IN (SELECT user_id FROM openride.erased_users);

CREATE MATERIALIZED VIEW IF NOT EXISTS openride.incoming_to_event_ids ON CLUSTER 'rides' TO openride.event_ids AS
WITH
    JSONExtract(
        line,
        'Tuple(
            event_id UUID,
            event_type LowCardinality(String),
            event_timestamp Int64,
            user_id UUID,
            rider_id UUID,
            driver_id UUID
        )'
    ) AS e
SELECT
    e.event_id AS event_id,
    e.event_type AS event_type,
    fromUnixTimestamp64Milli(e.event_timestamp, 'UTC') AS event_timestamp,
    if(kind = 'location', e.driver_id, toUUID('00000000-0000-0000-0000-000000000000')) AS driver_id
FROM openride.incoming
ARRAY JOIN splitByChar('\n', lines) AS line
WHERE ids_given = 1
  AND e.user_id NOT IN (SELECT user_id FROM openride.erased_users)
  AND e.rider_id NOT IN (SELECT user_id FROM openride.erased_users)
  AND e.driver_id NOT IN (SELECT user_id FROM openride.erased_users);

CREATE MATERIALIZED VIEW IF NOT EXISTS openride.incoming_to_ingest_log ON CLUSTER 'rides' TO openride.ingest_log AS
SELECT
    now64(3, 'UTC') AS stored_at,
    fromUnixTimestamp64Milli(arrived_ms, 'UTC') AS arrived_at,
    kind,
    countSubstrings(lines, '\n') + 1 AS events
FROM openride.incoming;

CREATE TABLE IF NOT EXISTS openride_shard.dead_letter_replays ON CLUSTER 'rides'
(
    dead_letter_id  String,
    replay_id       String,
    replayed_ms     Int64,
    outcome         String,
    reason          String,
    field           String,
    detail          String
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/dead_letter_replays', '{replica}')
ORDER BY (dead_letter_id, replay_id);

CREATE TABLE IF NOT EXISTS openride.dead_letter_replays ON CLUSTER 'rides' AS openride_shard.dead_letter_replays
ENGINE = Distributed('rides', 'openride_shard', 'dead_letter_replays', cityHash64(dead_letter_id, replay_id));

CREATE TABLE IF NOT EXISTS openride_shard.histories ON CLUSTER 'rides'
(
    kind                 LowCardinality(String),
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/histories', '{replica}', content_rank)
ORDER BY (thing_id, kind, event_type, event_timestamp, event_id)
SETTINGS index_granularity = 128, min_compress_block_size = 4096, max_compress_block_size = 16384;

CREATE TABLE IF NOT EXISTS openride.histories ON CLUSTER 'rides' AS openride_shard.histories
ENGINE = Distributed('rides', 'openride_shard', 'histories', cityHash64(event_id));

CREATE TABLE IF NOT EXISTS openride_shard.buried ON CLUSTER 'rides'
(
    thing_id         UUID,
    event_type       LowCardinality(String),
    event_timestamp  DateTime64(3, 'UTC'),
    event_id         UUID,
    content_rank     UInt64
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/buried', '{replica}')
ORDER BY (thing_id, event_type, event_timestamp, event_id, content_rank);

CREATE TABLE IF NOT EXISTS openride.buried ON CLUSTER 'rides' AS openride_shard.buried
ENGINE = Distributed('rides', 'openride_shard', 'buried', cityHash64(event_id));

CREATE TABLE IF NOT EXISTS openride_shard.facts ON CLUSTER 'rides'
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
    is_alone             Bool,
    is_cancelled         Bool,
    is_completed         Bool,
    is_succeeded         Bool,
    is_failed            Bool,
    is_refunded          Bool,
    confirmed_ms         Nullable(Int64),
    confirmed_seats      Nullable(UInt32),
    initiated_ms         Nullable(Int64),
    version              UInt128,
    is_deleted           UInt8 DEFAULT 0,
    INDEX scheduled_departure_minmax scheduled_departure TYPE minmax GRANULARITY 1
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/facts', '{replica}', version, is_deleted)
PARTITION BY toYYYYMM(event_timestamp)
PRIMARY KEY (event_type, event_timestamp)
ORDER BY (event_type, event_timestamp, event_id);

CREATE TABLE IF NOT EXISTS openride.facts ON CLUSTER 'rides' AS openride_shard.facts
ENGINE = Distributed('rides', 'openride_shard', 'facts', cityHash64(event_id));

CREATE MATERIALIZED VIEW IF NOT EXISTS openride_shard.events_to_histories ON CLUSTER 'rides' TO openride.histories AS
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
FROM openride_shard.events
WHERE is_deleted = 0
  AND event_type IN
  (
      'booking.created', 'booking.confirmed', 'booking.cancelled', 'booking.completed',
      'payment.initiated', 'payment.success', 'payment.failed', 'payment.refunded',
      'trip.started', 'trip.completed', 'trip.cancelled'
  );

ALTER TABLE openride_shard.event_ids ON CLUSTER 'rides'
    ADD COLUMN IF NOT EXISTS thing_id UUID,
    ADD COLUMN IF NOT EXISTS content_rank UInt64,
    MODIFY ORDER BY (event_id, event_type, event_timestamp, driver_id, thing_id, content_rank);

ALTER TABLE openride.event_ids ON CLUSTER 'rides'
    ADD COLUMN IF NOT EXISTS thing_id UUID,
    ADD COLUMN IF NOT EXISTS content_rank UInt64;

ALTER TABLE openride.incoming_to_event_ids ON CLUSTER 'rides' MODIFY QUERY
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
FROM openride.incoming
ARRAY JOIN splitByChar('\n', lines) AS line
WHERE ids_given = 1
  AND e.user_id NOT IN (SELECT user_id FROM openride.erased_users)
  AND e.rider_id NOT IN (SELECT user_id FROM openride.erased_users)
  AND e.driver_id NOT IN (SELECT user_id FROM openride.erased_users);

ALTER TABLE openride_shard.events ON CLUSTER 'rides'
    MODIFY SETTING min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

ALTER TABLE openride_shard.driver_locations ON CLUSTER 'rides'
    MODIFY SETTING min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

ALTER TABLE openride_shard.facts ON CLUSTER 'rides'
    MODIFY SETTING min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

ALTER TABLE openride_shard.histories ON CLUSTER 'rides'
    MODIFY SETTING min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

CREATE TABLE IF NOT EXISTS openride_shard.active_hours ON CLUSTER 'rides'
(
    kind     Enum8('lasting' = 1, 'passing' = 2, 'driving' = 3, 'online' = 4),
    hour     Int64,
    user_id  UUID
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/active_hours', '{replica}')
PARTITION BY toYYYYMM(fromUnixTimestamp64Milli(hour * 3600000, 'UTC'))
ORDER BY (user_id, hour, kind)
SETTINGS min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

CREATE TABLE IF NOT EXISTS openride.active_hours ON CLUSTER 'rides' AS openride_shard.active_hours
ENGINE = Distributed('rides', 'openride_shard', 'active_hours', cityHash64(user_id, hour, kind));

CREATE TABLE IF NOT EXISTS openride_shard.doubtful_hours ON CLUSTER 'rides'
(
    kind        Enum8('lasting' = 1, 'passing' = 2, 'driving' = 3, 'online' = 4),
    hour        Int64,
    user_id     UUID,
    doubted_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/doubtful_hours', '{replica}', doubted_at)
ORDER BY (hour, kind, user_id);

CREATE TABLE IF NOT EXISTS openride.doubtful_hours ON CLUSTER 'rides' AS openride_shard.doubtful_hours
ENGINE = Distributed('rides', 'openride_shard', 'doubtful_hours', cityHash64(hour, kind, user_id));

CREATE MATERIALIZED VIEW IF NOT EXISTS openride_shard.events_to_active_hours ON CLUSTER 'rides' TO openride.active_hours AS
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
            cancelled_by = 'RIDER', [('passing', rider_id)],
            cancelled_by = 'DRIVER', [('passing', driver_id)],
            []
        )) AS act
    FROM openride_shard.events
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

CREATE MATERIALIZED VIEW IF NOT EXISTS openride_shard.driver_locations_to_active_hours ON CLUSTER 'rides' TO openride.active_hours AS
SELECT DISTINCT
    'online' AS kind,
    intDiv(toUnixTimestamp64Milli(event_timestamp), 3600000) AS hour,
    driver_id AS user_id
FROM openride_shard.driver_locations
WHERE is_deleted = 0 AND notEmpty(driver_id);

CREATE TABLE IF NOT EXISTS openride_shard.active_days ON CLUSTER 'rides'
(
    kind     Enum8('lasting' = 1, 'passing' = 2, 'driving' = 3, 'online' = 4),
    day      Int32,
    user_id  UUID,
    hours    SimpleAggregateFunction(groupBitOr, UInt32)
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/openride_shard/active_days', '{replica}')
PARTITION BY toYYYYMM(fromUnixTimestamp64Milli(day * 86400000, 'UTC'))
ORDER BY (user_id, day, kind)
SETTINGS min_age_to_force_merge_seconds = 86400, enable_max_bytes_limit_for_min_age_to_force_merge = 1;

CREATE TABLE IF NOT EXISTS openride.active_days ON CLUSTER 'rides' AS openride_shard.active_days
ENGINE = Distributed('rides', 'openride_shard', 'active_days', cityHash64(user_id, day, kind));

CREATE MATERIALIZED VIEW IF NOT EXISTS openride_shard.events_to_active_days ON CLUSTER 'rides' TO openride.active_days AS
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
            cancelled_by = 'RIDER', [('passing', rider_id)],
            cancelled_by = 'DRIVER', [('passing', driver_id)],
            []
        )) AS act
    FROM openride_shard.events
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

CREATE MATERIALIZED VIEW IF NOT EXISTS openride_shard.driver_locations_to_active_days ON CLUSTER 'rides' TO openride.active_days AS
SELECT
    'online' AS kind,
    toInt32(intDiv(hour, 24)) AS day,
    driver_id AS user_id,
    groupBitOr(bitShiftLeft(toUInt32(1), hour % 24)) AS hours
FROM
(
    SELECT driver_id, intDiv(toUnixTimestamp64Milli(event_timestamp), 3600000) AS hour
    FROM openride_shard.driver_locations
    WHERE is_deleted = 0 AND notEmpty(driver_id)
)
GROUP BY kind, day, user_id;

CREATE TABLE IF NOT EXISTS openride_shard.active_hours ON CLUSTER 'rides'
(
    kind     Enum8('lasting' = 1, 'passing' = 2, 'driving' = 3, 'online' = 4),
    hour     Int64,
    user_id  UUID
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/openride_shard/active_hours', '{replica}')
ORDER BY (user_id, hour, kind);

CREATE TABLE IF NOT EXISTS openride.active_hours ON CLUSTER 'rides' AS openride_shard.active_hours
ENGINE = Distributed('rides', 'openride_shard', 'active_hours', cityHash64(user_id, hour, kind));

DROP VIEW IF EXISTS openride.events_to_active_hours ON CLUSTER 'rides';

DROP VIEW IF EXISTS openride_shard.events_to_active_hours ON CLUSTER 'rides';

DROP VIEW IF EXISTS openride.driver_locations_to_active_hours ON CLUSTER 'rides';

DROP VIEW IF EXISTS openride_shard.driver_locations_to_active_hours ON CLUSTER 'rides';

DROP TABLE IF EXISTS openride.active_hours ON CLUSTER 'rides';

DROP TABLE IF EXISTS openride_shard.active_hours ON CLUSTER 'rides';

CREATE MATERIALIZED VIEW IF NOT EXISTS openride_shard.events_to_event_ids ON CLUSTER 'rides' TO openride.event_ids AS
SELECT
    event_id,
    event_type,
    event_timestamp,
    toUUID('00000000-0000-0000-0000-000000000000') AS driver_id,
    multiIf(
        startsWith(event_type, 'booking.'), booking_id,
        startsWith(event_type, 'payment.'), payment_id,
        startsWith(event_type, 'trip.'), trip_id,
        toUUID('00000000-0000-0000-0000-000000000000')
    ) AS thing_id,
    content_rank
FROM openride_shard.events
WHERE is_deleted = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS openride_shard.driver_locations_to_event_ids ON CLUSTER 'rides' TO openride.event_ids AS
SELECT
    event_id,
    'driver.location.updated' AS event_type,
    event_timestamp,
    driver_id,
    toUUID('00000000-0000-0000-0000-000000000000') AS thing_id,
    content_rank
FROM openride_shard.driver_locations
WHERE is_deleted = 0;

DROP VIEW IF EXISTS openride.incoming_to_event_ids ON CLUSTER 'rides';

DROP VIEW IF EXISTS openride_shard.incoming_to_event_ids ON CLUSTER 'rides';

ALTER TABLE openride_shard.events ON CLUSTER 'rides' MODIFY TTL toDateTime(event_timestamp) + toIntervalDay(730) WHERE NOT (startsWith(event_type, 'user.') OR startsWith(event_type, 'route.'));

ALTER TABLE openride_shard.events ON CLUSTER 'rides' MODIFY SETTING storage_policy = 'tiered';

ALTER TABLE openride_shard.events ON CLUSTER 'rides' REMOVE TTL;

ALTER TABLE openride_shard.events ON CLUSTER 'rides' DELETE WHERE user_id GLOBAL IN (SELECT user_id FROM openride.erased_users) SETTINGS mutations_sync = 0;

ALTER TABLE openride_shard.event_ids ON CLUSTER 'rides' DELETE WHERE event_id GLOBAL NOT IN (SELECT event_id FROM openride_shard.events) SETTINGS mutations_sync = 0;
