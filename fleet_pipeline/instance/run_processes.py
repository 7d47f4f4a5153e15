"""Records which process executes a run, and ends runs whose process is gone.

A killed process cannot report its end. Dagster's code server notices the end of processes that it started, as long as
it runs itself. Nobody else notices a run that went down with its machine or was started by `fleet run`: it would stay
STARTED and hold the queue's only place. So every run records its process. The sensors and `fleet run` look for runs
whose process is gone.
"""

import os
import socket
from pathlib import Path

import dagster as dg
import psutil

# Not exported by `dagster`: `get_run_group` raises it if the first run's record has been removed.
from dagster._core.errors import DagsterRunNotFoundError

from fleet_pipeline.instance.partitions import UNFINISHED
from fleet_pipeline.instance.tags import PROCESS, RETRY_STRATEGY, of_run

CLOCK_MOVES = 60.0  # seconds by which the start time of a process may shift


def record_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Record in the run's tags that this process executes it."""
    # Data between scoring ops is lost with its process. A retried run therefore starts from its first step, which
    # generates nothing anew.
    instance.add_run_tags(run_id, {PROCESS: this_process(run_id), RETRY_STRATEGY: "ALL_STEPS"})


def this_process(run_id: str) -> str:
    """This process as a tag value. It holds the run's id, because a retried run inherits the tags of the run before. It
    holds the start time, because process ids are reused.
    """
    return " ".join((run_id, *_machine(), str(os.getpid()), f"{psutil.Process().create_time():.0f}"))


def _machine() -> tuple[str, str]:
    """(host name, pid namespace): where a process id is unique. Containers share a host's name, but not its pids."""
    return socket.gethostname(), str(Path("/proc/self/ns/pid").readlink())


def fail_orphaned_runs(instance: dg.DagsterInstance) -> list[str]:
    """End the runs of this machine whose process is gone; returns their ids.

    They are marked failed, or cancelled if that was requested; their finished results are kept. Pool slots that ended
    runs hold are freed.
    """
    ended = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED)):
        process = _process(run)
        if process is None or _is_alive(*process):
            continue
        current = instance.get_run_by_id(run.run_id)
        if current is None or current.status not in UNFINISHED:  # it ended by itself meanwhile
            continue
        cancelled = current.status == dg.DagsterRunStatus.CANCELING
        end = instance.report_run_canceled if cancelled else instance.report_run_failed
        end(current, "its process is gone; what had finished is kept")
        ended.append(run.run_id)
    _free_slots(instance)
    return ended


def _free_slots(instance: dg.DagsterInstance) -> None:
    """Free the pool slots that ended runs still hold: otherwise other runs wait for them for ever."""
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else ():
        run = instance.get_run_by_id(run_id)
        # A run that was ended by force is finished at once, but its engine ends some seconds later.
        if run is None or (run.is_finished and not _has_a_process(run)):
            storage.free_concurrency_slots_for_run(run_id)


def _has_a_process(run: dg.DagsterRun) -> bool:
    """Whether another process on this machine still executes the run."""
    process = _process(run)
    return process is not None and process[0] != os.getpid() and _is_alive(*process)


def _process(run: dg.DagsterRun) -> tuple[int, float] | None:
    """(pid, start time) of the process that a run has recorded; None if it is not one of this machine."""
    parts = of_run(run.tags, PROCESS).split(" ")
    if parts[:-2] != [run.run_id, *_machine()] or not all(number.isdecimal() for number in parts[-2:]):
        return None
    return int(parts[-2]), float(parts[-1])


def lineage(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """The ids of the runs that `run` continues."""
    try:
        group = instance.get_run_group(run.run_id) if run.root_run_id else None
    except DagsterRunNotFoundError:  # the record of the first one has been removed
        return [ancestor for ancestor in (run.parent_run_id, run.root_run_id) if ancestor]
    return [ancestor.run_id for ancestor in group[1]] if group else []


def _is_alive(pid: int, began: float) -> bool:
    try:
        process = psutil.Process(pid)
        # The start time is computed from the machine's boot time, which moves with the clock.
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - began) < CLOCK_MOVES
    except psutil.NoSuchProcess:
        return False
