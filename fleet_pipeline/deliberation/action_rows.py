"""The rows of what agents with tools do: the audit of all calls, and of councils that act each call and each change.

As `fleet_pipeline.deliberation.rows`: the dataclasses are the columns of the tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.rows import AgentId, DeliberationId, Fingerprint, RoleName, RunId, TaskId, Tested


@dataclass(frozen=True, kw_only=True)
class ToolCallRow:
    """One call of a tool, allowed or refused."""

    call_id: Annotated[str, "Of this call, and of no other."]
    run_id: Annotated[str, "Of the run; empty for a call by hand."]
    deliberation_id: Annotated[str, "Of the deliberation; empty for a call by hand."]
    agent_id: Annotated[str, "Of the agent; empty for a call by hand."]
    workspace: Annotated[str, "The workspace that it was called on."]
    family: Annotated[str, "files, git, tests, http, db, docker, or what was called in their place."]
    operation: Annotated[str, "Of the family."]
    arguments: Annotated[str, "JSON, with secrets masked and long texts cut."]
    read_only: Annotated[bool, "Whether it might change nothing."]
    sandbox: Annotated[str, "The layers around programs, such as landlock-7+seccomp; none where nothing could be run."]
    started_at: Annotated[datetime, "When it began."]
    outcome: Annotated[
        str, "ok, failed, refused, broke (a bug of the tool), or unfinished: its process ended before it did."
    ]
    error: Annotated[str, "Why it was refused or failed."]
    output_bytes: Annotated[int, "Characters of its output."]
    seconds: Annotated[float | None, "How long it took; null if it is unfinished."]


@dataclass(frozen=True, kw_only=True)
class OperationRow:
    """One call of a tool by an agent; or an answer of its model that was no call, without a tool."""

    deliberation_id: DeliberationId
    task_id: TaskId
    role: RoleName
    agent_id: AgentId
    phase: Annotated[Phase, "propose or revise."]
    round: Annotated[int, "0 for the opening proposals, then from 1."]
    step: Annotated[int, "The answer of the model that it was in, from 1."]
    tool: Annotated[str | None, "As family.operation; null for an answer that was no call."]
    arguments: Annotated[str | None, "JSON, with secrets masked and long texts cut."]
    ok: Annotated[bool, "Whether it succeeded."]
    outcome: Annotated[str, "ok, failed, refused, broke or unfinished; no_call for an answer that was none."]
    output: Annotated[str, "What the model was shown of its output, and no more than 20,000 characters."]
    error: Annotated[str, "Why it did not succeed."]
    remade: Annotated[
        int, "Calls that were made again before it, because the workspace was gone after an interruption."
    ] = 0
    sandbox: Annotated[str, "The layers around programs, such as landlock-7+seccomp."]
    started_at: Annotated[datetime | None, "When it began; null for an answer that was no call."]
    seconds: Annotated[float, "How long it took."]
    completion_tokens: Annotated[int, "Tokens of the model's answer, at its first call."]
    run_id: RunId
    fingerprint: Fingerprint


@dataclass(frozen=True, kw_only=True)
class ArtifactRow:
    """What has become of an agent's workspace by the end of a turn, as the pipeline found it."""

    deliberation_id: DeliberationId
    task_id: TaskId
    role: RoleName
    agent_id: AgentId
    phase: Annotated[Phase, "propose or revise."]
    round: Annotated[int, "0 for the opening proposals, then from 1."]
    tested: Tested
    commits: Annotated[list[str], "Commits of the agent, newest first."]
    files_changed: Annotated[list[str], "Since its workspace was made."]
    ignored: Annotated[list[str], "Files that a .gitignore keeps out of the diff."]
    diff: Annotated[str, "The change as a unified diff."]
    cut: Annotated[bool, "Whether there is more than that."]
    tests_passed: Annotated[int | None, "Tests that pass now; null where none could be run."]
    tests_fixed: Annotated[list[str], "Of those, the ones that did not pass before, or were not there."]
    tests_broken: Annotated[list[str], "Tests that passed before and do not now: that fail, are skipped, or are gone."]
    tests_edited: Annotated[list[str], "Files of tests that were there before and were changed."]
    error: Annotated[str, "Why the tests could not be run."]
    run_id: RunId
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Actions:
    """What the agents of a deliberation did, in the order of the tables. `operations_file` has the calls."""

    operations: Sequence[OperationRow] = ()
    artifacts: Sequence[ArtifactRow] = ()
    operations_file: str = ""
