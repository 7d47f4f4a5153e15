"""Councils: the seats of one role that deliberate over one task."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from pydantic import Field

from fleet_pipeline.common.strict_model import StrictModel
from fleet_pipeline.deliberation.answers import Truncated
from fleet_pipeline.deliberation.roles import Perspective, PhaseName, Role
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.deliberation.task import Task, deliberation_id

# Raise this number when the same inputs would lead to other prompts or to another sequence of phases.
# Transcripts stored under an older number are then generated again.
PROTOCOL_VERSION = 3

# What chooses models and their sampling. Its effect is in a deliberation's own fields.
_MODELS = {"model", "sampling", "seats", "phases"}
# Left out of fingerprints where a task has none of them, so that those of before stand.
_ACTING = {"tools", "workspace"}

# The last seat of a diverse council samples at 1.3 times the base temperature, as in the system that this
# project replaces. The first seat samples at the base temperature; the others are spaced evenly in between.
HOTTEST = 1.3


# What becomes of a deliberation whose time is up while a quorum of proposals stands. "keep": it completes with them.
# "fail": it is a timeout.
OnTimeout = Literal["keep", "fail"]
# Which deliberations run again. "if-possible": incomplete ones, and complete ones made from other inputs.
# "always": incomplete ones only, even if the inputs of complete ones have changed. "never": all.
Resume = Literal["if-possible", "always", "never"]


class CouncilOptions(StrictModel):
    """What every council does unless its task or role says otherwise."""

    sampling: Sampling = Sampling()
    seed: int = Field(default=0, ge=0, description="Run seed; the seed of every utterance derives from it.")
    retries: int = Field(
        default=1,
        ge=0,
        le=10,
        description="Further attempts, with fresh seeds, for an empty, cut-off, looping or broken answer.",
    )
    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        le=86_400,
        description="Deadline of a deliberation's own running time; when absent it follows the engine's measured speed.",
    )
    on_timeout: OnTimeout = Field(
        default="keep",
        description="When time is up and a quorum of proposals stands: keep, complete with them; fail, count as a timeout.",
    )
    truncated: Truncated = Field(
        default="keep",
        description="Of an answer that reached max_tokens: keep, count what is worth reading of it; refuse, never count it.",
    )


class CouncilDefaults(CouncilOptions):
    """The same, with the model of the run."""

    model: str = Field(min_length=1)


class SeatModels(NamedTuple):
    """The models with which one seat speaks, by phase."""

    propose: str
    critique: str
    revise: str


@dataclass(frozen=True)
class Seat:
    """One agent of a council. Its peers know only its `label`, a letter."""

    index: int
    agent_id: str
    label: str
    perspective: Perspective | None = None
    temperature_scale: float = 1.0
    models: SeatModels | None = None  # None: the deliberation's


@dataclass(frozen=True)
class Toolset:
    """The tools of a council's agents, as a model is told of them."""

    text: str  # one line a tool, with its arguments
    calls: tuple[str, ...]  # for each tool a JSON schema of its call: an object of `tool` and `arguments`
    changing: frozenset[str]  # those that may change a workspace, or run what does


