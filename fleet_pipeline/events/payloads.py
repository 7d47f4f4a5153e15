"""The payload of each kind of event: the fields of the original system, and fields it lacked.

Events are built from these models, and `fleet events schema` prints their JSON Schemas for consumers. Within a schema version, a field that consumers read is never removed and never
changes its meaning. New fields may be added.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainSerializer, WithJsonSchema

from fleet_pipeline.deliberation import transcript
from fleet_pipeline.deliberation.answers import Shortened
from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.events.envelope import AGENT_RESULTS

# In JSON as Python writes it, with +00:00 as its zone: readers of the earlier system do not know a Z.
Moment = Annotated[
    datetime,
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Payload(BaseModel):
    # Consumers must ignore fields they do not know.
    model_config = ConfigDict(extra="allow")

    task_id: str
    deliberation_id: str = Field(description="`<task_id>.<role in lower case>`.")


class Proposal(BaseModel):
    """What one agent proposes."""

    content: str | None = Field(description="Null where the event would be too large: see proposals_file.")
    author_id: str
    author_role: str
    model: str | None
    temperature: float | None
    tokens: int | None = Field(description="Tokens generated, all phases.")
    shortened: Shortened | None = Field(
        default=None,
        description="truncated: cut at its token limit; looped: it repeated itself. The content is what stands without that end.",
    )


class Result(BaseModel):
    """A proposal with its place in the council."""

    agent_id: str
    role: str
    proposal: Proposal
    score: float | None = Field(description="0 to 1.")
    rank: int | None = Field(description="From 1; equals share a rank.")
    duration_ms: int | None
    timestamp: Moment | None


class FailedAgent(BaseModel):
    agent_id: str
    error: str
    unfinished: str | None = Field(
        default=None, description="What it had said when it was stopped; null where texts are left out."
    )
    timestamp: Moment | None


class _WithTexts(Payload):
    proposals_file: str = Field(description="The Parquet file with all proposals.")
    texts_included: bool


class Response(_WithTexts):
    """What is said of every seat, with a proposal or without."""

    agent_id: str
    role: str
    duration_ms: int | None = Field(description="Of the whole deliberation.")
    timestamp: Moment | None
    model: str | None
    diversity: bool
    num_agents: int | None
    unfinished: str | None = Field(
        default=None,
        description="What it was saying of its proposal when time was up or the run was stopped; null where texts are left out.",
    )


class AgentResponseCompleted(Response):
    """A seat's final proposal."""

    status: Literal["completed"]
    proposal: Proposal


class AgentResponseFailed(Response):
    """A seat without a proposal."""

    status: Literal["failed"]
    error: str | None
    error_type: AgentError | None


class ToolCall(BaseModel):
    """One call of a tool by an agent, or an answer of its model that was no call."""

    phase: str
    round: int
    step: int = Field(description="The answer of the model that it was in, from 1.")
    tool: str | None = Field(description="The family, such as files; null for an answer that was no call.")
    operation: str | None = Field(description="Its operation, such as read.")
    success: bool
    outcome: str = Field(description="ok, failed, refused, broke or unfinished; no_call for an answer that was none.")
    error: str | None
    duration_ms: int
    timestamp: Moment | None = Field(description="When it began.")


class AuditEntry(ToolCall):
    """A call with what it was given and what it gave, where texts are included."""

    params: JsonValue = Field(description="With secrets masked and long texts cut.")
    output: str | None = Field(description="Its beginning.")
    sandbox: str = Field(description="The layers around programs, such as landlock-7+seccomp.")


class Artifacts(BaseModel):
    """What has become of an agent's workspace, as the pipeline found it."""

    commit_sha: str | None = Field(description="Its last commit.")
    commits: list[str] = Field(description="Newest first.")
    files_changed: list[str]
    diff: str | None = Field(description="Null where texts are left out.")
    diff_is_whole: bool
    tested: str | None = Field(description="verified, broken or unverified; null: it changed nothing.")
    tests_passed: int | None = Field(description="Null where none could be run.")
    tests_fixed: list[str] = Field(description="That pass, and did not before.")
    tests_broken: list[str] = Field(description="That passed before, and do not now.")


