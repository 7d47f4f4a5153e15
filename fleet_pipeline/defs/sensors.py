"""Sensors read; they do not compute. `completions` announces finished deliberations on NATS."""

import time

import dagster as dg

from fleet_pipeline.defs.announcements import Announced, announce
from fleet_pipeline.events.options import NatsOptions

# Dagster ends a tick after 60 s, and a tick that is ended keeps nothing of what it did.
TICK_SECONDS = 40.0


@dg.sensor(
    description="Publishes deliberation.completed, .failed and .timeout to NATS JetStream for every verdict.",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def completions(context: dg.SensorEvaluationContext, nats: dg.ResourceParam[NatsOptions]) -> dg.SkipReason:
    if nats.url is None:
        return dg.SkipReason("no broker is configured: set FLEET_NATS__URL or nats.url in fleet.toml")
    total, began = Announced(), time.monotonic()
    while time.monotonic() - began < TICK_SECONDS:
        cursor = int(context.cursor or 0)
        following = announce(context.instance, nats, cursor, total)
        if following == cursor:
            break
        context.update_cursor(str(following))
    for key, reason in total.unreadable.items():
        context.log.warning(f"{key} is not announced: {reason}")
    receipts = total.receipts
    if not receipts.stored + receipts.duplicates and not total.unreadable:
        return dg.SkipReason("no verdicts since the last tick")
    known, torn = len(receipts.duplicates), len(total.unreadable)
    unsent = f"; {torn} deliberations cannot be read (see the tick's log)" if torn else ""
    return dg.SkipReason(f"published {len(receipts.stored)} events; the broker knew {known} more already{unsent}")
