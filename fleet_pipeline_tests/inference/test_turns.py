"""Turns of several requests: each seat at its own pace, tools beside models, and any order of answers."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.common.errors import EngineCrashed
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Dialogue, Exchange, Message, Request
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.inference.engine import Job
from fleet_pipeline.inference.loop import drive
from fleet_pipeline_tests.support.backends import Backend, jobs, run
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.heard import Heard

pytestmark = pytest.mark.unit


class Tool:
    """A slow tool in place of a backend: its answers come after `length` steps."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.left: dict[str, int] = {}

    def submit(self, request_id: str, request: Request) -> Completion | None:
        self.left[request_id] = self.length
        return None

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        self.left = {request_id: left - 1 for request_id, left in self.left.items()}
        done = [request_id for request_id, left in self.left.items() if left <= 0]
        self.left = {request_id: left for request_id, left in self.left.items() if left > 0}
        return [(request_id, said("the tool's answer")) for request_id in done]


class WithTool(Backend):
    """A model and a tool stepped by one loop. Answers come late, and the last that was asked for comes first."""

    def __init__(self, length: Callable[[Heard], int], tool: Tool) -> None:
        super().__init__(length)
        self.tool = tool

    def submit(self, request_id: str, request: Request) -> Completion | None:
        return (self.tool if request.name == "tool" else super()).submit(request_id, request)

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        done = super().step(patience_seconds) if self.left else []
        return [*reversed(done), *self.tool.step(patience_seconds)]

    def abort(self, request_ids: list[str]) -> dict[str, Completion]:
        for request_id in request_ids:
            self.tool.left.pop(request_id, None)
        return super().abort([request_id for request_id in request_ids if request_id in self.prompts])


def ask(seat: str, times: int, tool: bool, ended: list[str]) -> Exchange[list[str]]:
    """A turn of `times` requests to the model, with a call of the tool between them."""
    heard = []
    for number in range(times):
        if number and tool:
            heard.append((yield a_request("tool")).text)
        heard.append((yield a_request(f"t1.dev agent-dev-00{seat} propose {number} agent-dev-00{seat} 1")).text)
    ended.append(seat)
    return heard


def a_request(name: str) -> Request:
    messages = (Message("system", "s"), Message("user", "<task>\nsomething\n</task>"))
    return Request(name=name, model="m", messages=messages, sampling=Sampling())


def test_a_turn_of_several_requests_with_a_slow_tool_between_them_holds_up_no_other_seat() -> None:
    ended: list[str] = []

    def council() -> Dialogue[list[list[str]]]:
        exchanges = [ask("1", 3, True, ended), ask("2", 1, False, ended), ask("3", 4, False, ended)]
        return (yield exchanges)

    backend = WithTool(lambda _: 2, Tool(length=20))
    (finished,) = run(backend, [Job("t1.dev", council(), 300)])
    assert ended == ["2", "3", "1"]
    with_tool, once, often = finished.result
    assert with_tool == [
        "A propose 0 on A",
        "the tool's answer",
        "A propose 1 on A",
        "the tool's answer",
        "A propose 2 on A",
    ]
    assert (len(once), len(often)) == (1, 4)


def test_a_deadline_ends_a_turn_that_waits_for_a_tool() -> None:
    def council() -> Dialogue[Completion]:
        return (yield [(ask_once("tool")), (ask_once("t1.dev agent-dev-001 propose 0 agent-dev-001 1"))])

    def ask_once(name: str) -> Exchange[Completion]:
        return (yield a_request(name))

    tool = Tool(length=10_000)
    (finished,) = run(WithTool(lambda _: 100, tool), [Job("t1.dev", council(), 10)])
    assert [answer.error for answer in finished.result] == [AgentError.DEADLINE] * 2
    assert tool.left == {}


def test_a_turn_that_breaks_costs_its_own_deliberation_and_leaves_nothing_in_the_engine() -> None:
    def breaks() -> Exchange[None]:
        yield a_request("t1.dev agent-dev-001 propose 0 agent-dev-001 1")
        raise RuntimeError("a bug in a turn")

    def council() -> Dialogue[Any]:
        return (yield [ask("2", 9, False, []), breaks()])

    backend = Backend(lambda _: 2)
    finished = {f.key: f for f in run(backend, [Job("t1.dev", council(), 300), *jobs(1)])}
    assert str(finished["t1.dev"].error) == "a bug in a turn"
    assert finished["t0.dev"].result.status is Status.COMPLETED
    assert backend.left == {}


@settings(max_examples=80)
@given(
    turns=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=8),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    tools=st.booleans(),
    deaths=st.sets(st.integers(1, 30), max_size=3),
    timeout=st.sampled_from([15, 100_000]),
    limit=st.integers(1, 12),
)
def test_whatever_the_schedule_each_request_is_answered_once_or_its_deliberation_says_why(
    turns: list[list[int]], lengths: list[int], tools: bool, deaths: set[int], timeout: int, limit: int
) -> None:
    class Backends(WithTool):
        steps = 0

        def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
            self.steps += 1
            if self.steps in deaths:
                self.left.clear()
                self.tool.left.clear()
                raise EngineCrashed("out of memory")
            return super().step(patience_seconds)

        def restart(self, reason: str) -> None:
            pass

    answered: list[tuple[str, int, int]] = []

    def turn(key: str, seat: int, times: int) -> Exchange[AgentError | None]:
        for number in range(times):
            name = "tool" if tools and number % 2 else f"{key} agent-dev-00{seat + 1} propose {number} agent-dev-001 1"
            completion = yield a_request(name)
            if completion.error:
                return completion.error
            answered.append((key, seat, number))
        return None

    def council(key: str, shape: list[int]) -> Dialogue[list[AgentError | None]]:
        return (yield [turn(key, seat, times) for seat, times in enumerate(shape)])

    backend = Backends(lambda p: lengths[p.round % len(lengths)], Tool(length=7))
    work = [Job(f"t{n}.dev", council(f"t{n}.dev", shape), timeout) for n, shape in enumerate(turns)]
    stream = drive(work, backend, max_in_flight=limit, restarts=99, monotonic=backend.clock)
    finished = {f.key: f for f in stream}
    assert len(finished) == len(turns)
    assert len(set(answered)) == len(answered)
    for n, shape in enumerate(turns):
        errors = finished[f"t{n}.dev"].result
        for seat, times in enumerate(shape):
            heard = sum(key == f"t{n}.dev" and of == seat for key, of, _ in answered)
            assert heard == times if errors[seat] is None else heard < times
    assert backend.left == backend.tool.left == {}
