"""The commands as an operator runs them: exit codes and what is printed."""

import asyncio
import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import zstandard

from openride_analytics import cli
from openride_analytics.config import WELL_KNOWN
from openride_analytics.migrations import load
from openride_analytics.warehouse.server import ServerWarehouse
from tests.servers.kafka import KafkaServer
from tests.servers.process import HOST, free_port
from tests.servers.redis import RedisServer
from tests.servers.s3 import S3Server
from tests.servers.smtp import SmtpServer
from tests.stores import create_tables

PARTS = ("clickhouse", "postgres", "redis", "kafka")


async def run(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """One command, in a folder of its own, configured by nothing but its arguments and `environment`."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in WELL_KNOWN and not name.startswith("OPENRIDE_")
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "openride_analytics", *arguments],
        cwd=folder,
        env=own | (environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def by_part(printed: str) -> dict[str, str]:
    """The line for each server, which must be the only ones."""
    lines = [line.partition(" ") for line in printed.splitlines()]
    assert tuple(name for name, _, _ in lines) == PARTS, printed
    return {name: said.strip() for name, _, said in lines}


async def test_check_config_says_what_is_embedded_and_makes_nothing(tmp_path: Path) -> None:
    done = await run(tmp_path, "check-config")
    assert done.returncode == 0
    assert json.loads(done.stdout)["server"]["port"] == 8097
    embedded = dict.fromkeys(PARTS, "embedded")
    assert by_part(done.stderr) == embedded | {"kafka": "not configured"}
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_check_config_tries_each_server_and_hides_secrets(
    tmp_path: Path, clickhouse_url: str, postgres_url: str, redis_server: RedisServer, kafka: KafkaServer
) -> None:
    (tmp_path / "config.toml").write_text('[kafka]\nsasl_password = "hush"\n[analytics]\ncurrency = "GHS"\n')
    environment = {
        "CLICKHOUSE_URL": clickhouse_url,
        "DATABASE_URL": postgres_url.replace("postgres@", "postgres:hush@"),
        "REDIS_URL": redis_server.url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.address,
    }
    done = await run(tmp_path, "check-config", environment=environment)
    assert done.returncode == 0, done.stderr
    said = by_part(done.stderr)
    assert ": version " in said["clickhouse"]
    assert ": version " in said["postgres"]
    assert said["redis"].endswith(": answers")
    assert ": answers" in said["kafka"]
    shown = json.loads(done.stdout)
    assert shown["analytics"]["currency"] == "GHS"
    assert shown["kafka"]["sasl_password"] == "***"
    assert "hush" not in done.stdout + done.stderr


async def test_check_config_fails_where_a_server_does_not_answer(tmp_path: Path) -> None:
    nobody = f"{HOST}:{free_port()}"
    environment = {
        "CLICKHOUSE_URL": f"clickhouse://default:hush@{nobody}/openride",
        "DATABASE_URL": f"postgresql://postgres:hush@{nobody}/postgres",
        "REDIS_URL": f"redis://:hush@{nobody}/0",
        "KAFKA_BOOTSTRAP_SERVERS": nobody,
    }
    done = await run(tmp_path, "check-config", environment=environment)
    assert done.returncode == 1
    assert all(f"{nobody}" in said and "no answer" in said for said in by_part(done.stderr).values())
    assert json.loads(done.stdout)["redis"]["url"]  # the configuration and nothing else
    assert "hush" not in done.stdout + done.stderr


async def test_check_config_tries_what_else_is_configured(
    tmp_path: Path, smtp: SmtpServer, s3_server: S3Server, postgres_url: str
) -> None:
    given: dict[str, dict[str, Any]] = {
        "smtp": smtp.config,
        "reports": {
            "s3_bucket": s3_server.bucket,
            "s3_endpoint": s3_server.url,
            "s3_access_key_id": "id",
            "s3_secret_access_key": "hush",
        },
        "auth": {"jwt_issuer": "i", "jwt_audience": "a"},
    }

    async def checked(nobody: str) -> tuple[int, list[str]]:
        with answering(200, {"keys": []}) as (url, _):
            given["auth"]["jwks_url"] = nobody or f"{url}/jwks.json"
            environment = {
                f"OPENRIDE_{section}__{key}".upper(): str(value)
                for section, keys in given.items()
                for key, value in keys.items()
            }
            done = await run(
                tmp_path, "check-config", environment=environment | {"DATABASE_URL": postgres_url}
            )
        assert "hush" not in done.stdout + done.stderr
        return done.returncode, done.stderr.splitlines()[len(PARTS) :]

    code, (mail, bucket, keys) = await checked("")
    assert mail.endswith(": answers")
    assert bucket.endswith(": takes and removes files")
    assert keys.endswith("no answer (ValueError: no key for RS256 or ES256 is there)")
    assert code == 1

    given["smtp"]["port"] = free_port()
    given["reports"]["s3_bucket"] = "elsewhere"
    code, lines = await checked(f"http://{HOST}:{free_port()}/jwks.json")
    assert [("no answer" in line) for line in lines] == [True, True, True], lines
    assert code == 1


async def test_migrate_applies_the_migrations_and_then_has_nothing_to_do(
    tmp_path: Path, clickhouse_url: str, postgres_url: str
) -> None:
    environment = {
        "CLICKHOUSE_URL": clickhouse_url,
        "DATABASE_URL": postgres_url,
        "OPENRIDE_LOG__FORMAT": "json",
    }
    names = sorted(f"{store}/{each.name}" for store in ("clickhouse", "postgres") for each in load(store))
    for expected in (names, []):
        done = await run(tmp_path, "migrate", environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        logged = [json.loads(line) for line in done.stdout.splitlines()]
        assert sorted(line["migration"] for line in logged if line["event"] == "migrated") == expected

    connection = await asyncpg.connect(postgres_url)
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=10, insert_timeout_seconds=10)
    try:
        assert await connection.fetchval("SELECT count(*) FROM job_runs") == 0
        assert await warehouse.query("SELECT count() AS stored FROM events") == [{"stored": 0}]
    finally:
        await warehouse.close()
        await connection.close()


async def test_migrate_fails_where_a_server_does_not_answer(tmp_path: Path) -> None:
    nobody = f"{HOST}:{free_port()}"
    environment = {
        "CLICKHOUSE_URL": f"clickhouse://{nobody}/openride",
        "DATABASE_URL": f"postgresql://postgres:hush@{nobody}/postgres",
    }
    done = await run(tmp_path, "migrate", environment=environment)
    assert done.returncode == 1
    assert "not_migrated" in done.stdout
    assert "hush" not in done.stdout + done.stderr


async def test_ingest_of_a_missing_file_sends_nothing(tmp_path: Path) -> None:
    (tmp_path / "here.ndjson").write_text("{}\n")
    done = await run(
        tmp_path, "ingest", "here.ndjson", "missing.ndjson", "--url", f"http://{HOST}:{free_port()}"
    )
    assert done.returncode == 2
    assert done.stderr == "openride-analytics: missing.ndjson: there is no such file\n"


@contextlib.contextmanager
def answering(status: int, body: dict[str, Any]) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a service that answers all requests alike, and the bodies that it is sent, unpacked."""
    sent: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(gzip.decompress(self.rfile.read(int(self.headers["Content-Length"]))))
            self.do_GET()

        def do_GET(self) -> None:
            said = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}", sent
        server.shutdown()


