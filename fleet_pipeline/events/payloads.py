"""The payload of each kind of event: the fields of the original system, and fields it lacked.

These models are for consumers. `schemas` makes JSON Schemas of them, and a test validates every event
sent against its schema. Within a schema version, a field that consumers read is never removed and never
changes its meaning. New fields may be added.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Payload(BaseModel):
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


class Result(BaseModel):
    """A proposal with its place in the council."""

    agent_id: str
    role: str
    proposal: Proposal
    score: float | None = Field(description="0 to 1.")
    rank: int | None = Field(description="From 1; equals share a rank.")
    duration_ms: int | None
    timestamp: datetime | None


class FailedAgent(BaseModel):
    agent_id: str
    error: str
    timestamp: datetime | None


class _WithTexts(_Payload):
    proposals_file: str = Field(description="The Parquet file with all proposals.")
    texts_included: bool


class _Response(_WithTexts):
    agent_id: str
    role: str
    duration_ms: int | None = Field(description="Of the whole deliberation.")
    timestamp: datetime | None
    model: str | None
    diversity: bool
    num_agents: int | None


class AgentResponseCompleted(_Response):
    """A seat's final proposal."""

    status: Literal["completed"]
    proposal: Proposal


class AgentResponseFailed(_Response):
    """A seat without a proposal."""

    status: Literal["failed"]
    error: str | None
    error_type: str | None = Field(description="overlong, empty, cut_off, engine or deadline.")


class DeliberationEnded(_WithTexts):
    """A deliberation's end, with whatever results there are."""

    role: str
    status: Literal["completed", "failed", "timeout"]
    error: str | None
    winner_id: str | None
    winner_score: float | None
    results: list[Result]
    failed_agents: list[FailedAgent]
    total_agents: int | None
    successful_responses: int
    failed_responses: int
    duration_ms: int | None
    completed_at: datetime | None
    timestamp: datetime | None
    run_id: str


class OrchestrationDeliberationCompleted(_WithTexts):
    """The decisions, best first."""

    event_type: Literal["orchestration.deliberation.completed"]
    story_id: str | None
    decisions: list[Result]
    timestamp: float | None = Field(description="Seconds since the epoch.")


class Poisoned(BaseModel):
    """A request that could not be taken, and why."""

    model_config = ConfigDict(extra="allow")

    reason: str = Field(description="What is wrong, and what to do about it.")
    subject: str = Field(description="Where it came in.")
    stream: str
    sequence: int
    request_id: str
    sent_at: datetime
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
    "fleet.poison.request": Poisoned,
    "fleet.poison.plan": Poisoned,
}
