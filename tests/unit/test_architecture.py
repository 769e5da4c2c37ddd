"""Dependencies point one way, as the imports say."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "openride_analytics"
FOLDER = Path(__file__).parents[2] / PACKAGE

# What a module or package may import of the others; those that tie everything together are not listed.
ALLOWED = {
    "contract": set[str](),
    "events": {"contract"},
    "period": set[str](),
    "personal_data": set[str](),
    "config": set[str](),
    "ops": {"config"},
    "temporary": set[str](),
    "cache": set[str](),
    "answers": {"cache", "config"},
    "access": {"cache", "config", "postgres"},
    "postgres": {"config", "ops"},
    "warehouse": {"config", "ops"},
    "migrations": {"warehouse"},
    "metrics": {"period", "warehouse"},
    "dialects": {"contract", "events", "config"},
    "analytics": {"metrics", "period", "warehouse"},
    "catalogue": {"analytics", "metrics"},
    "exports": {"analytics", "catalogue", "config", "metrics", "period", "warehouse"},
    "ingest": {"contract", "events", "period", "personal_data", "config", "dialects", "ops", "warehouse"},
    "reports": {"catalogue", "config", "exports", "metrics", "ops", "period", "temporary", "warehouse"},
    "erasure": {"cache", "ingest", "warehouse"},
    "rebuild": {"cache", "ingest", "warehouse"},
}
# Who may know of the HTTP face.
HTTP = {"http", "serve"}


def _module(path: Path) -> str:
    """`ingest.kafka` for `ingest/kafka.py`; the package of an `__init__.py`; "" for the top."""
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: set[str]) -> set[str]:
    """The package's own modules that a file imports, wherever in it."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # A name may be a module of the package or something in it.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, inner = name.partition(".")
            if top == PACKAGE:
                found.add(inner if inner in modules else inner.rpartition(".")[0])
    return found


def _imports() -> dict[str, set[str]]:
    """Each module of the package and those it imports."""
    files = {_module(path): path for path in FOLDER.rglob("*.py")}
    return {name: _imported(path, set(files)) - {""} for name, path in files.items()}


IMPORTS = _imports()


def _part(module: str) -> str:
    return module.partition(".")[0]


def test_all_imports_are_of_modules_that_are_there() -> None:
    assert len(IMPORTS) > 20
    for module, imported in IMPORTS.items():
        assert imported <= set(IMPORTS), module


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_it_may(part: str) -> None:
    members = [module for module in IMPORTS if _part(module) == part]
    assert members
    for module in members:
        foreign = {_part(imported) for imported in IMPORTS[module]} - {part}
        assert foreign <= ALLOWED[part], f"{module} imports {sorted(foreign - ALLOWED[part])}"


def test_nobody_but_who_serves_it_knows_of_http() -> None:
    knowing = {module for module, imported in IMPORTS.items() if "http" in map(_part, imported)}
    assert {_part(module) for module in knowing} <= HTTP


def test_each_metric_stands_alone() -> None:
    shared = {"metrics", "metrics.acting", "metrics.filters", "metrics.measure", "metrics.question"}
    for module, imported in IMPORTS.items():
        if _part(module) == "metrics":
            assert {name for name in imported if _part(name) == "metrics"} <= shared, module


def test_each_question_of_analytics_stands_alone() -> None:
    for module, imported in IMPORTS.items():
        if _part(module) == "analytics":
            assert {name for name in imported if _part(name) == "analytics"} <= {"analytics.question"}, module


def test_the_modules_import_each_other_in_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()
