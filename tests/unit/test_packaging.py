"""What is shipped besides the code: pins, wheel, image and the servers started around it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from openride_analytics.ops import probe

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")

# In parts, or this file would be the first to break the rule it holds.
REGISTRY_HOSTS = [
    ".".join(labels)
    for labels in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("repo", "maven", "apache", "org"),
        ("repo1", "maven", "org"),
        ("deb", "debian", "org"),
        ("proxy", "golang", "org"),
        ("crates", "io"),
        ("docker", "io"),
    )
]


def locked() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def declared() -> Iterator[Requirement]:
    ranges = PROJECT["dependencies"] + [
        each for extra in PROJECT["optional-dependencies"].values() for each in extra
    ]
    for text in ranges:
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            yield requirement


def instructions(keyword: str) -> list[str]:
    return [
        line.removeprefix(keyword).strip()
        for line in DOCKERFILE.splitlines()
        if line.startswith(f"{keyword} ")
    ]


def test_every_declared_dependency_is_locked_within_its_range() -> None:
    pins = locked()
    for requirement in declared():
        pin = pins[canonicalize_name(requirement.name)]
        version = str(pin.specifier).removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def test_the_lock_holds_nothing_but_exact_versions() -> None:
    for pin in locked().values():
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), str(pin)
        assert pin.url is None


def test_the_wheel_carries_the_migrations_inside_the_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    migrations = {f"openride_analytics/{path.relative_to(ROOT)}" for path in ROOT.glob("migrations/*/*.sql")}
    assert migrations
    assert migrations <= shipped
    assert "openride_analytics/py.typed" in shipped
    dashboard = {str(path.relative_to(ROOT)) for path in ROOT.glob("openride_analytics/dashboard/*")}
    assert "openride_analytics/dashboard/index.html" in dashboard
    assert dashboard <= shipped
    reports = {
        "report.typ",
        "report.css",
        "fonts/Inter-Regular.ttf",
        "fonts/Inter-SemiBold.ttf",
        "fonts/LICENSE.txt",
    }
    assert {f"openride_analytics/reports/{name}" for name in reports} <= shipped
    assert {name.split("/")[0] for name in shipped} == {
        "openride_analytics",
        f"openride_analytics-{PROJECT['version']}.dist-info",
    }


def test_the_image_runs_as_a_numeric_user_who_is_not_root() -> None:
    user, group = instructions("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_image_checks_its_own_liveness_and_stops_gently() -> None:
    (healthcheck,) = instructions("HEALTHCHECK")
    *_, file = json.loads(instructions("CMD")[0])
    assert json.loads(healthcheck.partition("CMD ")[2]) == ["python", "-m", probe.__name__, file]
    assert instructions("EXPOSE") == ["8097"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("ENTRYPOINT") == ['["openride-analytics"]']
    assert instructions("CMD") == ['["serve", "--config", "/etc/openride/config.toml"]']


def test_everything_the_image_copies_reaches_its_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    for copy in instructions("COPY"):
        *sources, _ = copy.split()
        if not sources[0].startswith("--from="):
            assert set(sources) <= allowed
            assert all((ROOT / source).exists() for source in sources)


def test_the_service_waits_for_servers_that_tell_their_health() -> None:
    services = COMPOSE["services"]
    servers = services.keys() - {"analytics"}
    assert servers == {"kafka", "clickhouse", "postgres", "valkey"}
    assert all(services[server]["healthcheck"]["test"] for server in servers)
    assert services["analytics"]["depends_on"] == {
        server: {"condition": "service_healthy"} for server in servers
    }


def test_the_service_is_given_the_address_of_every_server() -> None:
    environment = COMPOSE["services"]["analytics"]["environment"]
    addresses = {
        "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
        "CLICKHOUSE_URL": "@clickhouse:9000/openride",
        "DATABASE_URL": "@postgres:5432/openride",
        "REDIS_URL": "@valkey:6379/0",
    }
    for variable, address in addresses.items():
        assert environment[variable].endswith(address)


def test_composed_servers_are_pinned_and_open_to_this_machine_only() -> None:
    for service in COMPOSE["services"].values():
        assert re.fullmatch(r"[a-z/-]+:\d+(\.\d+)*", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert COMPOSE["services"]["analytics"]["image"].endswith(f":{PROJECT['version']}")


def test_every_named_volume_is_declared() -> None:
    mounted = {
        volume.split(":")[0]
        for service in COMPOSE["services"].values()
        for volume in service.get("volumes", [])
    }
    assert mounted == set(COMPOSE["volumes"])


def compose_command() -> list[str] | None:
    if shutil.which("docker"):
        plugin = subprocess.run(
            ["docker", "compose", "version"], check=False, capture_output=True, timeout=30
        )
        if plugin.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def test_compose_itself_accepts_the_file() -> None:
    command = compose_command()
    if command is None:
        pytest.skip("no docker compose on this machine")
    config = subprocess.run(
        [*command, "--file", "compose.yaml", "config", "--quiet"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert config.returncode == 0, config.stderr


def test_no_file_names_a_package_registry() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        # A tracked file may have been deleted in the work tree.
        text = path.read_text(encoding="utf-8", errors="ignore") if path.is_file() else ""
        assert not [host for host in REGISTRY_HOSTS if host in text], name
