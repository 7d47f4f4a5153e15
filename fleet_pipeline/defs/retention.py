"""Removing what is old: results, specs, partition keys and run records of deliberations that finished long ago.

Plain Python over an instance and a storage. Nothing that is unfinished is touched: asked for and not run,
queued, or under way again. A deliberation's verdict goes last, so that a removal that is cut short is found
and ended by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg

from fleet_pipeline.defs.partitions import NAME, UNFINISHED, unfinished
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import is_key
from fleet_pipeline.settings import RetentionSettings
from fleet_pipeline.storage.outbox import remove_events
from fleet_pipeline.storage.pending import pending_batches
from fleet_pipeline.storage.rows import attempt_path, attempts
from fleet_pipeline.storage.schemas import TABLES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import table_path
from fleet_pipeline.storage.task_store import remove_spec

ASSETS = frozenset(dg.AssetKey(name) for name in ("transcripts", "proposals", "deliberations"))
# A file whose writing was cut short is somebody's who is still at it, until then.
WRITING = timedelta(days=1)
# Whether anything is unfinished is asked again after so many removals.
PAGE = 200


@dataclass(frozen=True)
class Old:
    """What may go. `unfinished` are deliberations that are as old, and stay."""

    deliberations: Mapping[str, datetime]  # key -> when its verdict was written
    runs: tuple[str, ...]
    files: tuple[str, ...]  # whose writing was cut short
    inbox: tuple[str, ...] = ()  # backlogs that were taken, and notes on what was refused of them
    unfinished: tuple[str, ...] = ()


@dataclass
class Removed:
    deliberations: int = 0
    runs: int = 0
    files: int = 0
    spared: list[str] = field(default_factory=list)  # that were asked for again meanwhile


def find_old(
    instance: dg.DagsterInstance,
    store: Store,
    inbox: Store,
    roles: Mapping[str, Role],
    keep: RetentionSettings,
    now: datetime | None = None,
) -> Old:
    """What `keep` says may go. Raises `InvalidInput` where it says nothing."""
    if keep.max_age_days is None and keep.max_count is None:
        raise InvalidInput("nothing says what is old: set retention.max_age_days or retention.max_count")
    now = now or datetime.now(UTC)
    finished = store.moments("deliberations", ".parquet")
    newest_first = sorted(finished, key=lambda key: (finished[key], key), reverse=True)
    beyond = set(newest_first[keep.max_count :] if keep.max_count else ())
    since = now - timedelta(days=keep.max_age_days) if keep.max_age_days else None
    old = [key for key in newest_first if key in beyond or (since and finished[key] < since)]
    held = _unfinished(instance, store, roles)
    going = {key: finished[key] for key in reversed(old) if key not in held and is_key(key)}
    kept = [finished[key] for key in finished if key not in going]
    # A run that ended before the oldest kept verdict was written has made none of them.
    oldest = min([*kept, *([since] if since else []), now])
    files = [
        path
        for folder in ("tasks", "outbox", "attempts", "pending", *TABLES)
        for path, at in store.remains(folder).items()
        if at < now - WRITING
    ]
    taken = [
        f"{folder}/{name}"
        for folder in ("taken", "refused")
        for name, at in inbox.moments(folder, "").items()
        if since and at < since
    ]
    left = tuple(key for key in old if key in held)
    return Old(going, tuple(_ended_runs(instance, oldest)), tuple(files), tuple(taken), left)


def remove(
    instance: dg.DagsterInstance,
    store: Store,
    inbox: Store,
    roles: Mapping[str, Role],
    old: Old,
    told: Callable[[int], None] = lambda _: None,
) -> Removed:
    """Remove what `find_old` found; `told` hears how many deliberations have gone."""
    removed = Removed()
    keys = list(old.deliberations)
    for start in range(0, len(keys), PAGE):
        held = _unfinished(instance, store, roles)
        for key in keys[start : start + PAGE]:
            if key in held:
                removed.spared.append(key)
                continue
            _remove(instance, store, key)
            removed.deliberations += 1
        told(removed.deliberations)
    for run_id in old.runs:
        instance.delete_run(run_id)
        removed.runs += 1
    for place, paths in ((store, old.files), (inbox, old.inbox)):
        for path in paths:
            place.delete(path)
            removed.files += 1
    return removed


def _remove(instance: dg.DagsterInstance, store: Store, key: str) -> None:
    for number in attempts(store, key):
        store.delete(attempt_path(key, number))
    for table in TABLES:
        if table != "deliberations":
            store.delete(table_path(table, key))
    remove_events(store, key)
    instance.delete_dynamic_partition(NAME, key)
    remove_spec(store, key)
    store.delete(table_path("deliberations", key))


def _unfinished(instance: dg.DagsterInstance, store: Store, roles: Mapping[str, Role]) -> frozenset[str]:
    """Keys that a run which has not ended holds, or that wait for one."""
    batches, _ = pending_batches(store, roles)
    return frozenset(unfinished(instance)) | {key for batch in batches for key in batch.keys}


def _ended_runs(instance: dg.DagsterInstance, before: datetime) -> Iterable[str]:
    """Ids of this project's runs that ended before a time; an instance may serve others as well."""
    for record in instance.get_run_records(dg.RunsFilter(updated_before=before)):
        run, ended = record.dagster_run, record.end_time
        selected = run.asset_selection or frozenset()
        ours = run.job_name in ("deliberate", "prune") or (selected and selected <= ASSETS)
        if ours and run.status not in UNFINISHED and ended is not None and ended < before.timestamp():
            yield run.run_id
