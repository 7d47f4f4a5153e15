"""The protocol of a deliberation, as a generator without I/O.

It yields the turns of a phase, which go on at the same time, each at its own pace. It receives what was said in the
same order. At the end it returns the transcript:

    proposals = every seat proposes
    each round:  every proposal is criticised by one peer; the critic rotates with the round
                 every AUTHOR revises its own proposal with that critique in hand

An agent may fail without failing its deliberation. A failed answer is kept with its error. If a
fresh seed can help, the seat is asked again. An author without a critique does not revise. A failed
revision leaves the proposal unchanged. The deliberation fails when fewer seats than its quorum have a
proposal.

Three errors end it early, and only the engine can detect them: its time is up (the engine owns the clock), its run is
stopped, or the engine is gone. The transcript keeps everything said until then, unfinished answers included. If time is
up and a quorum of proposals stands, `on_timeout` "keep" completes with those, and "fail" sets the status to TIMEOUT.
"""

from collections.abc import Generator
from dataclasses import replace
from itertools import count
from typing import Any

from fleet_pipeline.deliberation.acting import act, shown_change
from fleet_pipeline.deliberation.council import Deliberation, Seat
from fleet_pipeline.deliberation.exchange import UNFINISHED, Action, AgentError, Dialogue, Exchange, Request
from fleet_pipeline.deliberation.prompts import (
    ACTING,
    DEFAULT_MAX_TOKENS,
    Phase,
    Turn,
    critique,
    propose,
    revise,
    token_limit,
)
from fleet_pipeline.deliberation.roles import PhaseName
from fleet_pipeline.deliberation.seeds import derive_seed
from fleet_pipeline.deliberation.transcript import RETRY_HELPS, Status, Transcript, Utterance, classify, rescued

_PHASES: dict[Phase, PhaseName] = {Phase.PROPOSE: "propose", Phase.CRITIQUE: "critique", Phase.REVISE: "revise"}
# A seat whose answer looped is asked again with at least this repetition penalty. Of 43 answers of SmolLM2-135M that were,
# one looped again, and three, of the seats with higher temperatures, were word salad (docs/models.md). No other value was tried.
PENALTY_AFTER_LOOP = 1.1


class _Ended(Exception):
    """The engine ended the deliberation, with one of `UNFINISHED`."""

    def __init__(self, error: AgentError, reason: str) -> None:
        self.error = error
        self.reason = reason


def deliberate(deliberation: Deliberation) -> Dialogue[Transcript]:
    """The dialogue of one deliberation. It never yields an empty list."""
    utterances: list[Utterance] = []

    def hear(turns: list[Turn]) -> Generator[list[Exchange[Any]], list[list[Utterance]], dict[int, str]]:
        """The valid answers, by seat index. Every attempt is added to `utterances`."""
        if not turns:
            return {}
        said = yield [_take(deliberation, turn, calls_of(turn.seat)) for turn in turns]
        attempts = sorted((one for attempts in said for one in attempts), key=lambda one: one.attempt)
        utterances.extend(attempts)
        errors = {one.error: one.error_message for one in attempts}
        for error in UNFINISHED:
            if error in errors:
                raise _Ended(error, errors[error])
        return {one.turn.seat.index: one.text for one in attempts if one.error is None}

    def calls_of(seat: Seat) -> list[Action]:
        """All that a seat has called until now, whether it counted or not: its workspace holds what came of it."""
        return [call for one in utterances if one.acted and one.turn.seat == seat for call in one.acted.calls]

    def change_of(author: Seat) -> str:
        """What stands behind an author's proposal, for its peers."""
        acted = [one.acted for one in utterances if one.turn.seat == author and one.acted and one.error is None]
        return shown_change(acted[-1].change) if acted else ""

    def transcript(status: Status, error_message: str = "") -> Transcript:
        return Transcript(deliberation.id, status, tuple(utterances), error_message, rounds_done)

    seats, rounds_done = deliberation.seats, 0
    try:
        proposals = yield from hear([propose(deliberation, seat) for seat in seats])
        if len(proposals) < deliberation.quorum:
            return transcript(Status.FAILED, _no_quorum(deliberation, len(proposals), utterances))
        for round_ in range(1, deliberation.rounds + 1):
            critics = {seat.index: deliberation.critic_of(seat, round_) for seat in seats if seat.index in proposals}
            critiques = yield from hear(
                [
                    critique(deliberation, critic, seats[author], proposals[author], round_, change_of(seats[author]))
                    for author, critic in critics.items()
                ]
            )
            proposals |= yield from hear(
                [
                    revise(
                        *(deliberation, seats[author], proposals[author], critic, critiques[critic.index], round_),
                        change_of(seats[author]),
                    )
                    for author, critic in critics.items()
                    if critic.index in critiques
                ]
            )
            rounds_done = round_
    except _Ended as ended:
        if ended.error is not AgentError.DEADLINE:
            return transcript(Status.FAILED, ended.reason)
        if deliberation.on_timeout == "keep" and _proposed(utterances) >= deliberation.quorum:
            return transcript(Status.COMPLETED)
        remedy = "give it more (constraints.timeout_seconds), or shorter answers (sampling.max_tokens)"
        return transcript(Status.TIMEOUT, f"{ended.reason}; {remedy}")
    return transcript(Status.COMPLETED)


