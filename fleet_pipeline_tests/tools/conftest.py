"""A world around a workspace, for each test of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_pipeline_tests.support.tool_world import World, a_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path / "world") as one:
        yield one


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[World]:
    """One in which nothing may be changed."""
    with a_world(tmp_path / "world", read_only=True) as one:
        yield one
