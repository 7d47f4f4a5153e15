"""The proposals: one row per seat, from all utterances."""

import pandas as pd

SEAT = ["deliberation_id", "agent_id"]
_COLUMNS = ["deliberation_id", "task_id", "role", "agent_id", "label", "perspective", "model", "engine", "fingerprint"]


def final_proposals(utterances: pd.DataFrame) -> pd.DataFrame:
    """One row per seat, in order of deliberation and seat.

    Adds to the seat's own columns: `initial_text` (the opening proposal), `text` (after the last
    revision that counted), `revisions`, and `completion_tokens` (all attempts). A seat that never
    answered has null texts and its last error.
    """
    if utterances.empty:
        columns = [*_COLUMNS, "initial_text", "text", "revisions", "completion_tokens", "error_type", "error_message"]
        return pd.DataFrame(columns=columns)
    own = utterances[utterances["phase"].isin(["propose", "revise"])]
    counted = own[own["error_type"].isna()]
    opening = counted[counted["phase"] == "propose"]
    revised = counted[counted["phase"] == "revise"]
    failed = own[(own["phase"] == "propose") & own["error_type"].notna()]

    seats = utterances.drop_duplicates(SEAT)[_COLUMNS].set_index(SEAT, drop=False)
    seats["initial_text"] = opening.groupby(SEAT)["text"].last()
    seats["text"] = counted.groupby(SEAT)["text"].last()
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
