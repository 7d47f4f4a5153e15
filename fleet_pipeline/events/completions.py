"""The events of a finished deliberation: its seats' responses, its end, and the orchestrator's event.

Payloads keep the fields of the original system, so its consumers can read them. They add the
deliberation's id and role, the winner, scores and ranks, and partial results of a failed deliberation.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from fleet_pipeline.events.envelope import Envelope

Row = Mapping[str, Any]


def deliberation_events(
    deliberation: Row, proposals: Sequence[Row], location: str, max_bytes: int
) -> Iterator[Envelope]:
    """All events of one finished deliberation. Its seats' events come first, so they can be there when its end arrives.

    `deliberation` is its row, `proposals` are its seats' rows. `location` is the Parquet file with the
    proposals. An event that would exceed `max_bytes` omits the texts; that file has them.
    """
    for seat in proposals:
        yield _fitting(lambda texts, seat=seat: _response(deliberation, seat, location, texts), max_bytes)
    yield _fitting(lambda texts: _completion(deliberation, proposals, location, texts), max_bytes)
    if deliberation["status"] == "completed":
        yield _fitting(lambda texts: _orchestration(deliberation, proposals, location, texts), max_bytes)


def _fitting(make_event: Any, max_bytes: int) -> Envelope:
    event: Envelope = make_event(True)
    return event if len(event.model_dump_json().encode()) <= max_bytes else make_event(False)


def _response(deliberation: Row, seat: Row, location: str, with_texts: bool) -> Envelope:
    """`agent.response.completed` or `.failed`: one seat of the council."""
    finished = _iso(deliberation["finished_at"])
    payload = {
        "task_id": deliberation["task_id"],
        "deliberation_id": deliberation["deliberation_id"],
        "agent_id": seat["agent_id"],
        "role": deliberation["role"],
        "status": "completed" if seat["text"] is not None else "failed",
        "duration_ms": _milliseconds(deliberation["wall_s"]),
        "timestamp": finished,
        "model": deliberation["model"],
        "diversity": seat["perspective"] is not None,
        "num_agents": deliberation["num_agents"],
        "proposals_file": location,
        "texts_included": with_texts,
    }
    if seat["text"] is not None:
        payload["proposal"] = _proposal(seat, with_texts)
    else:
        payload |= {"error": seat["error_message"], "error_type": seat["error_type"]}
    fact = [seat["text"], seat["error_type"], seat["error_message"]]
    return _envelope(f"agent.response.{payload['status']}", deliberation, payload, fact, seat["agent_id"])


def _completion(deliberation: Row, proposals: Sequence[Row], location: str, with_texts: bool) -> Envelope:
    """`deliberation.completed`, `.failed` or `.timeout`, with any results there are."""
    status = deliberation["status"]
    payload = completion_payload(deliberation, proposals, location, with_texts)
    return _envelope(f"deliberation.{status}", deliberation, payload, _outcome_fact(deliberation, proposals), status)


def completion_payload(deliberation: Row, proposals: Sequence[Row], location: str, with_texts: bool) -> dict[str, Any]:
    """The end of a deliberation as consumers read it, in its event and in answers of the NATS service."""
    answered = _answered_by_rank(proposals)
    finished = _iso(deliberation["finished_at"])
    failed = [
        {"agent_id": row["agent_id"], "error": f"{row['error_type']}: {row['error_message']}", "timestamp": finished}
        for row in proposals
        if row["text"] is None
    ]
    return {
        "task_id": deliberation["task_id"],
        "deliberation_id": deliberation["deliberation_id"],
        "role": deliberation["role"],
        "status": deliberation["status"],
        "error": deliberation["error_message"],
        "winner_id": deliberation["winner_agent_id"],
        "winner_score": deliberation["winner_score"],
        "results": [_result(row, deliberation, with_texts) for row in answered],
        "failed_agents": failed,
        "total_agents": deliberation["num_agents"],
        "successful_responses": len(answered),
        "failed_responses": len(failed),
        "duration_ms": _milliseconds(deliberation["wall_s"]),
        "completed_at": finished,
        "timestamp": finished,
        "proposals_file": location,
        "texts_included": with_texts,
        "run_id": deliberation["run_id"],
    }


def _orchestration(deliberation: Row, proposals: Sequence[Row], location: str, with_texts: bool) -> Envelope:
    """`orchestration.deliberation.completed`: the decisions, best first, as the original context service reads them."""
    payload = {
        "event_type": "orchestration.deliberation.completed",
        "story_id": deliberation["story_id"],
        "task_id": deliberation["task_id"],
        "deliberation_id": deliberation["deliberation_id"],
        "decisions": [_result(row, deliberation, with_texts) for row in _answered_by_rank(proposals)],
        "proposals_file": location,
        "texts_included": with_texts,
        "timestamp": deliberation["finished_at"].timestamp() if deliberation["finished_at"] else None,
    }
    fact = _outcome_fact(deliberation, proposals)
    return _envelope("orchestration.deliberation.completed", deliberation, payload, fact, "orchestration")


def _envelope(event_type: str, deliberation: Row, payload: dict[str, Any], fact: Any, part: str) -> Envelope:
    """The idempotency key covers the fact, not times and runs: the same result sent again has the same
    key, and a result scored anew has another."""
    digest = hashlib.sha256(json.dumps(fact).encode()).hexdigest()[:8]
    return Envelope(
        event_type=event_type,
        idempotency_key=f"{deliberation['deliberation_id']}:{deliberation['fingerprint']}:{part}:{digest}",
        correlation_id=deliberation["task_id"],
        payload=payload,
    )


def _outcome_fact(deliberation: Row, proposals: Sequence[Row]) -> list[Any]:
    ranked = [[row["agent_id"], row["rank"], row["score"]] for row in _answered_by_rank(proposals)]
    return [deliberation["winner_agent_id"], deliberation["error_message"], *ranked]


def _answered_by_rank(proposals: Sequence[Row]) -> list[Row]:
    answered = (row for row in proposals if row["text"] is not None)
    return sorted(answered, key=lambda row: (row["rank"] is None, row["rank"] or 0))


def _result(row: Row, deliberation: Row, with_texts: bool) -> dict[str, Any]:
    return {
        "agent_id": row["agent_id"],
        "role": row["role"],
        "proposal": _proposal(row, with_texts),
        "score": row["score"],
        "rank": row["rank"],
        "duration_ms": _milliseconds(deliberation["wall_s"]),
        "timestamp": _iso(deliberation["finished_at"]),
    }


def _proposal(row: Row, with_texts: bool) -> dict[str, Any]:
    return {
        "content": row["text"] if with_texts else None,
        "author_id": row["agent_id"],
        "author_role": row["role"],
        "model": row["model"],
        "temperature": row.get("temperature"),
        "tokens": row["completion_tokens"],
    }


def _milliseconds(seconds: float | None) -> int | None:
    return round(1_000 * seconds) if seconds is not None else None


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
