"""The protocol of a deliberation, as a generator without I/O.

It yields a batch of prompts that can run in parallel. It receives their completions in the same
order. At the end it returns the transcript:

    proposals = every seat proposes
    each round:  every proposal is criticised by one peer; the critic rotates with the round
                 every AUTHOR revises its own proposal with that critique in hand

An agent may fail without failing its deliberation. A failed answer is kept with its error. If a
fresh seed can help, the prompt is asked again. An author without a critique does not revise. A failed
revision leaves the proposal unchanged. The deliberation fails when fewer seats than its quorum have a
proposal. Two errors end it early, and only the engine can detect them. `AgentError.DEADLINE` sets the
status to TIMEOUT, because the engine owns the clock. `AgentError.FATAL` sets it to FAILED. The
transcript keeps everything said until then.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import TypeVar

from fleet_pipeline.deliberation.council import Deliberation
from fleet_pipeline.deliberation.prompts import Prompt, critique, propose, revise
from fleet_pipeline.deliberation.seeds import derive_seed
from fleet_pipeline.deliberation.transcript import (
    RETRY_HELPS,
    AgentError,
    Completion,
    Status,
    Transcript,
    Utterance,
    classify,
)

Result = TypeVar("Result")
# A generator that an engine drives. It yields prompts, receives their completions, and returns its result.
Dialogue = Generator[list[Prompt], list[Completion], Result]


class _Ended(Exception):
    """The engine ended the deliberation: its time is up, or it crashes the engine."""

    def __init__(self, status: Status, reason: str) -> None:
        self.status = status
        self.reason = reason


def deliberate(deliberation: Deliberation) -> Dialogue[Transcript]:
    """The dialogue of one deliberation. Batches are never empty."""
    utterances: list[Utterance] = []

    def ask(prompts: list[Prompt]) -> Generator[list[Prompt], list[Completion], dict[int, str]]:
        """The valid answers, by seat index. Every attempt is added to `utterances`."""
        answers: dict[int, str] = {}
        pending = [_attempt(deliberation, prompt, 1) for prompt in prompts]
        while pending:
            latest = [classify(*pair) for pair in zip(pending, (yield pending), strict=True)]
            utterances.extend(latest)
            errors = {utterance.error: utterance.error_message for utterance in latest}
            if AgentError.DEADLINE in errors:
                limit = f"{deliberation.timeout_seconds:g} s of running time"
                raise _Ended(Status.TIMEOUT, f"not finished after {limit}")
            if AgentError.FATAL in errors:
                raise _Ended(Status.FAILED, errors[AgentError.FATAL])
            answers |= {u.prompt.seat.index: u.text for u in latest if u.error is None}
            pending = [
                _attempt(deliberation, u.prompt, u.prompt.attempt + 1)
                for u in latest
                if u.error in RETRY_HELPS and u.prompt.attempt <= deliberation.retries
            ]
        return answers

    def transcript(status: Status, error_message: str = "") -> Transcript:
        return Transcript(deliberation.id, status, tuple(utterances), error_message)

    seats = deliberation.seats
    try:
        proposals = yield from ask([propose(deliberation, seat) for seat in seats])
        if len(proposals) < deliberation.quorum:
            return transcript(Status.FAILED, _no_quorum(deliberation, len(proposals), utterances))
        for round_ in range(1, deliberation.rounds + 1):
            critics = {seat.index: deliberation.critic_of(seat, round_) for seat in seats if seat.index in proposals}
            critiques = yield from ask(
                [
                    critique(deliberation, critic, seats[author], proposals[author], round_)
                    for author, critic in critics.items()
                ]
            )
            proposals |= yield from ask(
                [
                    revise(deliberation, seats[author], proposals[author], critic, critiques[critic.index], round_)
                    for author, critic in critics.items()
                    if critic.index in critiques
                ]
            )
    except _Ended as ended:
        return transcript(ended.status, ended.reason)
    return transcript(Status.COMPLETED)


def _attempt(deliberation: Deliberation, prompt: Prompt, attempt: int) -> Prompt:
    seed = derive_seed(deliberation.seed, deliberation.id, prompt.seat.agent_id, prompt.phase, prompt.round, attempt)
    return replace(prompt, attempt=attempt, seed=seed)


def _no_quorum(deliberation: Deliberation, answered: int, utterances: list[Utterance]) -> str:
    last_errors = {u.prompt.seat.agent_id: u for u in utterances if u.error}
    reasons = "; ".join(f"{agent}: {u.error}: {u.error_message}" for agent, u in list(last_errors.items())[:3])
    return f"{answered} of {len(deliberation.seats)} agents answered, the quorum is {deliberation.quorum} ({reasons})"
