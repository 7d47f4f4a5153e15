"""Schedules. Their ticks only look for work; the jobs do it."""

from collections.abc import Callable

import dagster as dg

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.defs.jobs import ask_backlog, prune_job
from fleet_pipeline.defs.resources import CouncilResource, StorageResource, fleet_of
from fleet_pipeline.ingest.columns import BacklogOptions
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.instance.tags import BACKLOG_DIFF
from fleet_pipeline.services.backlog_diff import diff_backlog
from fleet_pipeline.settings import BulkSettings, RetentionSettings, Settings

# Dagster ends a tick after 60 s. The job reads the part of the backlog that the tick did not reach.
LOOK_SECONDS = 30.0


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The schedules at the times in the settings. Raises `InvalidInput` for an invalid cron expression."""
    return [
        _build_schedule(settings.bulk.cron, settings.bulk.timezone, "bulk", _bulk),
        _build_schedule(settings.retention.cron, settings.retention.timezone, "retention", _retention),
    ]


def _build_schedule(
    cron: str, timezone: str, name: str, make: Callable[[str, str], dg.ScheduleDefinition]
) -> dg.ScheduleDefinition:
    try:
        return make(cron, timezone)
    except dg.DagsterInvalidDefinitionError as error:
        raise InvalidInput(
            f"{name}.cron: {cron!r} is no cron expression; give five fields: minute hour day month weekday"
        ) from error


def _bulk(cron: str, timezone: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        job=ask_backlog,
        cron_schedule=cron,
        execution_timezone=timezone,
        description="Looks through bulk.backlog; asks for what is new or changed in it since it was last asked for.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def bulk(
        context: dg.ScheduleEvaluationContext,
        bulk: dg.ResourceParam[BulkSettings],
        council: CouncilResource,
        storage: StorageResource,
        request_options: dg.ResourceParam[RequestOptions],
        backlog_options: dg.ResourceParam[BacklogOptions],
    ) -> dg.RunRequest | dg.SkipReason:
        if bulk.backlog is None:
            return dg.SkipReason("no backlog is set: bulk.backlog in fleet.toml, or FLEET_BULK__BACKLOG")
        try:
            fleet = fleet_of(storage, council, request_options, backlog_options, retries=False)
            diff = diff_backlog(fleet, bulk.backlog, LOOK_SECONDS)
        except InvalidInput as error:
            return dg.SkipReason(str(error))
        summary = f"{bulk.backlog}: {diff}"
        context.log.info(summary)
        if not diff.tasks and not diff.not_looked_at:
            return dg.SkipReason(summary)
        return dg.RunRequest(tags={BACKLOG_DIFF: summary[:2_000]})

    return bulk


def _retention(cron: str, timezone: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        job=prune_job,
        cron_schedule=cron,
        execution_timezone=timezone,
        description="Removes what is old, where [retention] says what that is.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def retention(retention: dg.ResourceParam[RetentionSettings]) -> dg.RunRequest | dg.SkipReason:
        if retention.max_age_days is None and retention.max_count is None:
            return dg.SkipReason("nothing says what is old: set retention.max_age_days or retention.max_count")
        return dg.RunRequest()

    return retention
