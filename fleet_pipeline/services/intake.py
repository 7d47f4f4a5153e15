"""From requests to runs, so that nothing asked for is lost or done twice, whatever ends a process when.

A batch of requests is written to `<storage>/pending` first; then the specs are stored, the partition keys
added, and a run asked for, in every tick until the run exists. Each of these can be done twice. What has
been asked for before is known by its stored spec, and the request that brought it by its id.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import dagster as dg

from fleet_pipeline.common.errors import InvalidInput, RequestRejected
from fleet_pipeline.common.messages import Received
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.ingest.requests import Request, read_request
from fleet_pipeline.instance.partitions import NAME, refuse_while_running, register
from fleet_pipeline.instance.tags import BATCH
from fleet_pipeline.storage.pending import Batch, new_batch, pending_batches, put_batch, settle
from fleet_pipeline.storage.task_store import Spec, TaskStore, specs

# The sensors that take requests run in threads of one process; what one has taken the other must know.
_ONE_AT_A_TIME = threading.RLock()


class Intake:
    """Takes requests from one source, `requests` or `inbox`."""

    def __init__(self, instance: dg.DagsterInstance, tasks: TaskStore, source: str, job: str) -> None:
        self.instance = instance
        self.tasks = tasks
        self.source = source
        self.job = job
        self.run_requests: dict[str, dg.RunRequest] = {}
        self.notes: list[str] = []

    def resume(self) -> None:
        """Forget the batches whose runs exist, and do what is left to do for the others."""
        with _ONE_AT_A_TIME:
            batches, damaged = pending_batches(self.tasks)
            self.notes += [
                f"pending/{name}.json cannot be read, mend or remove it: {why}" for name, why in damaged.items()
            ]
            claimed: set[str] = set()
            for batch in batches:
                if has_run(self.instance, batch):
                    settle(self.tasks.store, batch)
                    continue
                # A batch waits for an earlier one with the same key: its run begins when that one's has ended.
                if batch.source == self.source and not claimed & set(batch.keys):
                    self._apply(batch)
                claimed |= set(batch.keys)

    def take_messages(self, messages: Sequence[Received], options: RequestOptions) -> list[str | None]:
        """Take what messages ask for; for each, why it cannot be taken, or None. Durable on return."""
        now = datetime.now(UTC)
        reasons: list[str | None] = [None] * len(messages)
        read: dict[int, Request] = {}
        for number, message in enumerate(messages):
            try:
                read[number] = read_request(message, self.tasks.roles, options, now)
            except RequestRejected as error:
                reasons[number] = str(error)
        for number, refusals in zip(read, self.take(list(read.values())), strict=True):
            if found := [*read[number].problems, *refusals]:
                reasons[number] = "; ".join(dict.fromkeys(found))
        return reasons

    def take(self, requests: Sequence[Request]) -> list[list[str]]:
        """Take requests; for each, why it or some of it is refused. Durable on return."""
        with _ONE_AT_A_TIME:
            pending = {spec.key: spec for batch in pending_batches(self.tasks)[0] for spec in batch.specs}
            registered = frozenset(self.instance.get_dynamic_partitions(NAME))
            fresh: dict[str, Spec] = {}
            again: dict[str, Spec] = {}
            refusals: list[list[str]] = []
            for request in requests:
                at = request.sent_at.astimezone(UTC).isoformat(timespec="microseconds")
                wanted = [spec for task in request.tasks for spec in specs(task, request.id, at)]
                known = {
                    spec.key: again.get(spec.key)
                    or fresh.get(spec.key)
                    or pending.get(spec.key)
                    or self._stored(spec.key, registered)
                    for spec in wanted
                }
                refused = [
                    f"{spec.key} has been requested already, with other content; give it another task_id, or "
                    "`rerun: true` to put it in place of the earlier one"
                    for spec in wanted
                    if not request.rerun and _other(known[spec.key], spec)
                ]
                refusals.append(refused)
                for spec in () if refused else wanted:
                    earlier = known[spec.key]
                    if earlier is None:
                        fresh[spec.key] = spec
                    elif request.rerun and _is_later(spec, earlier):
                        (fresh if spec.key in fresh else again)[spec.key] = spec
            for found, rerun in ((fresh, False), (again, True)):
                if found:
                    batch = new_batch(self.source, list(found.values()), rerun, datetime.now(UTC))
                    put_batch(self.tasks.store, batch)
                    if not pending.keys() & found.keys():
                        self._apply(batch)
            return refusals

    def _stored(self, key: str, registered: frozenset[str]) -> Spec | None:
        """A spec without its partition is what a process left that came to its end, and a partition without its spec
        what somebody typed: both as good as nothing."""
        if key not in registered:
            return None
        try:
            return self.tasks.get_spec(key)
        except InvalidInput:
            return None

    def _apply(self, batch: Batch) -> None:
        """Store the specs, add the keys, ask for the run. Waits where a run over these keys is under way."""
        try:
            if batch.rerun:
                # Before the specs change: that run may still have to read them.
                refuse_while_running(self.instance, batch.keys)
            self._put(batch.specs, batch.rerun)
            tags = register(self.instance, batch.keys)
        except InvalidInput as error:
            self.notes.append(f"{len(batch.specs)} to be run again wait: {error}")
            return
        self.run_requests[batch.id] = dg.RunRequest(run_key=batch.id, job_name=self.job, tags=tags | {BATCH: batch.id})

    def _put(self, found: Iterable[Spec], rerun: bool) -> None:
        registered = frozenset(self.instance.get_dynamic_partitions(NAME))
        for spec in found:
            # A batch that is resumed must not undo a later rerun.
            if rerun or self._stored(spec.key, registered) is None:
                self.tasks.put_spec(spec)


def _other(earlier: Spec | None, spec: Spec) -> bool:
    # As text, in which a NaN equals another.
    return earlier is not None and earlier.task.model_dump_json() != spec.task.model_dump_json()


def _is_later(spec: Spec, earlier: Spec) -> bool:
    """Whether a rerun is another one than what is there, and not one that was overtaken and comes again."""
    return spec.request_id != earlier.request_id and spec.requested_at >= earlier.requested_at


def has_run(instance: dg.DagsterInstance, batch: Batch) -> bool:
    return bool(instance.get_runs(filters=dg.RunsFilter(tags={BATCH: batch.id}), limit=1))
