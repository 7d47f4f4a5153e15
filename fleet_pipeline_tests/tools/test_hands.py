"""Hands: agents' workspaces are made, made again, and gone; where they start from is what the settings name."""

import sys
import time
from pathlib import Path

import pytest

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.exchange import Action, Place
from fleet_pipeline.deliberation.task import ToolUse
from fleet_pipeline.tools.audit import Audit, read_calls
from fleet_pipeline.tools.hands import Hands, allowed_source
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.workspace import Workspace
from fleet_pipeline_tests.support.tool_hands import do, place
from fleet_pipeline_tests.support.tool_world import MCP_SERVER, PATIENCE, processes_in

pytestmark = pytest.mark.unit


def test_an_agent_goes_on_in_its_workspace_and_others_do_not_see_it(hands: Hands, source: Path) -> None:
    assert do(hands, Action("1", place(source), "files.write_file", {"path": "own.py", "content": "x = 1"})).ok
    assert do(hands, Action("2", place(source), "files.read_file", {"path": "own.py"})).output == "x = 1"
    assert not do(hands, Action("3", place(source, "agent-dev-002"), "files.read_file", {"path": "own.py"})).ok
    assert do(hands, Action("4", place(None, "agent-dev-003"), "files.list_files")).output == ""
    assert not (source / "own.py").exists()
    hands.end("t.dev")
    assert len(list(hands.workspaces.root.iterdir())) == 2  # what they start from, until the run ends
    done = do(hands, Action("5", place(source), "files.list_files"))
    assert "has ended" in done.error


def test_a_workspace_that_is_gone_is_made_again_by_the_calls_that_changed_it(hands: Hands, source: Path) -> None:
    own = place(source)
    before = (
        Action("1", own, "files.write_file", {"path": "own.py", "content": "x = 1"}),
        Action("2", own, "files.read_file", {"path": "own.py"}),
        Action("3", own, "git.add"),
        Action("4", own, "http.post", {"url": "https://example.com/"}),  # never again
        Action("5", own, "git.commit", {"message": "Own"}),
        Action("6", own, "nothing.at_all"),
    )
    done = do(hands, Action("7", own, "git.log", {"oneline": True}, before))
    assert "Own" in done.output
    assert done.facts["remade"] == 3
    called = [f"{call.begun.family}.{call.begun.operation}" for call in read_calls(hands.audit.path)]
    assert called == ["files.write_file", "git.add", "git.commit", "git.log"]


def test_what_a_server_of_mcp_changed_in_a_workspace_that_is_gone_is_made_again(tmp_path: Path, source: Path) -> None:
    """It runs in the sandbox, on the tree alone: its calls were taken for effects elsewhere, and the workspace came back without them."""
    (source / "server.py").write_text(MCP_SERVER)
    own = place(source)
    options = ToolOptions(
        sources=(str(source),),
        workspaces=str(tmp_path / "fleet/workspaces"),
        limits={"seconds": PATIENCE},
        roles={"DEV": ("files", "own")},
        mcp={"own": {"command": [sys.executable, "server.py"], "seconds": PATIENCE}},
    )
    before = (
        Action("1", own, "own.keep", {"path": "made.txt", "text": "x"}),
        Action("2", own, "own.shout", {"text": "x"}),
    )
    with Hands(options, Audit(tmp_path / "fleet/audit"), "run", lambda _: False) as hands:
        hands.begin("t.dev", ToolUse())
        done = do(hands, Action("3", own, "files.read_file", {"path": "made.txt"}, before))
        assert (done.output, done.facts["remade"]) == ("x", 1)


def test_a_workspace_that_cannot_be_removed_ends_no_run(hands: Hands, source: Path, monkeypatch, caplog) -> None:
    """A container that wrote into one made its run, and all others in it, fail."""
    assert do(hands, Action("1", place(source), "files.list_files")).ok

    def refuses(_: Workspace) -> None:
        raise OSError(39, "Directory not empty")

    with monkeypatch.context() as broken:
        broken.setattr(Workspace, "close", refuses)
        hands.end("t.dev")
    assert "cannot be removed" in caplog.text
    hands.begin("t2.dev", ToolUse())
    assert do(hands, Action("2", place(source, deliberation="t2.dev"), "files.list_files")).ok


