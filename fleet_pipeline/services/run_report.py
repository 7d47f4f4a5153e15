"""The HTML report of a run or of a period, from the stored results."""

import io
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.common.files import written_whole
from fleet_pipeline.deliberation.action_rows import Actions
from fleet_pipeline.deliberation.rows import OutcomeRow
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.reports.html import DeliberationDetail, write_report
from fleet_pipeline.services.explanation import Explanation, explanation
from fleet_pipeline.services.outcomes import read_actions
from fleet_pipeline.storage.schemas import DELIBERATIONS, PROPOSALS, UTTERANCES, Row, Table
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import TableSlice, read_rows

# Texts are read while the report is written, one deliberation at a time. Of a task this much is in lists.
MOST_TASK = 200
CHUNK = 256


def report_path(run_id: str) -> str:
    return f"reports/{run_id}.html"


def store_report(store: Store, run_id: str, keys: Sequence[str]) -> str:
    """Write the report of a run over `keys` into the storage; returns its full path."""
    rows = outcome_table(store, keys)
    # Through a temporary file: a report of thousands of deliberations has hundreds of megabytes.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        write_file(file, store, f"Run {run_id}", rows[rows["run_id"] == run_id])
        store.upload(report_path(run_id), file)
    return store.full_path(report_path(run_id))


def outcome_table(
    store: Store, keys: Sequence[str] | None = None, on_progress: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """The rows of the table `deliberations`, those of `keys`, or all: without the winner's text, and with the beginning of
    the task's. The added column `ended_at` is `finished_at`, or the modification time of the file if there is no last answer.
    """
    written = store.mtimes("deliberations", ".parquet")
    wanted = [key for key in (sorted(written) if keys is None else keys) if is_deliberation_id(key)]
    columns = [name for name in DELIBERATIONS.schema.names if name != "winner_text"]
    parts = []
    for start in range(0, max(len(wanted), 1), CHUNK):
        part = wanted[start : start + CHUNK]
        read = TableSlice(store, DELIBERATIONS, part).columns(columns).to_pandas()
        parts.append(read.assign(description=read["description"].str.slice(0, MOST_TASK)))
        if on_progress:
            on_progress(start + len(part), len(wanted))
    outcomes: pd.DataFrame = pd.concat(parts, ignore_index=True)
    mtimes = pd.to_datetime(outcomes["deliberation_id"].map(written), utc=True)
    outcomes["ended_at"] = outcomes["finished_at"].fillna(mtimes)
    return outcomes


def chosen(rows: pd.DataFrame, run: str | None, since: datetime | None, place: str) -> tuple[str, pd.DataFrame]:
    """(what they are, rows) of a run (its id or a prefix), of the deliberations that ended since a time, or of the last run.

    Raises `InvalidInput` if there are none, or if the prefix fits several runs. Messages name the storage `place`.
    """
    if rows.empty:
        raise InvalidInput(f"no deliberations in {place} yet")
    if since is not None:
        found = rows[rows["ended_at"] >= pd.Timestamp(since)]
        if found.empty:
            raise InvalidInput(f"nothing in {place} finished since {since:%Y-%m-%d %H:%M %Z}")
        return f"Deliberations since {since:%Y-%m-%d %H:%M %Z}", found
    if run is None:
        run = str(rows.sort_values("ended_at")["run_id"].iloc[-1])
    runs = sorted({found for found in rows["run_id"].dropna() if found.startswith(run)})
    if len(runs) != 1:
        why = f"several runs begin with {run}: {', '.join(runs[:5])}" if runs else f"no deliberations of run {run}"
        raise InvalidInput(f"{why} in {place}; `fleet status ID` names the run of a deliberation")
    return f"Run {runs[0]}", rows[rows["run_id"] == runs[0]]


def write(out: IO[str], store: Store, about: str, rows: pd.DataFrame, title: str | None = None) -> None:
    """Write the report of the deliberations in `rows`. `about` says what they are, and is the page's title where it has none."""

    def load_detail(key: str) -> DeliberationDetail:
        outcome = next(iter(_readable(store, DELIBERATIONS, key)), None) or _unreadable(key)
        why = Explanation([], [], None)
        with suppress(CorruptFile):
            why = explanation(store, outcome)
        utterances = _readable(store, UTTERANCES, key)
        lines = why.lines if outcome.winner_agent_id else []
        return DeliberationDetail(outcome, why.seats, utterances, _actions(store, outcome), lines)

    keys = list(rows["deliberation_id"])
    columns = ["role", "perspective", "winner", "error_type"]
    seats = TableSlice(store, PROPOSALS, keys).columns(columns).to_pandas()
    seats["answered"] = seats["error_type"].isna()
    write_report(out, about, rows, seats, load_detail, title=title)


def _readable(store: Store, table: Table[Row, Any], key: str) -> list[Row]:
    """The rows, or none of a damaged file: the rest is reported all the same, and the check `schema` names the file."""
    with suppress(CorruptFile):
        return read_rows(store, table, key)
    return []


def _actions(store: Store, outcome: OutcomeRow) -> Actions:
    with suppress(CorruptFile):
        if outcome.tools:
            return read_actions(store, outcome.deliberation_id, outcome.fingerprint)
    return Actions()


def _unreadable(key: str) -> OutcomeRow:
    task_id, _, role = key.rpartition(".")
    error = "its outcome cannot be read any more: run it again"
    return OutcomeRow(
        deliberation_id=key, task_id=task_id, role=role.upper(), status=Status.FAILED, error_message=error, run_id=""
    )


def write_file(path: Path, store: Store, about: str, rows: pd.DataFrame, title: str | None = None) -> None:
    """As `write`, to a file, atomically. Raises `OSError`."""
    write_whole(path, lambda out: write(out, store, about, rows, title))


def write_whole(path: Path, write: Callable[[IO[str]], object]) -> None:
    """What `write` writes, to a file, atomically. Raises `OSError`."""
    with written_whole(path) as file:
        out = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
        write(out)
        out.detach()


def reader(store: Store) -> Callable[[str], OutcomeRow]:
    """Reads the outcome of a deliberation, or says that it cannot be read."""
    return lambda key: next(iter(_readable(store, DELIBERATIONS, key)), None) or _unreadable(key)
