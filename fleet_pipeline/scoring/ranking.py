"""From scores to a winner: a declared weighted mean and method, the parts kept, ties explicit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pandas as pd

from fleet_pipeline.scoring.options import Method, Weights

# What of a proposal is relevance, and what counts as far as it is relevant: a text on another
# subject is the most novel of all, and its code may be flawless.
RELEVANCE, QUALIFIED = ("fit", "coverage"), ("novelty", "checks")
PARTS = (*RELEVANCE, *QUALIFIED)
_BY_LOT = ", by lot"
DIGITS = 9  # scores that are equal to so many decimals are tied


def score(parts: pd.DataFrame, weights: Weights) -> pd.DataFrame:
    """`parts` with `relevance` and `score`, both 0 to 1. One row per proposal; `parts` has the `PARTS`."""
    scored = parts.copy()
    scored["relevance"] = _weighted_mean(scored, weights, RELEVANCE)
    counted = scored.copy()
    for part in QUALIFIED:
        counted[part] = scored[part] * scored["relevance"]
    scored["score"] = _weighted_mean(counted, weights, PARTS).round(DIGITS)
    return scored


def rank(scored: pd.DataFrame, method: Method = "score", candidates: Mapping[str, int] | None = None) -> pd.DataFrame:
    """`scored` with `candidate`, `choice`, `rank`, `tied`, `winner` and `won_by`.

    The `candidates` best by score (by deliberation id; all where not given, more where scores tie) are
    candidates; they are ordered by `choice`, which is what the method goes by, and stand before the
    rest, who are ordered by score. Ranks are dense: 1, 2, 2, 3. A tied winner is drawn by lot, from the
    ids, so that it is the same on every machine and favours no seat. `won_by` names what decided:
    score, judge or both; in a council without a verdict that could be read, score whatever the method;
    with ", by lot" where that left a tie.
    """
    ranked = scored.copy()
    if "judge" not in ranked:
        ranked["judge"] = float("nan")
    council = ranked["deliberation_id"]
    place = ranked.groupby("deliberation_id")["score"].rank(method="min", ascending=False)
    ranked["candidate"] = place <= (council.map(candidates) if candidates is not None else float("inf"))
    # A verdict on some seats only would compare unlike things.
    read = ranked["judge"].notna().groupby(council).transform("all")
    by = pd.Series("score", index=ranked.index).where(~read, method)
    choice = ranked["score"].where(by == "score", ranked["judge"])
    choice = choice.where(by != "both", (ranked["score"] + ranked["judge"]) / 2)
    ranked["choice"] = choice.round(DIGITS)
    # Both lie in [0, 1]: candidates come first.
    order = ranked["choice"].where(ranked["candidate"], ranked["score"] - 2)
    ranked["rank"] = order.groupby(council).rank(method="dense", ascending=False).astype("Int64")
    ranked["tied"] = ranked.duplicated(["deliberation_id", "rank"], keep=False)
    lots = [
        hashlib.sha256(f"{key}\x1f{agent}".encode()).hexdigest()
        for key, agent in zip(council, ranked["agent_id"], strict=True)
    ]
    winners = ranked.assign(lot=lots).sort_values(["rank", "lot"]).drop_duplicates("deliberation_id").index
    ranked["winner"] = ranked.index.isin(winners)
    ranked["won_by"] = by + pd.Series("", index=ranked.index).where(~ranked["tied"], _BY_LOT)
    ranked["won_by"] = ranked["won_by"].where(ranked["winner"], None)
    return ranked


def decided_by(won_by: str) -> tuple[Method, bool]:
    """(what decided, whether a lot had to) of a winner's `won_by`."""
    method, lot = (won_by.removesuffix(_BY_LOT), won_by.endswith(_BY_LOT))
    return ("judge" if method == "judge" else "both" if method == "both" else "score"), lot


def _weighted_mean(scores: pd.DataFrame, weights: Weights, parts: tuple[str, ...]) -> pd.Series[float]:
    """Mean of the parts that are present, weighted; unweighted where no present part has a weight."""
    values = scores[list(parts)].astype("float64")
    given = pd.Series({part: getattr(weights, part) for part in parts}, dtype="float64")
    shares = values.notna() * given
    total = shares.sum(axis=1)
    weighted = (values.fillna(0.0) * shares).sum(axis=1) / total.where(total > 0)
    return weighted.fillna(values.mean(axis=1)).fillna(0.0)
