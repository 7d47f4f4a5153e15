"""Sensors read; they do not compute. `completions` announces finished deliberations on NATS.

The event log is the outbox. The cursor moves only after the broker's acks, so that after a crash
events are sent again, under the same ids, and none is lost.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from fleet_pipeline.defs.resources import StorageResource
from fleet_pipeline.events.completions import completion_event
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.publisher import Receipts, publish
from fleet_pipeline.settings import NatsSettings
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_rows, table_path

VERDICTS = dg.AssetKey("deliberations")
PAGE = 500


def read_verdicts(instance: dg.DagsterInstance, cursor: int, limit: int = PAGE) -> tuple[list[str], int]:
    """(keys of the deliberations judged after `cursor`, next cursor), oldest first.

    A good verdict is a materialization and a bad one an observation, so that two logs are read.
    """
    records = dg.AssetRecordsFilter(asset_key=VERDICTS, after_storage_id=cursor)
    good = instance.fetch_materializations(records, limit=limit, ascending=True).records
    bad = instance.fetch_observations(records, limit=limit, ascending=True).records
    logs = [[(record.storage_id, record.partition_key) for record in log] for log in (good, bad)]
    return merge(logs, cursor, limit)


def merge(logs: Sequence[Sequence[tuple[int, str | None]]], cursor: int, limit: int) -> tuple[list[str], int]:
    """Merge pages of logs by position, up to where all of them have been read.

    A page of `limit` entries may have more behind it: entries of other logs beyond its end wait.
    """
    full = [log[-1][0] for log in logs if len(log) == limit]
    end = min(full) if full else max((position for log in logs for position, _ in log), default=cursor)
    entries = sorted({entry for log in logs for entry in log if entry[0] <= end})
    keys = dict.fromkeys(key for _, key in entries if key is not None)
    return list(keys), end


def events(store: Store, keys: Sequence[str], max_bytes: int) -> Iterator[Envelope]:
    """The completion events of deliberations as they stand on disk; pruned ones have none."""
    for key in keys:
        verdict = read_rows(store, "deliberations", key)
        if verdict is None or not verdict.num_rows:
            continue
        seats = read_rows(store, "proposals", key)
        yield completion_event(
            verdict.to_pylist()[0],
            seats.to_pylist() if seats is not None else [],
            store.full_path(table_path("proposals", key)),
            # Headers and protocol take room in the payload limit as well.
            max_bytes - 1_024,
        )


def announce(instance: dg.DagsterInstance, store: Store, url: str, cursor: int) -> tuple[Receipts, int]:
    """Publish one page of verdicts after `cursor`; (acks, next cursor). Raises `BrokerUnavailable`."""
    keys, following = read_verdicts(instance, cursor)
    if not keys:
        return Receipts(), following
    return publish(url, lambda max_bytes: events(store, keys, max_bytes)), following


@dg.sensor(
    description="Publishes deliberation.completed, .failed and .timeout to NATS JetStream for every verdict.",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def completions(
    context: dg.SensorEvaluationContext, storage: StorageResource, nats: dg.ResourceParam[NatsSettings]
) -> dg.SkipReason:
    if nats.url is None:
        return dg.SkipReason("no broker is configured: set FLEET_NATS__URL or nats.url in fleet.toml")
    cursor = int(context.cursor or 0)
    receipts, following = announce(context.instance, storage.store(), nats.url, cursor)
    if following != cursor:
        context.update_cursor(str(following))
    if not receipts.stored + receipts.duplicates:
        return dg.SkipReason("no verdicts since the last tick")
    return dg.SkipReason(
        f"published {receipts.stored} events, {receipts.duplicates} of them already known to the broker"
    )
