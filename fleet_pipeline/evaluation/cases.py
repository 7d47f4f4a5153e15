"""What came of trials, from the tables of their run and from the hidden tests."""

from collections.abc import Callable, Iterator, Sequence

from fleet_pipeline.deliberation.action_rows import ArtifactRow
from fleet_pipeline.deliberation.rows import OutcomeRow
from fleet_pipeline.deliberation.task import deliberation_id
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.evaluation.arms import ROLE, Trial
from fleet_pipeline.evaluation.figures import Case
from fleet_pipeline.evaluation.hidden import Examiner, Verdict
from fleet_pipeline.storage.schemas import ARTIFACTS, DELIBERATIONS, OPERATIONS
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_rows


def cases_of(
    trials: Sequence[Trial], store: Store, examiner: Examiner, on_case: Callable[[int], None] = lambda _: None
) -> Iterator[Case]:
    """One case for each trial. `on_case` is told how many there are so far. Raises `CorruptFile`."""
    for number, trial in enumerate(trials, 1):
        key = deliberation_id(trial.task_id, ROLE)
        outcome = next(iter(read_rows(store, DELIBERATIONS, key)), None)
        operations = [] if outcome is None else read_rows(store, OPERATIONS, key)
        change = None if outcome is None else _last_change(outcome, read_rows(store, ARTIFACTS, key))
        verdict = _verdict(trial, outcome, change, examiner)
        yield Case(
            repository=trial.repository.name,
            arm=trial.arm.name,
            repeat=trial.repeat,
            solved=verdict.solved,
            why=verdict.why,
            tested=change.tested if change else None,
            completion_tokens=outcome.completion_tokens if outcome else 0,
            prompt_tokens=outcome.prompt_tokens if outcome else 0,
            calls=sum(row.tool is not None for row in operations if outcome and row.fingerprint == outcome.fingerprint),
        )
        on_case(number)


def _last_change(outcome: OutcomeRow, artifacts: Sequence[ArtifactRow]) -> ArtifactRow | None:
    """The winner's."""
    own = [
        row for row in artifacts if row.agent_id == outcome.winner_agent_id and row.fingerprint == outcome.fingerprint
    ]
    return own[-1] if own else None


def _verdict(trial: Trial, outcome: OutcomeRow | None, change: ArtifactRow | None, examiner: Examiner) -> Verdict:
    if outcome is None or outcome.status is not Status.COMPLETED:
        return Verdict(False, f"no result: {outcome.error_message if outcome else 'it was not run'}")
    if change is None or not change.files_changed:
        return Verdict(False, "the winner changed nothing")
    if change.cut:
        return Verdict(False, "the winner changed more than can be looked at")
    return examiner.examine(trial.repository, trial.folder, change.diff, change.files_changed)
