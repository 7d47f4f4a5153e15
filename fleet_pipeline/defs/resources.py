"""Resources: what assets and sensors need from outside, with every field described.

Their fields are the settings' own models, so that a default, a description or a limit is written
once. Defaults come from the settings in force when the definitions load; the launchpad can change
them for one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import dagster as dg
from pydantic import BaseModel, ValidationError, create_model

from fleet_pipeline.defs.processes import RunProcess
from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.errors import InvalidInput, describe
from fleet_pipeline.deliberation.judging import Judging
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.inference.engine import Engine
from fleet_pipeline.inference.vllm import VllmConfig, VllmEngine
from fleet_pipeline.models.identity import identity
from fleet_pipeline.models.registry import resolve
from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.options import ScoringOptions
from fleet_pipeline.scoring.ranking import Weights
from fleet_pipeline.settings import CouncilSettings, Resume, Settings, read_roles
from fleet_pipeline.storage.store import TRIES, Store


def _fields(*models: type[BaseModel], leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    return {
        name: (info.annotation, info)
        for model in models
        for name, info in model.model_fields.items()
        if name not in leave_out
    }


_EngineFields = create_model("_EngineFields", __base__=dg.ConfigurableResource, **_fields(VllmConfig))
_CouncilFields = create_model(
    "_CouncilFields",
    __base__=dg.ConfigurableResource,
    **_fields(CouncilSettings, Sampling, leave_out=frozenset({"sampling"})),
)
_WeightFields = create_model("_WeightFields", __base__=dg.ConfigurableResource, **_fields(Weights))
_ScoringFields = create_model("_ScoringFields", __base__=dg.ConfigurableResource, **_fields(ScoringOptions))
_JudgeFields = create_model("_JudgeFields", __base__=dg.ConfigurableResource, **_fields(Judging))


def _values(resource: Any, model: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(resource, name) for name in model.model_fields if hasattr(resource, name)}


class EngineSource(Protocol):
    """What starts engines. `model` is the one used where a task and role name none."""

    model: str

    def identity(self, model: str) -> str:
        """What decides a model's words beside its name."""
        ...

    def start(self, model: str) -> Engine: ...


class EngineResource(_EngineFields):
    """vLLM, offline, in the process of the op that uses it."""

    def start(self, model: str) -> Engine:
        """Load `model`, which may differ from the configured one where a task names its own."""
        return VllmEngine.start(self._config().model_copy(update={"model": resolve(model)}))

    def identity(self, model: str) -> str:
        config = self._config()
        return config.words + identity(resolve(model), config.revision)

    def _config(self) -> VllmConfig:
        try:
            return VllmConfig(**_values(self, VllmConfig))
        except ValidationError as error:
            raise InvalidInput(f"engine: {describe(error)}") from error


class CouncilResource(_CouncilFields):
    """What every council does unless its task or role says otherwise."""

    def defaults(self, engine: EngineSource) -> CouncilDefaults:
        own = _values(self, CouncilDefaults)
        sampling = Sampling(**_values(self, Sampling))
        return CouncilDefaults(**own | {"model": engine.model, "sampling": sampling})

    def resume_mode(self) -> Resume:
        mode: Resume = _values(self, CouncilSettings)["resume"]
        return mode

    def roles(self) -> Mapping[str, Role]:
        location: str | None = _values(self, CouncilSettings)["roles_file"]
        return read_roles(location)


class WeightsResource(_WeightFields):
    """The weights of a score's parts."""

    def weights(self) -> Weights:
        return Weights(**_values(self, Weights))


@lru_cache(maxsize=1)
def _encoder(model: str, device: str) -> Encoder:
    """Loaded once for all ops of a process."""
    return Encoder(model, device)


class ScoringResource(_ScoringFields):
    """How winners are chosen, and what else is measured."""

    def options(self) -> ScoringOptions:
        return ScoringOptions(**_values(self, ScoringOptions))

    def encoder(self) -> Encoder | None:
        """The embedding model, loaded, where one is configured. Raises `EmbeddingsUnavailable`."""
        options = self.options()
        return _encoder(options.embeddings, options.embeddings_device) if options.embeddings else None


class JudgeResource(_JudgeFields):
    """Whether and how proposals are judged."""

    def judging(self) -> Judging:
        return Judging(**_values(self, Judging))


class StorageResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where tasks and results are kept: any fsspec URL."""

    url: str

    def store(self) -> Store:
        return Store(self.url)

    def patient_store(self) -> Store:
        """For ops, which lose more by ending than by waiting: tries again where storage does not answer."""
        return Store(self.url, TRIES)


def default_resources(settings: Settings) -> dict[str, Any]:
    """Every resource but `progress`, as the settings say."""
    council = settings.council
    return {
        "engine": EngineResource(**settings.engine.model_dump()),
        "council": CouncilResource(**council.model_dump(exclude={"sampling"}), **council.sampling.model_dump()),
        "weights": WeightsResource(**settings.weights.model_dump()),
        "scoring": ScoringResource(**settings.scoring.model_dump()),
        "judge": JudgeResource(**settings.judge.model_dump()),
        "storage": StorageResource(url=settings.storage),
        "process": RunProcess(),
        # A plain object: its URL may hold a password, which must not appear in run config or UI.
        "nats": settings.nats,
        "request_options": settings.requests,
        "checks": settings.checks,
        "bulk": settings.bulk,
        "retention": settings.retention,
        "logs": settings.logs,
        "reports": settings.reports,
    }
