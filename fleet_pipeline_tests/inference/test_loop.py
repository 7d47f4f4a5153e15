"""The batching loop, on a backend whose every step is visible."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.common.errors import EngineCrashed, EngineError
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Exchange, Request
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.inference.engine import Finished, Job
from fleet_pipeline.inference.loop import drive
from fleet_pipeline_tests.support.backends import Backend, jobs, run
from fleet_pipeline_tests.support.councils import a_deliberation, a_job, opening, play
from fleet_pipeline_tests.support.heard import Heard

pytestmark = pytest.mark.unit


def test_every_job_finishes_with_the_transcript_its_protocol_would_have_alone() -> None:
    finished = run(Backend(lambda p: 1 + p.seed % 5), jobs(7, rounds=2))
    assert sorted(f.key for f in finished) == [f"t{n}.dev" for n in range(7)]
    for f in finished:
        n = f.key[1]
        alone, _ = play(a_deliberation(f"t{n}", description=f"task {n}", rounds=2))
        assert [u.text for u in f.result.utterances] == [u.text for u in alone.utterances]


def test_phases_of_different_deliberations_share_the_running_batch() -> None:
    backend = Backend(lambda p: 3 if "task 0" in p.user else 1)
    run(backend, jobs(2))
    assert any({phase for _, phase in batch} == {Phase.PROPOSE, Phase.CRITIQUE} for batch in backend.batches)


def test_a_deliberation_comes_out_as_it_finishes_and_not_when_all_have() -> None:
    backend = Backend(lambda p: 50 if "task 0" in p.user else 1)
    stream = drive(jobs(3), backend, max_in_flight=100, monotonic=backend.clock)
    assert next(stream).key != "t0.dev"
    assert backend.clock.now < 50


def test_in_flight_work_is_bounded_whatever_the_size_of_the_backlog() -> None:
    backend = Backend(lambda p: 1 + p.seed % 4)
    run(backend, jobs(60, num_agents=5), max_in_flight=12)
    open_at_once = max(len({task for task, _ in batch}) for batch in backend.batches)
    assert open_at_once <= 12
    assert backend.most <= 12 * 5


def test_the_backlog_is_read_as_room_becomes_free() -> None:
    taken = 0

    def lazily() -> Iterator[Job]:
        nonlocal taken
        for job in jobs(100):
            taken += 1
            yield job

    backend = Backend()
    stream = drive(lazily(), backend, max_in_flight=6, monotonic=backend.clock)
    next(stream)
    assert taken < 10
    assert len(list(stream)) == 99


def test_a_refused_prompt_costs_only_its_own_seat() -> None:
    bad = a_job(a_deliberation("bad", description="refuse me"))
    finished = {f.key: f for f in run(Backend(), [*jobs(2), bad, *jobs(4)[2:]])}
    assert finished["bad.dev"].result.status is Status.FAILED
    assert all(finished[f"t{n}.dev"].result.status is Status.COMPLETED for n in range(4))


def test_only_refused_prompts_end_at_once_without_a_step() -> None:
    backend = Backend()
    bad = [a_job(a_deliberation(f"bad{n}", description="refuse me")) for n in range(30)]
    assert len(run(backend, bad)) == 30
    assert backend.batches == []


def test_a_protocol_that_breaks_costs_only_itself() -> None:
    def broken():
        yield [asking()]
        raise RuntimeError("a bug in a protocol")

    finished = {f.key: f for f in run(Backend(), [*jobs(1), Job("broken.dev", broken(), 300), *jobs(2)[1:]])}
    assert isinstance(finished["broken.dev"].error, RuntimeError)
    assert finished["broken.dev"].result is None
    assert finished["t1.dev"].result.status is Status.COMPLETED


def asking() -> Exchange[Completion]:
    return (yield opening(deliberate(a_deliberation()))[0].request)


def test_a_deadline_aborts_what_is_under_way_and_keeps_what_was_said() -> None:
    backend = Backend(lambda p: 1 if p.phase is Phase.PROPOSE else 1_000)
    slow, quick = jobs(2, constraints={"timeout_seconds": 10})
    quick = a_job(a_deliberation("quick", rounds=0))
    finished = {f.key: f for f in run(backend, [slow, quick])}
    late = finished["t0.dev"].result
    assert (late.status, late.rounds_done) == (Status.COMPLETED, 0)
    assert [u.error for u in late.utterances] == [None] * 3 + [AgentError.DEADLINE] * 3
    assert finished["t0.dev"].timeout_seconds == 10
    # Nine steps of its critiques, one of its proposals.
    partials = late.utterances[3:]
    assert {(u.text, u.completion.completion_tokens, u.completion.finish_reason) for u in partials} == {
        (("word " * 9).strip(), 9, "deadline")
    }
    assert len(backend.aborted) == 3
    assert backend.left == {}
    assert finished["quick.dev"].result.status is Status.COMPLETED


def test_the_deadline_counts_a_deliberation_s_own_running_time_and_not_its_wait() -> None:
    backend = Backend(lambda _: 4)
    finished = run(backend, jobs(6, rounds=0, constraints={"timeout_seconds": 5}), max_in_flight=1)
    assert backend.clock.now == 24  # one after another: the last waited for 20
    assert all(f.result.status is Status.COMPLETED for f in finished)


class Interrupted(BaseException):
    """As Dagster and Ctrl-C raise it, which is no Exception."""


def test_when_the_run_is_stopped_each_deliberation_under_way_ends_with_what_it_has_said() -> None:
    class Stopped(Backend):
        def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
            if self.clock.now == 4:
                raise Interrupted
            return super().step(patience_seconds)

    backend = Stopped(lambda p: 2 if p.phase is Phase.PROPOSE else 50)
    ended = []
    with pytest.raises(Interrupted):
        ended.extend(drive(jobs(5), backend, max_in_flight=9, monotonic=backend.clock))
    assert [finished.key for finished in ended] == ["t0.dev", "t1.dev", "t2.dev"]
    for finished in ended:
        assert (finished.result.status, len(finished.result.utterances)) == (Status.FAILED, 6)
        assert {(u.error, u.text) for u in finished.result.utterances[3:]} == {(AgentError.CANCELLED, "word word")}
    assert backend.left == {}


def test_a_caller_that_fails_while_it_stores_a_result_gets_what_the_others_have_said_as_well() -> None:
    backend = Backend(lambda p: 1 if "task 0" in p.user else 50)
    stream = drive(jobs(3), backend, max_in_flight=9, monotonic=backend.clock)
    assert next(stream).key == "t0.dev"
    ended = [stream.throw(Interrupted())]
    with pytest.raises(Interrupted):
        ended.extend(stream)
    assert [finished.key for finished in ended] == ["t1.dev", "t2.dev"]
    assert {u.error for finished in ended for u in finished.result.utterances} == {AgentError.CANCELLED}
    assert backend.left == {}


@pytest.mark.parametrize("nth", range(1, 10))
def test_an_interrupt_in_the_midst_of_a_turn_makes_no_failure_of_its_deliberation(nth: int) -> None:
    """It has no end then, and what was heard stays in the answer log."""

    class Submitting(Backend):
        def submit(self, request_id: str, request: Request) -> Completion | None:
            if len(self.prompts) == nth - 1:
                raise Interrupted
            return super().submit(request_id, request)

    backend, ended = Submitting(lambda _: 2), []
    with pytest.raises(Interrupted):
        ended.extend(drive(jobs(3, rounds=0), backend, max_in_flight=9, monotonic=backend.clock))
    assert all(finished.result is not None and finished.error is None for finished in ended)
    assert {u.error for finished in ended for u in finished.result.utterances} <= {None, AgentError.CANCELLED}
    assert len(ended) == nth // 3  # those all of whose seats have begun
    assert backend.left == {}


def test_when_the_engine_is_gone_what_was_under_way_and_what_was_set_aside_end_with_what_they_have_said() -> None:
    """After two crashes t0 and t1 are set aside. The third comes while t2 and t3 are under way, and is the end."""

    class Gone(Backend):
        restarts = 0

        def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
            super().step(patience_seconds)
            raise EngineCrashed("illegal memory access")

        def restart(self, reason: str) -> None:
            self.restarts += 1
            if self.restarts == 3:
                raise EngineError(f"{reason}; no GPU is left")

    ended = []
    with pytest.raises(EngineError, match="no GPU is left"):
        ended.extend(drive(jobs(4), Gone(lambda _: 50), max_in_flight=6, restarts=9))
    assert {finished.key for finished in ended} == {f"t{n}.dev" for n in range(4)}
    for finished in ended:
        assert "no GPU is left" in finished.result.error_message
        assert {(u.error, u.text) for u in finished.result.utterances} == {(AgentError.CANCELLED, "word")}


def test_tokens_that_a_crash_lost_are_counted_though_they_are_generated_again() -> None:
    class Once(Backend):
        crashed = False

        def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
            if self.clock.now == 5 and not self.crashed:
                self.crashed = True
                raise EngineCrashed("once")
            return super().step(patience_seconds)

        def restart(self, reason: str) -> None:
            pass

    heard: list[Completion] = []
    stream = drive(jobs(1, rounds=0), Once(lambda _: 8), max_in_flight=9, restarts=1, on_completion=heard.append)
    assert [finished.result.status for finished in stream] == [Status.COMPLETED]
    assert [(answer.error, answer.completion_tokens) for answer in heard] == [(AgentError.ENGINE, 5)] * 3 + [
        (None, 1)
    ] * 3


def test_leaving_early_leaves_nothing_in_the_engine() -> None:
    backend = Backend(lambda _: 5)
    stream = drive(jobs(5), backend, max_in_flight=9, monotonic=backend.clock)
    next(stream)
    stream.close()
    assert backend.left == {}


def test_an_engine_that_breaks_is_the_caller_s_to_handle_and_is_left_empty() -> None:
    class Breaks(Backend):
        def step(self, patience_seconds):
            if self.clock.now >= 3:
                raise OSError("engine died")
            return super().step(patience_seconds)

    backend = Breaks(lambda p: 1 if "task 0" in p.user else 100)
    with pytest.raises(OSError, match="engine died"):
        run(backend, jobs(3))
    assert backend.left == {}


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    limit=st.integers(1, 20),
    shape=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=8),
)
def test_whatever_the_lengths_shapes_and_limit_nothing_is_lost_or_doubled(lengths, limit, shape) -> None:
    backend = Backend(lambda p: lengths[p.seed % len(lengths)])
    work = [a_job(a_deliberation(f"t{n}", num_agents=agents, rounds=r)) for n, (agents, r) in enumerate(shape)]
    finished = run(backend, work, max_in_flight=limit)
    assert sorted(f.key for f in finished) == sorted(f"t{n}.dev" for n in range(len(shape)))
    for f in finished:
        agents, rounds = shape[int(f.key[1:].split(".")[0])]
        assert len(f.result.utterances) == agents * (1 + 2 * rounds)


def test_completions_are_stamped_with_when_they_were_asked_and_answered() -> None:
    (finished,) = run(Backend(), jobs(1, rounds=0))
    for utterance in finished.result.utterances:
        assert finished.started_at <= utterance.completion.started_at <= utterance.completion.finished_at
        assert utterance.completion.finished_at <= finished.finished_at


class Mortal(Backend):
    """Dies when it is asked to go on with a request that it cannot survive, or at the steps that are named."""

    def __init__(self, kills: Callable[[Heard], bool] = lambda _: False, at_steps: tuple[int, ...] = ()) -> None:
        super().__init__(lambda p: 1 + p.seed % 3)
        self.kills = kills
        self.at_steps = at_steps
        self.steps = 0
        self.crashes: list[str] = []
        self.died_with: list[set[str]] = []  # tasks under way at each death
        self.answered: list[Heard] = []

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        self.steps += 1
        if self.steps in self.at_steps or any(self.kills(self.prompts[r]) for r in self.left):
            self.died_with.append({self.prompts[r].user.split("\n")[1] for r in self.left})
            self.left.clear()
            raise EngineCrashed("out of memory")
        done = super().step(patience_seconds)
        self.answered += [self.prompts[request_id] for request_id, _ in done]
        return done

    def restart(self, reason: str) -> None:
        self.clock.now += 1_000  # seconds: an engine takes its time
        self.crashes.append(reason)
        self.left.clear()


def survived(backend: Mortal, jobs, restarts: int = 5) -> dict[str, Finished]:
    stream = drive(jobs, backend, max_in_flight=8, restarts=restarts, monotonic=backend.clock)
    return {finished.key: finished for finished in stream}


def test_after_a_death_the_deliberations_under_way_go_on_from_the_answers_they_have() -> None:
    backend = Mortal(at_steps=(4, 9))
    finished = survived(backend, jobs(9))
    assert len(backend.crashes) == 2
    assert {f.result.status for f in finished.values()} == {Status.COMPLETED}
    assert len(backend.answered) == 9 * 9  # nothing that was answered is asked again
    for n in range(9):
        alone, _ = play(a_deliberation(f"t{n}", description=f"task {n}"))
        assert [u.text for u in finished[f"t{n}.dev"].result.utterances] == [u.text for u in alone.utterances]


def test_the_time_an_engine_takes_to_start_again_is_nobody_s_running_time() -> None:
    backend = Mortal(at_steps=(2,))
    finished = survived(backend, jobs(3, constraints={"timeout_seconds": 60}))
    assert {f.result.status for f in finished.values()} == {Status.COMPLETED}


def test_the_time_in_which_a_result_is_being_stored_is_nobody_s_running_time() -> None:
    backend = Backend(lambda p: 1 + p.seed % 3)
    stream = drive(
        jobs(9, constraints={"timeout_seconds": 60}), backend, max_in_flight=8, restarts=0, monotonic=backend.clock
    )
    statuses = []
    for finished in stream:
        statuses.append(finished.result.status)
        backend.clock.now += 300  # a store that does not answer for a while
    assert set(statuses) == {Status.COMPLETED}


@pytest.mark.parametrize("phase", ["propose", "critique", "revise"])
@pytest.mark.parametrize("place", [0, 7, 19])
def test_a_deliberation_that_keeps_killing_the_engine_fails_alone(phase: str, place: int) -> None:
    backend = Mortal(kills=lambda p: f"task {place}\n" in p.user and p.phase == phase)
    finished = survived(backend, jobs(20))
    poisonous = finished.pop(f"t{place}.dev").result
    assert poisonous.status is Status.FAILED
    assert "the engine died 3 times while this was under way, the last time alone: out of memory" in (
        poisonous.error_message
    )
    said = [u.turn.phase for u in poisonous.utterances if u.error is None]
    assert ("propose" in said) == (phase != "propose")
    assert {f.result.status for f in finished.values()} == {Status.COMPLETED}
    assert len(finished) == 19
    assert len(backend.crashes) <= 3


def test_two_that_kill_the_engine_fail_and_all_others_complete() -> None:
    backend = Mortal(kills=lambda p: "task 3\n" in p.user or "task 12\n" in p.user)
    finished = survived(backend, jobs(20))
    failed = {key for key, f in finished.items() if f.result.status is Status.FAILED}
    assert (failed, len(finished)) == ({"t3.dev", "t12.dev"}, 20)


def test_however_many_kill_the_engine_each_fails_and_all_others_complete() -> None:
    places = (5, 6, 7, 8, 9, 40, 70)
    backend = Mortal(kills=lambda p: any(f"task {place}\n" in p.user for place in places))
    finished = survived(backend, jobs(100))
    failed = {key for key, f in finished.items() if f.result.status is Status.FAILED}
    assert (failed, len(finished)) == ({f"t{place}.dev" for place in places}, 100)


def test_a_suspect_is_alone_even_where_jobs_end_without_a_step() -> None:
    """A prompt that is refused ends at once; then nothing is under way, and there is more to come."""
    backend = Mortal(kills=lambda p: "task 0\n" in p.user)
    refused = [a_job(a_deliberation(f"no{n}", description="refuse me")) for n in range(3)]
    many = jobs(12)
    finished = survived(backend, [*many[:2], *refused, *many[2:]])
    assert [f.key for f in finished.values() if f.result.status is Status.FAILED] == [
        "no0.dev",
        "no1.dev",
        "no2.dev",
        "t0.dev",
    ]
    assert backend.died_with[-1] == {"task 0"}
    assert len(backend.crashes) == 3


def test_a_store_that_makes_the_next_job_wait_costs_nobody_s_running_time() -> None:
    backend = Backend(lambda p: 1 + p.seed % 3)

    def slowly() -> Iterator[Job]:
        for job in jobs(9, constraints={"timeout_seconds": 60}):
            backend.clock.now += 300
            yield job

    assert {f.result.status for f in run(backend, slowly())} == {Status.COMPLETED}


def test_one_that_kills_the_engine_and_has_no_neighbours_fails_and_that_is_all() -> None:
    (finished,) = survived(Mortal(kills=lambda _: True), jobs(1), restarts=2).values()
    assert finished.result.status is Status.FAILED


def test_an_engine_that_dies_too_often_is_given_up_and_what_finished_has_come_out() -> None:
    backend = Mortal(at_steps=tuple(range(12, 200)))
    came: list[Finished] = []
    with pytest.raises(EngineError, match=r"out of memory; it died 4 times in a row, with nothing finished"):
        came.extend(drive(jobs(30), backend, max_in_flight=8, restarts=3, monotonic=backend.clock))
    assert len(came) > 1
    assert len(backend.crashes) == 3


@given(st.integers(1, 12), st.sets(st.integers(1, 60), max_size=4), st.integers(0, 11))
@settings(max_examples=60)
def test_whenever_the_engine_dies_every_deliberation_ends_once(count: int, at_steps: set[int], poison: int) -> None:
    backend = Mortal(kills=lambda p: f"task {poison}\n" in p.user, at_steps=tuple(at_steps))
    stream = drive(jobs(count), backend, max_in_flight=5, restarts=20, monotonic=backend.clock)
    ended = [(f.key, f.result.status) for f in stream]
    assert sorted(key for key, _ in ended) == sorted(f"t{n}.dev" for n in range(count))
    failed = {key for key, status in ended if status is Status.FAILED}
    if not at_steps:  # an engine that also dies by itself may do so three times with the same deliberation
        assert failed == ({f"t{poison}.dev"} if poison < count else set())
    assert failed >= ({f"t{poison}.dev"} if poison < count else set())
    assert backend.left == {}


@settings(max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 12), st.integers(1, 5))
def test_the_batch_is_never_emptier_than_it_need_be(lengths: list[int], limit: int, agents: int) -> None:
    waiting = 30

    def lazily() -> Iterator[Job]:
        nonlocal waiting
        for job in jobs(30, num_agents=agents):
            waiting -= 1
            yield job

    class Watched(Backend):
        def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
            assert len(self.left) >= limit or not waiting
            return super().step(patience_seconds)

    assert len(run(Watched(lambda p: lengths[p.seed % len(lengths)]), lazily(), max_in_flight=limit)) == 30
