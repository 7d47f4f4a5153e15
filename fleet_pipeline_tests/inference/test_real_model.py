"""Real vLLM with a real, weak model: what it had said when it was stopped, and its loops.

Deadlines count steps of the engine and no seconds, so that a loaded machine changes nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fleet_pipeline.common.errors import EngineError
from fleet_pipeline.deliberation.council import CouncilDefaults, Deliberation
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Request
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.deliberation.transcript import Status, Transcript
from fleet_pipeline.inference.engine import Job
from fleet_pipeline.inference.loop import drive
from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.inference.vllm import VllmEngine
from fleet_pipeline_tests.support.councils import a_deliberation, a_job
from fleet_pipeline_tests.support.smollm2 import NAME, smollm2

pytestmark = pytest.mark.engine

DEFAULTS = CouncilDefaults(model=NAME)


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    config = VllmConfig(model=smollm2(), max_model_len=2_048, max_num_seqs=16, cpu_kv_cache_gib=1)
    with VllmEngine.start(config) as engine:
        yield engine


class Stopped(BaseException):
    """As Dagster interrupts a run."""


class Counted:
    """An engine whose steps are the clock, and which counts the tokens that vLLM's core puts out."""

    down_seconds = 0.0

    def __init__(self, engine: VllmEngine, at_step: Callable[[int], None] = lambda _: None) -> None:
        self.engine = engine
        self.at_step = at_step
        self.steps = self.tokens = 0
        client = engine.core.engine_core
        real = type(client).get_output

        def get_output() -> Any:
            outputs = real(client)
            self.tokens += sum(len(output.new_token_ids) for output in outputs.outputs)
            return outputs

        client.get_output = get_output

    def clock(self) -> float:
        return float(self.steps)

    def submit(self, request_id: str, request: Request) -> Completion | None:
        return self.engine.submit(request_id, request)

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        self.at_step(self.steps)
        answers = self.engine.step(patience_seconds)
        self.steps += 1
        return answers

    def abort(self, request_ids: list[str]) -> dict[str, Completion]:
        return self.engine.abort(request_ids)

    def restart(self, reason: str) -> None:
        self.engine.restart(reason)


def until(backend: Counted, jobs: list[Job[Transcript]], stop: type[BaseException] | None = None) -> list[Transcript]:
    """The transcripts of all jobs, in the order in which they ended."""
    ended = []
    stream = drive(jobs, backend, max_in_flight=16, monotonic=backend.clock)
    if stop is None:
        ended += stream
    else:
        with pytest.raises(stop):
            ended.extend(stream)
    assert len(ended) == len(jobs)
    assert not backend.engine.under_way
    return [finished.result for finished in ended]


def tokens(transcripts: list[Transcript]) -> int:
    return sum(utterance.completion.completion_tokens for one in transcripts for utterance in one.utterances)


def two_councils(**fields: Any) -> list[Deliberation]:
    return [a_deliberation(f"t{n}", **({"defaults": DEFAULTS} | fields)) for n in range(2)]


def test_when_time_is_up_what_each_seat_had_said_is_kept_to_the_token(engine: VllmEngine) -> None:
    backend = Counted(engine)
    transcripts = until(backend, [a_job(one) for one in two_councils(constraints={"timeout_seconds": 40})])
    assert {one.status for one in transcripts} == {Status.TIMEOUT}
    said = [utterance for one in transcripts for utterance in one.utterances]
    assert len(said) == 6
    assert {(u.error, u.completion.finish_reason) for u in said} == {(AgentError.DEADLINE, "deadline")}
    assert all(len(u.text.split()) > 5 for u in said)
    assert all(u.completion.prompt_tokens > 100 for u in said)
    assert tokens(transcripts) == backend.tokens


def test_when_time_is_up_in_a_later_phase_the_council_completes_and_its_unfinished_words_are_kept(
    engine: VllmEngine,
) -> None:
    backend = Counted(engine)
    limits = {"sampling": {"max_tokens": 100}, "constraints": {"timeout_seconds": 140}}
    once = CouncilDefaults(model=NAME, retries=0)
    transcripts = until(backend, [a_job(one) for one in two_councils(defaults=once, **limits)])
    assert {(one.status, one.rounds_done) for one in transcripts} == {(Status.COMPLETED, 0)}
    unfinished = [u for one in transcripts for u in one.utterances if u.error is AgentError.DEADLINE]
    assert {u.turn.phase for u in unfinished} == {Phase.CRITIQUE}
    assert all(u.text for u in unfinished)
    assert tokens(transcripts) == backend.tokens


