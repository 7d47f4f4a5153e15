"""The report of a run, or of a stretch of time, from what is stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO

import pandas as pd

from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.deliberation.task import is_key
from fleet_pipeline.reports.report import Told, write_report
from fleet_pipeline.storage.schemas import TABLES
from fleet_pipeline.storage.store import Damaged, Store
from fleet_pipeline.storage.tables import TableSlice, read_rows

# Texts are read one deliberation at a time, when they are written.
_TEXTS = ("winner_text", "description")
CHUNK = 256


def report_path(run_id: str) -> str:
    return f"reports/{run_id}.html"


def store_report(store: Store, run_id: str, keys: Sequence[str]) -> str:
    """Write the report of a run over `keys` into the storage; returns its full path."""
    rows = verdicts(store, keys)
    # By way of a file: a report of thousands has hundreds of megabytes.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        write_file(file, store, f"Run {run_id}", rows[rows["run_id"] == run_id])
        store.upload(report_path(run_id), file)
    return store.full_path(report_path(run_id))


def verdicts(
    store: Store, keys: Sequence[str] | None = None, told: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """The rows of `deliberations` without their texts: of `keys`, or all there are. `ended_at` is when they were
    written, where they have no last answer.
    """
    written = store.moments("deliberations", ".parquet")
    wanted = [key for key in (sorted(written) if keys is None else keys) if is_key(key)]
    columns = [name for name in TABLES["deliberations"].names if name not in _TEXTS]
    parts, done = [], 0
    for part, rows in TableSlice(store, "deliberations", wanted).chunks(CHUNK):
        parts.append(rows.select(columns).to_pandas())
        done += len(part)
        if told:
            told(done, len(wanted))
    found: pd.DataFrame = pd.concat(parts, ignore_index=True)
    moments = pd.to_datetime(found["deliberation_id"].map(written), utc=True)
    found["ended_at"] = found["finished_at"].fillna(moments)
    return found


def chosen(rows: pd.DataFrame, run: str | None, since: datetime | None, place: str) -> tuple[str, pd.DataFrame]:
    """(title, rows) of a run (its id, or how it begins), of what finished since a time, or of the last run.

    Raises `InvalidInput` where there are none, or where several runs begin so.
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


def write(out: IO[str], store: Store, title: str, rows: pd.DataFrame) -> None:
    """Write the report of the deliberations in `rows`."""

    def tell(key: str) -> Told:
        found = {}
        for table in ("deliberations", "proposals", "utterances"):
            try:
                stored = read_rows(store, table, key)
            except Damaged:  # its neighbours are told all the same; `schema` of the asset checks names it
                stored = None
            found[table] = stored.to_pylist() if stored is not None else []
        row = found["deliberations"][0] if found["deliberations"] else dict.fromkeys(TABLES["deliberations"].names)
        return Told(row | {"deliberation_id": key}, found["proposals"], found["utterances"])

    keys = list(rows["deliberation_id"])
    columns = ["role", "perspective", "winner", "error_type"]
    parts = [part.select(columns).to_pandas() for _, part in TableSlice(store, "proposals", keys).chunks(CHUNK)]
    seats = pd.concat(parts, ignore_index=True)
    seats["answered"] = seats["error_type"].isna()
    write_report(out, title, rows, seats, tell)


def write_file(path: Path, store: Store, title: str, rows: pd.DataFrame) -> None:
    """Write the report as a file, which appears whole or not at all. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            write(out, store, title, rows)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
