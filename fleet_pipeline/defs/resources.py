"""Resources: external dependencies of assets and sensors, with every field described.

Their fields come from the models of the settings, so that a default, a description or a limit is written once.
Defaults come from the settings in force when the definitions load. The launchpad can change them for one run.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import dagster as dg
from pydantic import BaseModel, Field, PrivateAttr, TypeAdapter, ValidationError, create_model

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.council import CouncilDefaults, CouncilOptions
from fleet_pipeline.deliberation.judging import Judging
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.events.publisher import CHUNK
from fleet_pipeline.events.receiver import DeliveryPolicy
from fleet_pipeline.inference.engine import Engine, EngineProvider, RewardModel
from fleet_pipeline.inference.options import ModelOptions, Price, VllmConfig
from fleet_pipeline.ingest.columns import BacklogOptions
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.instance.event_log import PAGE
from fleet_pipeline.instance.run_processes import record_process
from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.options import ScoringOptions, Weights
from fleet_pipeline.services.conclude import Concluded
from fleet_pipeline.services.engines import ModelProvider
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.services.inbox import STILL_SECONDS
from fleet_pipeline.settings import CouncilSettings, Settings
from fleet_pipeline.storage.local_copies import LocalCopies
from fleet_pipeline.storage.store import NO_RETRIES, Retries, Store

# Options of an engine that are models themselves: its resource holds them as mappings, empty for none.
NESTED = ("server", "price")


def _resource(*models: type[BaseModel]) -> Any:
    """A resource with the fields of `models`, but for those that are models themselves."""
    fields: dict[str, Any] = {
        name: (info.annotation, info)
        for model in models
        for name, info in model.model_fields.items()
        if info.annotation is not Sampling and name not in NESTED
    }
    return create_model(f"_{models[0].__name__}Fields", __base__=dg.ConfigurableResource, **fields)


def _values(resource: Any, model: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(resource, name) for name in model.model_fields if hasattr(resource, name)}


class EngineResource(_resource(VllmConfig)):  # type: ignore[misc]
    """vLLM, offline, in the process of the op that uses it, or servers. An `EngineProvider`."""

    synthetic: ClassVar[bool] = ModelProvider.synthetic
    sampling: dict[str, Any] = Field(default_factory=dict, description="In place of the model's generation_config.")
    server: dict[str, Any] = Field(default_factory=dict, description="Where the model is served.")
    price: dict[str, Any] = Field(default_factory=dict, description="What its tokens cost.")
    models: dict[str, Any] = Field(default_factory=dict, description="Options of models by their names.")

    def price_of(self, model: str) -> Price | None:
        return self._provider().price_of(model)

    def start(self, *models: str) -> Engine:
        return self._provider().start(*models)

    def start_reward(self, model: str) -> RewardModel:
        return self._provider().start_reward(model)

    def identity(self, model: str) -> str:
        return self._provider().identity(model)

    def max_tokens(self, model: str) -> int | None:
        return self._provider().max_tokens(model)

    def _provider(self) -> ModelProvider:
        try:
            models = TypeAdapter(dict[str, ModelOptions]).validate_python(self.models)
            values = {name: value for name, value in _values(self, VllmConfig).items() if name not in NESTED or value}
            return ModelProvider(VllmConfig(**values), models)
        except ValidationError as error:
            raise InvalidInput(f"engine: {describe(error)}") from error


class CouncilResource(_resource(CouncilSettings, Sampling)):  # type: ignore[misc]
    """What every council does unless its task or role says otherwise."""

    def settings(self) -> CouncilSettings:
        return CouncilSettings(**_values(self, CouncilSettings), sampling=Sampling(**_values(self, Sampling)))

    def defaults(self, engine: EngineProvider) -> CouncilDefaults:
        options = self.settings().model_dump(include=set(CouncilOptions.model_fields))
        return CouncilDefaults(model=engine.model, **options)


class WeightsResource(_resource(Weights)):  # type: ignore[misc]
    """The weights of a score's parts."""

    def weights(self) -> Weights:
        return Weights(**_values(self, Weights))


@lru_cache(maxsize=1)
def _encoder(model: str, device: str) -> Encoder:
    """The embedding model, loaded once for all ops of a process."""
    return Encoder(model, device)


