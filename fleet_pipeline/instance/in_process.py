"""Executes runs in this process, recorded in the instance like any other run."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

# Not exported by `dagster`: the public `execute_in_process` keeps every event of a run in memory until it ends, three
# per deliberation. The UI can neither show its runs under their code location nor re-execute them.
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from fleet_pipeline.instance.names import CODE_LOCATION, CODE_MODULE, DELIBERATIONS, REPOSITORY

INTERRUPTED = "it was interrupted"


def create_run(
    instance: dg.DagsterInstance, job: dg.JobDefinition, run_id: str, config: Mapping[str, Any], tags: Mapping[str, str]
) -> dg.DagsterRun:
    """A run of `job` that has not started, as the UI would create it."""
    origin = _workspace_origin(job.name)
    return instance.create_run_for_job(job, None, run_id, config, tags=tags, remote_job_origin=origin)


def _workspace_origin(job_name: str) -> RemoteJobOrigin:
    """The origin under which the UI finds the job: the code location that workspace.yaml names."""
    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(module_name=CODE_MODULE, working_directory=str(Path.cwd())), location_name=CODE_LOCATION
    )
    return RemoteRepositoryOrigin(location, REPOSITORY).get_job_origin(job_name)


def execute(job: dg.JobDefinition, run: dg.DagsterRun, instance: dg.DagsterInstance) -> str | None:
    """Execute a run in this process; returns why it broke, or None. Keeps no events: a deliberation has three."""
    succeeded, failures = False, []
    for event in execute_run_iterator(InMemoryJob(job), run, instance):
        succeeded = succeeded or event.event_type == dg.DagsterEventType.RUN_SUCCESS
        if event.is_step_failure:
            failures.append(event)
    return None if succeeded else why_broken(failures)


def why_broken(failures: Iterable[dg.DagsterEvent]) -> str | None:
    """Why a run broke. None if `deliberations` raised a `Failure`: the run then has its outcomes."""
    for event in failures:
        if event.step_key == DELIBERATIONS and event.step_failure_data.user_failure_data:
            return None
        error = event.step_failure_data.error
        if error and error.cls_name == "DagsterExecutionInterruptedError":
            return INTERRUPTED
        cause = error.cause if error and error.cause else error
        # "package.module.ErrorClass: message"
        message = re.sub(r"^[\w.]+: ", "", cause.message.strip()) if cause else "failed"
        return f"step {event.step_key}: {message}"
    return "the run ended before its outcomes"
