"""Prints the pins of requirements.lock that the service needs to run, its embedded stores included: no tools (`make sbom`).

What needs what is read from the installed packages, so nobody has to be asked.
"""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def needed(requirement: Requirement, found: set[str]) -> None:
    """Adds the name of a package, and of all that it needs with these extras."""
    name = canonicalize_name(requirement.name)
    found.add(name)
    try:
        further = map(Requirement, requires(name) or [])
    except PackageNotFoundError:  # of another platform
        return
    for each in further:
        asked = [{"extra": extra} for extra in ("", *requirement.extras)]
        if each.marker is not None and not any(each.marker.evaluate(extra) for extra in asked):
            continue
        if canonicalize_name(each.name) not in found or each.extras:
            needed(each, found)


def pins() -> list[str]:
    """The lines of the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: set[str] = set()
    for text in (*project["dependencies"], *project["optional-dependencies"]["embedded"]):
        needed(Requirement(text), found)
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if line and line[0] not in "# "
    ]
    return [line for line in lines if canonicalize_name(Requirement(line).name) in found]


if __name__ == "__main__":
    sys.stdout.write("\n".join(pins()) + "\n")
