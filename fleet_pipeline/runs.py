"""A backlog as one Dagster run, executed in this process and recorded in the instance.

What `fleet run` does, without its output. The run is the same as one launched in the UI: same job,
same partitions, and the UI can show it, re-execute it, or backfill its failed partitions.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from fleet_pipeline.defs.announcements import Announced, announce
from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.defs.jobs import deliberate_job
from fleet_pipeline.defs.partitions import refuse_while_running, register
from fleet_pipeline.defs.processes import PROCESS, close_dead_runs, this_process
from fleet_pipeline.defs.progress import Progress, Report
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.publisher import Receipts
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_rows
from fleet_pipeline.storage.task_store import put_task, specs

HOME = Path(".fleet/dagster")
INTERRUPTED = "it was interrupted"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `broke` says why it did not get to its verdicts; None when it did."""

    run_id: str
    keys: list[str]
    progress: Progress
    broke: str | None
    last_event_before: int


def instance_home() -> Path:
    """DAGSTER_HOME, or one of our own in the working directory, set up on first use."""
    if chosen := os.environ.get("DAGSTER_HOME"):
        if not Path(chosen).is_absolute() or not Path(chosen).is_dir():
            raise InvalidInput(f"DAGSTER_HOME is {chosen}: it must be an absolute path of a folder that exists")
        return Path(chosen)
    home = HOME.absolute()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        with resources.as_file(resources.files("fleet_pipeline") / "dagster.yaml") as template:
            shutil.copyfile(template, home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def run_backlog(instance: dg.DagsterInstance, settings: Settings, tasks: Sequence[Task], report: Report) -> Outcome:
    """Store the tasks, register their partitions, and execute one run over all of them."""
    store = Store(settings.storage)
    close_dead_runs(instance)
    # Before a spec changes: a run that is under way, or queued, may still have to read it.
    refuse_while_running(instance, [spec.key for task in tasks for spec in specs(task)])
    keys = [key for task in tasks for key in put_task(store, task)]
    run_id = str(uuid.uuid4())
    # Who typed the command tries again; a daemon that happens to run does not do so as well.
    tags = register(instance, keys) | {PROCESS: this_process(run_id), MAX_RETRIES_TAG: "0"}
    last = Progress()

    def remember(progress: Progress) -> None:
        nonlocal last
        last = progress
        report(progress)

    job = build_definitions(settings, overrides={"progress": remember}).resolve_job_def(deliberate_job.name)
    before = instance.event_log_storage.get_maximum_record_id() or 0
    run = instance.create_run_for_job(
        job, None, run_id, _run_config(settings), tags=tags, remote_job_origin=_as_in_workspace(job.name)
    )
    broke = execute(job, run, instance)  # first: `last` is another one afterwards
    return Outcome(run.run_id, keys, last, broke, before)


def announce_all(instance: dg.DagsterInstance, nats: NatsOptions, outcome: Outcome) -> Receipts:
    """Publish the verdicts of a run, as the sensor would. Raises `BrokerUnavailable`."""
    cursor, total = outcome.last_event_before, Announced()
    while (following := announce(instance, nats, cursor, total)) != cursor:
        cursor = following
    return total.receipts


def verdicts(settings: Settings, outcome: Outcome) -> list[dict[str, Any]]:
    """The rows of the `deliberations` table that this run wrote, in the order of its keys."""
    store = Store(settings.storage)
    found = (read_rows(store, "deliberations", key) for key in outcome.keys)
    rows = [row for table in found if table is not None for row in table.to_pylist()]
    return [row for row in rows if row["run_id"] == outcome.run_id]


def _run_config(settings: Settings) -> dict[str, Any]:
    """The settings in force, written into the run, so that the record says what it ran with and a
    re-execution from the UI repeats it. Nothing secret is among them."""
    council = settings.council
    return {
        "resources": {
            "engine": {"config": settings.engine.model_dump(exclude_none=True)},
            "council": {
                "config": council.model_dump(exclude={"sampling"}, exclude_none=True)
                | council.sampling.model_dump(exclude_none=True)
            },
            "weights": {"config": settings.weights.model_dump()},
            "scoring": {"config": settings.scoring.model_dump(exclude_none=True)},
            "judge": {"config": settings.judge.model_dump()},
            "storage": {"config": {"url": settings.storage}},
        },
        "loggers": {"console": {"config": {"log_level": "INFO"}}},
    }


def _as_in_workspace(job_name: str) -> RemoteJobOrigin:
    """Where the UI finds the job: the code location that workspace.yaml names."""
    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(module_name="fleet_pipeline.definitions", working_directory=str(Path.cwd())),
        location_name="fleet_pipeline",
    )
    return RemoteRepositoryOrigin(location, "__repository__").get_job_origin(job_name)


def execute(job: dg.JobDefinition, run: dg.DagsterRun, instance: dg.DagsterInstance) -> str | None:
    """Execute a run in this process; returns why it broke, if it did. Events are not kept: there are three for
    each deliberation.
    """
    succeeded, failures = False, []
    for event in execute_run_iterator(InMemoryJob(job), run, instance):
        succeeded = succeeded or event.event_type == dg.DagsterEventType.RUN_SUCCESS
        if event.is_step_failure:
            failures.append(event)
    return None if succeeded else why_broken(failures)


def why_broken(failures: Iterable[dg.DagsterEvent]) -> str | None:
    """Why a run broke. A `Failure` raised by `deliberations` is its verdict, and no breakage."""
    for event in failures:
        if event.step_key == "deliberations" and event.step_failure_data.user_failure_data:
            return None
        error = event.step_failure_data.error
        if error and error.cls_name == "DagsterExecutionInterruptedError":
            return INTERRUPTED
        cause = error.cause if error and error.cause else error
        # "package.module.ErrorClass: what a person can use"
        message = re.sub(r"^[\w.]+: ", "", cause.message.strip()) if cause else "failed"
        return f"step {event.step_key}: {message}"
    return "the run ended before its verdicts"
