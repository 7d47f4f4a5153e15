"""The batching loop with hands: they work beside the engine, and neither loses what the other has."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fleet_pipeline.common.errors import EngineCrashed
from fleet_pipeline.deliberation.council import Toolset
from fleet_pipeline.deliberation.exchange import Action, AgentError, Completion, Done, Request
from fleet_pipeline.deliberation.protocol import deliberate, most_tokens
from fleet_pipeline.deliberation.transcript import Status, Transcript
from fleet_pipeline.inference.engine import Finished, Job
from fleet_pipeline.inference.loop import drive
from fleet_pipeline_tests.support.councils import a_deliberation, said

pytestmark = pytest.mark.unit
TOOLS = Toolset("work(): Work.", ('{"type":"object"}',), frozenset())
CALL, ANSWER = said('{"tool": "a.work", "arguments": {}}'), said('{"answer": "Done."}')


def a_job(task_id: str, calls: int = 2, **fields: Any) -> Job[Transcript]:
    deliberation = replace(
        a_deliberation(task_id, tools=True, num_agents=2, rounds=0, model=f"m{calls}", **fields), toolset=TOOLS
    )
    return Job(deliberation.id, deliberate(deliberation), deliberation.timeout_seconds, most_tokens(deliberation))


class Model:
    """Answers one request a step, with as many calls first as the model's name says. Crashes at these steps."""

    down_seconds = 0.0

    def __init__(self, crashes: Sequence[int] = ()) -> None:
        self.queue: dict[str, Request] = {}
        self.crashes = crashes
        self.steps = self.restarts = 0
        self.busy: list[float] = []

    def submit(self, request_id: str, request: Request) -> Completion | None:
        self.queue[request_id] = request
        return None

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        assert self.queue, "the engine was asked to go on with nothing"
        self.steps += 1
        if self.steps in self.crashes:
            raise EngineCrashed("it died")
        request_id, request = next(iter(self.queue.items()))
        del self.queue[request_id]
        made = sum(message.role == "assistant" for message in request.messages)
        return [(request_id, CALL if made < int(request.model[1:]) else ANSWER)]

    def restart(self, reason: str) -> None:
        self.restarts += 1
        self.queue.clear()

    def abort(self, request_ids: list[str]) -> dict[str, Completion]:
        for request_id in request_ids:
            self.queue.pop(request_id, None)
        return {}


class Workers:
    """Does what it is asked after so many looks."""

    def __init__(self, looks: int = 3) -> None:
        self.looks = looks
        self.waiting: dict[str, tuple[Action, int]] = {}
        self.did: list[str] = []
        self.aborted: list[str] = []

    def submit(self, request_id: str, action: Action) -> None:
        self.waiting[request_id] = (action, self.looks)

    def take(self, patience_seconds: float) -> list[tuple[str, Done]]:
        if patience_seconds:
            time.sleep(0.001)
        due = [one for one, (_, left) in self.waiting.items() if left == 0]
        self.waiting = {one: (action, left - 1) for one, (action, left) in self.waiting.items() if left}
        self.did += due
        return [(one, Done(True, "worked")) for one in due]

    def abort(self, request_ids: Sequence[str]) -> None:
        self.aborted += request_ids
        for request_id in request_ids:
            self.waiting.pop(request_id, None)


def run(model: Model, workers: Workers, *jobs: Job[Transcript], **more: Any) -> dict[str, Finished[Transcript]]:
    done = drive(jobs, model, max_in_flight=8, restarts=9, hands=workers, **more)
    return {one.key: one for one in done}


def test_all_actions_are_done_once_and_their_turns_go_on() -> None:
    workers = Workers()
    finished = run(Model(), workers, *(a_job(f"t{n}", calls=n) for n in range(6)))
    for n in range(6):
        transcript = finished[f"t{n}.dev"].result
        assert transcript.status is Status.COMPLETED
        assert [len(u.acted.calls) for u in transcript.utterances] == [n, n]
    assert len(workers.did) == len(set(workers.did)) == 2 * sum(range(6))
    assert workers.aborted == []


@pytest.mark.parametrize("crashes", [(3,), (2, 4), (1, 2, 3), (4, 5, 9, 13)])
def test_a_crash_of_the_engine_leaves_actions_alone_and_none_is_done_twice(crashes: tuple[int, ...]) -> None:
    model, workers = Model(crashes), Workers(looks=6)
    finished = run(model, workers, *(a_job(f"t{n}") for n in range(4)))
    assert model.restarts == len(crashes)
    completed = [one.result for one in finished.values() if one.result.status is Status.COMPLETED]
    assert len(completed) >= 3
    assert len(workers.did) == len(set(workers.did))
    for transcript in completed:
        names = [call.name for u in transcript.utterances for call in u.acted.calls]
        assert len(names) == len(set(names)) == 4


def test_a_deadline_ends_actions_and_the_turn_keeps_what_was_done() -> None:
    clock = iter(float(tick) for tick in range(100_000))
    workers = Workers(looks=10**9)
    finished = run(Model(), workers, a_job("t1", constraints={"timeout_seconds": 50}), monotonic=lambda: next(clock))
    transcript = finished["t1.dev"].result
    assert transcript.status is Status.TIMEOUT
    assert {u.error for u in transcript.utterances} == {AgentError.DEADLINE}
    assert len(workers.aborted) == 2


def test_a_run_that_is_stopped_ends_its_actions() -> None:
    workers = Workers(looks=10**9)
    model = Model()

    class Stopped(Exception):
        pass

    def stop(patience_seconds: float) -> list[tuple[str, Done]]:
        raise Stopped

    workers.take = stop  # type: ignore[method-assign]
    stream = drive([a_job("t1")], model, max_in_flight=8, hands=workers)
    finished = next(stream)
    assert {u.error for u in finished.result.utterances} == {AgentError.CANCELLED}
    with pytest.raises(Stopped):
        next(stream)
    assert len(workers.aborted) >= 1


def test_without_hands_an_action_is_refused_and_its_agent_goes_on() -> None:
    finished = {one.key: one for one in drive([a_job("t1"), a_job("t2", calls=0)], Model(), max_in_flight=8)}
    assert {one.result.status for one in finished.values()} == {Status.COMPLETED}
    steps = [step for u in finished["t1.dev"].result.utterances for step in u.acted.steps]
    assert {step.done.error for step in steps} == {"there are no tools here"}
