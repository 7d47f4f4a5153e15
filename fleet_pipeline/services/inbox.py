"""The inbox: a folder where backlogs are put, for where there is no broker.

Every file there is read as `fleet run` reads a backlog. What can be run is taken; what cannot stands, with
its line, field and remedy, in `<inbox>/refused/<name>.jsonl`. A file that has been taken is moved to
`<inbox>/taken`. The tasks of a file whose name ends in `.rerun.jsonl` (or `.rerun.csv`, ...) are put in place of
earlier ones. Files whose names begin with a dot, and ones still growing, are let be.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime

from fleet_pipeline.common.errors import InvalidInput, StorageError
from fleet_pipeline.ingest.backlog import ENDINGS, Backlog, read_backlog
from fleet_pipeline.ingest.records import Refusal
from fleet_pipeline.ingest.requests import Request
from fleet_pipeline.services.intake import Intake
from fleet_pipeline.storage.store import Store

# A file that is copied in grows for a while. `fleet submit` puts whole ones.
STILL_SECONDS = 2.0


def take_files(
    intake: Intake, inbox: Store, most_per_run: int, work_seconds: float, still_seconds: float = STILL_SECONDS
) -> list[str]:
    """Take the files that wait, until the time is up; returns what was done, in words. What is left of a
    large file is taken in the next tick: what has been taken of it is known then.
    """
    began, done = time.monotonic(), []
    for name in inbox.names("", ""):
        if name.rsplit(".", 1)[-1].lower() not in ENDINGS:
            continue
        if intake.run_requests and time.monotonic() - began > work_seconds:
            break
        try:
            if not _is_growing(inbox, name, still_seconds):
                done.append(f"{name}: {_take_file(intake, inbox, name, most_per_run, began + work_seconds)}")
        except StorageError as error:  # its neighbours go on
            intake.notes.append(f"{name}: {error}")
    return done


def _take_file(intake: Intake, inbox: Store, name: str, most_per_run: int, deadline: float) -> str:
    # The same file again is another request; the same one after a crash is not.
    sent = inbox.modified(name)
    try:
        backlog = read_backlog(inbox.full_path(name), intake.tasks.roles)
    except InvalidInput as error:
        backlog = Backlog(refused=[Refusal(0, "(whole file)", str(error))])
    rerun = name.rsplit(".", 2)[-2:-1] == ["rerun"]
    refused = [asdict(refusal) for refusal in backlog.refused]
    for start in range(0, len(backlog.tasks), most_per_run):
        # Only where something new was taken: what is known already must not use up every tick.
        if intake.run_requests and time.monotonic() > deadline:
            return f"the first {start} of {len(backlog.tasks)} tasks taken, the rest in the next tick"
        part = backlog.tasks[start : start + most_per_run]
        requests = [Request(f"{name}@{sent:%Y%m%dT%H%M%S%f}:{task.task_id}", (task,), sent, rerun) for task in part]
        for task, reasons in zip(part, intake.take(requests), strict=True):
            refused += [{"task_id": task.task_id, "error": reason} for reason in reasons]
    if refused:
        lines = "".join(json.dumps(refusal) + "\n" for refusal in refused)
        inbox.write(f"refused/{name}.jsonl", lines.encode())
    if inbox.modified(name) != sent:
        return f"{len(backlog.tasks)} tasks read; it has grown meanwhile, and is read again"
    inbox.move(name, f"taken/{name}")
    why = f"; see {inbox.full_path('refused')}/{name}.jsonl" if refused else ""
    return f"{len(backlog.tasks)} tasks read, {len(refused)} refusals{why}"


def _is_growing(inbox: Store, name: str, still_seconds: float) -> bool:
    age = (datetime.now(UTC) - inbox.modified(name)).total_seconds()
    return 0 <= age < still_seconds