class ScoringResource(_resource(ScoringOptions)):  # type: ignore[misc]
    """How winners are chosen, and what else is measured."""

    def options(self) -> ScoringOptions:
        return ScoringOptions(**_values(self, ScoringOptions))

    def encoder(self) -> Encoder | None:
        """The loaded embedding model, or None if none is configured. Raises `EmbeddingsUnavailable`."""
        options = self.options()
        return _encoder(options.embeddings, options.embeddings_device) if options.embeddings else None


class JudgeResource(_resource(Judging)):  # type: ignore[misc]
    """Whether and how proposals are judged."""

    def judging(self) -> Judging:
        return Judging(**_values(self, Judging))


class RunProcess(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Writes down the process of every run that uses it. On a cluster the executor does: an op's pod is not the run's."""

    one_process: bool = True

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        if self.one_process and context.run and context.instance:
            record_process(context.instance, context.run.run_id)


@lru_cache(maxsize=1)
def _copies(run_id: str, url: str) -> LocalCopies:
    """One for all ops of a run: ops and the I/O manager have resources of their own."""
    return LocalCopies()


@lru_cache(maxsize=1)
def concluded_by(run_id: str) -> Concluded:
    """What a run has concluded so far, for all its ops: they share this process."""
    return Concluded()


class StorageResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where tasks and results are kept: any fsspec URL."""

    url: str
    _run_id: str = PrivateAttr(default="")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        self._run_id = context.run.run_id if context.run else ""

    def retries(self) -> Retries:
        """How long ops wait for storage that does not answer. They wait, because ending costs them more."""
        return Retries()

    def copies(self) -> LocalCopies | None:
        """Local copies of what the run has read or written. None outside of a run."""
        return _copies(self._run_id, self.url) if self._run_id else None

    def retrying_store(self) -> Store:
        return Store(self.url, self.retries(), self.copies())


@dataclass(frozen=True)
class TickOptions:
    """Limits of a sensor tick: how long it works and waits, and how much it sends at a time."""

    # Dagster ends a tick after 60 s, and the work of an ended tick is lost.
    work_seconds: float = 40.0
    # Dagster evaluates a sensor every 5 s at most: a sensor that waits inside its tick starts runs sooner.
    wait_seconds: float = 20.0
    still_seconds: float = STILL_SECONDS
    page: int = PAGE
    chunk: int = CHUNK
    delivery: DeliveryPolicy = field(default_factory=DeliveryPolicy)


def fleet_of(
    storage: StorageResource,
    council: CouncilResource,
    requests: RequestOptions | None = None,
    backlog: BacklogOptions | None = None,
    *,
    retries: bool,
) -> Fleet:
    """A `Fleet` from the resources of a run or a tick. With `retries` it waits for storage, as ops should."""
    patience, copies = (storage.retries(), storage.copies()) if retries else (NO_RETRIES, None)
    return Fleet(
        storage.url,
        council.settings().roles_file,
        requests or RequestOptions(),
        patience,
        copies,
        backlog or BacklogOptions(),
    )


def engine_config(settings: Settings) -> dict[str, Any]:
    """The config of the resource `engine`, as a run's record holds it."""
    models = {name: options.model_dump(mode="json", exclude_unset=True) for name, options in settings.models.items()}
    return settings.engine.model_dump(mode="json", exclude_none=True) | {"models": models}


def default_resources(settings: Settings) -> dict[str, Any]:
    """Every resource but `progress`, from the settings, by name."""
    council = settings.council
    return {
        "engine": EngineResource(**engine_config(settings)),
        "council": CouncilResource(**council.model_dump(exclude={"sampling"}), **council.sampling.model_dump()),
        "weights": WeightsResource(**settings.weights.model_dump()),
        "scoring": ScoringResource(**settings.scoring.model_dump()),
        "judge": JudgeResource(**settings.judge.model_dump()),
        "storage": StorageResource(url=settings.storage),
        "tools": settings.tools,
        "process": RunProcess(one_process=settings.pods.gpu is None),
        # A plain object, not a resource: its URL may hold a password, which must not appear in run config or UI.
        "nats": settings.nats,
        "request_options": settings.requests,
        "backlog_options": settings.backlog,
        "check_options": settings.council_checks,
        "bulk": settings.bulk,
        "retention": settings.retention,
        "logs": settings.logs,
        "ticks": TickOptions(),
        "reports": settings.reports,
        "links": settings.links,
    }