def most_seconds_of_tools(deliberation: Deliberation) -> float:
    """How long a seat may use tools, all its turns together."""
    use = deliberation.task.tools
    return use.seconds * (1 + deliberation.rounds) if deliberation.toolset is not None and use else 0.0


def most_tokens(deliberation: Deliberation) -> int:
    """The tokens that a seat generates, one after another, in the longest course that this deliberation can take."""
    propose_, critique_, revise_ = (
        token_limit(deliberation, phase) for phase in (Phase.PROPOSE, Phase.CRITIQUE, Phase.REVISE)
    )
    return (propose_ + deliberation.rounds * (critique_ + revise_)) * (1 + deliberation.retries)


def usual_answers(deliberation: Deliberation) -> int:
    """How many answers it has where each turn takes one: no second attempt, no tools."""
    return len(deliberation.seats) * (1 + 2 * deliberation.rounds)


def _proposed(utterances: list[Utterance]) -> int:
    """How many seats have a proposal."""
    return len({one.turn.seat.index for one in utterances if one.turn.phase is Phase.PROPOSE and one.error is None})


def _take(deliberation: Deliberation, turn: Turn, earlier: list[Action]) -> Exchange[list[Utterance]]:
    """A seat's turn: it is asked again where a fresh seed can help. Returns every attempt. `earlier` are its calls of before."""
    if deliberation.toolset is not None and turn.phase in ACTING:
        acted = yield from act(deliberation, turn, _request(deliberation, turn, 1, looped=False), earlier)
        heard = classify(turn, 1, acted.request, acted.completion, deliberation.truncated)
        return [replace(heard, acted=acted)]
    said: list[Utterance] = []
    for attempt in count(1):
        looped = any(one.error is AgentError.LOOPED for one in said)
        request = _request(deliberation, turn, attempt, looped)
        said.append(classify(turn, attempt, request, (yield request), deliberation.truncated))
        if said[-1].error not in RETRY_HELPS or attempt > deliberation.retries:
            break
    return said if said[-1].error is None else rescued(said)


def request_name(deliberation_id: str, agent_id: str, phase: str, round_: int, about_id: str, attempt: int) -> str:
    """The name of a request, unique in a run."""
    return f"{deliberation_id} {agent_id} {phase} {round_} {about_id} {attempt}"


def _request(deliberation: Deliberation, turn: Turn, attempt: int, looped: bool) -> Request:
    agent, phase, round_ = turn.seat.agent_id, turn.phase, turn.round
    return Request(
        name=request_name(deliberation.id, agent, phase, round_, turn.about.agent_id, attempt),
        model=deliberation.model_of(turn.seat, _PHASES[phase]),
        messages=turn.messages,
        sampling=deliberation.sampling,
        default_max_tokens=DEFAULT_MAX_TOKENS[phase],
        temperature_scale=turn.seat.temperature_scale,
        least_repetition_penalty=PENALTY_AFTER_LOOP if looped else None,
        seed=derive_seed(deliberation.seed, deliberation.id, agent, phase, round_, attempt),
    )


def _no_quorum(deliberation: Deliberation, answered: int, utterances: list[Utterance]) -> str:
    last_errors = {u.turn.seat.agent_id: u for u in utterances if u.error}
    reasons = "; ".join(f"{agent}: {u.error}: {u.error_message}" for agent, u in list(last_errors.items())[:3])
    return f"{answered} of {len(deliberation.seats)} agents answered, the quorum is {deliberation.quorum} ({reasons})"
