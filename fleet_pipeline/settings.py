"""Typed settings from four layers. A later layer wins.

The layers are defaults, a TOML file (`fleet.toml` in the working directory, or `FLEET_CONFIG_FILE`),
`FLEET_*` environment variables (`FLEET_STORAGE`, `FLEET_ENGINE__MODEL`, ...), and flags.
`load_settings` reads them. `origins` tells which layer each value came from.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.strict_model import StrictModel
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.council import CouncilOptions, Resume
from fleet_pipeline.deliberation.judging import Judging
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.inference.options import ModelOptions, VllmConfig
from fleet_pipeline.ingest.columns import BacklogOptions
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.scoring.options import CouncilCheckOptions, ScoringOptions, Weights
from fleet_pipeline.tools.options import ToolOptions

_log = logging.getLogger(__name__)
CONFIG_FILE_VARIABLE = "FLEET_CONFIG_FILE"
DEFAULT = "default"  # the origin of a value that nobody has set
# Old names of settings. They still work, as the new names, with a warning.
RENAMED = {"checks": "council_checks"}
# Variables that Kubernetes sets in every pod beside a Service named "fleet" or "fleet-...".
_KUBERNETES_VARIABLE = re.compile(r"FLEET_(.*_)?(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_.*)$")


def one_place(url: str) -> str:
    """Make a local path absolute: later processes may run elsewhere. Raises `ValueError` if a URL may hold a secret."""
    if "://" not in url:
        return str(Path(url).expanduser().absolute())
    if "@" in urlsplit(url).netloc:
        # The URL goes into run records and the UI.
        raise ValueError("holds credentials; give them in the environment, as its fsspec driver reads them")
    if urlsplit(url).scheme in ("http", "https") and urlsplit(url).query:
        raise ValueError("holds a query, which may be a signature; name it by the URL of its storage")
    return url


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; name one as the tz database does, such as Europe/Berlin") from None
    return name


TimeZone = Annotated[str, AfterValidator(_known_timezone)]


class CouncilSettings(CouncilOptions):
    """What every council does unless its task or role says otherwise, the roles there are, and what is run again."""

    roles_file: str | None = Field(default=None, description="TOML file that adds or replaces roles.")
    resume: Resume = Field(
        default="if-possible",
        description="What is generated anew: if-possible, all but what is complete and was made from the same inputs; "
        "always, only what is not complete, whatever it was made from; never, everything.",
    )


class BulkSettings(StrictModel):
    """The backlog that is looked through by the clock. What is new or changed in it runs."""

    backlog: Annotated[str, AfterValidator(one_place)] | None = Field(
        default=None, min_length=1, description="A file, a folder or a glob: any fsspec URL. None: no bulk runs."
    )
    cron: str = Field(default="0 1 * * *", description="When, in five fields: minute hour day month weekday.")
    timezone: TimeZone = Field(default="UTC", description="Of the cron expression, such as Europe/Berlin.")


class RetentionSettings(StrictModel):
    """What is kept of finished deliberations; without a limit, all of it."""

    max_age_days: float | None = Field(default=None, gt=0, le=36_500, description="Remove what finished longer ago.")
    max_count: int | None = Field(default=None, ge=1, description="Keep so many, the newest.")
    cron: str = Field(default="30 3 * * 0", description="When, in five fields; by default on Sundays at 3:30.")
    timezone: TimeZone = Field(default="UTC", description="Of the cron expression.")


class LogSettings(StrictModel):
    """What is said in logs, Dagster's event log and so the UI included."""

    texts: bool = Field(
        default=True, description="The task's and the agents' texts. Off, they are in the Parquet files alone."
    )
    format: Literal["text", "json"] = Field(
        default="text",
        description="Of the lines a run writes to standard error of itself; json: one object a line. Dagster's own lines follow where "
        "a run's config names the logger `console`, as that of `fleet run` does.",
    )


