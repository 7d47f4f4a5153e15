"""Scores the councils of a run: the work of the ops behind the asset `proposals`.

Transcripts are read once, a bounded number of councils at a time (`read_batches`). Every scorer gets the same
batches, and says a `Part` of each. `ranked_councils` joins the parts of a batch, ranks, and makes the rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.common.frames import records
from fleet_pipeline.deliberation.judging import Judging, stands
from fleet_pipeline.deliberation.rows import (
    JudgementRow,
    NoFooter,
    ProposalRow,
    ProposalsFooter,
    ScoreRow,
    TranscriptFooter,
)
from fleet_pipeline.deliberation.seeds import derive_seed
from fleet_pipeline.deliberation.task import Task, is_deliberation_id
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.scoring.judge import judge_scores, rate_proposals
from fleet_pipeline.scoring.options import ScoringOptions, Weights
from fleet_pipeline.scoring.proposals import SEAT, final_proposals, proposal_rows, texts
from fleet_pipeline.scoring.ranking import rank, score
from fleet_pipeline.scoring.reward import REWARD_VERSION, chances, reward_fingerprint
from fleet_pipeline.scoring.score import Part, council_figures, joined, seat_scores
from fleet_pipeline.scoring.scores import Score
from fleet_pipeline.storage.schemas import JUDGEMENTS, PROPOSALS, REWARDS, SCORES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import Transcripts, read_file, rows_of, write_rows
from fleet_pipeline.storage.task_store import TaskStore

SCORES_VERSION = "4"
_RATING = ("judge", "judge_low", "judge_high", "strength")


@dataclass(frozen=True)
class Batch:
    """Some councils on their way through the scorers.

    A council whose transcript cannot be read has no seats, and is in `keys` alone. One whose task is invalid has
    seats, and none of them is scored. Outcomes say why.
    """

    keys: list[str]
    transcripts: dict[str, TranscriptFooter]
    tasks: dict[str, Task]
    seats: pd.DataFrame  # `final_proposals` of all of them

    @property
    def scored(self) -> pd.DataFrame:
        """The seats whose task is valid."""
        return self.seats[self.seats["deliberation_id"].isin(self.tasks)]


@dataclass(frozen=True)
class RankedCouncil:
    """What is stored of one council's scores."""

    deliberation_id: str
    seats: list[ProposalRow]
    footer: ProposalsFooter
    scores: list[ScoreRow]


def valid_tasks(tasks: TaskStore, keys: Iterable[str]) -> dict[str, Task]:
    """The tasks of `keys`, without those that are no deliberation's or invalid. Their outcomes say why."""
    valid: dict[str, Task] = {}
    for key in filter(is_deliberation_id, keys):
        with suppress(InvalidInput):
            valid[key] = tasks.get(key)[0]
    return valid


def read_batches(transcripts: Transcripts, tasks: TaskStore) -> Iterator[Batch]:
    for files in transcripts.chunks():
        valid = valid_tasks(tasks, files)
        footers = {key: file.footer for key, file in files.items() if file is not None}
        seats = final_proposals(rows_of(transcripts.table, files.values()).to_pandas())
        yield Batch(list(files), footers, valid, seats)


def rate_by_judge(batch: Batch, store: Store, judging: Judging) -> Part:
    """Bradley-Terry strengths from the stored verdicts, and how steady the judge is."""
    ratings: list[tuple[str, str, float, float, float, float]] = []
    figures: list[Score] = []
    for key, council in batch.seats.groupby("deliberation_id"):
        rows = _judgements(store, str(key), council, judging) if judging.enabled else []
        found = rate_proposals(rows, seed=derive_seed(key))
        figures += judge_scores(str(key), rows, found)
        ratings += [(str(key), agent, one.value, one.low, one.high, one.strength) for agent, one in found.items()]
    return Part(pd.DataFrame(ratings, columns=[*SEAT, *_RATING]), figures)


def _judgements(store: Store, key: str, council: pd.DataFrame, judging: Judging) -> Sequence[JudgementRow]:
    """The stored verdicts on exactly these proposals. Empty if they were on others."""
    with suppress(CorruptFile):  # the next run asks the judge again
        file = read_file(store, JUDGEMENTS, key)
        if file and stands(file.footer.judged, str(council["fingerprint"].iloc[0]), texts(council), judging):
            return file.rows
    return []


