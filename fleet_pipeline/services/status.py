"""The status of deliberations, from durable state: stored specs, the Dagster instance, and the results.

`StatusService` remembers nothing, so its answer is the same before and after a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.common.frames import records
from fleet_pipeline.deliberation.rows import OutcomeRow, ProposalRow
from fleet_pipeline.deliberation.task import checked_id, is_deliberation_id
from fleet_pipeline.events.completions import failed_agents, milliseconds, results
from fleet_pipeline.events.lookup import refusal, untaken, waiting
from fleet_pipeline.events.payloads import DeliberationStatus, Status
from fleet_pipeline.instance.names import OUTCOMES
from fleet_pipeline.instance.partitions import STARTED, UNFINISHED, deliberation_partitions, unfinished
from fleet_pipeline.services.intake import has_run
from fleet_pipeline.storage.pending import pending_batches
from fleet_pipeline.storage.schemas import DELIBERATIONS, PROPOSALS, UTTERANCES
from fleet_pipeline.storage.tables import read_file, read_rows, table_path
from fleet_pipeline.storage.task_store import TaskStore


class StatusService:
    """Reads the status of deliberations from a Dagster instance and a storage."""

    def __init__(self, instance: dg.DagsterInstance, tasks: TaskStore) -> None:
        self.instance = instance
        self.tasks = tasks
        self.store = tasks.store

    def status(self, key: str, with_texts: bool = False) -> DeliberationStatus:
        """The status of one deliberation, with its counts, results, winner, error and request id.

        `results` are partial if it failed, timed out or has no outcome yet. Raises `InvalidInput` if `key` is no
        deliberation id, `StorageError` if results cannot be read.
        """
        task_id, _, role = checked_id(key).rpartition(".")
        status, run, error = self._standing(key, self._waiting())
        request_id = self._request_id(key)
        outcome = self._outcome(key) if status.ended else None
        if outcome is not None:
            seats = read_rows(self.store, PROPOSALS, key)
        else:
            seats = self._unscored(key, run) if run and status is Status.IN_PROGRESS else []
        answered, failed = results(outcome, seats, {}, with_texts), failed_agents(outcome, seats, with_texts)
        return DeliberationStatus(
            task_id=task_id,
            deliberation_id=key,
            role=role.upper(),
            status=status,
            run_id=run.run_id if run else None,
            request_id=request_id,
            error=error or (outcome.error_message if outcome else None),
            winner_id=outcome.winner_agent_id if outcome else None,
            winner_score=outcome.winner_score if outcome else None,
            confidence=outcome.confidence if outcome else None,
            clear_winner=outcome.clear_winner if outcome else None,
            results=answered,
            failed_agents=failed,
            total_agents=outcome.num_agents if outcome else len(seats) or None,
            successful_responses=len(answered),
            failed_responses=len(failed),
            duration_ms=milliseconds(outcome),
            completed_at=outcome.finished_at if outcome else None,
            timestamp=outcome.finished_at if outcome else None,
            proposals_file=self.store.full_path(table_path(PROPOSALS, key)),
            texts_included=with_texts,
        )

    def statuses(self) -> dict[str, Status]:
        """The status of every known deliberation, by id."""
        finished = set(self.store.names("deliberations", ".parquet"))
        keys = sorted(key for key in {*self.tasks.keys(), *finished} if is_deliberation_id(key))
        registered = set(self.instance.get_dynamic_partitions(str(deliberation_partitions.name)))
        partitioned = [key for key in keys if key in registered]
        recorded = self.instance.get_status_by_partition(OUTCOMES, partitioned, deliberation_partitions) or {}
        waiting_keys, held = self._waiting(), unfinished(self.instance)
        by_key: dict[str, Status] = {}
        for key in keys:
            partition_status = recorded.get(key)
            if key in waiting_keys or key in held or (partition_status is None and key in finished):
                by_key[key] = self._status(key, waiting_keys)
            elif partition_status is None:
                by_key[key] = Status.PENDING
            elif partition_status.value == "MATERIALIZED":
                by_key[key] = Status.COMPLETED
            else:
                by_key[key] = self._status(key, waiting_keys)
        return by_key

    def _status(self, key: str, waiting_keys: Collection[str]) -> Status:
        try:
            return self._standing(key, waiting_keys)[0]
        except CorruptFile:  # an unreadable outcome counts as failed, so that it is run again
            return Status.FAILED

    def undone(self) -> dict[str, Status]:
        """Deliberations that failed, timed out or were never run, and that no run or pending batch holds; by id."""
        held = self._waiting() | unfinished(self.instance).keys()
        unsuccessful = (Status.FAILED, Status.TIMEOUT, Status.PENDING)
        return {key: status for key, status in self.statuses().items() if status in unsuccessful and key not in held}

    def check(self) -> None:
        """Raises what the storage or Dagster's database raises, where one of them does not answer."""
        self.store.read("readyz", fresh=True)  # is not there, which is an answer
        self.instance.event_log_storage.get_maximum_record_id()

    def counts(self) -> dict[str, int]:
        """The number of deliberations in all, and of each status."""
        statuses = list(self.statuses().values())
        by_status = {status.lower(): statuses.count(status) for status in Status if status is not Status.UNKNOWN}
        return {"total_deliberations": len(statuses), **by_status}

    def _standing(self, key: str, waiting_keys: Collection[str]) -> tuple[Status, dg.DagsterRun | None, str | None]:
        """(status, its present or last run, the reason why it has no outcome)."""
        if key in waiting_keys:
            return Status.PENDING, None, None
        run = self._last_run(key)
        outcome = self._outcome(key)
        outcome_status = Status(outcome.status.upper()) if outcome else None
        if run is None:
            if outcome_status or not self.tasks.has(key):
                return outcome_status or Status.UNKNOWN, None, None
            return Status.PENDING, None, "stored, and no run has been asked for: run it again, or launch it in the UI"
        if outcome_status and outcome and outcome.run_id == run.run_id:
            return outcome_status, run, None
        if run.status in STARTED:
            return Status.IN_PROGRESS, run, None
        if run.status in UNFINISHED:
            return Status.PENDING, run, None
        cancelled = run.status == dg.DagsterRunStatus.CANCELED
        if outcome_status and cancelled:  # the earlier outcome stands
            return outcome_status, run, None
        ended = "was cancelled" if cancelled else "broke"
        reason = f"run {run.run_id} {ended} before its outcome; what had finished is kept: run it again"
        return Status.FAILED, run, reason

    def _request_id(self, key: str) -> str | None:
        try:
            return self.tasks.get_spec(key).request_id or None
        except InvalidInput:
            return None

    def _last_run(self, key: str) -> dg.DagsterRun | None:
        planned = self.instance.event_log_storage.get_latest_planned_materialization_info(OUTCOMES, key)
        return self.instance.get_run_by_id(planned.run_id) if planned else None

    def _outcome(self, key: str) -> OutcomeRow | None:
        return next(iter(read_rows(self.store, DELIBERATIONS, key)), None)

    def _waiting(self) -> frozenset[str]:
        """Keys of requests that were taken and have no run yet."""
        batches = pending_batches(self.tasks)[0]
        return frozenset(key for batch in batches if not has_run(self.instance, batch) for key in batch.keys)

    def _unscored(self, key: str, run: dg.DagsterRun) -> list[ProposalRow]:
        """The seats of a deliberation whose transcript `run` has stored, and which has no outcome yet."""
        try:
            file = read_file(self.store, UTTERANCES, key)
        except CorruptFile:  # the run will write it again
            return []
        if file is None or file.footer.run_id != run.run_id:
            return []
        # pandas: half a second, and seldom needed
        from fleet_pipeline.scoring.proposals import final_proposals, proposal_rows

        return proposal_rows(records(final_proposals(file.content.to_pandas())), run.run_id)


