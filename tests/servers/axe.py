"""axe-core, which checks pages for accessibility: from npm, kept in the cache of the tests."""

import shutil
import tarfile
from pathlib import Path

from tests.servers.downloads import cached, run_client
from tests.servers.process import ServerUnavailableError

VERSION = "4.14.1"


def axe_script() -> str:
    """The script that gives a page `axe`."""
    return (cached(f"axe-core-{VERSION}", _unpack) / "axe.min.js").read_text(encoding="utf-8")


def _unpack(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ServerUnavailableError("there is no npm on the PATH to fetch axe-core with")
    run_client([npm, "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", folder])
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as package:
        script = package.getmember("package/axe.min.js")
        script.name = "axe.min.js"
        package.extract(script, folder, filter="data")
    packed.unlink()
