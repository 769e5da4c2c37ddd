"""Prometheus's own checker of rules and metrics: from the PATH, or out of the distribution's package."""

import shutil
from pathlib import Path

from tests.servers.downloads import cached, run_client
from tests.servers.process import ServerUnavailableError, do_without


def promtool() -> Path:
    """The one of this machine, else Debian's package, unpacked into the cache of the tests."""
    if there := shutil.which("promtool"):
        return Path(there)

    def fetch(folder: Path) -> None:
        for program in ("apt-get", "dpkg-deb", "sh"):
            if shutil.which(program) is None:
                raise ServerUnavailableError(f"there is no {program} on the PATH")
        run_client(["sh", "-c", 'cd "$0" && apt-get -q download prometheus', folder])
        (package,) = folder.glob("*.deb")
        run_client(["dpkg-deb", "--extract", package, folder])
        package.unlink()

    try:
        return cached("promtool", fetch) / "usr" / "bin" / "promtool"
    except ServerUnavailableError as reason:
        do_without("promtool", reason)
