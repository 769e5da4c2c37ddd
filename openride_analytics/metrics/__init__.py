"""One module a metrics endpoint: its definition, its SQL and its answer."""
