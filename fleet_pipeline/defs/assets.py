"""The assets, in order: `transcripts` (the GPU op), `proposals` (scored and ranked), `deliberations`.

Few partitioned assets, because each costs events per deliberation. One run covers many partitions
and starts the engine once. The GPU op, the scoring ops and the verdicts share one process.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import dagster as dg
import pandas as pd

from fleet_pipeline.defs.io_managers import DeliberationRows
from fleet_pipeline.defs.partitions import check_range, deliberation_partitions
from fleet_pipeline.defs.progress import Progress, Report, log_report
from fleet_pipeline.defs.resources import CouncilResource, EngineSource, StorageResource, WeightsResource
from fleet_pipeline.defs.transcribe import Transcription
from fleet_pipeline.defs.verdicts import metadata, records, write_verdict
from fleet_pipeline.deliberation.council import PROTOCOL_VERSION
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task, is_key
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.scoring.diversity import diversity
from fleet_pipeline.scoring.proposals import SEAT, final_proposals
from fleet_pipeline.scoring.ranking import rank
from fleet_pipeline.scoring.relevance import relevance
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import TableSlice, read_file
from fleet_pipeline.storage.task_store import get_task

SCORES_VERSION = "1"
GROUP = "deliberation"
_partitioned: dict[str, Any] = {
    "partitions_def": deliberation_partitions,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "group_name": GROUP,
}
_passed_on = dg.Out(io_manager_key="in_memory")  # between ops of one process


@dg.asset(
    description="Everything said in a deliberation. Runs the councils on vLLM, many at once, one engine start a run.",
    kinds={"vllm", "parquet"},
    code_version=str(PROTOCOL_VERSION),
    io_manager_key="parquet",
    **_partitioned,
)
def transcripts(
    context: dg.AssetExecutionContext,
    engine: dg.ResourceParam[EngineSource],
    council: CouncilResource,
    storage: StorageResource,
    progress: dg.ResourceParam[Report],
) -> None:
    try:
        check_range(context.run.tags, context.partition_keys)
    except InvalidInput as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    to_log = log_report(context.log)

    def report(state: Progress) -> None:
        to_log(state)
        progress(state)

    transcription = Transcription(
        storage.store(),
        council.roles(),
        council.defaults(engine),
        engine.start,
        context.run.run_id,
        report,
    )
    state = transcription.run(context.partition_keys)
    # Of the whole run, and so the same on each of its partitions.
    context.add_output_metadata(
        {
            "run: deliberations": state.total,
            "run: already done": state.reused,
            "run: failed": state.failed,
            "run: engine starts": state.engine_starts,
            "run: engine start (s)": round(state.engine_start_seconds, 2),
            "run: prompt tokens": state.prompt_tokens,
            "run: cached tokens": state.cached_tokens,
            "run: completion tokens": state.completion_tokens,
            "run: completion tokens per second": round(state.tokens_per_second, 1),
            "run: prefix cache hit rate": round(state.cache_hit_rate, 4),
        }
    )


@dg.op(out=_passed_on, description="How different the proposals of each council are, before and after revision.")
def score_diversity(transcripts: TableSlice) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    frames: list[pd.DataFrame] = []
    figures: dict[str, dict[str, Any]] = {}
    for _, utterances in transcripts.chunks():
        scores, of_councils = diversity(final_proposals(utterances.to_pandas()))
        frames.append(scores)
        figures |= of_councils
    return pd.concat(frames, ignore_index=True), figures


@dg.op(out=_passed_on, description="How well each proposal fits its task and constraints.")
def score_relevance(transcripts: TableSlice, storage: StorageResource, council: CouncilResource) -> pd.DataFrame:
    store, roles = storage.store(), council.roles()
    frames = []
    for _, utterances in transcripts.chunks():
        proposals = final_proposals(utterances.to_pandas())
        tasks = _valid_tasks(store, proposals["deliberation_id"].unique(), roles)
        frames.append(relevance(proposals[proposals["deliberation_id"].isin(tasks)], tasks))
    return pd.concat(frames, ignore_index=True)


@dg.op(
    out=dg.Out(dg.Any, io_manager_key="parquet"), description="Weigh the scores, rank the proposals, name the winner."
)
def rank_proposals(
    context: dg.OpExecutionContext,
    transcripts: TableSlice,
    diversity_scores: tuple[pd.DataFrame, dict[str, dict[str, Any]]],
    relevance_scores: pd.DataFrame,
    weights: WeightsResource,
    storage: StorageResource,
) -> dg.Output[Iterable[DeliberationRows]]:
    store = storage.store()
    novelty, figures = diversity_scores
    scores = rank(relevance_scores.merge(novelty, on=SEAT, validate="1:1"), weights.weights())

    def rows() -> Iterator[DeliberationRows]:
        """Texts and scores joined, a bounded number of deliberations at a time."""
        for keys, utterances in transcripts.chunks():
            seats = final_proposals(utterances.to_pandas()).merge(scores, on=SEAT, how="left")
            seats["run_id"] = context.run.run_id
            by_key = {str(key): records(part) for key, part in seats.groupby("deliberation_id")}
            for key in keys:
                found = read_file(store, "utterances", key)
                facts = found[1] if found else {}
                # Proposals of a failed deliberation are ranked all the same, but nobody wins.
                wins = facts.get("status") == Status.COMPLETED
                yield DeliberationRows(
                    key,
                    [row | {"winner": bool(row["winner"]) and wins} for row in by_key.get(key, [])],
                    {
                        "fingerprint": facts.get("fingerprint", ""),
                        "scores_version": SCORES_VERSION,
                        "weights": weights.weights().model_dump(),
                        "diversity": figures.get(key, {}),
                    },
                )

    return dg.Output(rows(), metadata={f"weight: {name}": value for name, value in weights.weights()})


def _valid_tasks(store: Store, keys: Iterable[str], roles: Mapping[str, Role]) -> dict[str, Task]:
    """The stored tasks of `keys`; one that does not hold is left to the verdict, and costs no other."""
    tasks = {}
    for key in keys:
        with suppress(InvalidInput):
            tasks[key] = get_task(store, key, roles)[0]
    return tasks


@dg.graph_asset(
    description="One row per seat: its proposal before and after revision, scores and rank.",
    kinds={"scikitlearn", "parquet"},
    code_version=SCORES_VERSION,
    **_partitioned,
)
def proposals(transcripts: TableSlice) -> Any:
    return rank_proposals(transcripts, score_diversity(transcripts), score_relevance(transcripts))


@dg.asset(
    description="One row per deliberation: status, winner, figures. Red where the deliberation failed.",
    deps=[proposals, transcripts],
    kinds={"parquet"},
    code_version=SCORES_VERSION,
    # Nothing is yielded: each verdict is logged as it is written, once per partition, and failed
    # ones are not materialized, so that partition status tells the truth. A yielded output would
    # add a second materialization to every partition, the failed ones included.
    output_required=False,
    **_partitioned,
)
def deliberations(
    context: dg.AssetExecutionContext, storage: StorageResource, council: CouncilResource
) -> Iterator[dg.Output[None]]:
    store, roles = storage.store(), council.roles()
    failed: dict[str, str] = {}
    for key in context.partition_keys:
        if not is_key(key):
            failed[key] = "no deliberation id: expected <task_id>.<role in lower case>; delete this partition"
            continue
        row, seats = write_verdict(store, key, roles, context.run.run_id)
        event = {"asset_key": context.asset_key, "partition": key, "metadata": metadata(store, row, seats)}
        if row["status"] == Status.COMPLETED:
            context.log_event(dg.AssetMaterialization(**event))
        else:
            failed[key] = f"{row['status']}: {row['error_message']}"
            # For whoever follows the event log: a failure leaves no materialization behind.
            context.log_event(dg.AssetObservation(**event))
    yield from ()
    if failed:
        sample = "\n".join(f"{key}: {reason}" for key, reason in list(failed.items())[:20])
        raise dg.Failure(
            f"{len(failed)} of {len(context.partition_keys)} deliberations failed; the others are complete.\n{sample}",
            metadata={"failed": dg.MetadataValue.json(failed)},
            # Trying the step again would judge the same transcripts the same way.
            allow_retries=False,
        )