def test_an_action_that_is_given_up_ends_its_program_and_tells_nothing(hands: Hands, source: Path) -> None:
    own = place(source)
    do(hands, Action("1", own, "files.write_file", {"path": "test_long.py", "content": "import time\n\n\ndef test_long():\n    open('begun', 'w')\n    time.sleep(1000)\n"}))  # fmt: skip
    hands.submit("2", Action("2", own, "tests.pytest", {"path": "test_long.py"}))
    while not list(hands.workspaces.root.glob("*/tree/begun")):
        time.sleep(0.01)
    hands.abort(["2"])
    hands.end("t.dev")
    while processes_in(hands.workspaces.root) or list(hands.workspaces.root.glob("*/tree/begun")):
        time.sleep(0.01)
    assert hands.take(0.2) == []


def test_a_look_that_is_given_up_runs_no_further_tests(hands: Hands, source: Path) -> None:
    """Of its three runs of tests the other two went on, and their run could not end before."""
    own = place(source)
    (source / "test_slow.py").write_text("import time\n\n\ndef test_slow():\n    time.sleep(1000)\n")
    assert do(hands, Action("1", own, "files.write_file", {"path": "x.py", "content": "x = 1\n"})).ok
    hands.submit("look", Action("look", own))
    while not any(call.outcome == "unfinished" for call in read_calls(hands.audit.path)):  # fmt: skip
        time.sleep(0.01)
    hands.abort(["look"])
    assert do(hands, Action("2", own, "files.list_files")).ok  # it is this agent's turn again
    [tests] = [call for call in read_calls(hands.audit.path) if call.begun.operation == "pytest"]
    assert "given up" in tests.error


def test_an_effect_elsewhere_is_noted_before_it_begins_or_not_done(tmp_path: Path, source: Path) -> None:
    options = ToolOptions(workspaces=str(tmp_path / "fleet/workspaces"), roles={"DEV": ["files", "http"]}, http={"hosts": ["127.0.0.1:9"], "private_networks": ["127.0.0.0/8"]})  # fmt: skip
    noted: list[str] = []

    def note(action: Action) -> bool:
        noted.append(action.name)
        return False

    with Hands(options, Audit(tmp_path / "fleet/audit"), "run", note) as hands:
        hands.begin("t.dev", ToolUse())
        refused = do(hands, Action("post", place(None), "http.post", {"url": "http://127.0.0.1:9/"}))
        assert "could not be noted" in refused.error
        assert do(hands, Action("write", place(None), "files.write_file", {"path": "a", "content": "b"})).ok
    assert noted == ["post"]


@pytest.mark.parametrize(
    ("fields", "sources", "allowed"),
    [
        ({"url": "https://git.example.com/team/a.git"}, ["https://git.example.com/team/"], True),
        ({"url": "https://git.example.com/team/a.git"}, ["https://git.example.com/team"], True),
        ({"url": "https://git.example.com/teammates/a.git"}, ["https://git.example.com/team"], False),
        ({"url": "https://git.example.com/team/../other/a.git"}, ["https://git.example.com/team/"], False),
        ({"url": "https://git.example.com/team/%2e%2e/a.git"}, ["https://git.example.com/team/"], False),
        ({"url": "https://git.example.com/team/.\t./other/a.git"}, ["https://git.example.com/team/"], False),
        ({"url": "https://git.example.com.evil.com/a"}, ["https://git.example.com/"], False),
        ({"url": "https://git.example.com/"}, [], False),
        ({"url": "file:///etc"}, ["/"], False),
        ({"folder": "/srv/projects/a"}, ["/srv/projects"], True),
        ({"folder": "/srv/projects/../secret"}, ["/srv/projects"], False),
        ({"folder": "/srv/projects-of-others"}, ["/srv/projects"], False),
        ({"folder": "/etc"}, ["https://git.example.com/"], False),
        ({"folder": "."}, [], False),
        ({}, [], True),
    ],
)  # fmt: skip
def test_a_workspace_starts_from_what_the_settings_name_alone(fields: dict, sources: list[str], allowed: bool) -> None:
    options, wanted = ToolOptions(sources=tuple(sources)), Place("t.dev", "a", "DEV", **fields)
    if allowed:
        allowed_source(options, wanted)
        return
    with pytest.raises(InvalidInput, match=r"tools\.sources"):
        allowed_source(options, wanted)