class AgentResults(_WithTexts):
    """What an agent with tools did. Its subject is `agent.results.<task_id>`."""

    agent_id: str
    role: str
    status: Literal["completed", "failed"]
    success: bool = Field(description="Whether it came to a proposal and its change, if any, broke no test.")
    operations: list[ToolCall] = Field(
        description="Empty where there are too many for an event: operations_file has all."
    )
    operations_count: int
    artifacts: Artifacts | None = Field(description="Null where its workspace could not be looked at.")
    audit_trail: list[AuditEntry] = Field(description="The operations with their texts; empty where they are left out.")
    error: str | None
    duration_ms: int | None = Field(description="Of the whole deliberation.")
    timestamp: Moment | None
    model: str | None
    enable_tools: Literal[True] = True
    operations_file: str = Field(description="The Parquet file with all calls.")


class AgentToolExecuted(Payload, ToolCall):
    """One call."""

    agent_id: str
    role: str


class _Result(_WithTexts):
    role: str
    error: str | None
    winner_id: str | None
    winner_score: float | None
    confidence: float | None = Field(
        default=None, description="The probability that the winner is better than the runner-up; null without one."
    )
    clear_winner: bool | None = Field(
        default=None, description="False: the confidence is too low for a verdict; the ranks are an order."
    )
    results: list[Result]
    failed_agents: list[FailedAgent]
    total_agents: int | None
    successful_responses: int
    failed_responses: int
    duration_ms: int | None
    completed_at: Moment | None
    timestamp: Moment | None


class DeliberationEnded(_Result):
    """A deliberation's end, with whatever results there are."""

    rounds: int | None = Field(default=None, description="Rounds of critique and revision asked for.")
    rounds_done: int | None = Field(default=None, description="Those that came to their end; fewer where time was up.")
    status: transcript.Status
    run_id: str


class OrchestrationDeliberationCompleted(_WithTexts):
    """The decisions, best first."""

    event_type: Literal["orchestration.deliberation.completed"]
    story_id: str | None
    decisions: list[Result]
    timestamp: float | None = Field(description="Seconds since the epoch.")


class Status(StrEnum):
    """Where a deliberation stands: the words of the earlier system, and PENDING, which it lacked."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"

    @property
    def ended(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.TIMEOUT)


class DeliberationStatus(_Result):
    """No event but the answer to a question. Results are partial where the deliberation has not completed."""

    status: Status
    run_id: str | None = Field(description="Its present or last run.")
    request_id: str | None = Field(description="The request that asked for it; null where a person put it in.")


class Poisoned(BaseModel):
    """A request that could not be taken, and why."""

    model_config = ConfigDict(extra="allow")

    reason: str = Field(description="What is wrong, and what to do about it.")
    subject: str = Field(description="Where it came in.")
    stream: str
    sequence: int
    request_id: str
    sent_at: Moment
    bytes: int
    sha256: str = Field(description="Of the whole message.")
    content: str = Field(description="What was sent, or its beginning; what is no UTF-8 is replaced.")
    content_is_whole: bool


PAYLOADS: dict[str, type[BaseModel]] = {
    "agent.response.completed": AgentResponseCompleted,
    "agent.response.failed": AgentResponseFailed,
    "deliberation.completed": DeliberationEnded,
    "deliberation.failed": DeliberationEnded,
    "deliberation.timeout": DeliberationEnded,
    "orchestration.deliberation.completed": OrchestrationDeliberationCompleted,
    AGENT_RESULTS: AgentResults,
    "agent.tool.executed": AgentToolExecuted,
    "fleet.poison.request": Poisoned,
    "fleet.poison.plan": Poisoned,
    "fleet.poison.command": Poisoned,
}
