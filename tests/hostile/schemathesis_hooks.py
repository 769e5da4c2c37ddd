"""What Schemathesis does not know by itself: how a body of lines is written."""

import schemathesis

schemathesis.serializer.alias("application/x-ndjson", "text/plain")
