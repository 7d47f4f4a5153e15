"""The dynamic partitions `deliberations`: one key is one deliberation."""

import hashlib
from collections.abc import Mapping, Sequence

import dagster as dg

# Not exported by `dagster`: what `mark_failed` logs.
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

# Not exported by `dagster`: the only way to list unfinished backfills.
from dagster._core.execution.backfill import BulkActionStatus

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.instance.tags import KEYS, PARTITION, RANGE_END, RANGE_START, of_run

NAME = "deliberations"
deliberation_partitions = dg.DynamicPartitionsDefinition(name=NAME)

STARTED = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
UNFINISHED = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, *STARTED]


def register(instance: dg.DagsterInstance, keys: Sequence[str]) -> dict[str, str]:
    """Register `keys` as one contiguous range, in this order; returns the tags of a run over them.

    A run covers one key or one range, contiguous in the order in which keys were added. Keys that are registered
    elsewhere are deleted and added again at the end; Dagster keeps their history. This changes the ranges of other
    runs. Raises `InvalidInput` while an unfinished run holds a moved key. The digest in the tags lets a later
    re-execution notice the change (`verify_range`).
    """
    registered = list(instance.get_dynamic_partitions(NAME))
    positions = {key: position for position, key in enumerate(registered)}
    start = positions.get(keys[0], -1)
    if start < 0 or registered[start : start + len(keys)] != list(keys):
        moved = [key for key in keys if key in positions]
        refuse_while_running(instance, moved)
        for key in moved:
            instance.delete_dynamic_partition(NAME, key)
        instance.add_dynamic_partitions(NAME, list(keys))
    return {RANGE_START: keys[0], RANGE_END: keys[-1], KEYS: _digest(keys)}


def mark_failed(instance: dg.DagsterInstance, run: dg.DagsterRun, assets: Sequence[str], keys: Sequence[str]) -> None:
    """Show `keys` as failed on the pages of `assets`, once `run` has failed, although they have materializations.

    Dagster logs a materialization for every partition of a run, and would show it as healthy. It shows a partition as
    failed whose last attempt is younger than its last materialization, and whose run failed. So the attempt is logged again.
    """
    for asset in assets:
        for key in keys:
            planned = AssetMaterializationPlannedData(dg.AssetKey(asset), partition=key)
            event = DagsterEvent.build_asset_materialization_planned_event(run.job_name, asset, planned)
            instance.report_dagster_event(event, run.run_id)


def verify_range(tags: Mapping[str, str], keys: Sequence[str]) -> None:
    """Verify that a run's range still holds the keys that the run was made for. Raises `InvalidInput`.
    Runs launched in the UI carry no digest: a person saw and chose their range.
    """
    if (of_run(tags, KEYS) or _digest(keys)) != _digest(keys):
        raise InvalidInput(
            f"the range {tags.get(RANGE_START)} to {tags.get(RANGE_END)} no longer holds the keys this run was made "
            "for: some were registered again since. Select the partitions to run in the UI, or use `fleet run`"
        )


def refuse_while_running(instance: dg.DagsterInstance, keys: Sequence[str]) -> None:
    """Raise `InvalidInput` while a run over any of `keys` is queued or under way."""
    if not keys:
        return
    held = unfinished(instance)
    for key in keys:
        if run := held.get(key):
            raise InvalidInput(
                f"run {run.run_id} is under way over some of these deliberations; wait for it, or cancel it in the UI"
            )


def unfinished(instance: dg.DagsterInstance) -> dict[str, dg.DagsterRun]:
    """The keys that unfinished runs hold, each with its run. A started run takes precedence over a queued one."""
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED))
    if not runs:
        return {}
    registered = list(instance.get_dynamic_partitions(NAME))
    positions = {key: position for position, key in enumerate(registered)}
    held: dict[str, dg.DagsterRun] = {}
    for run in sorted(runs, key=lambda run: run.status not in STARTED):
        tags = run.tags
        start, end = positions.get(tags.get(RANGE_START, "")), positions.get(tags.get(RANGE_END, ""))
        keys = registered[start : end + 1] if start is not None and end is not None else []
        for key in [*keys, *([tags[PARTITION]] if PARTITION in tags else [])]:
            held.setdefault(key, run)
    return held


def unfinished_backfill(instance: dg.DagsterInstance) -> str | None:
    """The id of a backfill that still has runs to launch, or None."""
    backfills = instance.get_backfills(status=BulkActionStatus.REQUESTED)
    return backfills[0].backfill_id if backfills else None


def _digest(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
