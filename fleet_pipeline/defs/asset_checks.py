"""Asset checks: the council checks, to look at before you trust a run's winners, and what did not complete. They stop nothing.

Each asset check is evaluated once a run and names the councils. An evaluation for each council would be six events
per deliberation. The failed council checks of a deliberation are in its outcome as well.

A finding stays until it is mended: what an evaluation named is looked at again by the next one, whatever that run was over.
"""

from collections.abc import Iterator, Mapping

import dagster as dg

from fleet_pipeline.common.errors import StorageError
from fleet_pipeline.defs.assets import proposals
from fleet_pipeline.defs.resources import CouncilResource, StorageResource, concluded_by, fleet_of
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.instance.event_log import last_evaluation
from fleet_pipeline.reports.remedies import remedy
from fleet_pipeline.scoring.council_checks import COUNCIL_CHECKS
from fleet_pipeline.scoring.options import CouncilCheck, CouncilCheckOptions
from fleet_pipeline.services.conclude import Concluded
from fleet_pipeline.services.outcome_page import named_with_pages
from fleet_pipeline.services.outcomes import checks_of, find_outcome
from fleet_pipeline.storage.schemas import PROPOSALS
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore

COMPLETED = "completed"
CHECKS: dict[str, str] = {
    **{str(name): text for name, text in COUNCIL_CHECKS.items()},
    COMPLETED: "Deliberations that failed or whose time was up: why, and what to do about it.",
}


@dg.multi_asset_check(
    specs=[dg.AssetCheckSpec(name, asset=proposals, description=text) for name, text in CHECKS.items()]
)
def council_checks(
    context: dg.AssetCheckExecutionContext,
    storage: StorageResource,
    council: CouncilResource,
    check_options: dg.ResourceParam[CouncilCheckOptions],
) -> Iterator[dg.AssetCheckResult]:
    tasks = fleet_of(storage, council, retries=True).tasks
    keys = [key for key in _keys(context, tasks.store) if is_deliberation_id(key)]
    concluded = concluded_by(context.run.run_id)
    own = {key: _findings(tasks, key, check_options, concluded) for key in keys}
    for name in CHECKS:
        before = [key for key in _named_before(context.instance, name) if key not in own and tasks.has(key)]
        others = {key: _findings(tasks, key, check_options, concluded) for key in before}
        found = {key: texts[name] for key, texts in (own | others).items() if name in texts}
        yield _result(name, found, len(keys), sum(key in others for key in found), check_options)


def _result(
    name: str, found: Mapping[str, str], looked_at: int, of_before: int, options: CouncilCheckOptions
) -> dg.AssetCheckResult:
    now = len(found) - of_before
    of_run = f"{now} of {looked_at} councils" if now else f"none of {looked_at} councils"
    kept = f", and {of_before} of earlier runs that are not mended" if of_before else ""
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=proposals.key,
        passed=not found,
        severity=dg.AssetCheckSeverity.ERROR if name in (*options.errors, COMPLETED) else dg.AssetCheckSeverity.WARN,
        description=of_run + kept,
        metadata={
            "councils with this finding": len(found),
            "councils of this run": looked_at,
            # What is beyond its bound is forgotten when other runs are over other councils.
            **named_with_pages(found),
        },
    )


def _findings(tasks: TaskStore, key: str, options: CouncilCheckOptions, concluded: Concluded) -> dict[str, str]:
    """By check, what it finds of a deliberation."""
    if key in concluded.keys and key not in concluded.failed:
        return _named(concluded.failed_checks.get(key, {}))
    try:
        outcome = find_outcome(tasks, key, "", options)
    except StorageError:  # the asset `deliberations` meets it too, and reports it
        return {}
    found = _named(checks_of(outcome))
    row = outcome.row
    if row.status is not Status.COMPLETED:
        to_do = remedy(row, [one.error_type for one in outcome.utterances])
        found[COMPLETED] = f"{row.status}: {row.error_message}" + (f"; to do: {to_do}" if to_do else "")
    return found


def _named(checks: Mapping[CouncilCheck, str]) -> dict[str, str]:
    return {str(name): why for name, why in checks.items()}


def _named_before(instance: dg.DagsterInstance, name: str) -> list[str]:
    """The deliberations that the last evaluation found."""
    table = last_evaluation(instance, dg.AssetCheckKey(proposals.key, name)).get("which")
    if not isinstance(table, dg.TableMetadataValue):  # nothing was found, or by a version that told it otherwise
        return []
    return [str(one.data["deliberation"]) for one in table.records if is_deliberation_id(str(one.data["deliberation"]))]


def _keys(context: dg.AssetCheckExecutionContext, store: Store) -> list[str]:
    """The run's partitions, or all stored ones if the asset checks run by themselves."""
    op = context.op_execution_context
    in_run = op.has_partition_key or op.has_partition_key_range
    return list(op.partition_keys) if in_run else store.names(PROPOSALS.name, ".parquet")
