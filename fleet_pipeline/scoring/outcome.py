"""The outcome of a deliberation: one row of the `deliberations` table."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from fleet_pipeline.deliberation.task import Task

_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")


def outcome_row(
    key: str,
    task: Task | None,
    facts: Mapping[str, Any],
    utterances: pd.DataFrame,
    proposals: pd.DataFrame,
    diversity: Mapping[str, Any],
    run_id: str,
) -> dict[str, Any]:
    """The row of deliberation `key`.

    `facts` are those of its transcript (status, error_message, started_at, ...), and empty when it
    has none. `diversity` holds its figures from `scoring.diversity`. The frames hold its rows alone.
    `task` is None when no valid one is stored; `facts` then say why.
    """
    task_id, _, role = key.rpartition(".")
    winners = proposals[proposals["winner"].fillna(value=False).astype(bool)].to_dict("records")
    winner = winners[0] if winners and facts.get("status") == "completed" else {}
    first_utterance = utterances.iloc[0].to_dict() if len(utterances) else {}
    started, finished = facts.get("started_at"), facts.get("finished_at")
    relevance = proposals["relevance"].dropna()
    return {
        "deliberation_id": key,
        "task_id": task_id,
        "role": role.upper(),
        "status": facts.get("status", "failed"),
        "error_message": facts.get("error_message", "no transcript was found") or None,
        "attempt": facts.get("attempt"),
        "description": task.description if task else None,
        "story_id": str(task.constraints.metadata["story_id"])
        if task and "story_id" in task.constraints.metadata
        else None,
        "winner_agent_id": winner.get("agent_id"),
        "winner_score": winner.get("score"),
        "winner_text": winner.get("text"),
        "won_by": winner.get("won_by"),
        "num_agents": task.num_agents if task else None,
        "answered": int(proposals["text"].notna().sum()),
        "rounds": task.rounds if task else None,
        "agent_errors": int(utterances["error_type"].notna().sum()),
        "mean_relevance": float(relevance.mean()) if len(relevance) else None,
        **{name: int(utterances[name].sum()) for name in _TOKENS},
        "started_at": _utc(started),
        "finished_at": _utc(finished),
        "wall_s": finished - started if started is not None and finished is not None else None,
        "model": first_utterance.get("model"),
        "engine": first_utterance.get("engine"),
        "fingerprint": facts.get("fingerprint"),
        "run_id": run_id,
        **diversity,
    }


def _utc(timestamp: float | None) -> datetime | None:
    return datetime.fromtimestamp(timestamp, UTC) if timestamp is not None else None
