"""All scores of a batch of proposals, without an engine: what `fleet score` and notebooks call."""

import gc
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, NamedTuple

import pandas as pd

from fleet_pipeline.common.frames import records
from fleet_pipeline.deliberation.rows import CouncilFigures
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.scoring.code_checks.check import CHECKS_VERSION, check_code
from fleet_pipeline.scoring.confidence import CONFIDENCE_VERSION
from fleet_pipeline.scoring.diversity import diversity
from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.form import FORM_VERSION, form
from fleet_pipeline.scoring.options import Weights
from fleet_pipeline.scoring.proposals import SEAT
from fleet_pipeline.scoring.ranking import rank, score
from fleet_pipeline.scoring.relevance import VERSION, EmbeddedRelevance, Relevance, relevance
from fleet_pipeline.scoring.scores import Score, score_frame
from fleet_pipeline.scoring.similarity import LEXICAL

SCORE_VERSION = "2"  # of what `ranking` makes of the parts: relevance and score
CHUNK = 256  # councils


@dataclass(frozen=True)
class Scored:
    """`proposals`: one row per proposal, with the parts of its score, `relevance`, `score`, `rank` and `winner`, which are
    null where it has no text.
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

    A proposal's `fit` depends on the other tasks of the batch, because it is compared with them. No other score
    depends on another council. With `processes` above 1 (and no encoder), a program needs the usual
    `if __name__ == "__main__":`.
    """
    councils = [council for _, council in proposals.groupby("deliberation_id", sort=False)]
    # In chunks, so that each text is read once: the cache of read texts is bounded.
    chunks = [pd.concat(councils[start : start + CHUNK]) for start in range(0, len(councils), CHUNK)]
    if processes > 1 and len(chunks) > 1 and encoder is None:
        spawn = get_context("spawn")  # threads of other libraries do not survive a fork
        with ProcessPoolExecutor(min(processes, len(chunks)), spawn, _start_worker, (dict(tasks),)) as pool:
            scored = list(pool.map(_score_in_worker, chunks))
    else:
        scorer = _Scorer(tasks, encoder)
        scored = [scorer.score(chunk) for chunk in chunks]
    ranked = rank(score(pd.concat([part.seats for part in scored], ignore_index=True), weights or Weights()))
    ranked = proposals[SEAT].merge(ranked, on=SEAT, how="left", validate="1:1")
    return Scored(
        ranked, score_frame([*(figure for part in scored for figure in part.figures), *seat_scores(records(ranked))])
    )


class Part(NamedTuple):
    """What one scorer says of some proposals."""

    seats: pd.DataFrame  # at most one row per proposal: `SEAT`, and the scorer's columns
    figures: list[Score]  # all else, in tall form


def joined(seats: pd.DataFrame, parts: Iterable[Part]) -> Part:
    """All that the scorers say of the proposals in `seats`. Their columns are null where a scorer says nothing."""
    scores, figures = seats[SEAT], []
    for part in parts:
        scores = scores.merge(part.seats, on=SEAT, how="left", validate="1:1")
        figures += part.figures
    return Part(scores, figures)


class _Scorer:
    """Scores chunks of a batch's proposals. It knows all of the batch's tasks."""

    def __init__(self, tasks: Mapping[str, Task], encoder: Encoder | None = None) -> None:
        self.tasks = tasks
        self.encoder = encoder
        self.relevance = RelevanceScorer(list(tasks.values()), encoder)

    def score(self, chunk: pd.DataFrame) -> Part:
        present = chunk[chunk["text"].notna()]
        parts = [relevance_part(chunk, self.tasks, self.relevance), code_part(chunk), form_part(chunk, self.tasks)]
        return joined(present, [diversity_part(chunk, self.encoder), *parts])


_worker_scorer: list[_Scorer] = []  # one in a worker process, none in others


def _start_worker(tasks: Mapping[str, Task]) -> None:
    _worker_scorer.append(_Scorer(tasks))
    # What is loaded by now stays. Going through it again and again for garbage took a tenth of the time.
    gc.freeze()


def _score_in_worker(chunk: pd.DataFrame) -> Part:
    return _worker_scorer[0].score(chunk)


def diversity_part(proposals: pd.DataFrame, encoder: Encoder | None = None) -> Part:
    """How different the proposals of each council are: the columns of `_PEERS`, of each that has a peer."""
    figures = diversity(proposals, encoder)
    return Part(beside_peers(score_frame(figures)), figures)


