"""Prunes old results: files, specs, partition keys and run records of deliberations that finished long ago.

Plain Python over an instance and a storage. A deliberation is as old as the newest of its files. Unfinished ones stay:
requested but not run, queued, under way again, run but without a new outcome, or with an outcome that is not yet
published. The outcome is deleted last, so that the next prune finds an interrupted removal and completes it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.ingest.records import kind_of
from fleet_pipeline.instance.partitions import NAME, UNFINISHED, unfinished, unfinished_backfill
from fleet_pipeline.instance.tags import PROCESS, of_run
from fleet_pipeline.services.publishing import unpublished
from fleet_pipeline.services.run_report import report_path
from fleet_pipeline.settings import RetentionSettings
from fleet_pipeline.storage import answer_log
from fleet_pipeline.storage.outbox import remove_events
from fleet_pipeline.storage.pending import pending_batches
from fleet_pipeline.storage.schemas import DELIBERATIONS, TABLES, TOOL_CALLS
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import table_path
from fleet_pipeline.storage.task_store import TaskStore

# A temporary file younger than this may still be being written.
WRITING = timedelta(days=1)
# Unfinished runs are read again after this many removals. Pending batches are read before each removal.
PAGE = 25
MOST_DAYS = 36_500


@dataclass(frozen=True)
class Old:
    """Candidates for pruning. `unfinished` are deliberations that are as old, and stay."""

    deliberations: Mapping[str, datetime]  # key -> modification time of its newest file
    runs: tuple[str, ...]
    # Of interrupted writes, of answers that nobody goes on from, and of calls that are older than all results that stay.
    files: tuple[str, ...]
    inbox: tuple[str, ...] = ()  # taken backlogs, and the files of their refused lines
    unfinished: tuple[str, ...] = ()


@dataclass
class Removed:
    deliberations: list[str] = field(default_factory=list)
    runs: int = 0
    files: int = 0
    spared: list[str] = field(default_factory=list)  # requested again meanwhile


def find_old(
    instance: dg.DagsterInstance,
    tasks: TaskStore,
    inbox: Store,
    keep: RetentionSettings,
    nats: NatsOptions,
    now: datetime | None = None,
) -> Old:
    """Everything that `keep` allows to prune. Raises `InvalidInput` if it sets no limit, and during a backfill."""
    if keep.max_age_days is None and keep.max_count is None:
        raise InvalidInput("nothing says what is old: set retention.max_age_days or retention.max_count")
    if backfill := unfinished_backfill(instance):
        raise InvalidInput(f"backfill {backfill} is under way: prune when it has ended")
    store, now = tasks.store, now or datetime.now(UTC)
    written = {table: store.mtimes(table, ".parquet") for table in TABLES}
    specs, finished = store.mtimes("tasks", ".json"), written["deliberations"]
    newest = {
        key: max(specs.get(key, at), *(each.get(key, at) for each in written.values())) for key, at in finished.items()
    }
    newest_first = sorted(newest, key=lambda key: (newest[key], key), reverse=True)
    surplus = set(newest_first[keep.max_count :] if keep.max_count else ())
    cutoff = now - timedelta(days=min(keep.max_age_days, MOST_DAYS)) if keep.max_age_days else None
    old = [key for key in newest_first if key in surplus or (cutoff and newest[key] < cutoff)]
    held = _unfinished(instance, tasks) | unpublished(instance, nats)
    # Requested or run again after its outcome: the run that writes the new outcome broke, or has not come yet.
    held |= {key for key, at in finished.items() if max(specs.get(key, at), written["utterances"].get(key, at)) > at}
    prunable = {key: newest[key] for key in reversed(old) if key not in held and is_deliberation_id(key)}
    kept_times = [min(at, written["utterances"].get(key, at)) for key, at in finished.items() if key not in prunable]
    # A run that ended before the oldest kept file was written made none of the kept files.
    oldest = min([*kept_times, *([cutoff] if cutoff else []), now])
    files = [
        path
        for folder in ("tasks", "outbox", "attempts", "pending", "reports", answer_log.FOLDER, *TABLES)
        for path, at in store.orphaned_temporaries(folder).items()
        if at < now - WRITING
    ]
    # Of runs that were killed and whose deliberations nobody has asked for again.
    files += [
        f"{answer_log.FOLDER}/{name}"
        for name, at in store.mtimes(answer_log.FOLDER, "").items()
        if cutoff and at < cutoff and _is_over(instance, name.partition(".")[0])
    ]
    calls_before = oldest if kept_times or cutoff else None
    files += [
        table_path(TOOL_CALLS, key)
        for key, at in store.mtimes(TOOL_CALLS.name, ".parquet").items()
        if calls_before and at < calls_before
    ]
    taken = [
        f"{folder}/{name}"
        for folder in ("taken", "refused")
        for name, at in inbox.mtimes(folder, "").items()
        if cutoff and at < cutoff and kind_of(name)
    ]
    still_unfinished = tuple(key for key in old if key in held)
    return Old(prunable, tuple(_ended_runs(instance, oldest)), tuple(files), tuple(taken), still_unfinished)


def remove(
    instance: dg.DagsterInstance,
    tasks: TaskStore,
    inbox: Store,
    old: Old,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Removed:
    """Remove everything in `old`. `on_progress` gets the number of deliberations removed so far.

    A deliberation requested again meanwhile is spared: its request is first a batch in the storage, then a spec.
    """
    store, removed = tasks.store, Removed()
    attempts = [f"attempts/{name}" for name in store.mtimes("attempts", "")]
    held: frozenset[str] = frozenset()
    batches: list[str] = []
    for index, (key, at) in enumerate(old.deliberations.items()):
        if index % PAGE == 0 or store.names("pending", ".json") != batches:
            batches = store.names("pending", ".json")
            held = _unfinished(instance, tasks)
            on_progress(len(removed.deliberations))
        if key in held or _changed(store, key, at):
            removed.spared.append(key)
            continue
        _remove_deliberation(instance, tasks, key, [path for path in attempts if path.startswith(f"attempts/{key}.")])
        removed.deliberations.append(key)
    for run_id in old.runs:
        store.delete(report_path(run_id))  # before the run record, which is the only way to find it
        instance.delete_run(run_id)
        removed.runs += 1
    for folder, paths in ((store, old.files), (inbox, old.inbox)):
        for path in paths:
            folder.delete(path)
            removed.files += 1
    return removed


def _remove_deliberation(instance: dg.DagsterInstance, tasks: TaskStore, key: str, attempts: Iterable[str]) -> None:
    store = tasks.store
    for path in attempts:
        # Only "<key>.<number>.<ending>", such as "a.dev.001.parquet": other ids may begin with "a.dev." too.
        if path.split(".")[-2].isdecimal() and path.rsplit(".", 2)[0] == f"attempts/{key}":
            store.delete(path)
    for table in TABLES.values():
        if table is not DELIBERATIONS:
            store.delete(table_path(table, key))
    remove_events(store, key)
    instance.delete_dynamic_partition(NAME, key)
    tasks.remove(key)
    store.delete(table_path(DELIBERATIONS, key))


def _changed(store: Store, key: str, at: datetime) -> bool:
    """Whether the spec or the outcome of a deliberation was written after `at`."""
    paths = [path for path in (f"tasks/{key}.json", table_path(DELIBERATIONS, key)) if store.read(path) is not None]
    return any(store.modified(path) > at for path in paths)


def _unfinished(instance: dg.DagsterInstance, tasks: TaskStore) -> frozenset[str]:
    """Keys that unfinished runs or pending batches hold."""
    batches, _ = pending_batches(tasks)
    return frozenset(unfinished(instance)) | {key for batch in batches for key in batch.keys}


def _is_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.status not in UNFINISHED


def _ended_runs(instance: dg.DagsterInstance, before: datetime) -> Iterable[str]:
    """Ids of runs of this project that ended before `before`. Other projects share the instance."""
    for record in instance.get_run_records(dg.RunsFilter(updated_before=before)):
        run, ended = record.dagster_run, record.end_time
        ours = of_run(run.tags, PROCESS).startswith(run.run_id)
        if ours and run.status not in UNFINISHED and ended is not None and ended < before.timestamp():
            yield run.run_id
