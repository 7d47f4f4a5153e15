"""What an agent answers, as the demonstrator model is to learn it.

An answer is made of what its prompt says and of a few phrases for role and perspective:

    proposal   a line for each sentence of the task, the first of its context, and each criterion and
               requirement by its number: what is said there, a dash, and what to do about it from
               this perspective; then how to begin, and a risk
    critique   one line of the proposal that is strong and one or two that are weak, each weak one
               with a remedy from the critic's perspective after the dash, and the reason
    revision   the proposal again, the weak lines with the remedies, naming whose they are

The model finds its place by the words around it, so what is to be copied after the same words stands
after them nowhere else: a remedy follows its line's dash, and nothing but a remedy does in a critique.

Structure is kept beside the text, so that nothing here parses what it wrote.
"""

import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fleet_pipeline.deliberation.council import Deliberation, Seat
from fleet_pipeline.deliberation.prompts import Phase, Turn
from fleet_pipeline.deliberation.task import Task

Phrases = dict[str, list[str]]


@cache
def phrases() -> dict[str, Any]:
    """By role and perspective; those of "ANY" and "COUNCIL" by kind."""
    return tomllib.loads(Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Point:
    """One line of a proposal: its mark, what it is about, and what is to be done."""

    mark: str
    about: str
    plan: str


@dataclass(frozen=True)
class Weakness:
    index: int
    remedy: str


def points_of(task: Task) -> Iterator[tuple[str, str]]:
    """(mark, text) of all that a proposal has to say something about, in the order of the prompt."""
    constraints = task.constraints
    yield from ((f"{n}.", sentence) for n, sentence in enumerate(sentences(task.description), start=1))
    yield from (("Given:", sentence) for sentence in sentences(task.context)[:1])
    for letter, points in (("C", constraints.rubric), ("R", constraints.requirements)):
        yield from ((f"{letter}{n}.", _unstopped(" ".join(text.split()))) for n, text in enumerate(points, start=1))


def sentences(text: str) -> list[str]:
    """The sentences of a text, and its lines where they have no full stop; without list marks."""
    lines = (re.sub(r"^([-*]|#+|\d+\.)\s+", "", line.strip()) for line in text.splitlines())
    parts = (_unstopped(part) for line in lines for part in re.split(r"(?<=[.!?])\s+", line))
    return [part for part in parts if part]


def _unstopped(text: str) -> str:
    return text.strip().rstrip(".!?:;,")


def _line(point: Point) -> str:
    return f"{point.mark} {point.about} — {point.plan}."


class Speaker:
    """Answers all prompts of one deliberation, in any order that the protocol allows."""

    def __init__(self, deliberation: Deliberation, rng: random.Random) -> None:
        self.deliberation = deliberation
        self.rng = rng
        self.points: dict[int, list[Point]] = {}
        self.closings: dict[int, str] = {}
        self.weaknesses: dict[int, list[Weakness]] = {}

    def answer(self, turn: Turn) -> str:
        match turn.phase:
            case Phase.PROPOSE:
                return self._propose(turn.seat)
            case Phase.CRITIQUE:
                return self._criticise(turn.seat, turn.about)
            case Phase.REVISE:
                return self._revise(turn.seat, turn.round)
            case Phase.JUDGE:
                raise ValueError("the model that ships is not trained to judge")

    def _propose(self, seat: Seat) -> str:
        bank = self._bank(seat)
        plans = {"G": phrases()["COUNCIL"]["given"], "C": phrases()["COUNCIL"]["criterion"]}
        own = self._plans(seat)
        self.points[seat.index] = [
            Point(mark, about, self.rng.choice(plans[mark[0]]) if mark[0] in plans else next(own))
            for mark, about in points_of(self.deliberation.task)
        ]
        self.closings[seat.index] = f"Begin: {next(own)}, then {next(own)}.\nRisk: {self.rng.choice(bank['risks'])}."
        return self._proposal(seat, f"{self._opening(seat)}: {self.rng.choice(bank['stance'])}.")

    def _criticise(self, critic: Seat, author: Seat) -> str:
        points, rng = self.points[author.index], self.rng
        weak = sorted(rng.sample(range(len(points)), min(len(points), rng.choice([1, 1, 2]))))
        strong = rng.choice([index for index in range(len(points)) if index not in weak] or [0])
        self.weaknesses[author.index] = [
            Weakness(index, plan) for index, plan in zip(weak, self._plans(critic), strict=False)
        ]
        whose = "My own proposal" if critic == author else f"Proposal {author.label}"
        seen = f"Seen for {critic.perspective.name}, {whose}" if critic.perspective else whose
        praised = points[strong]
        lines = [
            f"{seen} is strong here:",
            f"{praised.mark} {praised.about}: {rng.choice(phrases()['COUNCIL']['praise'])}.",
            "It is weak here:",
        ]
        for weakness in self.weaknesses[author.index]:
            complaint = rng.choice(self._bank(critic)["complaints"])
            point = replace(points[weakness.index], plan=f"{weakness.remedy}, because {complaint}")
            lines.append(_line(point))
        return "\n".join(lines)

    def _revise(self, author: Seat, round_: int) -> str:
        critic = self.deliberation.critic_of(author, round_)
        alone = critic == author
        for weakness in self.weaknesses[author.index]:
            plan = f"{weakness.remedy}, as {'my critique' if alone else critic.label} asked"
            weak = self.points[author.index][weakness.index]
            self.points[author.index][weakness.index] = replace(weak, plan=plan)
        whose = "my own critique" if alone else f"the critique by {critic.label}"
        return self._proposal(author, f"{self._opening(author)}, and take up {whose}.")

    def _proposal(self, seat: Seat, opening: str) -> str:
        return "\n".join([opening, *map(_line, self.points[seat.index]), self.closings[seat.index]])

    def _opening(self, seat: Seat) -> str:
        first = seat.perspective.name if seat.perspective else "the whole"
        return f"As a {self.deliberation.role.title} I put {first} first"

    def _plans(self, seat: Seat) -> Iterator[str]:
        """Without end; one comes back only when all its words have been used."""
        bank = self._bank(seat)
        actions, tails = self._deck(bank["actions"]), self._deck(bank["tails"])
        return (f"{action} {tail}" for action, tail in zip(actions, tails, strict=True))

    def _deck(self, cards: list[str]) -> Iterator[str]:
        while True:
            yield from self.rng.sample(cards, len(cards))

    def _bank(self, seat: Seat) -> Phrases:
        """The phrases of a seat's perspective, all of its role where it has none, or those for anyone."""
        of_role: dict[str, Phrases] = phrases().get(self.deliberation.role.name, {})
        anyone: Phrases = phrases()["ANY"]
        if seat.perspective:
            return of_role.get(seat.perspective.name, anyone)
        return (
            {kind: [text for bank in of_role.values() for text in bank[kind]] for kind in anyone} if of_role else anyone
        )