def rate_by_reward(batch: Batch, store: Store, model: str | None) -> Part:
    """`reward`, the model's own number, and `preferred`, the chance to be preferred to a peer."""
    rewards: list[tuple[str, str, float, float]] = []
    figures: list[Score] = []
    for key, council in batch.seats.groupby("deliberation_id") if model else ():
        task = batch.tasks.get(str(key))
        found = _rewards(store, task, str(key), council, model or "") if task else {}
        preferred = chances(found)
        rewards += [(str(key), agent, value, preferred[agent]) for agent, value in found.items()]
        figures += [
            Score(str(key), agent, None, "final", metric, REWARD_VERSION, value, 1)
            for metric, values in (("reward", found), ("preferred", preferred))
            for agent, value in values.items()
        ]
    return Part(pd.DataFrame(rewards, columns=[*SEAT, "reward", "preferred"]), figures)


def _rewards(store: Store, task: Task, key: str, council: pd.DataFrame, model: str) -> dict[str, float]:
    """The stored rewards of exactly these proposals, by agent id. Empty if they are of others."""
    with suppress(CorruptFile):  # the next run has them rated again
        file = read_file(store, REWARDS, key)
        if file and file.footer.rated == reward_fingerprint(task, texts(council), model):
            return {row.agent_id: row.reward for row in file.rows if row.reward is not None}
    return {}


def ranked_councils(
    batch: Batch, parts: Iterable[Part], weights: Weights, options: ScoringOptions, run_id: str
) -> Iterator[RankedCouncil]:
    """Every council of the batch, with its seats ranked by all that the scorers say of them."""
    present = batch.scored[batch.scored["text"].notna()]
    seats, figures = joined(present, parts)
    seats = seats.merge(present[[*SEAT, "tested"]], on=SEAT, how="left", validate="1:1")
    candidates = {key: task.constraints.architect_rubric.k for key, task in batch.tasks.items()}
    decided = rank(score(seats, weights), options.method, candidates).drop(columns="tested")
    ranked = batch.seats.merge(decided, on=SEAT, how="left")
    councils: dict[str, list[dict[str, Any]]] = {}
    for seat in records(ranked):
        councils.setdefault(seat["deliberation_id"], []).append(seat)
    by_council: dict[str, list[Score]] = {}
    for figure in figures:
        by_council.setdefault(figure.deliberation_id, []).append(figure)
    for key in batch.keys:
        transcript = batch.transcripts.get(key)
        council, scores = councils.get(key, []), by_council.get(key, [])
        # Proposals of a failed deliberation are ranked too, but none wins.
        wins = transcript is not None and transcript.status is Status.COMPLETED
        fingerprint = transcript.fingerprint if transcript else ""
        footer = ProposalsFooter(
            fingerprint=fingerprint,
            scores_version=SCORES_VERSION,
            weights=weights.model_dump(),
            method=options.method,
            diversity=council_figures(scores),
            clear_from=options.clear_from,
        )
        of_seats = seat_scores(seat for seat in council if seat["score"] is not None)
        all_scores = [*scores, *(figure for figure in of_seats if wins or figure.metric != "confidence")]
        rows = [_score_row(figure, fingerprint, run_id) for figure in all_scores]
        yield RankedCouncil(key, proposal_rows(council, run_id, wins), footer, rows)


def write_council(store: Store, council: RankedCouncil) -> None:
    """Write its files in the tables `scores` and `proposals`. Proposals come last: whoever sees them finds their scores."""
    write_rows(store, SCORES, council.deliberation_id, council.scores, NoFooter())
    write_rows(store, PROPOSALS, council.deliberation_id, council.seats, council.footer)


def _score_row(figure: Score, fingerprint: str, run_id: str) -> ScoreRow:
    task_id, _, role = figure.deliberation_id.rpartition(".")
    return ScoreRow(task_id=task_id, role=role.upper(), fingerprint=fingerprint, run_id=run_id, **figure._asdict())
