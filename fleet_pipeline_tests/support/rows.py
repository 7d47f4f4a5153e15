"""Rows of the tables that events are made from."""

from datetime import UTC, datetime

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def an_outcome(status: str = "completed", **changes) -> dict:
    row = {
        "deliberation_id": "t1.dev", "task_id": "t1", "role": "DEV", "status": status, "error_message": None,
        "winner_agent_id": "agent-dev-002", "winner_score": 0.7, "num_agents": 3, "finished_at": NOON, "wall_s": 1.5,
        "fingerprint": "f00d", "run_id": "run", "model": "m", "story_id": "story-1",
    }  # fmt: skip
    return row | changes


def a_seat(number: int, text: str | None = "a proposal") -> dict:
    return {
        "agent_id": f"agent-dev-{number:03d}", "role": "DEV", "text": text, "rank": number if text else None,
        "score": 0.7, "model": "m", "completion_tokens": 9, "perspective": "simplicity",
        "error_type": None if text else "empty", "error_message": None if text else "empty answer",
    }  # fmt: skip
