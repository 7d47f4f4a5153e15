"""The Parquet I/O manager: one folder per asset, one file per deliberation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from fleet_pipeline.defs.resources import StorageResource
from fleet_pipeline.instance.names import DELIBERATIONS, PROPOSALS, TRANSCRIPTS
from fleet_pipeline.storage.schemas import TableName
from fleet_pipeline.storage.tables import TableSlice, write_rows

# The table that holds each asset.
_TABLES: dict[str, TableName] = {TRANSCRIPTS: "utterances", PROPOSALS: "proposals", DELIBERATIONS: "deliberations"}


@dataclass(frozen=True)
class DeliberationRows:
    """The rows of one deliberation in a table, and the facts for the footer of its file."""

    deliberation_id: str
    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)


class ParquetIOManager(dg.ConfigurableIOManager):
    """Writes `Iterable[DeliberationRows]`, each file atomically, and loads a lazy `TableSlice`.

    Both are streams, so that neither end holds a whole run in memory.
    """

    storage: dg.ResourceDependency[StorageResource]

    def handle_output(self, context: dg.OutputContext, obj: Iterable[DeliberationRows]) -> None:
        store = self.storage.retrying_store()
        table = table_of(context.asset_key)
        files = rows = 0
        for part in obj:
            write_rows(store, table, part.deliberation_id, part.rows, part.facts)
            files += 1
            rows += len(part.rows)
        folder = store.full_path(table)
        context.add_output_metadata({"files": files, "rows": rows, "folder": dg.MetadataValue.path(folder)})

    def load_input(self, context: dg.InputContext) -> TableSlice:
        return TableSlice(self.storage.retrying_store(), table_of(context.asset_key), context.asset_partition_keys)


def table_of(key: dg.AssetKey) -> TableName:
    """The table that holds an asset."""
    return _TABLES[key.path[-1]]
