"""Requests in messages: read strictly, or rejected with a reason for the sender.

`deliberation.requested` has the fields of a backlog line, and `rerun`. `agent.cmd.execute` has the same, for one agent that
works with tools. `planning.plan.approved` asks for one deliberation per role of the plan; the content of its story and
plan is the task. All come bare, or in the envelope of events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fleet_pipeline.common.errors import InvalidRecord, RequestRejected
from fleet_pipeline.common.json_input import JsonObject, drop_nulls, parse_json
from fleet_pipeline.common.messages import EXECUTE, PLAN_APPROVED, Received
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task, ToolUse, plain
from fleet_pipeline.ingest.options import RequestOptions

# The original system gave this rubric to every approved plan.
PLAN_RUBRIC = ("quality: high", "tests: required", "documentation: complete")


@dataclass(frozen=True)
class Request:
    """Tasks that a sender wants deliberated. `id` stays the same when the same request comes again.

    `problems` describe the parts that cannot be run. `tasks` can be run.
    """

    id: str
    tasks: tuple[Task, ...]
    # Of two requests that replace the same task, the one sent later wins. Their order of arrival does not matter.
    sent_at: datetime
    rerun: bool = False
    problems: tuple[str, ...] = ()


class DeliberationRequested(Task):
    """A line of a backlog, as a request."""

    rerun: bool = Field(
        default=False, description="Put this in place of an earlier task of the same id, and run it again."
    )


class AgentCommand(DeliberationRequested):
    """One agent works on one task with tools: a council of one seat. Its results come on `agent.results.<task_id>`."""

    roles: tuple[str, ...] = Field(default=("DEV",), min_length=1, max_length=1, description="Or `role`, a text.")
    num_agents: Literal[1] = 1
    rounds: Literal[0] = 0
    tools: ToolUse = Field(default=ToolUse(), description="How it works with tools.")

    @model_validator(mode="before")
    @classmethod
    def _role(cls, value: Any) -> Any:
        if isinstance(value, dict) and "role" in value and "roles" not in value:
            return {name: one for name, one in value.items() if name != "role"} | {"roles": value["role"]}
        return value


class PlanApproved(BaseModel):
    """An approved plan. Fields that are not named here are let pass."""

    model_config = ConfigDict(frozen=True, extra="allow")

    story_id: str = Field(min_length=1, max_length=500)
    plan_id: str = Field(min_length=1, max_length=120, description="The task id of its deliberations.")
    approved_by: str
    timestamp: str | float
    roles: tuple[str, ...] = Field(default=(), max_length=32, description="One deliberation for each.")
    story: str | JsonObject | None = Field(default=None, description="The story's content, text or fields.")
    plan: str | JsonObject | None = Field(default=None, description="The plan's content, text or fields.")
    acceptance_criteria: tuple[str, ...] = Field(default=(), max_length=100)


def read_request(message: Received, roles: Mapping[str, Role], options: RequestOptions, now: datetime) -> Request:
    """The request in a message. Raises `RequestRejected`."""
    age = (now - message.sent_at).total_seconds()
    if age > options.max_age_seconds:
        raise RequestRejected(
            f"too old: it has waited {age:.0f} s, and at most {options.max_age_seconds:.0f} s are allowed "
            "(requests.max_age_seconds); send it again if it is still wanted"
        )
    try:
        content = parse_json(message.content, options.max_bytes)
        if not isinstance(content, dict):
            raise RequestRejected("expected a JSON object")
        id_, fields = _unwrapped(message, content)
        if message.subject == PLAN_APPROVED:
            return _from_plan(id_, PlanApproved.model_validate(drop_nulls(fields)), roles, message.sent_at)
        rerun = fields.pop("rerun", None) or False
        if not isinstance(rerun, bool):
            raise RequestRejected("rerun: must be true or false")
        asked = drop_nulls(fields)
        if message.subject == EXECUTE:
            command = AgentCommand.model_validate(asked, context={"roles": roles})
            asked = command.model_dump(exclude={"rerun"}, exclude_unset=True)
            asked |= {name: getattr(command, name) for name in ("num_agents", "rounds", "tools")}
        task = Task.model_validate(asked, context={"roles": roles})
        return Request(id_, (task,), message.sent_at, rerun)
    except InvalidRecord as error:
        raise RequestRejected(
            str(error) if error.field == InvalidRecord.WHOLE else f"{error.field}: {error}"
        ) from error
    except ValidationError as error:
        raise RequestRejected(describe(error)) from error
    except RecursionError:
        raise RequestRejected("nested too deeply; flatten it") from None


def _unwrapped(message: Received, content: JsonObject) -> tuple[str, JsonObject]:
    """(id, fields) of a payload, bare or in an envelope."""
    if "payload" not in content:
        # Events of the original system have their type in the payload.
        return message.id, {name: value for name, value in content.items() if name != "event_type"}
    if content.get("event_type") != message.subject:
        raise RequestRejected(f"event_type: must be {message.subject}, the subject it came on")
    payload = content["payload"]
    if not isinstance(payload, dict):
        raise RequestRejected("payload: must be an object of names and values")
    key = content.get("idempotency_key")
    # The id goes into files and headers. They cannot hold the lone surrogates that JSON can escape.
    sender_id = key.encode("utf-8", "replace").decode()[:500] if isinstance(key, str) else ""
    return sender_id or message.id, payload


def _from_plan(id_: str, plan: PlanApproved, roles: Mapping[str, Role], sent_at: datetime) -> Request:
    if not plan.roles:
        raise RequestRejected("roles: the plan names none; there is nobody to deliberate")
    fields = {
        "task_id": plan.plan_id,
        "description": _description(plan),
        "constraints": {
            "rubric": PLAN_RUBRIC,
            "requirements": [*plan.acceptance_criteria, *_criteria(plan.story), *_criteria(plan.plan)],
            # No data of the approval itself: a plan approved again is the same plan.
            "metadata": {"story_id": plan.story_id, "plan_id": plan.plan_id},
        },
    }
    tasks, problems = [], []
    for role in dict.fromkeys(name.strip().upper() for name in plan.roles):
        try:
            tasks.append(Task.model_validate(fields | {"roles": (role,)}, context={"roles": roles}))
        except ValidationError as error:
            problems.append(describe(error))
    if not tasks:
        raise RequestRejected("; ".join(dict.fromkeys(problems)))
    return Request(id_, tuple(tasks), sent_at, problems=tuple(problems))


def _description(plan: PlanApproved) -> str:
    parts = [
        f"{title}\n\n{_readable(content)}"
        for title, content in (("Story", plan.story), ("Plan", plan.plan))
        if content and _readable(content)
    ]
    # This fallback is the only text that the original system ever gave its councils.
    return "\n\n".join(parts) or f"Implement plan {plan.plan_id} for story {plan.story_id}"


def _readable(content: str | JsonObject) -> str:
    if isinstance(content, str):
        return content.strip()
    return "\n".join(f"{name}: {plain(value)}" for name, value in content.items() if value and name not in _CRITERIA)


_CRITERIA = ("acceptance_criteria", "requirements")


def _criteria(content: str | JsonObject | None) -> Sequence[Any]:
    """Acceptance criteria count as requirements. Scoring rates a proposal by the requirements it addresses."""
    if not isinstance(content, dict):
        return ()
    lists = (content.get(name) or [] for name in _CRITERIA)
    return [entry for entries in lists for entry in (entries if isinstance(entries, list) else [entries])]
