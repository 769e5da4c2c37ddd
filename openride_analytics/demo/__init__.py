"""The made-up platform behind `openride-analytics demo`."""
