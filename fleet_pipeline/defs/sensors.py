"""Sensors read; they do not compute.

`completions` publishes finished deliberations on NATS. `requests` takes requests from NATS, and `inbox` from a
folder. Both request runs, and many requests share one run. `orphaned_runs` ends runs that were killed.
"""

import time
from functools import partial

import dagster as dg

from fleet_pipeline.common.errors import BrokerUnavailable, StorageError, StreamMismatch
from fleet_pipeline.defs.jobs import deliberate_job
from fleet_pipeline.defs.resources import CouncilResource, StorageResource, TickOptions, fleet_of
from fleet_pipeline.events.connection import run_blocking
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.receiver import receive
from fleet_pipeline.ingest.columns import BacklogOptions
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.instance.names import COMPLETIONS_SENSOR
from fleet_pipeline.instance.run_processes import fail_orphaned_runs
from fleet_pipeline.services.inbox import take_files
from fleet_pipeline.services.intake import Intake
from fleet_pipeline.services.publishing import PublishSummary, publish_pending

NO_BROKER = "no broker is configured: set FLEET_NATS__URL or nats.url in fleet.toml"


@dg.sensor(
    name=COMPLETIONS_SENSOR,
    description="Publishes deliberation.completed, .failed and .timeout to NATS JetStream for every outcome.",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def completions(
    context: dg.SensorEvaluationContext, nats: dg.ResourceParam[NatsOptions], ticks: dg.ResourceParam[TickOptions]
) -> dg.SkipReason:
    if nats.url is None:
        return dg.SkipReason(NO_BROKER)
    total, started, failure = PublishSummary(), time.monotonic(), ""
    while time.monotonic() - started < ticks.work_seconds:
        cursor = int(context.cursor or 0)
        try:
            next_cursor = publish_pending(context.instance, nats, cursor, total, ticks.page, ticks.chunk)
        except (BrokerUnavailable, StreamMismatch, StorageError) as error:
            # A failing tick keeps no cursor: every later tick would send the same events again.
            if not total.receipts:
                raise
            failure = f"; then {error}"
            context.log.error(str(error))
            break
        if next_cursor == cursor:
            break
        context.update_cursor(str(next_cursor))
    for key, reason in total.unreadable.items():
        context.log.warning(f"the events of {key} are not published: {reason}")
    receipts = total.receipts
    if not receipts and not total.unreadable:
        return dg.SkipReason("no outcomes since the last tick")
    sent = f"published {len(receipts.stored)} events; the broker knew {len(receipts.duplicates)} more already"
    unreadable = len(total.unreadable)
    unsent = f"; {unreadable} deliberations cannot be read (see the tick's log)" if unreadable else ""
    return dg.SkipReason(sent + unsent + failure)


@dg.sensor(
    job_name=deliberate_job.name,
    description="Takes deliberation.requested and planning.plan.approved from NATS JetStream; asks for runs.",
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def requests(
    context: dg.SensorEvaluationContext,
    nats: dg.ResourceParam[NatsOptions],
    request_options: dg.ResourceParam[RequestOptions],
    council: CouncilResource,
    storage: StorageResource,
    ticks: dg.ResourceParam[TickOptions],
) -> dg.SensorResult | dg.SkipReason:
    fleet = fleet_of(storage, council, request_options, retries=False)
    intake = Intake(context.instance, fleet.tasks, "requests", deliberate_job.name)
    intake.resume()
    if nats.url is None:
        return _result(context, intake, NO_BROKER)
    try:
        receive_all = partial(
            receive,
            take=partial(intake.take_messages, options=request_options),
            wait_seconds=0.0 if intake.run_requests else ticks.wait_seconds,
            work_seconds=ticks.work_seconds,
            batch=request_options.most_per_run,
            policy=ticks.delivery,
        )
        counts = run_blocking(nats, receive_all)
    except (BrokerUnavailable, StreamMismatch, StorageError) as error:
        if not intake.run_requests:
            raise
        # Requests that were taken are run, with or without the broker.
        context.log.error(str(error))
        return _result(context, intake, str(error))
    intake.notes += counts.failures
    taken = f"{counts.taken} requests taken, {counts.refused} refused"
    return _result(context, intake, taken if counts.taken + counts.refused else "no requests")


@dg.sensor(
    job_name=deliberate_job.name,
    description="Takes backlogs that are put into the inbox folder; asks for runs.",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def inbox(
    context: dg.SensorEvaluationContext,
    request_options: dg.ResourceParam[RequestOptions],
    backlog_options: dg.ResourceParam[BacklogOptions],
    council: CouncilResource,
    storage: StorageResource,
    ticks: dg.ResourceParam[TickOptions],
) -> dg.SensorResult | dg.SkipReason:
    fleet = fleet_of(storage, council, request_options, backlog_options, retries=False)
    intake = Intake(context.instance, fleet.tasks, "inbox", deliberate_job.name)
    intake.resume()
    try:
        limits = (request_options.most_per_run, ticks.work_seconds, ticks.still_seconds)
        done = take_files(intake, fleet.inbox, *limits, backlog_options)
    except StorageError as error:
        if not intake.run_requests:
            raise
        done = [str(error)]  # requests that were taken are run all the same
    return _result(context, intake, "; ".join(done) or "nothing in the inbox")


@dg.sensor(
    description="Ends runs of this machine whose process was killed, so that they hold no place in the queue.",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def orphaned_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    closed = fail_orphaned_runs(context.instance)
    return dg.SkipReason(f"ended {', '.join(closed)}" if closed else "every run that is under way has its process")


def _result(context: dg.SensorEvaluationContext, intake: Intake, summary: str) -> dg.SensorResult | dg.SkipReason:
    for note in intake.notes:
        context.log.warning(note)
    if not intake.run_requests:
        return dg.SkipReason("; ".join([summary, *intake.notes]))
    context.log.info(summary)
    return dg.SensorResult(run_requests=list(intake.run_requests.values()))
