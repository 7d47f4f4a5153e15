"""The assets, in order: `transcripts` (the GPU op), `proposals` (scored and ranked), `deliberations` (outcomes).

There are few partitioned assets, because each costs events per deliberation. One run covers many partitions
and starts the engine once. The GPU op, the scoring ops and the outcomes share one process.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import dagster as dg

from fleet_pipeline.common.errors import CorruptFile, InvalidInput, StorageError
from fleet_pipeline.common.logs import install_json
from fleet_pipeline.common.text import counted, grouped
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
from fleet_pipeline.defs.score_ops import (
    check_code,
    rank_proposals,
    read_judgements,
    read_proposals,
    read_rewards,
    score_diversity,
    score_form,
    score_relevance,
)
from fleet_pipeline.deliberation.council import PROTOCOL_VERSION
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.inference.engine import EngineProvider
from fleet_pipeline.instance import metadata_keys
from fleet_pipeline.instance.failures import Told, failure
from fleet_pipeline.instance.gpu_pod import RunWatch
from fleet_pipeline.instance.names import DELIBERATIONS, GPU_POOL, PROPOSALS, TRANSCRIPTS
from fleet_pipeline.instance.partitions import deliberation_partitions, mark_failed, verify_range
from fleet_pipeline.instance.run_processes import lineage
from fleet_pipeline.instance.tags import ABOUT, RESULT, newer_than_parents
from fleet_pipeline.scoring.options import CouncilCheckOptions
from fleet_pipeline.services.conclude import Concluder, Rules
from fleet_pipeline.services.outcome_page import in_short, metadata, named_with_pages
from fleet_pipeline.services.outcomes import Outcome, write_outcome, write_stopped
from fleet_pipeline.services.progress import OnProgress, Progress, log_progress
from fleet_pipeline.services.publishing import fill_outbox
from fleet_pipeline.services.run_report import store_report
from fleet_pipeline.services.score_councils import SCORES_VERSION
from fleet_pipeline.services.transcribe import Transcription
from fleet_pipeline.settings import LinkSettings, LogSettings, ReportSettings
from fleet_pipeline.storage import schemas
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import Transcripts, read_rows
from fleet_pipeline.tools.options import ToolOptions

GROUP = "deliberation"
MOST_REASONS = 10  # that a failure of the run tells
_TAG_CHARS = 200
# Partitions of `transcripts` that tell what came of them, the failed ones first. Dagster lists all partitions for each: 40 ms
# where there are 5,000.
_MOST_TOLD = 50
_partitioned: dict[str, Any] = {
    "partitions_def": deliberation_partitions,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "group_name": GROUP,
}


# An outcome is logged before the assets that it is made from, which Dagster logs when their ops end. It would then call
# every outcome "unsynced", because its parents are younger.
UP_TO_DATE = newer_than_parents(SCORES_VERSION, [TRANSCRIPTS, PROPOSALS])


@dg.asset(
    name=TRANSCRIPTS,
    description="Everything said in a deliberation. Runs the councils on vLLM, many at once, one engine start a run.",
    kinds={"vllm", "parquet"},
    code_version=str(PROTOCOL_VERSION),
    io_manager_key="parquet",
    pool=GPU_POOL,
    **_partitioned,
)
def transcripts(
    context: dg.AssetExecutionContext,
    engine: dg.ResourceParam[EngineProvider],
    council: CouncilResource,
    storage: StorageResource,
    judge: JudgeResource,
    weights: WeightsResource,
    scoring: ScoringResource,
    check_options: dg.ResourceParam[CouncilCheckOptions],
    logs: dg.ResourceParam[LogSettings],
    links: dg.ResourceParam[LinkSettings],
    tools: dg.ResourceParam[ToolOptions],
    process: RunProcess,
    progress: dg.ResourceParam[OnProgress],
) -> None:
    if logs.format == "json":
        install_json()
    try:
        verify_range(context.run.tags, context.partition_keys)
    except InvalidInput as error:
        raise failure(error) from error
    to_log = log_progress(context.log)

    run_id, keys = context.run.run_id, context.partition_keys
    defaults = council.defaults(engine)
    context.instance.add_run_tags(run_id, {ABOUT: f"{counted(len(keys))}, {defaults.model}"[:_TAG_CHARS]})
    tasks, judging, scoring_options = fleet_of(storage, council, retries=True).tasks, judge.judging(), scoring.options()
    rules = Rules(weights.weights(), scoring_options, judging, check_options, scoring.encoder)
    announce = partial(_conclude, context, tasks.store, logs, links, tags=UP_TO_DATE)
    concluded = concluded_by(run_id)
    concluder = Concluder(tasks, keys, rules, run_id, announce, concluded)

    watch = None if process.one_process else RunWatch(context.instance, run_id)

    def report(state: Progress) -> None:
        if watch:
            watch.look()
        to_log(state)
        progress(state)
        if state.models_found:
            concluder.prepare()

    transcription = Transcription(
        tasks,
        defaults,
        engine,
        run_id,
        report,
        judging,
        council.settings().resume,
        lineage(context.instance, context.run),
        made=concluder.made,
        found=concluder.found,
        reward_model=scoring_options.reward,
        # Not from the run's configuration: whoever starts a run must not widen what its agents may reach.
        tools=tools,
    )
    try:
        with concluder:
            state = transcription.run(keys)
    except BaseException as error:
        if watch and watch.goes_on_elsewhere(error):
            raise
        # A run that is cancelled, or whose engine is gone, has no later step. What was said until then is shown all the same.
        try:
            for outcome in write_stopped(tasks, transcription.stopped, run_id):
                announce(outcome)
        except StorageError as error:
            context.log.warning(f"what was said until the run was stopped is stored, and not shown: {error}")
        raise
    context.log_event(
        dg.AssetObservation(context.asset_key, description="the run's engine", metadata=_run_metadata(state))
    )
    _tell_of(context, tasks.store, links, [*concluded.failed, *sorted(concluded.keys - concluded.failed.keys())])


@dg.graph_asset(
    name=PROPOSALS,
    description="One row per seat: its proposal before and after revision, scores and rank.",
    kinds={"scikitlearn", "parquet"},
    code_version=SCORES_VERSION,
    **_partitioned,
)
def proposals(transcripts: Transcripts) -> Any:
    batches = read_proposals(transcripts)
    scorers = (score_diversity, score_relevance, score_form, check_code, read_judgements, read_rewards)
    return rank_proposals(batches, [scorer(batches) for scorer in scorers])


@dg.asset(
    name=DELIBERATIONS,
    description="One row per deliberation: status, winner, figures. Red where the deliberation failed: the check "
    "`completed` of `proposals` says why, and what to do.",
    deps=[proposals, transcripts],
    kinds={"parquet"},
    code_version=SCORES_VERSION,
    # Nothing is yielded. Each outcome is logged as it is written, once per partition. Failed ones are not materialized,
    # so that the status of their partitions is right. An output would add a second materialization to every
    # partition, the failed ones included.
    output_required=False,
    **_partitioned,
)
def deliberations(
    context: dg.AssetExecutionContext,
    storage: StorageResource,
    council: CouncilResource,
    check_options: dg.ResourceParam[CouncilCheckOptions],
    logs: dg.ResourceParam[LogSettings],
    links: dg.ResourceParam[LinkSettings],
    reports: dg.ResourceParam[ReportSettings],
    process: RunProcess,
) -> Iterator[dg.Output[None]]:
    tasks = fleet_of(storage, council, retries=True).tasks
    store = tasks.store
    concluded = concluded_by(context.run.run_id)
    for key in context.partition_keys:
        if key in concluded.keys:
            continue
        if not is_deliberation_id(key):
            concluded.failed[key] = "no deliberation id: expected <task_id>.<role in lower case>; delete this partition"
            continue
        outcome = write_outcome(tasks, key, context.run.run_id, check_options)
        _conclude(context, store, logs, links, outcome)
        concluded.add(outcome)
    yield from ()
    if reports.at_least <= len(context.partition_keys) <= reports.at_most:
        _report(context, store)
    keys = context.partition_keys
    failed = {key: concluded.failed[key] for key in keys if key in concluded.failed}
    result = f"{len(keys) - len(failed)} of {len(keys)} completed"
    context.instance.add_run_tags(context.run.run_id, {RESULT: result})
    if failed:
        mark_failed(context.instance, context.run, [TRANSCRIPTS, PROPOSALS], list(failed))
        raise _some_failed(context, failed)


def _some_failed(context: dg.AssetExecutionContext, failed: Mapping[str, str]) -> dg.Failure:
    """What a person reads of it: how many, why in groups, where each is told, and what runs them again."""
    lines, untold = grouped(failed, MOST_REASONS)
    reasons = "\n".join([*lines, *([f"and {untold} more for other reasons"] if untold else [])])
    metadata: dict[str, dg.MetadataValue] = {}
    if origin := context.run.remote_job_origin:  # first: the page shows the beginning, until it is asked for more
        location = origin.repository_origin.code_location_origin.location_name
        metadata["to try them again"] = dg.MetadataValue.job("ask_again", location)
    metadata |= named_with_pages(failed)
    return Told(
        f"{len(failed)} of {len(context.partition_keys)} deliberations failed; the others are complete. To try them "
        f"again launch ask_again, materialize them, or re-execute all steps (not from failure): no other costs "
        f"tokens.\n{reasons}",
        metadata,
    )


def _conclude(
    context: dg.AssetExecutionContext,
    store: Store,
    logs: LogSettings,
    links: LinkSettings,
    outcome: Outcome,
    *,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Make a stored outcome known to the event log, and so to the UI and the publisher of events."""
    # First: readers of the event log find the events ready.
    fill_outbox(store, outcome)
    shown = metadata(store, outcome, logs.texts, links)
    # A failure leaves no materialization: an observation is for readers of the event log.
    kind = dg.AssetMaterialization if outcome.row.status is Status.COMPLETED else dg.AssetObservation
    key = dg.AssetKey(DELIBERATIONS)
    context.log_event(kind(asset_key=key, partition=outcome.row.deliberation_id, metadata=shown, tags=tags))
    # The event is stored by now. Dagster would keep it for hooks until the step ends, with all its texts: 5,000
    # events were 40 MiB, at a few words each.
    list(context.op_execution_context.consume_events())


