"""`python -m openride_analytics`."""

import sys

from openride_analytics.cli import main

sys.exit(main())
