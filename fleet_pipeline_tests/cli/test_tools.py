"""`fleet tools`, as a person types it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleet_pipeline.cli import main
from fleet_pipeline.tools.workspace import LOCK

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    (tmp_path / "project/a.py").write_text("x = 1\n")


def fleet(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["tools", *arguments], input=stdin)


def test_the_list_says_what_there_is_and_what_cannot_be_called_and_why() -> None:
    shown = fleet("list")
    assert shown.exit_code == 0, shown.output
    assert "   files.read_file" in shown.stdout
    assert " - http.get" in shown.stdout
    assert "no hosts are named: set tools.http.hosts" in shown.stdout
    document = json.loads(fleet("list", "--json", "--role", "QA", "--read-only").stdout)
    available = {one["name"] for one in document["operations"] if one["available"]}
    assert available == {"files.read_file", "files.list_files", "files.search_in_files", "files.file_info", "files.diff_files",
                         *(one["name"] for one in document["operations"] if one["name"].startswith("tests."))}  # fmt: skip


def test_an_operation_is_shown_with_its_arguments() -> None:
    shown = fleet("show", "files.edit_file").stdout
    assert "search: The exact text to replace." in shown
    assert "count: How often it must occur. (default: 1)" in shown
    assert json.loads(fleet("show", "git.commit", "--json").stdout)["arguments"]["required"] == ["message"]
    absent = fleet("show", "files.none")
    assert (absent.exit_code, "no such operation" in absent.stderr) == (2, True)


def test_calls_work_on_a_workspace_that_stays_and_leave_the_folder_it_came_from_alone(tmp_path: Path) -> None:
    assert fleet("call", "files.list_files", "--workspace", "ws", "--from", "project").stdout == "a.py\n"
    done = fleet(
        "call",
        "files.edit_file",
        "-",
        "--workspace",
        "ws",
        stdin=json.dumps({"path": "a.py", "search": "1", "replace": "2"}),
    )
    assert done.exit_code == 0, done.output
    result = json.loads(fleet("call", "git.diff", "--workspace", "ws", "--json", "--read-only").stdout)
    assert (result["ok"], result["error"]) == (True, "")
    assert "+x = 2" in result["output"]
    assert result["sandbox"] != "none"
    assert (tmp_path / "project/a.py").read_text() == "x = 1\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["files.read_file", '{"path": "../x"}'], 2, "leads out of the workspace"),
        (["files.read_file", "{"], 2, 'give an object, such as {"path": "a.py"}'),
        (["files.read_file", "[]"], 2, "expected a JSON object"),
        (["files.none", "{}"], 2, "no such operation"),
        (["tests.make_test", "{}"], 3, "exit code 2"),
        (["git.add", "{}", "--role", "QA"], 2, "the role QA may call files, tests, http alone"),
        (["files.write_file", '{"path": "x", "content": ""}', "--read-only"], 2, "nothing may be changed here"),
    ],
)
def test_what_was_refused_and_what_failed_are_told_apart_by_the_exit_code(
    arguments: list[str], code: int, said: str
) -> None:
    done = fleet("call", *arguments, "--workspace", "ws", "--from", "project")
    assert (done.exit_code, said in done.stderr) == (code, True), done.output


def test_a_folder_that_is_no_workspace_is_not_taken_for_one(tmp_path: Path) -> None:
    done = fleet("call", "files.list_files", "--workspace", "project")
    assert done.exit_code == 2
    assert "is no workspace, and not empty; make one from it: --workspace NEW --from" in done.stderr
    assert [path.name for path in (tmp_path / "project").iterdir()] == ["a.py"]


def test_a_sweep_names_what_it_has_removed(tmp_path: Path) -> None:
    assert fleet("sweep").stdout == "nothing was left\n"
    (tmp_path / ".fleet/workspaces/left/tree").mkdir(parents=True)
    (tmp_path / ".fleet/workspaces/left" / LOCK).touch()
    assert json.loads(fleet("sweep", "--json").stdout) == ["left"]


def test_a_role_that_names_a_family_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('[tools.roles]\nDEV = ["files", "gti"]\n')
    done = fleet("list")
    assert (done.exit_code, "there is no family 'gti'" in done.stderr) == (2, True)


def test_calls_are_exported_whole() -> None:
    fleet("call", "files.read_file", '{"path": "a.py"}', "--workspace", "ws", "--from", "project")
    fleet("call", "files.read_file", '{"path": "none"}', "--workspace", "ws")
    export = ["export", "--table", "tool_calls", "--format", "jsonl", "--out", "-"]
    done = CliRunner().invoke(main, export)
    assert done.exit_code == 0, done.output
    assert "2 rows of 2 files" in done.stderr
    assert [json.loads(line)["outcome"] for line in done.stdout.splitlines()] == ["ok", "refused"]
    assert "is exported whole" in CliRunner().invoke(main, [*export, "a.dev"]).stderr
