"""Requests from the UI and from schedules: a typed task, a backlog, or the deliberations that failed.

Each request becomes a backlog file in the inbox. The sensor `inbox` takes it within seconds, so there is only
one way to get a run. Writing the same file twice is one request.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.json_input import MAX_BYTES, JsonObject
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.ingest.backlog import read_backlog, read_backlogs
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.storage.pending import pending_batches
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import Spec, TaskStore, specs

MOST_NAMED = 20
BULK = "bulk"  # prefix of the inbox files that come from a backlog


@dataclass
class BacklogDiff:
    """A backlog compared with the stored tasks. Each task here has one role: it is one deliberation."""

    files: int = 0
    new: list[Task] = field(default_factory=list)
    changed: list[Task] = field(default_factory=list)
    as_before: int = 0
    not_looked_at: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[Task]:
        return [*self.new, *self.changed]

    def __str__(self) -> str:
        """Summary for a tick's log, counted in deliberations."""
        files = "1 file" if self.files == 1 else f"{self.files} files"
        summary = f"{files}: {len(self.new)} new deliberations, {len(self.changed)} changed, {self.as_before} as before"
        if self.not_looked_at:
            summary += f", {self.not_looked_at} not looked at yet"
        if self.refused:
            more = f" and {len(self.refused) - MOST_NAMED} more" if len(self.refused) > MOST_NAMED else ""
            summary += f"; {len(self.refused)} refused: {'; '.join(self.refused[:MOST_NAMED])}{more}"
        return summary


def diff_backlog(fleet: Fleet, location: str, seconds: float | None = None) -> BacklogDiff:
    """Read a backlog (file, folder or glob) and find its new and changed tasks. Writes nothing.

    A task that was requested and waits for its run counts as `as_before`. Comparing reads one spec per known
    deliberation: after `seconds` the rest is only counted, in `not_looked_at`.
    """
    started, tasks, inbox = time.monotonic(), fleet.tasks, fleet.inbox
    backlogs = read_backlogs(location, tasks.roles, fleet.backlog_options)
    diff = BacklogDiff(files=len(backlogs))
    stored, requested = set(tasks.keys()), _requested_content(tasks, inbox)
    for file, backlog in backlogs.items():
        diff.refused += [
            f"{file} line {refusal.line}: {refusal.field[:80]}: {refusal.error}" for refusal in backlog.refused
        ]
        for task in backlog.tasks:
            for spec in specs(task):
                if seconds is not None and time.monotonic() - started > seconds:
                    diff.not_looked_at += 1
                elif spec.key in requested:
                    if requested[spec.key] == _content(spec.task):
                        diff.as_before += 1
                    else:
                        diff.changed.append(spec.task)
                elif spec.key not in stored:
                    diff.new.append(spec.task)
                elif _matches_stored(tasks, spec):
                    diff.as_before += 1
                else:
                    diff.changed.append(spec.task)
    return diff


def put_in_inbox(inbox: Store, name: str, tasks: Sequence[Task]) -> list[str]:
    """Write tasks as files for the sensor `inbox`, to replace earlier tasks of the same ids; returns the file names.

    A backlog may hold an id only once, ignoring case. If the roles of one task differ in content, they go into
    several files. Raises `InvalidInput` for a task longer than a line may be.
    """
    files: list[dict[str, Task]] = []
    for task in tasks:
        if len(_line(task)) > MAX_BYTES:
            raise InvalidInput(f"{task.task_id}: has more than {MAX_BYTES:,} bytes as a line of a backlog; shorten it")
        folded_id = task.task_id.casefold()
        for file in files:
            earlier = file.get(folded_id)
            if earlier is None or (earlier.task_id, _content(earlier)) == (task.task_id, _content(task)):
                roles = (*earlier.roles, *task.roles) if earlier else task.roles
                file[folded_id] = task.model_copy(update={"roles": roles})
                break
        else:
            files.append({folded_id: task})
    names = []
    for file in files:
        lines = b"".join(_line(task) for task in file.values())
        names.append(f"{name}-{hashlib.sha256(lines).hexdigest()[:12]}.rerun.jsonl")
        inbox.write(names[-1], lines)
    return names


def _line(task: Task) -> bytes:
    return (json.dumps(task.model_dump(mode="json", exclude_unset=True), ensure_ascii=False) + "\n").encode()


def _requested_content(tasks: TaskStore, inbox: Store) -> dict[str, JsonObject]:
    """Content of the requested tasks without a run, by deliberation id: pending batches, and backlogs in the inbox."""
    batches, _ = pending_batches(tasks)
    waiting = {spec.key: _content(spec.task) for batch in batches for spec in batch.specs}
    for name in inbox.names("", ".rerun.jsonl"):
        if name.startswith(f"{BULK}-"):
            backlog = read_backlog(inbox.full_path(f"{name}.rerun.jsonl"), tasks.roles)
            waiting |= {spec.key: _content(spec.task) for task in backlog.tasks for spec in specs(task)}
    return waiting


def stored_tasks(tasks: TaskStore, keys: Iterable[str]) -> tuple[list[Task], dict[str, str]]:
    """(stored tasks of `keys`, with one role each; the error of every task that cannot be read, by key)."""
    stored, broken = [], {}
    for key in keys:
        try:
            stored.append(tasks.get_spec(key).task)
        except InvalidInput as error:
            broken[key] = str(error)
    return stored, broken


def _matches_stored(tasks: TaskStore, spec: Spec) -> bool:
    try:
        stored = tasks.get_spec(spec.key).task
    except InvalidInput:  # e.g. its role has changed since
        return False
    return _content(stored) == _content(spec.task)


def _content(task: Task) -> JsonObject:
    return task.model_dump(mode="json", exclude={"roles"})
