"""Schedules: what is done by the clock."""

import dagster as dg

from fleet_pipeline.defs.jobs import prune_job
from fleet_pipeline.settings import RetentionSettings


@dg.schedule(
    job=prune_job,
    cron_schedule="30 3 * * *",
    description="Removes what is old, where [retention] says what that is.",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def retention_nightly(retention: dg.ResourceParam[RetentionSettings]) -> dg.RunRequest | dg.SkipReason:
    if retention.max_age_days is None and retention.max_count is None:
        return dg.SkipReason("nothing says what is old: set retention.max_age_days or retention.max_count")
    return dg.RunRequest()