class RelevanceScorer:
    """Knows all tasks of a batch: a proposal is compared with wrong tasks."""

    def __init__(self, tasks: Iterable[Task], encoder: Encoder | None = None) -> None:
        batch = list(tasks)
        self.lexical = Relevance(batch)
        self.embedded = EmbeddedRelevance(batch, encoder) if encoder else None


def relevance_part(proposals: pd.DataFrame, tasks: Mapping[str, Task], scorer: RelevanceScorer) -> Part:
    """`fit`, `coverage` and what they are made of. `tasks` is by deliberation id, and has every proposal's."""
    figures = list(scorer.embedded.scores(proposals, tasks)) if scorer.embedded else []
    return Part(relevance(proposals, tasks, scorer.lexical), figures)


def code_part(proposals: pd.DataFrame) -> Part:
    """`checks` (share passed; null where there was nothing to check) and `findings` (a list of `CodeCheck`)."""
    present = proposals[proposals["text"].notna()].reset_index(drop=True)
    checked = present[SEAT].copy()
    results = [check_code(text) for text in present["text"]]
    shares = [sum(check.passed for check in of_text) / len(of_text) if of_text else None for of_text in results]
    checked["checks"] = pd.Series(shares, dtype="float64")
    checked["findings"] = pd.Series(results, dtype="object")
    return Part(checked, [])


def form_part(proposals: pd.DataFrame, tasks: Mapping[str, Task]) -> Part:
    """`form`, and its signs in tall form. `tasks` is by deliberation id, and has every proposal's."""
    present = proposals[proposals["text"].notna()]
    found = [
        (key, agent, form(text, tasks[key]))
        for key, agent, text in zip(present["deliberation_id"], present["agent_id"], present["text"], strict=True)
    ]
    figures = [
        Score(key, agent, None, "final", f"form_{name}", FORM_VERSION, value, 1)
        for key, agent, signs in found
        for name, value in signs._asdict().items()
    ]
    seats = pd.DataFrame([(key, agent, signs.value) for key, agent, signs in found], columns=[*SEAT, "form"])
    return Part(seats.astype({"form": "float64"}), figures)


# Columns by metric and phase.
_PEERS = {
    ("novelty", "final"): "novelty",
    ("novelty", "initial"): "initial_novelty",
    ("consensus", "final"): "consensus",
}


def beside_peers(tall: pd.DataFrame) -> pd.DataFrame:
    """One row per proposal that has a peer: `deliberation_id`, `agent_id`, and the columns of `_PEERS`."""
    rows = tall[tall["metric"].isin([metric for metric, _ in _PEERS]) & (tall["version"] == LEXICAL)]
    names = [_PEERS[key] for key in zip(rows["metric"], rows["phase"], strict=True)]
    wide = rows.assign(column=names).pivot(index=SEAT, columns="column", values="value")
    return wide.reindex(columns=list(_PEERS.values())).astype("float64").reset_index().rename_axis(columns=None)


def council_figures(scores: Iterable[Score]) -> CouncilFigures:
    """The figures of one council that are columns of its row in `deliberations`, from its scores in tall form."""
    found = {
        (score.metric, score.phase): score
        for score in scores
        if score.agent_id is None and score.version in (LEXICAL, "1")
    }

    def value(metric: str, phase: str) -> float | None:
        return found[metric, phase].value if (metric, phase) in found else None

    repeated = found.get(("duplicates", "final"))
    return CouncilFigures(
        vendi=value("vendi", "final"),
        mean_distance=value("mean_distance", "final"),
        duplicates=round(repeated.value * repeated.n) if repeated else None,
        initial_vendi=value("vendi", "initial"),
        initial_mean_distance=value("mean_distance", "initial"),
    )


def seat_scores(ranked: Iterable[Mapping[str, Any]]) -> list[Score]:
    """The parts of each proposal's score in tall form, from ranked rows (`records`), so that a ranking can be recomputed from one table."""
    versions = {
        "own_share": VERSION,
        "wrong_share": VERSION,
        "fit": VERSION,
        "coverage": VERSION,
        "relevance": SCORE_VERSION,
        "checks": CHECKS_VERSION,
        "form": FORM_VERSION,
        "score": SCORE_VERSION,
        "confidence": CONFIDENCE_VERSION,
    }
    return [
        Score(row["deliberation_id"], row["agent_id"], None, "final", metric, version, row[metric], _count(metric, row))
        for row in ranked
        for metric, version in versions.items()
        if row[metric] is not None
    ]


def _count(metric: str, row: Mapping[str, Any]) -> int:
    counted = {"coverage": row["evidence"], "checks": row["findings"]}.get(metric)
    return len(counted) if isinstance(counted, list) else 1
