"""From scores to a winner, by a declared weighted mean and method. Parts are kept, and ties are explicit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fleet_pipeline.deliberation.rows import Method
from fleet_pipeline.scoring import confidence
from fleet_pipeline.scoring.options import Weights
from fleet_pipeline.scoring.reward import chance

# The parts of relevance, and the parts that count less where a proposal is not relevant: a text on another subject is the
# most novel of all, and its code and its form may be flawless.
RELEVANCE, QUALIFIED = ("fit", "coverage"), ("novelty", "checks", "form")
PARTS = (*RELEVANCE, *QUALIFIED)
# Form counts in full from this relevance on, and this much without any: a right answer in other words than its task's has
# no relevance (`docs/scores.md`), and one in eight of real models' answers has less than 0.1.
ENOUGH, LEAST = 0.25, 0.2
DIGITS = 9  # scores that are equal to this many decimals are tied


def score(parts: pd.DataFrame, weights: Weights) -> pd.DataFrame:
    """`parts` with `relevance` and `score` added, both 0 to 1. It has one row per proposal and the columns `PARTS`."""
    scored = parts.copy()
    scored["relevance"] = scored[list(RELEVANCE)].astype("float64").mean(axis=1).fillna(0.0)
    counted = scored.copy()
    for part in QUALIFIED:
        counted[part] = scored[part] * qualified(part, scored["relevance"])
    scored["score"] = _weighted_mean(counted, weights, PARTS).round(DIGITS)
    return scored


def qualified(part: str, relevance: Any) -> Any:
    """As far as a `QUALIFIED` part counts at this relevance: a number, or a series of them."""
    return LEAST + (1 - LEAST) * np.minimum(relevance / ENOUGH, 1.0) if part == "form" else relevance


def rank(scored: pd.DataFrame, method: Method = "score", candidates: Mapping[str, int] | None = None) -> pd.DataFrame:
    """`scored` with `candidate`, `choice`, `rank`, `tied`, `winner`, `won_by`, `by_lot` and `confidence`.

    `candidates` gives the number of candidates by deliberation id: the best by score, more where scores tie.
    Without it, all are candidates. Candidates rank first, in the order of `choice`, the value that the method uses.
    The rest follow in the order of score. Ranks are dense: 1, 2, 2, 3. A tied winner is drawn by lot from the ids,
    so that it is the same on every machine and no seat is favoured. `won_by` names what decided: the method. Without a
    verdict or a reward on every proposal (or two peers, for consensus) that is score, whatever the method. Where proposals have a
    column `tested`, those with a verified change come first and those that broke a test last, whatever the method; where that
    alone decided, `won_by` is tests, and there is no confidence. A winner's `confidence` is the
    probability that it is better than the runner-up.
    """
    ranked = scored.copy()
    for column in ("judge", "strength", "consensus", "reward", "preferred"):
        if column not in ranked:
            ranked[column] = float("nan")
    council = ranked["deliberation_id"]
    standing = _standing(ranked)
    score_rank = (ranked["score"] + standing).groupby(council).rank(method="min", ascending=False)
    ranked["candidate"] = score_rank <= (council.map(candidates) if candidates is not None else float("inf"))
    # With verdicts on some seats only, unlike things would be compared.
    values: dict[Any, pd.Series[float]] = {
        **ranked[["score", "judge", "consensus"]],
        "both": (ranked["score"] + ranked["judge"]) / 2,
        "reward": ranked["preferred"],
    }
    known = values[method].notna().groupby(council).transform("all")
    deciding = pd.Series("score", index=ranked.index).where(~known, method)
    ranked["choice"] = ranked["score"].where(~known, values[method]).round(DIGITS)
    # Score and choice lie in [0, 1], so the candidates come first.
    order = ranked["choice"].where(ranked["candidate"], ranked["score"] - 2) + standing
    ranked["rank"] = order.groupby(council).rank(method="dense", ascending=False).astype("Int64")
    ranked["tied"] = ranked.duplicated(["deliberation_id", "rank"], keep=False)
    lots = [
        hashlib.sha256(f"{key}\x1f{agent}".encode()).hexdigest()
        for key, agent in zip(council, ranked["agent_id"], strict=True)
    ]
    winners = ranked.assign(lot=lots).sort_values(["rank", "lot"]).drop_duplicates("deliberation_id").index
    ranked["winner"] = ranked.index.isin(winners)
    # Of the seats beside the winner none stands as high: its tests decided, and how sure that is nobody has measured.
    best = standing.groupby(council).transform("max")
    by_tests = (standing == best).groupby(council).transform("sum").eq(1) & council.duplicated(keep=False)
    ranked["won_by"] = deciding.where(~by_tests, "tests").where(ranked["winner"], None)
    ranked["by_lot"] = ranked["winner"] & ranked["tied"]
    ranked["confidence"] = _confidence(ranked, order, deciding).where(~by_tests)
    return ranked.drop(columns="strength")


def _standing(ranked: pd.DataFrame) -> pd.Series[float]:
    """What tests say of a proposal's change goes before all scores, which lie between -2 and 1: a test that passes outranks a
    promise, and a test that was broken loses to one.
    """
    if "tested" not in ranked:
        return pd.Series(0.0, index=ranked.index)
    return ranked["tested"].map({"verified": 4.0, "broken": -4.0}).fillna(0.0).astype("float64")


class _Seat(NamedTuple):
    """What the confidence in a winner is told from."""

    index: Any
    winner: bool
    place: float
    score: float
    strength: float
    reward: float
    decided_by: str


def _confidence(ranked: pd.DataFrame, order: pd.Series[float], deciding: pd.Series[Any]) -> pd.Series[float]:
    """Of each winner that has a runner-up, in the place of the winner."""
    # The score decided over those that are no candidates.
    by = deciding.where(ranked["candidate"], "score")
    columns = [ranked[name] for name in ("winner", "score", "strength", "reward")]
    councils: dict[str, list[_Seat]] = {}
    for key, index, place, winner, score_, strength, reward, decided_by in zip(
        ranked["deliberation_id"], ranked.index, order, *columns, by, strict=True
    ):
        councils.setdefault(key, []).append(_Seat(index, winner, place, score_, strength, reward, decided_by))
    found: dict[Any, float] = {}
    for seats in councils.values():
        if len(seats) > 1:
            first = next(seat for seat in seats if seat.winner)
            other = max((seat for seat in seats if not seat.winner), key=lambda seat: seat.place)
            found[first.index] = _confidence_in(first, other, len(seats))
    return pd.Series(found, dtype="float64").reindex(ranked.index)


def _confidence_in(first: _Seat, other: _Seat, proposals: int) -> float:
    """The probability that the first is better than the other, by what decided over the other."""
    by_score = confidence.by_score(first.score - other.score, proposals)
    match other.decided_by:
        case "judge":
            return confidence.by_judge(first.strength, other.strength)
        case "both":
            return (by_score + confidence.by_judge(first.strength, other.strength)) / 2
        case "reward":
            return chance(first.reward, other.reward)
        case _:  # of a consensus too: it says what is alike, and not what is good
            return by_score


def _weighted_mean(scores: pd.DataFrame, weights: Weights, parts: tuple[str, ...]) -> pd.Series[float]:
    """Weighted mean of the parts that are present; unweighted where no present part has a weight, 0 without a part."""
    values = scores[list(parts)].astype("float64")
    part_weights = pd.Series({part: getattr(weights, part) for part in parts}, dtype="float64")
    shares = values.notna() * part_weights
    total = shares.sum(axis=1)
    weighted = (values.fillna(0.0) * shares).sum(axis=1) / total.where(total > 0)
    return weighted.fillna(values.mean(axis=1)).fillna(0.0)