class ReportSettings(StrictModel):
    """The HTML report that a run leaves in `<storage>/reports`."""

    at_least: int = Field(default=20, ge=1, description="Deliberations from which a run is reported on by itself.")
    at_most: int = Field(
        default=2_000, ge=1, description="And up to which: a larger page is no pleasure, and `fleet report` makes it."
    )


def _base_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s()<>\[\]\"'`]+", url):
        raise ValueError(f"{url!r} is no address that a browser opens; give one that begins with https:// or http://")
    return url.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_base_url)]


class LinkSettings(StrictModel):
    """Where people's browsers find what the UI names by its path. Without it, paths are shown as text."""

    storage: BaseUrl | None = Field(
        default=None,
        description="The storage, such as the page of its bucket: the path of a file within the storage follows, as in "
        "<links.storage>/proposals/plan.dev.parquet.",
    )
    docs: BaseUrl | None = Field(default=None, description="The folder docs of this project, on a page that shows it.")


class PodSettings(StrictModel):
    """On a cluster, where Dagster's K8sRunLauncher makes each run a pod."""

    gpu: dict[str, Any] | None = Field(
        default=None,
        description="The pod of the op that generates, as dagster-k8s' k8s_job_executor is configured: job_image, "
        "step_k8s_config. The run's own pod then needs no GPU. None: the engine is in the run's process.",
    )


