-- Scheduled reports. A due run is a row here before anything is done about it: unique by schedule and due time, so it
-- exists once however many instances see that it is due. Whoever works on a run holds it until `next_attempt_at` and moves
-- that on while working; after a crash the time passes and another instance takes over. `fence` counts the takers: what a
-- former one still writes has no effect.

CREATE TABLE report_schedules
(
    schedule_id  uuid        PRIMARY KEY,
    definition   jsonb       NOT NULL,
    paused       boolean     NOT NULL,
    next_due_at  timestamptz,           -- null: paused or deleted
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz
);

CREATE INDEX report_schedules_due ON report_schedules (next_due_at) WHERE next_due_at IS NOT NULL;

CREATE TABLE report_recipients
(
    recipient_id     uuid        PRIMARY KEY,
    schedule_id      uuid        NOT NULL REFERENCES report_schedules ON DELETE CASCADE,
    kind             text        NOT NULL CHECK (kind IN ('email', 'webhook')),
    address          text        NOT NULL,
    secret           text,                  -- webhooks: what signs
    position         integer     NOT NULL,
    listed           boolean     NOT NULL DEFAULT true,  -- who unsubscribed stays so when taken off the list and put back
    unsubscribed_at  timestamptz,
    UNIQUE (schedule_id, kind, address)
);

CREATE TABLE report_runs
(
    report_id        uuid        PRIMARY KEY,
    schedule_id      uuid        NOT NULL REFERENCES report_schedules,
    due_at           timestamptz NOT NULL,
    cause            text        NOT NULL CHECK (cause IN ('schedule', 'manual', 'test')),
    definition       jsonb       NOT NULL,  -- as it was then
    state            text        NOT NULL CHECK (state IN (
        'waiting', 'making', 'delivering', 'delivered', 'partly_delivered', 'skipped', 'failed', 'missed', 'cancelled'
    )),
    next_attempt_at  timestamptz,           -- null: nothing left to do
    fence            integer     NOT NULL DEFAULT 0,
    attempts         integer     NOT NULL DEFAULT 0,  -- to make it
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    made_at          timestamptz,
    finished_at      timestamptz,
    rows             bigint,
    bytes            bigint,
    file_key         text,
    file_name        text,
    media_type       text,
    error            text,
    UNIQUE (schedule_id, due_at)
);

CREATE INDEX report_runs_to_do ON report_runs (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX report_runs_created ON report_runs (created_at);

CREATE TABLE report_deliveries
(
    delivery_id      uuid        PRIMARY KEY,
    report_id        uuid        NOT NULL REFERENCES report_runs ON DELETE CASCADE,
    recipient_id     uuid,                  -- null: not of the schedule's list (a test, a notice to the owner)
    kind             text        NOT NULL CHECK (kind IN ('email', 'webhook', 'notice')),
    address          text        NOT NULL,
    state            text        NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'failed', 'dropped')),
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    attempts         integer     NOT NULL DEFAULT 0,
    message_id       text,
    delivered_at     timestamptz,
    error            text
);

CREATE INDEX report_deliveries_run ON report_deliveries (report_id);

-- What signs the links of all instances, where the configuration names nothing.
CREATE TABLE report_link_secret
(
    only_one  boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    secret    bytea   NOT NULL
);
