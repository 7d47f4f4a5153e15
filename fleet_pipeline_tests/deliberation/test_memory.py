"""A dialogue that goes on from what was answered before asks only for the rest, and ends as it would have."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.deliberation.exchange import Completion, Request
from fleet_pipeline.deliberation.memory import remembered
from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.deliberation.transcript import Transcript
from fleet_pipeline.inference.loop import drive
from fleet_pipeline_tests.support.backends import Backend
from fleet_pipeline_tests.support.councils import a_deliberation, a_job

pytestmark = pytest.mark.unit


class Notes:
    """A memory that dies with the process when it has noted so many answers."""

    def __init__(self, known: dict[str, Completion], lives: int) -> None:
        self.known = known
        self.lives = lives

    def recall(self, request: Request) -> Completion | None:
        return self.known.get(request.name)

    def note(self, request: Request, completion: Completion) -> None:
        if not self.lives:
            raise MemoryError("killed")
        self.lives -= 1
        self.known[request.name] = completion


def outcome(transcript: Transcript) -> list[tuple[str, str, object]]:
    return [(u.request.name, u.text, u.error) for u in transcript.utterances]


@given(st.integers(1, 5), st.integers(0, 3), st.lists(st.integers(0, 12), max_size=6), st.randoms())
def test_killed_anywhere_any_number_of_times_it_asks_for_each_answer_once_and_says_the_same(
    agents: int, rounds: int, lives: list[int], chance: random.Random
) -> None:
    deliberation = a_deliberation(num_agents=agents, rounds=rounds)
    (whole,) = drive([a_job(deliberation)], Backend(), max_in_flight=9)
    known: dict[str, Completion] = {}
    asked = 0
    for life in [*lives, 10_000]:
        backend = Backend(lambda _: chance.randint(1, 4))
        job = replace(a_job(deliberation), course=remembered(deliberate(deliberation), Notes(known, life)))
        before = len(known)
        (finished,) = drive([job], backend, max_in_flight=9)
        asked += len(known) - before
    assert outcome(finished.result) == outcome(whole.result)
    assert asked == len(known) == len(whole.result.utterances)


def test_a_dialogue_of_which_all_is_known_asks_nothing() -> None:
    deliberation = a_deliberation()
    known: dict[str, Completion] = {}
    list(
        drive(
            [replace(a_job(deliberation), course=remembered(deliberate(deliberation), Notes(known, 99)))],
            Backend(),
            max_in_flight=9,
        )
    )
    again = Backend()
    (finished,) = drive(
        [replace(a_job(deliberation), course=remembered(deliberate(deliberation), Notes(known, 0)))],
        again,
        max_in_flight=9,
    )
    assert again.prompts == {}
    assert len(finished.result.utterances) == 9


def test_leaving_early_closes_the_dialogue_inside() -> None:
    deliberation = a_deliberation()
    inner = deliberate(deliberation)
    course = remembered(inner, Notes({}, 99))
    next(next(course)[0])
    course.close()
    assert inner.gi_frame is None
