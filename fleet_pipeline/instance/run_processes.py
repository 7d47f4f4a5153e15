"""Which process executes a run, and what becomes of a run whose process is gone.

A killed process cannot say so itself. Dagster's code server notices the death of processes that it started,
while it lives; of a run that went down with its machine, or was started by `fleet run`, nobody would: it would
stay STARTED, and hold the queue's only place. So every run writes down its process, and whoever comes by
looks: the sensors, and `fleet run`.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import dagster as dg
import psutil

# Not exported by `dagster`: what `get_run_group` raises where the first run's record has been removed.
from dagster._core.errors import DagsterRunNotFoundError

from fleet_pipeline.instance.partitions import UNFINISHED
from fleet_pipeline.instance.tags import PROCESS, RETRY_STRATEGY

CLOCK_MOVES = 60.0  # seconds


def record_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Write down that this process executes the run."""
    # What passes between scoring ops goes with its process: a run that goes on does so from its beginning, which
    # generates nothing anew.
    instance.add_run_tags(run_id, {PROCESS: this_process(run_id), RETRY_STRATEGY: "ALL_STEPS"})


def this_process(run_id: str) -> str:
    """This process, as a tag says it: a run that is tried again inherits the tags of the one before, which
    is why the run's own id is part of it; and numbers of processes come again, which is why the start is.
    """
    return " ".join((run_id, *_machine(), str(os.getpid()), f"{psutil.Process().create_time():.0f}"))


def _machine() -> tuple[str, str]:
    """Where a process's number means something: containers share a host's name, and not its numbers."""
    return socket.gethostname(), str(Path("/proc/self/ns/pid").readlink())


def fail_orphaned_runs(instance: dg.DagsterInstance) -> list[str]:
    """End the runs of this machine whose process is gone; returns their ids.

    They are marked failed, or cancelled where that was asked for; what they had finished is kept. Places in pools
    that ended runs hold are given back.
    """
    closed = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED)):
        process = _process(run)
        if process is None or _is_alive(*process):
            continue
        now = instance.get_run_by_id(run.run_id)
        if now is None or now.status not in UNFINISHED:  # it ended by itself while we looked
            continue
        cancelled = now.status == dg.DagsterRunStatus.CANCELING
        end = instance.report_run_canceled if cancelled else instance.report_run_failed
        end(now, "its process is gone; what had finished is kept")
        closed.append(run.run_id)
    _free_slots(instance)
    return closed


def _free_slots(instance: dg.DagsterInstance) -> None:
    """Give back the places in pools that ended runs still hold: whoever waits for one waits for ever otherwise."""
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else ():
        run = instance.get_run_by_id(run_id)
        # A run that was ended by force is finished at once, and its engine some seconds later.
        if run is None or (run.is_finished and not _has_a_process(run)):
            storage.free_concurrency_slots_for_run(run_id)


def _has_a_process(run: dg.DagsterRun) -> bool:
    """Whether another process than this one, on this machine, is still at it."""
    process = _process(run)
    return process is not None and process[0] != os.getpid() and _is_alive(*process)


def _process(run: dg.DagsterRun) -> tuple[int, float] | None:
    """Number and start of the process that a run has written down, where it is one of this machine."""
    written = run.tags.get(PROCESS, "").split(" ")
    if written[:-2] != [run.run_id, *_machine()] or not all(number.isdecimal() for number in written[-2:]):
        return None
    return int(written[-2]), float(written[-1])


def lineage(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """The ids of the runs that `run` goes on from."""
    try:
        group = instance.get_run_group(run.run_id) if run.root_run_id else None
    except DagsterRunNotFoundError:  # the record of the first one has been removed
        return [one for one in (run.parent_run_id, run.root_run_id) if one]
    return [one.run_id for one in group[1]] if group else []


def _is_alive(pid: int, began: float) -> bool:
    try:
        process = psutil.Process(pid)
        # The start is reckoned from the machine's, which moves with its clock.
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - began) < CLOCK_MOVES
    except psutil.NoSuchProcess:
        return False
