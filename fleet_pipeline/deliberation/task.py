"""Tasks: the input of a deliberation, validated once, when it enters the system.

Ids become file names, partition keys and NATS message ids. An id that is unsafe as any of these is
refused. Every text and list has a size limit, because a backlog comes from outside.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.json_input import JsonObject
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES, ModelChoice, PhaseName
from fleet_pipeline.deliberation.sampling import Sampling

MAX_AGENTS = 64
MAX_ROUNDS = 8
_TASK_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,119}")
_ROLE_IN_ID = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_DEPTH = 16


def plain(value: Any) -> str:
    """A JSON value as text for agents and people. `Task` limits its depth, and with it this recursion."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value)
    return str(value)


def rubric_points(value: Any) -> Any:
    """The criteria of a rubric: text, list or mapping. The system this replaces lost them in all forms but one."""
    if isinstance(value, str):
        return tuple(line.strip(" -*\t") for line in value.splitlines() if line.strip(" -*\t"))
    if isinstance(value, dict):
        return tuple(f"{name}: {plain(text)}" for name, text in value.items())
    return () if value is None else value


ShortText = Annotated[str, Field(min_length=1, max_length=2_000)]


class _Input(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def _require_storable(value: Any, depth: int = 0) -> None:
    """Raise `ValueError` for a value that could not be stored, printed or sent later. Such a value has control
    characters or invalid Unicode in a string (names included), or nests too deeply. `Task` calls this before
    pydantic's own validation, so that no other validator has to handle such a value.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep; flatten it")
    if isinstance(value, str) and (match := _CONTROL.search(value)):
        raise ValueError(f"holds the character {match.group()!a}, which is no text; remove it")
    if isinstance(value, dict):
        for name, item in value.items():
            _require_storable(name, depth + 1)
            _require_storable(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _require_storable(item, depth + 1)


class ArchitectRubric(_Input):
    """How a winner is chosen among the best proposals."""

    k: int = Field(default=3, ge=1, le=MAX_AGENTS, description="How many top proposals are candidates.")
    criteria: tuple[ShortText, ...] = Field(
        default=(), max_length=50, description="What decides the choice beside the rubric; shown to the judge."
    )


class Constraints(_Input):
    """What an answer must satisfy, beside the task's description."""

    rubric: tuple[ShortText, ...] = Field(
        default=(),
        max_length=50,
        description="Quality criteria: a text (one criterion a line), a list, or a mapping of name to criterion.",
    )
    requirements: tuple[ShortText, ...] = Field(
        default=(), max_length=100, description="What an answer must do: a text (one on each line), or a list."
    )
    architect_rubric: ArchitectRubric = ArchitectRubric()
    cluster_spec: dict[ShortText, Any] = Field(
        default_factory=dict, max_length=100, description="The environment the answer must fit, shown to every agent."
    )
    metadata: dict[ShortText, Any] = Field(
        default_factory=dict, max_length=100, description="Further facts, shown to every agent."
    )
    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        le=86_400,
        description="Deadline of the deliberation's own running time; when absent, as [council] says.",
    )

    @field_validator("rubric", mode="before")
    @classmethod
    def _rubric_as_points(cls, value: Any) -> Any:
        return rubric_points(value)

    @field_validator("requirements", mode="before")
    @classmethod
    def _requirements_as_list(cls, value: Any) -> Any:
        return rubric_points(value) if value is None or isinstance(value, str) else value

    @field_validator("cluster_spec", "metadata", mode="before")
    @classmethod
    def _absent_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("cluster_spec", "metadata", mode="after")
    @classmethod
    def _bounded(cls, value: JsonObject) -> JsonObject:
        size = sum(len(name) + len(plain(item)) for name, item in value.items())
        if size > 20_000:
            raise ValueError(f"holds {size} characters; at most 20000 fit")
        return value


