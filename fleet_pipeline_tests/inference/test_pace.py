"""Deadlines follow the engine's measured speed, unless a task asks for its own."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.protocol import most_tokens
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.inference.engine import Job
from fleet_pipeline.inference.pace import LEAST_SECONDS, RECENT, UNMEASURED_SECONDS, Pace
from fleet_pipeline_tests.support.backends import Backend, run
from fleet_pipeline_tests.support.councils import a_deliberation, a_job

pytestmark = pytest.mark.unit
JOB = Job("t.dev", (_ for _ in ()), None, most_tokens=10_000)


def test_a_deadline_that_was_asked_for_is_kept_whatever_the_speed() -> None:
    pace = Pace()
    pace.note(1_000, 1)
    assert pace.deadline(replace(JOB, timeout_seconds=5)) == 5


def test_an_engine_that_has_given_no_answer_within_an_hour_hangs() -> None:
    assert Pace().deadline(JOB) == UNMEASURED_SECONDS == 3_600
    backend = Backend(lambda _: 9_999)
    (finished,) = run(backend, [a_job(a_deliberation())])
    assert (finished.result.status, backend.clock.now) == (Status.TIMEOUT, 3_600)
    assert "in which the engine gave no answer at all" in finished.result.error_message


@given(st.lists(st.tuples(st.floats(0.01, 1e3), st.integers(0, 4_096)), min_size=1, max_size=3 * RECENT))
def test_the_speed_is_that_of_the_recent_answers(answers: list[tuple[float, int]]) -> None:
    pace = Pace()
    for seconds, tokens in answers:
        pace.note(seconds, tokens)
    recent = answers[-RECENT:]
    tokens = sum(of for _, of in recent)
    if tokens:
        assert pace.seconds_a_token == pytest.approx(sum(seconds for seconds, _ in recent) / tokens, abs=1e-6)
    else:
        assert pace.seconds_a_token is None
    assert pace.deadline(JOB) >= LEAST_SECONDS


def test_a_slow_engine_gives_a_council_as_long_as_its_longest_course_takes_and_it_completes() -> None:
    """The earlier system's 300 s would have ended it three times over."""
    backend = Backend(lambda _: 300)
    (finished,) = run(backend, [a_job(a_deliberation())])
    assert backend.clock.now == 900
    assert finished.result.status is Status.COMPLETED
    assert finished.timeout_seconds > 900


def test_the_longest_course_counts_every_phase_one_after_another_and_every_attempt() -> None:
    defaults = CouncilDefaults(model="m", retries=0)
    assert most_tokens(a_deliberation(rounds=0, defaults=defaults)) == 2_048
    assert most_tokens(a_deliberation(rounds=2, defaults=defaults)) == 2_048 + 2 * (1_024 + 2_048)
    assert most_tokens(a_deliberation(rounds=2, sampling={"max_tokens": 10})) == 2 * 50
