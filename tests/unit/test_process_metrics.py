"""What the metrics are called, and that none of them grows with what is sent."""

import asyncio
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric

from openride_analytics.ops.metrics import Metrics
from tests.servers.promtool import promtool

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TABLE_ROW = re.compile(r"^\| `(openride_\w+)` \| (.*?) \|", re.MULTILINE)
UNITS = ("_seconds", "_events", "_info", "_max", "_connections", "_waiters", "_running", "_ok", "_ready")
# Prometheus' own rules: base units, written out, and nothing that the type or the samples say.
ABBREVIATED = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "pct"}
NOT_BASE = {
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "minutes",
    "hours",
    "kilobytes",
    "megabytes",
    "percent",
}
RESERVED = {
    "le",
    "quantile",
    "job",
    "instance",
}  # the last two are what Prometheus itself calls who is scraped
METRICS = Metrics()
TYPES = {"gauge", "counter", "histogram", "summary", "metric"}


def families() -> list[Metric]:
    """Ours, as they are collected."""
    return [family for family in METRICS.registry.collect() if family.name.startswith("openride_")]


def labels_of(family: Metric) -> set[str]:
    """Its labels, which it has no samples to tell by yet."""
    collector: Any = METRICS.registry._names_to_collectors[exposed(family)]
    return set(collector._labelnames)


def exposed(family: Metric) -> str:
    """The name that people write in queries."""
    return f"{family.name}_total" if family.type == "counter" else family.name


@pytest.mark.parametrize("family", families(), ids=exposed)
def test_a_metric_is_named_by_prometheus_conventions(family: Metric) -> None:
    name = exposed(family)
    words = set(name.split("_"))
    assert re.fullmatch(r"openride(_[a-z]+)+", name)
    assert family.documentation.strip().endswith("."), "help is a sentence"
    assert (family.type == "counter") is name.endswith("_total")
    assert not name.endswith(("_bucket", "_count", "_sum", "_created"))
    assert not words & (ABBREVIATED | NOT_BASE | TYPES)
    assert not labels_of(family) & RESERVED
    if family.type == "histogram":
        assert name.endswith(("_seconds", "_events"))
    if family.type == "gauge":
        assert name.endswith(UNITS)


def test_the_readme_lists_each_metric_with_its_labels() -> None:
    known = {exposed(family): labels_of(family) for family in families()}
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in TABLE_ROW.findall(README)}
    assert told == known


def test_promtool_finds_nothing_to_complain_about() -> None:
    text, _ = Metrics().exposition("")
    checked = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, check=False)
    assert checked.returncode in {0, 3}  # 3: it has complaints, of others' metrics perhaps
    ours = [line for line in (checked.stdout + checked.stderr).decode().splitlines() if "openride_" in line]
    assert ours == []


async def test_a_loop_that_is_held_up_shows_in_its_lag() -> None:
    metrics = Metrics()
    watching = asyncio.create_task(metrics.watch_event_loop())
    await asyncio.sleep(0.01)
    time.sleep(0.4)  # noqa: ASYNC251  # that is the fault
    async with asyncio.timeout(30):
        while not metrics.registry.get_sample_value("openride_event_loop_lag_seconds_count"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    watching.cancel()
    assert (metrics.registry.get_sample_value("openride_event_loop_lag_seconds_sum") or 0) > 0.2
