"""The questions of analytics: a module each, with its definition, its SQL and its answer."""
