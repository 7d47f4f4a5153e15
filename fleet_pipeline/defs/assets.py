"""The assets, in order: `transcripts` (the GPU op), `proposals` (scored and ranked), `deliberations`.

Few partitioned assets, because each costs events per deliberation. One run covers many partitions
and starts the engine once. The GPU op, the scoring ops and the verdicts share one process.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from fleet_pipeline.defs.announcements import fill_outbox
from fleet_pipeline.defs.display import metadata
from fleet_pipeline.defs.partitions import check_range, deliberation_partitions
from fleet_pipeline.defs.processes import RunProcess, lineage
from fleet_pipeline.defs.progress import Progress, Report, log_report
from fleet_pipeline.defs.resources import (
    CouncilResource,
    EngineSource,
    JudgeResource,
    StorageResource,
)
from fleet_pipeline.defs.scoring import (
    SCORES_VERSION,
    check_code,
    rank_proposals,
    read_verdicts,
    score_diversity,
    score_relevance,
)
from fleet_pipeline.defs.transcribe import Transcription
from fleet_pipeline.defs.verdicts import write_verdict
from fleet_pipeline.deliberation.council import PROTOCOL_VERSION
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.deliberation.task import is_key
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.logs import install_json
from fleet_pipeline.report import store_report
from fleet_pipeline.scoring.quality import CheckOptions
from fleet_pipeline.settings import LogSettings, ReportSettings
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import TableSlice

GROUP = "deliberation"
# One place for each engine that fits the machine: runs wait for one another here, and score beside each other.
GPU_POOL = "gpu"
_partitioned: dict[str, Any] = {
    "partitions_def": deliberation_partitions,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "group_name": GROUP,
}


@dg.asset(
    description="Everything said in a deliberation. Runs the councils on vLLM, many at once, one engine start a run.",
    kinds={"vllm", "parquet"},
    code_version=str(PROTOCOL_VERSION),
    io_manager_key="parquet",
    pool=GPU_POOL,
    **_partitioned,
)
def transcripts(
    context: dg.AssetExecutionContext,
    engine: dg.ResourceParam[EngineSource],
    council: CouncilResource,
    storage: StorageResource,
    judge: JudgeResource,
    logs: dg.ResourceParam[LogSettings],
    process: RunProcess,
    progress: dg.ResourceParam[Report],
) -> None:
    if logs.format == "json":
        install_json()
    try:
        check_range(context.run.tags, context.partition_keys)
    except InvalidInput as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    to_log = log_report(context.log)

    def report(state: Progress) -> None:
        to_log(state)
        progress(state)

    transcription = Transcription(
        storage.patient_store(),
        council.roles(),
        council.defaults(engine),
        engine,
        context.run.run_id,
        report,
        judge.judging(),
        council.resume_mode(),
        lineage(context.instance, context.run),
    )
    state = transcription.run(context.partition_keys)
    context.add_output_metadata(_of_the_run(state))


@dg.graph_asset(
    description="One row per seat: its proposal before and after revision, scores and rank.",
    kinds={"scikitlearn", "parquet"},
    code_version=SCORES_VERSION,
    **_partitioned,
)
def proposals(transcripts: TableSlice) -> Any:
    return rank_proposals(
        transcripts,
        score_diversity(transcripts),
        score_relevance(transcripts),
        check_code(transcripts),
        read_verdicts(transcripts),
    )


@dg.asset(
    description="One row per deliberation: status, winner, figures. Red where the deliberation failed.",
    deps=[proposals, transcripts],
    kinds={"parquet"},
    code_version=SCORES_VERSION,
    # Nothing is yielded: each verdict is logged as it is written, once per partition, and failed ones are
    # not materialized, so that partition status tells the truth. An output would add a second
    # materialization to every partition, the failed ones included.
    output_required=False,
    **_partitioned,
)
def deliberations(
    context: dg.AssetExecutionContext,
    storage: StorageResource,
    council: CouncilResource,
    checks: dg.ResourceParam[CheckOptions],
    logs: dg.ResourceParam[LogSettings],
    reports: dg.ResourceParam[ReportSettings],
    process: RunProcess,
) -> Iterator[dg.Output[None]]:
    store, roles = storage.patient_store(), council.roles()
    failed: dict[str, str] = {}
    for key in context.partition_keys:
        if not is_key(key):
            failed[key] = "no deliberation id: expected <task_id>.<role in lower case>; delete this partition"
            continue
        verdict = write_verdict(store, key, roles, context.run.run_id, checks)
        row = verdict.row
        # Before the event log tells of it: who reads there finds the events ready.
        fill_outbox(store, key)
        shown = metadata(store, verdict, logs.texts)
        event = {"asset_key": context.asset_key, "partition": key, "metadata": shown}
        if row["status"] == Status.COMPLETED:
            context.log_event(dg.AssetMaterialization(**event))
        else:
            failed[key] = f"{row['status']}: {row['error_message']}"
            # For whoever follows the event log: a failure leaves no materialization behind.
            context.log_event(dg.AssetObservation(**event))
        # It is stored by now. Dagster would keep it for hooks until the step ends, with all its texts: 5,000 of them
        # were 40 MiB, at a few words each.
        list(context.op_execution_context.consume_events())
    yield from ()
    if reports.at_least <= len(context.partition_keys) <= reports.at_most:
        _report(context, store)
    if failed:
        sample = "\n".join(f"{key}: {reason}" for key, reason in list(failed.items())[:20])
        raise dg.Failure(
            f"{len(failed)} of {len(context.partition_keys)} deliberations failed; the others are complete. To try them "
            f"again materialize them, or re-execute all steps (not from failure): no other costs tokens.\n{sample}",
            metadata={"failed": dg.MetadataValue.json(failed)},
            # Trying the step again would judge the same transcripts the same way.
            allow_retries=False,
        )


def _report(context: dg.AssetExecutionContext, store: Store) -> None:
    """Leave the run's report in the storage, and its place on the run's page."""
    try:
        place = store_report(store, context.run.run_id, context.partition_keys)
    except Exception as error:  # noqa: BLE001  (the results are there, and whom they failed is yet to be told)
        context.log.warning(f"no report was written: {error}")
        return
    report: dict[str, Any] = {
        "report": dg.MetadataValue.path(place),
        "open it": f"a file for any browser; or: fleet report {context.run.run_id}",
    }
    context.log_event(dg.AssetObservation(context.asset_key, description="the run's report", metadata=report))


def _of_the_run(state: Progress) -> dict[str, Any]:
    """What the run's engine did, the same on each of its partitions. In one table but for what people plot: Dagster
    keeps every entry for every partition until the step ends.
    """
    figures = {
        "deliberations": state.total,
        "already done": state.reused,
        "failed": state.failed,
        "engine starts": state.engine_starts,
        "engine deaths": "; ".join(state.engine_deaths) or "none",
        "GPU memory": state.gpu_memory or "no GPU",
        "prompt tokens": state.prompt_tokens,
        "from the prefix cache": state.cached_tokens,
        **{f"cache hits, {phase}": f"{rate:.1%}" for phase, rate in state.cache_hit_rates.items()},
        "completion tokens": state.completion_tokens,
    }
    return {
        "run": dg.MetadataValue.table([dg.TableRecord({"of this run": k, "": str(v)}) for k, v in figures.items()]),
        "run: engine start (s)": round(state.engine_start_seconds, 2),
        "run: completion tokens per second": round(state.tokens_per_second, 1),
        "run: prefix cache hit rate": round(state.cache_hit_rate, 4),
    }
