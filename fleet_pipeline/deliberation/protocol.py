"""The protocol of a deliberation, as a generator without I/O.

It yields the turns of a phase, which go on at the same time, each at its own pace. It receives what was said in the
same order. At the end it returns the transcript:

    proposals = every seat proposes
    each round:  every proposal is criticised by one peer; the critic rotates with the round
                 every AUTHOR revises its own proposal with that critique in hand

An agent may fail without failing its deliberation. A failed answer is kept with its error. If a
fresh seed can help, the seat is asked again. An author without a critique does not revise. A failed
revision leaves the proposal unchanged. The deliberation fails when fewer seats than its quorum have a
proposal. Two errors end it early, and only the engine can detect them. `AgentError.DEADLINE` sets the
status to TIMEOUT, because the engine owns the clock. `AgentError.FATAL` sets it to FAILED. The
transcript keeps everything said until then.
"""

from collections.abc import Generator
from itertools import count
from typing import Any

from fleet_pipeline.deliberation.council import Deliberation
from fleet_pipeline.deliberation.exchange import AgentError, Dialogue, Exchange, Request
from fleet_pipeline.deliberation.prompts import Turn, critique, propose, revise
from fleet_pipeline.deliberation.seeds import derive_seed
from fleet_pipeline.deliberation.transcript import RETRY_HELPS, Status, Transcript, Utterance, classify


class _Ended(Exception):
    """The engine ended the deliberation: its time is up, or it crashes the engine."""

    def __init__(self, status: Status, reason: str) -> None:
        self.status = status
        self.reason = reason


def _late(deliberation: Deliberation) -> str:
    return (
        f"not finished after {deliberation.timeout_seconds:g} s of running time; give it more "
        "(constraints.timeout_seconds), or shorter answers (sampling.max_tokens)"
    )


def deliberate(deliberation: Deliberation) -> Dialogue[Transcript]:
    """The dialogue of one deliberation. It never yields an empty list."""
    utterances: list[Utterance] = []

    def hear(turns: list[Turn]) -> Generator[list[Exchange[Any]], list[list[Utterance]], dict[int, str]]:
        """The valid answers, by seat index. Every attempt is added to `utterances`."""
        if not turns:
            return {}
        said = yield [_take(deliberation, turn) for turn in turns]
        attempts = sorted((one for attempts in said for one in attempts), key=lambda one: one.attempt)
        utterances.extend(attempts)
        errors = {one.error: one.error_message for one in attempts}
        if AgentError.DEADLINE in errors:
            raise _Ended(Status.TIMEOUT, _late(deliberation))
        if AgentError.FATAL in errors:
            raise _Ended(Status.FAILED, errors[AgentError.FATAL])
        return {one.turn.seat.index: one.text for one in attempts if one.error is None}

    def transcript(status: Status, error_message: str = "") -> Transcript:
        return Transcript(deliberation.id, status, tuple(utterances), error_message)

    seats = deliberation.seats
    try:
        proposals = yield from hear([propose(deliberation, seat) for seat in seats])
        if len(proposals) < deliberation.quorum:
            return transcript(Status.FAILED, _no_quorum(deliberation, len(proposals), utterances))
        for round_ in range(1, deliberation.rounds + 1):
            critics = {seat.index: deliberation.critic_of(seat, round_) for seat in seats if seat.index in proposals}
            critiques = yield from hear(
                [
                    critique(deliberation, critic, seats[author], proposals[author], round_)
                    for author, critic in critics.items()
                ]
            )
            proposals |= yield from hear(
                [
                    revise(deliberation, seats[author], proposals[author], critic, critiques[critic.index], round_)
                    for author, critic in critics.items()
                    if critic.index in critiques
                ]
            )
    except _Ended as ended:
        return transcript(ended.status, ended.reason)
    return transcript(Status.COMPLETED)


def _take(deliberation: Deliberation, turn: Turn) -> Exchange[list[Utterance]]:
    """A seat's turn: it is asked again where a fresh seed can help. Returns every attempt."""
    said: list[Utterance] = []
    for attempt in count(1):
        request = _request(deliberation, turn, attempt)
        said.append(classify(turn, attempt, request, (yield request)))
        if said[-1].error not in RETRY_HELPS or attempt > deliberation.retries:
            break
    return said


def _request(deliberation: Deliberation, turn: Turn, attempt: int) -> Request:
    agent, phase, round_ = turn.seat.agent_id, turn.phase, turn.round
    return Request(
        name=f"{deliberation.id} {agent} {phase} {round_} {turn.about.agent_id} {attempt}",
        model=deliberation.model,
        messages=turn.messages,
        sampling=deliberation.sampling,
        temperature_scale=turn.seat.temperature_scale,
        seed=derive_seed(deliberation.seed, deliberation.id, agent, phase, round_, attempt),
    )


def _no_quorum(deliberation: Deliberation, answered: int, utterances: list[Utterance]) -> str:
    last_errors = {u.turn.seat.agent_id: u for u in utterances if u.error}
    reasons = "; ".join(f"{agent}: {u.error}: {u.error_message}" for agent, u in list(last_errors.items())[:3])
    return f"{answered} of {len(deliberation.seats)} agents answered, the quorum is {deliberation.quorum} ({reasons})"
