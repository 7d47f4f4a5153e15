"""Jobs. `deliberate` runs every asset over one key or one range of keys. `rescore` runs the assets that need no engine.
`ask`, `ask_backlog` and `ask_again` request deliberations from the launchpad. `prune` removes old results.
"""

import re
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field, ValidationError

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.validation import describe
from fleet_pipeline.defs.assets import deliberations, proposals, transcripts
from fleet_pipeline.defs.resources import CouncilResource, RunProcess, StorageResource, fleet_of
from fleet_pipeline.deliberation.task import Task, deliberation_id, is_deliberation_id
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.payloads import Status
from fleet_pipeline.ingest.columns import BacklogOptions
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.instance.failures import failure, invalid
from fleet_pipeline.instance.names import DELIBERATE_JOB
from fleet_pipeline.services.backlog_diff import BULK, diff_backlog, put_in_inbox, stored_tasks
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.services.outcome_page import page_link
from fleet_pipeline.services.retention import find_old, remove
from fleet_pipeline.services.status import StatusService
from fleet_pipeline.settings import BulkSettings, LogSettings, RetentionSettings, one_place

deliberate_job = dg.define_asset_job(
    DELIBERATE_JOB,
    selection=dg.AssetSelection.assets(transcripts, proposals, deliberations),
    description="Transcribe, score and judge deliberations: one run, one engine start, many partitions.",
)

rescore_job = dg.define_asset_job(
    "rescore",
    selection=dg.AssetSelection.assets(proposals, deliberations),
    description="Score and judge again from what was said: no engine, no tokens.",
)

# Paths of fields in the launchpad.
_TASK = "ops > ask_for_task > config: "
_AGAIN = "ops > ask_for_undone > config: "
_BACKLOG = "ops > ask_for_backlog > config: backlog: "
THEN = "the sensor `inbox` starts their run within seconds, or when the run that is under way has ended"


class AskConfig(dg.Config):
    """One task, as a line of a backlog has it."""

    description: str = Field(description="What is to be solved, as you would put it to a colleague.")
    task_id: str = Field(
        default="", description="Letters, digits, '-', '_', '.'; made from the description when empty."
    )
    roles: list[str] = Field(
        default=["DEV"], description="A council for each: DEV, QA, ARCHITECT, DEVOPS, DATA, or one of your roles file."
    )
    num_agents: int = Field(default=3, description="Seats of each council, 1 to 64.")
    rounds: int = Field(default=1, description="Of critique and revision, 0 to 8; 0: propose only.")
    requirements: list[str] = Field(default=[], description="What an answer must do, one thing each.")
    rubric: list[str] = Field(default=[], description="What makes an answer good, one criterion each.")
    context: str = Field(default="", description="Background shown to every agent.")
    diversity: bool = Field(default=True, description="Give each seat its own perspective and temperature.")
    timeout_seconds: float | None = Field(
        default=None, description="Deadline of each deliberation's own running time; by the engine's speed when absent."
    )
    model: str = Field(default="", description="Another model than engine.model: hub name or folder; empty for that.")


class AgainConfig(dg.Config):
    """What is different this time. Without it, the same is asked for."""

    timeout_seconds: float | None = Field(
        default=None, description="Another deadline of each; what was said is kept, and it goes on from there."
    )
    max_tokens: int | None = Field(default=None, description="Longest answer, in tokens; all is said anew.")
    model: str = Field(default="", description="Another model; all is said anew. Empty for the one of before.")
    rerun: list[str] = Field(
        default=[],
        description="Deliberations to ask for as well although they completed, such as plan.dev: with another model or max_tokens.",
    )

    def applied(self, task: Task, fleet: Fleet) -> Task:
        """Raises `ValidationError`."""
        fields = task.model_dump()
        if self.timeout_seconds is not None:
            fields["constraints"]["timeout_seconds"] = self.timeout_seconds
        if self.max_tokens is not None:
            fields["sampling"]["max_tokens"] = self.max_tokens
        if self.model:
            fields["model"] = self.model
        return Task.model_validate(fields, context={"roles": fleet.roles})


class BacklogConfig(dg.Config):
    """A backlog."""

    backlog: str = Field(default="", description="File, folder or glob: any fsspec URL; bulk.backlog when empty.")


@dg.op(description="Puts one task to the councils of its roles.")
def ask_for_task(
    context: dg.OpExecutionContext,
    config: AskConfig,
    council: CouncilResource,
    storage: StorageResource,
    logs: dg.ResourceParam[LogSettings],
    request_options: dg.ResourceParam[RequestOptions],
) -> None:
    fleet = fleet_of(storage, council, request_options, retries=True)
    fields = config.model_dump(exclude={"requirements", "rubric", "timeout_seconds", "model", "task_id"})
    about = config.description if logs.texts else ""
    fields["task_id"] = config.task_id.strip() or _id_for(about, datetime.now(UTC))
    fields["constraints"] = config.model_dump(include={"requirements", "rubric", "timeout_seconds"})
    if config.model:
        fields["model"] = config.model
    try:
        task = Task.model_validate(fields, context={"roles": fleet.roles})
    except ValidationError as error:
        raise invalid(f"{_TASK}{describe(error)}") from error
    keys = [deliberation_id(task.task_id, role) for role in task.roles]
    if existing := [key for key in keys if fleet.tasks.has(key)]:
        raise invalid(
            f"{_TASK}task_id: {', '.join(existing)} has been asked for already; give it another id, or launch that "
            "partition again"
        )
    _put_in_inbox(context, fleet, "typed", [task])
    pages = "\n".join(f"- {page_link(key)}" for key in keys)
    context.add_output_metadata({"deliberations": dg.MetadataValue.md(pages)})


