"""Asset checks: the council checks, to look at before you trust a run's winners. They stop nothing.

Each asset check is evaluated once a run and names the councils. An evaluation for each council would be six events
per deliberation. The failed council checks of a deliberation are in its outcome as well.
"""

from collections.abc import Iterator

import dagster as dg

from fleet_pipeline.common.errors import StorageError
from fleet_pipeline.defs.assets import proposals
from fleet_pipeline.defs.resources import CouncilResource, StorageResource, concluded_by, fleet_of
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.scoring.council_checks import COUNCIL_CHECKS
from fleet_pipeline.scoring.options import CouncilCheck, CouncilCheckOptions
from fleet_pipeline.services.outcomes import checks_of, find_outcome
from fleet_pipeline.storage.schemas import PROPOSALS
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore

MOST_NAMED = 50


@dg.multi_asset_check(
    specs=[dg.AssetCheckSpec(name, asset=proposals, description=text) for name, text in COUNCIL_CHECKS.items()]
)
def council_checks(
    context: dg.AssetCheckExecutionContext,
    storage: StorageResource,
    council: CouncilResource,
    check_options: dg.ResourceParam[CouncilCheckOptions],
) -> Iterator[dg.AssetCheckResult]:
    tasks = fleet_of(storage, council, retries=True).tasks
    failures: dict[CouncilCheck, dict[str, str]] = {name: {} for name in COUNCIL_CHECKS}
    keys = [key for key in _keys(context, tasks.store) if is_deliberation_id(key)]
    concluded = concluded_by(context.run.run_id)
    for key in keys:
        known = key in concluded.keys
        failed = concluded.failed_checks.get(key, {}) if known else _failed_council_checks(tasks, key, check_options)
        for name, text in failed.items():
            failures[name][key] = text
    for name, councils in failures.items():
        named = dict(list(councils.items())[:MOST_NAMED])
        yield dg.AssetCheckResult(
            check_name=name,
            asset_key=proposals.key,
            passed=not councils,
            severity=dg.AssetCheckSeverity.ERROR if name in check_options.errors else dg.AssetCheckSeverity.WARN,
            description=f"{len(councils)} of {len(keys)} councils" if councils else f"none of {len(keys)} councils",
            metadata={"councils": len(councils), "looked at": len(keys), "which": dg.MetadataValue.json(named)},
        )


def _failed_council_checks(tasks: TaskStore, key: str, options: CouncilCheckOptions) -> dict[CouncilCheck, str]:
    try:
        return checks_of(find_outcome(tasks, key, "", options))
    except StorageError:  # the asset `deliberations` meets it too, and reports it
        return {}


def _keys(context: dg.AssetCheckExecutionContext, store: Store) -> list[str]:
    """The run's partitions, or all stored ones if the asset checks run by themselves."""
    op = context.op_execution_context
    in_run = op.has_partition_key or op.has_partition_key_range
    return list(op.partition_keys) if in_run else store.names(PROPOSALS.name, ".parquet")
