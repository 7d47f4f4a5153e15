"""A world around a workspace, a folder for programs, and an agent's hands, for each test of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_pipeline.deliberation.task import ToolUse
from fleet_pipeline.tools.audit import Audit
from fleet_pipeline.tools.hands import Hands
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.tree import remove_tree
from fleet_pipeline_tests.support.tool_world import PATIENCE, World, a_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path / "world") as one:
        yield one


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[World]:
    """One in which nothing may be changed."""
    with a_world(tmp_path / "world", read_only=True) as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a program may write."""
    own = (tmp_path / "own").resolve()
    own.mkdir()
    yield own
    remove_tree(own)  # pytest's own way of removing it fails on a deep one


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What workspaces start from: a function and its test."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "app.py").write_text("def one():\n    return 1\n")
    (folder / "test_app.py").write_text("from app import one\n\n\ndef test_one():\n    assert one() == 1\n")
    return folder


@pytest.fixture
def hands(tmp_path: Path, source: Path) -> Iterator[Hands]:
    options = ToolOptions(
        sources=(str(source),), workspaces=str(tmp_path / "fleet/workspaces"), limits={"seconds": PATIENCE}
    )
    with Hands(options, Audit(tmp_path / "fleet/audit"), "run") as own:
        own.begin("t.dev", ToolUse())
        yield own