class RequestStatusService:
    """Adds the status of requests: those not taken yet, and those rejected. Every question comes with a connection.

    Waiting requests are read from the broker and cached for a moment, because many clients may ask. Files and the
    Dagster instance are read in a thread, so that a server's event loop goes on meanwhile.
    """

    REMEMBERED_SECONDS = 2.0
    # Rejections are searched over the last day.
    REFUSALS = timedelta(days=1)

    def __init__(self, status_service: StatusService) -> None:
        self.status_service = status_service
        self._untaken: frozenset[str] = frozenset()
        self._read_at = 0.0

    async def status(
        self, connection: Any, key: str, request_id: str = "", with_texts: bool = False
    ) -> DeliberationStatus:
        """As `StatusService.status`. With `request_id`, the status of that request: it may still wait while an earlier
        result exists, or have been rejected. Raises what a question to the broker raises.
        """
        answer = await self._stored(key, with_texts)
        if answer.request_id == request_id if request_id else answer.status is not Status.UNKNOWN:
            return answer
        if await self._waits(connection, request_id or key):
            return _without_results(answer, Status.PENDING)
        if not request_id:
            return answer
        answer = await self._stored(key, with_texts)  # it may have been taken between the two reads
        if answer.request_id == request_id:
            return answer
        reason = await refusal(connection, request_id, datetime.now(UTC) - self.REFUSALS)
        if reason is None:  # taken, with the same content as an earlier request
            return answer
        return _without_results(answer, Status.FAILED, f"the request was refused: {reason}")

    async def stats(self, connection: Any) -> dict[str, int]:
        """The number of deliberations and of requests at the broker."""
        counts = await asyncio.to_thread(self.status_service.counts)
        return {**counts, **await requests_at_the_broker(connection)}

    async def _stored(self, key: str, with_texts: bool) -> DeliberationStatus:
        return await asyncio.to_thread(self.status_service.status, key, with_texts)

    async def _waits(self, connection: Any, request_or_key: str) -> bool:
        if request_or_key in self._untaken and time.monotonic() - self._read_at < self.REMEMBERED_SECONDS:
            return True
        self._untaken, self._read_at = await untaken(connection), time.monotonic()
        return request_or_key in self._untaken


def _without_results(answer: DeliberationStatus, status: Status, error: str | None = None) -> DeliberationStatus:
    """`answer` for a request that came to nothing yet: the results are those of an earlier one."""
    nothing: Mapping[str, object] = {
        "run_id": None, "results": [], "winner_id": None, "winner_score": None, "confidence": None, "clear_winner": None
    }  # fmt: skip
    return answer.model_copy(update={**nothing, "status": status, "error": error})


async def requests_at_the_broker(connection: Any) -> dict[str, int]:
    """The number of requests that wait to be taken, and of rejected ones."""
    counts = await waiting(connection)
    refused = counts.pop("poison")
    return {"requests_waiting": sum(counts.values()), "requests_refused": refused}
