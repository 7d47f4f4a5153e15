"""The inbox: a folder for backlogs, for setups without a broker.

Every file is read as `fleet run` reads a backlog. Valid tasks are taken. Refused lines are written to
`<inbox>/refused/<name>.jsonl`, with line, field and remedy. A taken file is moved to `<inbox>/taken`. The tasks of a
file whose name ends in `.rerun.jsonl` (or `.rerun.csv`, ...) replace earlier ones. Files whose names begin with a
dot are skipped. Files that are still growing wait.
"""

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime

from fleet_pipeline.common.errors import InvalidInput, StorageError
from fleet_pipeline.ingest.backlog import Backlog, read_backlog
from fleet_pipeline.ingest.columns import BacklogOptions
from fleet_pipeline.ingest.records import Refusal, kind_of
from fleet_pipeline.ingest.requests import Request
from fleet_pipeline.services.intake import Intake
from fleet_pipeline.storage.store import Store

# A file that is being copied in grows for a while. `fleet submit` writes whole files.
STILL_SECONDS = 2.0
FAILED = "failed"  # folder of marks: files that have failed once, and when they were written
_DEFAULTS = BacklogOptions()


def take_files(
    intake: Intake,
    inbox: Store,
    most_per_run: int,
    work_seconds: float,
    still_seconds: float = STILL_SECONDS,
    options: BacklogOptions = _DEFAULTS,
) -> list[str]:
    """Take the waiting files until the time is up; returns one line of text per file. The rest of a large file is taken
    in the next tick: its first tasks are known by then. A file that fails twice is set aside in `refused`.
    """
    started, done = time.monotonic(), []
    for name in inbox.names("", ""):
        if not kind_of(name):
            continue
        if intake.run_requests and time.monotonic() - started > work_seconds:
            break
        try:
            if not _is_growing(inbox, name, still_seconds):
                taken = _take_file(intake, inbox, name, most_per_run, started + work_seconds, options)
                done.append(f"{name}: {taken}")
        except StorageError as error:  # the other files go on
            intake.notes.append(f"{name}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a file does to us, the sensor goes on with the others
            intake.notes.append(f"{name}: {_failed(inbox, name, error)}")
    return done


def _failed(inbox: Store, name: str, error: Exception) -> str:
    """Set a file aside that has failed before as it is now. Once may be an accident, of the machine or of a deployment."""
    reason = f"{type(error).__name__}: {error}"[:500]
    mark = f"{FAILED}/{name}"
    seen = f"{inbox.modified(name):%Y%m%dT%H%M%S%f}".encode()
    if inbox.read(mark) != seen:
        inbox.write(mark, seen)
        return f"{reason}; it is tried once more"
    refusal = Refusal(0, "(whole file)", f"it failed twice: {reason}")
    inbox.write(f"refused/{name}.jsonl", (json.dumps(asdict(refusal)) + "\n").encode())
    inbox.move(name, f"refused/{name}")
    inbox.delete(mark)
    return f"{reason}; it failed twice and is set aside in {inbox.full_path('refused')}"


def _take_file(
    intake: Intake, inbox: Store, name: str, most_per_run: int, deadline: float, options: BacklogOptions
) -> str:
    # Part of the request ids: a file put in again is a new request, a file read again after a crash is not.
    mtime = inbox.modified(name)
    try:
        backlog = read_backlog(inbox.full_path(name), intake.tasks.roles, options)
    except InvalidInput as error:
        backlog = Backlog(refused=[Refusal(0, "(whole file)", str(error))])
    rerun = name.lower().removesuffix(".gz").rsplit(".", 2)[-2:-1] == ["rerun"]
    refused = [asdict(refusal) for refusal in backlog.refused]
    for start in range(0, len(backlog.tasks), most_per_run):
        # Stop only after something new was taken: known tasks alone must not use up every tick.
        if intake.run_requests and time.monotonic() > deadline:
            return f"the first {start} of {len(backlog.tasks)} tasks taken, the rest in the next tick"
        part = backlog.tasks[start : start + most_per_run]
        requests = [Request(f"{name}@{mtime:%Y%m%dT%H%M%S%f}:{task.task_id}", (task,), mtime, rerun) for task in part]
        for task, reasons in zip(part, intake.take(requests), strict=True):
            refused += [{"task_id": task.task_id, "error": reason} for reason in reasons]
    if refused:
        lines = "".join(json.dumps(refusal) + "\n" for refusal in refused)
        inbox.write(f"refused/{name}.jsonl", lines.encode())
    if inbox.modified(name) != mtime:
        return f"{len(backlog.tasks)} tasks read; it has grown meanwhile, and is read again"
    inbox.move(name, f"taken/{name}")
    see = f"; see {inbox.full_path('refused')}/{name}.jsonl" if refused else ""
    return f"{len(backlog.tasks)} tasks read, {len(refused)} refusals{see}"


def _is_growing(inbox: Store, name: str, still_seconds: float) -> bool:
    return 0 <= (datetime.now(UTC) - inbox.modified(name)).total_seconds() < still_seconds
