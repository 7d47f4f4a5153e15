"""Whether a council's result can be trusted: what people should look at before they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

Check = Literal["quorum", "schema", "truncation", "duplicates", "diversity", "relevance"]
CHECKS: dict[Check, str] = {
    "quorum": "Councils of which fewer seats answered than their quorum.",
    "schema": "Deliberations with a file that is damaged, foreign, or of another version of its schema.",
    "truncation": "Councils with more answers cut off at max_tokens than truncated_above.",
    "duplicates": "Councils with proposals that repeat another one exactly.",
    "diversity": "Councils whose final proposals are nearly one: (Vendi - 1) / (proposals - 1) below diversity_below.",
    "relevance": "Councils whose proposals hardly speak of their task: mean relevance below relevance_below.",
}


class CheckOptions(BaseModel):
    """From where on people are warned of a council's result, and of what as an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    errors: tuple[Check, ...] = Field(
        default=("quorum", "schema"), description="Checks that fail as errors; the others warn. None stops a run."
    )
    truncated_above: float = Field(default=0.1, ge=0, le=1, description="Share of a council's answers.")
    diversity_below: float = Field(
        default=0.25, ge=0, le=1, description="Share of the possible diversity: (Vendi score - 1) / (proposals - 1)."
    )
    relevance_below: float = Field(default=0.15, ge=0, le=1, description="Mean relevance of a council.")


def doubts(
    utterances: pd.DataFrame,
    proposals: pd.DataFrame,
    diversity: Mapping[str, Any],
    quorum: int | None,
    options: CheckOptions,
) -> dict[Check, str]:
    """The checks that one council does not pass, and for each what was found and what to do.

    `diversity` are its figures, empty where it has none; `quorum` None where no valid task is stored.
    """
    found: dict[Check, str] = {}
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
