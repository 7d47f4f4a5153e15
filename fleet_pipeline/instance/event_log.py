"""Reads outcomes from the event log, from a cursor on, in the order of writing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import dagster as dg

# Not exported by `dagster`: needed to tell evaluations of checks from those that are only planned.
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from fleet_pipeline.instance.metadata_keys import STORAGE
from fleet_pipeline.instance.names import OUTCOMES

T = TypeVar("T")
_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
PAGE = 500  # outcomes read before the cursor moves


class OutcomeRef(NamedTuple):
    """An outcome in the event log: its deliberation id, and the URL of the storage that its run wrote to."""

    key: str
    storage: str


def read_outcomes(instance: dg.DagsterInstance, cursor: int, limit: int = PAGE) -> tuple[list[OutcomeRef], int]:
    """(outcomes after `cursor`, next cursor), oldest first, each deliberation once.

    A completed outcome is a materialization, any other outcome an observation: two logs are read.
    """
    # Read first: an event written between the two reads below must not count as read by both.
    newest = instance.event_log_storage.get_maximum_record_id() or 0
    records_filter = dg.AssetRecordsFilter(asset_key=OUTCOMES, after_storage_id=cursor)
    good = instance.fetch_materializations(records_filter, limit=limit, ascending=True).records
    bad = instance.fetch_observations(records_filter, limit=limit, ascending=True).records
    logs = [
        [(r.storage_id, r.partition_key, r.asset_materialization.metadata) for r in good if r.asset_materialization],
        [(r.storage_id, r.partition_key, r.asset_observation.metadata) for r in bad if r.asset_observation],
    ]
    entries, next_cursor = merge(
        [[(position, OutcomeRef(key or "", _storage(metadata))) for position, key, metadata in log] for log in logs],
        cursor,
        limit,
        newest,
    )
    return [outcome for outcome in entries if outcome.key and outcome.storage], next_cursor


def announced_by(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    """The deliberations whose outcome this run has logged so far."""
    kinds = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION}
    found: set[str] = set()
    page = instance.get_records_for_run(run_id, of_type=kinds, limit=PAGE)
    while page.records:
        events = [record.event_log_entry.dagster_event for record in page.records]
        found |= {event.partition for event in events if event and event.asset_key == OUTCOMES and event.partition}
        page = instance.get_records_for_run(run_id, page.cursor, of_type=kinds, limit=PAGE)
    return found


def last_evaluation(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> Mapping[str, dg.MetadataValue]:
    """The metadata of a check's last evaluation, empty where there is none."""
    # Not `get_latest_asset_check_evaluation_record`: the evaluation that is planned now would hide that of before.
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=1, status=_EVALUATED)
    event = history[0].event.dagster_event if history and history[0].event else None
    return event.asset_check_evaluation_data.metadata if event else {}


def merge(logs: Sequence[Sequence[tuple[int, T]]], cursor: int, limit: int, newest: int) -> tuple[list[T], int]:
    """Merge pages of logs by position, up to the position that all logs were read to; returns (items, that position).

    A page of `limit` entries may have more behind it: entries of other logs beyond its end wait. Entries beyond
    `newest`, the last position when reading began, wait too.
    """
    full = [log[-1][0] for log in logs if len(log) == limit]
    last = max((position for log in logs for position, _ in log), default=cursor)
    end = max(cursor, min([*full, last, newest]))
    entries = sorted((entry for log in logs for entry in log if entry[0] <= end), key=lambda entry: entry[0])
    return list(dict.fromkeys(item for _, item in entries)), end


def _storage(metadata: Mapping[str, dg.MetadataValue]) -> str:
    """The storage URL of an outcome. Empty for foreign events, such as materializations reported by hand in the UI."""
    return str(metadata[STORAGE].value) if STORAGE in metadata else ""
