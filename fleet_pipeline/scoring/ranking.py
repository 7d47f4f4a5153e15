"""From scores to a winner: a declared weighted mean, its parts kept, ties explicit."""

from __future__ import annotations

import hashlib

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

PARTS = ("similarity", "coverage", "novelty")


class Weights(BaseModel):
    """Weights of the parts of a score. Where a part is absent the others share its weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    similarity: float = Field(default=0.4, ge=0, le=1, description="Likeness to the task and its constraints.")
    coverage: float = Field(default=0.4, ge=0, le=1, description="Share of the requirements taken up.")
    novelty: float = Field(default=0.2, ge=0, le=1, description="Distance to the nearest peer.")

    @model_validator(mode="after")
    def _some_weight(self) -> Weights:
        if self.similarity + self.coverage + self.novelty <= 0:
            raise ValueError("at least one weight must be above 0")
        return self


def rank(scores: pd.DataFrame, weights: Weights) -> pd.DataFrame:
    """`scores` with `relevance`, `score`, `rank`, `tied` and `winner`.

    `scores` has `deliberation_id`, `agent_id` and the `PARTS`, one row per proposal. Ranks are
    dense: 1, 2, 2, 3. Scores equal to nine decimals are tied. A tied winner is drawn by lot, from
    the ids, so that it is the same on every machine and favours no seat.
    """
    ranked = scores.copy()
    ranked["relevance"] = _weighted_mean(ranked, weights, ("similarity", "coverage"))
    ranked["score"] = _weighted_mean(ranked, weights, PARTS).round(9)
    by_council = ranked.groupby("deliberation_id")["score"]
    ranked["rank"] = by_council.rank(method="dense", ascending=False).astype("Int64")
    ranked["tied"] = ranked.duplicated(["deliberation_id", "rank"], keep=False)
    lots = [
        hashlib.sha256(f"{key}\x1f{agent}".encode()).hexdigest()
        for key, agent in zip(ranked["deliberation_id"], ranked["agent_id"], strict=True)
    ]
    order = ranked.assign(lot=lots).sort_values(["rank", "lot"])
    winners = order.drop_duplicates("deliberation_id").index
    ranked["winner"] = ranked.index.isin(winners)
    return ranked


def _weighted_mean(scores: pd.DataFrame, weights: Weights, parts: tuple[str, ...]) -> pd.Series[float]:
    """Mean of the parts that are present, weighted; 0 where no present part has weight."""
    total = pd.Series(0.0, index=scores.index)
    weight = pd.Series(0.0, index=scores.index)
    for part in parts:
        share = scores[part].notna() * getattr(weights, part)
        total += scores[part].fillna(0.0) * share
        weight += share
    return (total / weight.where(weight > 0)).fillna(0.0)