class WorkspaceSource(_Input):
    """What agents' workspaces start from. Without a URL and a folder they start empty."""

    url: str | None = Field(default=None, max_length=2_000, description="A git repository, by https or ssh.")
    reference: str | None = Field(default=None, max_length=200, description="A branch, a tag or a commit of it.")
    folder: str | None = Field(default=None, max_length=4_096, description="Or a folder, which is copied.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.url is not None and self.folder is not None:
            raise ValueError("give a url, or a folder")
        if self.reference is not None and self.url is None:
            raise ValueError("a reference is of a url")
        return self


class ToolUse(_Input):
    """How agents use tools, and where that ends."""

    mode: Literal["step", "plan"] = Field(
        default="step", description="step: one call an answer; plan: several, one after another."
    )
    read_only: bool = Field(default=False, description="Agents may look, and change nothing.")
    max_steps: int = Field(default=20, ge=1, le=500, description="Answers of the model in one turn.")
    max_calls: int = Field(default=60, ge=1, le=5_000, description="Calls of tools in one turn.")
    seconds: float = Field(default=900.0, gt=0, le=86_400, description="Of one turn, answers and calls together.")
    output_chars: int = Field(default=6_000, ge=100, le=200_000, description="What is shown of one call's output.")
    abort_on_error: bool = Field(default=False, description="A call that does not succeed ends the turn.")
    tests: str = Field(
        default=".", min_length=1, max_length=500, description="What pytest is given to check a change with."
    )


class Task(_Input):
    """One line of a backlog. Each of its roles is one deliberation."""

    task_id: str = Field(description="Letters, digits, '-', '_', '.'; at most 120; starts with a letter or digit.")
    description: str = Field(min_length=1, max_length=100_000)
    roles: tuple[str, ...] = Field(default=("DEV",), min_length=1, max_length=32)
    num_agents: int = Field(default=3, ge=1, le=MAX_AGENTS)
    rounds: int = Field(default=1, ge=0, le=MAX_ROUNDS, description="0: propose only, no critique.")
    quorum: int | None = Field(
        default=None, ge=1, le=MAX_AGENTS, description="Fewest seats that must answer; default a majority."
    )
    diversity: bool = Field(default=True, description="Give each seat its own perspective and temperature.")
    context: str = Field(default="", max_length=500_000, description="Background shown to every agent.")
    constraints: Constraints = Constraints()
    model: str | None = Field(default=None, min_length=1, max_length=500)
    seats: tuple[ModelChoice, ...] = Field(
        default=(), max_length=MAX_AGENTS, description="The model of each seat, in order; as many as num_agents."
    )
    phases: dict[PhaseName, ModelChoice] = Field(
        default_factory=dict, description="Models of phases, such as a stronger critic; win over seats."
    )
    sampling: Sampling = Sampling()
    tools: ToolUse | None = Field(
        default=None, description="Whether agents work with tools, each in a workspace: true, or how they do."
    )
    workspace: WorkspaceSource = Field(
        default=WorkspaceSource(),
        description="What the workspaces start from: a git URL or a folder, of tools.sources.",
    )

    @property
    def needed(self) -> int:
        """Number of seats that must answer: the quorum, or a majority if none is set."""
        return self.quorum or self.num_agents // 2 + 1

    @model_validator(mode="before")
    @classmethod
    def _as_many_agents_as_seats(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(seats := value.get("seats"), (list, tuple)) and seats:
            return {"num_agents": len(seats)} | value
        return value

    @field_validator("tools", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        if isinstance(value, str):  # as a table has it
            value = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}.get(
                value.lower(), value
            )
        return ToolUse() if value is True else None if value is False else value

    @field_validator("workspace", mode="before")
    @classmethod
    def _text_or_fields(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"url": value} if "://" in value else {"folder": value} if value else {}
        return {} if value is None else value

    @field_validator("seats")
    @classmethod
    def _one_for_each_agent(cls, value: tuple[ModelChoice, ...], info: ValidationInfo) -> tuple[ModelChoice, ...]:
        if value and len(value) != info.data.get("num_agents", len(value)):
            raise ValueError(f"{len(value)} of them for num_agents {info.data['num_agents']}; leave num_agents out")
        return value

    @field_validator("task_id")
    @classmethod
    def _safe_id(cls, value: str) -> str:
        if not _is_safe_id(value):
            raise ValueError(
                "use 1 to 120 letters, digits, '-', '_' or single '.', starting with a letter or digit and not ending in '.'"
            )
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        _require_storable(value)
        return value

    @field_validator("roles", mode="before")
    @classmethod
    def _one_role_as_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """The known roles are `context={"roles": ...}` if given, else the built-in ones."""
        known = (info.context or {}).get("roles", BUILT_IN_ROLES)
        names = tuple(name.strip().upper() for name in value)
        for name in names:
            if name not in known:
                raise ValueError(f"unknown role {name[:40]!r}; known: {', '.join(known)}; add others in a roles file")
        if len(set(names)) < len(names):
            raise ValueError("each role at most once")
        return names

    @field_validator("quorum")
    @classmethod
    def _reachable_quorum(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value > info.data.get("num_agents", MAX_AGENTS):
            raise ValueError(f"more than num_agents ({info.data['num_agents']}) can never answer")
        return value


def deliberation_id(task_id: str, role: str) -> str:
    """`<task_id>.<role in lower case>`: a deliberation's partition key and the stem of its file names."""
    return f"{task_id}.{role.lower()}"


def is_deliberation_id(key: str) -> bool:
    """Whether `key` has the form of a deliberation id."""
    task_id, _, role = key.rpartition(".")
    return _is_safe_id(task_id) and bool(_ROLE_IN_ID.fullmatch(role))


def checked_id(key: str) -> str:
    """`key`, if it has the form of a deliberation id. Raises `InvalidInput` otherwise. People can type
    partition keys in the UI, and an invalid one must never become a path.
    """
    if not is_deliberation_id(key):
        raise InvalidInput(f"{key[:80]!r} is no deliberation id: expected <task_id>.<role in lower case>")
    return key


def _is_safe_id(task_id: str) -> bool:
    return bool(_TASK_ID.fullmatch(task_id)) and not task_id.endswith(".")
