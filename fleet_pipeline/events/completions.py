"""`deliberation.completed`, `.failed` and `.timeout`, from the rows of a finished deliberation.

The payload keeps the fields of the original system, so that its consumers can read it, and adds
what they lacked: the deliberation's id and role, the winner, scores and ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from fleet_pipeline.events.envelope import Envelope

Row = Mapping[str, Any]


def completion_event(deliberation: Row, proposals: Sequence[Row], location: str, max_bytes: int) -> Envelope:
    """The event of one finished deliberation.

    `deliberation` is its row, `proposals` are its seats' rows. `location` is the Parquet file with
    the proposals; where the event would be larger than `max_bytes` it stands in place of the texts.
    """
    event = _event(deliberation, proposals, location, with_texts=True)
    if len(event.model_dump_json().encode()) > max_bytes:
        event = _event(deliberation, proposals, location, with_texts=False)
    return event


def _event(deliberation: Row, proposals: Sequence[Row], location: str, with_texts: bool) -> Envelope:
    status = deliberation["status"]
    answered = sorted((row for row in proposals if row["text"] is not None), key=lambda row: row["rank"])
    finished = _iso(deliberation["finished_at"])
    failed = [
        {"agent_id": row["agent_id"], "error": f"{row['error_type']}: {row['error_message']}", "timestamp": finished}
        for row in proposals
        if row["text"] is None
    ]
    payload = {
        "task_id": deliberation["task_id"],
        "deliberation_id": deliberation["deliberation_id"],
        "role": deliberation["role"],
        "status": status,
        "error": deliberation["error_message"],
        "winner_id": deliberation["winner_agent_id"],
        "winner_score": deliberation["winner_score"],
        "results": [_result(row, finished, with_texts) for row in answered],
        "failed_agents": failed,
        "total_agents": deliberation["num_agents"],
        "successful_responses": len(answered),
        "failed_responses": len(failed),
        "duration_ms": round(1_000 * deliberation["wall_s"]) if deliberation["wall_s"] is not None else None,
        "completed_at": finished,
        "timestamp": finished,
        "proposals_file": location,
        "texts_included": with_texts,
        "run_id": deliberation["run_id"],
    }
    return Envelope(
        event_type=f"deliberation.{status}",
        idempotency_key=f"{deliberation['deliberation_id']}:{deliberation['fingerprint']}:{status}:{_digest(payload)}",
        correlation_id=deliberation["task_id"],
        payload=payload,
    )


def _digest(payload: Mapping[str, Any]) -> str:
    """8 hex digits over what is announced, times and runs left out: the same result sent again has
    the same key, and one that was scored anew has another."""
    fact = [payload["winner_id"], payload["error"]]
    fact += [[result["agent_id"], result["rank"], result["score"]] for result in payload["results"]]
    return hashlib.sha256(json.dumps(fact).encode()).hexdigest()[:8]


def _result(row: Row, finished: str | None, with_texts: bool) -> dict[str, Any]:
    return {
        "agent_id": row["agent_id"],
        "role": row["role"],
        "proposal": {
            "content": row["text"] if with_texts else None,
            "author_id": row["agent_id"],
            "author_role": row["role"],
            "model": row["model"],
            "tokens": row["completion_tokens"],
        },
        "score": row["score"],
        "rank": row["rank"],
        "timestamp": finished,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
