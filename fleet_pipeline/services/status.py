"""Where a deliberation stands, from what is durable: stored specs, the Dagster instance, and the results.

Nothing is remembered here, so that an answer is the same before and after any restart.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import dagster as dg
import pandas as pd

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.deliberation.task import checked_id, is_deliberation_id
from fleet_pipeline.events.completions import completion_payload
from fleet_pipeline.events.lookup import refusal, untaken, waiting
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.instance.names import OUTCOMES
from fleet_pipeline.instance.partitions import STARTED, UNFINISHED, deliberation_partitions, unfinished
from fleet_pipeline.scoring.proposals import final_proposals
from fleet_pipeline.services.intake import has_run
from fleet_pipeline.storage.pending import pending_batches
from fleet_pipeline.storage.schemas import TABLES, TableName
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_rows, table_path
from fleet_pipeline.storage.task_store import TaskStore

Record = dict[str, Any]


class Status(StrEnum):
    """In the words of the earlier system, and PENDING, which it lacked."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"


ENDED = (Status.COMPLETED, Status.FAILED, Status.TIMEOUT)


class StatusService:
    """Answers questions about deliberations from an instance and a storage."""

    def __init__(self, instance: dg.DagsterInstance, tasks: TaskStore) -> None:
        self.instance = instance
        self.tasks = tasks
        self.store = tasks.store

    def status(self, key: str, with_texts: bool = False) -> Record:
        """The status of one deliberation, with its counts, results, winner and error, and the request it comes from.

        `results` are partial where it failed, timed out or is still being judged. Raises `InvalidInput` for what is
        no deliberation id, `StorageError` where results cannot be read.
        """
        task_id, _, role = checked_id(key).rpartition(".")
        status, run, error = self._standing(key, self._waiting())
        answer = {
            "deliberation_id": key,
            "task_id": task_id,
            "role": role.upper(),
            "status": str(status),
            "run_id": run.run_id if run else None,
            "error": error,
            "request_id": self._request_id(key),
        }
        outcome = self._outcome(key)
        if outcome is not None and status in ENDED:
            seats = _records(self.store, "proposals", key)
        else:
            outcome, seats = self._partial(key, run if status is Status.IN_PROGRESS else None)
        location = self.store.full_path(table_path("proposals", key))
        found = completion_payload(outcome, seats, location, with_texts)
        kept = {name: value for name, value in found.items() if name not in answer}
        return answer | {"error": error or found["error"]} | kept

    def statuses(self) -> dict[str, Status]:
        """The status of every deliberation that is known, by id."""
        finished = set(self.store.names("deliberations", ".parquet"))
        keys = sorted(key for key in {*self.tasks.keys(), *finished} if is_deliberation_id(key))
        registered = set(self.instance.get_dynamic_partitions(str(deliberation_partitions.name)))
        asked = [key for key in keys if key in registered]
        recorded = self.instance.get_status_by_partition(OUTCOMES, asked, deliberation_partitions) or {}
        taken, held = self._waiting(), unfinished(self.instance)
        found: dict[str, Status] = {}
        for key in keys:
            mark = recorded.get(key)
            if key in taken or key in held or (mark is None and key in finished):
                found[key] = self._status(key, taken)
            elif mark is None:
                found[key] = Status.PENDING
            elif mark.value == "MATERIALIZED":
                found[key] = Status.COMPLETED
            else:
                found[key] = self._status(key, taken)
        return found

    def _status(self, key: str, taken: Collection[str]) -> Status:
        try:
            return self._standing(key, taken)[0]
        except CorruptFile:  # what it says cannot be read: to be run again, as if it had failed
            return Status.FAILED

    def undone(self) -> dict[str, Status]:
        """What failed, timed out, or was never run, and that no run holds or is about to: by id."""
        asked = self._waiting() | unfinished(self.instance).keys()
        left = (Status.FAILED, Status.TIMEOUT, Status.PENDING)
        return {key: status for key, status in self.statuses().items() if status in left and key not in asked}

    def counts(self) -> dict[str, int]:
        """How many deliberations there are in all, and of each status."""
        found = list(self.statuses().values())
        each = {status.lower(): found.count(status) for status in Status if status is not Status.UNKNOWN}
        return {"total_deliberations": len(found), **each}

    def _standing(self, key: str, taken: Collection[str]) -> tuple[Status, dg.DagsterRun | None, str | None]:
        """(status, the run it is or was last part of, why it has no outcome)."""
        if key in taken:
            return Status.PENDING, None, None
        run = self._last_run(key)
        outcome = self._outcome(key)
        judged = Status(outcome["status"].upper()) if outcome else None
        if run is None:
            if judged or not self.tasks.has(key):
                return judged or Status.UNKNOWN, None, None
            return Status.PENDING, None, "stored, and no run has been asked for: run it again, or launch it in the UI"
        if judged and outcome and outcome["run_id"] == run.run_id:
            return judged, run, None
        if run.status in STARTED:
            return Status.IN_PROGRESS, run, None
        if run.status in UNFINISHED:
            return Status.PENDING, run, None
        cancelled = run.status == dg.DagsterRunStatus.CANCELED
        if judged and cancelled:  # what it said before stands
            return judged, run, None
        ended = "was cancelled" if cancelled else "broke"
        return (
            Status.FAILED,
            run,
            f"run {run.run_id} {ended} before its outcome; what had finished is kept: run it again",
        )

    def _request_id(self, key: str) -> str | None:
        try:
            return self.tasks.get_spec(key).request_id or None
        except InvalidInput:
            return None

    def _last_run(self, key: str) -> dg.DagsterRun | None:
        planned = self.instance.event_log_storage.get_latest_planned_materialization_info(OUTCOMES, key)
        return self.instance.get_run_by_id(planned.run_id) if planned else None

    def _outcome(self, key: str) -> Record | None:
        found = _records(self.store, "deliberations", key)
        return found[0] if found else None

    def _waiting(self) -> frozenset[str]:
        """Keys that have been taken and have no run yet."""
        batches = pending_batches(self.tasks)[0]
        return frozenset(key for batch in batches if not has_run(self.instance, batch) for key in batch.keys)

    def _partial(self, key: str, run: dg.DagsterRun | None) -> tuple[Record, list[Record]]:
        """What a run has of a deliberation that has no outcome of it yet."""
        task_id, _, role = key.rpartition(".")
        outcome: Record = dict.fromkeys(TABLES["deliberations"].names)
        outcome |= {"task_id": task_id, "deliberation_id": key, "role": role.upper()}
        rows = self._utterances(key) if run else None
        if run is None or rows is None or rows.empty or rows["run_id"].iloc[0] != run.run_id:
            return outcome, []
        seats = final_proposals(rows)
        found = seats.astype(object).where(seats.notna(), None).to_dict("records")
        unscored = [
            {"score": None, "rank": None} | {str(name): value for name, value in seat.items()} for seat in found
        ]
        return outcome | {"num_agents": len(unscored)}, unscored

    def _utterances(self, key: str) -> pd.DataFrame | None:
        try:
            rows = read_rows(self.store, "utterances", key)
        except CorruptFile:  # the run will write it again
            return None
        return rows.to_pandas() if rows is not None else None


