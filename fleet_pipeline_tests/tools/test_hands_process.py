"""Hands in a process of their own: what they do, and what is left where it or its run is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from fleet_pipeline.common.errors import FleetError
from fleet_pipeline.deliberation.exchange import Action, Done, Place
from fleet_pipeline.deliberation.task import ToolUse
from fleet_pipeline.tools.audit import read_calls
from fleet_pipeline.tools.hands_process import HandsProcess
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline_tests.support.processes import wait_until_gone
from fleet_pipeline_tests.support.tool_hands import do
from fleet_pipeline_tests.support.tool_world import PATIENCE, processes_in

pytestmark = pytest.mark.unit

PLACE = Place("t.dev", "agent-dev-001", "DEV")
SLEEPS = {"path": "test_slow.py", "content": "import time\n\n\ndef test_slow():\n    time.sleep(600)\n"}


@contextmanager
def hands_process(folder: Path, note: Callable[[Action], bool] = lambda _: True, **options) -> Iterator[HandsProcess]:
    chosen = ToolOptions(workspaces=str(folder / "fleet/workspaces"), limits={"seconds": PATIENCE}, **options)
    with closing(HandsProcess(chosen, folder / "fleet/audit", "run", note)) as own:
        own.begin("t.dev", ToolUse())
        yield own


def results(own: HandsProcess, count: int) -> dict[str, Done]:
    found: dict[str, Done] = {}
    while len(found) < count:
        found |= dict(own.take(0.5))
    return found


def writes(name: str, content: str, *before: Action) -> Action:
    return Action(name, PLACE, "files.write_file", {"path": f"{name}.txt", "content": content}, before)


def test_an_agent_works_in_its_workspace_and_nothing_is_left_when_they_are_closed(tmp_path: Path) -> None:
    with hands_process(tmp_path) as own:
        assert do(own, writes("a", "one")).ok
        # What was called before is sent with every call, and is not made again while the workspace is there.
        done = do(own, Action("r", PLACE, "files.read_file", {"path": "a.txt"}, (writes("a", "another"),)))
        assert (done.output, "remade" in done.facts) == ("one", False)
        own.end("t.dev")
    assert list((tmp_path / "fleet/workspaces").iterdir()) == []
    (audit,) = (tmp_path / "fleet/audit").iterdir()
    assert [call.begun.operation for call in read_calls(audit)][:2] == ["write_file", "read_file"]


def test_where_it_is_killed_its_calls_are_told_as_unfinished_and_the_next_one_makes_the_workspace_again(tmp_path: Path) -> None:  # fmt: skip
    with hands_process(tmp_path) as own:
        first, slow = writes("a", "one"), Action("s", PLACE, "files.write_file", SLEEPS)
        assert do(own, first).ok
        assert do(own, slow).ok
        assert own._other is not None
        own.submit("p", Action("p", PLACE, "tests.pytest", {}))
        own.submit("q", Action("q", PLACE, "files.list_files", {}))  # waits for it
        while not processes_in(tmp_path / "fleet"):
            time.sleep(0.01)
        os.kill(own._other.process.pid, signal.SIGKILL)
        found = results(own, 2)
        assert {done.outcome for done in found.values()} == {"unfinished"}
        assert "ended by signal 9" in found["p"].error
        done = do(own, Action("r", PLACE, "files.read_file", {"path": "a.txt"}, (first, slow)))
        assert (done.output, done.facts["remade"]) == ("one", 2)
        assert not processes_in(tmp_path / "fleet")
    assert list((tmp_path / "fleet/workspaces").iterdir()) == []


def test_what_is_given_up_ends_and_is_not_told(tmp_path: Path) -> None:
    with hands_process(tmp_path) as own:
        assert do(own, Action("s", PLACE, "files.write_file", SLEEPS)).ok
        own.submit("p", Action("p", PLACE, "tests.pytest", {}))
        while not processes_in(tmp_path / "fleet"):
            time.sleep(0.01)
        own.abort(["p"])
        assert do(own, Action("r", PLACE, "files.list_files", {})).ok  # it is this agent's turn again
        assert not processes_in(tmp_path / "fleet")


def test_an_effect_elsewhere_is_noted_by_the_run_before_it_begins_or_not_done(tmp_path: Path) -> None:
    noted: list[str] = []

    def note(action: Action) -> bool:
        noted.append(action.tool)
        if action.name == "broken":
            raise RuntimeError("the disk is full")
        return action.name != "no"

    post = {"url": "http://127.0.0.1:1/", "data": "x"}
    with hands_process(tmp_path, note, roles={"DEV": ["http", "files"]}, http={"hosts": ["127.0.0.1:1"]}) as own:
        assert do(own, Action("no", PLACE, "http.post", post)).error.startswith("it could not be noted")
        assert do(own, Action("broken", PLACE, "http.post", post)).error.startswith("it could not be noted")
        assert do(own, Action("yes", PLACE, "http.post", post)).outcome in ("refused", "failed")  # as nobody is there
        assert do(own, writes("a", "one")).ok
    assert noted == ["http.post"] * 3


def test_it_ends_with_its_run_and_leaves_nothing_also_where_that_is_killed(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from fleet_pipeline_tests.tools.test_hands_process import PLACE, SLEEPS, Action, do, hands_process
with hands_process(Path(sys.argv[1])) as own:
    do(own, Action("s", PLACE, "files.write_file", SLEEPS))
    own.submit("p", Action("p", PLACE, "tests.pytest", {}))
    print(own._other.process.pid, flush=True)
    own.take(600)
"""
    run = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    own = psutil.Process(int(run.stdout.readline()))
    while not processes_in(tmp_path / "fleet"):
        time.sleep(0.01)
    run.kill()
    run.wait()
    wait_until_gone([own])
    assert not processes_in(tmp_path / "fleet")
    assert list((tmp_path / "fleet/workspaces").iterdir()) == []


def test_where_it_cannot_begin_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "fleet").write_text("a file where a folder should be")
    with pytest.raises(FleetError, match="agents' tools cannot be used here: .*fleet"), hands_process(tmp_path):
        pass


def test_where_it_cannot_be_started_again_each_call_is_told_why_and_the_run_goes_on(tmp_path: Path) -> None:
    with hands_process(tmp_path) as own:
        assert do(own, writes("a", "one")).ok
        assert own._other is not None
        own._other.process.kill()
        own._other.process.wait()
        own._other.ended.wait()
        assert own.take(0.5) == []
        place = tmp_path / "fleet/workspaces"
        shutil.rmtree(place)
        place.write_text("a file where the folder should be")
        told = do(own, writes("b", "two"))
        assert (told.ok, told.outcome) == (False, "refused")
        assert "agents' tools cannot be used here" in told.error
        own.submit("given up", writes("given up", "x"))
        own.abort(["given up"])
        assert own.take(0.0) == []
        place.unlink()
        assert do(own, writes("c", "three")).ok  # once it can be, it is
