"""Executes a backlog as one Dagster run, in this process, and records it in the instance.

This is `fleet run` without its output. The run has the job and the partitions of a run launched in the UI.
So the UI can show it, re-execute it, or backfill its failed partitions.
"""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Self

import dagster as dg

from fleet_pipeline.common.errors import BrokerUnavailable, StorageError, StreamMismatch
from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.defs.jobs import deliberate_job
from fleet_pipeline.defs.resources import engine_config
from fleet_pipeline.deliberation.rows import OutcomeRow
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.instance.in_process import create_run, execute
from fleet_pipeline.instance.partitions import refuse_while_running, register
from fleet_pipeline.instance.run_processes import fail_orphaned_runs, this_process
from fleet_pipeline.instance.tags import MAX_RETRIES, PROCESS
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.services.progress import OnProgress, Progress
from fleet_pipeline.services.publishing import PublishSummary, publish_pending
from fleet_pipeline.settings import PodSettings, Settings
from fleet_pipeline.storage.schemas import DELIBERATIONS
from fleet_pipeline.storage.tables import read_rows
from fleet_pipeline.storage.task_store import specs

# How often a run looks for outcomes to publish.
PUBLISH_SECONDS = 2.0


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `broke` says why it did not reach its outcomes; None if it did."""

    run_id: str
    keys: list[str]
    progress: Progress
    broke: str | None


def run_backlog(
    instance: dg.DagsterInstance, settings: Settings, tasks: Sequence[Task], on_progress: OnProgress
) -> RunResult:
    """Store the tasks, register their partitions, and execute one run over all of them. Progress goes to `report`."""
    fleet = Fleet.of(settings)
    fail_orphaned_runs(instance)
    # Before any spec changes: a running or queued run may still have to read it.
    refuse_while_running(instance, [spec.key for task in tasks for spec in specs(task)])
    keys = [key for task in tasks for key in fleet.tasks.put(task)]
    run_id = str(uuid.uuid4())
    # The person at the command line retries. A daemon that happens to run must not retry as well.
    tags = register(instance, keys) | {PROCESS: this_process(run_id), MAX_RETRIES: "0"}
    latest_progress = Progress()

    def remember(progress: Progress) -> None:
        nonlocal latest_progress
        latest_progress = progress
        on_progress(progress)

    here = settings.model_copy(update={"pods": PodSettings()})  # in this process, on a cluster as well
    job = build_definitions(here, overrides={"progress": remember}).resolve_job_def(deliberate_job.name)
    run = create_run(instance, job, run_id, _run_config(settings), tags)
    broke = execute(job, run, instance)  # before `latest_progress` is read: the run replaces it
    return RunResult(run.run_id, keys, latest_progress, broke)


class RunPublisher:
    """Publishes outcomes while a run goes on, as the sensor would where there is a daemon.

    A thread publishes what is new every few seconds, and tries again later what the broker does not take. `finish`
    publishes the rest.
    """

    def __init__(self, instance: dg.DagsterInstance, nats: NatsOptions) -> None:
        self.published = PublishSummary()
        self._instance = instance
        self._nats = nats
        self._cursor = instance.event_log_storage.get_maximum_record_id() or 0
        self._ended = Event()
        self._thread = Thread(target=self._work, name="fleet-publish", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def finish(self) -> None:
        """Publish what is left. Raises `BrokerUnavailable`, `StreamMismatch`."""
        self._ended.set()
        self._thread.join()
        self._publish()

    def _work(self) -> None:
        while not self._ended.wait(PUBLISH_SECONDS):
            with suppress(BrokerUnavailable, StreamMismatch, StorageError):
                self._publish()

    def _publish(self) -> None:
        while True:
            cursor = publish_pending(self._instance, self._nats, self._cursor, self.published)
            if cursor == self._cursor:
                return
            self._cursor = cursor


def outcome_rows(settings: Settings, result: RunResult) -> list[OutcomeRow]:
    """The rows of the `deliberations` table that this run wrote, in the order of its keys."""
    store = Fleet.of(settings).store
    rows = [row for key in result.keys for row in read_rows(store, DELIBERATIONS, key)]
    return [row for row in rows if row.run_id == result.run_id]


def _run_config(settings: Settings) -> dict[str, Any]:
    """The settings in force, without secrets, as run config. The run's record then shows them, and a
    re-execution from the UI repeats them."""
    council = settings.council
    return {
        "resources": {
            "engine": {"config": engine_config(settings)},
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
