"""Asset checks: what people should look at before they trust a run's winners. They warn, and stop nothing."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from fleet_pipeline.defs.assets import proposals
from fleet_pipeline.defs.resources import ScoringResource, StorageResource
from fleet_pipeline.deliberation.task import is_key
from fleet_pipeline.storage.store import StorageError
from fleet_pipeline.storage.tables import read_file

MOST_NAMED = 50

_DESCRIPTIONS = {
    "diversity": "Councils whose final proposals are nearly one: (Vendi - 1) / (proposals - 1) below warn_diversity_below.",
    "relevance": "Councils whose proposals hardly speak of their task: mean relevance below warn_relevance_below.",
    "duplicates": "Councils with proposals that repeat another one exactly.",
}


@dg.multi_asset_check(
    specs=[dg.AssetCheckSpec(name, asset=proposals, description=text) for name, text in _DESCRIPTIONS.items()]
)
def council_checks(
    context: dg.AssetCheckExecutionContext, storage: StorageResource, scoring: ScoringResource
) -> Iterator[dg.AssetCheckResult]:
    store, options = storage.patient_store(), scoring.options()
    found: dict[str, dict[str, float]] = {name: {} for name in _DESCRIPTIONS}
    looked_at = 0
    for key in _keys(context, store.names("proposals", ".parquet")):
        try:
            read = read_file(store, "proposals", key) if is_key(key) else None
        except StorageError:  # torn, or of an earlier version: the next run over it writes it anew
            continue
        if read is None:
            continue
        looked_at += 1
        table, facts = read
        figures: dict[str, Any] = facts.get("diversity", {})
        relevance = [value for value in table.column("relevance").to_pylist() if value is not None]
        if len(relevance) > 1:
            share = (figures["vendi"] - 1) / (len(relevance) - 1)
            if share < options.warn_diversity_below:
                found["diversity"][key] = round(share, 4)
            if figures["duplicates"]:
                found["duplicates"][key] = figures["duplicates"]
        if relevance and (mean := sum(relevance) / len(relevance)) < options.warn_relevance_below:
            found["relevance"][key] = round(mean, 4)
    for name, councils in found.items():
        worst = dict(sorted(councils.items(), key=lambda item: item[1], reverse=name == "duplicates")[:MOST_NAMED])
        yield dg.AssetCheckResult(
            check_name=name,
            asset_key=proposals.key,
            passed=not councils,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{len(councils)} of {looked_at} councils" if councils else f"none of {looked_at} councils",
            metadata={"councils": len(councils), "looked at": looked_at, "which": dg.MetadataValue.json(worst)},
        )


def _keys(context: dg.AssetCheckExecutionContext, stored: list[str]) -> list[str]:
    """The run's partitions; all there are where the checks are run by themselves."""
    op = context.op_execution_context
    return list(op.partition_keys) if op.has_partition_key or op.has_partition_key_range else stored
