"""The batching loop: many deliberations share one running batch.

A dialogue yields exchanges, which go on at the same time. When an exchange's request is answered, its next request
enters the batch at once. When the last exchange of a phase has ended, the next phase does. There is no barrier
between the seats of a phase, and none between deliberations. Each one finishes as soon as it can, and a slow one does
not leave the batch half empty.

In-flight work is bounded and the backlog is read lazily. A new deliberation is admitted only while fewer
than `max_in_flight` requests are in flight. Admitted ones always continue. So at most `max_in_flight`
deliberations are open at once, each with at most one phase in flight.

However the run is stopped, each deliberation under way ends with what has been generated until then, and is yielded. A
caller that fails while it stores a result throws its exception in, and is yielded those as well.

A crashed engine is restarted, up to a limit of crashes in a row. Deliberations under way continue from the
answers they have; only the requests in flight are lost. A deliberation under way at two crashes is quarantined
until the others are done. Then it continues alone. If the engine crashes once more, that deliberation is the
cause, and ends. Such a deliberation costs three starts and harms no other one. Each deliberation that ends
resets the count of crashes in a row, so any number of such deliberations cost three starts each.

Actions of agents go to hands, which work beside the engine. It goes on for the others meanwhile. A crash of the engine does not
touch them: what is done while their deliberation is set aside is delivered when it goes on.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from fleet_pipeline.common.errors import EngineCrashed, EngineError
from fleet_pipeline.deliberation.exchange import Action, AgentError, Completion, Done, Exchange, Request, Result
from fleet_pipeline.inference.engine import Finished, Hands, Job, OnCompletion, ignore
from fleet_pipeline.inference.pace import Pace

# A deliberation under way at this many crashes is quarantined.
QUARANTINE_AFTER = 2
# How long a thread that stores or scores beside the loop may keep Python to itself. By default it is 5 ms, half a step of a fast engine.
_SWITCH_SECONDS = 0.0005
# How long a backend may wait for an answer. Deadlines are looked at in between, so they are late by this at most.
PATIENCE_SECONDS = 0.5
# The same while hands are at work: what they have done must not wait for an answer.
_SHORT_SECONDS = 0.02
# Between steps without an answer deadlines are looked at no more often: at each token it was a third of a percent of the time.
_LOOK_SECONDS = 0.05
_FINISH_REASONS = {
    AgentError.DEADLINE: "deadline", AgentError.CANCELLED: "cancelled", AgentError.FATAL: "crash"
}  # fmt: skip


class Backend(Protocol):
    """The operations that the loop needs from an inference engine."""

    # So far, in which it could not work at all, because its servers were gone. The clocks of deadlines stand still.
    @property
    def down_seconds(self) -> float: ...

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

    def abort(self, request_ids: list[str]) -> dict[str, Completion]:
        """Drop requests that are in flight. Return what has been generated of each, as far as that is known, also of an
        engine that has crashed.
        """
        ...


class NoHands:
    """Where nobody can do actions: each is refused."""

    def __init__(self) -> None:
        self._asked: list[str] = []

    def submit(self, request_id: str, action: Action) -> None:
        self._asked.append(request_id)

    def take(self, patience_seconds: float) -> list[tuple[str, Done]]:
        refused, self._asked = self._asked, []
        return [(one, Done(False, error="there are no tools here", outcome="refused")) for one in refused]

    def abort(self, request_ids: Sequence[str]) -> None:
        self._asked = [one for one in self._asked if one not in request_ids]


NOTHING = Completion()


@dataclass
class _Turn:
    """An exchange, and what it waits for. `asked_for` is None when it has ended; `result` is then set."""

    exchange: Exchange[Any]
    asked_for: Request | Action | None = None
    asked_at: float = 0.0  # since the epoch
    asked: float = 0.0  # on the clock of deadlines
    partial: Completion = NOTHING  # what had been generated when the request was withdrawn
    held: Done | None = None  # done while the deliberation was set aside
    result: Any = None


@dataclass
class _Active:
    """A deliberation under way, with the turns that it waits for."""

    job: Job[Any]
    started_at: float
    began: float  # on the clock of deadlines; of a deliberation that is set aside, the negative of the time it has used
    turns: list[_Turn] = field(default_factory=list)
    waiting: dict[str, _Turn] = field(default_factory=dict)  # by request id
    crashes: int = 0  # engine crashes while this was under way
    aside: bool = False  # after a crash, until it goes on: only its actions do
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
        hands: Hands,
    ) -> None:
        self.backend = backend
        self.hands = hands
        self.acting: set[str] = set()  # of `owners`, those that hands are at
        self.max_in_flight = max_in_flight
        self.restarts = restarts
        self.monotonic = monotonic
        self.on_completion = on_completion
        self.open: dict[int, _Active] = {}  # deliberations that have begun and not ended, by their id()
        self.owners: dict[str, _Active] = {}  # request id -> deliberation
        self.looked_at = 0.0  # when deadlines were looked at last
        self.idle = 0.0  # seconds spent waiting for the caller, who supplies jobs and takes results
        self.crashes_in_a_row = 0  # reset when a deliberation ends
        self.crash: str | None = None  # reason of a crash, until the restart
        self.interrupted: list[_Active] = []  # the deliberations that this crash interrupted
        self.quarantined: deque[_Active] = deque()  # may crash the engine; their clocks stand still
        self.stopping = False
        self.pace = Pace()
        self.finished: deque[Finished[Any]] = deque()
        self.request_ids = count()

    def run(self, jobs: Iterable[Job[Any]]) -> Generator[Finished[Any]]:
        intake = iter(jobs)
        more_jobs = True
        patience_of_threads = sys.getswitchinterval()
        sys.setswitchinterval(min(patience_of_threads, _SWITCH_SECONDS))
        try:
            while True:
                while self.finished:
                    before = self._now()
                    yield self.finished.popleft()
                    # The engine stands still while the caller stores a result. Slow storage must not use up deadlines.
                    self.idle += self._now() - before
                if self.crash is not None and not self._restart(more_jobs):
                    return
                while more_jobs and self._has_room() and not self.finished:
                    before = self._now()
                    job = next(intake, None)
                    self.idle += self._now() - before
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
        except GeneratorExit:  # the caller takes no more
            raise
        except BaseException as stop:
            self._stop(stop)
            while self.finished:
                yield self.finished.popleft()
            raise
        finally:
            sys.setswitchinterval(patience_of_threads)
            # No request may stay in the engine, and no program run on.
            self._abort(list(self.owners))

    def _has_room(self) -> bool:
        """An agent that acts leaves room in the engine. As many may act as may speak: each has a workspace."""
        return max(len(self.owners) - len(self.acting), len(self.acting)) < self.max_in_flight

    def _step(self) -> None:
        answers: list[tuple[str, Completion]] = []
        speaking = len(self.owners) > len(self.acting)
        if speaking:
            try:
                answers = self.backend.step(_SHORT_SECONDS if self.acting else PATIENCE_SECONDS)
            except EngineCrashed as crash:
                self._on_crash(crash)
                return
        for request_id, completion in answers:
            self._deliver(request_id, completion)
        acts = self.hands.take(0.0 if speaking else PATIENCE_SECONDS) if self.acting else []
        for request_id, done in acts:
            self._deliver(request_id, done)
        if answers or acts or self.monotonic() - self.looked_at >= _LOOK_SECONDS:
            self._expire()

    def _now(self) -> float:
        return self.monotonic() - self.idle - self.backend.down_seconds

    def _begin(self, job: Job[Any]) -> None:
        active = _Active(job, started_at=time.time(), began=self._now())
        self.open[id(active)] = active
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

    def _proceed(self, active: _Active, turn: _Turn, answer: Completion | Done | None) -> None:
        """Send `answer` to a turn and submit what it asks for next. Without an answer the turn begins."""
        while active.error is None:
            try:
                turn.asked_for = next(turn.exchange) if answer is None else turn.exchange.send(answer)
            except StopIteration as stop:
                turn.asked_for, turn.result = None, stop.value
                return
            except Exception as error:  # noqa: BLE001 - as above; its neighbours in the deliberation are given up
                active.error = error
                self._withdraw(active)
                return
            turn.asked_at, turn.partial = time.time(), NOTHING
            answer = self._submit(active, turn, turn.asked_for)
            if answer is None:
                return

    def _submit(self, active: _Active, turn: _Turn, asked_for: Request | Action) -> Completion | None:
        """Submit a request or an action. Returns an answer if there is one at once: the backend does not take the request."""
        request_id = str(next(self.request_ids))
        turn.asked = self._now()
        if isinstance(asked_for, Action):
            self.hands.submit(request_id, asked_for)
            self.acting.add(request_id)
        elif (failure := self.backend.submit(request_id, asked_for)) is not None:
            return self._stamp(turn, failure)
        active.waiting[request_id] = turn
        self.owners[request_id] = active
        return None

    def _deliver(self, request_id: str, answer: Completion | Done) -> None:
        active = self.owners.pop(request_id, None)
        self.acting.discard(request_id)
        if active is None:  # aborted while its last token was generated
            return
        turn = active.waiting.pop(request_id)
        if active.aside:
            assert isinstance(answer, Done)
            turn.held = answer
            return
        if isinstance(answer, Completion):
            self.pace.note(self._now() - turn.asked, answer.completion_tokens)
            answer = self._stamp(turn, answer)
        self._proceed(active, turn, answer)
        self._advance(active)

    def _stamp(self, turn: _Turn, completion: Completion) -> Completion:
        answer = replace(completion, started_at=turn.asked_at, finished_at=time.time())
        self.on_completion(answer)
        return answer

    def _expire(self) -> None:
        """End the deliberations past their deadline, with what they have said until then."""
        now, self.looked_at = self._now(), self.monotonic()
        for active in self._under_way():
            if now - active.began >= self.pace.deadline(active.job):
                self._withdraw(active)
                self._end(active, AgentError.DEADLINE, self.pace.reason(active.job))

    def _under_way(self) -> list[_Active]:
        """The deliberations with requests in the engine. Others are open only while they are set aside."""
        return [active for active in self.open.values() if active.waiting and not active.aside]

    def _withdraw(self, active: _Active, *, actions: bool = True) -> None:
        """Take a deliberation's requests out of the engine, and its `actions` from hands. Its turns keep what had been
        generated."""
        withdrawn = [one for one in active.waiting if actions or one not in self.acting]
        partials = self._abort(withdrawn)
        for request_id in withdrawn:
            active.waiting.pop(request_id).partial = partials.get(request_id, NOTHING)
            del self.owners[request_id]

    def _abort(self, request_ids: list[str]) -> dict[str, Completion]:
        acting = [one for one in request_ids if one in self.acting]
        if acting:
            self.hands.abort(acting)
            self.acting.difference_update(acting)
        return self.backend.abort([one for one in request_ids if one not in acting])

    def _end(self, active: _Active, error: AgentError, message: str) -> None:
        """Answer all open requests of a deliberation with `error`, which ends its dialogue. They have been withdrawn."""
        finish = _FINISH_REASONS[error]
        for turn in active.turns:
            if isinstance(turn.asked_for, Action):
                self._proceed(active, turn, Done(False, error=message, outcome="unfinished", error_type=error))
            elif turn.asked_for is not None:
                unfinished = replace(turn.partial, finish_reason=finish, error=error, error_message=message)
                self._proceed(active, turn, self._stamp(turn, unfinished))
        self._advance(active)

    def _stop(self, reason: BaseException) -> None:
        """End every deliberation that is under way or set aside."""
        self.stopping = True
        for active in list(self.open.values()):
            active.aside = False
            self._withdraw(active)
            why = f": {reason}" if isinstance(reason, EngineError) else ""
            self._end(active, AgentError.CANCELLED, f"the run was stopped while this was being generated{why}")

    def _on_crash(self, crash: EngineCrashed) -> None:
        """Withdraw the deliberations under way on what has crashed. If one of them certainly caused it, end it."""
        self.crash = str(crash)  # not the exception: its frames would keep the crashed engine's memory
        self.crashes_in_a_row += 1
        crashed_at = self._now()
        hit = self.owners.keys() - self.acting if crash.request_ids is None else crash.request_ids
        under_way = [active for active in self._under_way() if hit & active.waiting.keys()]
        for active in under_way:
            self._withdraw(active, actions=False)
            active.aside = True
            active.crashes += 1
            active.began -= crashed_at
        if len(under_way) == 1 and under_way[0].crashes > QUARANTINE_AFTER:
            under_way[0].aside = False
            self._withdraw(under_way[0])
            summary = f"the engine died {under_way[0].crashes} times while this was under way, the last time alone"
            self._end(under_way[0], AgentError.FATAL, f"{summary}: {crash}")
        else:
            self.interrupted = under_way

    def _restart(self, more_jobs: bool) -> bool:
        """Restart the engine if any work is left. Return whether there is."""
        crash, interrupted = str(self.crash), self.interrupted
        self.crash, self.interrupted = None, []
        if not (more_jobs or interrupted or self.quarantined or self.owners):
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
        active.began += self._now()
        active.aside = False
        at_work = {id(turn) for turn in active.waiting.values()}
        for turn in active.turns:
            if active.error is not None:
                break
            if turn.asked_for is None or id(turn) in at_work:
                continue
            if turn.held is not None:
                held, turn.held = turn.held, None
                self._proceed(active, turn, held)
                continue
            if turn.partial is not NOTHING:  # it is generated again, and its tokens were spent all the same
                self.on_completion(replace(turn.partial, error=AgentError.ENGINE, error_message="the engine crashed"))
                turn.partial = NOTHING
            if (refused := self._submit(active, turn, turn.asked_for)) is not None:
                self._proceed(active, turn, refused)
        self._advance(active)

    def _finish(self, active: _Active, result: Any = None, error: BaseException | None = None) -> None:
        self.crashes_in_a_row = 0
        del self.open[id(active)]
        if error is not None and self.stopping:
            return  # the interrupt came in the midst of a turn: no fault of the dialogue, and it has no end
        deadline = self.pace.deadline(active.job)
        self.finished.append(Finished(active.job.key, result, active.started_at, time.time(), deadline, error))


def drive(
    jobs: Iterable[Job[Result]],
    backend: Backend,
    *,
    max_in_flight: int,
    restarts: int = 0,
    on_completion: OnCompletion = ignore,
    hands: Hands | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Generator[Finished[Result]]:
    """Run every job on `backend`, and its actions with `hands`, and yield each as it finishes. Raises `EngineError` after more
    than `restarts` crashes in a row, with no job finished in between. `monotonic` is the clock of deadlines, in seconds.
    """
    return _Loop(backend, max_in_flight, restarts, monotonic, on_completion, hands or NoHands()).run(jobs)
