"""The page for operators: what it tells them to run, set and look at is there."""

import json
import re
import shlex
from pathlib import Path

import msgspec
import pytest

from openride_analytics import cli
from openride_analytics.config import Config

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
RUNBOOK = PAGE.partition("# Runbook\n")[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "openride-analytics.json").read_text(encoding="utf-8"))
BLOCKS = re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
PLACEHOLDERS = {"ID": "6b1d0a3e-94a1-4b0e-9f0e-0c9f3f1c2d4e"}


def commands() -> list[list[str]]:
    """All calls of the program's own command line, each once."""
    lines = "".join(BLOCKS).replace("\\\n", " ").splitlines()
    called_once = dict.fromkeys(
        called
        for line in lines
        for called in re.findall(r"(?:-- +openride-analytics|openride-analytics:NEW) (.*)", line)
    )
    return [[PLACEHOLDERS.get(word, word) for word in shlex.split(called)] for called in called_once]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_command_is_one_that_there_is(command: list[str]) -> None:
    cli._parser().parse_args(command)


def test_all_kinds_of_commands_are_found() -> None:
    assert {command[0] for command in commands()} == {"check-config", "keys", "migrate", "rebuild", "erase"}


def test_files_and_sections_that_it_points_to_are_there() -> None:
    for path in re.findall(r"(?<![\w/])deploy/[\w./-]+\w", PAGE):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((\.\./[^)#]+)\)", PAGE):
        assert (ROOT / "deploy" / path).exists(), path
    sections = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= sections


def test_settings_that_it_names_are_there() -> None:
    settings = msgspec.to_builtins(Config())
    named = re.findall(r"`\[(\w+)\] (\w+)", " ".join(PAGE.split()))
    assert len(named) > 5
    for section, key in named:
        assert key in settings[section], f"[{section}] {key}"


def test_panels_that_it_names_are_there() -> None:
    titles = {panel["title"] for panel in DASHBOARD["panels"]}
    named = set(re.findall(r"(?<![\w*`])\*([^*`]+)\*(?![\w*])", " ".join(RUNBOOK.split()))) - {"italics"}
    assert len(named) > 10
    assert named <= titles


def test_words_of_logs_and_answers_that_it_names_are_there() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for pattern in ("openride_analytics/**/*.py", "migrations/**/*.sql")
        for path in ROOT.glob(pattern)
    )
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", RUNBOOK))
    assert len(named) > 15
    assert {word for word in named if word not in source} == set()


def test_the_page_tells_of_every_job_of_the_night() -> None:
    jobs = {
        name
        for path in (ROOT / "openride_analytics").glob("*.py")
        for name in re.findall(r'\.daily\("(\w+)"', path.read_text(encoding="utf-8"))
    }
    section = RUNBOOK.partition("### OpenRideAnalyticsJobFailed")[2].partition("###")[0]
    assert len(jobs) > 3
    assert jobs <= set(re.findall(r"`(\w+)`", section))


def test_the_page_tells_of_every_reason_to_deny_a_request() -> None:
    reasons = {
        reason
        for path in (ROOT / "openride_analytics" / "access").glob("*.py")
        for reason in re.findall(r'(?:reason=|not_valid\()"(\w+)"', path.read_text(encoding="utf-8"))
    }
    section = RUNBOOK.partition("### OpenRideAnalyticsRequestsDenied")[2].partition("###")[0]
    assert reasons
    assert reasons <= set(re.findall(r"`(\w+)`", section))
