"""Each operation: what it does, what it refuses, and what it leaves alone where nothing may be changed."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fleet_pipeline.tools.audit import read_calls
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.sandbox.sandbox import Sandbox
from fleet_pipeline.tools.toolbox import FAMILIES, Toolbox, call_schema, prompt_text
from fleet_pipeline_tests.support import tools_page
from fleet_pipeline_tests.support.tool_world import World

pytestmark = pytest.mark.unit
ALL = {f"{family.name}.{one.name}": one for family in FAMILIES.values() for one in family.operations.values()}


def test_a_long_output_is_cut_before_it_is_made_printable(world: World) -> None:
    world.workspace.tree.write("long", b"\x01" * 9_000_000)
    result = world.call("files.read_file", path="long")
    most = ToolOptions().limits.output_kib * 1_024
    assert result.output.startswith(r"\x01\x01")
    assert result.output.count(r"\x01") == most
    assert result.output.endswith(f"\n(cut: {9_000_000 - most:,} more characters; ask for less at a time)")


def test_where_nothing_may_be_changed_no_operation_changes_anything(reading: World) -> None:
    (reading.workspace.tree_folder / "Makefile").write_text("test:\n\techo x > made.txt\n")
    (reading.workspace.tree_folder / "test_w.py").write_text("def test_w():\n    open('made.txt', 'w')\n")
    (reading.workspace.tree_folder / "package.json").write_text('{"scripts": {"test": "echo x > made.txt"}}')
    reading.workspace.tree_folder.joinpath("d.db").touch()
    before = _everything(reading.workspace.place)
    tried = {
        "files.write_file": {"path": "x", "content": ""},
        "files.delete_file": {"path": "app.py"},
        "git.branch": {"delete": "main"},
        "git.commit": {"message": "m"},
        "git.checkout": {"branch": "b", "create": True},
        "http.request": {"method": "POST", "url": "http://127.0.0.1/"},
        "tests.make_test": {},
        "tests.npm_test": {},
        "tests.pytest": {"path": "test_w.py"},
        "db.sqlite_query": {"path": "d.db", "query": "create table t(a)"},
    }
    for name, arguments in tried.items():
        assert not reading.call(name, **arguments).ok, name
    for name in ("git.status", "git.log", "git.diff", "git.branch", "files.list_files"):
        assert reading.call(name).ok, name
    after = _everything(reading.workspace.place)
    assert {path for path in after.items() ^ before.items() if "/home" not in path[0]} == set()


def test_what_is_declared_to_change_nothing_changes_nothing_where_everything_may_be_changed(world: World) -> None:
    """After such a call nobody looks for a change, and a workspace that is lost is made again without it."""
    tried: dict[str, dict[str, Any]] = {
        "files.read_file": {"path": "app.py"},
        "files.list_files": {"recursive": True},
        "files.search_in_files": {"pattern": "def"},
        "files.file_info": {"path": "app.py"},
        "files.diff_files": {"path": "app.py", "other": "test_app.py"},
        "git.status": {},
        "git.log": {},
        "git.diff": {},
        "git.show": {},
    }
    elsewhere = {"http.get", "http.head", "docker.ps", "docker.logs"}
    assert {name for name, one in ALL.items() if not one.changes} == tried.keys() | elsewhere
    world.call("files.write_file", path="app.py", content="def one():\n    return 2\n")
    before = _everything(world.workspace.place)
    for name, arguments in tried.items():
        assert world.call(name, **arguments).ok, name
    assert _everything(world.workspace.place) == before


def _everything(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_every_operation_that_writes_is_refused_where_nothing_may_be_changed(reading: World) -> None:
    available = reading.tools.available()
    for name, operation in ALL.items():
        if operation.writes:
            assert name not in available
            assert (
                "read-only" in reading.call(name).error
                or "needs" in reading.call(name).error
                or "no hosts" in reading.call(name).error
            )


@pytest.mark.parametrize(
    ("role", "families"),
    [("DEV", {"files", "git", "tests"}), ("QA", {"files", "tests", "http"}), ("ARCHITECT", {"files", "git", "db", "http"}),
     ("DEVOPS", {"docker", "files", "http", "tests"}), ("DATA", {"db", "files", "tests"}), ("PO", {"files"})],
)  # fmt: skip
def test_a_role_may_call_its_families_alone(world: World, role: str, families: set[str]) -> None:
    tools = Toolbox(world.box, world.audit, role)
    assert set(tools.families) == families
    for name in FAMILIES:
        result = tools.call(f"{name}.{next(iter(FAMILIES[name].operations))}", {})
        assert (f"the role {role} may call" in result.error) is (name not in families)


def test_without_a_sandbox_what_executes_is_refused_with_the_reason_and_the_rest_goes_on(world: World) -> None:
    tools = Toolbox(Box(world.workspace, Sandbox(False, None, "none", "Landlock has version 0 here")), world.audit)
    for name, operation in ALL.items():
        if operation.executes:
            result = tools.call(name, {})
            assert (result.outcome, result.sandbox) == ("refused", "none")
            assert "Landlock has version 0 here" in result.error
    assert tools.call("files.read_file", {"path": "app.py"}).ok
    assert not set(tools.available()) & {name for name, one in ALL.items() if one.executes}


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("files.nothing", {}, "no such operation"),
        ("nothing", {}, "no such operation"),
        ("", {}, "no such operation"),
        ("files.read_file", {}, "path"),
        ("files.read_file", {"path": 3}, "path"),
        ("files.read_file", {"path": "a", "more": 1}, "more"),
        ("files.read_file", {"path": "a", "lines": -1}, "lines"),
        ("files.write_file", {"path": "a", "content": "\ud800"}, "content"),
        ("http.get", {"url": "http://x/"}, "no hosts are named"),
    ],
)
def test_a_call_that_is_wrong_is_told_what_is_and_ends_in_the_audit(
    world: World, name: str, arguments: dict[str, Any], said: str
) -> None:
    result = world.call(name, **arguments)
    assert result.outcome == "refused"
    assert said in result.error


def test_a_call_that_no_parser_would_take_is_refused_and_in_the_audit(world: World) -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    many = {f"a{number}": 1 for number in range(50_000)}
    calls = [("http.post", {"url": "http://x/", "json_data": deep}), ("files.read_file", many), ("git.add", {"paths": ["a" * 1_000] * 1_000}),
             (5, {}), ("https://u:hunter2pw@h/x", {}), ("files." + "x" * 10_000, {})]  # fmt: skip
    for number, (name, arguments) in enumerate(calls, start=1):
        result = world.tools.call(name, arguments)
        assert result.outcome == "refused", name
        assert len(result.error) < 5_000
        audited = list(read_calls(world.audit.path))
        assert len(audited) == number
        assert len(audited[-1].begun.operation) <= 200
    assert "hunter2pw" not in world.audit.path.read_text()


def test_every_operation_tells_what_it_does_and_what_its_arguments_are() -> None:
    assert len(ALL) >= 42
    for name, operation in ALL.items():
        assert operation.help.endswith("."), name
        assert next(iter(inspect.signature(operation.function).parameters)) == "box"
        Draft202012Validator.check_schema(operation.schema)
        assert operation.schema["additionalProperties"] is False
        assert '"title"' not in json.dumps(operation.schema)
    assert len(prompt_text(ALL).splitlines()) == len(ALL)


def test_the_grammar_takes_what_validation_takes(world: World) -> None:
    grammar = Draft202012Validator(call_schema(world.tools.available()))
    good = {"tool": "files.read_file", "arguments": {"path": "app.py"}}
    assert grammar.is_valid(good)
    for bad in (
        good | {"arguments": {}},
        good | {"arguments": {"path": 1}},
        good | {"tool": "files.none"},
        good | {"more": 1},
    ):
        assert not grammar.is_valid(bad)
    assert "http.get" not in world.tools.available()
    named = Box(world.workspace, world.box.sandbox, ToolOptions(http={"hosts": ["example.com"]}))
    assert "http.get" in Toolbox(named, world.audit).available()


def test_the_page_of_tools_has_the_operations_as_they_are_declared() -> None:
    text = tools_page.PAGE.read_text(encoding="utf-8")
    assert text == tools_page.with_table(text), "run: python -m fleet_pipeline_tests.support.tools_page"
    assert tools_page.EARLIER.keys() <= ALL.keys()


def test_every_operation_of_the_earlier_system_is_there() -> None:
    earlier = {
        "git": "clone status add commit push pull checkout branch diff log",
        "files": "read_file write_file append_file search_in_files list_files edit_file delete_file mkdir file_info diff_files",
        "tests": "pytest go_test npm_test cargo_test make_test",
        "docker": "build run exec ps logs stop rm",
        "http": "get post put patch delete head request",
        "db": "postgresql_query redis_command neo4j_query",
    }
    assert {f"{family}.{name}" for family, names in earlier.items() for name in names.split()} <= ALL.keys()
