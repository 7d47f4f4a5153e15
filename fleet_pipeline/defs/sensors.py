"""Sensors read; they do not compute.

`completions` announces finished deliberations on NATS. `requests` takes what is asked for there, and `inbox`
what is put into a folder; both ask for runs, many requests sharing one. `lost_runs` ends runs that were killed.
"""

import time

import dagster as dg

from fleet_pipeline.defs.announcements import Announced, announce
from fleet_pipeline.defs.inbox import take_files
from fleet_pipeline.defs.intake import Intake
from fleet_pipeline.defs.jobs import deliberate_job
from fleet_pipeline.defs.processes import close_dead_runs
from fleet_pipeline.defs.resources import CouncilResource, StorageResource
from fleet_pipeline.events.connection import BrokerUnavailable
from fleet_pipeline.events.intake import receive
from fleet_pipeline.events.options import NatsOptions, RequestOptions
from fleet_pipeline.events.streams import StreamMismatch
from fleet_pipeline.storage.store import StorageError, Store

# Dagster ends a tick after 60 s, and a tick that is ended keeps nothing of what it did.
TICK_SECONDS = 40.0
# Dagster looks at a sensor every 5 s at most: one that waits inside its tick starts runs sooner.
WAIT_SECONDS = 20.0
NO_BROKER = "no broker is configured: set FLEET_NATS__URL or nats.url in fleet.toml"


@dg.sensor(
    description="Publishes deliberation.completed, .failed and .timeout to NATS JetStream for every verdict.",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def completions(context: dg.SensorEvaluationContext, nats: dg.ResourceParam[NatsOptions]) -> dg.SkipReason:
    if nats.url is None:
        return dg.SkipReason(NO_BROKER)
    total, began, broke = Announced(), time.monotonic(), ""
    while time.monotonic() - began < TICK_SECONDS:
        cursor = int(context.cursor or 0)
        try:
            following = announce(context.instance, nats, cursor, total)
        except (BrokerUnavailable, StreamMismatch, StorageError) as error:
            # A tick that fails keeps no cursor: what has been sent would be sent again by every one.
            if not total.receipts:
                raise
            broke = f"; then {error}"
            context.log.error(str(error))
            break
        if following == cursor:
            break
        context.update_cursor(str(following))
    for key, reason in total.unreadable.items():
        context.log.warning(f"{key} is not announced: {reason}")
    receipts = total.receipts
    if not receipts and not total.unreadable:
        return dg.SkipReason("no verdicts since the last tick")
    known, torn = len(receipts.duplicates), len(total.unreadable)
    unsent = f"; {torn} deliberations cannot be read (see the tick's log)" if torn else ""
    return dg.SkipReason(
        f"published {len(receipts.stored)} events; the broker knew {known} more already{unsent}{broke}"
    )


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
) -> dg.SensorResult | dg.SkipReason:
    intake = Intake(context.instance, storage.store(), council.roles(), "requests", deliberate_job.name)
    intake.resume()
    if nats.url is None:
        return _result(context, intake, NO_BROKER)
    try:
        counts = receive(
            nats,
            lambda messages: intake.take_messages(messages, request_options),
            wait_seconds=0.0 if intake.run_requests else WAIT_SECONDS,
            work_seconds=TICK_SECONDS,
            batch=request_options.most_per_run,
        )
    except (BrokerUnavailable, StreamMismatch, StorageError) as error:
        if not intake.run_requests:
            raise
        # What has been taken is run, broker or no broker.
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
    council: CouncilResource,
    storage: StorageResource,
) -> dg.SensorResult | dg.SkipReason:
    intake = Intake(context.instance, storage.store(), council.roles(), "inbox", deliberate_job.name)
    intake.resume()
    folder = Store(request_options.inbox_url(storage.url))
    try:
        reports = take_files(intake, folder, request_options.most_per_run, TICK_SECONDS)
    except StorageError as error:
        if not intake.run_requests:
            raise
        reports = [str(error)]  # what has been taken is run all the same
    return _result(context, intake, "; ".join(reports) or "nothing in the inbox")


@dg.sensor(
    description="Ends runs of this machine whose process was killed, so that they hold no place in the queue.",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    closed = close_dead_runs(context.instance)
    return dg.SkipReason(f"ended {', '.join(closed)}" if closed else "every run that is under way has its process")


def _result(context: dg.SensorEvaluationContext, intake: Intake, did: str) -> dg.SensorResult | dg.SkipReason:
    for note in intake.notes:
        context.log.warning(note)
    if not intake.run_requests:
        return dg.SkipReason("; ".join([did, *intake.notes]))
    context.log.info(did)
    return dg.SensorResult(run_requests=list(intake.run_requests.values()))
