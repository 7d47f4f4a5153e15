"""Council checks: can a council's result be trusted, or should people look at it first?"""

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
    """The checks that one council fails, and for each what was found and what to do.

    `diversity` holds the council's figures, and is empty where it has none. `quorum` is None without a valid task.
    """
    failures: dict[CouncilCheck, str] = {}
    present = proposals[proposals["text"].notna()]
    n = len(present)
    if quorum is not None and n < quorum:
        failures["quorum"] = (
            f"{n} seats answered, the quorum is {quorum}: run it again, with more retries or a larger timeout_seconds"
        )
    truncated = int((utterances["error_type"] == "cut_off").sum())
    if len(utterances) and truncated / len(utterances) > options.truncated_above:
        failures["truncation"] = (
            f"{truncated} of {len(utterances)} answers reached max_tokens: raise it, or turn a reasoning model's thinking off"
        )
    if diversity.get("duplicates"):
        failures["duplicates"] = (
            f"{diversity['duplicates']} proposals repeat another: a higher temperature, or diversity = true, tells seats apart"
        )
    if n > 1 and "vendi" in diversity:
        share = (diversity["vendi"] - 1) / (n - 1)
        if share < options.diversity_below:
            failures["diversity"] = (
                f"{share:.2f} of the possible diversity: a higher temperature, more perspectives, or fewer rounds"
            )
    relevance = present["relevance"].dropna() if "relevance" in present else present["text"].head(0)
    if len(relevance) and relevance.mean() < options.relevance_below:
        failures["relevance"] = (
            f"mean relevance {relevance.mean():.2f}: say more in the task and its requirements, or use a larger model"
        )
    return failures
