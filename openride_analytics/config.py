"""Typed settings, from `config.toml` and the environment.

Each key can be overridden by `OPENRIDE_<SECTION>__<KEY>`; a few well-known names (`DATABASE_URL`, …) work too. An
unknown key or a bad value stops the start with one line that says where it is and what is wrong.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta, Struct, field

Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[float, Meta(gt=0)]
PositiveCount = Annotated[int, Meta(ge=1)]
Days = Annotated[int, Meta(ge=0, le=36_500)]

WELL_KNOWN: Final = {
    "DATABASE_URL": ("postgres", "url"),
    "CLICKHOUSE_URL": ("clickhouse", "url"),
    "KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "REDIS_URL": ("redis", "url"),
    "CONSUMER_GROUP_ID": ("kafka", "group_id"),
}
_PREFIX: Final = "OPENRIDE_"
_SECRETS: Final = frozenset(
    {"sasl_password", "jwt_secret", "password", "s3_secret_access_key", "signing_secret"}
)
_URLS: Final = frozenset({"url", "jwks_url", "endpoint"})


class ConfigError(Exception):
    """The configuration cannot be used. The message is one line for the operator."""


class _Section(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    pass


class Server(_Section, frozen=True):
    """The HTTP server."""

    host: str = "127.0.0.1"
    port: Port = 8097
    # Where health and Prometheus are served instead of at `port`. 0: at `port`.
    ops_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    cors_origins: tuple[str, ...] = ()
    # How long the service goes on answering, no longer ready, after it was told to stop.
    drain_seconds: Annotated[float, Meta(ge=0, le=5)] = 2.0


class Storage(_Section, frozen=True):
    """Where the embedded stores keep their files, and whether the service applies migrations itself."""

    data_dir: str = "data"
    migrate_at_start: bool = True


class ClickHouse(_Section, frozen=True):
    """Without an address: the embedded engine."""

    url: str = ""
    query_timeout_seconds: Positive = 10.0
    insert_timeout_seconds: Positive = 60.0
    # As the servers' `remote_servers` name it: tables are spread over its shards.
    cluster: Annotated[str, Meta(pattern=r"^[\w.-]*\Z")] = ""
    # Shards of several hosts that share their rows by a Keeper.
    replicated: bool = False
    # A statement that takes longer is logged, by its name.
    slow_query_seconds: Positive = 1.0


class Postgres(_Section, frozen=True):
    """Without an address: a private server."""

    url: str = ""


class Redis(_Section, frozen=True):
    """Without an address: a cache in memory."""

    url: str = ""
    # The address is that of one node of a Redis Cluster.
    cluster: bool = False


class DialectTopic(_Section, frozen=True):
    """A topic in a dialect: the events on it, and the contract's required fields that they may lack."""

    event_type: str
    optional: tuple[str, ...] = ()


class Dialect(_Section, frozen=True):
    """How another producer spells the contract's events. See `dialects.Dialects`, which also checks it."""

    topics: dict[str, DialectTopic] = {}
    # By the contract's field: the producer's names for it, then the same in camelCase. The first that is sent counts;
    # "date+time" is a local date and a local time of `timezone`.
    names: dict[str, tuple[Annotated[str, Meta(pattern=r"^[^+]+(\+[^+]+)?\Z")], ...]] = {}
    defaults: dict[str, str | int | float | bool] = {}
    timezone: str = "Africa/Lagos"


# What OpenRide's own Java services publish today: Spring's JsonSerializer, one topic for each type of event.
SHIPPED_DIALECTS: Final[dict[str, Dialect]] = {
    "booking-service": Dialect(
        topics={
            "booking.created": DialectTopic(event_type="booking.created", optional=("driver_id",)),
            "booking.confirmed": DialectTopic(
                event_type="booking.confirmed", optional=("driver_id", "seats_booked")
            ),
            "booking.cancelled": DialectTopic(
                event_type="booking.cancelled", optional=("driver_id", "cancelled_by")
            ),
            "booking.completed": DialectTopic(
                event_type="booking.completed", optional=("driver_id", "seats_booked", "actual_departure")
            ),
        },
        names={
            "event_timestamp": ("completedAt", "cancelledAt", "confirmedAt", "createdAt"),
            "seats_booked": ("numberOfSeats",),
            "total_price": ("totalAmount",),
            "scheduled_departure": ("travelDate+departureTime",),
            "actual_arrival": ("actualArrival", "completedAt"),
        },
    ),
    "payouts-service": Dialect(
        topics={
            "trip.completed": DialectTopic(
                event_type="trip.completed",
                optional=(
                    *("driver_id", "actual_departure", "actual_arrival", "duration_minutes", "distance_km"),
                    *("driver_earnings", "platform_commission"),
                ),
            ),
        },
        names={
            "event_timestamp": ("completedAt",),
            "actual_departure": ("tripStartedAt",),
            "actual_arrival": ("actualArrival", "completedAt"),
        },
    ),
}


