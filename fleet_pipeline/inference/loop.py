"""The batching loop: many deliberations share one running batch.

When the last answer a deliberation waits for arrives, its next phase enters the batch at once.
There is no barrier between phases or deliberations: each is finished as soon as it can be, and no
straggler leaves the batch thin.

In-flight work is bounded and the backlog is read lazily: a new deliberation is admitted only while
fewer than `max_in_flight` requests are under way. Those admitted always go on, so that at most
`max_in_flight` deliberations are open at once, each with at most one batch under way.

An engine that dies is started again, a bounded number of times in a row, and the deliberations under way
go on from the answers they have: only requests under way are lost. A deliberation that was under way at
two deaths is quarantined until the others are done, and then goes on alone: if the engine dies once more,
the deliberation is what kills it, and ends. So one that kills the engine costs three starts, and no
neighbour; and because the count begins again with everything that ends, so do many of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from fleet_pipeline.common.errors import EngineCrashed, EngineError
from fleet_pipeline.deliberation.prompts import Prompt
from fleet_pipeline.deliberation.transcript import AgentError, Completion
from fleet_pipeline.inference.engine import Finished, Job, OnCompletion, Result, ignore

# A deliberation under way at so many deaths of the engine goes on alone.
QUARANTINE_AFTER = 2


class Backend(Protocol):
    """The few things the loop needs of an inference engine."""

    def submit(self, request_id: str, prompt: Prompt) -> Completion | None:
        """Take a request, or return at once a completion that says why it cannot be taken."""
        ...

    def step(self) -> list[tuple[str, Completion]]:
        """Advance every request under way; return those that finished, by request id.

        Raises `EngineCrashed`.
        """
        ...

    def restart(self, reason: str) -> None:
        """Start again after a death, without the requests that were under way. Raises `EngineError`."""
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
    crashes: int = 0  # of the engine, while this was under way


class _Loop:
    """One run of `drive`. An object because its parts share the same few tables."""

    def __init__(
        self,
        backend: Backend,
        max_in_flight: int,
        restarts: int,
        monotonic: Callable[[], float],
        on_completion: OnCompletion,
    ) -> None:
        self.backend = backend
        self.max_in_flight = max_in_flight
        self.restarts = restarts
        self.monotonic = monotonic
        self.on_completion = on_completion
        self.owners: dict[str, _Active] = {}  # request id -> deliberation
        self.idle = 0.0  # seconds in which whoever gives jobs and takes results made this wait
        self.crashes_in_a_row = 0  # with nothing that ended in between
        self.crash: str | None = None  # that has not been mended yet,
        self.interrupted: list[_Active] = []  #   and the deliberations it interrupted
        self.quarantined: deque[_Active] = deque()  # those that may kill the engine; their clocks stand still
        self.finished: deque[Finished[Any]] = deque()
        self.request_ids = count()

    def run(self, jobs: Iterable[Job[Any]]) -> Iterator[Finished[Any]]:
        intake = iter(jobs)
        more = True
        try:
            while True:
                while self.finished:
                    before = self.monotonic()
                    yield self.finished.popleft()
                    # Nothing runs meanwhile: a store that makes its writer wait must cost nobody's deadline.
                    self.idle += self.monotonic() - before
                if self.crash is not None and not self._restart(more):
                    return
                while more and len(self.owners) < self.max_in_flight and not self.finished:
                    before = self.monotonic()
                    job = next(intake, None)
                    self.idle += self.monotonic() - before
                    if job is None:
                        more = False
                    else:
                        self._begin(job)
                if self.owners:
                    self._step()
                elif not more and not self.finished:
                    if not self.quarantined:
                        return
                    self._resume(self.quarantined.popleft())
        finally:
            # Left early, by an error or because the consumer stopped: leave nothing in the engine.
            self.backend.abort(list(self.owners))

    def _step(self) -> None:
        try:
            answers = self.backend.step()
        except EngineCrashed as crash:
            self._on_crash(crash)
            return
        for request_id, completion in answers:
            self._deliver(request_id, completion)
        self._expire()

    def _now(self) -> float:
        return self.monotonic() - self.idle

    def _begin(self, job: Job[Any]) -> None:
        active = _Active(job, started_at=time.time(), deadline=self._now() + job.timeout_seconds)
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
            self._submit(active)
            if active.waiting:
                return

    def _submit(self, active: _Active) -> None:
        """Submit what is unanswered of a deliberation's batch."""
        for place, prompt in enumerate(active.batch):
            if active.answers[place] is not None:
                continue
            request_id = str(next(self.request_ids))
            refused = self.backend.submit(request_id, prompt)
            if refused is None:
                active.waiting[request_id] = place
                self.owners[request_id] = active
            else:
                self._answer(active, place, refused)

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
        self.on_completion(answer)

    def _expire(self) -> None:
        """End the deliberations whose time is up: abort what is under way, keep what was said."""
        now = self._now()
        late = {id(active): active for active in self.owners.values() if active.deadline <= now}
        for active in late.values():
            self.backend.abort(list(active.waiting))
            message = f"unfinished after the deliberation's {active.job.timeout_seconds:g} s"
            self._withdraw(active)
            self._end(active, AgentError.DEADLINE, message)

    def _withdraw(self, active: _Active) -> None:
        """Take a deliberation's requests off the books: the engine no longer has them."""
        for request_id in active.waiting:
            del self.owners[request_id]
        active.waiting.clear()

    def _end(self, active: _Active, error: AgentError, message: str) -> None:
        """Answer all that a deliberation still waits for with `error`, which its course ends by."""
        for place, answer in enumerate(active.answers):
            if answer is None:
                self._answer(active, place, Completion(error=error, error_message=message))
        self._advance(active)

    def _on_crash(self, crash: EngineCrashed) -> None:
        """Take what was under way out of the engine that died; what killed it, ends."""
        self.crash = str(crash)  # not the error: it holds the dead engine's frames, and so its memory
        self.crashes_in_a_row += 1
        died_at = self._now()
        under_way = list({id(active): active for active in self.owners.values()}.values())
        for active in under_way:
            self._withdraw(active)
            active.crashes += 1
            active.deadline -= died_at  # what is left of its time, until it goes on
        if len(under_way) == 1 and under_way[0].crashes > QUARANTINE_AFTER:
            times = f"the engine died {under_way[0].crashes} times while this was under way, the last time alone"
            self._end(under_way[0], AgentError.FATAL, f"{times}: {crash}")
        else:
            self.interrupted = under_way

    def _restart(self, more: bool) -> bool:
        """Start the engine again, if anything is left for it; whether there is."""
        crash, interrupted = str(self.crash), self.interrupted
        self.crash, self.interrupted = None, []
        if not (more or interrupted or self.quarantined):
            return False
        if self.crashes_in_a_row > self.restarts:
            raise EngineError(
                f"{crash}; it died {self.crashes_in_a_row} times in a row, with nothing finished (engine.max_restarts)"
            )
        self.backend.restart(crash)
        for active in interrupted:
            if active.crashes < QUARANTINE_AFTER:
                self._resume(active)
            else:
                self.quarantined.append(active)
        return True

    def _resume(self, active: _Active) -> None:
        """Submit again what a deliberation waits for. The time the engine was away does not count."""
        active.deadline += self._now()
        self._submit(active)
        if not active.waiting:
            self._advance(active)

    def _finish(self, active: _Active, result: Any = None, error: BaseException | None = None) -> None:
        self.crashes_in_a_row = 0
        self.finished.append(Finished(active.job.key, result, active.started_at, time.time(), error))


def drive(
    jobs: Iterable[Job[Result]],
    backend: Backend,
    *,
    max_in_flight: int,
    restarts: int = 0,
    on_completion: OnCompletion = ignore,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Finished[Result]]:
    """Run every job on `backend`, yielding each as it finishes; `restarts` is how many deaths in a row are
    borne, with nothing finished in between. `monotonic` is the clock of deadlines, in seconds.
    """
    return _Loop(backend, max_in_flight, restarts, monotonic, on_completion).run(jobs)
