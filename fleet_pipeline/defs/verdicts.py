"""What `deliberations` does for one key: write its row, and say it where people look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pandas as pd

from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.scoring.verdict import verdict
from fleet_pipeline.storage.schemas import TABLES
from fleet_pipeline.storage.store import Damaged, Store
from fleet_pipeline.storage.tables import read_file, table_path, write_rows
from fleet_pipeline.storage.task_store import get_task

Record = dict[str, Any]

# What the event log keeps of one text. The whole is in the Parquet file, whose path stands beside it.
MOST_TEXT = 20_000
STORAGE = "storage"


def write_verdict(store: Store, key: str, roles: Mapping[str, Role], run_id: str) -> tuple[Record, list[Record]]:
    """Write the verdict on one deliberation; returns its row and its seats' rows."""
    try:
        utterances, facts = _read(store, "utterances", key)
        seats, scoring = _read(store, "proposals", key)
    except Damaged as error:
        utterances, seats = (TABLES[table].empty_table().to_pandas() for table in ("utterances", "proposals"))
        facts, scoring = {"status": "failed", "error_message": str(error)}, {}
    try:
        task = get_task(store, key, roles)[0]
    except InvalidInput as error:
        # Whatever an earlier run said: this deliberation cannot be held as it now stands.
        task, facts = None, facts | {"status": "failed", "error_message": str(error)}
    row = verdict(key, task, facts, utterances, seats, scoring.get("diversity", {}), run_id)
    write_rows(store, "deliberations", key, [row], {"status": row["status"], "fingerprint": row["fingerprint"]})
    return row, records(seats)


def metadata(store: Store, row: Record, seats: list[Record], texts: bool) -> dict[str, dg.MetadataValue]:
    """A verdict as the UI shows it. Texts are shown as text, never as Markdown or HTML; without `texts` they are
    in the Parquet files alone.
    """
    text, whole = dg.MetadataValue.text, dg.MetadataValue.int
    values: dict[str, dg.MetadataValue] = {"status": text(row["status"])}
    if row["error_message"]:
        values["error"] = text(row["error_message"][:MOST_TEXT])
    if texts and row["description"]:
        values["task"] = text(row["description"][:MOST_TEXT])
    if row["winner_text"]:
        values["winner"] = text(f"{row['winner_agent_id']} (score {row['winner_score']:.3f})")
    if texts and row["winner_text"]:
        values["winner's proposal"] = text(row["winner_text"][:MOST_TEXT])
    if seats:
        ranked = sorted(seats, key=lambda seat: (seat["rank"] is None, seat["rank"], not seat["winner"]))
        values["proposals"] = dg.MetadataValue.table([_table_record(seat) for seat in ranked], schema=_SEATS)
    for name in ("vendi", "mean_distance", "mean_relevance", "wall_s"):
        if row.get(name) is not None:
            values[name.replace("_", " ")] = dg.MetadataValue.float(round(row[name], 4))
    for name in ("completion_tokens", "prompt_tokens", "cached_tokens"):
        values[name.replace("_", " ")] = whole(row[name])
    # Where whoever follows the event log finds the rows.
    values[STORAGE] = dg.MetadataValue.text(store.url)
    values["parquet"] = dg.MetadataValue.path(store.full_path(table_path("proposals", row["deliberation_id"])))
    return values


def records(frame: pd.DataFrame) -> list[Record]:
    """Rows as dictionaries, with None for every absent value: pandas has three kinds of those."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]


def proposal_row(row: Record, wins: bool) -> Record:
    """A row of `proposals` from a ranked seat: nested results as the table has them."""
    checked = row.pop("findings", None) or []
    return row | {
        "winner": bool(row["winner"]) and wins,
        "won_by": row["won_by"] if wins else None,
        "evidence": [{**found._asdict(), "covered": found.covered} for found in row["evidence"] or []],
        "findings": [
            {"check": one.check, "passed": one.passed, "line": line, "message": message}
            for one in checked
            for line, message in (one.findings or [(None, None)])
        ],
    }


def _read(store: Store, table: str, key: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    rows, facts = read_file(store, table, key) or (TABLES[table].empty_table(), {})
    return rows.to_pandas(), facts


_SEATS = dg.TableSchema(
    columns=[
        dg.TableColumn("rank", "int"),
        dg.TableColumn("agent", "string"),
        dg.TableColumn("perspective", "string"),
        *[dg.TableColumn(name, "float") for name in ("score", "fit", "coverage", "novelty", "checks", "judge")],
        dg.TableColumn("error", "string"),
    ]
)


def _table_record(seat: Record) -> dg.TableRecord:
    figures = {name: seat[name] for name in ("score", "fit", "coverage", "novelty", "checks", "judge")}
    return dg.TableRecord(
        {
            "rank": None if seat["rank"] is None else int(seat["rank"]),
            "agent": seat["agent_id"],
            "perspective": seat["perspective"] or "",
            **{name: None if value is None else round(value, 4) for name, value in figures.items()},
            "error": f"{seat['error_type']}: {seat['error_message']}"[:300] if seat["error_type"] else "",
        }
    )
