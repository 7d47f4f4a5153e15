"""Asking for deliberations from the UI and by the clock: a task that is typed in, a backlog, or what failed.

Each writes a backlog into the inbox, where the sensor `inbox` takes it within seconds: nothing here has a
second way to get a run. Writing the same file twice is the same request.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.json_input import MAX_BYTES
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.ingest.backlog import read_backlog, read_backlogs
from fleet_pipeline.storage.pending import pending_batches
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import Spec, TaskStore, specs

MOST_NAMED = 20
BULK = "bulk"  # how files begin that come from a backlog


@dataclass
class BacklogDiff:
    """A backlog against what is stored. Each task stands for one deliberation: it has one role."""

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
        """What was found and what is skipped, in deliberations, as a tick says it."""
        files = "1 file" if self.files == 1 else f"{self.files} files"
        said = f"{files}: {len(self.new)} new deliberations, {len(self.changed)} changed, {self.as_before} as before"
        if self.not_looked_at:
            said += f", {self.not_looked_at} not looked at yet"
        if self.refused:
            more = f" and {len(self.refused) - MOST_NAMED} more" if len(self.refused) > MOST_NAMED else ""
            said += f"; {len(self.refused)} refused: {'; '.join(self.refused[:MOST_NAMED])}{more}"
        return said


def diff_backlog(tasks: TaskStore, inbox: Store, location: str, seconds: float | None = None) -> BacklogDiff:
    """Read a backlog (file, folder or glob) and tell what of it is new or changed. Writes nothing.

    What has been asked for and waits for its run is as before. A spec is read for each deliberation that is known:
    after `seconds` what is left is only counted.
    """
    began = time.monotonic()
    backlogs = read_backlogs(location, tasks.roles)
    found = BacklogDiff(files=len(backlogs))
    known, asked = set(tasks.keys()), _asked(tasks, inbox)
    for file, backlog in backlogs.items():
        found.refused += [f"{file} line {one.line}: {one.field[:80]}: {one.error}" for one in backlog.refused]
        for task in backlog.tasks:
            for spec in specs(task):
                if seconds is not None and time.monotonic() - began > seconds:
                    found.not_looked_at += 1
                elif spec.key in asked:
                    if asked[spec.key] == _content(spec.task):
                        found.as_before += 1
                    else:
                        found.changed.append(spec.task)
                elif spec.key not in known:
                    found.new.append(spec.task)
                elif _is_as_stored(tasks, spec):
                    found.as_before += 1
                else:
                    found.changed.append(spec.task)
    return found


def put_in_inbox(inbox: Store, name: str, tasks: Sequence[Task]) -> list[str]:
    """Write tasks for the sensor `inbox` to take, in place of earlier ones of the same ids; returns the files' names.

    An id stands once in a backlog, in any case: roles of one task that differ in content are written into several.
    Raises `InvalidInput` where one is longer than a line may be.
    """
    files: list[dict[str, Task]] = []
    for task in tasks:
        if len(_line(task)) > MAX_BYTES:
            raise InvalidInput(f"{task.task_id}: has more than {MAX_BYTES:,} bytes as a line of a backlog; shorten it")
        place = task.task_id.casefold()
        for file in files:
            known = file.get(place)
            if known is None or (known.task_id, _content(known)) == (task.task_id, _content(task)):
                roles = (*known.roles, *task.roles) if known else task.roles
                file[place] = task.model_copy(update={"roles": roles})
                break
        else:
            files.append({place: task})
    written = []
    for file in files:
        lines = b"".join(_line(task) for task in file.values())
        written.append(f"{name}-{hashlib.sha256(lines).hexdigest()[:12]}.rerun.jsonl")
        inbox.write(written[-1], lines)
    return written


def _line(task: Task) -> bytes:
    return (json.dumps(task.model_dump(mode="json", exclude_unset=True), ensure_ascii=False) + "\n").encode()


def _asked(tasks: TaskStore, inbox: Store) -> dict[str, dict[str, Any]]:
    """The content of what has been asked for from a backlog, and has no run yet, by deliberation."""
    batches, _ = pending_batches(tasks)
    waiting = {spec.key: _content(spec.task) for batch in batches for spec in batch.specs}
    for name in inbox.names("", ".rerun.jsonl"):
        if name.startswith(f"{BULK}-"):
            backlog = read_backlog(inbox.full_path(f"{name}.rerun.jsonl"), tasks.roles)
            waiting |= {spec.key: _content(spec.task) for task in backlog.tasks for spec in specs(task)}
    return waiting


def stored_tasks(tasks: TaskStore, keys: Iterable[str]) -> tuple[list[Task], dict[str, str]]:
    """(the stored tasks of `keys`, of one role each; why others cannot be asked for)."""
    found, broken = [], {}
    for key in keys:
        try:
            found.append(tasks.get_spec(key).task)
        except InvalidInput as error:
            broken[key] = str(error)
    return found, broken


def _is_as_stored(tasks: TaskStore, spec: Spec) -> bool:
    try:
        stored = tasks.get_spec(spec.key).task
    except InvalidInput:  # of a role, perhaps, that has changed since
        return False
    return _content(stored) == _content(spec.task)


def _content(task: Task) -> dict[str, Any]:
    return task.model_dump(mode="json", exclude={"roles"})
