-- Runs of scheduled jobs. Every instance's scheduler wakes up for every job; the one that inserts the row for a due time
-- runs it, so each is run once however many instances there are.

CREATE TABLE job_runs
(
    job          text        NOT NULL,
    due_at       timestamptz NOT NULL,
    claimed_by   text        NOT NULL,
    claimed_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    error        text,
    PRIMARY KEY (job, due_at)
);
