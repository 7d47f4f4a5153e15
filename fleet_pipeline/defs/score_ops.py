"""The ops of the asset `proposals`: diversity, relevance, code checks, judge ratings, and the rank.

Each op reads the transcripts in parts of a bounded number of deliberations, and passes its scores on in the same
parts. The last op writes the tables `proposals` and `scores`.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import repeat
from typing import Any

import dagster as dg
import pandas as pd

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.common.frames import records
from fleet_pipeline.defs.io_managers import DeliberationRows
from fleet_pipeline.defs.resources import (
    CouncilResource,
    JudgeResource,
    RunProcess,
    ScoringResource,
    StorageResource,
    WeightsResource,
    fleet_of,
)
from fleet_pipeline.deliberation.judging import Judging, judging_fingerprint
from fleet_pipeline.deliberation.seeds import derive_seed
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.scoring.diversity import diversity
from fleet_pipeline.scoring.judge import judge_scores, rate_proposals
from fleet_pipeline.scoring.proposals import SEAT, final_proposals, texts
from fleet_pipeline.scoring.ranking import rank, score
from fleet_pipeline.scoring.relevance import EmbeddedRelevance, Relevance, relevance
from fleet_pipeline.scoring.score import checks, council_figures, novelty, seat_scores
from fleet_pipeline.scoring.scores import Score, score_frame
from fleet_pipeline.services.disk_buffer import DiskBuffer
from fleet_pipeline.services.outcomes import proposal_row
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import TableSlice, read_file, write_rows
from fleet_pipeline.storage.task_store import TaskStore

SCORES_VERSION = "2"
# (one row per seat, scores in tall form)
SeatsAndScores = tuple[pd.DataFrame, pd.DataFrame]
_JUDGED = [*SEAT, "judge", "judge_low", "judge_high"]
_passed_on = dg.Out(io_manager_key="in_memory")  # between ops of one process


@dg.op(
    out=_passed_on,
    description="How different the proposals of each council are, before and after revision, and who moved where.",
)
def score_diversity(transcripts: TableSlice, scoring: ScoringResource) -> DiskBuffer:
    encoder = scoring.encoder()
    return DiskBuffer(
        score_frame(diversity(final_proposals(utterances.to_pandas()), encoder))
        for _, utterances in transcripts.chunks()
    )


@dg.op(out=_passed_on, description="How well each proposal fits its task rather than others, and covers what is asked.")
def score_relevance(
    transcripts: TableSlice, storage: StorageResource, council: CouncilResource, scoring: ScoringResource
) -> DiskBuffer:
    tasks, encoder = fleet_of(storage, council, retries=True).tasks, scoring.encoder()
    keys = transcripts.deliberation_ids
    scorer = Relevance(task for _, task in _valid_tasks(tasks, keys))
    embedded = EmbeddedRelevance((task for _, task in _valid_tasks(tasks, keys)), encoder) if encoder else None

    def parts() -> Iterator[SeatsAndScores]:
        for part, utterances in transcripts.chunks():
            valid = dict(_valid_tasks(tasks, part))
            proposals = final_proposals(utterances.to_pandas())
            scored = proposals[proposals["deliberation_id"].isin(valid)]
            yield relevance(scored, valid, scorer), score_frame(embedded.scores(scored, valid) if embedded else [])

    return DiskBuffer(parts())


@dg.op(out=_passed_on, description="Parse, lint and validate the code in each proposal. Nothing is run.")
def check_code(transcripts: TableSlice) -> DiskBuffer:
    return DiskBuffer(checks(final_proposals(utterances.to_pandas())) for _, utterances in transcripts.chunks())


@dg.op(out=_passed_on, description="Read the judge's verdicts: Bradley-Terry strengths and how steady the judge is.")
def read_judgements(transcripts: TableSlice, storage: StorageResource, judge: JudgeResource) -> DiskBuffer:
    store, judging = storage.retrying_store(), judge.judging()

    def parts() -> Iterator[SeatsAndScores]:
        for _, utterances in transcripts.chunks() if judging.enabled else ():
            seats: list[dict[str, Any]] = []
            tall: list[Score] = []
            for key, council in final_proposals(utterances.to_pandas()).groupby("deliberation_id"):
                rows = _judgements(store, str(key), council, judging)
                ratings = rate_proposals(rows, seed=derive_seed(key))
                tall += judge_scores(str(key), rows, ratings)
                seats += [
                    {
                        "deliberation_id": key,
                        "agent_id": agent,
                        "judge": rating.value,
                        "judge_low": rating.low,
                        "judge_high": rating.high,
                    }
                    for agent, rating in ratings.items()
                ]
            yield pd.DataFrame(seats, columns=_JUDGED), score_frame(tall)

    return DiskBuffer(parts())


@dg.op(
    out=dg.Out(dg.Any, io_manager_key="parquet"), description="Weigh the scores, rank the proposals, name the winner."
)
def rank_proposals(
    context: dg.OpExecutionContext,
    transcripts: TableSlice,
    diversity_scores: DiskBuffer,
    relevance_scores: DiskBuffer,
    code_checks: DiskBuffer,
    judge_ratings: DiskBuffer,
    weights: WeightsResource,
    scoring: ScoringResource,
    council: CouncilResource,
    storage: StorageResource,
    process: RunProcess,
) -> dg.Output[Iterable[DeliberationRows]]:
    tasks, chosen, method = fleet_of(storage, council, retries=True).tasks, weights.weights(), scoring.options().method
    store = tasks.store
    # Without a judge there are no ratings: every part gets empty tables.
    judgements = judge_ratings if len(judge_ratings) else repeat((pd.DataFrame(columns=_JUDGED), score_frame([])))
    parts = zip(transcripts.chunks(), diversity_scores, relevance_scores, code_checks, judgements, strict=False)

    def rows() -> Iterator[DeliberationRows]:
        """Texts and scores joined, a bounded number of deliberations at a time. Also writes the table `scores`."""
        for (keys, utterances), diversity_part, (relevance_part, embedded), code, (judged_part, judge_part) in parts:
            seats_parts = relevance_part.merge(code, on=SEAT, how="left", validate="1:1")
            seats_parts = seats_parts.merge(novelty(diversity_part), on=SEAT, how="left")
            seats_parts = seats_parts.merge(judged_part, on=SEAT, how="left")
            candidates = {key: task.constraints.architect_rubric.k for key, task in _valid_tasks(tasks, keys)}
            ranked = rank(score(seats_parts, chosen), method, candidates)
            figures = council_figures(diversity_part)
            tall = pd.concat([diversity_part, embedded, judge_part], ignore_index=True)
            index = tall.groupby("deliberation_id").indices
            seats = final_proposals(utterances.to_pandas()).merge(ranked, on=SEAT, how="left")
            seats["run_id"] = context.run.run_id
            by_key = {str(key): part for key, part in seats.groupby("deliberation_id")}
            for key in keys:
                facts = _facts(store, key)
                # Proposals of a failed deliberation are ranked too, but none wins.
                wins = facts.get("status") == Status.COMPLETED
                council_rows = by_key.get(key, seats.head(0))
                fingerprint = facts.get("fingerprint", "")
                _write_scores(store, key, tall.iloc[index.get(key, [])], council_rows, fingerprint, context.run.run_id)
                yield DeliberationRows(
                    key,
                    [proposal_row(row, wins) for row in records(council_rows)],
                    {
                        "fingerprint": fingerprint,
                        "scores_version": SCORES_VERSION,
                        "weights": chosen.model_dump(),
                        "method": method,
                        "diversity": figures.get(key, {}),
                    },
                )

    return dg.Output(rows(), metadata={f"weight: {name}": value for name, value in chosen} | {"method": method})


def _facts(store: Store, key: str) -> dict[str, Any]:
    """The facts in a transcript's footer. Empty if there is none that can be read, which the outcome reports."""
    with suppress(CorruptFile):
        stored = read_file(store, "utterances", key)
        return stored[1] if stored else {}
    return {}


