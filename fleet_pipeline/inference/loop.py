"""The batching loop: many deliberations share one running batch.

When the last answer a deliberation waits for arrives, its next phase enters the batch at once.
There is no barrier between phases or deliberations: each is finished as soon as it can be, and no
straggler leaves the batch thin.

In-flight work is bounded and the backlog is read lazily: a new deliberation is admitted only while
fewer than `max_in_flight` requests are under way. Those admitted always go on, so that at most
`max_in_flight` deliberations are open at once, each with at most one batch under way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from fleet_pipeline.deliberation.prompts import Prompt
from fleet_pipeline.deliberation.transcript import AgentError, Completion
from fleet_pipeline.inference.engine import Finished, Heard, Job, Result, ignore


class Backend(Protocol):
    """The few things the loop needs of an inference engine."""

    def submit(self, request_id: str, prompt: Prompt) -> Completion | None:
        """Take a request, or return at once a completion that says why it cannot be taken."""
        ...

    def step(self) -> list[tuple[str, Completion]]:
        """Advance every request under way; return those that finished, by request id."""
        ...

    def abort(self, request_ids: list[str]) -> None:
        """Forget requests that are under way."""
        ...


@dataclass
class _Active:
    """A deliberation under way: the batch it waits for, and the answers so far."""

    job: Job[Any]
    started_at: float
    deadline: float
    batch: list[Prompt] = field(default_factory=list)
    answers: list[Completion | None] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)  # request id -> place in the batch
    batch_started_at: float = 0.0


class _Loop:
    """One run of `drive`. An object because its parts share the same few tables."""

    def __init__(self, backend: Backend, max_in_flight: int, monotonic: Callable[[], float], heard: Heard) -> None:
        self.backend = backend
        self.max_in_flight = max_in_flight
        self.monotonic = monotonic
        self.heard = heard
        self.owners: dict[str, _Active] = {}  # request id -> deliberation
        self.finished: deque[Finished[Any]] = deque()
        self.request_ids = count()

    def run(self, jobs: Iterable[Job[Any]]) -> Iterator[Finished[Any]]:
        intake = iter(jobs)
        more = True
        try:
            while True:
                while more and len(self.owners) < self.max_in_flight and not self.finished:
                    job = next(intake, None)
                    if job is None:
                        more = False
                    else:
                        self._begin(job)
                while self.finished:
                    yield self.finished.popleft()
                if self.owners:
                    for request_id, completion in self.backend.step():
                        self._deliver(request_id, completion)
                    self._expire()
                elif not more and not self.finished:
                    return
        finally:
            # Left early, by an error or because the consumer stopped: leave nothing in the engine.
            self.backend.abort(list(self.owners))

    def _begin(self, job: Job[Any]) -> None:
        active = _Active(job, started_at=time.time(), deadline=self.monotonic() + job.timeout_seconds)
        self._advance(active, first=True)

    def _advance(self, active: _Active, first: bool = False) -> None:
        """Hand the answers to the course and submit what it asks next, until it waits or ends."""
        course = active.job.course
        while True:
            try:
                answers = [answer for answer in active.answers if answer is not None]
                active.batch = next(course) if first else course.send(answers)
            except StopIteration as stop:
                self._finish(active, result=stop.value)
                return
            except Exception as error:  # noqa: BLE001 - one broken course must not cost its neighbours
                self._finish(active, error=error)
                return
            first = False
            active.answers = [None] * len(active.batch)
            active.batch_started_at = time.time()
            for place, prompt in enumerate(active.batch):
                request_id = str(next(self.request_ids))
                refused = self.backend.submit(request_id, prompt)
                if refused is None:
                    active.waiting[request_id] = place
                    self.owners[request_id] = active
                else:
                    self._answer(active, place, refused)
            if active.waiting:
                return

    def _deliver(self, request_id: str, completion: Completion) -> None:
        active = self.owners.pop(request_id, None)
        if active is None:  # aborted while its last token was under way
            return
        self._answer(active, active.waiting.pop(request_id), completion)
        if not active.waiting:
            self._advance(active)

    def _answer(self, active: _Active, place: int, completion: Completion) -> None:
        answer = replace(completion, started_at=active.batch_started_at, finished_at=time.time())
        active.answers[place] = answer
        self.heard(answer)

    def _expire(self) -> None:
        """End the deliberations whose time is up: abort what is under way, keep what was said."""
        now = self.monotonic()
        late = {id(active): active for active in self.owners.values() if active.deadline <= now}
        for active in late.values():
            self.backend.abort(list(active.waiting))
            for request_id, place in active.waiting.items():
                del self.owners[request_id]
                message = f"unfinished after the deliberation's {active.job.timeout_seconds:g} s"
                self._answer(active, place, Completion(error=AgentError.DEADLINE, error_message=message))
            active.waiting.clear()
            self._advance(active)

    def _finish(self, active: _Active, result: Any = None, error: BaseException | None = None) -> None:
        self.finished.append(Finished(active.job.key, result, active.started_at, time.time(), error))


def drive(
    jobs: Iterable[Job[Result]],
    backend: Backend,
    *,
    max_in_flight: int,
    heard: Heard = ignore,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Finished[Result]]:
    """Run every job on `backend`, yielding each as it finishes. `monotonic` is the deadline clock."""
    return _Loop(backend, max_in_flight, monotonic, heard).run(jobs)
