"""The events of agents with tools: each call, and what each agent has come to.

`agent.results.<task_id>` has the fields that the earlier system gave results of its agents with tools. Its audit trail was
always empty there.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import count

from fleet_pipeline.deliberation.action_rows import Actions, ArtifactRow, OperationRow
from fleet_pipeline.deliberation.rows import OutcomeRow, ProposalRow
from fleet_pipeline.events.envelope import AGENT_RESULTS, Envelope
from fleet_pipeline.events.payloads import AgentResults, AgentToolExecuted, Artifacts, AuditEntry, ToolCall

# Characters of a call's output in an event. The table has more.
MOST_OUTPUT = 2_000


def tool_events(outcome: OutcomeRow, actions: Actions) -> Iterator[Envelope]:
    """`agent.tool.executed` for each call that was made."""
    numbers = count(1)
    for row in actions.operations:
        number = next(numbers)
        if row.tool is None:
            continue
        payload = AgentToolExecuted(
            task_id=outcome.task_id,
            deliberation_id=outcome.deliberation_id,
            agent_id=row.agent_id,
            role=row.role,
            **_call(row).model_dump(),
        )
        yield Envelope(
            event_type="agent.tool.executed",
            # Two runs of a task may call the same tool at the same place, with another outcome.
            idempotency_key=f"{_key(outcome)}:tool:{number}:{_digest(row.agent_id, row.tool, row.outcome, row.arguments)}",
            correlation_id=outcome.task_id,
            payload=payload.model_dump(mode="json"),
        )


def agent_results(
    outcome: OutcomeRow,
    seat: ProposalRow,
    actions: Actions,
    location: str,
    duration_ms: int | None,
    *,
    texts: bool,
    calls: bool = True,
) -> Envelope:
    """`agent.results.<task_id>` of one agent: without the `texts`, or without the `calls` as well, where they are too large."""
    own = [row for row in actions.operations if row.agent_id == seat.agent_id]
    changes = [row for row in actions.artifacts if row.agent_id == seat.agent_id]
    artifacts = _artifacts(changes[-1], texts) if changes else None
    payload = AgentResults(
        task_id=outcome.task_id,
        deliberation_id=outcome.deliberation_id,
        proposals_file=location,
        texts_included=texts,
        agent_id=seat.agent_id,
        role=seat.role,
        status="completed" if seat.text is not None else "failed",
        success=seat.text is not None and seat.tested != "broken",
        operations=[_call(row) for row in own] if calls else [],
        operations_count=len(own),
        artifacts=artifacts if calls else None,
        audit_trail=[_audited(row) for row in own] if texts else [],
        error=seat.error_message,
        duration_ms=duration_ms,
        timestamp=outcome.finished_at,
        model=seat.model,
        operations_file=actions.operations_file,
    )
    fact = [seat.text, seat.error_type, seat.tested, len(own), changes[-1].commits if changes else None]
    return Envelope(
        event_type=AGENT_RESULTS,
        idempotency_key=f"{_key(outcome)}:results:{seat.agent_id}:{_digest(*fact)}",
        correlation_id=outcome.task_id,
        payload=payload.model_dump(mode="json"),
    )


def _call(row: OperationRow) -> ToolCall:
    family, _, operation = (row.tool or "").partition(".")
    return ToolCall(
        phase=str(row.phase),
        round=row.round,
        step=row.step,
        tool=family or None,
        operation=operation or None,
        success=row.ok,
        outcome=row.outcome,
        error=row.error[:MOST_OUTPUT] or None,
        duration_ms=round(1_000 * row.seconds),
        timestamp=row.started_at,
    )


def _audited(row: OperationRow) -> AuditEntry:
    params = json.loads(row.arguments) if row.arguments else None
    return AuditEntry(
        **_call(row).model_dump(), params=params, output=row.output[:MOST_OUTPUT] or None, sandbox=row.sandbox
    )


def _artifacts(row: ArtifactRow, texts: bool) -> Artifacts:
    return Artifacts(
        commit_sha=row.commits[0] if row.commits else None,
        commits=row.commits,
        files_changed=row.files_changed,
        diff=row.diff if texts else None,
        diff_is_whole=texts and not row.cut,
        tested=row.tested,
        tests_passed=row.tests_passed,
        tests_fixed=row.tests_fixed,
        tests_broken=row.tests_broken,
    )


def _key(outcome: OutcomeRow) -> str:
    return f"{outcome.deliberation_id}:{outcome.fingerprint}"


def _digest(*fact: object) -> str:
    return hashlib.sha256(json.dumps(fact, default=list).encode()).hexdigest()[:8]
