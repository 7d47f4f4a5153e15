"""The proposals: one row per seat, from all utterances."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from fleet_pipeline.common.frames import records
from fleet_pipeline.deliberation.exchange import UNFINISHED
from fleet_pipeline.deliberation.rows import CodeFinding, ProposalRow
from fleet_pipeline.scoring.code_checks.check import CodeCheck

SEAT = ["deliberation_id", "agent_id"]
_COLUMNS = ["deliberation_id", "task_id", "role", "agent_id", "label", "perspective", "model", "engine", "fingerprint"]
_SAID = ["phase", "text", "shortened", "error_type", "error_message", "completion_tokens", "tested"]
_NO_ERROR: dict[str, Any] = {"error_type": None, "error_message": None}
_NOTHING_SAID: dict[str, Any] = {
    "initial_text": None, "text": None, "shortened": None, "unfinished_text": None, "tested": None, "revisions": 0, "completion_tokens": 0,
    **_NO_ERROR,
}  # fmt: skip
_ADDED = list(_NOTHING_SAID)
_UNFINISHED = frozenset(str(error) for error in UNFINISHED)
_ROWS = TypeAdapter(list[ProposalRow])


def final_proposals(utterances: pd.DataFrame) -> pd.DataFrame:
    """One row per seat, in order of deliberation and seat.

    Adds to the seat's own columns: `initial_text` (the opening proposal), `text` (after the last
    revision that counted), `shortened` (why the end of that text is missing), `tested` (what is known of its change), `unfinished_text` (what it was saying when
    it was stopped), `revisions`, and `completion_tokens` (all attempts). A seat that never answered has null texts and
    its last error.

    Row by row in Python: councils are scored a few at a time. Grouping the rows of one took pandas 18 ms, and this 1.3.
    """
    if utterances.empty:
        return pd.DataFrame(columns=[*_COLUMNS, *_ADDED])
    seats: dict[tuple[str, str], dict[str, Any]] = {}
    for said in records(utterances[[*_COLUMNS, *_SAID]]):
        key = (said["deliberation_id"], said["agent_id"])
        if key not in seats:
            seats[key] = {column: said[column] for column in _COLUMNS} | _NOTHING_SAID
        _add(seats[key], said)
    rows = [seat if seat["text"] is None else seat | _NO_ERROR for seat in seats.values()]
    return pd.DataFrame(rows, columns=[*_COLUMNS, *_ADDED])


def _add(seat: dict[str, Any], said: dict[str, Any]) -> None:
    """Add one utterance to the row of its seat. Utterances are in the order in which they were made."""
    seat["completion_tokens"] += said["completion_tokens"]
    phase, text, error = said["phase"], said["text"], said["error_type"]
    if phase not in ("propose", "revise"):
        return
    if error is None:
        seat["text"], seat["shortened"], seat["tested"] = text, said["shortened"], said["tested"]
        if phase == "propose":
            seat["initial_text"] = text
        else:
            seat["revisions"] += 1
        return
    if text and error in _UNFINISHED:
        seat["unfinished_text"] = text
    if phase == "propose":
        seat["error_type"] = error
        if said["error_message"] is not None:
            seat["error_message"] = said["error_message"]


def texts(proposals: pd.DataFrame) -> dict[str, str]:
    """The final texts of one council's `final_proposals`, by agent id."""
    present = proposals[proposals["text"].notna()]
    return dict(zip(present["agent_id"], present["text"], strict=True))


def proposal_rows(seats: Iterable[Mapping[str, Any]], run_id: str, wins: bool = True) -> list[ProposalRow]:
    """The rows (`records`) of `final_proposals`, with their scores where they have any. Without `wins` no seat is a winner."""
    return _ROWS.validate_python([_plain(seat, wins) | {"run_id": run_id} for seat in seats])


def _plain(seat: Mapping[str, Any], wins: bool) -> dict[str, Any]:
    """A seat with the columns of `ProposalRow`. Seats without a score have null in all columns of scores."""
    checks = seat.get("findings")
    won = wins and bool(seat.get("winner"))
    return {**seat} | {
        "winner": won,
        "won_by": seat.get("won_by") if won else None,
        "by_lot": won and bool(seat.get("by_lot")),
        "confidence": seat.get("confidence") if won else None,
        "evidence": seat.get("evidence") or [],
        "findings": _findings(checks) if isinstance(checks, list) else [],
    }


def _findings(checks: list[CodeCheck]) -> list[CodeFinding]:
    return [
        CodeFinding(check.check, check.passed, line, message)
        for check in checks
        for line, message in (check.findings or [(None, None)])
    ]
