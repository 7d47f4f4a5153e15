"""Rows of the tables, with whatever a test wants to be different in them."""

from datetime import UTC, datetime

from fleet_pipeline.deliberation.action_rows import ArtifactRow, OperationRow
from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.rows import JudgementRow, OutcomeRow, ProposalRow, TranscriptFooter, UtteranceRow
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.events.payloads import DeliberationStatus, Status as StatusOfRequest

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def an_outcome(**changes) -> OutcomeRow:
    columns = {
        "deliberation_id": "t1.dev", "task_id": "t1", "role": "DEV", "status": Status.COMPLETED,
        "winner_agent_id": "agent-dev-002", "winner_score": 0.7, "num_agents": 3, "finished_at": NOON, "wall_s": 1.5,
        "fingerprint": "f00d", "run_id": "run", "model": "m", "story_id": "story-1",
    }  # fmt: skip
    return OutcomeRow(**(columns | changes))


_OF_T1 = {"deliberation_id": "t1.dev", "task_id": "t1", "role": "DEV"}
_MADE = {"model": "m", "engine": "vllm", "run_id": "run", "fingerprint": "f00d"}
_ANSWER = {
    "error_type": None, "error_message": None, "finish_reason": "stop", "prompt_tokens": 9, "cached_tokens": 3,
    "completion_tokens": 2, "temperature": 0.7, "seed": 1, "prompt_sha256": "", "started_at": NOON,
    "finished_at": NOON, "not_checked": None,
}  # fmt: skip


def a_seat(number: int, text: str | None = "a proposal", **changes) -> ProposalRow:
    columns = {
        "agent_id": f"agent-dev-{number:03d}", "label": chr(ord("A") + number - 1), "perspective": "simplicity",
        "text": text, "initial_text": text, "revisions": 0, "rank": number if text else None, "score": 0.7,
        "completion_tokens": 9, "error_type": None if text else AgentError.EMPTY,
        "error_message": None if text else "empty answer",
    }  # fmt: skip
    return ProposalRow(**(_OF_T1 | _MADE | columns | changes))


def an_utterance(**changes) -> UtteranceRow:
    columns = {
        "agent_id": "agent-dev-001", "label": "A", "perspective": None, "phase": Phase.PROPOSE, "round": 0,
        "attempt": 1, "about_agent_id": "agent-dev-001", "self_critique": False, "text": "fine", "reasoning": "",
        "raw_text": None, "shortened": None,
    }  # fmt: skip
    return UtteranceRow(**(_OF_T1 | _MADE | _ANSWER | columns | changes))


def a_judgement(first: str, second: str, **changes) -> JudgementRow:
    columns = {
        "first_agent_id": first, "second_agent_id": second, "repeat": 1, "better": None, "criteria": ["Fast"],
        "first_marks": None, "second_marks": None, "reason": None, "raw_text": "",
    }  # fmt: skip
    return JudgementRow(**(_OF_T1 | _MADE | _ANSWER | columns | changes))


def a_status(**changes) -> DeliberationStatus:
    fields = {
        "status": StatusOfRequest.UNKNOWN, "run_id": None, "request_id": None, "error": None, "winner_id": None,
        "winner_score": None, "results": [], "failed_agents": [], "total_agents": None, "successful_responses": 0,
        "failed_responses": 0, "duration_ms": None, "completed_at": None, "timestamp": None, "proposals_file": "",
        "texts_included": False,
    }  # fmt: skip
    return DeliberationStatus(**(_OF_T1 | fields | changes))


def a_footer(status: Status = Status.COMPLETED, error_message: str = "", **changes) -> TranscriptFooter:
    facts = {"fingerprint": "f", "started_at": 0.0, "finished_at": 1.0, "run_id": "r", "attempt": 1}
    return TranscriptFooter(status=status, error_message=error_message, **(facts | changes))


def an_operation(step: int, tool: str | None = "files.read_file", **changes) -> OperationRow:
    columns = {
        "agent_id": "agent-dev-001", "phase": Phase.PROPOSE, "round": 0, "step": step, "tool": tool,
        "arguments": '{"path": "app.py"}' if tool else None, "ok": tool is not None, "outcome": "ok" if tool else "no_call",
        "output": "def one(): ...", "error": "", "sandbox": "landlock-7+seccomp", "started_at": NOON if tool else None,
        "seconds": 0.5, "completion_tokens": 5, "run_id": "run", "fingerprint": "f00d",
    }  # fmt: skip
    return OperationRow(**(_OF_T1 | columns | changes))


def an_artifact(**changes) -> ArtifactRow:
    columns = {
        "agent_id": "agent-dev-001", "phase": Phase.PROPOSE, "round": 0, "tested": "verified", "commits": ["c0ffee"],
        "files_changed": ["app.py"], "ignored": [], "diff": "+def two(): ...", "cut": False, "tests_passed": 2,
        "tests_fixed": ["test_app.py::test_two"], "tests_broken": [], "tests_edited": [], "error": "", "run_id": "run",
        "fingerprint": "f00d",
    }  # fmt: skip
    return ArtifactRow(**(_OF_T1 | columns | changes))
