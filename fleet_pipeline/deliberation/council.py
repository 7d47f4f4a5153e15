"""Councils: a task, a role, and the seats that deliberate over it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fleet_pipeline.deliberation.roles import Perspective, Role
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.deliberation.task import Task, deliberation_id

# Raise when the same inputs would lead to other prompts or another course of deliberation: what
# is on disk under an older number is then made anew.
PROTOCOL_VERSION = 2

# The hottest seat of a diverse council samples at 1.3 times the base temperature, as in the
# original; the others are spread evenly below it.
HOTTEST = 1.3


# What is generated anew: all but what is complete and was made from the same inputs; only what is not complete,
# whatever it was made from; everything.
Resume = Literal["if-possible", "always", "never"]


class CouncilOptions(BaseModel):
    """What every council does unless its task or role says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampling: Sampling = Sampling()
    seed: int = Field(default=0, ge=0, description="Run seed; the seed of every utterance derives from it.")
    retries: int = Field(
        default=1,
        ge=0,
        le=10,
        description="Further attempts, with fresh seeds, for an empty, cut-off or broken answer.",
    )


class CouncilDefaults(CouncilOptions):
    """The same, with the model of the run."""

    model: str = Field(min_length=1)


@dataclass(frozen=True)
class Seat:
    """One agent of a council. Peers know it by its letter only."""

    index: int
    agent_id: str
    label: str
    perspective: Perspective | None = None
    temperature_scale: float = 1.0


@dataclass(frozen=True)
class Deliberation:
    """One task put to one role's council, with everything its course depends on."""

    task: Task
    role: Role
    seats: tuple[Seat, ...]
    model: str
    sampling: Sampling
    seed: int
    retries: int
    inference: str = ""  # what decides the model's words beside its name: weights, precision, chat template

    @cached_property
    def id(self) -> str:
        return deliberation_id(self.task.task_id, self.role.name)

    @property
    def rounds(self) -> int:
        return self.task.rounds

    @property
    def quorum(self) -> int:
        """Fewest seats that must answer: the task's own number, or a majority."""
        return self.task.needed

    @property
    def timeout_seconds(self) -> float:
        return self.task.constraints.timeout_seconds

    def critic_of(self, author: Seat, round_: int) -> Seat:
        """The seat that criticises `author` in round `round_` (from 1).

        A rotation: in any round every seat criticises exactly one other, and in n - 1 rounds each
        author hears every peer once. An agent alone is its own critic.
        """
        n = len(self.seats)
        shift = 1 + (round_ - 1) % (n - 1) if n > 1 else 0
        return self.seats[(author.index + shift) % n]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over all that decides what is said and whether it counts; equal ones need not
        be run again.

        The deadline is left out: a completed deliberation has met it.
        """
        task = self.task.model_dump(mode="json", exclude={"roles", "quorum", "model", "sampling"})
        task["constraints"].pop("timeout_seconds")
        content = {
            "protocol": PROTOCOL_VERSION,
            "task": task,
            "role": self.role.model_dump(mode="json", exclude={"model", "sampling"}),
            "seats": [(seat.label, seat.temperature_scale) for seat in self.seats],
            "quorum": self.quorum,
            "model": self.model,
            "inference": self.inference,
            "sampling": self.sampling.model_dump(exclude_none=True),
            "seed": self.seed,
            "retries": self.retries,
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def seat_council(task: Task, role: Role, defaults: CouncilDefaults) -> Deliberation:
    """Seat the council of `role` for `task`."""
    n = task.num_agents
    seats = tuple(
        Seat(
            index=index,
            agent_id=f"agent-{role.name.lower()}-{index + 1:03d}",
            label=_letters(index),
            perspective=role.perspectives[index % len(role.perspectives)] if task.diversity else None,
            temperature_scale=round(1 + (HOTTEST - 1) * index / (n - 1), 4) if task.diversity and n > 1 else 1.0,
        )
        for index in range(n)
    )
    return Deliberation(
        task=task,
        role=role,
        seats=seats,
        model=task.model or role.model or defaults.model,
        sampling=task.sampling.over(role.sampling).over(defaults.sampling),
        seed=defaults.seed,
        retries=defaults.retries,
    )


def _letters(index: int) -> str:
    """A, B, ..., Z, AA, AB, ...: 64 seats need more than one alphabet."""
    letter = chr(ord("A") + index % 26)
    return letter if index < 26 else _letters(index // 26 - 1) + letter
