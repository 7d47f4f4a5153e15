"""Sensors read; they do not compute. `completions` announces finished deliberations on NATS.

The event log is the outbox. The cursor moves only after the broker's acks, so that after a crash
events are sent again, under the same ids, and none is lost.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

import dagster as dg

from fleet_pipeline.defs.announcements import Judged, events
from fleet_pipeline.defs.verdicts import STORAGE
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.publisher import Receipts, publish

T = TypeVar("T")
VERDICTS = dg.AssetKey("deliberations")
PAGE = 100
# Dagster ends a tick after 60 s, and a tick that is ended keeps nothing of what it did.
TICK_SECONDS = 40.0


def read_verdicts(instance: dg.DagsterInstance, cursor: int, limit: int = PAGE) -> tuple[list[Judged], int]:
    """(verdicts after `cursor`, next cursor), oldest first, each deliberation once.

    A good verdict is a materialization and a bad one an observation, so that two logs are read.
    """
    filter_ = dg.AssetRecordsFilter(asset_key=VERDICTS, after_storage_id=cursor)
    good = instance.fetch_materializations(filter_, limit=limit, ascending=True).records
    bad = instance.fetch_observations(filter_, limit=limit, ascending=True).records
    logs = [
        [(r.storage_id, r.partition_key, r.asset_materialization.metadata) for r in good if r.asset_materialization],
        [(r.storage_id, r.partition_key, r.asset_observation.metadata) for r in bad if r.asset_observation],
    ]
    entries, following = merge(
        [[(at, Judged(key or "", _storage(found))) for at, key, found in log] for log in logs], cursor, limit
    )
    return [judged for judged in entries if judged.key and judged.storage], following


def _storage(found: Mapping[str, dg.MetadataValue]) -> str:
    """Materializations that are not ours, such as ones reported by hand in the UI, name no storage."""
    return str(found[STORAGE].value) if STORAGE in found else ""


def merge(logs: Sequence[Sequence[tuple[int, T]]], cursor: int, limit: int) -> tuple[list[T], int]:
    """Merge pages of logs by position, up to where all of them have been read.

    A page of `limit` entries may have more behind it: entries of other logs beyond its end wait.
    """
    full = [log[-1][0] for log in logs if len(log) == limit]
    end = min(full) if full else max((position for log in logs for position, _ in log), default=cursor)
    entries = sorted((entry for log in logs for entry in log if entry[0] <= end), key=lambda entry: entry[0])
    return list(dict.fromkeys(found for _, found in entries)), end


def announce(instance: dg.DagsterInstance, nats: NatsOptions, cursor: int) -> tuple[Receipts, int]:
    """Publish one page of verdicts after `cursor`; (acks, next cursor). Raises `BrokerUnavailable`."""
    verdicts, following = read_verdicts(instance, cursor)
    if not verdicts:
        return Receipts(), following
    return publish(nats, lambda max_bytes: events(verdicts, max_bytes)), following


@dg.sensor(
    description="Publishes deliberation.completed, .failed and .timeout to NATS JetStream for every verdict.",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def completions(context: dg.SensorEvaluationContext, nats: dg.ResourceParam[NatsOptions]) -> dg.SkipReason:
    if nats.url is None:
        return dg.SkipReason("no broker is configured: set FLEET_NATS__URL or nats.url in fleet.toml")
    total, began = Receipts(), time.monotonic()
    while time.monotonic() - began < TICK_SECONDS:
        cursor = int(context.cursor or 0)
        receipts, following = announce(context.instance, nats, cursor)
        if following == cursor:
            break
        context.update_cursor(str(following))
        total += receipts
    if not total.stored + total.duplicates:
        return dg.SkipReason("no verdicts since the last tick")
    return dg.SkipReason(f"published {len(total.stored)} events; the broker knew {len(total.duplicates)} more already")
