"""Writes the outcome row of one deliberation, for the asset `deliberations`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.common.frames import records
from fleet_pipeline.deliberation.action_rows import Actions
from fleet_pipeline.deliberation.rows import (
    CouncilFigures,
    OutcomeFooter,
    OutcomeRow,
    ProposalRow,
    ProposalsFooter,
    UtteranceRow,
)
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.scoring.council_checks import failed_checks
from fleet_pipeline.scoring.explain import explain
from fleet_pipeline.scoring.options import CouncilCheck, CouncilCheckOptions
from fleet_pipeline.scoring.outcome import outcome_row
from fleet_pipeline.scoring.proposals import proposal_rows
from fleet_pipeline.services.explanation import marked_by_judge
from fleet_pipeline.services.score_councils import RankedCouncil, read_batches
from fleet_pipeline.storage.schemas import ARTIFACTS, DELIBERATIONS, OPERATIONS, PROPOSALS, UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import Transcripts, read_file, read_rows, table_path, write_rows
from fleet_pipeline.storage.task_store import TaskStore

_DEFAULTS = CouncilCheckOptions()


@dataclass(frozen=True)
class Outcome:
    """One deliberation's outcome row, its seats' rows, its utterances, and why each failed council check failed."""

    row: OutcomeRow
    seats: list[ProposalRow]
    utterances: list[UtteranceRow]
    failed_checks: dict[CouncilCheck, str]
    actions: Actions | None = None  # None: its agents had no tools
    damaged: bool = False  # a file of it could not be read
    task: Task | None = None  # None: it cannot be read, or is invalid
    why: Sequence[str] = ()  # the winner won: lines of text


def write_outcome(
    tasks: TaskStore,
    key: str,
    run_id: str,
    checks: CouncilCheckOptions = _DEFAULTS,
    written: RankedCouncil | None = None,
) -> Outcome:
    """Write and return the outcome of one deliberation. `written` are its scores, where they have just been stored."""
    outcome = find_outcome(tasks, key, run_id, checks, written)
    row = outcome.row
    write_rows(tasks.store, DELIBERATIONS, key, [row], OutcomeFooter(status=row.status, fingerprint=row.fingerprint))
    return outcome


def write_stopped(tasks: TaskStore, keys: Sequence[str], run_id: str) -> Iterator[Outcome]:
    """Write and return the outcomes of deliberations whose run was stopped: their texts without scores, and no winner."""
    for batch in read_batches(Transcripts(tasks.store, UTTERANCES, keys), tasks):
        for key in batch.keys:
            seats = proposal_rows(records(batch.seats[batch.seats["deliberation_id"] == key]), run_id, wins=False)
            fingerprint = batch.transcripts[key].fingerprint if key in batch.transcripts else ""
            unscored = ProposalsFooter(
                fingerprint=fingerprint, scores_version="", weights={}, method="score", diversity=CouncilFigures()
            )
            write_rows(tasks.store, PROPOSALS, key, seats, unscored)
            yield write_outcome(tasks, key, run_id)


def find_outcome(
    tasks: TaskStore, key: str, run_id: str, checks: CouncilCheckOptions, written: RankedCouncil | None = None
) -> Outcome:
    """The outcome by what is stored of one deliberation. It is failed if a file is corrupt or the task is invalid."""
    store, broken, damaged, actions = tasks.store, "", False, None
    try:
        task = tasks.get(key)[0]
    except InvalidInput as error:
        # Overrides the status of an earlier run: the task as it is stored now cannot be run.
        task, broken = None, str(error)
    try:
        transcript, proposals = read_file(store, UTTERANCES, key), written or _proposals(store, key)
        utterances = transcript.rows if transcript else []
        seats = proposals.seats if proposals else []
        if task and task.tools:
            actions = read_actions(store, key, transcript.footer.fingerprint if transcript else None)
    except CorruptFile as error:
        transcript, proposals, utterances, seats, damaged = None, None, [], [], True
        broken = broken or str(error)
    diversity = proposals.footer.diversity if proposals else CouncilFigures()
    footer = transcript.footer if transcript else None
    clear_from = proposals.footer.clear_from if proposals else None
    row = outcome_row(key, run_id, task, footer, utterances, seats, diversity, broken, clear_from)
    failed = failed_checks(row, utterances, seats, task.needed if task else None, checks)
    why: list[str] = []
    if proposals and row.winner_agent_id:
        marked = marked_by_judge(store, key) if proposals.footer.method in ("judge", "both") else []
        why = explain(row, seats, proposals.footer, proposals.scores, marked)
    return Outcome(row, seats, utterances, failed, actions, damaged, task, why)


def read_actions(store: Store, key: str, fingerprint: str | None) -> Actions:
    """What the agents of a deliberation did with tools. Raises `CorruptFile`."""
    # Files of an attempt before may still be there, where the last one did not begin.
    operations = [row for row in read_rows(store, OPERATIONS, key) if row.fingerprint == fingerprint]
    artifacts = [row for row in read_rows(store, ARTIFACTS, key) if row.fingerprint == fingerprint]
    return Actions(operations, artifacts, store.full_path(table_path(OPERATIONS, key)))


def _proposals(store: Store, key: str) -> RankedCouncil | None:
    """What is stored of a council's proposals; its scores are not read. Raises `CorruptFile`."""
    file = read_file(store, PROPOSALS, key)
    return RankedCouncil(key, file.rows, file.footer, []) if file else None


def checks_of(outcome: Outcome) -> dict[CouncilCheck, str]:
    """Why each failed council check failed: of a deliberation with a damaged file, that alone."""
    return {"schema": outcome.row.error_message or ""} if outcome.damaged else outcome.failed_checks
