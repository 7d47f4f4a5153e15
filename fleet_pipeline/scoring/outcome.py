"""The outcome of a deliberation: one row of the `deliberations` table."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from fleet_pipeline.deliberation.rows import CouncilFigures, OutcomeRow, ProposalRow, TranscriptFooter, UtteranceRow
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.scoring.confidence import is_clear


def outcome_row(
    key: str,
    run_id: str,
    task: Task | None,
    transcript: TranscriptFooter | None,
    utterances: Sequence[UtteranceRow],
    seats: Sequence[ProposalRow],
    diversity: CouncilFigures,
    broken: str = "",
    clear_from: float | None = None,
) -> OutcomeRow:
    """The row of deliberation `key`.

    `task` and `transcript` are None where there is none that can be read. `broken` says why the deliberation counts
    as failed, whatever its transcript says. From the confidence `clear_from` on a winner is a clear one.
    """
    task_id, _, role = key.rpartition(".")
    status = Status.FAILED if broken or transcript is None else transcript.status
    error = broken or (transcript.error_message if transcript else "no transcript was found")
    winner = next((seat for seat in seats if seat.winner and status is Status.COMPLETED), None)
    relevance = [seat.relevance for seat in seats if seat.relevance is not None]
    metadata = task.constraints.metadata if task else {}
    return OutcomeRow(
        deliberation_id=key,
        task_id=task_id,
        role=role.upper(),
        status=status,
        error_message=error or None,
        attempt=transcript.attempt if transcript else None,
        description=task.description if task else None,
        story_id=str(metadata["story_id"]) if "story_id" in metadata else None,
        winner_agent_id=winner.agent_id if winner else None,
        winner_score=winner.score if winner else None,
        winner_text=winner.text if winner else None,
        won_by=winner.won_by if winner else None,
        by_lot=winner.by_lot if winner else False,
        confidence=winner.confidence if winner else None,
        clear_winner=_is_clear(winner, clear_from),
        num_agents=task.num_agents if task else None,
        answered=sum(seat.text is not None for seat in seats),
        rounds=_rounds(transcript, task),
        rounds_done=_rounds_done(transcript, task),
        agent_errors=sum(utterance.error_type is not None for utterance in utterances),
        truncated=sum(utterance.shortened == "truncated" for utterance in utterances),
        looped=sum(utterance.shortened == "looped" for utterance in utterances),
        **asdict(diversity),
        mean_relevance=sum(relevance) / len(relevance) if relevance else None,
        prompt_tokens=sum(utterance.prompt_tokens for utterance in utterances),
        cached_tokens=sum(utterance.cached_tokens for utterance in utterances),
        completion_tokens=sum(utterance.completion_tokens for utterance in utterances),
        cost=sum(costs) if (costs := [one.cost for one in utterances if one.cost is not None]) else None,
        started_at=datetime.fromtimestamp(transcript.started_at, UTC) if transcript else None,
        finished_at=datetime.fromtimestamp(transcript.finished_at, UTC) if transcript else None,
        wall_s=transcript.finished_at - transcript.started_at if transcript else None,
        timeout_seconds=transcript.timeout_seconds if transcript else None,
        tools=task is not None and task.tools is not None,
        model=", ".join(dict.fromkeys(utterance.model for utterance in utterances)) or None,
        engine=", ".join(dict.fromkeys(utterance.engine for utterance in utterances)) or None,
        run_id=run_id,
        fingerprint=transcript.fingerprint if transcript else None,
    )


def _is_clear(winner: ProposalRow | None, clear_from: float | None) -> bool | None:
    """Null without a winner, and where it has no confidence: it is the only one, or of before there was any."""
    if winner is None or winner.confidence is None or clear_from is None:
        return None
    return is_clear(winner.confidence, clear_from, by_lot=winner.by_lot)


def _rounds(transcript: TranscriptFooter | None, task: Task | None) -> int | None:
    """Those that were asked for when it was held: the task may ask for others by now."""
    if transcript is not None and transcript.rounds is not None:
        return transcript.rounds
    return task.rounds if task else None


def _rounds_done(transcript: TranscriptFooter | None, task: Task | None) -> int | None:
    if transcript is None:
        return None
    if transcript.rounds_done is None and transcript.status is Status.COMPLETED:  # of before; it did all
        return task.rounds if task else None
    return transcript.rounds_done
