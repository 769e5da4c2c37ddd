"""The service as the pods of deploy/kubernetes run it: their configuration, their probes, their end."""

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import httpx

from openride_analytics.ops import probe
from tests.servers.process import HOST, free_port
from tests.servers.redis import RedisServer
from tests.unit.test_kubernetes import CONTAINER, FOLDER, POD

from .running import ServiceProcess

SETTINGS = tomllib.loads((FOLDER / "base" / "config.toml").read_text(encoding="utf-8"))
# Kubelet and Prometheus ask by the pod's address.
AS_A_POD = {"Host": "10.42.0.7:8098"}


def healthcheck(service: ServiceProcess, folder: Path) -> "subprocess.CompletedProcess[str]":
    """The image's own, where `docker run` has the same configuration."""
    return subprocess.run(
        [sys.executable, "-m", probe.__name__, str(service.folder / "config.toml")],
        env={**os.environ, **service.environment, "http_proxy": "http://127.0.0.1:9"},
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_probes_keys_and_the_end_of_a_pod_are_as_the_manifests_say(
    clickhouse_url: str, postgres_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    ops_port = free_port()
    server = {**SETTINGS["server"], "ops_port": ops_port, "drain_seconds": 2.0}
    del server["port"]
    secret = {"CLICKHOUSE_URL": clickhouse_url, "DATABASE_URL": postgres_url, "REDIS_URL": redis_server.url}
    ops = httpx.Client(base_url=f"http://{HOST}:{ops_port}", headers=AS_A_POD, timeout=30, trust_env=False)

    def asked(name: str) -> int:
        return ops.get(CONTAINER[f"{name}Probe"]["httpGet"]["path"]).status_code

    with ops, ServiceProcess({**SETTINGS, "server": server}, environment=secret) as service:
        service.wait_until(lambda: asked("readiness") == 200, "get ready")
        assert (asked("startup"), asked("liveness")) == (200, 200)
        metrics = ops.get(POD["metadata"]["annotations"]["prometheus.io/path"])
        assert "openride_ready 1.0" in metrics.text
        # Nothing of it is at the port that the Service publishes, where each request needs a key.
        assert service.get("/metrics").status_code == 404
        assert service.get("/v1/metrics/definitions").status_code == 401
        healthy = healthcheck(service, tmp_path)
        assert (healthy.returncode, healthy.stderr) == (0, "")

        began = time.monotonic()
        service.signal_stop()
        service.wait_until(lambda: asked("readiness") == 503, "say that it stops")
        assert asked("liveness") == 200
        # Those who have not heard of it yet are still answered.
        assert service.get("/v1/metrics/definitions").status_code == 401
        assert service.wait_for_exit(POD["spec"]["terminationGracePeriodSeconds"]) == 0
        assert time.monotonic() - began >= server["drain_seconds"]
        gone = healthcheck(service, tmp_path)
        assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
