"""Looks the packages of requirements.lock up among the known vulnerabilities (`make audit`).

Ends with 0 where there are none, with 1 where there are some or a package could not be looked up, and with 3 where nobody
answered: many build machines see a mirror of the package index only, and nothing was found out. `--unless-unreachable`
makes that a 0.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

LOCK = Path(__file__).parents[1] / "requirements.lock"
FOUND, UNREACHABLE = 1, 3


def main() -> int:
    """Runs pip-audit and prints what it means."""
    lock = ["--requirement", str(LOCK), "--no-deps", "--disable-pip"]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *lock, "--format", "json", "--progress-spinner", "off"],
        capture_output=True,
        check=False,
    )
    code, text = judged(done.stdout)
    print(text)
    if not done.stdout:
        print(f"pip-audit said: {(done.stderr.decode().strip().splitlines() or ['nothing'])[-1][:500]}")
    return 0 if code == UNREACHABLE and "--unless-unreachable" in sys.argv else code


def judged(report: bytes) -> tuple[int, str]:
    """The exit code for a report of pip-audit's, and its meaning in words."""
    try:
        packages: list[dict[str, Any]] = msgspec.json.decode(report)["dependencies"]
    except msgspec.DecodeError:
        packages = []
    known = [package for package in packages if "vulns" in package]
    unknown = [package["name"] for package in packages if "vulns" not in package]
    if not known:
        return UNREACHABLE, f"NOT AUDITED: from here nothing is known of any of {len(packages)} packages."
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'nothing'}"
        for package in known
        for found in package["vulns"]
    ]
    if unknown:
        lines.append(f"could not be looked up: {', '.join(unknown)}")
    return (FOUND, "\n".join(lines)) if lines else (0, f"{len(known)} packages, no known vulnerabilities.")


if __name__ == "__main__":
    sys.exit(main())