class RequestStatusService:
    """Answers about requests as well: those that nobody has taken yet, and those that were refused.

    What waits is read from the broker, and remembered for a moment: many may ask.
    """

    REMEMBERED_SECONDS = 2.0
    # A refusal is looked for among those of the last day.
    REFUSALS = timedelta(days=1)

    def __init__(self, status_service: StatusService, nats: NatsOptions) -> None:
        self.status_service = status_service
        self.nats = nats
        self._untaken: frozenset[str] = frozenset()
        self._read_at = 0.0

    def status(self, key: str, request_id: str = "", with_texts: bool = False) -> Record:
        """As `StatusService.status`; with a request's id, where that request stands: it may wait while an earlier result is
        there, or have been refused. Raises `BrokerUnavailable` beside what that raises.
        """
        answer = self.status_service.status(key, with_texts)
        known = answer["request_id"] == request_id if request_id else answer["status"] != Status.UNKNOWN
        if known or self.nats.url is None:
            return answer
        wanted = request_id or key
        if self._waits(wanted):
            return answer | _NOTHING_YET | {"status": str(Status.PENDING)}
        if not request_id:
            return answer
        answer = self.status_service.status(key, with_texts)  # it may have been taken between the two questions
        if answer["request_id"] == request_id:
            return answer
        reason = refusal(self.nats, request_id, datetime.now(UTC) - self.REFUSALS)
        if reason is None:  # taken, and the same as an earlier one
            return answer
        return answer | _NOTHING_YET | {"status": str(Status.FAILED), "error": f"the request was refused: {reason}"}

    def stats(self) -> Record:
        """Counts of deliberations, and of requests at the broker."""
        return {**self.status_service.counts(), **requests_at_the_broker(self.nats)}

    def _waits(self, wanted: str) -> bool:
        if wanted in self._untaken and time.monotonic() - self._read_at < self.REMEMBERED_SECONDS:
            return True
        self._untaken, self._read_at = untaken(self.nats), time.monotonic()
        return wanted in self._untaken


_NOTHING_YET: Record = {"run_id": None, "error": None, "results": [], "winner_id": None, "winner_score": None}


def requests_at_the_broker(nats: NatsOptions) -> dict[str, int]:
    """How many requests wait to be taken, and how many have been refused. Raises `BrokerUnavailable`."""
    counts = waiting(nats)
    refused = counts.pop("poison")
    return {"requests_waiting": sum(counts.values()), "requests_refused": refused}


def _records(store: Store, table: TableName, key: str) -> list[Record]:
    rows = read_rows(store, table, key)
    return rows.to_pylist() if rows is not None else []
