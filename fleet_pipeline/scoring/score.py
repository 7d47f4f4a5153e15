"""All scores of a batch of proposals, without an engine: what `fleet score` and notebooks call."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import pandas as pd

from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.scoring.code_checks.check import CHECKS_VERSION, check_code
from fleet_pipeline.scoring.diversity import diversity
from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.options import Weights
from fleet_pipeline.scoring.proposals import SEAT
from fleet_pipeline.scoring.ranking import rank, score
from fleet_pipeline.scoring.relevance import VERSION, EmbeddedRelevance, Relevance, relevance
from fleet_pipeline.scoring.scores import Score, score_frame
from fleet_pipeline.scoring.similarity import LEXICAL

CHUNK = 256  # councils


@dataclass(frozen=True)
class Scored:
    """`proposals`: a row each, with the parts of its score, `relevance`, `score`, `rank` and `winner`.
    `scores`: every figure in tall form, the councils' diversity included (see `Score`)."""

    proposals: pd.DataFrame
    scores: pd.DataFrame


def score_proposals(
    proposals: pd.DataFrame,
    tasks: Mapping[str, Task],
    weights: Weights | None = None,
    encoder: Encoder | None = None,
    processes: int = 1,
) -> Scored:
    """Score `proposals`: a frame with `deliberation_id`, `agent_id`, `text`, and `initial_text` where they were
    revised. `tasks` is by deliberation id.

    A proposal's `fit` depends on the other tasks of the batch, as those are what it is held against;
    no other score depends on another council. With more than one of `processes` (and no encoder) a program
    needs the usual `if __name__ == "__main__":`.
    """
    councils = [council for _, council in proposals.groupby("deliberation_id", sort=False)]
    # Some at a time, so that each text is read once: what was read of it is kept for a while only.
    parts = [pd.concat(councils[start : start + CHUNK]) for start in range(0, len(councils), CHUNK)]
    if processes > 1 and len(parts) > 1 and encoder is None:
        spawn = get_context("spawn")  # threads of other libraries do not survive a fork
        with ProcessPoolExecutor(min(processes, len(parts)), spawn, _begin, (dict(tasks),)) as pool:
            scored = list(pool.map(_score_there, parts))
    else:
        scorer = _Scorer(tasks, encoder)
        scored = [scorer.score(part) for part in parts]
    ranked = rank(score(pd.concat([seats for seats, _ in scored], ignore_index=True), weights or Weights()))
    return Scored(ranked, score_frame([*(one for _, tall in scored for one in tall), *seat_scores(ranked)]))


class _Scorer:
    """All of a batch's tasks, to score parts of its proposals."""

    def __init__(self, tasks: Mapping[str, Task], encoder: Encoder | None = None) -> None:
        self.tasks = tasks
        self.encoder = encoder
        self.relevance = Relevance(tasks.values())
        self.embedded = EmbeddedRelevance(tasks.values(), encoder) if encoder else None

    def score(self, part: pd.DataFrame) -> tuple[pd.DataFrame, list[Score]]:
        """(one row per proposal with the parts of its score, the other figures in tall form)."""
        figures = diversity(part, self.encoder)
        seats = relevance(part, self.tasks, self.relevance).merge(checks(part), on=SEAT, validate="1:1")
        seats = seats.merge(novelty(score_frame(figures)), on=SEAT, how="left")
        return seats, figures + (list(self.embedded.scores(part, self.tasks)) if self.embedded else [])


_of_process: list[_Scorer] = []  # of a worker process: its scorer


def _begin(tasks: Mapping[str, Task]) -> None:
    _of_process.append(_Scorer(tasks))


def _score_there(part: pd.DataFrame) -> tuple[pd.DataFrame, list[Score]]:
    return _of_process[0].score(part)


def checks(proposals: pd.DataFrame) -> pd.DataFrame:
    """`deliberation_id`, `agent_id`, `checks` (share passed; null where there was nothing to check) and
    `findings` (a list of `CodeCheck`) of each proposal with a text."""
    present = proposals[proposals["text"].notna()].reset_index(drop=True)
    found = present[SEAT].copy()
    results = [check_code(text) for text in present["text"]]
    shares = [sum(one.passed for one in each) / len(each) if each else None for each in results]
    found["checks"] = pd.Series(shares, dtype="float64")
    found["findings"] = pd.Series(results, dtype="object")
    return found


def novelty(tall: pd.DataFrame) -> pd.DataFrame:
    """`deliberation_id`, `agent_id`, `novelty` and `initial_novelty` of each proposal that has a peer."""
    rows = tall[(tall["metric"] == "novelty") & (tall["version"] == LEXICAL)]
    columns = {"final": "novelty", "initial": "initial_novelty"}
    wide = rows.pivot(index=SEAT, columns="phase", values="value").rename(columns=columns)
    return wide.reindex(columns=list(columns.values())).astype("float64").reset_index().rename_axis(columns=None)


def council_figures(tall: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By deliberation id the figures of its council that people read beside it, as columns of its row."""
    wanted = {
        ("vendi", "final"): "vendi",
        ("mean_distance", "final"): "mean_distance",
        ("duplicates", "final"): "duplicates",
        ("vendi", "initial"): "initial_vendi",
        ("mean_distance", "initial"): "initial_mean_distance",
    }
    figures: dict[str, dict[str, Any]] = {}
    lexical = tall[tall["agent_id"].isna() & tall["version"].isin([LEXICAL, "1"])]
    for row in lexical.to_dict("records"):
        if name := wanted.get((row["metric"], row["phase"])):
            value = round(row["value"] * row["n"]) if name == "duplicates" else row["value"]
            figures.setdefault(row["deliberation_id"], {})[name] = value
    return figures


def seat_scores(ranked: pd.DataFrame) -> list[Score]:
    """The parts of each proposal's score in tall form, so that a ranking can be recomputed from one table."""
    versions = {
        "own_share": VERSION,
        "wrong_share": VERSION,
        "fit": VERSION,
        "coverage": VERSION,
        "relevance": VERSION,
        "checks": CHECKS_VERSION,
        "score": VERSION,
    }
    return [
        Score(row["deliberation_id"], row["agent_id"], None, "final", metric, version, row[metric], _of(metric, row))
        for row in ranked.to_dict("records")
        for metric, version in versions.items()
        if row[metric] == row[metric]  # not NaN
    ]


def _of(metric: str, row: Mapping[Any, Any]) -> int:
    counted = {"coverage": row["evidence"], "checks": row["findings"]}.get(metric)
    return len(counted) if isinstance(counted, list) else 1
