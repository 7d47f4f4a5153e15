"""Jobs. `deliberate` runs every asset over one key or one range of keys, `rescore` those that need no engine;
`ask`, `ask_backlog` and `ask_again` ask for deliberations from the launchpad; `prune` removes what is old.
"""

import re
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field, ValidationError

from fleet_pipeline.defs.asking import BULK, compare, put_in_inbox, stored_tasks
from fleet_pipeline.defs.assets import deliberations, proposals, transcripts
from fleet_pipeline.defs.processes import RunProcess
from fleet_pipeline.defs.resources import CouncilResource, StorageResource
from fleet_pipeline.defs.retention import find_old, remove
from fleet_pipeline.defs.status import Desk
from fleet_pipeline.deliberation.errors import InvalidInput, describe
from fleet_pipeline.deliberation.task import Task, deliberation_id
from fleet_pipeline.events.options import NatsOptions, RequestOptions
from fleet_pipeline.settings import BulkSettings, LogSettings, RetentionSettings, one_place
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import is_stored

deliberate_job = dg.define_asset_job(
    "deliberate",
    selection=dg.AssetSelection.assets(transcripts, proposals, deliberations),
    description="Transcribe, score and judge deliberations: one run, one engine start, many partitions.",
)

rescore_job = dg.define_asset_job(
    "rescore",
    selection=dg.AssetSelection.assets(proposals, deliberations),
    description="Score and judge again from what was said: no engine, no tokens.",
)

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
    timeout_seconds: float = Field(default=300.0, description="Deadline of each deliberation's own running time.")
    model: str = Field(default="", description="Another model than engine.model: hub name or folder; empty for that.")


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
    fields = config.model_dump(exclude={"requirements", "rubric", "timeout_seconds", "model", "task_id"})
    about = config.description if logs.texts else ""
    fields["task_id"] = config.task_id.strip() or _id_for(about, datetime.now(UTC))
    fields["constraints"] = config.model_dump(include={"requirements", "rubric", "timeout_seconds"})
    if config.model:
        fields["model"] = config.model
    try:
        task = Task.model_validate(fields, context={"roles": council.roles()})
    except ValidationError as error:
        raise dg.Failure(f"ops > ask_for_task > config: {describe(error)}", allow_retries=False) from error
    keys = [deliberation_id(task.task_id, role) for role in task.roles]
    if there := [key for key in keys if is_stored(storage.patient_store(), key)]:
        raise dg.Failure(
            f"ops > ask_for_task > config: task_id: {', '.join(there)} has been asked for already; give it another id, or "
            "launch that partition again",
            allow_retries=False,
        )
    _ask(context, storage, request_options, "typed", [task])
    context.add_output_metadata({"deliberations": dg.MetadataValue.text(", ".join(keys))})


@dg.op(description="Asks for what is new or changed in a backlog since it was last asked for.")
def ask_for_backlog(
    context: dg.OpExecutionContext,
    config: BacklogConfig,
    council: CouncilResource,
    storage: StorageResource,
    bulk: dg.ResourceParam[BulkSettings],
    request_options: dg.ResourceParam[RequestOptions],
) -> None:
    try:
        location = one_place(config.backlog) if config.backlog else bulk.backlog
    except ValueError as error:
        raise dg.Failure(f"ops > ask_for_backlog > config: backlog: {error}", allow_retries=False) from error
    if not location:
        raise dg.Failure(
            "ops > ask_for_backlog > config: backlog: name a file, a folder or a glob, or set bulk.backlog",
            allow_retries=False,
        )
    try:
        inbox = Store(request_options.inbox_url(storage.url))
        found = compare(storage.patient_store(), inbox, location, council.roles())
    except InvalidInput as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info(str(found))
    _ask(context, storage, request_options, BULK, found.tasks)
    context.add_output_metadata(
        {
            "backlog": dg.MetadataValue.path(location),
            "new": len(found.new),
            "changed": len(found.changed),
            "as before": found.as_before,
            "refused": len(found.refused),
        }
    )


@dg.op(description="Asks again for every deliberation that failed, timed out, or was never run.")
def ask_for_undone(
    context: dg.OpExecutionContext,
    council: CouncilResource,
    storage: StorageResource,
    request_options: dg.ResourceParam[RequestOptions],
) -> None:
    store, roles = storage.patient_store(), council.roles()
    undone = Desk(context.instance, store, roles).undone()
    tasks, broken = stored_tasks(store, undone, roles)
    for reason in broken.values():
        context.log.warning(f"cannot be asked for: {reason}")
    _ask(context, storage, request_options, "again", tasks)
    states = list(undone.values())
    context.add_output_metadata(
        {state.lower(): states.count(state) for state in sorted(set(states))} | {"cannot be asked for": len(broken)}
    )


def _ask(
    context: dg.OpExecutionContext, storage: StorageResource, options: RequestOptions, name: str, tasks: list[Task]
) -> None:
    if not tasks:
        context.log.info("nothing to ask for")
        return
    try:
        put_in_inbox(Store(options.inbox_url(storage.url)), name, tasks)
    except InvalidInput as error:
        raise dg.Failure(str(error), allow_retries=False) from error
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


@dg.job(description="Runs again every deliberation that failed, timed out, or was never run.")
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
    store, inbox, roles = storage.patient_store(), Store(request_options.inbox_url(storage.url)), council.roles()
    try:
        old = find_old(context.instance, store, inbox, roles, retention, nats)
    except InvalidInput as error:
        raise dg.Failure(str(error)) from error
    context.log.info(f"{len(old.deliberations)} deliberations and {len(old.runs)} runs are old")
    removed = remove(context.instance, store, inbox, roles, old, lambda count: context.log.info(f"{count} removed"))
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