def _report(context: dg.AssetExecutionContext, store: Store) -> None:
    """Write the run's report into the storage, and its path onto the run's page."""
    try:
        path = store_report(store, context.run.run_id, context.partition_keys)
    except Exception as error:  # noqa: BLE001  (results are stored, and failed ones are still to be reported)
        context.log.warning(f"no report was written: {error}")
        return
    report: dict[str, dg.MetadataValue | str] = {
        "report": dg.MetadataValue.path(path),
        "open it": f"a file for any browser; or: fleet report {context.run.run_id}",
    }
    context.log_event(dg.AssetObservation(context.asset_key, description="the run's report", metadata=report))


def _tell_of(context: dg.AssetExecutionContext, store: Store, links: LinkSettings, keys: Sequence[str]) -> None:
    """Put what has come of the first deliberations onto their partitions of `transcripts`."""
    for key in keys[:_MOST_TOLD]:
        with suppress(CorruptFile, StorageError):  # all is done by now, and the next steps meet it too
            for row in read_rows(store, schemas.DELIBERATIONS, key):
                context.add_asset_metadata(in_short(store, row, links), partition_key=key)


def _run_metadata(state: Progress) -> dict[str, dg.MetadataValue | float]:
    """Figures of the run's engine. All but the figures that people plot are in one table."""
    figures = {
        "deliberations": state.total,
        "already done": state.reused,
        "failed": state.failed,
        "engine starts": state.engine_starts,
        "engine crashes": "; ".join(state.engine_crashes) or "none",
        "GPU memory": state.gpu_memory or "no GPU",
        "prompt tokens": state.prompt_tokens,
        "from the prefix cache": state.cached_tokens,
        **{f"cache hits, {phase}": f"{rate:.1%}" for phase, rate in state.cache_hit_rates.items()},
        "completion tokens": state.completion_tokens,
    }
    return {
        "run": dg.MetadataValue.table([dg.TableRecord({"of this run": k, "": str(v)}) for k, v in figures.items()]),
        metadata_keys.ENGINE_START_SECONDS: round(state.engine_start_seconds, 2),
        metadata_keys.TOKENS_PER_SECOND: round(state.tokens_per_second, 1),
        metadata_keys.CACHE_HIT_RATE: round(state.cache_hit_rate, 4),
    }
