"""Access as an operator sets it up: keys by command, a port for probes, and secrets that show nowhere."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import jwt

from tests.component.test_commands import run
from tests.samples import minimal
from tests.servers.process import HOST, free_port

from .running import Sections, ServiceProcess

SECRET = "canary-jwt-secret-of-more-than-32-bytes"
DEFINITIONS = "/v1/metrics/definitions"


async def test_keys_are_made_listed_and_revoked_by_command_beside_a_running_service() -> None:
    """Also beside embedded stores: their PostgreSQL is shared."""
    ops_port = free_port()
    with ServiceProcess({"auth": {"enabled": True}, "server": {"ops_port": ops_port}}) as service:
        with httpx.Client(base_url=f"http://{HOST}:{ops_port}", timeout=30, trust_env=False) as ops:
            service.wait_until(lambda: ops.get("/health/ready").is_success, "get ready")
            at_ops = [
                (await asyncio.to_thread(ops.get, path)).status_code for path in ("/metrics", DEFINITIONS)
            ]
            assert at_ops == [200, 404]
        for path in ("/health", "/health/live", "/metrics"):
            assert service.get(path).status_code == 404

        assert service.get(DEFINITIONS).status_code == 401
        key = service.made_key("read")
        service.use_key(key)
        assert service.get(DEFINITIONS).status_code == 200
        key_id = key.split("_")[1]
        listed = await run(service.folder, "keys", "--config", "config.toml", "list")
        assert (listed.returncode, key_id in listed.stdout) == (0, True), listed.stderr
        assert key.rpartition("_")[2] not in listed.stdout
        await _sends_with_its_key_only(service)
        revoked = await run(service.folder, "keys", "--config", "config.toml", "revoke", key_id)
        assert revoked.returncode == 0
        service.wait_until(lambda: service.get(DEFINITIONS).status_code == 401, "refuse the key")
        unknown = await run(service.folder, "keys", "--config", "config.toml", "revoke", "nobody")
        assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
        assert service.terminate() == 0


async def _sends_with_its_key_only(service: ServiceProcess) -> None:
    """`ingest` takes its key from the environment, and says so where it has none."""
    (service.folder / "events.ndjson").write_text(json.dumps(minimal("user.registered")) + "\n")
    command = ("ingest", "events.ndjson", "--url", service.url)
    without = await run(service.folder, *command)
    assert (without.returncode, "OPENRIDE_KEY" in without.stderr) == (1, True), without.stderr
    key = service.made_key("ingest")
    done = await run(service.folder, *command, environment={"OPENRIDE_KEY": key})
    assert (done.returncode, "1 accepted" in done.stderr) == (0, True), done.stderr
    assert key not in done.stderr + done.stdout


async def test_the_network_is_not_served_without_access() -> None:
    process = ServiceProcess({"server": {"host": "0.0.0.0"}})
    try:
        code, said = process.run_to_its_end()
    finally:
        process.close()
    assert code == 2
    assert said.count("\n") == 1
    assert "auth.enabled" in said


async def test_when_a_key_was_last_used_is_known_after_a_stop(clickhouse_url: str, postgres_url: str) -> None:
    config: Sections = {
        "auth": {"enabled": True},
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url},
    }
    with ServiceProcess(config) as service:
        service.wait_until_ready()
        service.use_key(service.made_key("read"))
        assert service.get(DEFINITIONS).status_code == 200
        asked_at = datetime.now(UTC)
        assert service.terminate() == 0
    postgres = await asyncpg.connect(postgres_url)
    try:
        last_used_at = await postgres.fetchval("SELECT last_used_at FROM api_keys")
    finally:
        await postgres.close()
    assert asked_at - timedelta(seconds=30) < last_used_at <= asked_at


async def test_secrets_show_nowhere(clickhouse_url: str, postgres_url: str) -> None:
    nobody = f"{HOST}:{free_port()}"
    config: Sections = {
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url.replace("postgres@", "postgres:canary-postgres@")},
        "redis": {"url": f"redis://canary-user:canary-redis@{nobody}/0"},
        "kafka": {
            "bootstrap_servers": nobody,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_username": "openride",
            "sasl_password": "canary-kafka",
        },
        "auth": {"enabled": True, "jwt_secret": SECRET, "jwt_issuer": "i", "jwt_audience": "a"},
        "log": {"level": "debug", "format": "json"},
    }
    with ServiceProcess(config) as service:
        service.wait_until_ready()
        key = service.made_key("admin")
        claims = {"iss": "i", "aud": "a", "sub": "ada", "exp": int(time.time()) + 600, "scope": "read"}
        token = jwt.encode(claims, SECRET, "HS256")
        secrets = [SECRET, key.rpartition("_")[2], token, token.rpartition(".")[2]]
        said = []
        for credentials in (key, token, key[:-1], token[:-1]):
            service.use_key(credentials)
            for path in (DEFINITIONS, "/v1/keys", "/v1/audit", "/v1/metrics/users", "/v1/nothing", "/health"):
                answer = service.get(path)
                said += [answer.text, str(answer.headers)]
        service.use_key(key)
        made = service._http.post("/v1/keys", json={"name": "a", "scopes": ["read"]})
        secrets.append(made.json()["key"].rpartition("_")[2])
        said += [service.get(path).text for path in ("/v1/keys", "/v1/audit", "/metrics")]
        checked = await run(service.folder, "check-config", "--config", "config.toml")
        shown, _ = json.JSONDecoder().raw_decode(checked.stdout)  # what follows says that Redis is away
        assert shown["auth"]["jwt_secret"] == "***"
        said += [checked.stdout, checked.stderr]
        assert service.terminate() == 0
        said.append(service.logged())
    for text in said:
        assert "canary-user" not in text or "canary-redis" not in text
        for secret in (*secrets, "canary-postgres", "canary-redis", "canary-kafka", "canary-jwt"):
            assert secret not in text
