"""What a run over a backlog would do: which councils, on which models, loaded where and in which order. Starts nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet_pipeline.common.errors import ModelUnavailable
from fleet_pipeline.deliberation.council import CouncilDefaults, CouncilOptions
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.inference.gpu import GIB
from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.inference.router import fit_together
from fleet_pipeline.models.facts import read_facts
from fleet_pipeline.models.registry import resolve
from fleet_pipeline.services.engines import ModelProvider
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.services.memory import Memory, share_of_memory
from fleet_pipeline.services.transcribe import Transcription
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.task_store import Spec, TaskStore, specs


@dataclass(frozen=True)
class PlannedModel:
    """Where a model speaks. `weight_gib` is None on a server, and where its files are not here yet."""

    name: str
    servers: list[str]  # empty: it is loaded into the run's process
    weight_gib: float | None
    share: float  # of the memory for models, with its cache; 0 on a server
    remark: str  # what keeps it from being loaded, or ""

    def __str__(self) -> str:
        if self.servers:
            return f"{self.name} at {', '.join(self.servers)}"
        size = "" if self.weight_gib is None else f", {self.weight_gib:.2f} GiB of weights"
        return f"{self.name} in the run's process{size}" + (f": {self.remark}" if self.remark else "")


@dataclass(frozen=True)
class Step:
    """Councils that run together on the same models."""

    models: list[PlannedModel]
    deliberate: list[str]
    judge: list[str]

    def __str__(self) -> str:
        asked = [
            f"{len(keys)} to {what}" for keys, what in ((self.deliberate, "deliberate"), (self.judge, "judge")) if keys
        ]
        lines = [", ".join(asked), *(f"  {model}" for model in self.models)]
        local = [model for model in self.models if not model.servers]
        if len(local) > 1:
            shares = ", ".join(f"{model.name} ({model.share:.0%})" for model in local)
            if fit_together(model.share for model in local):
                lines.append(f"  side by side in its memory: {shares}")
            else:
                lines.append(
                    f"  as many at a time as its memory holds: {shares}; each is loaded once for each phase that needs it"
                )
        return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """`steps` are in their order. `memory` says what there is for weights."""

    total: int
    done: int
    memory: str
    steps: list[Step]
    reward: PlannedModel | None

    def __str__(self) -> str:
        head = (
            f"{self.total} deliberations, {self.done} of them done before and made from the same inputs; {self.memory}"
        )
        lines = [head, *(f"{number}. {step}" for number, step in enumerate(self.steps, start=1))]
        if self.reward:
            lines.append(f"{len(self.steps) + 1}. to rate what has ended\n  {self.reward}")
        return "\n".join(lines)


class _Parsed(TaskStore):
    """Tasks that are not stored yet, beside the results that are."""

    def __init__(self, stored: TaskStore, tasks: Sequence[Task]) -> None:
        super().__init__(stored.store, stored.roles)
        self._specs = {spec.key: spec for task in tasks for spec in specs(task)}

    @property
    def parsed(self) -> list[str]:
        return list(self._specs)

    def get_spec(self, key: str) -> Spec:
        return self._specs[key]

    def get(self, key: str) -> tuple[Task, Role]:
        task = self._specs[key].task
        return task, self.roles[task.roles[0]]


def plan_of(settings: Settings, tasks: Sequence[Task]) -> Plan:
    """Raises `InvalidInput` for wrong options."""
    provider = ModelProvider(settings.engine, settings.models)
    stored = _Parsed(Fleet.of(settings).tasks, tasks)
    council = settings.council
    options: dict[str, Any] = {name: getattr(council, name) for name in CouncilOptions.model_fields}
    transcription = Transcription(
        stored,
        CouncilDefaults(model=settings.engine.model, **options),
        provider,
        "plan",
        lambda _: None,
        settings.judge,
        council.resume,
        reward_model=settings.scoring.reward,
        tools=settings.tools,
    )
    work = transcription.plan(stored.parsed)
    steps = [
        Step(
            [_planned(provider.config_of(model)) for model in models],
            deliberate,
            judge if settings.judge.enabled else [],
        )
        for models, (deliberate, judge) in work.items()
        if deliberate or (judge and settings.judge.enabled)
    ]
    reward = settings.scoring.reward
    return Plan(
        total=len(stored.parsed),
        done=transcription.progress.reused,
        memory=str(Memory.of(settings.engine)),
        steps=steps,
        reward=_planned(provider.config_of(reward)) if reward else None,
    )


def _planned(config: VllmConfig) -> PlannedModel:
    if config.server is not None:
        return PlannedModel(config.model, list(config.server.urls), None, 0.0, "")
    try:
        folder = Path(resolve(config.target))
    except ModelUnavailable as error:
        return PlannedModel(config.model, [], None, share_of_memory(config, None), str(error))
    weights = read_facts(folder).weight_bytes / GIB if folder.is_dir() else 0.0
    return PlannedModel(config.model, [], round(weights, 3) or None, round(share_of_memory(config, folder), 3), "")
