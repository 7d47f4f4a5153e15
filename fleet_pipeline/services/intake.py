"""Turns requests into runs. No request is lost or done twice, at whatever point a process ends.

A batch of requests is first written to `<storage>/pending`. Then its specs are stored, its partition keys added and
its run requested, in every tick until the run exists. Each of these steps can be done twice. A stored spec tells
that its deliberation was requested before. The request's id in the spec tells by which request.
"""

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

# The sensors that take requests run in threads of one process. Each must see the batches of the other.
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
        """Remove the batches whose runs exist, and finish the others of this source."""
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
                # A batch waits for an earlier one with the same key: its run starts after the earlier run has ended.
                if batch.source == self.source and not claimed & set(batch.keys):
                    self._apply(batch)
                claimed |= set(batch.keys)

    def take_messages(self, messages: Sequence[Received], options: RequestOptions) -> list[str | None]:
        """Take the requests in messages; returns for each why it is rejected, or None. Durable on return."""
        now = datetime.now(UTC)
        reasons: list[str | None] = [None] * len(messages)
        valid: dict[int, Request] = {}
        for number, message in enumerate(messages):
            try:
                valid[number] = read_request(message, self.tasks.roles, options, now)
            except RequestRejected as error:
                reasons[number] = str(error)
        for number, rejections in zip(valid, self.take(list(valid.values())), strict=True):
            if problems := [*valid[number].problems, *rejections]:
                reasons[number] = "; ".join(dict.fromkeys(problems))
        return reasons

    def take(self, requests: Sequence[Request]) -> list[list[str]]:
        """Take requests; returns for each the reasons why it is rejected, if any. Durable on return."""
        with _ONE_AT_A_TIME:
            pending = {spec.key: spec for batch in pending_batches(self.tasks)[0] for spec in batch.specs}
            registered = frozenset(self.instance.get_dynamic_partitions(NAME))
            fresh: dict[str, Spec] = {}
            reruns: dict[str, Spec] = {}
            rejections: list[list[str]] = []
            for request in requests:
                sent_at = request.sent_at.astimezone(UTC).isoformat(timespec="microseconds")
                requested = [spec for task in request.tasks for spec in specs(task, request.id, sent_at)]
                earlier_specs = {
                    spec.key: reruns.get(spec.key)
                    or fresh.get(spec.key)
                    or pending.get(spec.key)
                    or self._stored(spec.key, registered)
                    for spec in requested
                }
                conflicts = [
                    f"{spec.key} has been requested already, with other content; give it another task_id, or "
                    "`rerun: true` to put it in place of the earlier one"
                    for spec in requested
                    if not request.rerun and _differs(earlier_specs[spec.key], spec)
                ]
                rejections.append(conflicts)
                for spec in () if conflicts else requested:
                    earlier = earlier_specs[spec.key]
                    if earlier is None:
                        fresh[spec.key] = spec
                    elif request.rerun and _is_later(spec, earlier):
                        (fresh if spec.key in fresh else reruns)[spec.key] = spec
            for batch_specs, rerun in ((fresh, False), (reruns, True)):
                if batch_specs:
                    batch = new_batch(self.source, list(batch_specs.values()), rerun, datetime.now(UTC))
                    put_batch(self.tasks.store, batch)
                    if not pending.keys() & batch_specs.keys():
                        self._apply(batch)
            return rejections

    def _stored(self, key: str, registered: frozenset[str]) -> Spec | None:
        """The stored spec of a registered key, or None. Treats both as absent: a spec without a partition (crashed half
        way), a partition without a spec (typed in the UI)."""
        if key not in registered:
            return None
        try:
            return self.tasks.get_spec(key)
        except InvalidInput:
            return None

    def _apply(self, batch: Batch) -> None:
        """Store the specs, add the keys, request the run. If a run over these keys is under way, the batch waits."""
        try:
            if batch.rerun:
                # Before the specs change: an unfinished run may still have to read them.
                refuse_while_running(self.instance, batch.keys)
            self._put_specs(batch.specs, batch.rerun)
            tags = register(self.instance, batch.keys)
        except InvalidInput as error:
            self.notes.append(f"{len(batch.specs)} to be run again wait: {error}")
            return
        self.run_requests[batch.id] = dg.RunRequest(run_key=batch.id, job_name=self.job, tags=tags | {BATCH: batch.id})

    def _put_specs(self, batch_specs: Iterable[Spec], rerun: bool) -> None:
        registered = frozenset(self.instance.get_dynamic_partitions(NAME))
        for spec in batch_specs:
            # A resumed batch must not undo a later rerun.
            if rerun or self._stored(spec.key, registered) is None:
                self.tasks.put_spec(spec)


def _differs(earlier: Spec | None, spec: Spec) -> bool:
    # Compared as text: there NaN equals NaN.
    return earlier is not None and earlier.task.model_dump_json() != spec.task.model_dump_json()


def _is_later(spec: Spec, earlier: Spec) -> bool:
    """Whether a rerun is newer than the earlier spec, and not the same one again or an overtaken one."""
    return spec.request_id != earlier.request_id and spec.requested_at >= earlier.requested_at


def has_run(instance: dg.DagsterInstance, batch: Batch) -> bool:
    return bool(instance.get_runs(filters=dg.RunsFilter(tags={BATCH: batch.id}), limit=1))