ACCEPTED = {"accepted": 1, "duplicates_possible": True, "rejected": []}
LINES = [json.dumps({"number": number}).encode() + b"\n" for number in range(5_000)]
PACKED = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("kind", PACKED)
def test_ingest_reads_all_parts_of_a_packed_file(tmp_path: Path, kind: str) -> None:
    """Files that were appended to each other, as logs are, or packed in parallel."""
    parts = LINES[:2_000], LINES[2_000:2_001], LINES[2_001:]
    (tmp_path / f"all.{kind}").write_bytes(b"".join(PACKED[kind](b"".join(part)) for part in parts))
    with answering(202, ACCEPTED) as (url, sent):
        assert cli.main(["ingest", str(tmp_path / f"all.{kind}"), "--url", url]) == 0
    assert b"".join(sent) == b"".join(LINES)


def test_ingest_reads_standard_input_and_its_bar_follows(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = b"".join(LINES)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(whole))))
    with answering(202, ACCEPTED) as (url, sent):
        assert cli.main(["ingest", "-", "--url", url]) == 0
    assert b"".join(sent) == whole
    assert f"{len(whole) / 1_000:.1f}/? kB" in capfd.readouterr().err


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize(
    "broken", [lambda whole: whole[:-9], lambda _: b"not packed"], ids=["cut off", "something else"]
)
def test_ingest_of_a_file_that_is_cut_off_or_something_else_says_so_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, broken: Callable[[bytes], bytes]
) -> None:
    (tmp_path / f"a.{kind}").write_bytes(broken(PACKED[kind](b"".join(LINES))))
    with answering(202, ACCEPTED) as (url, _):
        assert cli.main(["ingest", str(tmp_path / f"a.{kind}"), "--url", url]) == 1
    printed = "".join(capfd.readouterr().err.split())  # lines end anywhere: the folder's name may be long
    assert f"a.{kind}:cannotbereadbeyondline" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("arguments", "scope"),
    [(["ingest", "one.ndjson"], "ingest"), (["report"], "read")],
    ids=["ingest", "report"],
)
@pytest.mark.parametrize(
    ("status", "said"), [(401, "wants a key with the scope"), (403, "does not have the scope")]
)
def test_a_key_that_is_missing_or_may_not_do_that_is_told_with_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    scope: str,
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.ndjson").write_bytes(LINES[0])
    with answering(status, {}) as (url, _):
        assert cli.main([*arguments, "--url", url]) == 1
    printed = " ".join(capfd.readouterr().err.split())
    assert f"{said} `{scope}`" in printed
    assert "OPENRIDE_KEY" in printed
    assert url in printed


