"""(prompt, answer) pairs: the product's own protocol with a `Speaker` as the engine.

Nothing here writes a prompt. What the model is trained on is what the pipeline sends.
"""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fleet_pipeline.deliberation.council import CouncilDefaults, Deliberation, seat_council
from fleet_pipeline.deliberation.exchange import Completion, Request
from fleet_pipeline.deliberation.prompts import Phase, Turn
from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.training.speakers import Speaker
from fleet_pipeline.training.tasks import Pieces, TaskWriter

# Of the utterances of one deliberation, as many of each phase: the task is the same in all of them.
KEPT = {Phase.PROPOSE: 2, Phase.CRITIQUE: 1, Phase.REVISE: 1}

# Share of deliberations with a token limit of their own.
OTHER_LIMITS = 0.2


class Pair(NamedTuple):
    turn: Turn
    answer: str


def pairs(seed: int, pieces: Pieces | None = None) -> Iterator[Pair]:
    """Without end, the same for the same seed and pieces."""
    rng = random.Random(seed)
    writer = TaskWriter(rng, pieces)
    while True:
        # Prompts name a length that fits the token limit: mostly the default's, and any other.
        limit = rng.randrange(100, 8_000) if rng.random() < OTHER_LIMITS else None
        defaults = CouncilDefaults(model="fleet-tiny", sampling=Sampling(max_tokens=limit))
        deliberation = seat_council(writer.task(), writer.role(), defaults)
        said = play(deliberation, Speaker(deliberation, rng).answer)
        for phase, count in KEPT.items():
            of_phase = [pair for pair in said if pair.turn.phase is phase]
            yield from rng.sample(of_phase, min(count, len(of_phase)))


def play(deliberation: Deliberation, answer: Callable[[Turn], str]) -> list[Pair]:
    """All that is said in one deliberation."""
    seats = {seat.agent_id: seat for seat in deliberation.seats}
    said: list[Pair] = []
    course = deliberate(deliberation)
    exchanges = next(course)
    try:
        while True:
            results = []
            for exchange in exchanges:
                request = next(exchange)
                assert isinstance(request, Request)  # no task of the corpus has tools
                _, agent, phase, round_, about, _ = request.name.split()
                turn = Turn(seats[agent], Phase(phase), int(round_), seats[about], request.messages)
                said.append(Pair(turn, answer(turn)))
                try:
                    exchange.send(Completion(text=said[-1].answer, finish_reason="stop"))
                except StopIteration as stop:  # no answer is empty, so none is asked for again
                    results.append(stop.value)
            exchanges = course.send(results)
    except StopIteration:
        return said
