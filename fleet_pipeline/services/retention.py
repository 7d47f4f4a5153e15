"""Removing what is old: results, specs, partition keys and run records of deliberations that finished long ago.

Plain Python over an instance and a storage. A deliberation is as old as the newest of its files. Nothing that
is unfinished is touched: asked for and not run, queued, under way again, run and not yet judged, or judged and
not yet announced. A deliberation's outcome goes last, so that a removal that is cut short is found and ended by
the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.instance.partitions import NAME, UNFINISHED, unfinished, unfinished_backfill
from fleet_pipeline.instance.tags import PROCESS
from fleet_pipeline.services.publishing import unpublished
from fleet_pipeline.services.run_report import report_path
from fleet_pipeline.settings import RetentionSettings
from fleet_pipeline.storage.outbox import remove_events
from fleet_pipeline.storage.pending import pending_batches
from fleet_pipeline.storage.schemas import TABLES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import table_path
from fleet_pipeline.storage.task_store import TaskStore

# A file whose writing was cut short is somebody's who is still at it, until then.
WRITING = timedelta(days=1)
# After so many removals runs are looked at again; batches of requests are before each.
PAGE = 25
MOST_DAYS = 36_500


@dataclass(frozen=True)
class Old:
    """What may go. `unfinished` are deliberations that are as old, and stay."""

    deliberations: Mapping[str, datetime]  # key -> when the newest of its files was written
    runs: tuple[str, ...]
    files: tuple[str, ...]  # whose writing was cut short
    inbox: tuple[str, ...] = ()  # backlogs that were taken, and notes on what was refused of them
    unfinished: tuple[str, ...] = ()


@dataclass
class Removed:
    deliberations: list[str] = field(default_factory=list)
    runs: int = 0
    files: int = 0
    spared: list[str] = field(default_factory=list)  # that were asked for again meanwhile


def find_old(
    instance: dg.DagsterInstance,
    tasks: TaskStore,
    inbox: Store,
    keep: RetentionSettings,
    nats: NatsOptions,
    now: datetime | None = None,
) -> Old:
    """What `keep` says may go. Raises `InvalidInput` where it says nothing, and while a backfill is under way."""
    if keep.max_age_days is None and keep.max_count is None:
        raise InvalidInput("nothing says what is old: set retention.max_age_days or retention.max_count")
    if backfill := unfinished_backfill(instance):
        raise InvalidInput(f"backfill {backfill} is under way: prune when it has ended")
    store, now = tasks.store, now or datetime.now(UTC)
    written = {table: store.mtimes(table, ".parquet") for table in TABLES}
    asked, finished = store.mtimes("tasks", ".json"), written["deliberations"]
    newest = {
        key: max(asked.get(key, at), *(each.get(key, at) for each in written.values())) for key, at in finished.items()
    }
    newest_first = sorted(newest, key=lambda key: (newest[key], key), reverse=True)
    beyond = set(newest_first[keep.max_count :] if keep.max_count else ())
    since = now - timedelta(days=min(keep.max_age_days, MOST_DAYS)) if keep.max_age_days else None
    old = [key for key in newest_first if key in beyond or (since and newest[key] < since)]
    held = _unfinished(instance, tasks) | unpublished(instance, nats)
    # Asked for, or said, after it was judged: the run that is to judge it broke, or has not come yet.
    held |= {key for key, at in finished.items() if max(asked.get(key, at), written["utterances"].get(key, at)) > at}
    going = {key: newest[key] for key in reversed(old) if key not in held and is_deliberation_id(key)}
    kept = [min(at, written["utterances"].get(key, at)) for key, at in finished.items() if key not in going]
    # A run that ended before the oldest kept file was written has made none of them.
    oldest = min([*kept, *([since] if since else []), now])
    files = [
        path
        for folder in ("tasks", "outbox", "attempts", "pending", "reports", *TABLES)
        for path, at in store.orphaned_temporaries(folder).items()
        if at < now - WRITING
    ]
    taken = [
        f"{folder}/{name}{suffix}"
        for folder in ("taken", "refused")
        for suffix in (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
        for name, at in inbox.mtimes(folder, suffix).items()
        if since and at < since
    ]
    left = tuple(key for key in old if key in held)
    return Old(going, tuple(_ended_runs(instance, oldest)), tuple(files), tuple(taken), left)


def remove(
    instance: dg.DagsterInstance,
    tasks: TaskStore,
    inbox: Store,
    old: Old,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Removed:
    """Remove what `find_old` found; `told` hears how many deliberations have gone.

    What is asked for again meanwhile is spared: a request is a batch in the storage first, then a spec.
    """
    store, removed = tasks.store, Removed()
    earlier = [f"attempts/{name}" for name in store.mtimes("attempts", "")]
    held: frozenset[str] = frozenset()
    batches: list[str] = []
    for place, (key, at) in enumerate(old.deliberations.items()):
        if place % PAGE == 0 or store.names("pending", ".json") != batches:
            batches = store.names("pending", ".json")
            held = _unfinished(instance, tasks)
            on_progress(len(removed.deliberations))
        if key in held or _changed(store, key, at):
            removed.spared.append(key)
            continue
        _remove(instance, tasks, key, [path for path in earlier if path.startswith(f"attempts/{key}.")])
        removed.deliberations.append(key)
    for run_id in old.runs:
        store.delete(report_path(run_id))  # first: nothing would lead to it afterwards
        instance.delete_run(run_id)
        removed.runs += 1
    for folder, paths in ((store, old.files), (inbox, old.inbox)):
        for path in paths:
            folder.delete(path)
            removed.files += 1
    return removed


def _remove(instance: dg.DagsterInstance, tasks: TaskStore, key: str, earlier: Iterable[str]) -> None:
    store = tasks.store
    for path in earlier:
        # "a.dev." begins the attempts of "a.dev", and of nothing else: "a.dev.001.parquet".
        if path.split(".")[-2].isdecimal() and path.rsplit(".", 2)[0] == f"attempts/{key}":
            store.delete(path)
    for table in TABLES:
        if table != "deliberations":
            store.delete(table_path(table, key))
    remove_events(store, key)
    instance.delete_dynamic_partition(NAME, key)
    tasks.remove(key)
    store.delete(table_path("deliberations", key))


def _changed(store: Store, key: str, at: datetime) -> bool:
    """Whether a deliberation was asked for, or judged, after `at`."""
    paths = [path for path in (f"tasks/{key}.json", table_path("deliberations", key)) if store.read(path) is not None]
    return any(store.modified(path) > at for path in paths)


def _unfinished(instance: dg.DagsterInstance, tasks: TaskStore) -> frozenset[str]:
    """Keys that a run which has not ended holds, or that wait for one."""
    batches, _ = pending_batches(tasks)
    return frozenset(unfinished(instance)) | {key for batch in batches for key in batch.keys}


def _ended_runs(instance: dg.DagsterInstance, before: datetime) -> Iterable[str]:
    """Ids of the runs that ended before a time, and were executed by this project's code: others share the instance."""
    for record in instance.get_run_records(dg.RunsFilter(updated_before=before)):
        run, ended = record.dagster_run, record.end_time
        ours = run.tags.get(PROCESS, "").startswith(run.run_id)
        if ours and run.status not in UNFINISHED and ended is not None and ended < before.timestamp():
            yield run.run_id
