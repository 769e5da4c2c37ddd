"""Runs the command line with reports that are made in no time, and with short pauses."""

import sys

from openride_analytics.cli import main
from openride_analytics.reports import content, runner
from tests.reporting import Making

HOLD_SECONDS = 4.0

if __name__ == "__main__":
    content.make = Making()  # type: ignore[assignment]  # but for a parameter's name it is the same
    runner.HOLD_SECONDS = HOLD_SECONDS  # type: ignore[misc]
    runner.FIRST_PAUSE_SECONDS = 1.0  # type: ignore[misc]
    sys.exit(main())
