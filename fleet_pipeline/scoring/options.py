"""What can be chosen about scores."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from fleet_pipeline.scoring.ranking import Method


class ScoringOptions(BaseModel):
    """How winners are chosen, and what else is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field(default="score", description="By what the winner is chosen: score, judge or both.")
    embeddings: str | None = Field(
        default=None,
        description="Hub name or local folder of a sentence-transformers model; none is loaded when absent.",
    )
    embeddings_device: str = Field(default="cpu", description="cpu or cuda.")
