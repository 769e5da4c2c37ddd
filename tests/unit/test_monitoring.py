"""Prometheus' rules and Grafana's dashboard: they speak of metrics that there are, and each alert is explained and tried."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, VectorSelector

from openride_analytics.ops.metrics import Metrics
from tests.servers.promtool import promtool

FOLDER = Path(__file__).resolve().parents[2] / "deploy"
RULES_FILE = FOLDER / "prometheus" / "rules.yaml"
TESTS_FILE = FOLDER / "prometheus" / "rules_test.yaml"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
RULES = [
    rule
    for group in yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
TESTS = yaml.safe_load(TESTS_FILE.read_text(encoding="utf-8"))["tests"]
DASHBOARD: dict[str, Any] = json.loads(
    (FOLDER / "grafana" / "openride-analytics.json").read_text(encoding="utf-8")
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What Prometheus adds to each series.
OF_THE_TARGET = {"namespace", "job", "instance"}


def known_metrics() -> dict[str, set[str]]:
    """Each series of the service, and its labels."""
    registry = Metrics().registry
    # Those of the process have no labels, and are known only when they are looked at.
    known = {
        sample.name: set(sample.labels)
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith("process_")
    }
    for collector, names in registry._collector_to_names.items():
        labels = set(getattr(collector, "_labelnames", ()))
        assert not labels & OF_THE_TARGET, f"Prometheus would rename a label of {names}"
        known |= {name: labels | ({"le"} if name.endswith("_bucket") else set()) for name in names}
    return known | {rule["record"]: {"namespace"} for rule in RULES if "record" in rule}


METRICS = known_metrics()


def parsed(text: str) -> Any:
    """An expression of Prometheus', or of Grafana's with something in the place of its variables."""
    return promql_parser.parse(re.sub(r"\$\w+", "5m", text))


def parts(expression: Any) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(expression, found.append)
    return found


def series_in(expression: Any) -> Iterator[VectorSelector]:
    for part in parts(expression):
        if isinstance(part, VectorSelector):
            yield part
        elif hasattr(part, "vector_selector"):
            yield part.vector_selector


def assert_known(text: str) -> None:
    """All series of an expression, the labels they are chosen by, and those they are grouped by, exist."""
    expression = parsed(text)
    assert list(series_in(expression)), text
    for series in series_in(expression):
        assert series.name in METRICS, f"{series.name} in {text}"
        chosen = {matcher.name for matcher in series.matchers.matchers} - {"__name__"}
        assert chosen <= METRICS[series.name] | OF_THE_TARGET, f"{chosen} of {series.name}"
    for part in parts(expression):
        if isinstance(part, AggregateExpr) and part.modifier is not None:
            inside = {label for series in series_in(part.expr) for label in METRICS[str(series.name)]}
            assert set(part.modifier.labels) <= inside | OF_THE_TARGET, f"{part.modifier.labels} in {text}"


def anchor(heading: str) -> str:
    """The name that a page of Markdown gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


ANCHORS = [anchor(heading) for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("alert", rule.get("record"))))
def test_a_rule_is_of_metrics_that_the_service_has(rule: dict[str, Any]) -> None:
    assert_known(rule["expr"])


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(openride_events_total)",
        'openride_part_ok{port="kafka"}',
        "sum by (topics) (openride_consumer_lag_events)",
        'rate(openride_consumed{x="y"}[5m])',
    ],
)
def test_an_expression_of_what_is_not_there_is_noticed(wrong: str) -> None:
    with pytest.raises(AssertionError):
        assert_known(wrong)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    file, _, section = alert["annotations"]["runbook_url"].partition("#")
    assert file == "deploy/README.md"
    assert ANCHORS.count(section) == 1, f"no section #{section}"
    named = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    inside = {label for series in series_in(parsed(alert["expr"])) for label in METRICS[str(series.name)]}
    assert named <= inside | OF_THE_TARGET


def test_no_section_is_left_of_an_alert_that_is_gone() -> None:
    sections = {each["annotations"]["runbook_url"].partition("#")[2] for each in ALERTS}
    assert {each for each in ANCHORS if each.startswith("openrideanalytics")} == sections


def test_each_rule_is_tried() -> None:
    """promtool says whether these tests pass; here, that none is missing."""
    fired = {
        case["alertname"] for test in TESTS for case in test.get("alert_rule_test", []) if case["exp_alerts"]
    }
    quiet = {
        case["alertname"]
        for test in TESTS
        for case in test.get("alert_rule_test", [])
        if not case["exp_alerts"]
    }
    names = {alert["alert"] for alert in ALERTS}
    assert fired == names
    assert quiet == names
    computed = {case["expr"] for test in TESTS for case in test.get("promql_expr_test", [])}
    assert {rule["record"] for rule in RULES if "record" in rule} <= computed


def test_the_series_of_the_tests_are_those_of_the_service() -> None:
    for test in TESTS:
        for given in test.get("input_series", []):
            (series,) = series_in(parsed(given["series"]))
            labels = {matcher.name for matcher in series.matchers.matchers}
            assert labels <= METRICS[str(series.name)] | OF_THE_TARGET, given["series"]


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    program = promtool()
    for command in (("check", "rules", str(RULES_FILE)), ("test", "rules", str(TESTS_FILE))):
        done = subprocess.run([program, *command], check=False, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_go_to_the_operator_of_prometheus_as_the_page_says() -> None:
    (command,) = re.findall(r"^(\{ printf .*; \}) \| kubectl .*$", PAGE, re.MULTILINE)
    made = subprocess.run(
        ["sh", "-c", command],
        cwd=FOLDER.parent,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    resource = yaml.safe_load(made.stdout)
    assert (resource["apiVersion"], resource["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert resource["spec"] == yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))


def test_the_autoscaler_gets_the_metric_that_is_recorded() -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus" / "adapter-values.yaml").read_text(encoding="utf-8"))[
        "rules"
    ]["external"]
    assert_known(rule["seriesQuery"])
    (series,) = series_in(parsed(rule["seriesQuery"]))
    autoscaler = yaml.safe_load(
        (FOLDER / "kubernetes" / "autoscaling" / "autoscaler.yaml").read_text(encoding="utf-8")
    )
    (metric,) = autoscaler["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] == series.name
    assert series.name in {rule.get("record") for rule in RULES}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"panel-{panel['id']}")
def test_a_panel_is_of_metrics_that_the_service_has(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        assert_known(target["expr"])
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert "$namespace" in target["expr"]
    assert panel["fieldConfig"]["defaults"]["unit"]


def test_the_dashboard_is_whole() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "instance"]
    for name in ("namespace", "instance"):
        (series,) = re.findall(rf"^label_values\((.*), {name}\)$", variables[name]["definition"])
        assert_known(series)
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert [panel["title"] for panel in everything if panel["type"] == "row"] == [
        *("Now", "Ingest", "Freshness", "Queries", "Cache", "Reports and jobs", "Loop, pools and processes"),
    ]
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        places = {
            (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        }
        assert not places & taken, panel["title"]
        taken |= places


def test_every_metric_of_the_service_is_shown_or_watched() -> None:
    texts = [rule["expr"] for rule in RULES] + [
        target["expr"] for panel in PANELS for target in panel["targets"]
    ]
    used = {str(series.name) for text in texts for series in series_in(parsed(text))}
    ours = [names for names in Metrics().registry._collector_to_names.values() if "openride" in str(names)]
    forgotten = [names for names in ours if not used & set(names)]
    # Tracing may be off; who uses it looks at its collector.
    assert [names[0] for names in forgotten] == ["openride_spans_dropped"]
