"""The options of scores and council checks. Needs Pydantic alone, because the settings are composed of these."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fleet_pipeline.common.strict_model import StrictModel
from fleet_pipeline.deliberation.rows import Method


class Weights(StrictModel):
    """Weights of the parts of a score. Where a part is absent the others share its weight."""

    fit: float = Field(default=0.05, ge=0, le=1, description="How much better it fits its task than other tasks.")
    coverage: float = Field(default=0.4, ge=0, le=1, description="Share of each requirement and criterion taken up.")
    novelty: float = Field(default=0.0, ge=0, le=1, description="Distance to the nearest peer, times relevance.")
    checks: float = Field(default=0.1, ge=0, le=1, description="Share of checks on its code passed, times relevance.")

    form: float = Field(
        default=0.4, ge=0, le=1, description="How much it says and how it is laid out; less without relevance."
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Weights:
        if self.fit + self.coverage <= 0:
            raise ValueError(
                "fit or coverage must be above 0: the other parts count less where a proposal is not relevant"
            )
        return self


class ScoringOptions(StrictModel):
    """How winners are chosen, and what else is measured."""

    method: Method = Field(
        default="score", description="By what the winner is chosen: score, judge, both, consensus or reward."
    )
    clear_from: float = Field(
        default=0.65,
        ge=0.5,
        le=1,
        description="Below this probability of being better than the next, none is a clear winner.",
    )
    reward: str | None = Field(
        default=None,
        min_length=1,
        description="Hub name or local folder of a reward model; it rates all proposals after the last deliberation.",
    )
    embeddings: str | None = Field(
        default=None,
        description="Hub name or local folder of a sentence-transformers model; none is loaded when absent.",
    )
    embeddings_device: str = Field(default="cpu", description="cpu or cuda.")


CouncilCheck = Literal["quorum", "schema", "deadline", "truncation", "loops", "duplicates", "diversity", "relevance"]


class CouncilCheckOptions(StrictModel):
    """From where on people are warned of a council's result, and of what as an error."""

    errors: tuple[CouncilCheck, ...] = Field(
        default=("quorum", "schema"), description="Checks that fail as errors; the others warn. None stops a run."
    )
    truncated_above: float = Field(default=0.1, ge=0, le=1, description="Share of a council's answers.")
    looped_above: float = Field(default=0.1, ge=0, le=1, description="Share of a council's answers.")
    diversity_below: float = Field(
        default=0.25, ge=0, le=1, description="Share of the possible diversity: (Vendi score - 1) / (proposals - 1)."
    )
    relevance_below: float = Field(default=0.15, ge=0, le=1, description="Mean relevance of a council.")
