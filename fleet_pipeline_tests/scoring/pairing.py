"""Whom a judge should compare: how often the best proposal of a council is found, with the same number of questions.

    python -m fleet_pipeline_tests.scoring.pairing

A simulation, because no judge of known quality is at hand: proposals have merits from a normal distribution; a judge prefers
the better by the logistic of 1.2 times their difference, favours what it reads first by 0.5, and says "equal" in one of
seven cases. The questions are those of `judge` itself. "Evenly" spends all of them on the pairs of the first look.
"""

import json
import math
import random

from fleet_pipeline.deliberation import judging
from fleet_pipeline.deliberation.judging import Judging, judge
from fleet_pipeline.deliberation.rows import JudgementRow
from fleet_pipeline.scoring.judge import chances, strengths, wins_of
from fleet_pipeline_tests.support.councils import a_deliberation, said
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.rows import a_judgement

SIZES = (3, 5, 8)
COUNCILS = 1_000


def found(size: int, councils: int, *, evenly: bool) -> float:
    """The share of councils whose best proposal has the highest rating."""
    chance = random.Random(size)
    council = a_deliberation(num_agents=size)
    agents = [seat.agent_id for seat in council.seats]
    right = 0
    for _ in range(councils):
        merit = {agent: chance.gauss(0, 1) for agent in agents}
        rows = _asked(council, merit, chance, evenly)
        value = chances(strengths(wins_of(rows, agents)[None]))[0]
        right += agents[int(value.argmax())] == max(merit, key=merit.__getitem__)
    return right / councils


def _asked(council, merit: dict[str, float], chance: random.Random, evenly: bool) -> list[JudgementRow]:
    options = Judging(enabled=True, repeats=1 if evenly else 2)
    rows = []
    for _ in range(2 if evenly else 1):
        course = judge(council, {agent: agent for agent in merit}, options)
        look = next(course)
        try:
            while True:
                look = course.send([_ended(exchange, merit, chance) for exchange in look])
        except StopIteration as stop:
            rows += [
                a_judgement(one.first.agent_id, one.second.agent_id, better=one.verdict.better) for one in stop.value
            ]
    return rows


def _ended(exchange, merit: dict[str, float], chance: random.Random):
    prompt = Heard(next(exchange))
    first, second = prompt.request.name.split()[4].split(">")
    prefers = 1 / (1 + math.exp(-(1.2 * (merit[first] - merit[second]) + 0.5)))
    better = "equal" if chance.random() < 1 / 7 else "first" if chance.random() < prefers else "second"
    try:
        exchange.send(said(json.dumps({"reason": "", "first_marks": [3], "second_marks": [3], "better": better})))
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a judge asks each question once")


def main() -> None:
    print("| proposals | questions | evenly | the leader and those near it |\n| --- | --- | --- | --- |")
    for size in SIZES:
        questions = 4 * len(judging.pairs(size, Judging().opponents))
        shares = [found(size, COUNCILS, evenly=evenly) for evenly in (True, False)]
        print(f"| {size} | {questions} | {shares[0]:.3f} | {shares[1]:.3f} |")


if __name__ == "__main__":
    main()
