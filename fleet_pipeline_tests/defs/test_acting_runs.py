"""Runs of councils whose agents use tools, with a scripted model and real hands: git, pytest, the sandbox, the audit."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from fleet_pipeline.cli import main
from fleet_pipeline.deliberation.exchange import Completion
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.storage.outbox import get_events
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.pipeline import Pipeline, why_broken
from fleet_pipeline_tests.support.tool_world import PATIENCE

pytestmark = pytest.mark.instance
PLAIN = "Add a function two() that returns 2 beside one(), with a test, and keep one() as it is."


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "app.py").write_text("def one():\n    return 1\n")
    (folder / "test_app.py").write_text("from app import one\n\n\ndef test_one():\n    assert one() == 1\n")
    run = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(folder)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*run, *command], check=True)
    return folder


@pytest.fixture
def acting(pipeline: Pipeline, repository: Path, tmp_path: Path) -> Pipeline:
    pipeline.configure(tools={"sources": [str(repository)], "workspaces": str(tmp_path / "fleet/workspaces"), "limits": {"seconds": PATIENCE}})  # fmt: skip
    return pipeline


def calls(*steps: tuple[str, dict], answer: str) -> Callable[[Heard], Completion]:
    """A model that makes these calls one after another, and then answers."""

    def speak(prompt: Heard) -> Completion:
        done = sum(message.role == "assistant" for message in prompt.request.messages)
        if done < len(steps) and "anyOf" in json.loads(prompt.schema):
            tool, arguments = steps[done]
            return said(json.dumps({"tool": tool, "arguments": arguments}), prompt_tokens=100, completion_tokens=10)
        return said(json.dumps({"answer": answer}), prompt_tokens=100, completion_tokens=10)

    return speak


ADDS = calls(
    ("files.read_file", {"path": "app.py"}),
    ("files.append_file", {"path": "app.py", "content": "\n\ndef two():\n    return 2\n"}),
    ("files.append_file", {"path": "test_app.py", "content": "\n\ndef test_two():\n    from app import two\n    assert two() == 2\n"}),
    ("tests.pytest", {}),
    ("git.add", {}),
    ("git.commit", {"message": "Add two"}),
    answer=f"I did it. {PLAIN}",
)  # fmt: skip
BREAKS = calls(
    ("files.edit_file", {"path": "app.py", "search": "return 1", "replace": "return 2"}),
    ("files.edit_file", {"path": "test_app.py", "search": "== 1", "replace": "== 2"}),
    ("tests.pytest", {}),
    answer=f"All tests pass. {PLAIN} It covers everything that was asked for, in one short and clear change.",
)


def council(prompt: Heard) -> Completion:
    if prompt.phase is Phase.CRITIQUE:
        return said("It is good.")
    number = int(prompt.seat.agent_id[-1])
    return (ADDS, BREAKS, calls(answer=PLAIN))[number - 1](prompt)


def test_a_function_and_its_test_end_in_a_commit_that_is_verified_and_wins(acting: Pipeline, repository: Path, tmp_path: Path) -> None:  # fmt: skip
    acting.answer = council
    keys = acting.put("t", description="Add a function two() with a test.", tools=True, rounds=0,
                      workspace={"folder": str(repository)}, constraints={"requirements": ["a function two", "a test of it"]})  # fmt: skip
    result = acting.run(keys)
    assert result.success, why_broken(result)
    query = f"select agent_id, tested, rank, winner, won_by from '{acting.storage}/proposals/*.parquet' order by rank"
    assert duckdb.sql(query).fetchall() == [
        ("agent-dev-001", "verified", 1, True, "tests"),
        ("agent-dev-003", None, 2, False, None),
        ("agent-dev-002", "broken", 3, False, None),
    ]
    artifacts = acting.table("artifacts").set_index("agent_id")
    assert list(artifacts.loc["agent-dev-001", "files_changed"]) == ["app.py", "test_app.py"]
    assert len(artifacts.loc["agent-dev-001", "commits"]) == 1
    assert "+def two():" in artifacts.loc["agent-dev-001", "diff"]
    assert list(artifacts.loc["agent-dev-001", "tests_fixed"]) == ["test_app.py::test_two"]
    assert list(artifacts.loc["agent-dev-002", "tests_broken"]) == ["test_app.py::test_one"]  # in the form that it had
    assert list(artifacts.loc["agent-dev-002", "tests_edited"]) == ["test_app.py"]
    operations = acting.table("operations")
    assert list(operations[operations.agent_id == "agent-dev-001"].tool) == [
        *("files.read_file", "files.append_file", "files.append_file", "tests.pytest", "git.add", "git.commit")
    ]
    assert operations.ok.all()
    utterances = acting.table("utterances").set_index("agent_id")
    assert utterances.loc["agent-dev-001", "completion_tokens"] == 70
    tools = acting.table("tool_calls")
    assert set(tools.deliberation_id) == {"t.dev"}
    assert (
        len(tools) == 6 + 3 + 5
    )  # the agents', and the pipeline's: before, and of each change after and with the tests as they were
    shown = CliRunner().invoke(main, ["show", "t.dev", "--storage", str(acting.storage)]).stdout
    for text in ("What agent-dev-001 did", "+ propose 6 git.commit", "Its change is verified: 2 tests pass, 1 of them anew; 0 broken", "+def two():",
                 "Its change is broken: 1 tests pass, 0 of them anew; 1 broken", "tests edited: test_app.py"):  # fmt: skip
        assert text in shown, shown
    told = json.loads(CliRunner().invoke(main, ["show", "t.dev", "--json", "--storage", str(acting.storage)]).stdout)
    assert (len(told["operations"]), len(told["artifacts"])) == (9, 2)
    explained = CliRunner().invoke(main, ["explain", "t.dev", "--storage", str(acting.storage)]).stdout
    assert "agent-dev-001 won by its tests: of 3 proposals it alone comes with a change that is verified" in explained
    subjects = [subject for subject, _, _ in get_events(acting.store, "t.dev") or []]
    assert subjects[:12] == ["agent.tool.executed"] * 9 + ["agent.results.t"] * 3
    assert list((tmp_path / "fleet/workspaces").iterdir()) == []
    assert subprocess.run(["git", "-C", str(repository), "status", "--short"], capture_output=True, check=True).stdout == b""  # fmt: skip


def test_critics_see_the_change_and_authors_go_on_in_their_workspaces(acting: Pipeline, repository: Path) -> None:
    acting.answer = council
    keys = acting.put("t", tools=True, num_agents=2, workspace={"folder": str(repository)})
    assert acting.run(keys).success
    critiques = [prompt.user for prompt in acting.asked if prompt.phase is Phase.CRITIQUE]
    assert any("+def two():" in text and "1 did not before (test_app.py::test_two)" in text for text in critiques)
    assert any("Broken: 1 (test_app.py::test_one)" in text for text in critiques)
    artifacts = acting.table("artifacts")
    assert sorted(zip(artifacts.agent_id, artifacts.phase, artifacts.tested, strict=True)) == [
        ("agent-dev-001", "propose", "verified"),
        ("agent-dev-001", "revise", "verified"),  # once more, on what was there
        ("agent-dev-002", "propose", "broken"),
        ("agent-dev-002", "revise", "broken"),
    ]
    assert artifacts["diff"].str.count("def two").max() == 2


def test_a_workspace_that_the_settings_do_not_name_is_told_to_the_agents_and_nothing_is_copied(acting: Pipeline, tmp_path: Path) -> None:  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    acting.answer = council
    keys = acting.put("t", tools=True, rounds=0, workspace={"folder": str(tmp_path / "elsewhere")})
    assert acting.run(keys).success
    operations = acting.table("operations")
    assert set(operations.outcome) == {"refused"}
    assert operations.error.str.contains("is in none of tools.sources").all()
    assert "broken" not in set(acting.table("proposals").tested)
