"""The batching loop: many deliberations share one running batch.

When the last answer that a deliberation waits for arrives, its next phase enters the batch at once.
There is no barrier between phases or between deliberations. Each one finishes as soon as it can, and a
slow one does not leave the batch half empty.

In-flight work is bounded and the backlog is read lazily. A new deliberation is admitted only while fewer
than `max_in_flight` prompts are in flight. Admitted ones always continue. So at most `max_in_flight`
deliberations are open at once, each with at most one batch in flight.

A crashed engine is restarted, up to a limit of crashes in a row. Deliberations under way continue from the
answers they have; only the prompts in flight are lost. A deliberation under way at two crashes is quarantined
until the others are done. Then it continues alone. If the engine crashes once more, that deliberation is the
cause, and ends. Such a deliberation costs three starts and harms no other one. Each deliberation that ends
resets the count of crashes in a row, so any number of such deliberations cost three starts each.
"""

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

# A deliberation under way at this many crashes is quarantined.
QUARANTINE_AFTER = 2


class Backend(Protocol):
    """The operations that the loop needs from an inference engine."""

    def submit(self, request_id: str, prompt: Prompt) -> Completion | None:
        """Queue a prompt and return None, or return a completion with the error that prevents it."""
        ...

    def step(self) -> list[tuple[str, Completion]]:
        """Advance every prompt in flight. Return the request id and completion of each that finished.

        Raises `EngineCrashed`.
        """
        ...

    def restart(self, reason: str) -> None:
        """Restart after a crash, without the prompts that were in flight. Raises `EngineError`."""
        ...

    def abort(self, request_ids: list[str]) -> None:
        """Drop prompts that are in flight."""
        ...


@dataclass
class _Active:
    """A deliberation under way, with the batch that it waits for and the answers so far."""

    job: Job[Any]
    started_at: float
    deadline: float
    batch: list[Prompt] = field(default_factory=list)
    answers: list[Completion | None] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)  # request id -> index in the batch
    batch_started_at: float = 0.0
    crashes: int = 0  # engine crashes while this was under way


class _Loop:
    """One run of `drive`. A class, because its steps share state."""

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
        self.idle = 0.0  # seconds spent waiting for the caller, who supplies jobs and takes results
        self.crashes_in_a_row = 0  # reset when a deliberation ends
        self.crash: str | None = None  # reason of a crash, until the restart
        self.interrupted: list[_Active] = []  # the deliberations that this crash interrupted
        self.quarantined: deque[_Active] = deque()  # may crash the engine; their deadlines are paused
        self.finished: deque[Finished[Any]] = deque()
        self.request_ids = count()

    def run(self, jobs: Iterable[Job[Any]]) -> Iterator[Finished[Any]]:
        intake = iter(jobs)
        more_jobs = True
        try:
            while True:
                while self.finished:
                    before = self.monotonic()
                    yield self.finished.popleft()
                    # The engine stands still while the caller stores a result. Slow storage must not use up deadlines.
                    self.idle += self.monotonic() - before
                if self.crash is not None and not self._restart(more_jobs):
                    return
                while more_jobs and len(self.owners) < self.max_in_flight and not self.finished:
                    before = self.monotonic()
                    job = next(intake, None)
                    self.idle += self.monotonic() - before
                    if job is None:
                        more_jobs = False
                    else:
                        self._begin(job)
                if self.owners:
                    self._step()
                elif not more_jobs and not self.finished:
                    if not self.quarantined:
                        return
                    self._resume(self.quarantined.popleft())
        finally:
            # After an early exit (an error, or the caller stopped), no prompt may stay in the engine.
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
        """Send the answers to the dialogue and submit its next batch, until it waits or ends."""
        course = active.job.course
        while True:
            try:
                answers = [answer for answer in active.answers if answer is not None]
                active.batch = next(course) if first else course.send(answers)
            except StopIteration as stop:
                self._finish(active, result=stop.value)
                return
            except Exception as error:  # noqa: BLE001 - one broken dialogue must not stop the others
                self._finish(active, error=error)
                return
            first = False
            active.answers = [None] * len(active.batch)
            active.batch_started_at = time.time()
            self._submit(active)
            if active.waiting:
                return

    def _submit(self, active: _Active) -> None:
        """Submit the unanswered prompts of a deliberation's batch."""
        for index, prompt in enumerate(active.batch):
            if active.answers[index] is not None:
                continue
            request_id = str(next(self.request_ids))
            failure = self.backend.submit(request_id, prompt)
            if failure is None:
                active.waiting[request_id] = index
                self.owners[request_id] = active
            else:
                self._answer(active, index, failure)

    def _deliver(self, request_id: str, completion: Completion) -> None:
        active = self.owners.pop(request_id, None)
        if active is None:  # aborted while its last token was generated
            return
        self._answer(active, active.waiting.pop(request_id), completion)
        if not active.waiting:
            self._advance(active)

    def _answer(self, active: _Active, index: int, completion: Completion) -> None:
        answer = replace(completion, started_at=active.batch_started_at, finished_at=time.time())
        active.answers[index] = answer
        self.on_completion(answer)

    def _expire(self) -> None:
        """End the deliberations past their deadline: abort their prompts, keep their answers."""
        now = self._now()
        late = {id(active): active for active in self.owners.values() if active.deadline <= now}
        for active in late.values():
            self.backend.abort(list(active.waiting))
            message = f"unfinished after the deliberation's {active.job.timeout_seconds:g} s"
            self._withdraw(active)
            self._end(active, AgentError.DEADLINE, message)

    def _withdraw(self, active: _Active) -> None:
        """Forget a deliberation's prompts in flight, which the engine no longer has."""
        for request_id in active.waiting:
            del self.owners[request_id]
        active.waiting.clear()

    def _end(self, active: _Active, error: AgentError, message: str) -> None:
        """Answer all open prompts of a deliberation with `error`, which ends its dialogue."""
        for index, answer in enumerate(active.answers):
            if answer is None:
                self._answer(active, index, Completion(error=error, error_message=message))
        self._advance(active)

    def _on_crash(self, crash: EngineCrashed) -> None:
        """Withdraw all deliberations under way. If one of them certainly caused the crash, end it."""
        self.crash = str(crash)  # not the exception: its frames would keep the crashed engine's memory
        self.crashes_in_a_row += 1
        crashed_at = self._now()
        under_way = list({id(active): active for active in self.owners.values()}.values())
        for active in under_way:
            self._withdraw(active)
            active.crashes += 1
            active.deadline -= crashed_at  # now the time left, until `_resume`
        if len(under_way) == 1 and under_way[0].crashes > QUARANTINE_AFTER:
            summary = f"the engine died {under_way[0].crashes} times while this was under way, the last time alone"
            self._end(under_way[0], AgentError.FATAL, f"{summary}: {crash}")
        else:
            self.interrupted = under_way

    def _restart(self, more_jobs: bool) -> bool:
        """Restart the engine if any work is left. Return whether there is."""
        crash, interrupted = str(self.crash), self.interrupted
        self.crash, self.interrupted = None, []
        if not (more_jobs or interrupted or self.quarantined):
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
        """Submit a deliberation's unanswered prompts again. The deadline excludes the engine's downtime."""
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
    """Run every job on `backend` and yield each as it finishes. Raises `EngineError` after more than `restarts` crashes
    in a row, with no job finished in between. `monotonic` is the clock of deadlines, in seconds.
    """
    return _Loop(backend, max_in_flight, restarts, monotonic, on_completion).run(jobs)
