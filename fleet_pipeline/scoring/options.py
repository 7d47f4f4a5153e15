"""What can be chosen about scores."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from fleet_pipeline.scoring.ranking import Method


class ScoringOptions(BaseModel):
    """How winners are chosen, what else is measured, and below what people are warned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field(default="score", description="By what the winner is chosen: score, judge or both.")
    embeddings: str | None = Field(
        default=None,
        description="Hub name or local folder of a sentence-transformers model; none is loaded when absent.",
    )
    embeddings_device: str = Field(default="cpu", description="cpu or cuda.")
    warn_diversity_below: float = Field(
        default=0.25, ge=0, le=1, description="Share of the possible diversity: (Vendi score - 1) / (proposals - 1)."
    )
    warn_relevance_below: float = Field(default=0.15, ge=0, le=1, description="Mean relevance of a council.")
