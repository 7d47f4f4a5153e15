"""What stays in a workspace from call to call: no more than its bound, and nothing that steers a call that may only read."""

import os
from pathlib import Path

import pytest

from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.toolbox import Toolbox
from fleet_pipeline_tests.support.tool_world import PATIENCE, World, a_world

pytestmark = pytest.mark.unit


def test_files_without_content_do_not_grow_in_number_from_call_to_call(tmp_path: Path) -> None:
    """A disk has room for a number of files: they were stopped one program at a time, and the next one made as many again."""
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4, "seconds": PATIENCE})) as small:
        assert (
            small.run("import os\nos.mkdir('d')\nfor n in range(2_000): open(f'd/{n}', 'w').close()").stopped == "disk"
        )
        assert "more than 4,194,304 bytes" in small.call("tests.pytest").error


def test_file_operations_keep_to_the_bound_on_the_disk(tmp_path: Path) -> None:
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4})) as small:
        results = [small.call("files.write_file", path=f"{n}", content="x" * 500_000) for n in range(20)]
        assert 6 <= sum(result.ok for result in results) <= 8
        assert "more than 4,194,304 bytes" in results[-1].error
        assert small.call("files.delete_file", path="0").ok
        assert small.call("files.write_file", path="0", content="x" * 400_000).ok


def test_folders_that_come_with_a_file_are_counted_and_not_deeper_than_anybody_needs(tmp_path: Path) -> None:
    """Each call made 2,041 and counted as one block; forty such calls, and a look at the tree took 28 s."""
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4})) as small:
        for name, arguments in {"files.write_file": {"content": "x"}, "files.mkdir": {}}.items():
            assert "at most 100 are made" in small.call(name, path="b/" * 101 + "f", **arguments).error
        results = [small.call("files.write_file", path=f"{n}/{'a/' * 90}f", content="x") for n in range(20)]
        assert 9 <= sum(result.ok for result in results) <= 11
        assert "more than 4,194,304 bytes" in results[-1].error


def test_no_program_starts_where_the_workspace_has_more_than_its_bound(tmp_path: Path) -> None:
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4})) as small:
        (small.workspace.tree_folder / "left").write_bytes(b"x" * 5_000_000)
        calls: dict[str, dict] = {
            "tests.pytest": {},
            "git.add": {},
            "db.sqlite_query": {"path": "a.db", "query": "select 1"},
        }
        for name, arguments in calls.items():
            assert "more than 4,194,304 bytes" in small.call(name, **arguments).error, name
        assert small.call("git.status").ok
        assert small.call("files.delete_file", path="left").ok
        assert small.call("tests.pytest").ok


def test_what_programs_leave_in_their_home_does_not_grow_from_call_to_call(tmp_path: Path) -> None:
    """Each was ended above the bound, and the next one added as much again; and no operation could remove it."""
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4, "seconds": PATIENCE})) as small:
        for number in range(3):
            code = f"open({str(small.workspace.home / str(number))!r}, 'wb').write(bytes(10**7))"
            assert small.run(code).stopped == "disk"
        assert [one.name for one in small.workspace.home.iterdir()] == ["2"]
        assert small.call("tests.pytest").ok


def test_the_repository_does_not_grow_from_call_to_call(tmp_path: Path) -> None:
    with a_world(tmp_path / "small", options=ToolOptions(limits={"disk_mib": 4, "seconds": PATIENCE})) as small:
        for _ in range(4):
            (small.workspace.tree_folder / "data").write_bytes(os.urandom(2_000_000))
            added = small.call("git.add")
        assert "more than 4,194,304 bytes" in added.error
        assert small.call("git.log").ok
        assert sum(file.stat().st_size for file in small.workspace.git_folder.rglob("*")) < 7_000_000


def test_settings_that_a_program_leaves_in_its_home_do_not_steer_a_call_that_may_only_read(world: World) -> None:
    world.run("import os; open(os.environ['HOME'] + '/.npmrc', 'w').write('x'); open('seen.py', 'w').write('x')")
    reading = Toolbox(Box(world.workspace, world.box.sandbox, world.box.options, read_only=True), world.audit)
    assert reading.call("tests.pytest", {}).facts["passed"] == 1
    assert not (world.workspace.home / ".npmrc").exists()


def test_a_second_name_in_home_of_a_file_is_no_way_to_change_it_where_nothing_may_be_changed(world: World) -> None:
    world.call("db.sqlite_query", path="data.db", query="create table t(a)")
    reading = Toolbox(Box(world.workspace, world.box.sandbox, world.box.options, read_only=True), world.audit)
    for name in ("l", "l?mode=rw&y"):
        assert world.run(f"import os; os.link('data.db', os.environ['HOME'] + {'/' + name!r})").ok
        world.run(f"import os; os.symlink('../home/' + {name!r}, {name!r})")
        before = (world.workspace.tree_folder / "data.db").read_bytes()
        reading.call("db.sqlite_query", {"path": name, "query": "insert into t values (1)"})
        assert (world.workspace.tree_folder / "data.db").read_bytes() == before
    assert reading.call("git.status", {}).ok
    assert list(world.workspace.home.iterdir()) == []
