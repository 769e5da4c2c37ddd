-- API keys, of which only hashes are kept, and the record of who changed what.

CREATE TABLE api_keys
(
    id                   text        PRIMARY KEY,
    secret_hash          bytea       NOT NULL,
    name                 text        NOT NULL,
    scopes               text[]      NOT NULL,
    requests_per_minute  integer,
    created_at           timestamptz NOT NULL DEFAULT now(),
    created_by           text        NOT NULL,
    expires_at           timestamptz,
    revoked_at           timestamptz,
    last_used_at         timestamptz
);

CREATE TABLE audit_log
(
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),
    who      text        NOT NULL,
    what     text        NOT NULL,
    details  jsonb       NOT NULL
);