@dg.op(description="Asks for what is new or changed in a backlog since it was last asked for.")
def ask_for_backlog(
    context: dg.OpExecutionContext,
    config: BacklogConfig,
    council: CouncilResource,
    storage: StorageResource,
    bulk: dg.ResourceParam[BulkSettings],
    request_options: dg.ResourceParam[RequestOptions],
    backlog_options: dg.ResourceParam[BacklogOptions],
) -> None:
    fleet = fleet_of(storage, council, request_options, backlog_options, retries=True)
    try:
        location = one_place(config.backlog) if config.backlog else bulk.backlog
    except ValueError as error:
        raise invalid(f"{_BACKLOG}{error}") from error
    if not location:
        raise invalid(f"{_BACKLOG}name a file, a folder or a glob, or set bulk.backlog")
    try:
        diff = diff_backlog(fleet, location)
    except InvalidInput as error:
        raise failure(error) from error
    context.log.info(str(diff))
    _put_in_inbox(context, fleet, BULK, diff.tasks)
    context.add_output_metadata(
        {
            "backlog": dg.MetadataValue.path(location),
            "new": len(diff.new),
            "changed": len(diff.changed),
            "as before": diff.as_before,
            "refused": len(diff.refused),
        }
    )


@dg.op(description="Asks again for every deliberation that failed, timed out, or was never run.")
def ask_for_undone(
    context: dg.OpExecutionContext,
    config: AgainConfig,
    council: CouncilResource,
    storage: StorageResource,
    request_options: dg.ResourceParam[RequestOptions],
) -> None:
    fleet = fleet_of(storage, council, request_options, retries=True)
    undone = StatusService(context.instance, fleet.tasks).undone()
    if config.rerun and not (config.model or config.max_tokens):
        raise invalid(
            f"{_AGAIN}rerun: with the same model and max_tokens they are done already; give another of either"
        )
    if missing := [key for key in config.rerun if not (is_deliberation_id(key) and fleet.tasks.has(key))]:
        raise invalid(f"{_AGAIN}rerun: no deliberation {', '.join(map(repr, missing[:5]))}; `fleet status` lists them")
    tasks, broken = stored_tasks(fleet.tasks, dict.fromkeys([*undone, *config.rerun]))
    for reason in broken.values():
        context.log.warning(f"cannot be asked for: {reason}")
    if config.timeout_seconds is None and (late := [key for key, state in undone.items() if state is Status.TIMEOUT]):
        context.log.warning(
            f"{len(late)} of them ran out of time, such as {late[0]}, and get the same deadline again: "
            "they go on from what was said; timeout_seconds gives them more"
        )
    try:
        tasks = [config.applied(task, fleet) for task in tasks]
    except ValidationError as error:
        raise invalid(f"{_AGAIN}{describe(error)}") from error
    _put_in_inbox(context, fleet, "again", tasks)
    states = list(undone.values())
    context.add_output_metadata(
        {state.lower(): states.count(state) for state in sorted(set(states))} | {"cannot be asked for": len(broken)}
    )


def _put_in_inbox(context: dg.OpExecutionContext, fleet: Fleet, name: str, tasks: list[Task]) -> None:
    if not tasks:
        context.log.info("nothing to ask for")
        return
    try:
        put_in_inbox(fleet.inbox, name, tasks)
    except InvalidInput as error:
        raise failure(error) from error
    context.log.info(f"{sum(len(task.roles) for task in tasks)} deliberations asked for; {THEN}")


def _id_for(description: str, now: datetime) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", description.lower()).strip("-")[:40].rstrip("-")
    return f"{words or 'task'}-{now:%Y%m%dT%H%M%S}"


@dg.job(description="Puts a task that you type in to councils of agents. Fill in the launchpad and launch.")
def ask() -> None:
    ask_for_task()


@dg.job(description="Puts what is new or changed in a backlog (file, folder or glob) to councils of agents.")
def ask_backlog() -> None:
    ask_for_backlog()


@dg.job(
    description="Runs again every deliberation that failed, timed out, or was never run: as it was, or with another "
    "timeout_seconds, max_tokens or model, given in the launchpad."
)
def ask_again() -> None:
    ask_for_undone()


@dg.op(description="Removes results, specs, partitions and run records that are older than the settings say.")
def remove_old(
    context: dg.OpExecutionContext,
    storage: StorageResource,
    council: CouncilResource,
    retention: dg.ResourceParam[RetentionSettings],
    request_options: dg.ResourceParam[RequestOptions],
    nats: dg.ResourceParam[NatsOptions],
    process: RunProcess,
) -> None:
    fleet = fleet_of(storage, council, request_options, retries=True)
    try:
        old = find_old(context.instance, fleet.tasks, fleet.inbox, retention, nats)
    except InvalidInput as error:
        raise failure(error) from error
    context.log.info(f"{len(old.deliberations)} deliberations and {len(old.runs)} runs are old")
    removed = remove(
        context.instance, fleet.tasks, fleet.inbox, old, lambda count: context.log.info(f"{count} removed")
    )
    context.add_output_metadata(
        {
            "deliberations": len(removed.deliberations),
            "runs": removed.runs,
            "other files": removed.files,
            "old and unfinished, left alone": len(old.unfinished) + len(removed.spared),
        }
    )


@dg.job(name="prune", description="Removes what is older, or more, than [retention] says. `fleet prune` shows what.")
def prune_job() -> None:
    remove_old()
