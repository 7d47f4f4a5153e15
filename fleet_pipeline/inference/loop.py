"""The batching loop: many deliberations share one running batch.

A dialogue yields exchanges, which go on at the same time. When an exchange's request is answered, its next request
enters the batch at once. When the last exchange of a phase has ended, the next phase does. There is no barrier
between the seats of a phase, and none between deliberations. Each one finishes as soon as it can, and a slow one does
not leave the batch half empty.

In-flight work is bounded and the backlog is read lazily. A new deliberation is admitted only while fewer
than `max_in_flight` requests are in flight. Admitted ones always continue. So at most `max_in_flight`
deliberations are open at once, each with at most one phase in flight.

A crashed engine is restarted, up to a limit of crashes in a row. Deliberations under way continue from the
answers they have; only the requests in flight are lost. A deliberation under way at two crashes is quarantined
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
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Exchange, Request, Result
from fleet_pipeline.inference.engine import Finished, Job, OnCompletion, ignore

# A deliberation under way at this many crashes is quarantined.
QUARANTINE_AFTER = 2
# How long a backend may wait for an answer. Deadlines are looked at in between, so they are late by this at most.
PATIENCE_SECONDS = 0.5


class Backend(Protocol):
    """The operations that the loop needs from an inference engine."""

    def submit(self, request_id: str, request: Request) -> Completion | None:
        """Queue a request and return None, or return a completion with the error that prevents it."""
        ...

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        """Go on with every request in flight. Return the id and completion of each that finished, in any order.

        Waits for answers at most `patience_seconds`, so that a backend that is slow or hangs does not hold up
        deadlines. A backend that computes in this process goes on by one token and does not wait. Raises
        `EngineCrashed`.
        """
        ...

    def restart(self, reason: str) -> None:
        """Restart after a crash, without the requests that were in flight. Raises `EngineError`."""
        ...

    def abort(self, request_ids: list[str]) -> None:
        """Drop requests that are in flight."""
        ...


@dataclass
class _Turn:
    """An exchange, and the request that it waits for. `request` is None when it has ended; `result` is then set."""

    exchange: Exchange[Any]
    request: Request | None = None
    asked_at: float = 0.0
    result: Any = None


@dataclass
class _Active:
    """A deliberation under way, with the turns that it waits for."""

    job: Job[Any]
    started_at: float
    deadline: float
    turns: list[_Turn] = field(default_factory=list)
    waiting: dict[str, _Turn] = field(default_factory=dict)  # by request id
    crashes: int = 0  # engine crashes while this was under way
    error: BaseException | None = None  # raised by one of its turns


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
            # After an early exit (an error, or the caller stopped), no request may stay in the engine.
            self.backend.abort(list(self.owners))

    def _step(self) -> None:
        try:
            answers = self.backend.step(PATIENCE_SECONDS)
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
        """Go on with a dialogue none of whose turns waits, until one does or the dialogue ends."""
        course = active.job.course
        while not active.waiting:
            try:
                if active.error is not None:
                    raise active.error
                exchanges = next(course) if first else course.send([turn.result for turn in active.turns])
            except StopIteration as stop:
                self._finish(active, result=stop.value)
                return
            except Exception as error:  # noqa: BLE001 - one broken dialogue must not stop the others
                course.close()
                self._finish(active, error=error)
                return
            first = False
            active.turns = [_Turn(exchange) for exchange in exchanges]
            for turn in active.turns:
                self._proceed(active, turn, None)

    def _proceed(self, active: _Active, turn: _Turn, answer: Completion | None) -> None:
        """Send `answer` to a turn and submit its next request. Without an answer the turn begins."""
        while active.error is None:
            try:
                turn.request = next(turn.exchange) if answer is None else turn.exchange.send(answer)
            except StopIteration as stop:
                turn.request, turn.result = None, stop.value
                return
            except Exception as error:  # noqa: BLE001 - as above; its neighbours in the deliberation are given up
                active.error = error
                self.backend.abort(list(active.waiting))
                self._withdraw(active)
                return
            turn.asked_at = time.time()
            answer = self._submit(active, turn, turn.request)
            if answer is None:
                return

    def _submit(self, active: _Active, turn: _Turn, request: Request) -> Completion | None:
        """Submit a request. Returns an answer if there is one at once: the backend does not take the request."""
        request_id = str(next(self.request_ids))
        failure = self.backend.submit(request_id, request)
        if failure is not None:
            return self._stamp(turn, failure)
        active.waiting[request_id] = turn
        self.owners[request_id] = active
        return None

    def _deliver(self, request_id: str, completion: Completion) -> None:
        active = self.owners.pop(request_id, None)
        if active is None:  # aborted while its last token was generated
            return
        turn = active.waiting.pop(request_id)
        self._proceed(active, turn, self._stamp(turn, completion))
        self._advance(active)

    def _stamp(self, turn: _Turn, completion: Completion) -> Completion:
        answer = replace(completion, started_at=turn.asked_at, finished_at=time.time())
        self.on_completion(answer)
        return answer

    def _expire(self) -> None:
        """End the deliberations past their deadline: abort their requests, keep their answers."""
        now = self._now()
        late = {id(active): active for active in self.owners.values() if active.deadline <= now}
        for active in late.values():
            self.backend.abort(list(active.waiting))
            message = f"unfinished after the deliberation's {active.job.timeout_seconds:g} s"
            self._withdraw(active)
            self._end(active, AgentError.DEADLINE, message)

    def _withdraw(self, active: _Active) -> None:
        """Forget a deliberation's requests in flight, which the engine no longer has."""
        for request_id in active.waiting:
            del self.owners[request_id]
        active.waiting.clear()

    def _end(self, active: _Active, error: AgentError, message: str) -> None:
        """Answer all open requests of a deliberation with `error`, which ends its dialogue."""
        for turn in active.turns:
            if turn.request is not None:
                self._proceed(active, turn, self._stamp(turn, Completion(error=error, error_message=message)))
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
        """Submit a deliberation's open requests again. The deadline excludes the engine's downtime."""
        active.deadline += self._now()
        for turn in active.turns:
            if active.error is not None:
                break
            if turn.request is not None and (refused := self._submit(active, turn, turn.request)) is not None:
                self._proceed(active, turn, refused)
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