class Settings(BaseSettings):
    """All settings. The names here are those of the file, the environment and `fleet config`."""

    model_config = SettingsConfigDict(
        env_prefix="FLEET_",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    storage: Annotated[str, AfterValidator(one_place)] = Field(
        default=".fleet/storage", validate_default=True, min_length=1, description="fsspec URL of all results."
    )
    engine: VllmConfig = VllmConfig()
    models: dict[str, ModelOptions] = Field(
        default_factory=dict, description="Options of models by their names, such as [models.fleet-tiny]."
    )
    council: CouncilSettings = CouncilSettings()
    weights: Weights = Weights()
    scoring: ScoringOptions = ScoringOptions()
    judge: Judging = Judging()
    council_checks: CouncilCheckOptions = CouncilCheckOptions()
    nats: NatsOptions = NatsOptions()
    requests: RequestOptions = RequestOptions()
    backlog: BacklogOptions = BacklogOptions()
    bulk: BulkSettings = BulkSettings()
    retention: RetentionSettings = RetentionSettings()
    logs: LogSettings = LogSettings()
    reports: ReportSettings = ReportSettings()
    links: LinkSettings = LinkSettings()
    pods: PodSettings = PodSettings()
    tools: ToolOptions = ToolOptions()
    owners: tuple[str, ...] = Field(
        default=("team:fleet",), description="Of the assets, as the UI shows them: e-mail addresses or team:NAME."
    )

    @field_validator("owners")
    @classmethod
    def _as_dagster_takes_them(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for owner in value:
            if not re.fullmatch(r"team:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+\.[^@\s]+", owner):
                raise ValueError(f"{owner!r} is neither an e-mail address nor team:NAME")
        return value

    @field_validator("requests")
    @classmethod
    def _inbox_is_one_place(cls, value: RequestOptions) -> RequestOptions:
        return value.model_copy(update={"inbox": one_place(value.inbox)}) if value.inbox else value

    @model_validator(mode="after")
    def _storage_that_pods_share(self) -> Settings:
        if self.pods.gpu is not None:
            for name, place in {"storage": self.storage, "requests.inbox": self.requests.inbox}.items():
                if place and "://" not in place:
                    raise ValueError(
                        f"{name} {place} is a folder of one pod, and pods.gpu gives every run two; name an object store "
                        f"(s3://, gs://, az://), or write file://{place} if all pods mount a volume there"
                    )
        return self

    @model_validator(mode="after")
    def _what_decides_is_there(self) -> Settings:
        if self.scoring.method in ("judge", "both") and not self.judge.enabled:
            raise ValueError(f"scoring.method {self.scoring.method} goes by the judge; set judge.enabled as well")
        if self.scoring.method == "reward" and self.scoring.reward is None:
            raise ValueError("scoring.method reward goes by a reward model; name one in scoring.reward as well")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls), _File(settings_cls, config_file())


class _Environment(EnvSettingsSource):
    """Reads the FLEET_* variables, under their old names as well."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {_renamed_variable(name): value for name, value in super()._load_env_vars().items()}


class _File(TomlConfigSettingsSource):
    """Reads the TOML file, with its tables under their old names as well."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return {RENAMED.get(name, name): value for name, value in super()._read_file(file_path).items()}


def _renamed_variable(variable: str) -> str:
    """The variable's current name. A renamed one comes in lower case, as pydantic has it."""
    prefix, _, rest = variable.lower().partition("_")
    name, *below = rest.split("__")
    return f"{prefix}_{'__'.join([RENAMED[name], *below])}" if prefix == "fleet" and name in RENAMED else variable


def config_file() -> Path:
    return Path(os.environ.get(CONFIG_FILE_VARIABLE) or "fleet.toml").expanduser()


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Returns the effective settings. `flags` is nested like the settings, without absent values.

    Raises `InvalidInput`, which names the setting and the remedy.
    """
    file = config_file()
    if os.environ.get(CONFIG_FILE_VARIABLE) and not file.is_file():
        raise InvalidInput(f"{CONFIG_FILE_VARIABLE} names {file}, which is not a file")
    try:
        _check_names(file)
        return Settings(**(flags or {}))
    except InvalidInput:
        raise
    except ValidationError as error:
        raise InvalidInput(f"settings: {describe(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{file}: not valid TOML: {error}") from error
    except ValueError as error:  # pydantic-settings: an environment variable does not hold the JSON it should
        raise InvalidInput(f"settings: {error}") from error


def _check_names(file: Path) -> None:
    """Raise `InvalidInput` on unknown top-level names: pydantic ignores them, and rejects only nested ones."""
    for name in _read_toml(file) if file.is_file() else ():
        _check_name(name, str(file), f"{file}: no such setting: {name}")
    for variable in os.environ:
        prefix, _, rest = variable.partition("_")
        # pydantic lowers the case of what follows, and names of models have capitals.
        if prefix == "FLEET" and rest.startswith("MODELS__"):
            raise InvalidInput(f"{variable}: name models in the file, or in FLEET_MODELS as JSON")
        if prefix == "FLEET" and variable != CONFIG_FILE_VARIABLE and not _KUBERNETES_VARIABLE.match(variable):
            _check_name(rest.partition("__")[0].lower(), variable, f"{variable}: no such setting")


def _check_name(name: str, source: str, error: str) -> None:
    if name in RENAMED:
        _log.warning("%s: the setting %s is called %s now; rename it there", source, name, RENAMED[name])
    elif name not in Settings.model_fields:
        raise InvalidInput(f"{error}; `fleet config` lists them")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: not UTF-8 at byte {error.start + 1}: write it in UTF-8") from None


def origins(settings: Settings) -> list[tuple[str, Any, str]]:
    """(dotted name, value, origin) of every setting; the origin is environment, file or default."""
    file = config_file()
    environment = {_renamed_variable(name).upper() for name in os.environ}
    in_file = _read_toml(file) if file.is_file() else {}
    in_file = _flatten({RENAMED.get(name, name): value for name, value in in_file.items()})
    settings_with_origin = []
    for name, value in _flatten(settings.model_dump(mode="json")).items():
        parts = name.upper().split(".")
        variables = {"FLEET_" + "__".join(parts[: depth + 1]) for depth in range(len(parts))}
        if variables & environment:
            origin = "environment"
        elif _within(name, in_file):
            origin = f"file {file}"
        else:
            origin = DEFAULT
        settings_with_origin.append((name, value, origin))
    return settings_with_origin


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        path = f"{prefix}{name}"
        if isinstance(item, Mapping) and item:
            flat |= _flatten(item, f"{path}.")
        else:
            flat[path] = item
    return flat


def _within(name: str, flat: Mapping[str, Any]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in flat)
