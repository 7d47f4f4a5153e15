"""Assembles everything that Dagster loads. Nothing is wired at import: tests and the CLI call this too."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from fleet_pipeline.common.errors import InvalidInput, SyntheticEngineRefused
from fleet_pipeline.defs.asset_checks import council_checks
from fleet_pipeline.defs.assets import deliberations, proposals, transcripts
from fleet_pipeline.defs.io_managers import ParquetIOManager, table_of
from fleet_pipeline.defs.jobs import ask, ask_again, ask_backlog, deliberate_job, prune_job, rescore_job
from fleet_pipeline.defs.loggers import json_console
from fleet_pipeline.defs.resources import default_resources
from fleet_pipeline.defs.schedules import build_schedules
from fleet_pipeline.defs.sensors import completions, inbox, orphaned_runs, requests
from fleet_pipeline.instance.gpu_pod import gpu_pod_executor
from fleet_pipeline.services.progress import ComputeLog
from fleet_pipeline.settings import PodSettings, Settings, load_settings
from fleet_pipeline.storage.schemas import TABLES


def build_definitions(
    settings: Settings | None = None, *, overrides: Mapping[str, Any] | None = None, allow_synthetic: bool = False
) -> dg.Definitions:
    """The definitions under `settings`; without `settings`, under those in force.

    `overrides` replaces resources by name. Raises `SyntheticEngineRefused` for an engine without a model, unless
    a test sets `allow_synthetic`. The reason: the earlier system ran a mock agent in production for months, and every
    test was green.
    """
    settings = settings or load_settings()
    # The CLI shows it on its terminal instead. It goes to the event log in any case.
    resources = default_resources(settings) | {"progress": ComputeLog()} | dict(overrides or {})
    if resources["engine"].synthetic and not allow_synthetic:
        raise SyntheticEngineRefused("the engine is synthetic: no model answers; it is for tests")
    return dg.Definitions(
        assets=dg.map_asset_specs(_described_by(settings), [transcripts, proposals, deliberations]),
        asset_checks=[council_checks],
        jobs=[deliberate_job, ask, ask_backlog, ask_again, rescore_job, prune_job],
        schedules=build_schedules(settings),
        sensors=[completions, requests, inbox, orphaned_runs],
        # One process: the engine must live in one op, and the data between ops lives in the process. On a cluster the op
        # with the engine has a pod of its own.
        executor=_executor(settings.pods),
        loggers={"console": json_console} if settings.logs.format == "json" else None,
        resources={
            **resources,
            "parquet": ParquetIOManager(storage=resources["storage"]),
            "in_memory": dg.mem_io_manager,
        },
    )


def _executor(pods: PodSettings) -> dg.ExecutorDefinition:
    if pods.gpu is None:
        return dg.in_process_executor
    try:
        return gpu_pod_executor(pods.gpu)
    except ImportError as error:
        raise InvalidInput(f"pods.gpu: dagster-k8s is missing ({error}): pip install 'fleet-pipeline[k8s]'") from error


def _described_by(settings: Settings) -> Callable[[dg.AssetSpec], dg.AssetSpec]:
    """A function that adds metadata for the UI to an asset's spec: columns, location and owners."""

    def docs(name: str) -> str:
        return f"[{name}]({settings.links.docs}/{name})" if settings.links.docs else f"`docs/{name}`"

    def described(spec: dg.AssetSpec) -> dg.AssetSpec:
        table = table_of(spec.key)
        columns = [
            dg.TableColumn(column.name, str(column.type), column.metadata[b"description"].decode())
            for column in TABLES[table].schema
        ]
        uri = f"{settings.storage.rstrip('/')}/{table}"
        return spec.merge_attributes(
            metadata={
                "dagster/column_schema": dg.TableSchema(columns),
                "dagster/table_name": table,
                "dagster/uri": uri,
                "read it": dg.MetadataValue.md(f"`pandas.read_parquet({uri!r})`, or `fleet export --table {table}`"),
                "docs": dg.MetadataValue.md(
                    f"{docs('ui.md')} for this page, {docs('scores.md')} for what figures mean"
                ),
            },
            owners=settings.owners,
        )

    return described
