"""The agents of a run that use tools: which tools they have, whose hands do their calls, and the rows that tell of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from fleet_pipeline.deliberation.acting import Acted, Step
from fleet_pipeline.deliberation.action_rows import ArtifactRow, OperationRow
from fleet_pipeline.deliberation.council import Deliberation, Toolset
from fleet_pipeline.deliberation.exchange import Action, Done
from fleet_pipeline.deliberation.rows import NoFooter
from fleet_pipeline.deliberation.task import ToolUse
from fleet_pipeline.deliberation.transcript import Transcript, Utterance
from fleet_pipeline.services.tool_calls import audit_folder, scratch, store_calls
from fleet_pipeline.storage.schemas import ARTIFACTS, OPERATIONS, Row, Table
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import table_path, write_rows
from fleet_pipeline.tools.audit import masked
from fleet_pipeline.tools.hands import Note, toolset_of
from fleet_pipeline.tools.hands_process import HandsProcess
from fleet_pipeline.tools.options import ToolOptions

_OUTPUT_CHARS = 20_000


class Agents:
    """Does what `fleet_pipeline.inference.engine.Hands` says. Nothing is opened before the first deliberation with tools begins."""

    def __init__(self, options: ToolOptions, store: Store, run_id: str, note: Note) -> None:
        self.options = options
        self.store = store
        self.run_id = run_id
        self.note = note
        self._toolsets: dict[tuple[str, bool], Toolset] = {}
        self._hands: HandsProcess | None = None

    def toolset(self, role: str, use: ToolUse) -> Toolset:
        """What the agents of a role may call here. Raises `InvalidInput` where nothing can be tried out."""
        key = (role, use.read_only)
        if key not in self._toolsets:
            with scratch(self.options, role, use.read_only) as toolbox:
                self._toolsets[key] = toolset_of(toolbox)
        return self._toolsets[key]

    def begin(self, deliberation: Deliberation) -> None:
        """Before its dialogue begins."""
        if deliberation.toolset is None or deliberation.task.tools is None:
            return
        if self._hands is None:
            self._hands = HandsProcess(self.options, audit_folder(self.options), self.run_id, self.note)
        self._hands.begin(deliberation.id, deliberation.task.tools)

    def end(self, deliberation_id: str) -> None:
        if self._hands is not None:
            self._hands.end(deliberation_id)

    def close(self) -> None:
        """Remove all workspaces, and make a table of the audit: also of what a killed run left, where this one had nothing to do."""
        if self._hands is not None:
            self._hands.close()
            self._hands = None
        store_calls(self.store, audit_folder(self.options))

    def submit(self, request_id: str, action: Action) -> None:
        assert self._hands is not None, "an agent acts whose deliberation has not begun"
        self._hands.submit(request_id, action)

    def take(self, patience_seconds: float) -> list[tuple[str, Done]]:
        return self._hands.take(patience_seconds) if self._hands is not None else []

    def abort(self, request_ids: Sequence[str]) -> None:
        if self._hands is not None:
            self._hands.abort(request_ids)


def write_actions(store: Store, deliberation: Deliberation, transcript: Transcript, run_id: str) -> None:
    """The tables `operations` and `artifacts` of a deliberation. Those of an earlier attempt go."""
    acted = [(one, one.acted) for one in transcript.utterances if one.acted is not None]
    operations = [row for one, what in acted for row in _operation_rows(deliberation, one, what, run_id)]
    artifacts = [row for one, what in acted if (row := _artifact_row(deliberation, one, what, run_id)) is not None]
    # At a time, because half of either is waiting for a disk, and the engine waits for both.
    with ThreadPoolExecutor(2, "fleet-actions") as pool:
        written = pool.submit(_put, store, OPERATIONS, deliberation.id, operations)
        _put(store, ARTIFACTS, deliberation.id, artifacts)
        written.result()


def _put(store: Store, table: Table[Row, NoFooter], key: str, rows: list[Row]) -> None:
    if rows:
        write_rows(store, table, key, rows, NoFooter())
    else:
        store.delete(table_path(table, key))


def _operation_rows(deliberation: Deliberation, utterance: Utterance, acted: Acted, run_id: str) -> list[OperationRow]:
    told: set[int] = set()  # answers whose tokens stand in a row already
    rows = []
    for step in acted.steps:
        first = step.number not in told
        told.add(step.number)
        rows.append(_operation_row(deliberation, utterance, step, run_id, first=first))
    return rows


def _operation_row(
    deliberation: Deliberation, utterance: Utterance, step: Step, run_id: str, *, first: bool
) -> OperationRow:
    done, action = step.done, step.action
    return OperationRow(
        deliberation_id=deliberation.id,
        task_id=deliberation.task.task_id,
        role=deliberation.role.name,
        agent_id=utterance.turn.seat.agent_id,
        phase=utterance.turn.phase,
        round=utterance.turn.round,
        step=step.number,
        tool=action.tool if action else None,
        arguments=json.dumps(masked(action.arguments), ensure_ascii=False, default=str) if action else None,
        ok=bool(done and done.ok),
        outcome=done.outcome if done else "no_call",
        output=done.output[:_OUTPUT_CHARS] if done else "",
        error=done.error if done else step.error,
        remade=int(done.facts.get("remade", 0)) if done else 0,
        sandbox=done.sandbox if done else "",
        started_at=datetime.fromtimestamp(done.started_at, UTC) if done and done.started_at else None,
        seconds=done.seconds if done else 0.0,
        completion_tokens=step.completion.completion_tokens if first else 0,
        run_id=run_id,
        fingerprint=deliberation.fingerprint,
    )


def _artifact_row(deliberation: Deliberation, utterance: Utterance, acted: Acted, run_id: str) -> ArtifactRow | None:
    change = acted.change
    if change is None:
        return None
    return ArtifactRow(
        deliberation_id=deliberation.id,
        task_id=deliberation.task.task_id,
        role=deliberation.role.name,
        agent_id=utterance.turn.seat.agent_id,
        phase=utterance.turn.phase,
        round=utterance.turn.round,
        tested=change.tested,
        commits=list(change.commits),
        files_changed=list(change.files_changed),
        ignored=list(change.ignored),
        diff=change.diff,
        cut=change.cut,
        tests_passed=change.passed,
        tests_fixed=list(change.fixed),
        tests_broken=list(change.broken),
        tests_edited=list(change.edited),
        error=change.error,
        run_id=run_id,
        fingerprint=deliberation.fingerprint,
    )