def test_when_the_run_is_cancelled_what_each_seat_had_said_is_kept_to_the_token(engine: VllmEngine) -> None:
    def stop(step: int) -> None:
        if step == 30:
            raise Stopped

    backend = Counted(engine, stop)
    transcripts = until(backend, [a_job(one) for one in two_councils()], Stopped)
    said = [utterance for one in transcripts for utterance in one.utterances]
    assert {u.error for u in said} == {AgentError.CANCELLED}
    assert all(len(u.text.split()) > 5 for u in said)
    assert tokens(transcripts) == backend.tokens


def test_an_answer_that_repeats_a_passage_ends_long_before_its_limit(engine: VllmEngine) -> None:
    """This model cannot stop counting off the same line when it is asked to, at temperature 0."""
    fields = {"sampling": {"temperature": 0, "max_tokens": 400}, "rounds": 0, "num_agents": 1}
    repeat = "Write the line 'All work and no play makes Jack a dull boy.' a thousand times. Write nothing else."
    once = CouncilDefaults(model=NAME, retries=0)
    (transcript,) = until(Counted(engine), [a_job(a_deliberation("loop", description=repeat, defaults=once, **fields))])
    (looped,) = transcript.utterances
    assert looped.completion.finish_reason == "repetition"
    assert looped.completion.completion_tokens < 400
    assert looped.error is AgentError.LOOPED or looped.shortened == "looped"


def test_when_the_engine_is_gone_what_each_seat_had_said_is_kept_to_the_token(engine: VllmEngine) -> None:
    """The last one: the engine of this module is broken then."""
    executor = engine.core.engine_core.engine_core.model_executor

    def break_it(step: int) -> None:
        if step == 30:
            executor.execute_model = broken

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    backend = Counted(engine, break_it)
    transcripts = until(backend, [a_job(one) for one in two_councils()], EngineError)
    said = [utterance for one in transcripts for utterance in one.utterances]
    assert {u.error for u in said} == {AgentError.CANCELLED}
    assert all("an illegal memory access" in u.error_message for u in said)
    assert all(len(u.text.split()) > 5 for u in said)
    assert tokens(transcripts) == backend.tokens


def test_how_sure_the_engine_was_is_told_of_every_answer(engine: VllmEngine) -> None:
    def said(certainty: int | None) -> list[Completion]:
        answers: list[Completion] = []
        short = CouncilDefaults(model=NAME, sampling=Sampling(max_tokens=16))
        engine.config = config.model_copy(update={"certainty": certainty})
        list(engine.run([a_job(a_deliberation("sure", defaults=short, num_agents=2))], answers.append))
        return answers

    config = engine.config
    try:
        plain, mean_alone, sure = said(None), said(0), said(5)
    finally:
        engine.config = config
    assert {(answer.mean_logprob, answer.self_certainty) for answer in plain} == {(None, None)}
    assert {answer.self_certainty for answer in mean_alone} == {None}
    for answer in [*mean_alone, *sure]:
        assert answer.mean_logprob is not None
        assert -10 < answer.mean_logprob < 0
    for answer in sure:
        assert answer.self_certainty is not None
        assert answer.self_certainty > 0


def test_asking_how_sure_it_is_changes_nothing_else_that_the_engine_is_asked(engine: VllmEngine) -> None:
    """Texts are no proof: in bfloat16 another company in the batch turns a token now and then."""
    request, config = Request("r", NAME, (), Sampling(temperature=0.7), seed=7), engine.config
    try:
        plain = engine._params(request, 100)
        engine.config = config.model_copy(update={"certainty": 5})
        sure = engine._params(request, 100)
    finally:
        engine.config = config
    assert (plain.logprobs, sure.logprobs) == (None, 5)
    sure.logprobs = None
    assert repr(sure) == repr(plain)
