"""Whether a council's result can be trusted: what people should look at before they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fleet_pipeline.scoring.options import CouncilCheck, CouncilCheckOptions

COUNCIL_CHECKS: dict[CouncilCheck, str] = {
    "quorum": "Councils of which fewer seats answered than their quorum.",
    "schema": "Deliberations with a file that is damaged, foreign, or of another version of its schema.",
    "truncation": "Councils with more answers cut off at max_tokens than truncated_above.",
    "duplicates": "Councils with proposals that repeat another one exactly.",
    "diversity": "Councils whose final proposals are nearly one: (Vendi - 1) / (proposals - 1) below diversity_below.",
    "relevance": "Councils whose proposals hardly speak of their task: mean relevance below relevance_below.",
}


def failed_checks(
    utterances: pd.DataFrame,
    proposals: pd.DataFrame,
    diversity: Mapping[str, Any],
    quorum: int | None,
    options: CouncilCheckOptions,
) -> dict[CouncilCheck, str]:
    """The checks that one council does not pass, and for each what was found and what to do.

    `diversity` are its figures, empty where it has none; `quorum` None where no valid task is stored.
    """
    found: dict[CouncilCheck, str] = {}
    present = proposals[proposals["text"].notna()]
    n = len(present)
    if quorum is not None and n < quorum:
        found["quorum"] = (
            f"{n} seats answered, the quorum is {quorum}: run it again, with more retries or a larger timeout_seconds"
        )
    cut = int((utterances["error_type"] == "cut_off").sum())
    if len(utterances) and cut / len(utterances) > options.truncated_above:
        found["truncation"] = (
            f"{cut} of {len(utterances)} answers reached max_tokens: raise it, or turn a reasoning model's thinking off"
        )
    if diversity.get("duplicates"):
        found["duplicates"] = (
            f"{diversity['duplicates']} proposals repeat another: a higher temperature, or diversity = true, tells seats apart"
        )
    if n > 1 and "vendi" in diversity:
        share = (diversity["vendi"] - 1) / (n - 1)
        if share < options.diversity_below:
            found["diversity"] = (
                f"{share:.2f} of the possible diversity: a higher temperature, more perspectives, or fewer rounds"
            )
    relevance = present["relevance"].dropna() if "relevance" in present else present["text"].head(0)
    if len(relevance) and relevance.mean() < options.relevance_below:
        found["relevance"] = (
            f"mean relevance {relevance.mean():.2f}: say more in the task and its requirements, or use a larger model"
        )
    return found
