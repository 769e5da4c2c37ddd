"""Settings: where they come from, which wins, and what an operator is told who has mistaken one."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openride_analytics.config import Config, ConfigError, address_of, load, without_secrets

REPOSITORY = Path(__file__).parents[2]
TOPICS = Config().kafka.topics


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file, not written yet."""
    return tmp_path / "config.toml"


def complaint(file: Path | None, environment: dict[str, str]) -> str:
    """The one line that an operator is told."""
    with pytest.raises(ConfigError) as told:
        load(file, environment)
    message = str(told.value)
    assert "\n" not in message
    return message


def test_without_file_and_environment_everything_has_its_default() -> None:
    assert load(None, {}) == Config()


def test_an_empty_file_changes_nothing(file: Path) -> None:
    file.write_text("")
    assert load(file, {}) == Config()


def test_a_file_sets_what_it_names_and_nothing_else(file: Path) -> None:
    file.write_text(
        '[server]\nport = 8080\n[kafka]\ntopics = ["one", "two"]\n[analytics]\ntimezone = "Europe/Paris"'
    )
    config = load(file, {})
    assert (config.server.port, config.server.host) == (8080, "127.0.0.1")
    assert config.kafka.topics == ("one", "two")
    assert config.analytics.timezone == "Europe/Paris"


def test_the_environment_wins_over_the_file(file: Path) -> None:
    file.write_text("[server]\nport = 8080\n[cache]\nfresh_seconds = 5")
    config = load(file, {"OPENRIDE_SERVER__PORT": "9090"})
    assert config.server.port == 9090
    assert config.cache.fresh_seconds == 5


@pytest.mark.parametrize(
    ("name", "text", "section", "key", "value"),
    [
        ("OPENRIDE_SERVER__PORT", "1", "server", "port", 1),
        ("OPENRIDE_INGEST__MAX_DELAY_SECONDS", "0.75", "ingest", "max_delay_seconds", 0.75),
        ("OPENRIDE_STORAGE__MIGRATE_AT_START", "false", "storage", "migrate_at_start", False),
        ("OPENRIDE_LOG__LEVEL", "debug", "log", "level", "debug"),
        ("OPENRIDE_KAFKA__TOPICS", "one, two,", "kafka", "topics", ("one", "two")),
        ("OPENRIDE_SERVER__CORS_ORIGINS", "", "server", "cors_origins", ()),
        ("OPENRIDE_KAFKA__SASL_PASSWORD", "1234", "kafka", "sasl_password", "1234"),
        ("DATABASE_URL", "postgresql://db/openride", "postgres", "url", "postgresql://db/openride"),
        ("CLICKHOUSE_URL", "clickhouse://ch/openride", "clickhouse", "url", "clickhouse://ch/openride"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:9092,b:9092", "kafka", "bootstrap_servers", "a:9092,b:9092"),
        ("REDIS_URL", "redis://cache:6379/0", "redis", "url", "redis://cache:6379/0"),
        ("CONSUMER_GROUP_ID", "analytics-2", "kafka", "group_id", "analytics-2"),
    ],
)
def test_each_name_of_the_environment_sets_its_key(
    name: str, text: str, section: str, key: str, value: object
) -> None:
    assert getattr(getattr(load(None, {name: text}), section), key) == value


def test_our_own_names_win_over_the_well_known_ones() -> None:
    environment = {"OPENRIDE_REDIS__URL": "redis://ours/0", "REDIS_URL": "redis://theirs/0"}
    for order in (environment, dict(reversed(environment.items()))):
        assert load(None, order).redis.url == "redis://ours/0"


def test_an_empty_well_known_name_is_none() -> None:
    assert load(None, {"DATABASE_URL": ""}).postgres.url == ""


def test_other_names_of_the_environment_are_not_ours() -> None:
    assert (
        load(None, {"PATH": "/bin", "OPENRIDE_TEST_REDIS": "redis://other", "SERVER__PORT": "1"}) == Config()
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[server]\nprot = 1", ["unknown key server.prot"]),
        ("[sevrer]\nport = 1", ["unknown key sevrer"]),
        ("port = 1", ["unknown key port"]),
        ('[server]\nport = "8080"', ["server.port", "int"]),
        ("[server]\nport = 70000", ["server.port", "65535"]),
        ("[server]\ndrain_seconds = -1", ["server.drain_seconds", "0"]),
        ("server = 1", ["server"]),
        ("[kafka]\ntopics = [1]", ["kafka.topics", "str"]),
        ('[log]\nlevel = "loud"', ["log.level", "loud"]),
        ('[analytics]\ncurrency = "naira"', ["analytics.currency"]),
        ('[analytics]\ntimezone = "Mars/Olympus"', ["analytics.timezone", "Mars/Olympus"]),
        ('[clickhouse]\nurl = "http://ch:8123"', ["clickhouse.url", "clickhouse://"]),
        ('[postgres]\nurl = "db:5432"', ["postgres.url", "postgresql://"]),
        ('[redis]\nurl = "http://cache"', ["redis.url", "redis://"]),
        ("[retention]\nhot_days = 100\ncold_days = 50", ["retention.hot_days", "cold_days"]),
        ('[kafka.dialects.a]\nnames.user_id = ["a+b+c"]', ["kafka.dialects"]),
        ('[smtp]\nhost = "mail.test"', ["smtp.sender", "smtp.host"]),
        (
            '[kafka]\nbootstrap_servers = "k:9092"\nsasl_username = "openride"',
            ["kafka.sasl_username", "security_protocol"],
        ),
        (
            '[kafka]\nbootstrap_servers = "k:9092"\nsecurity_protocol = "SASL_SSL"',
            ["kafka.sasl_username", "security_protocol"],
        ),
        ('[reports]\npublic_url = "example.com"', ["reports.public_url", "https://"]),
        ("[server\nport = 1", ["not valid TOML", "line 1"]),
        ('[server]\nhost = "0.0.0.0"', ["server.host", "auth.enabled", "auth.open_to_everybody"]),
        ('[server]\nhost = "::"', ["server.host", "network"]),
        ('[server]\nhost = "analytics.example.com"', ["server.host", "network"]),
        ('[server]\ncors_origins = ["example.com"]', ["server.cors_origins", "example.com"]),
        ('[server]\ncors_origins = ["https://*.example.com"]', ["server.cors_origins"]),
        ("[server]\nops_port = 8097", ["server.ops_port"]),
        ('[auth]\njwt_secret = "short"', ["auth.jwt_secret", "32"]),
        (f'[auth]\njwt_secret = "{"s" * 32}"', ["auth.jwt_issuer", "auth.jwt_audience"]),
        (f'[auth]\njwt_secret = "{"s" * 32}"\njwks_url = "https://id/"', ["not together"]),
        (
            '[auth]\njwks_url = "http://id/"\njwt_issuer = "i"\njwt_audience = "a"',
            ["auth.jwks_url", "https://"],
        ),
    ],
)
def test_a_mistake_in_the_file_is_told_in_one_line(file: Path, text: str, parts: list[str]) -> None:
    file.write_text(text)
    message = complaint(file, {})
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("said", ["enabled", "open_to_everybody"])
def test_the_network_is_served_with_access_or_when_told_to_in_so_many_words(said: str) -> None:
    environment = {"OPENRIDE_SERVER__HOST": "0.0.0.0", f"OPENRIDE_AUTH__{said.upper()}": "true"}
    assert load(None, environment).server.host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_is_served_without_access(host: str) -> None:
    assert not load(None, {"OPENRIDE_SERVER__HOST": host}).auth.enabled


