-- The ids from the tables' own rows, as they are stored: until now each line was parsed a second time for them, a tenth of
-- what an event costs. So ids that were derived from content are entered too. `incoming.ids_given` is not asked any more;
-- instances of before still write it.
CREATE MATERIALIZED VIEW IF NOT EXISTS events_to_event_ids TO event_ids AS
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
FROM events
WHERE is_deleted = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS driver_locations_to_event_ids TO event_ids AS
SELECT
    event_id,
    'driver.location.updated' AS event_type,
    event_timestamp,
    driver_id,
    toUUID('00000000-0000-0000-0000-000000000000') AS thing_id,
    content_rank
FROM driver_locations
WHERE is_deleted = 0;

DROP VIEW IF EXISTS incoming_to_event_ids;