class Kafka(_Section, frozen=True):
    """Without an address: events come over HTTP only."""

    bootstrap_servers: str = ""
    group_id: str = "openride-analytics"
    topics: tuple[str, ...] = (
        "openride.events.user",
        "openride.events.route",
        "openride.events.booking",
        "openride.events.payment",
        "openride.events.trip",
        "openride.events.location",
    )
    dialects: dict[str, Dialect] = field(default_factory=lambda: dict(SHIPPED_DIALECTS))
    dead_letter_topic: str = "openride.events.dlq"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str = ""
    sasl_password: str = ""
    ssl_ca_file: str = ""
    ssl_cert_file: str = ""
    ssl_key_file: str = ""


class Ingest(_Section, frozen=True):
    """How events are gathered into batches."""

    max_batch_events: PositiveCount = 50_000
    # The longest an event waits for others before its batch is stored.
    max_delay_seconds: Positive = 0.25
    max_request_bytes: PositiveCount = 33_554_432


class Cache(_Section, frozen=True):
    """How long an answer may be used again."""

    # An answer may miss events of its period, or of before it, that were stored so long ago …
    fresh_seconds: Annotated[float, Meta(ge=0)] = 0.25
    # … and so long ago while it is computed anew.
    stale_seconds: Annotated[float, Meta(ge=0)] = 30.0
    # In any case it is given only this long: so that "today" moves on.
    max_age_seconds: Positive = 60.0
    # And this long if its period is over: so that what becomes of its bookings later is let in.
    closed_max_age_seconds: Positive = 300.0


class Analytics(_Section, frozen=True):
    """What metrics assume."""

    timezone: str = "Africa/Lagos"
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")] = "NGN"
    on_time_minutes: Annotated[int, Meta(ge=0)] = 10


class Exports(_Section, frozen=True):
    """The most rows of an export; more are refused before the first byte."""

    max_rows: PositiveCount = 20_000_000
    # A workbook is made as a whole before it is sent, and nobody reads so much of one.
    max_excel_rows: PositiveCount = 1_500_000
    # From the question to the last row; a client that reads slowly has this long, too.
    timeout_seconds: Positive = 600.0


class Retention(_Section, frozen=True):
    """Days that events stay: on fast disks, and altogether. 0 = for ever."""

    hot_days: Days = 90
    cold_days: Days = 730


class Auth(_Section, frozen=True):
    """Who may ask: API keys, and tokens where a secret or a JWKS address is given."""

    enabled: bool = False
    # Serve the network although access is off: whoever reaches the service may read and change everything.
    open_to_everybody: bool = False
    # Of each key without a limit of its own, and of each token's subject. 0: no limit.
    requests_per_minute: Annotated[int, Meta(ge=0, le=1_000_000)] = 600
    jwt_secret: str = ""
    jwks_url: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_scopes_claim: str = "scope"


class Reports(_Section, frozen=True):
    """Scheduled reports: who may get them, where they are kept, and how they are sent."""

    # Of mail addresses; none: all are allowed.
    allowed_recipient_domains: tuple[str, ...] = ()
    # A run that was missed while nothing ran is made up so long after it was due.
    grace_minutes: Annotated[float, Meta(ge=0)] = 360.0
    # Files and their runs, and links to them, which end with the file at the latest.
    retention_days: Annotated[int, Meta(ge=1, le=36_500)] = 90
    link_days: Annotated[int, Meta(ge=1, le=36_500)] = 14
    # What links begin with; without it, the address that the service listens on.
    public_url: str = ""
    # Signs the links; without one, a secret that the instances share in PostgreSQL.
    signing_secret: str = ""
    # A larger file is not attached to a mail, which then has a link to it.
    attach_max_bytes: PositiveCount = 8_388_608
    webhook_timeout_seconds: Positive = 20.0
    # Hosts that webhooks may be sent to although their addresses are private ones.
    webhook_private_hosts: tuple[str, ...] = ()
    # Without a bucket: the folder `reports` in `[storage] data_dir`.
    s3_bucket: str = ""
    s3_prefix: str = ""
    s3_endpoint: str = ""  # of a server other than Amazon's
    s3_region: str = "us-east-1"
    s3_access_key_id: str = ""
    s3_secret_access_key: str = ""


