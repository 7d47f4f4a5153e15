"""The ops of the asset `proposals`: transcripts are read once, every scorer looks at them, and the best one wins.

A run that generates has concluded its deliberations one by one (`fleet_pipeline.services.conclude`). These ops then score
what is left: councils that could not be concluded, and all of a run without the asset `transcripts`.

A further scorer is one more op and one more entry in the list of the asset's graph, and one in `CouncilScorer`.
"""

from collections.abc import Iterable, Iterator

import dagster as dg

from fleet_pipeline.defs.resources import (
    CouncilResource,
    JudgeResource,
    RunProcess,
    ScoringResource,
    StorageResource,
    WeightsResource,
    concluded_by,
    fleet_of,
)
from fleet_pipeline.instance.event_log import announced_by
from fleet_pipeline.scoring.options import CouncilCheckOptions
from fleet_pipeline.scoring.score import RelevanceScorer, code_part, diversity_part, form_part, relevance_part
from fleet_pipeline.services.disk_buffer import DiskBuffer
from fleet_pipeline.services.outcomes import find_outcome
from fleet_pipeline.services.score_councils import (
    RankedCouncil,
    ranked_councils,
    rate_by_judge,
    rate_by_reward,
    read_batches,
    valid_tasks,
)
from fleet_pipeline.storage.tables import Transcripts

_passed_on = dg.Out(io_manager_key="in_memory")  # between ops of one process


@dg.op(out=_passed_on, description="Read what was said, and the task of each: the last proposal of every seat.")
def read_proposals(
    context: dg.OpExecutionContext,
    transcripts: Transcripts,
    storage: StorageResource,
    council: CouncilResource,
    check_options: dg.ResourceParam[CouncilCheckOptions],
    process: RunProcess,
) -> DiskBuffer:
    tasks, run_id = fleet_of(storage, council, retries=True).tasks, context.run.run_id
    concluded = concluded_by(run_id)
    if not concluded.keys:  # on a cluster they were concluded in another pod
        for key in announced_by(context.instance, run_id).intersection(transcripts.deliberation_ids):
            concluded.add(find_outcome(tasks, key, run_id, check_options))
    left = [key for key in transcripts.deliberation_ids if key not in concluded.keys]
    rest = Transcripts(transcripts.store, transcripts.table, left)
    return DiskBuffer(read_batches(rest, tasks))


@dg.op(
    out=_passed_on,
    description="How different the proposals of each council are, before and after revision, and who moved where.",
)
def score_diversity(batches: DiskBuffer, scoring: ScoringResource) -> DiskBuffer:
    encoder = scoring.encoder()
    return DiskBuffer(diversity_part(batch.seats, encoder) for batch in batches)


@dg.op(out=_passed_on, description="How well each proposal fits its task rather than others, and covers what is asked.")
def score_relevance(
    context: dg.OpExecutionContext,
    batches: DiskBuffer,
    storage: StorageResource,
    council: CouncilResource,
    scoring: ScoringResource,
) -> DiskBuffer:
    # Of the whole run, whatever of it is left: a proposal is compared with the other tasks.
    keys = context.partition_keys if any(batch.tasks for batch in batches) else ()
    tasks = valid_tasks(fleet_of(storage, council, retries=True).tasks, keys)
    scorer = RelevanceScorer(tasks.values(), scoring.encoder())
    return DiskBuffer(relevance_part(batch.scored, batch.tasks, scorer) for batch in batches)


@dg.op(out=_passed_on, description="How much each proposal says beyond its task, and how it is laid out.")
def score_form(batches: DiskBuffer) -> DiskBuffer:
    return DiskBuffer(form_part(batch.scored, batch.tasks) for batch in batches)


@dg.op(out=_passed_on, description="Parse, lint and validate the code in each proposal. Nothing is run.")
def check_code(batches: DiskBuffer) -> DiskBuffer:
    return DiskBuffer(code_part(batch.seats) for batch in batches)


@dg.op(out=_passed_on, description="Read the judge's verdicts: Bradley-Terry strengths and how steady the judge is.")
def read_judgements(batches: DiskBuffer, storage: StorageResource, judge: JudgeResource) -> DiskBuffer:
    store, judging = storage.retrying_store(), judge.judging()
    return DiskBuffer(rate_by_judge(batch, store, judging) for batch in batches)


@dg.op(
    out=_passed_on, description="Read what a reward model gives each proposal: the chance to be preferred to a peer."
)
def read_rewards(batches: DiskBuffer, storage: StorageResource, scoring: ScoringResource) -> DiskBuffer:
    store, model = storage.retrying_store(), scoring.options().reward
    return DiskBuffer(rate_by_reward(batch, store, model) for batch in batches)


@dg.op(
    out=dg.Out(dg.Any, io_manager_key="parquet"), description="Weigh the scores, rank the proposals, name the winner."
)
def rank_proposals(
    context: dg.OpExecutionContext,
    batches: DiskBuffer,
    parts: list[DiskBuffer],
    weights: WeightsResource,
    scoring: ScoringResource,
) -> dg.Output[Iterable[RankedCouncil]]:
    chosen, options = weights.weights(), scoring.options()

    def councils() -> Iterator[RankedCouncil]:
        for batch, *of_batch in zip(batches, *parts, strict=True):
            yield from ranked_councils(batch, of_batch, chosen, options, context.run.run_id)

    return dg.Output(
        councils(), metadata={f"weight: {name}": value for name, value in chosen} | {"method": options.method}
    )
