"""Whether the service of this machine lives, at the port where its configuration puts that: the image's health check.

`python -m openride_analytics.ops.probe config.toml`. A process of its own every few seconds, it imports next to nothing.
"""

import sys
from pathlib import Path
from typing import Final
from urllib.request import ProxyHandler, build_opener

from openride_analytics import config
from openride_analytics.config import Config, ConfigError

_TIMEOUT_SECONDS: Final = 2.0
# Addresses to listen at that nobody can be asked at.
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # compared with, not bound


def live(settings: Config) -> bool:
    """Whether it answers in time that it lives."""
    server = settings.server
    host = _ANY.get(server.host, server.host)
    address = f"[{host}]" if ":" in host else host
    # A proxy meant for the outside must not answer for the service.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(
            f"http://{address}:{server.ops_port or server.port}/health/live", timeout=_TIMEOUT_SECONDS
        ) as answer:
            return bool(answer.status == 200)
    except OSError as error:  # refused, too late, or an answer that says no
        print(f"openride-analytics: {error}", file=sys.stderr)
        return False


def main() -> int:
    """The process: 0 where it lives, else 1."""
    try:
        settings = config.load(Path(sys.argv[1]))
    except ConfigError as error:
        print(f"openride-analytics: {error}", file=sys.stderr)
        return 1
    return 0 if live(settings) else 1


if __name__ == "__main__":
    sys.exit(main())
