"""The proposals: one row per seat, from all utterances."""

import pandas as pd
from pydantic import TypeAdapter

from fleet_pipeline.common.frames import records
from fleet_pipeline.deliberation.exchange import UNFINISHED
from fleet_pipeline.deliberation.rows import CodeFinding, ProposalRow
from fleet_pipeline.scoring.code_checks.check import CodeCheck

SEAT = ["deliberation_id", "agent_id"]
_COLUMNS = ["deliberation_id", "task_id", "role", "agent_id", "label", "perspective", "model", "engine", "fingerprint"]
_ROWS = TypeAdapter(list[ProposalRow])


def final_proposals(utterances: pd.DataFrame) -> pd.DataFrame:
    """One row per seat, in order of deliberation and seat.

    Adds to the seat's own columns: `initial_text` (the opening proposal), `text` (after the last
    revision that counted), `shortened` (why the end of that text is missing), `unfinished_text` (what it was saying when
    it was stopped), `revisions`, and `completion_tokens` (all attempts). A seat that never answered has null texts and
    its last error.
    """
    if utterances.empty:
        columns = [*_COLUMNS, "initial_text", "text", "shortened", "unfinished_text", "revisions", "completion_tokens"]
        columns += ["error_type", "error_message"]
        return pd.DataFrame(columns=columns)
    own = utterances[utterances["phase"].isin(["propose", "revise"])]
    counted = own[own["error_type"].isna()]
    opening = counted[counted["phase"] == "propose"]
    revised = counted[counted["phase"] == "revise"]
    failed = own[(own["phase"] == "propose") & own["error_type"].notna()]

    seats = utterances.drop_duplicates(SEAT)[_COLUMNS].set_index(SEAT, drop=False)
    seats["initial_text"] = opening.groupby(SEAT)["text"].last()
    last = counted.drop_duplicates(SEAT, keep="last").set_index(SEAT)
    seats["text"] = last["text"]
    seats["shortened"] = last["shortened"]
    broken_off = own[own["error_type"].isin([str(error) for error in UNFINISHED]) & (own["text"] != "")]
    seats["unfinished_text"] = broken_off.groupby(SEAT)["text"].last()
    seats["revisions"] = revised.groupby(SEAT).size()
    seats["revisions"] = seats["revisions"].fillna(0).astype(int)
    seats["completion_tokens"] = utterances.groupby(SEAT)["completion_tokens"].sum()
    absent = seats["text"].isna()
    for column in ("error_type", "error_message"):
        seats[column] = failed.groupby(SEAT)[column].last()
        seats[column] = seats[column].where(absent, None)
    return seats.reset_index(drop=True)


def texts(proposals: pd.DataFrame) -> dict[str, str]:
    """The final texts of one council's `final_proposals`, by agent id."""
    present = proposals[proposals["text"].notna()]
    return dict(zip(present["agent_id"], present["text"], strict=True))


def proposal_rows(seats: pd.DataFrame, run_id: str, wins: bool = True) -> list[ProposalRow]:
    """The rows of `final_proposals`, with their scores where they have any. Without `wins` no seat is a winner."""
    return _ROWS.validate_python([_plain(seat, wins) | {"run_id": run_id} for seat in records(seats)])


def _plain(seat: dict[str, object], wins: bool) -> dict[str, object]:
    """A seat with the columns of `ProposalRow`. Seats without a score have null in all columns of scores."""
    checks = seat.pop("findings", None)
    won = wins and bool(seat.get("winner"))
    return seat | {
        "winner": won,
        "won_by": seat.get("won_by") if won else None,
        "by_lot": won and bool(seat.get("by_lot")),
        "evidence": seat.get("evidence") or [],
        "findings": _findings(checks) if isinstance(checks, list) else [],
    }


def _findings(checks: list[CodeCheck]) -> list[CodeFinding]:
    return [
        CodeFinding(check.check, check.passed, line, message)
        for check in checks
        for line, message in (check.findings or [(None, None)])
    ]
