"""Several models in one run, on backends whose every step is visible."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.common.errors import EngineCrashed, EngineError
from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Request
from fleet_pipeline.deliberation.roles import ModelChoice
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.inference.engine import ALL_CHECKS, origin_of
from fleet_pipeline.inference.router import LocalModel, Router
from fleet_pipeline_tests.support.councils import a_deliberation, a_job, said
from fleet_pipeline_tests.support.scripted import ScriptedEngine

pytestmark = pytest.mark.unit
VLLM = origin_of("vllm", ALL_CHECKS)


class Machine:
    """Where models are loaded: at most as many local ones at a time as fit. `shares` of memory are 1 where not given."""

    def __init__(self, served: Sequence[str], local: Sequence[str], shares: Mapping[str, float] | None = None) -> None:
        self.loads: list[str] = []
        self.here: set[str] = set()
        self.shares = dict.fromkeys(local, 1.0) | dict(shares or {})
        self.crash: dict[str, int] = {}  # steps until the engine of a model crashes
        self.missing: set[str] = set()
        self.asked: list[tuple[str, str]] = []  # (model of the engine, model of the request)
        self.router = Router(
            {name: Loaded(self, name) for name in served},
            {name: LocalModel(lambda name=name: self._load(name), self.shares[name]) for name in local},
            VLLM,
            max_in_flight=8,
            max_restarts=5,
        )

    def _load(self, name: str) -> "Loaded":
        assert name not in self.here
        assert not self.here or sum(self.shares[one] for one in (*self.here, name)) <= 1.001, "more than fit"
        if name in self.missing:
            raise EngineError(f"{name} cannot be loaded")
        self.loads.append(name)
        self.here.add(name)
        return Loaded(self, name)


class Loaded(ScriptedEngine):
    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(lambda heard: said(f"{name} says {heard.phase}"), batch=4)
        self.machine, self.name, self.start_seconds = machine, name, 1.0

    def submit(self, request_id: str, request: Request) -> Completion | None:
        self.machine.asked.append((self.name, request.model))
        if "refuse me" in request.messages[-1].content:
            return Completion(error=AgentError.OVERLONG, error_message="too long")
        return super().submit(request_id, request)

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        left = self.machine.crash.get(self.name)
        if left is not None:
            self.machine.crash[self.name] = left - 1
            if left == 0:
                raise EngineCrashed(f"{self.name} broke")
        return super().step(patience_seconds)

    def __exit__(self, *_: object) -> None:
        self.machine.here.discard(self.name)


def councils(count: int, models: Sequence[str], critic: str | None = None, **fields: Any) -> list[Any]:
    phases = {"critique": ModelChoice(model=critic)} if critic else {}
    seats = [ModelChoice(model=models[index % len(models)]) for index in range(3)]
    fields = {"seats": seats, "phases": phases} | fields
    return [a_deliberation(f"t{n}", defaults=CouncilDefaults(model="default"), **fields) for n in range(count)]


def run(machine: Machine, deliberations: Sequence[Any]) -> dict[str, Any]:
    with machine.router as router:
        finished = {one.key: one.result for one in router.run([a_job(one) for one in deliberations])}
    assert not machine.here
    return finished


def test_every_request_goes_to_the_engine_of_its_model_and_every_council_ends() -> None:
    machine = Machine(["far"], ["a", "b"])
    finished = run(machine, councils(20, ["a", "b", "far"]))
    assert {one.status for one in finished.values()} == {Status.COMPLETED}
    assert all(engine == model for engine, model in machine.asked)
    for transcript in finished.values():
        assert {u.request.model: u.text.split()[0] for u in transcript.utterances} == {"a": "a", "b": "b", "far": "far"}


def test_models_of_one_process_take_turns_for_all_councils_and_not_for_each() -> None:
    machine = Machine([], ["a", "b"])
    run(machine, councils(100, ["a"], critic="b"))
    assert machine.loads == ["a", "b", "a"]


def test_models_that_fit_into_memory_stay_there_side_by_side() -> None:
    machine = Machine([], ["a", "b", "c"], dict.fromkeys("abc", 1 / 3))
    run(machine, councils(100, ["a", "b"], critic="c"))
    assert sorted(machine.loads) == ["a", "b", "c"]


def test_of_models_that_fit_only_in_part_no_more_are_released_than_must_be() -> None:
    machine = Machine([], ["a", "b", "c"], {"a": 0.3, "b": 0.4, "c": 0.6})
    run(machine, councils(100, ["a"], critic="c"))  # b is not asked
    assert machine.loads == ["a", "c"]
    machine = Machine([], ["a", "b", "c"], {"a": 0.3, "b": 0.4, "c": 0.6})
    run(machine, councils(100, ["a", "b"], critic="c"))
    assert (machine.loads.count("a"), machine.loads.count("c")) == (1, 1)
    assert machine.loads.count("b") == 2


def test_of_two_engines_here_the_one_that_crashes_is_started_again_and_the_other_keeps_its_requests() -> None:
    machine = Machine([], ["a", "b"], {"a": 0.5, "b": 0.5})
    machine.crash["a"] = 1
    quiet = a_deliberation("quiet", defaults=CouncilDefaults(model="b"))
    finished = run(machine, [*councils(3, ["a"]), quiet])
    assert {one.status for one in finished.values()} == {Status.COMPLETED}
    assert machine.router.crashes == ["a broke"]
    assert machine.asked.count(("b", "b")) == 9


def test_a_model_on_a_server_answers_while_another_is_loaded_here() -> None:
    machine = Machine(["far"], ["a"])
    run(machine, councils(10, ["a", "far"]))
    assert machine.loads == ["a"]


def test_a_refusal_of_a_request_that_waited_for_its_model_reaches_its_seat() -> None:
    machine = Machine([], ["a", "b"])
    (refused,) = run(machine, councils(1, ["a", "a", "b"], context="refuse me")).values()
    assert {u.error for u in refused.utterances} == {AgentError.OVERLONG}


def test_an_engine_that_crashes_is_started_again_and_the_others_keep_their_requests() -> None:
    machine = Machine(["far"], ["a", "b"])
    machine.crash["b"] = 2
    finished = run(machine, councils(12, ["a", "b", "far"]))
    assert {one.status for one in finished.values()} == {Status.COMPLETED}
    assert machine.router.crashes == ["b broke"]


def test_a_crash_here_takes_nothing_from_councils_that_speak_at_servers_only() -> None:
    machine = Machine(["far"], ["a"])
    machine.crash["a"] = 0
    far = councils(5, ["far"])
    near = a_deliberation("near", defaults=CouncilDefaults(model="a"))
    finished = run(machine, [*far, near])
    assert {one.status for one in finished.values()} == {Status.COMPLETED}
    assert machine.router.crashes == ["a broke"]
    assert machine.asked.count(("far", "far")) == 5 * 9
    assert machine.asked.count(("a", "a")) == 9 + 3


def test_an_answer_is_delivered_before_another_engine_s_crash_of_the_same_step() -> None:
    machine = Machine(["far"], ["a"])
    machine.crash["a"] = 0
    with machine.router as router:
        for name in ("far", "a"):
            deliberation = councils(1, [name], rounds=0)[0]
            exchange = next(a_job(deliberation).course)[0]
            router.submit(name, next(exchange))
        assert [request_id for request_id, _ in router.step(0.5)] == ["far"]
        with pytest.raises(EngineCrashed):
            router.step(0.5)


def test_what_is_asked_between_a_crash_and_its_telling_is_asked_again() -> None:
    """Councils of both engines: an answer of the one that goes on leads to requests of the one that has crashed."""
    machine = Machine(["far"], ["a"])
    machine.crash["a"] = 0
    finished = run(machine, councils(4, ["a", "far"], critic="a"))
    assert {one.status for one in finished.values()} == {Status.COMPLETED}
    assert all(u.text for one in finished.values() for u in one.utterances)


def test_time_in_which_several_stand_still_counts_once_and_of_each_it_counts() -> None:
    machine = Machine(["far", "near"], ["a"])
    far, near = (machine.router._served[name] for name in ("far", "near"))
    far.down_seconds = 500.0
    assert machine.router.down_seconds == 500.0
    far.down_seconds, near.down_seconds = 530.0, 30.0
    assert machine.router.down_seconds == 530.0
    near.down_seconds = 90.0
    assert machine.router.down_seconds == 590.0


def test_a_model_that_cannot_be_loaded_ends_the_councils_that_need_it_with_the_reason() -> None:
    machine = Machine([], ["a", "b"])
    machine.missing = {"b"}
    ended: list[Any] = []
    with machine.router as router, pytest.raises(EngineError, match="b cannot be loaded"):
        ended.extend(router.run([a_job(one) for one in councils(3, ["a", "b", "b"])]))
    assert {u.error for one in ended for u in one.result.utterances if u.error} == {AgentError.CANCELLED}
    assert len(ended) == 3


def test_what_is_waiting_for_its_model_can_be_given_up() -> None:
    machine = Machine([], ["a", "b"])
    with machine.router as router:
        stream = router.run([a_job(one) for one in councils(5, ["a", "b"])])
        next(stream)
        stream.close()
        assert not any(router._parked.values())
        assert not any(router._asked.values())


def test_rows_know_the_engine_of_each_model_and_starts_are_counted_over_all() -> None:
    machine = Machine(["far"], ["a", "b"])
    run(machine, councils(2, ["a", "b", "far"]))
    assert machine.router.origin("far").engine == "synthetic: scripted"
    assert machine.router.start_seconds == len(machine.loads) + 1


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from("abcfg"), min_size=3, max_size=3), st.sampled_from(["", "a", "b", "c", "f"])
        ),
        min_size=1,
        max_size=12,
    ),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 12), max_size=2),
    st.dictionaries(st.sampled_from("abc"), st.floats(0.05, 1.2), max_size=3),
)
def test_any_mixture_of_councils_ends_with_every_seat_answered_by_its_model(
    casts: list[tuple[list[str], str]], crashes: dict[str, int], shares: dict[str, float]
) -> None:
    machine = Machine(["f", "g"], ["a", "b", "c"], shares)
    machine.crash = crashes
    deliberations = [
        a_deliberation(
            f"t{n}",
            seats=[ModelChoice(model=model) for model in models],
            phases={"critique": ModelChoice(model=critic)} if critic else {},
        )
        for n, (models, critic) in enumerate(casts)
    ]
    finished = run(machine, deliberations)
    assert len(finished) == len(deliberations)
    for deliberation in deliberations:
        transcript = finished[deliberation.id]
        assert transcript.status is Status.COMPLETED
        assert len(transcript.utterances) == 9
        for u in transcript.utterances:
            assert u.text.split()[0] == u.request.model
            assert u.request.model == deliberation.model_of(u.turn.seat, str(u.turn.phase))
    assert all(engine == model for engine, model in machine.asked)
