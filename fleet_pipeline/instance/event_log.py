"""Outcomes in the event log, read from a cursor in the order in which they were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import dagster as dg

from fleet_pipeline.instance.metadata_keys import STORAGE
from fleet_pipeline.instance.names import OUTCOMES

T = TypeVar("T")
PAGE = 500  # outcomes that are read before the cursor moves


class OutcomeRef(NamedTuple):
    """An outcome in the event log: which deliberation, and the storage its run wrote to."""

    key: str
    storage: str


def read_outcomes(instance: dg.DagsterInstance, cursor: int, limit: int = PAGE) -> tuple[list[OutcomeRef], int]:
    """(outcomes after `cursor`, next cursor), oldest first, each deliberation once.

    A good outcome is a materialization and a bad one an observation, so that two logs are read.
    """
    # Read first: what is written between the two reads below must not count as read by both.
    newest = instance.event_log_storage.get_maximum_record_id() or 0
    filter_ = dg.AssetRecordsFilter(asset_key=OUTCOMES, after_storage_id=cursor)
    good = instance.fetch_materializations(filter_, limit=limit, ascending=True).records
    bad = instance.fetch_observations(filter_, limit=limit, ascending=True).records
    logs = [
        [(r.storage_id, r.partition_key, r.asset_materialization.metadata) for r in good if r.asset_materialization],
        [(r.storage_id, r.partition_key, r.asset_observation.metadata) for r in bad if r.asset_observation],
    ]
    entries, following = merge(
        [[(at, OutcomeRef(key or "", _storage(found))) for at, key, found in log] for log in logs],
        cursor,
        limit,
        newest,
    )
    return [judged for judged in entries if judged.key and judged.storage], following


def merge(logs: Sequence[Sequence[tuple[int, T]]], cursor: int, limit: int, newest: int) -> tuple[list[T], int]:
    """Merge pages of logs by position, up to where all of them have been read.

    A page of `limit` entries may have more behind it: entries of other logs beyond its end wait. So do those
    beyond `newest`, the last position when reading began.
    """
    full = [log[-1][0] for log in logs if len(log) == limit]
    last = max((position for log in logs for position, _ in log), default=cursor)
    end = max(cursor, min([*full, last, newest]))
    entries = sorted((entry for log in logs for entry in log if entry[0] <= end), key=lambda entry: entry[0])
    return list(dict.fromkeys(found for _, found in entries)), end


def _storage(found: Mapping[str, dg.MetadataValue]) -> str:
    """Materializations that are not ours, such as ones reported by hand in the UI, name no storage."""
    return str(found[STORAGE].value) if STORAGE in found else ""