@dataclass(frozen=True)
class Deliberation:
    """One task for one role's council, with every input that affects the deliberation. `model` is that of the first seat."""

    task: Task
    role: Role
    seats: tuple[Seat, ...]
    model: str
    sampling: Sampling
    seed: int
    retries: int
    timeout_seconds: float | None = None  # absent: by the engine's measured speed
    on_timeout: OnTimeout = "keep"
    truncated: Truncated = "keep"
    inference: str = ""  # identifies weights, precision and chat template: they affect output too
    toolset: Toolset | None = None  # None: its agents speak, and do nothing else

    @cached_property
    def id(self) -> str:
        return deliberation_id(self.task.task_id, self.role.name)

    @property
    def rounds(self) -> int:
        return self.task.rounds

    @cached_property
    def models(self) -> tuple[str, ...]:
        """All models that speak, that of the first seat first. Without rounds nobody criticises or revises."""
        phases = slice(None) if self.rounds else slice(1)
        spoken = [model for seat in self.seats for model in (seat.models or ())[phases]]
        return tuple(dict.fromkeys([self.model, *spoken]))

    def model_of(self, seat: Seat, phase: PhaseName) -> str:
        return str(getattr(seat.models, phase)) if seat.models else self.model

    @property
    def quorum(self) -> int:
        """Minimum number of seats that must answer: the task's own number, or a majority."""
        return self.task.needed

    def critic_of(self, author: Seat, round_: int) -> Seat:
        """The seat that criticises `author` in round `round_` (counted from 1).

        Critics rotate. In each round every seat criticises exactly one other seat. In n - 1 rounds every
        peer criticises each author once. A single agent is its own critic.
        """
        n = len(self.seats)
        shift = 1 + (round_ - 1) % (n - 1) if n > 1 else 0
        return self.seats[(author.index + shift) % n]

    @cached_property
    def fingerprint(self) -> str:
        """A hash (16 hex digits) of every input that affects what is said or whether it counts.

        A completed deliberation with the same fingerprint need not run again. The hash omits the deadline and what
        happens at it: they decide how far a deliberation gets, and not what is said until then.
        """
        task = self.task.model_dump(
            mode="json", exclude={"roles", "quorum", *_MODELS, *(() if self.task.tools else _ACTING)}
        )
        task["constraints"].pop("timeout_seconds")
        content = {
            "protocol": PROTOCOL_VERSION,
            "task": task,
            "role": self.role.model_dump(mode="json", exclude={*_MODELS}),
            "seats": [(seat.label, seat.temperature_scale) for seat in self.seats],
            "quorum": self.quorum,
            "model": self.model,
            "inference": self.inference,
            "sampling": self.sampling.model_dump(exclude_none=True),
            "seed": self.seed,
            "retries": self.retries,
            "truncated": self.truncated,
        }
        if len(self.models) > 1:  # fingerprints of before stand
            content["models"] = [seat.models for seat in self.seats]
        if self.toolset is not None:
            content["tools"] = self.toolset.calls
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def seat_council(task: Task, role: Role, defaults: CouncilDefaults) -> Deliberation:
    """The deliberation of `role`'s council on `task`. Settings of the task override the role's, then `defaults`."""
    n = task.num_agents
    models = [_models(task, role, defaults.model, index) for index in range(n)]
    mixed = len({model for seat in models for model in seat}) > 1
    seats = tuple(
        Seat(
            index=index,
            agent_id=f"agent-{role.name.lower()}-{index + 1:03d}",
            label=_letters(index),
            perspective=role.perspectives[index % len(role.perspectives)] if task.diversity else None,
            temperature_scale=round(1 + (HOTTEST - 1) * index / (n - 1), 4) if task.diversity and n > 1 else 1.0,
            models=models[index] if mixed else None,
        )
        for index in range(n)
    )
    return Deliberation(
        task=task,
        role=role,
        seats=seats,
        model=models[0].propose,
        sampling=task.sampling.over(role.sampling).over(defaults.sampling),
        seed=defaults.seed,
        retries=defaults.retries,
        timeout_seconds=task.constraints.timeout_seconds or defaults.timeout_seconds,
        on_timeout=defaults.on_timeout,
        truncated=defaults.truncated,
    )


def _models(task: Task, role: Role, default: str, index: int) -> SeatModels:
    """Of a seat: what the task says wins over what the role says, a phase over a seat, and a seat over all."""

    def chosen(phase: PhaseName) -> str:
        for choices, seats, model in ((task.phases, task.seats, task.model), (role.phases, role.seats, role.model)):
            if phase in choices:
                return choices[phase].model
            if seats:
                return seats[index % len(seats)].model
            if model:
                return model
        return default

    return SeatModels(chosen("propose"), chosen("critique"), chosen("revise"))


def _letters(index: int) -> str:
    """The label of a seat: A, B, ..., Z, AA, AB, ... A council can have 64 seats, more than there are letters."""
    letter = chr(ord("A") + index % 26)
    return letter if index < 26 else _letters(index // 26 - 1) + letter