def _judgements(store: Store, key: str, council: pd.DataFrame, judging: Judging) -> list[dict[str, Any]]:
    """The stored verdicts on exactly these proposals. Empty if they were on others."""
    try:
        stored = read_file(store, "judgements", key)
    except CorruptFile:  # the next run asks the judge again
        return []
    if stored is None:
        return []
    fingerprint = str(council["fingerprint"].iloc[0])
    rows: list[dict[str, Any]] = stored[0].to_pylist()
    return rows if stored[1].get("judged") == judging_fingerprint(fingerprint, texts(council), judging) else []


def _write_scores(
    store: Store, key: str, tall: pd.DataFrame, seats: pd.DataFrame, fingerprint: str, run_id: str
) -> None:
    present = seats[seats["score"].notna()] if len(seats) else seats
    rows = records(pd.concat([tall, score_frame(seat_scores(present))], ignore_index=True))
    task_id, _, role = key.rpartition(".")
    shared = {"task_id": task_id, "role": role.upper(), "fingerprint": fingerprint, "run_id": run_id}
    write_rows(store, "scores", key, [row | shared for row in rows])


def _valid_tasks(tasks: TaskStore, keys: Iterable[str]) -> Iterator[tuple[str, Task]]:
    """The valid stored tasks of `keys`, one at a time. The outcome reports the invalid ones."""
    for key in keys:
        with suppress(InvalidInput):
            yield key, tasks.get(key)[0]