def test_a_file_that_cannot_be_read_is_told(file: Path) -> None:
    assert str(file) in complaint(file, {})
    file.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in complaint(file, {})


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("OPENRIDE_SERVER__PROT", "1", "'prot' in section 'server'"),
        ("OPENRIDE_SEVRER__PORT", "1", "'port' in section 'sevrer'"),
        ("OPENRIDE_SERVER__PORT", "eighty", "int"),
        ("OPENRIDE_SERVER__PORT", "0", ">= 1"),
        ("OPENRIDE_STORAGE__MIGRATE_AT_START", "maybe", "bool"),
        ("OPENRIDE_LOG__FORMAT", "xml", "xml"),
    ],
)
def test_a_mistake_in_the_environment_is_told_by_its_name(name: str, text: str, part: str) -> None:
    message = complaint(None, {name: text})
    assert name in message
    assert part in message


def test_passwords_are_hidden_and_addresses_are_not() -> None:
    config = load(
        None,
        {
            "DATABASE_URL": "postgresql://rider:hush@db:5432/openride?sslpassword=hush",
            "CLICKHOUSE_URL": "clickhouses://default:hu%73h@ch/openride",
            "REDIS_URL": "redis://:hush@cache:6379/0",
            "OPENRIDE_KAFKA__SASL_PASSWORD": "hush",
            "OPENRIDE_KAFKA__SASL_USERNAME": "ride",
        },
    )
    shown = without_secrets(config)
    text = json.dumps(shown)
    assert "hush" not in text
    assert "hu%73h" not in text
    assert shown["postgres"]["url"] == "postgresql://rider:***@db:5432/openride"
    assert shown["redis"]["url"] == "redis://:***@cache:6379/0"
    assert shown["kafka"]["sasl_username"] == "ride"


def test_every_setting_that_could_hold_a_secret_is_hidden() -> None:
    sections: dict[str, dict[str, Any]] = msgspec.to_builtins(Config())
    named = [
        key for keys in sections.values() for key in keys if re.search("password|secret|token|_key$", key)
    ]
    filled = {
        section: {
            key: "hush"
            if key in named
            else "redis://:hush@host/0"
            if key == "url" and section == "redis"
            else value
            for key, value in keys.items()
        }
        for section, keys in sections.items()
    }
    shown = without_secrets(msgspec.convert(filled, Config))
    assert "hush" not in json.dumps(shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://:hush@cache/0", "redis://:***@cache/0"),
        ("postgresql://rider@db/openride", "postgresql://rider@db/openride"),
        ("unix:///run/redis.sock?password=hush", "unix:///run/redis.sock"),
    ],
)
def test_an_address_is_shown_without_its_password_and_options(url: str, shown: str) -> None:
    assert address_of(url) == shown


def test_the_repositorys_file_changes_nothing() -> None:
    assert load(REPOSITORY / "config.toml", {}) == Config()


def test_the_repositorys_file_lists_every_setting_with_its_default() -> None:
    text = (REPOSITORY / "config.toml").read_text(encoding="utf-8")
    head, separator, settings = text.partition("[server]")
    assert head.strip().startswith("#")
    listed = tomllib.loads(separator + re.sub(r"^# ?", "", settings, flags=re.MULTILINE))
    assert listed == msgspec.json.decode(msgspec.json.encode(Config()))


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "http://127.0.0.1:4318", "grpc://127.0.0.1/v1/traces"]
)
def test_a_collector_of_traces_needs_its_whole_address(endpoint: str) -> None:
    assert complaint(None, {"OPENRIDE_TRACING__ENDPOINT": endpoint}).startswith("tracing.endpoint: ")


def test_the_address_of_a_collector_of_traces_is_shown_without_its_password() -> None:
    config = load(None, {"OPENRIDE_TRACING__ENDPOINT": "http://me:hunter2@127.0.0.1:4318/v1/traces"})
    assert "hunter2" not in json.dumps(without_secrets(config))
