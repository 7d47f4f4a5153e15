"""Writes the outcome row of one deliberation, for the asset `deliberations`."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.common.frames import records
from fleet_pipeline.scoring.council_checks import failed_checks
from fleet_pipeline.scoring.options import CouncilCheck, CouncilCheckOptions
from fleet_pipeline.scoring.outcome import outcome_row
from fleet_pipeline.storage.schemas import TABLES, TableName
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_file, write_rows
from fleet_pipeline.storage.task_store import TaskStore

Record = dict[str, Any]
_DEFAULTS = CouncilCheckOptions()


@dataclass(frozen=True)
class Outcome:
    """One deliberation's outcome row, its seats' rows, its utterances, and why each failed council check failed."""

    row: Record
    seats: list[Record]
    utterances: pd.DataFrame
    failed_checks: dict[CouncilCheck, str]


def write_outcome(tasks: TaskStore, key: str, run_id: str, checks: CouncilCheckOptions = _DEFAULTS) -> Outcome:
    """Write and return the outcome of one deliberation. It is failed if a file is corrupt or the task is invalid."""
    store = tasks.store
    try:
        utterances, facts = _read(store, "utterances", key)
        seats, scoring = _read(store, "proposals", key)
    except CorruptFile as error:
        utterances, seats = (TABLES[table].empty_table().to_pandas() for table in ("utterances", "proposals"))
        facts, scoring = {"status": "failed", "error_message": str(error)}, {}
    try:
        task = tasks.get(key)[0]
    except InvalidInput as error:
        # Overrides the status of an earlier run: the task as it is stored now cannot be run.
        task, facts = None, facts | {"status": "failed", "error_message": str(error)}
    row = outcome_row(key, task, facts, utterances, seats, scoring.get("diversity", {}), run_id)
    write_rows(store, "deliberations", key, [row], {"status": row["status"], "fingerprint": row["fingerprint"]})
    failed = failed_checks(utterances, seats, scoring.get("diversity", {}), task.needed if task else None, checks)
    return Outcome(row, records(seats), utterances, failed)


def proposal_row(row: Record, wins: bool) -> Record:
    """A ranked seat as a row of the table `proposals`, with its nested columns. Without `wins` no seat is a winner."""
    code_checks = row.pop("findings", None) or []
    return row | {
        "winner": bool(row["winner"]) and wins,
        "won_by": row["won_by"] if wins else None,
        "evidence": [{**evidence._asdict(), "covered": evidence.covered} for evidence in row["evidence"] or []],
        "findings": [
            {"check": code_check.check, "passed": code_check.passed, "line": line, "message": message}
            for code_check in code_checks
            for line, message in (code_check.findings or [(None, None)])
        ],
    }


def _read(store: Store, table: TableName, key: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    rows, facts = read_file(store, table, key) or (TABLES[table].empty_table(), {})
    return rows.to_pandas(), facts