class Smtp(_Section, frozen=True):
    """The mail server; without a host no mail can be sent."""

    host: str = ""
    port: Port = 587
    security: Literal["none", "starttls", "tls"] = "starttls"
    username: str = ""
    password: str = ""
    ca_file: str = ""  # instead of the system's authorities
    sender: str = ""  # OpenRide Analytics <reports@example.com>
    timeout_seconds: Positive = 30.0


class Log(_Section, frozen=True):
    """Structured logs on standard output."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Tracing(_Section, frozen=True):
    """Where traces go; without an address none are made."""

    endpoint: str = ""


class Config(_Section, frozen=True):
    """Everything an operator can set."""

    server: Server = field(default_factory=Server)
    storage: Storage = field(default_factory=Storage)
    clickhouse: ClickHouse = field(default_factory=ClickHouse)
    postgres: Postgres = field(default_factory=Postgres)
    redis: Redis = field(default_factory=Redis)
    kafka: Kafka = field(default_factory=Kafka)
    ingest: Ingest = field(default_factory=Ingest)
    cache: Cache = field(default_factory=Cache)
    analytics: Analytics = field(default_factory=Analytics)
    exports: Exports = field(default_factory=Exports)
    retention: Retention = field(default_factory=Retention)
    auth: Auth = field(default_factory=Auth)
    reports: Reports = field(default_factory=Reports)
    smtp: Smtp = field(default_factory=Smtp)
    log: Log = field(default_factory=Log)
    tracing: Tracing = field(default_factory=Tracing)


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration of a file (None: all defaults) and the environment. Raises `ConfigError`."""
    sections: dict[str, Any] = {}
    if path is not None:
        try:
            sections = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
    kafka = sections.get("kafka")
    if isinstance(kafka, dict) and isinstance(given := kafka.get("dialects"), dict):
        # Those that are named replace the shipped ones of that name; the others stay.
        sections = {**sections, "kafka": {**kafka, "dialects": {**_SHIPPED, **given}}}
    try:
        config = msgspec.convert(sections, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_sentence(error)}") from None
    for name, (section, key) in WELL_KNOWN.items():
        if environment.get(name):
            config = _overridden(config, name, section, key, environment[name])
    for name, text in environment.items():
        if name.startswith(_PREFIX) and "__" in name:
            section, key = name.removeprefix(_PREFIX).lower().split("__", 1)
            config = _overridden(config, name, section, key, text)
    return _checked(config)


_SHIPPED: Final = msgspec.to_builtins(SHIPPED_DIALECTS)


def _overridden(config: Config, name: str, section_name: str, key: str, text: str) -> Config:
    """`config` with one key replaced by a text from the environment (a list as comma-separated text)."""
    section: Any = getattr(config, section_name, None)
    types = {} if section is None else {f.name: f.type for f in msgspec.structs.fields(section)}
    if key not in types:
        raise ConfigError(
            f"environment variable {name}: there is no setting {key!r} in section {section_name!r}"
        )
    value: Any = text
    if isinstance(getattr(section, key), tuple):
        value = [item.strip() for item in text.split(",") if item.strip()]
    try:
        value = msgspec.convert(value, types[key], strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"environment variable {name}: {error}") from None
    return msgspec.structs.replace(config, **{section_name: msgspec.structs.replace(section, **{key: value})})


