"""The events of a finished deliberation: its seats' responses, its end, and the orchestrator's event.

Payloads keep the fields of the original system, so its consumers can read them. They add the
deliberation's id and role, the winner, scores and ranks, and partial results of a failed deliberation.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from fleet_pipeline.deliberation.action_rows import Actions
from fleet_pipeline.deliberation.rows import OutcomeRow, ProposalRow
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.events.actions import agent_results, tool_events
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.payloads import (
    AgentResponseCompleted,
    AgentResponseFailed,
    DeliberationEnded,
    FailedAgent,
    OrchestrationDeliberationCompleted,
    Payload,
    Proposal,
    Response,
    Result,
)

# Sampling temperatures by agent id. They are in the table of utterances, and no column of the proposals.
Temperatures = Mapping[str, float | None]


def deliberation_events(
    outcome: OutcomeRow,
    seats: Sequence[ProposalRow],
    temperatures: Temperatures,
    location: str,
    max_bytes: int,
    actions: Actions | None = None,
) -> Iterator[Envelope]:
    """All events of one finished deliberation. Its seats' events come first, so they can be there when its end arrives.

    `location` is the Parquet file with the proposals. An event that would exceed `max_bytes` omits the texts; that
    file has them. `actions` are what its agents did, where they had tools.
    """
    if actions is not None:
        yield from tool_events(outcome, actions)
        for seat in seats:
            yield _results_of(outcome, seat, actions, location, max_bytes)
    for seat in seats:
        yield _fitting(
            lambda texts, seat=seat: _response(outcome, seat, temperatures, location, texts),  # type: ignore[misc]
            max_bytes,
        )
    yield _fitting(lambda texts: _completion(outcome, seats, temperatures, location, texts), max_bytes)
    if outcome.status is Status.COMPLETED:
        yield _fitting(lambda texts: _orchestration(outcome, seats, temperatures, location, texts), max_bytes)


def _results_of(outcome: OutcomeRow, seat: ProposalRow, actions: Actions, location: str, max_bytes: int) -> Envelope:
    make_event = partial(agent_results, outcome, seat, actions, location, milliseconds(outcome))
    event = _fitting(lambda texts: make_event(texts=texts), max_bytes)
    if len(event.model_dump_json().encode()) <= max_bytes:
        return event
    return make_event(texts=False, calls=False)


def _fitting(make_event: Callable[[bool], Envelope], max_bytes: int) -> Envelope:
    event = make_event(True)
    return event if len(event.model_dump_json().encode()) <= max_bytes else make_event(False)


def _response(
    outcome: OutcomeRow, seat: ProposalRow, temperatures: Temperatures, location: str, with_texts: bool
) -> Envelope:
    """`agent.response.completed` or `.failed`: one seat of the council."""
    seen = Response(
        task_id=outcome.task_id,
        deliberation_id=outcome.deliberation_id,
        agent_id=seat.agent_id,
        role=outcome.role,
        duration_ms=milliseconds(outcome),
        timestamp=outcome.finished_at,
        model=outcome.model,
        diversity=seat.perspective is not None,
        num_agents=outcome.num_agents,
        unfinished=seat.unfinished_text if with_texts else None,
        proposals_file=location,
        texts_included=with_texts,
    )
    payload: AgentResponseCompleted | AgentResponseFailed
    if seat.text is not None:
        proposal = _proposal(seat, temperatures, with_texts)
        payload = AgentResponseCompleted(**dict(seen), status="completed", proposal=proposal)
    else:
        why, kind = seat.error_message, seat.error_type
        payload = AgentResponseFailed(**dict(seen), status="failed", error=why, error_type=kind)
    fact = [seat.text, seat.error_type, seat.error_message]
    return _envelope(f"agent.response.{payload.status}", outcome, payload, fact, seat.agent_id)


def _completion(
    outcome: OutcomeRow, seats: Sequence[ProposalRow], temperatures: Temperatures, location: str, with_texts: bool
) -> Envelope:
    """`deliberation.completed`, `.failed` or `.timeout`, with any results there are."""
    answered, failed = results(outcome, seats, temperatures, with_texts), failed_agents(outcome, seats, with_texts)
    payload = DeliberationEnded(
        task_id=outcome.task_id,
        deliberation_id=outcome.deliberation_id,
        role=outcome.role,
        status=outcome.status,
        error=outcome.error_message,
        rounds=outcome.rounds,
        rounds_done=outcome.rounds_done,
        winner_id=outcome.winner_agent_id,
        winner_score=outcome.winner_score,
        confidence=outcome.confidence,
        clear_winner=outcome.clear_winner,
        results=answered,
        failed_agents=failed,
        total_agents=outcome.num_agents,
        successful_responses=len(answered),
        failed_responses=len(failed),
        duration_ms=milliseconds(outcome),
        completed_at=outcome.finished_at,
        timestamp=outcome.finished_at,
        proposals_file=location,
        texts_included=with_texts,
        run_id=outcome.run_id,
    )
    return _envelope(
        f"deliberation.{outcome.status}", outcome, payload, _outcome_fact(outcome, seats), str(outcome.status)
    )


def _orchestration(
    outcome: OutcomeRow, seats: Sequence[ProposalRow], temperatures: Temperatures, location: str, with_texts: bool
) -> Envelope:
    """`orchestration.deliberation.completed`: the decisions, best first, as the original context service reads them."""
    event_type: Literal["orchestration.deliberation.completed"] = "orchestration.deliberation.completed"
    payload = OrchestrationDeliberationCompleted(
        event_type=event_type,
        story_id=outcome.story_id,
        task_id=outcome.task_id,
        deliberation_id=outcome.deliberation_id,
        decisions=results(outcome, seats, temperatures, with_texts),
        proposals_file=location,
        texts_included=with_texts,
        timestamp=outcome.finished_at.timestamp() if outcome.finished_at else None,
    )
    return _envelope(event_type, outcome, payload, _outcome_fact(outcome, seats), "orchestration")


def _envelope(event_type: str, outcome: OutcomeRow, payload: Payload, fact: list[Any], part: str) -> Envelope:
    """The idempotency key covers the fact, not times and runs: the same result sent again has the same
    key, and a result scored anew has another."""
    digest = hashlib.sha256(json.dumps(fact).encode()).hexdigest()[:8]
    return Envelope(
        event_type=event_type,
        idempotency_key=f"{outcome.deliberation_id}:{outcome.fingerprint}:{part}:{digest}",
        correlation_id=outcome.task_id,
        payload=payload.model_dump(mode="json"),
    )


def _outcome_fact(outcome: OutcomeRow, seats: Sequence[ProposalRow]) -> list[Any]:
    ranked = [[seat.agent_id, seat.rank, seat.score] for seat in _answered_by_rank(seats)]
    return [outcome.winner_agent_id, outcome.error_message, *ranked]


def results(
    outcome: OutcomeRow | None, seats: Sequence[ProposalRow], temperatures: Temperatures, with_texts: bool
) -> list[Result]:
    """The proposals of those seats that have one, best first. Before there is an outcome they have no times."""
    return [
        Result(
            agent_id=seat.agent_id,
            role=seat.role,
            proposal=_proposal(seat, temperatures, with_texts),
            score=seat.score,
            rank=seat.rank,
            duration_ms=milliseconds(outcome),
            timestamp=outcome.finished_at if outcome else None,
        )
        for seat in _answered_by_rank(seats)
    ]


def failed_agents(outcome: OutcomeRow | None, seats: Sequence[ProposalRow], with_texts: bool) -> list[FailedAgent]:
    """The seats without a proposal, and why."""
    finished = outcome.finished_at if outcome else None
    return [
        FailedAgent(
            agent_id=seat.agent_id,
            error=f"{seat.error_type}: {seat.error_message}",
            unfinished=seat.unfinished_text if with_texts else None,
            timestamp=finished,
        )
        for seat in seats
        if seat.text is None
    ]


def milliseconds(outcome: OutcomeRow | None) -> int | None:
    """How long a deliberation took."""
    return round(1_000 * outcome.wall_s) if outcome and outcome.wall_s is not None else None


def _answered_by_rank(seats: Sequence[ProposalRow]) -> list[ProposalRow]:
    answered = (seat for seat in seats if seat.text is not None)
    return sorted(answered, key=lambda seat: (seat.rank is None, seat.rank or 0))


def _proposal(seat: ProposalRow, temperatures: Temperatures, with_texts: bool) -> Proposal:
    return Proposal(
        content=seat.text if with_texts else None,
        author_id=seat.agent_id,
        author_role=seat.role,
        model=seat.model,
        temperature=temperatures.get(seat.agent_id),
        tokens=seat.completion_tokens,
        shortened=seat.shortened,
    )
