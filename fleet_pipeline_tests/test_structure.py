"""Arrows between packages point one way, and siblings do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fleet_pipeline"
DOMAIN = {"deliberation"}
MAY_IMPORT = {
    "deliberation": set(),
    "inference": DOMAIN,
    "scoring": DOMAIN,
    "storage": DOMAIN,
    "events": DOMAIN,
    "reports": DOMAIN,
    "models": DOMAIN,
}
# What the domain may not do: I/O, clocks, chance, and the packages around it.
FOREIGN_TO_THE_DOMAIN = {"dagster", "vllm", "nats", "pandas", "pyarrow", "time", "datetime", "random", "os", "pathlib"}


def imports(room: str) -> set[str]:
    found = set()
    for file in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    rooms = {name.split(".")[1] for name in imports(room) if name.startswith("fleet_pipeline.")}
    assert rooms - {room} <= MAY_IMPORT[room]


def test_the_domain_does_no_input_or_output_and_reads_no_clock() -> None:
    assert {name.split(".")[0] for name in imports("deliberation")} & FOREIGN_TO_THE_DOMAIN == set()


def test_nothing_that_runs_needs_the_code_that_trains() -> None:
    for room in {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"training"}:
        assert not [name for name in imports(room) if name.startswith("fleet_pipeline.training")]


def test_only_the_dagster_layer_and_the_programs_import_dagster() -> None:
    for room in MAY_IMPORT:
        assert "dagster" not in {name.split(".")[0] for name in imports(room)}


def test_the_dagster_layer_imports_no_program_that_stands_on_it() -> None:
    """Modules at the top that import the Dagster layer are programs: it imports none of them back."""
    above = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if any(name.startswith("fleet_pipeline.defs") for name in _imported_by(path))
    }
    assert {"runs", "metrics"} <= above
    assert not [name for name in imports("defs") for program in above if name.startswith(f"fleet_pipeline.{program}.")]


def _imported_by(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {f"{node.module}.{alias.name}" for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names}