def _checked(config: Config) -> Config:
    """What types alone can't say."""
    if config.analytics.timezone not in time_zones():
        raise ConfigError(f"analytics.timezone: there is no time zone {config.analytics.timezone!r}")
    for name, url, schemes in (
        ("clickhouse.url", config.clickhouse.url, ("clickhouse", "clickhouses")),
        ("postgres.url", config.postgres.url, ("postgres", "postgresql")),
        ("redis.url", config.redis.url, ("redis", "rediss", "unix")),
    ):
        if url and urlsplit(url).scheme not in schemes:
            raise ConfigError(f"{name}: must begin with {' or '.join(s + '://' for s in schemes)}")
    if config.clickhouse.cluster and not config.clickhouse.url:
        raise ConfigError("clickhouse.cluster: the address of one of its servers is missing (clickhouse.url)")
    if config.clickhouse.replicated and not config.clickhouse.cluster:
        raise ConfigError("clickhouse.replicated: must be set together with clickhouse.cluster")
    if config.redis.cluster and urlsplit(config.redis.url).scheme not in ("redis", "rediss"):
        raise ConfigError("redis.cluster: the address of one of its nodes is missing (redis.url)")
    kafka = config.kafka
    if kafka.bootstrap_servers and bool(kafka.sasl_username) is not kafka.security_protocol.startswith(
        "SASL"
    ):
        raise ConfigError(
            "kafka.sasl_username: goes together with kafka.security_protocol = SASL_SSL or SASL_PLAINTEXT"
        )
    retention = config.retention
    if retention.cold_days and retention.hot_days > retention.cold_days:
        raise ConfigError("retention.hot_days: must not be more than retention.cold_days")
    _check_access(config.server, config.auth)
    if config.smtp.host and not config.smtp.sender:
        raise ConfigError("smtp.sender: must be given with smtp.host")
    public = urlsplit(config.reports.public_url)
    if config.reports.public_url and (public.scheme not in ("http", "https") or not public.netloc):
        raise ConfigError("reports.public_url: must begin with http:// or https:// and a host")
    collector = urlsplit(config.tracing.endpoint)
    if config.tracing.endpoint and (
        collector.scheme not in ("http", "https") or not collector.path.strip("/")
    ):
        raise ConfigError(
            "tracing.endpoint: must be the whole address, such as http://127.0.0.1:4318/v1/traces"
        )
    return config


def _check_access(server: Server, auth: Auth) -> None:
    """Refuses what would let in the network, or somebody's tokens, by mistake."""
    if not (auth.enabled or auth.open_to_everybody or is_loopback(server.host)):
        raise ConfigError(
            f"server.host: {server.host} can be reached from the network, so access must be on: set auth.enabled = true "
            "and make a key with `openride-analytics keys create`; or say auth.open_to_everybody = true, and whoever "
            "reaches the service may read and change everything"
        )
    if auth.jwt_secret and auth.jwks_url:
        raise ConfigError("auth.jwt_secret: not together with auth.jwks_url")
    if auth.jwt_secret and len(auth.jwt_secret.encode()) < _SHORTEST_SECRET_BYTES:
        raise ConfigError(f"auth.jwt_secret: must have at least {_SHORTEST_SECRET_BYTES} bytes")
    if (auth.jwt_secret or auth.jwks_url) and not (auth.jwt_issuer and auth.jwt_audience):
        raise ConfigError("auth.jwt_issuer, auth.jwt_audience: must be set where tokens are accepted")
    url = urlsplit(auth.jwks_url)
    if auth.jwks_url and url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname)):
        raise ConfigError("auth.jwks_url: must begin with https:// (or http:// on this machine)")
    if server.ops_port == server.port:
        raise ConfigError("server.ops_port: must be another port than server.port")
    for origin in server.cors_origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"server.cors_origins: {origin!r} is not an origin, like https://dashboard.example.com"
            )


_SHORTEST_SECRET_BYTES: Final = 32
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]+)?|https?://\[[0-9a-f:]+\](:[0-9]+)?")


def is_loopback(host: str | None) -> bool:
    """Whether an address is of this machine and for this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False


@cache
def time_zones() -> frozenset[str]:
    """The IANA zones, without the names that mean another zone on each machine."""
    return frozenset(available_timezones() - {"localtime", "posixrules", "Factory"})


def _sentence(error: msgspec.ValidationError) -> str:
    """msgspec's message as `section.key: what is wrong`."""
    message, _, path = str(error).partition(" - at `$")
    path = path.strip(".`")
    unknown = re.search(r"unknown field `(.*)`", message)
    if unknown:
        return f"unknown key {path + '.' if path else ''}{unknown[1]}"
    return f"{path}: {message}"


def without_secrets(config: Config) -> dict[str, Any]:
    """The effective configuration for people to read: passwords replaced."""
    shown: dict[str, Any] = msgspec.to_builtins(config)
    for section in shown.values():
        for key, value in section.items():
            if key in _SECRETS and value:
                section[key] = "***"
            elif key in _URLS and value:
                section[key] = address_of(value)
    return shown


def address_of(url: str) -> str:
    """A server's address without its password and options; of none, none."""
    if not url:
        return ""
    parts = urlsplit(url)
    user = f"{parts.username}:***@" if parts.password else f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"