def test_ingest_wants_a_whole_address(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.ndjson").write_bytes(LINES[0])
    assert cli.main(["ingest", str(tmp_path / "one.ndjson"), "--url", "127.0.0.1:8097"]) == 2
    assert (
        capfd.readouterr().err
        == "openride-analytics: --url: 127.0.0.1:8097: must begin with http:// or https://\n"
    )


async def test_ingest_to_kafka_needs_an_address(tmp_path: Path) -> None:
    (tmp_path / "here.ndjson").write_text("{}\n")
    done = await run(tmp_path, "ingest", "here.ndjson", "--kafka")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "kafka.bootstrap_servers" in line


@pytest.mark.parametrize(
    "user",
    [
        "",
        "ada",
        "d0000000000040008000000000000001",
        "{d0000000-0000-4000-8000-000000000001}",
        "d0000000-0000-4000-8000-00000000000g",
        "00000000-0000-0000-0000-000000000000",
    ],
)
def test_erase_takes_nothing_but_a_users_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], user: str
) -> None:
    """The nil UUID stands for nobody in all events: erasing it would erase almost everything."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["erase", "--user", user]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"openride-analytics: --user: {user!r} is not a user's id")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", [["rebuild"], ["erase", "--user", "d0000000-0000-4000-8000-000000000001"]]
)
async def test_stores_without_tables_are_not_changed(
    tmp_path: Path, clickhouse_url: str, command: list[str]
) -> None:
    done = await run(tmp_path, *command, environment={"CLICKHOUSE_URL": clickhouse_url})
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "the tables are not there" in line


@pytest.mark.parametrize(
    "command", [["rebuild"], ["erase", "--user", "d0000000-0000-4000-8000-000000000001"]]
)
async def test_a_store_that_does_not_answer_is_one_line(tmp_path: Path, command: list[str]) -> None:
    nobody = f"clickhouse://default:hush@{HOST}:{free_port()}/openride"
    done = await run(tmp_path, *command, environment={"CLICKHOUSE_URL": nobody})
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "to be run again" in line
    assert "hush" not in line


@pytest.mark.parametrize("command", ["serve", "migrate", "check-config", "rebuild"])
async def test_a_mistake_in_the_configuration_stops_each_command_with_one_line(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "other.toml").write_text("[server]\nprot = 1\n")
    done = await run(tmp_path, command, "--config", "other.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "openride-analytics: other.toml: unknown key server.prot\n"


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["ingest"], ["erase"], ["serve", "--prot", "1"], ["demo", "--port", "x"]]
)
async def test_wrong_usage_is_told_how_it_is_used(tmp_path: Path, arguments: list[str]) -> None:
    done = await run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: openride-analytics")


async def test_the_version_is_told(tmp_path: Path) -> None:
    done = await run(tmp_path, "--version")
    assert done.returncode == 0
    assert done.stdout.strip().count(".") == 2


async def test_report_makes_a_file_from_the_stores(tmp_path: Path, clickhouse_url: str) -> None:
    warehouse = ServerWarehouse(clickhouse_url, query_timeout_seconds=30, insert_timeout_seconds=30)
    await create_tables(warehouse)
    await warehouse.close()
    (tmp_path / "own.toml").write_text(f'[clickhouse]\nurl = "{clickhouse_url}"\n')
    arguments = ("report", "metrics.bookings", "--config", "own.toml", "--start-date", "2026-03-01")
    done = await run(tmp_path, *arguments, "--end-date", "2026-03-07", "--name", "Figures")
    assert (done.returncode, done.stdout.strip()) == (0, "figures_2026-03-01_2026-03-07.pdf"), done.stderr
    assert (tmp_path / done.stdout.strip()).read_bytes().startswith(b"%PDF")
    assert sorted(await asyncio.to_thread(os.listdir, tmp_path)) == [done.stdout.strip(), "own.toml"]


async def test_report_from_stores_without_tables_says_so(tmp_path: Path, clickhouse_url: str) -> None:
    (tmp_path / "own.toml").write_text(f'[clickhouse]\nurl = "{clickhouse_url}"\n')
    done = await run(tmp_path, "report", "--config", "own.toml")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "the tables are not there" in line


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nothing",), 2, "contents: There is no 'nothing'"),
        (("metrics.users", "--filter", "currency=NGN"), 2, "filters: metrics.users has no filter currency"),
        (("--filter", "colour=red"), 2, "--filter: there is no filter 'colour'"),
        (("--start-date", "yesterday"), 2, "--start-date: Give a day"),
        (("--format", "excel"), 2, "--config"),
        (("--url", f"http://{HOST}:1"), 1, f"no report: http://{HOST}:1: ConnectError"),
    ],
)
def test_report_says_what_is_wrong_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *arguments]) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert not list(tmp_path.iterdir())
